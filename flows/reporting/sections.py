"""What a report consists of. Plain values: a domain fills them in, `flows.reporting.page` lays them out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, TypeAlias

import numpy as np
from markupsafe import Markup

from data.batch import Backbone, TriangleMesh

Value: TypeAlias = str | int | float | bool | None


@dataclass(frozen=True)
class Point:
    """One measured number of a training."""

    step: int
    value: float


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One named quantity over the optimizer steps of one stage, as in the columns of `metrics.csv`."""

    stage: str
    name: str
    """As logged: `train/loss`, `val/loss`. Names that differ only in `train/` and `val/` share one plot."""
    points: Sequence[Point]


@dataclass(frozen=True, kw_only=True)
class LossCurves:
    """Small plots, one per stage and quantity, training and validation together, with a switch to a log scale."""

    title: str = "Training curves"
    curves: Sequence[Curve]
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of numbers and words. A sampling floor or a baseline is one more column."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Value]]
    note: str = ""
    """What the columns mean: definitions, units, which way is better."""


@dataclass(frozen=True)
class Ribbon:
    """A protein backbone to be drawn as a ribbon, blue at its first residue and red at its last."""

    backbone: Backbone
    secondary: np.ndarray | None = None
    """ "H", "E" or "C" of each residue (helix, strand, neither); without it all is drawn as a tube."""


@dataclass(frozen=True, kw_only=True)
class Mesh:
    """One mesh under its label, e.g. "ground truth"."""

    mesh: TriangleMesh | Ribbon | bytes
    """A triangle mesh, a protein, or the content of a GLB file. A lighter preview of it goes into the page."""
    label: str = ""
    reference: bool = False
    """Drawn in the quiet colour of given things (ground truth) instead of the colour of made ones."""


@dataclass(frozen=True, kw_only=True)
class MeshItem:
    """Meshes shown side by side and turned together: one alone, or a reconstruction next to its ground truth."""

    caption: str
    meshes: Sequence[Mesh]
    note: str = ""
    """Small print under the caption, e.g. the item's own metrics."""
    file: str = ""
    """Where the full mesh lies, relative to the run folder; becomes a link."""


@dataclass(frozen=True, kw_only=True)
class MeshGallery:
    """Interactive 3D views."""

    title: str
    items: Sequence[MeshItem]
    note: str = ""
    turning: bool = True
    """Whether the views turn slowly until somebody takes hold of them."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One picture: SVG source or the bytes of a PNG."""

    image: str | bytes
    caption: str
    alt: str = ""
    wide: bool = False
    """Across the whole page."""


@dataclass(frozen=True, kw_only=True)
class Figures:
    """Still pictures in a grid."""

    title: str
    figures: Sequence[Figure]
    note: str = ""
    width: int = 320
    """Least pixels across of a picture: as many stand beside each other as the page has room for."""


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """A chart that becomes part of the page itself, so that what lies under the pointer can say what it is."""

    title: str
    svg: Markup
    """One `<svg>` element. It is not escaped again: whoever draws it escapes what comes from outside
    (`markupsafe.Markup.format`). Elements of the class `one` stand out under the pointer; their `<title>` is shown."""
    note: str = ""
    width: int = 1072
    """Pixels below which the chart is scrolled and not made smaller."""


@dataclass(frozen=True, kw_only=True)
class KeyValues:
    """Facts under short headings: what data, which versions, how long. One group needs no heading ("")."""

    title: str
    groups: Mapping[str, Mapping[str, Value]]
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Duration:
    """How long one step of the run took."""

    name: str
    seconds: float
    state: str = ""


@dataclass(frozen=True, kw_only=True)
class Durations:
    """Steps of the run with their wall time as bars."""

    title: str = "How long"
    steps: Sequence[Duration]
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Source:
    """A longer text in a fixed-width face, folded away until opened: the configuration, a log."""

    title: str
    text: str
    language: Literal["yaml", ""] = ""
    summary: str = ""
    """What the closed fold says."""
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Command:
    """What to type to make the run again, ready to copy."""

    title: str = "Make it again"
    command: str
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Text:
    """Paragraphs of plain prose."""

    title: str
    paragraphs: Sequence[str]


Section: TypeAlias = (
    LossCurves | Table | MeshGallery | Figures | Drawing | KeyValues | Durations | Source | Command | Text
)


@dataclass(frozen=True, kw_only=True)
class Headline:
    """One number that a reader wants first."""

    label: str
    value: Value
    unit: str = ""
    note: str = ""
    """One short line under it, e.g. "floor 0.993"."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """A whole page. Sections appear in the order given; the first word of the summary bar is the run's name."""

    run: str
    domain: str
    sections: Sequence[Section]
    headlines: Sequence[Headline] = ()
    date: datetime | None = None
    """When the run was started."""
    seconds: float | None = None
    """Duration of the whole run."""
    summary: str = ""
    """One or two sentences under the run's name."""
