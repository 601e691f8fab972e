"""The workflow of the shape domain: from raw meshes to new ones. Started by `penstock run shape`."""

from metaflow import FlowSpec, step

from flows.workflow import run_step


class ShapeFlow(FlowSpec):
    """prepare → train VAE → encode → train flow → sample → evaluate → export → report."""

    @step
    def start(self) -> None:
        """Normalise, check and sample the meshes."""
        run_step("prepare")
        self.next(self.train_vae)

    @step
    def train_vae(self) -> None:
        """Learn latents from which the signed distance is decoded."""
        run_step("train_vae")
        self.next(self.encode)

    @step
    def encode(self) -> None:
        """Store the latents of every solid."""
        run_step("encode")
        self.next(self.train_flow)

    @step
    def train_flow(self) -> None:
        """Learn the velocity that carries noise to latents."""
        run_step("train_flow")
        self.next(self.sample)

    @step
    def sample(self) -> None:
        """Draw new solids."""
        run_step("sample")
        self.next(self.evaluate)

    @step
    def evaluate(self) -> None:
        """Measure reconstructions of held-out solids, and the samples."""
        run_step("evaluate")
        self.next(self.end)

    @step
    def end(self) -> None:
        """Write mesh files for other programs, and the report."""
        run_step("export", "report")


if __name__ == "__main__":
    ShapeFlow()
