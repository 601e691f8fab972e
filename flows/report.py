"""The page that tells what a run did: `write_report(run_folder / "report.html", report)`.

A domain hands over typed sections (`flows.reporting.sections`) and knows no HTML; the page knows no domain.
"""

from pathlib import Path

from data.atomic import written_file
from flows.reporting.page import render
from flows.reporting.run_folder import report_of_run
from flows.reporting.sections import (
    Command,
    Curve,
    Drawing,
    Duration,
    Durations,
    Figure,
    Figures,
    Headline,
    KeyValues,
    LossCurves,
    Mesh,
    MeshGallery,
    MeshItem,
    Point,
    Report,
    Ribbon,
    Section,
    Source,
    Table,
    Text,
    Value,
)

__all__ = [
    "Command",
    "Curve",
    "Drawing",
    "Duration",
    "Durations",
    "Figure",
    "Figures",
    "Headline",
    "KeyValues",
    "LossCurves",
    "Mesh",
    "MeshGallery",
    "MeshItem",
    "Point",
    "Report",
    "Ribbon",
    "Section",
    "Source",
    "Table",
    "Text",
    "Value",
    "report_of_run",
    "write_report",
]


def write_report(path: Path, report: Report) -> None:
    """One self-contained HTML file at `path`, whole or not at all.

    Raises:
        data.atomic.DiskFullError: no space left; an earlier file stays as it was.
    """
    text = render(report)
    with written_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
