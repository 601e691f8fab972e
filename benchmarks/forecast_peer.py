"""What a training step and a forecast of neuralforecast cost, in CPU seconds; run by an interpreter that has it.

    PYTHON benchmarks/forecast_peer.py series.npy      # prints one line of JSON

The series are [rows, columns]. Its own DLinear is trained by its own `fit`, twice in one process with different numbers
of steps: the difference is free of what setting up costs. Forecasts are one `predict` per origin, from the look-back
alone. Nothing of this repository is imported, since the interpreter may be that of another environment.
"""

import argparse
import json
import logging
import time
import warnings
from importlib.metadata import version
from typing import Any

import numpy as np

LEARNING_RATE = 1e-3


def long_table(values: Any) -> Any:
    """The long table that neuralforecast reads: a row per series and hour."""
    import pandas as pd

    rows, columns = values.shape
    return pd.DataFrame(
        {
            "unique_id": np.repeat([f"series {i}" for i in range(columns)], rows),
            "ds": np.tile(pd.date_range("2016-07-01", periods=rows, freq="h").to_numpy(), columns),
            "y": values.T.reshape(-1),
        }
    )


def trained(table: Any, steps: int, options: argparse.Namespace) -> tuple[Any, float]:
    """A model after `steps` steps, and the CPU seconds that `fit` took."""
    from neuralforecast import NeuralForecast
    from neuralforecast.losses.pytorch import MSE
    from neuralforecast.models import DLinear

    model = DLinear(
        h=options.horizon,
        input_size=options.look_back,
        loss=MSE(),
        max_steps=steps,
        learning_rate=LEARNING_RATE,
        val_check_steps=10 * steps,
        batch_size=options.columns,
        windows_batch_size=options.batch * options.columns,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    forecast = NeuralForecast(models=[model], freq="h")
    begin = time.process_time()
    forecast.fit(table)
    return forecast, time.process_time() - begin


def seconds_per_call(forecast: Any, values: Any, options: argparse.Namespace) -> float:
    """CPU seconds of one `predict` for all columns from one origin, the first call left out."""
    tables = [long_table(values[i : i + options.look_back]) for i in range(options.origins + 1)]
    forecast.predict(tables[0])
    begin = time.process_time()
    for table in tables[1:]:
        forecast.predict(table)
    return (time.process_time() - begin) / options.origins


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("series")
    parser.add_argument("--look-back", type=int, default=96)
    parser.add_argument("--horizon", type=int, default=96)
    parser.add_argument("--batch", type=int, default=32, help="windows per step, each of all columns")
    parser.add_argument("--steps", type=int, nargs=2, default=(50, 150))
    parser.add_argument("--origins", type=int, default=10)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    import torch

    torch.set_num_threads(1)
    values = np.load(options.series)
    options.columns = values.shape[1]
    table = long_table(values)
    few, many = options.steps
    trained(table, 5, options)  # the first run imports the rest and warms up
    _, short = trained(table, few, options)
    forecast, long = trained(table, many, options)
    answer = {
        "version": version("neuralforecast"),
        "step": (long - short) / (many - few),
        "call": seconds_per_call(forecast, values, options),
    }
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
