"""The workflow of the turbulence domain: from equations to rollouts. Started by `penstock run turbulence`."""

from metaflow import FlowSpec, step

from flows.steps.turbulence import TRAININGS
from flows.workflow import run_step


class TurbulenceFlow(FlowSpec):
    """prepare → train what is asked for → roll out, solve → evaluate, export, report."""

    @step
    def start(self) -> None:
        """Simulate, or read the user's fields."""
        run_step("prepare")
        self.next(self.train)

    @step
    def train(self) -> None:
        """Train the operators that the configuration asks for."""
        run_step(*TRAININGS)
        self.next(self.roll_out)

    @step
    def roll_out(self) -> None:
        """Step the flow with the networks, and with the equations on the same grid."""
        run_step("sample", "solve")
        self.next(self.end)

    @step
    def end(self) -> None:
        """Compare with the simulation, write files and the report."""
        run_step("evaluate", "export", "report")


if __name__ == "__main__":
    TurbulenceFlow()
