from metaflow import FlowSpec, step

from flows.workflow import run_step


class ToyFlow(FlowSpec):
    @step
    def start(self):
        run_step("prepare", "train_flow")
        self.next(self.end)

    @step
    def end(self):
        run_step("sample", "evaluate", "export", "report")


if __name__ == "__main__":
    ToyFlow()
