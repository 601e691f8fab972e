"""The workflow of the forecast domain: from a table to forecasts. Started by `penstock run forecast`."""

from metaflow import FlowSpec, step

from flows.domain import TRAIN
from flows.steps.forecast import STEPS
from flows.workflow import run_step


class ForecastFlow(FlowSpec):
    """prepare and choose → train what is asked for → evaluate, sample, export, report."""

    @step
    def start(self) -> None:
        """Read the table, choose season and look-back on the validation part, make a first forecast."""
        run_step("prepare", "choose")
        self.next(self.train)

    @step
    def train(self) -> None:
        """Train the networks that the configuration asks for."""
        run_step(*(name for name in STEPS if name.startswith(TRAIN)))
        self.next(self.end)

    @step
    def end(self) -> None:
        """Backtest all models, forecast, and write files and the report."""
        run_step("evaluate", "sample", "export", "report")


if __name__ == "__main__":
    ForecastFlow()
