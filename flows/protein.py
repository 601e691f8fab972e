"""The workflow of the protein domain: from structures to rectified backbones. Started by `penstock run protein`."""

from metaflow import FlowSpec, step

from flows.workflow import run_step


class ProteinFlow(FlowSpec):
    """prepare → train flow → pairs → train reflow → compare → sample → evaluate → export → report."""

    @step
    def start(self) -> None:
        """Read, check and filter the structures."""
        run_step("prepare")
        self.next(self.train_flow)

    @step
    def train_flow(self) -> None:
        """Learn the flow that carries noise to backbones."""
        run_step("train_flow")
        self.next(self.pairs)

    @step
    def pairs(self) -> None:
        """Draw pairs of noise and backbone, and keep those that pass."""
        run_step("pairs")
        self.next(self.train_reflow)

    @step
    def train_reflow(self) -> None:
        """Learn the straighter flow along the stored pairs."""
        run_step("train_reflow")
        self.next(self.compare)

    @step
    def compare(self) -> None:
        """Measure the base and the rectified model at few and at many steps."""
        run_step("compare")
        self.next(self.sample)

    @step
    def sample(self) -> None:
        """Draw new backbones."""
        run_step("sample")
        self.next(self.evaluate)

    @step
    def evaluate(self) -> None:
        """Measure the samples against real chains and controls."""
        run_step("evaluate")
        self.next(self.end)

    @step
    def end(self) -> None:
        """Write structure files for other programs, and the report."""
        run_step("export", "report")


if __name__ == "__main__":
    ProteinFlow()
