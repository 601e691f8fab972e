"""What a protein run has to show: new backbones, base and rectified model side by side, and the numbers."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from data.preparing import read_refused
from data.protein import assign
from data.protein.generated import Generated
from flows.report import (
    Figure,
    Figures,
    Headline,
    Mesh,
    MeshGallery,
    MeshItem,
    Ribbon,
    Section,
    Table,
    Text,
    Value,
    report_of_run,
    write_report,
)
from flows.run import Run
from flows.steps.protein_charts import few_steps_chart
from flows.steps.protein_compare import comparison_file
from flows.steps.protein_samples import read_samples

SHOWN_SAMPLES = 12
SHOWN_REFUSALS = 200
"""Most refused files listed; the rest is counted."""
QUANTILES = {
    "ca_ca_p01": {"unit": "Å", "definition": "1 % of the distances of neighbouring CA are shorter"},
    "ca_ca_p99": {"unit": "Å", "definition": "1 % are longer"},
}
SCORE = (
    "The structure score is the mean of d / (d + d½) over the distances below, 0 for the distribution of real chains "
    "and near 1 for noise; lower is better. The floor is what as many real chains score against the others."
)
UNDESIGNED = (
    "Designability was not measured: that needs a folding model (sequences by inverse folding, structures predicted "
    "from them), and none is part of this program. Nothing here says whether a sequence would fold into these "
    "structures. `pairs.judge` takes a command that calls such a model."
)


def report(run: Run) -> None:
    """Write report.html."""
    evaluation = json.loads((run.path / "evaluation.json").read_text())
    comparison = json.loads(comparison_file(run).read_text())
    pairs = json.loads((run.path / "pairs.json").read_text())
    samples = read_samples(run)
    sections: list[Section] = [
        *_gallery(samples),
        *_comparison(comparison),
        *_evaluation(evaluation),
        _pairs(pairs),
        _not_measured(evaluation),
        *_refusals(run),
    ]
    page = report_of_run(
        run.path,
        sections,
        headlines=_headlines(evaluation, comparison),
        summary=_summary(run, samples),
        domain=run.domain_name,
    )
    write_report(run.path / "report.html", page)


def _summary(run: Run, samples: Mapping[str, Generated]) -> str:
    data = run.provenance().get("data", {})
    lengths = [len(found.frames) for found in samples.values()]
    drawn = sorted({str(found.facts["model"]) for found in samples.values()})
    which = {"flow": "base", "reflow": "rectified"}
    return (
        f"Prepared from {data.get('source')}: {data.get('chains')} chains, {data.get('refused')} refused. "
        f"{len(samples)} new backbones of {min(lengths)} to {max(lengths)} residues by the "
        f"{' and the '.join(which.get(name, name) for name in drawn)} model."
    )


def _headlines(evaluation: Mapping[str, Any], comparison: Mapping[str, Any]) -> list[Headline]:
    found = []
    if "score" in evaluation:
        score, values = evaluation["score"], evaluation["structure"]["values"]
        note = "lower is better" if score["floor"] is None else f"lower is better, floor {score['floor']:.3f}"
        found.append(Headline(label="structure score", value=round(score["value"], 3), note=note))
        found.append(Headline(label="CA breaks", value=round(100 * values["ca_breaks"], 1), unit="%", note="of bonds"))
    fewest = _fewest_steps(comparison)
    if fewest is not None:
        steps, base, rectified = fewest
        note = f"base model {base:.3f}"
        found.append(Headline(label=f"rectified, {steps} calls", value=round(rectified, 3), note=note))
    if "memorisation" in evaluation:
        value = round(evaluation["memorisation"]["max"], 2)
        found.append(Headline(label="nearest training chain", value=value, note="highest TM-score; a copy has 1"))
    return found


def _fewest_steps(comparison: Mapping[str, Any]) -> tuple[int, float, float] | None:
    """Score of both models at 10 network calls, or at the number next to it."""
    cells = {(row["model"], row["steps"]): row["score"] for row in comparison["rows"]}
    both = sorted({steps for model, steps in cells if model == "base" and ("rectified", steps) in cells})
    if not both:
        return None
    steps = min(both, key=lambda number: abs(number - 10))
    return steps, cells["base", steps], cells["rectified", steps]


def _gallery(samples: Mapping[str, Generated]) -> list[Section]:
    items = []
    for name, found in list(samples.items())[:SHOWN_SAMPLES]:
        secondary = assign(found.backbone)
        helix, strand = (round(100 * float((secondary == letter).mean())) for letter in "HE")
        notes = [f"{len(secondary)} residues", f"helix {helix} %", f"strand {strand} %"]
        if "motif_rmsd" in found.facts:
            notes.append(f"motif RMSD {found.facts['motif_rmsd']:.2f} Å")
        if "symmetry" in found.facts:
            notes.append(str(found.facts["symmetry"]))
        meshes = [Mesh(mesh=Ribbon(found.backbone, secondary))]
        items.append(MeshItem(caption=name, meshes=meshes, note=", ".join(notes), file=f"samples/{name}.pdb"))
    note = "From noise; ribbons run from blue to red. Helices and strands are DSSP's."
    return [MeshGallery(title="New backbones", items=items, note=note)] if items else []


def _comparison(comparison: Mapping[str, Any]) -> list[Section]:
    rows = comparison["rows"]
    reference = comparison["reference"]
    scores = few_steps_chart(_lines(rows, lambda row: row["score"]), comparison["floor"])
    breaks = few_steps_chart(
        _lines(rows, lambda row: row["values"]["ca_breaks"]), reference["values"].get("ca_breaks"), "real"
    )
    pictures = [
        Figure(image=scores, caption="Structure score over the number of network calls; lower is better."),
        Figure(image=breaks, caption="Share of broken CA-CA bonds over the number of network calls."),
    ]
    names = list(reference["values"])
    table = [
        *((row["model"], row["steps"], row["score"], *(row["values"].get(name) for name in names)) for row in rows),
        ("noise", None, comparison["noise"]["score"], *(comparison["noise"]["values"].get(name) for name in names)),
        ("real chains", None, comparison["floor"], *reference["values"].values()),
    ]
    note = (
        f"{comparison['samples']} backbones of {comparison['shortest']} to {comparison['longest']} residues each, all "
        f"models and step counts from the same noise, {_repulsion(comparison['repulsion'])}, held against "
        f"{reference['chains']} real chains. {SCORE}"
    )
    columns = ("model", "calls", "score", *(name.replace("_", " ") for name in names))
    return [
        Figures(title="Base and rectified model", figures=pictures),
        Table(title="Few steps and many", columns=columns, rows=table, note=note),
    ]


def _repulsion(distance: float) -> str:
    return f"with repulsion of {distance:g} Å" if distance else "without repulsion"


def _lines(
    rows: Sequence[Mapping[str, Any]], value: Callable[[Mapping[str, Any]], float]
) -> dict[str, list[tuple[int, float]]]:
    models = dict.fromkeys(row["model"] for row in rows)
    return {model: [(row["steps"], value(row)) for row in rows if row["model"] == model] for model in models}


def _evaluation(evaluation: Mapping[str, Any]) -> list[Section]:
    found: list[Section] = []
    words, real = evaluation["definitions"], evaluation["reference"]
    if "structure" in evaluation:
        found.append(_structure_table(evaluation["structure"], real, words))
    rows = _distance_rows(evaluation)
    if rows:
        columns = ("distance", "samples", *evaluation["controls"], "unit", "definition")
        note = (
            f"{SCORE} The controls are made from real chains: themselves (other ones), with 0.5 Å of noise, ideal "
            "helices, random walks, mirror images, and the noise that the flow starts from."
        )
        found.append(Table(title="Distances to real chains, with controls", columns=columns, rows=rows, note=note))
    rows = _similarity_rows(evaluation)
    if rows:
        note = "TM-scores: above 0.5 two chains have the same fold as a rule; chance gives 0.2 to 0.3; a copy has 1."
        found.append(Table(title="Diversity and memory", columns=("quantity", "samples", "real"), rows=rows, note=note))
    return found


def _structure_table(structure: Mapping[str, Any], real: Mapping[str, Any], words: Mapping[str, Any]) -> Table:
    """Means with their intervals; standard deviations stand beside them, not in rows of their own."""
    values, others = structure["values"], real["values"]
    rows: list[Sequence[Value]] = []
    for name, value in values.items():
        if name.removesuffix("_sd") in values and name.endswith("_sd"):
            continue
        ends = structure["intervals"].get(name)
        interval = f"{ends[0]:.3g} to {ends[1]:.3g}" if ends else None
        meaning = words.get(name) or QUANTILES.get(name, {})
        rows.append(
            (
                name.replace("_", " "),
                value,
                interval,
                others.get(name),
                _spread(values.get(f"{name}_sd")),
                others.get(f"{name}_sd"),
                meaning.get("unit"),
                meaning.get("definition"),
            )
        )
    note = (
        "sd: standard deviation. Intervals hold 95 % and come from drawing whole chains again. Bonds and angles inside "
        f"a residue are ideal by construction, without spread. Real: {real['chains']} prepared chains."
    )
    columns = ("quantity", "samples", "interval", "real", "sd samples", "sd real", "unit", "definition")
    return Table(title="Structure", columns=columns, rows=rows, note=note)


def _spread(value: float | None) -> float | None:
    """Zero in place of rounding errors."""
    return 0.0 if value is not None and value < 1e-4 else value


def _distance_rows(evaluation: Mapping[str, Any]) -> list[Sequence[Value]]:
    controls, words = evaluation["controls"], evaluation["definitions"]
    if "distances" not in evaluation:
        return []
    rows: list[Sequence[Value]] = [
        (
            name.replace("_", " "),
            value,
            *(control["distances"].get(name) for control in controls.values()),
            words.get(f"distance of {name}", {}).get("unit"),
            words.get(f"distance of {name}", {}).get("definition"),
        )
        for name, value in evaluation["distances"].items()
    ]
    scores = [control["score"] for control in controls.values()]
    return [("structure score", evaluation["score"]["value"], *scores, "1", "mean of d / (d + d½)"), *rows]


def _similarity_rows(evaluation: Mapping[str, Any]) -> list[Sequence[Value]]:
    rows: list[Sequence[Value]] = []
    diversity, memory = evaluation.get("diversity"), evaluation.get("memorisation")
    if diversity and diversity["samples"]:
        real = diversity["reference"] or {}
        rows += [
            ("mean TM-score of pairs (lower is more diverse)", diversity["samples"]["mean"], real.get("mean")),
            ("share of pairs above 0.5", diversity["samples"]["alike"], real.get("alike")),
            ("mean TM-score to the most alike sample", diversity["samples"]["nearest"], real.get("nearest")),
        ]
    if memory:
        rows += [
            ("mean TM-score to the nearest training chain", memory["mean"], None),
            ("highest TM-score to a training chain", memory["max"], None),
            ("share of samples with a training chain above 0.5", memory["same_fold"], None),
        ]
    for name, value in evaluation.get("motif", {}).items():
        rows.append((name.replace("_", " "), value, None))
    return rows


def _pairs(pairs: Mapping[str, Any]) -> Section:
    rows: list[Sequence[Value]] = [
        ("drawn", pairs["drawn"]),
        ("passed the filter", pairs["accepted"]),
        ("taken along although refused", pairs["taken_along"]),
        *((f"refused: {reason}", count) for reason, count in pairs["reasons"].items()),
    ]
    judge = pairs["judge"] or "none"
    note = f"Pairs of noise and sample that the rectified model learnt from. External judge: {judge}."
    return Table(title="Pairs", columns=("", "pairs"), rows=rows, note=note)


def _not_measured(evaluation: Mapping[str, Any]) -> Section:
    found = evaluation["designability"]
    if isinstance(found, str):
        return Text(title="What was not measured", paragraphs=[UNDESIGNED])
    mean = "" if found["mean_score"] is None else f" Its mean score is {found['mean_score']:.3g}."
    text = f"The judge {found['judge']!r} accepted {found['accepted']} of {found['of']} backbones.{mean}"
    return Text(title="External judge", paragraphs=[text])


def _refusals(run: Run) -> list[Section]:
    refused = read_refused(run.data_file)
    if not refused:
        return []
    more = f"{len(refused) - SHOWN_REFUSALS} more are in refused.csv." if len(refused) > SHOWN_REFUSALS else ""
    rows = list(refused.items())[:SHOWN_REFUSALS]
    return [Table(title="Refused structures", columns=("structure", "reason"), rows=rows, note=more)]
