"""One training by several processes of a Ray cluster (Ray Train, Lightning's strategies)."""

import os
from typing import Any

from flows.placement import Placement
from flows.run import Run
from flows.steps.training import Training, fit


def train_on_ray(training: Training, placement: Placement) -> None:
    """Run `fit` in every worker of a Ray Train group, until it has finished."""
    import ray.train
    from ray.train.torch import TorchConfig, TorchTrainer

    gpu = placement.gpus_per_worker > 0
    resources = {"CPU": placement.cpus_per_worker} | ({"GPU": placement.gpus_per_worker} if gpu else {})
    fewest = placement.min_workers
    trainer = TorchTrainer(
        _work,
        train_loop_config={"training": ray.put(training), "strategy": placement.strategy},
        scaling_config=ray.train.ScalingConfig(
            num_workers=placement.workers if fewest is None else (fewest, placement.workers),
            use_gpu=gpu,
            resources_per_worker=resources,
        ),
        torch_config=TorchConfig(backend="nccl" if gpu else "gloo"),
        run_config=ray.train.RunConfig(
            name=training.place,
            storage_path=str(training.run.path / "ray"),
            failure_config=ray.train.FailureConfig(max_failures=placement.max_failures),
        ),
    )
    trainer.fit()


def _work(config: dict[str, Any]) -> None:
    """What each worker does."""
    import ray
    import torch

    from cluster.on_ray.group import RayGroup

    training: Training = ray.get(config["training"])
    run: Run = training.run
    threads = run.config.threads or int(os.environ.get("OMP_NUM_THREADS", "1"))
    torch.set_num_threads(threads)
    group = RayGroup(config["strategy"])
    try:
        fit(training, group)
    finally:
        group.close()
