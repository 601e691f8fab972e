import numpy as np
import torch

from configs.toy import ToyConfig
from data.datamodule import ItemDataModule
from data.splits import SplitConfig
from data.toy import POINTS, Points, write_circle
from flows.domain import Domain
from flows.models import load_model
from flows.run import write_json
from flows.steps.reporting import plain_report
from flows.steps.training import train
from modules.layers.random import mix, randn_per_sample
from modules.toy import ToyNetworkConfig, ToyTraining


def prepare(run):
    with run.prepared("circle") as folder:
        file = write_circle(folder / "samples.h5", 40)
        run.record_data(file, Points(file, POINTS).fingerprint)


def train_flow(run):
    flow = run.config.flow
    data = ItemDataModule(Points(run.data_file, POINTS), SplitConfig(), flow.trainer.batch_size, run.config.seed)
    train(run, "flow", lambda: ToyTraining(flow.network), data, flow.trainer, network=flow.network)


def sample(run):
    network = load_model(run.model("flow")).network
    x = randn_per_sample(torch.tensor([mix(run.config.seed, k) for k in range(run.config.sample.count)]), (2,))
    for t in np.arange(0, 1, 0.1):
        x = x + 0.1 * network(torch.cat([x, torch.full((len(x), 1), t)], dim=1))
    np.save(run.samples / "points.npy", x.detach().numpy())


def evaluate(run):
    write_json(run.path / "evaluation.json", {"radius": float(np.hypot(*np.load(run.samples / "points.npy").T).mean())})


def export(run):
    np.savetxt(run.exports / "points.csv", np.load(run.samples / "points.npy"))


STEPS = {f.__name__: f for f in (prepare, train_flow, sample, evaluate, export)} | {"report": plain_report}
DOMAIN = Domain("toy", ToyConfig, STEPS, models={"flow": ToyNetworkConfig})
