"""A report as one HTML page that holds all it needs: style, scripts, pictures and meshes."""

import base64
import hashlib
import math
import re
from collections.abc import Sequence
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from data.batch import TriangleMesh
from flows.reporting import charts, geometry, ribbon, words
from flows.reporting.sections import (
    Durations,
    Figure,
    Figures,
    LossCurves,
    Mesh,
    MeshGallery,
    Report,
    Ribbon,
    Section,
    Source,
    Table,
    Value,
)

_HERE = Path(__file__).parent
_THREE = "three-0.187.0.min.js"
# What a text may hold in HTML: no control characters but tab and line feed, no halves of surrogate pairs
# (which stand in Python for bytes of a file name that are not UTF-8).
_FORBIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]")


def render(report: Report) -> str:
    """The page's text. Whatever comes from `report` is escaped; the page may run its own scripts only."""
    sections = [_laid_out(section, f"section-{k}") for k, section in enumerate(report.sections, 1)]
    has_meshes = any(section["kind"] == "MeshGallery" for section in sections)
    # The licence asks that its text goes along with copies of the code.
    three = [f"/*\n{_asset(f'vendor/{name}')}\n*/" if name.startswith("LICENSE") else _asset(f"vendor/{name}")
             for name in ("LICENSE-three.txt", _THREE)]  # fmt: skip
    scripts = [*(["\n".join(three)] if has_meshes else []), _asset("assets/viewer.js")]
    hashes = " ".join(f"'sha256-{_digest(script)}'" for script in scripts)
    text = _environment().get_template("report.html.j2").render(
        report=report,
        sections=sections,
        has_meshes=has_meshes,
        style=Markup(_asset("assets/style.css")),
        scripts=[Markup(script) for script in scripts],
        script_hashes=Markup(hashes),
    )  # fmt: skip
    return _clean(text)


def _clean(text: str) -> str:
    return _FORBIDDEN.sub("\N{REPLACEMENT CHARACTER}", text)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_HERE / "assets"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(shown=words.shown, duration=words.duration, date=words.date)
    return environment


