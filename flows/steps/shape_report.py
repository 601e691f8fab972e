"""What a shape run has to show: reconstructions beside the truth, new solids, and the numbers."""

import json
from typing import Any

from data.preparing import read_refused
from data.shape import ShapeSamples
from flows.report import Headline, Mesh, MeshGallery, MeshItem, Section, Table, report_of_run, write_report
from flows.run import Run
from modules.shape.metrics import METRICS

SHOWN_SAMPLES = 12
SHOWN_OBJECTS = 200
"""Most repaired or refused objects listed; the rest is counted."""
DEFINITIONS = (
    "Means over the held-out solids, lengths in units of the cube [-1, 1]³. The floor is what the true surface scores "
    "against itself under the same sampling: no reconstruction can do better."
)


def report(run: Run) -> None:
    """Write report.html."""
    evaluation = json.loads((run.path / "evaluation.json").read_text())
    sections: list[Section] = [
        *_galleries(run, evaluation),
        _reconstruction_table(evaluation["reconstruction"]),
        _samples_table(evaluation["samples"]),
        *_preparation_table(run),
    ]
    summary = _summary(run, evaluation)
    page = report_of_run(run.path, sections, headlines=_headlines(evaluation), summary=summary, domain=run.domain_name)
    write_report(run.path / "report.html", page)


def _summary(run: Run, evaluation: dict[str, Any]) -> str:
    data, reconstruction = run.provenance()["data"], evaluation["reconstruction"]
    return (
        f"Prepared from {data['source']}: {data['objects']} objects, of which {data['repaired']} were repaired, and "
        f"{data['refused']} refused. "
        f"Reconstruction is measured on {reconstruction['objects']} objects of the {reconstruction['split']} split."
    )


def _headlines(evaluation: dict[str, Any]) -> list[Headline]:
    mean, floors = evaluation["reconstruction"]["mean"], evaluation["reconstruction"]["floor"]
    samples = evaluation["samples"]
    found = [
        Headline(label="volume IoU", value=mean.get("volume_iou"), note=f"floor {floors.get('volume_iou', 1):.3f}"),
        Headline(label="closed samples", value=f"{samples['closed']} of {samples['asked']}"),
    ]
    if samples["least_distance"] is not None:
        found.append(Headline(label="most alike pair", value=samples["least_distance"], note="apart, cube units"))
    return found


def _galleries(run: Run, evaluation: dict[str, Any]) -> list[Section]:
    items = evaluation["reconstruction"]["items"]
    pairs = []
    for path in sorted((run.path / "reconstructions").glob("*.truth.glb")):
        item_id = path.name.removesuffix(".truth.glb")
        made = path.with_name(f"{item_id}.glb")
        iou = items[item_id].get("volume_iou")
        truth = Mesh(mesh=path.read_bytes(), label="ground truth", reference=True)
        meshes = [truth, Mesh(mesh=made.read_bytes(), label="reconstruction")]
        note = f"volume IoU {iou:.3f}" if iou is not None else ""
        pairs.append(MeshItem(caption=item_id, meshes=meshes, note=note, file=str(made.relative_to(run.path))))
    drawn = [
        MeshItem(
            caption=path.stem,
            meshes=[Mesh(mesh=path.read_bytes())],
            file=str(path.relative_to(run.path)),
        )
        for path in sorted(run.samples.glob("*.glb"))[:SHOWN_SAMPLES]
    ]
    found: list[Section] = []
    if pairs:
        held_out = evaluation["reconstruction"]["split"] != "train"
        note = "Held-out solids, never trained on." if held_out else "Solids that were trained on: none are held out."
        found.append(MeshGallery(title="Reconstructions", items=pairs, note=note))
    if drawn:
        found.append(MeshGallery(title="New samples", items=drawn, note="From noise through the rectified flow."))
    return found


def _reconstruction_table(reconstruction: dict[str, Any]) -> Table:
    mean, floors = reconstruction["mean"], reconstruction["floor"]
    rows = [
        (name.replace("_", " "), value, floors.get(name), METRICS[name].better, METRICS[name].definition)
        for name, value in mean.items()
    ]
    columns = ("metric", "reconstruction", "floor", "better", "definition")
    return Table(title="Reconstruction", columns=columns, rows=rows, note=DEFINITIONS)


def _preparation_table(run: Run) -> list[Section]:
    """What was refused, with the reason, and what was repaired, and how; nothing where all went in as it was."""
    samples = ShapeSamples(run.data_file)
    rows = [(name, "refused", reason) for name, reason in read_refused(run.data_file).items()]
    treatments = {item_id: samples.treatment(k) for k, item_id in enumerate(samples.ids)}
    rows += [(item_id, "repaired", text) for item_id, text in treatments.items() if text != "as is"]
    if not rows:
        return []
    more = f" {len(rows) - SHOWN_OBJECTS} more are not shown." if len(rows) > SHOWN_OBJECTS else ""
    note = f"All other objects went in as they are.{more}"
    columns = ("object", "outcome", "reason, or what was done")
    return [Table(title="Repaired and refused", columns=columns, rows=rows[:SHOWN_OBJECTS], note=note)]


def _samples_table(samples: dict[str, Any]) -> Table:
    rows = [(name.replace("_", " "), value) for name, value in samples.items()]
    note = (
        "Closed: every edge is passed once in each direction. Distances between samples: chamfer, cube units. "
        "MMD (lower is better), coverage (higher) and 1-NN accuracy (best 0.5) compare them with the held-out solids."
    )
    return Table(title="Samples", columns=("quantity", "value"), rows=rows, note=note)
