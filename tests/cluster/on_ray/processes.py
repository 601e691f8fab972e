"""Trainings by several processes of this machine, connected as the workers of a Ray group are, without Ray's start.

As a script it is one of these processes: FOLDER RANK WORLD STRATEGY, with the training in FOLDER/training.
"""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.executor import Group
from flows.placement import Placement
from flows.run import Interrupted, Run

PATIENCE = 300.0
"""Seconds that a training of a test may take."""


@dataclass(frozen=True)
class Processes:
    """The executor of a run: `workers` processes, each with one thread."""

    run: Run
    placement: Placement
    stop_after: int | None = None
    """Step after which rank 0 is asked to end."""

    def train(self, training: Any) -> None:
        from ray import cloudpickle

        folder = self.run.path / "processes"
        folder.mkdir(exist_ok=True)
        (folder / "training").write_bytes(cloudpickle.dumps(training))
        world = self.placement.workers
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        environment |= {"WORLD_SIZE": str(world), "STOP_AFTER": str(self.stop_after or 0)}
        environment["PYTHONPATH"] = os.pathsep.join([os.environ.get("PYTHONPATH", ""), str(Path.cwd())])
        with ExitStack() as stack:
            started = []
            for rank in range(world):
                log = stack.enter_context((folder / f"log-{rank}.txt").open("w"))
                started.append(
                    subprocess.Popen(
                        [sys.executable, __file__, str(folder), str(rank), str(world), self.placement.strategy],
                        env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                        stdout=log,
                        stderr=log,
                    )
                )
            try:
                codes = [process.wait(PATIENCE) for process in started]
            finally:
                for process in started:
                    process.kill()
        if set(codes) == {130}:
            raise Interrupted("stopped")
        assert set(codes) == {0}, "\n".join((folder / f"log-{rank}.txt").read_text() for rank in range(world))

    def spreading(self) -> Any:
        return nullcontext()


def order(run: Run, world: int) -> list[list[tuple[str, int]]]:
    """Ids and seeds of the samples of each training step, put together from what the processes trained on."""
    parts = [
        json.loads(line)
        for rank in range(world)
        for line in (run.path / "processes" / f"order-{rank}.jsonl").read_text().splitlines()
    ]
    found: list[list[tuple[str, int]]] = []
    for step in range(1, max(part["step"] for part in parts) + 1):
        ranks = [part["samples"] for part in parts if part["step"] == step]
        assert len(ranks) == world
        whole = [rank[k] for k in range(max(map(len, ranks))) for rank in ranks if k < len(rank)]
        found.append([(name, seed) for name, seed in whole])
    return found


@contextmanager
def joined(rank: int, world: int) -> Iterator[None]:
    """Member of torch's process group."""
    import torch.distributed as dist

    dist.init_process_group("gloo", rank=rank, world_size=world)
    try:
        yield
    finally:
        dist.destroy_process_group()


def _group(folder: Path, rank: int, world: int, strategy: str) -> Group:
    import torch
    from lightning.pytorch.callbacks import Callback
    from lightning.pytorch.plugins.environments import LightningEnvironment

    from cluster.on_ray.group import ProcessGroup

    file = folder / f"order-{rank}.jsonl"
    file.unlink(missing_ok=True)
    done = [0]

    class Recorder(Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            done[0] = trainer.global_step
            names = list(batch.ids) or [""] * len(batch)
            samples = list(zip(names, batch.seeds.tolist(), strict=True))[: batch.counted]
            with file.open("a") as lines:
                lines.write(json.dumps({"step": trainer.global_step, "samples": samples}) + "\n")

    class Stopped:
        def stop(self) -> str | None:
            return "the test" if done[0] == int(os.environ["STOP_AFTER"]) else None

    if world == 1:
        alone = Group()
        alone.callbacks = lambda: [Recorder()]  # type: ignore[method-assign]
        return alone

    class Connected(ProcessGroup):
        def callbacks(self) -> Sequence[Callback]:
            return [*super().callbacks(), Recorder()]

        def trainer_options(self) -> Any:
            class Here(LightningEnvironment):
                def world_size(self) -> int:
                    return world

                def set_world_size(self, size: int) -> None: ...

                def global_rank(self) -> int:
                    return rank

                def set_global_rank(self, rank: int) -> None: ...

                def local_rank(self) -> int:
                    return rank

            return {**super().trainer_options(), "plugins": [Here()]}

    return Connected(strategy, Stopped(), torch.device("cpu"))


def main(folder: Path, rank: int, world: int, strategy: str) -> int:
    import faulthandler

    import torch
    from ray import cloudpickle

    faulthandler.register(signal.SIGUSR1)
    from flows.steps.training import fit

    torch.set_num_threads(1)
    with joined(rank, world) if world > 1 else nullcontext():
        training = cloudpickle.loads((folder / "training").read_bytes())
        group = _group(folder, rank, world, strategy)
        try:
            fit(training, group)
        except Interrupted:
            return 130
        finally:
            group.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]))