@cache
def _asset(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8").strip()


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _laid_out(section: Section, identifier: str) -> dict[str, Any]:
    """What the template needs of one section, computed parts included."""
    layout: dict[str, Any] = {"note": ""} | {f.name: getattr(section, f.name) for f in fields(section)}
    layout |= {"kind": type(section).__name__, "id": identifier}
    match section:
        case LossCurves():
            layout["stages"] = _stages(section)
        case Table():
            layout["numeric"] = _numeric_columns(section.rows)
            layout["rows"] = _aligned(section.rows, layout["numeric"])
        case MeshGallery():
            layout |= _gallery(section, identifier)
        case Figures():
            layout["figures"] = [
                {"source": _data_url(f), "alt": f.alt, "caption": f.caption, "wide": f.wide} for f in section.figures
            ]
        case Durations():
            longest = max((step.seconds for step in section.steps), default=0.0) or 1.0
            layout["steps"] = [
                {"name": step.name, "state": step.state, "seconds": step.seconds,
                 "percent": round(100 * max(step.seconds, 0.0) / longest, 2)}
                for step in section.steps
            ]  # fmt: skip
        case Source():
            layout["coloured"] = _yaml(section.text) if section.language == "yaml" else section.text
    return layout


def _stages(section: LossCurves) -> list[dict[str, Any]]:
    stages: dict[str, list[dict[str, Any]]] = {}
    for plot in charts.plots(section.curves):
        stages.setdefault(plot.stage, []).append(
            {
                "quantity": plot.quantity,
                "lines": plot.lines,
                "linear": charts.svg(plot, log=False),
                "log": charts.svg(plot, log=True) if plot.can_be_log else None,
                "start_log": plot.better_log,
            }
        )
    return [{"name": name, "plots": plots} for name, plots in stages.items()]


def _numeric_columns(rows: Sequence[Sequence[Value]]) -> set[int]:
    """Columns without words, which read better flush right."""
    width = max((len(row) for row in rows), default=0)
    columns = [[row[k] for row in rows if k < len(row) and row[k] is not None] for k in range(width)]
    return {k for k, column in enumerate(columns) if column and not any(isinstance(v, str | bool) for v in column)}


def _aligned(rows: Sequence[Sequence[Value]], numeric: set[int]) -> list[list[Value]]:
    """The rows with the fractions of a column written to the same number of decimals, so that digits line up.

    Three significant digits of the largest; where that would leave a smaller one fewer than two, the column is left
    as it is.
    """
    aligned = [list(row) for row in rows]
    for k in numeric:
        values = [float(v) for row in rows if k < len(row) and (v := row[k]) is not None]
        sizes = [abs(v) for v in values if v]
        if not sizes or not all(map(math.isfinite, values)) or all(v == round(v) for v in values):
            continue
        decimals = 2 - math.floor(math.log10(max(sizes)))
        if not 0 < decimals <= 8 or min(sizes) < 10.0 ** (1 - decimals):
            continue
        for row in aligned:
            if k < len(row) and row[k] is not None:
                row[k] = f"{float(row[k]):.{decimals}f}".replace("-", "\N{MINUS SIGN}")  # type: ignore[arg-type]
    return aligned


def _gallery(section: MeshGallery, identifier: str) -> dict[str, Any]:
    items = []
    for k, item in enumerate(section.items):
        meshes = [_view(mesh, f"{identifier}-mesh-{k}-{j}") for j, mesh in enumerate(item.meshes)]
        # Quoted whole, a name can be no scheme ("javascript:") and no other folder's address.
        href = "./" + quote(_file_name_bytes(item.file)) if item.file else ""
        items.append({"caption": item.caption, "note": item.note, "file": item.file, "href": href, "meshes": meshes})
    width = max((len(item.meshes) for item in section.items), default=1)
    return {"views": items, "layout": "single" if width == 1 else "pairs" if width == 2 else "rows"}


def _file_name_bytes(name: str) -> bytes:
    """The bytes that a name has on the disk, also where they are not UTF-8."""
    try:
        return name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # no name of a file
        return _clean(name).encode()


def _view(mesh: Mesh, identifier: str) -> dict[str, Any]:
    match mesh.mesh:
        case Ribbon():
            drawn, places = ribbon.ribbon(mesh.mesh.backbone, mesh.mesh.secondary)
            preview = geometry.encode(drawn, places=places)
        case TriangleMesh():
            preview = geometry.encode(mesh.mesh)
        case _:
            preview = geometry.encode(_from_glb(mesh.mesh))
    return {
        "id": identifier,
        "label": mesh.label,
        "colour": "--given" if mesh.reference else "--made",
        "faces": preview.faces,
        "data": preview.data,
    }


def _from_glb(content: bytes) -> TriangleMesh:
    from data.export.glb import from_glb

    return from_glb(content)


def _data_url(figure: Figure) -> str:
    """The picture as an address of its own. As an image, an SVG can neither run scripts nor load anything."""
    is_svg = isinstance(figure.image, str)
    content = _clean(figure.image).encode() if isinstance(figure.image, str) else figure.image
    return f"data:image/{'svg+xml' if is_svg else 'png'};base64,{base64.b64encode(content).decode('ascii')}"


_YAML_LINE = re.compile(r"^(?P<lead>\s*(?:- )*)(?:(?P<key>[^\s#:'\"][^:#'\"]*)(?P<colon>:(?=\s|$)))?(?P<rest>.*)$")


def _yaml(text: str) -> Markup:
    """YAML with its keys and comments marked, line by line; good enough for what `yaml.safe_dump` writes."""
    lines = []
    for line in text.splitlines():
        parts = _YAML_LINE.match(line)
        if line.lstrip().startswith("#") or parts is None:
            lines.append(Markup('<span class="c">{}</span>').format(line) if "#" in line else Markup.escape(line))
        elif parts["key"] is None:
            lines.append(Markup.escape(line))
        else:
            lines.append(
                Markup('{}<span class="k">{}</span>{}{}').format(
                    parts["lead"], parts["key"], parts["colon"], parts["rest"]
                )
            )
    return Markup("\n").join(lines)
