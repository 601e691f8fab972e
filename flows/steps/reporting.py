"""The report that every domain has: curves, durations, configuration, provenance."""

from flows.report import report_of_run, write_report
from flows.run import Run


def plain_report(run: Run) -> None:
    """Write `report.html` with the sections that need no knowledge of the domain."""
    write_report(run.path / "report.html", report_of_run(run.path, []))
