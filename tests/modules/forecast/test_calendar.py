"""A forecaster that says it reads no calendar answers the same without one; one that does is changed by it."""

from dataclasses import replace

import pytest
import torch

from data.batch import WindowBatch
from modules.forecast.cyclenet import CycleNetConfig
from modules.forecast.heads import Head
from modules.forecast.interface import WindowShape
from modules.forecast.itransformer import ITransformerConfig
from modules.forecast.linear import DLinearConfig, NLinearConfig, RLinearConfig
from modules.forecast.lmu import LMUConfig
from modules.forecast.network import ModelConfig
from modules.forecast.patchtst import PatchTSTConfig
from modules.forecast.patchtst_tslib import TSLibPatchTSTConfig
from modules.forecast.ridge import RidgeConfig
from modules.forecast.sparsetsf import SparseTSFConfig
from modules.forecast.timemixer import TimeMixerConfig
from modules.forecast.timexer import TimeXerConfig
from modules.forecast.xpatch import XPatchConfig

SHAPE = WindowShape(look_back=48, horizon=12, targets=2, calendar=4, season=12)
CONFIGS = [
    RidgeConfig(), NLinearConfig(), DLinearConfig(), RLinearConfig(), CycleNetConfig(), SparseTSFConfig(),
    PatchTSTConfig(), TSLibPatchTSTConfig(width=16, feed_forward=16), ITransformerConfig(),
    ITransformerConfig(calendar=False), TimeXerConfig(width=16, feed_forward=16), TimeMixerConfig(), XPatchConfig(),
    LMUConfig(),
]  # fmt: skip


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: type(config).__name__)
def test_who_reads_the_calendar_says_so(config: ModelConfig) -> None:
    torch.manual_seed(1)
    network = config.build(SHAPE, Head()).eval()
    window = WindowBatch(
        ids=(),
        seeds=torch.zeros(3, dtype=torch.int64),
        past=torch.randn(3, 48, 2),
        calendar=torch.rand(3, 60, 4) - 0.5,
        position=torch.arange(3),
    )
    other = replace(window, calendar=torch.rand(3, 60, 4) - 0.5 if network.takes_calendar else None)
    with torch.no_grad():
        same = torch.equal(network(window), network(other))
    assert same != network.takes_calendar
