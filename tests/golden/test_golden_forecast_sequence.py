"""Flow attention, the Flowformer classifier and the memory unit against numbers of the published implementations."""

import pytest
import torch
from torch import Tensor, nn

from data.batch import SequenceBatch
from modules.forecast.lmu import LMUCell
from modules.forecast.reference import classifier, flow_attention, lmu
from modules.layers.flow_attention import FlowAttention
from tests.golden.forecast_fixture import OUT_RTOL, ForecastFixture, assert_near, assert_same_training, parametrized

pytestmark = pytest.mark.golden

FILES = ("Flow_Attention.py", "models/Flowformer.py", "lmu_cell.py")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    parametrized(metafunc, *FILES)


class Case:
    """Network, renaming and answer of one fixture, by the reference's class."""

    def __init__(self, fixture: ForecastFixture) -> None:
        self.fixture, self.inputs = fixture, fixture.under("in")
        reference = fixture.source[1].split(":")[1]
        config, state = fixture.config, fixture.under("state")
        self.loss = nn.functional.mse_loss
        self.network: nn.Module
        if reference.startswith("Flow_Attention"):
            self.rename = flow_attention.rename
            self.network = FlowAttention(
                config["d_input"],
                config["n_heads"],
                inner=config["d_model"],
                output=config["d_output"],
                causal=reference.endswith("Causal"),
                dropout=config["drop_out"],
            )
            assert flow_attention.recognises(state)
            self.network.load_state_dict(self.rename(state))
        elif reference == "FlowformerClassiregressor":
            self.rename, self.loss = classifier.rename, nn.functional.cross_entropy
            assert classifier.recognises(state)
            found, weights = classifier.convert(state, config)
            self.network = found.build()
            self.network.load_state_dict(weights)
        else:
            assert lmu.recognises(state)
            self.rename = lambda given: lmu.rename({key.removeprefix("inner."): value for key, value in given.items()})
            self.network = LMUCell(
                config["input_size"], config["hidden_size"], order=config["memory_size"], theta=float(config["theta"])
            )
            self.network.load_state_dict(self.rename(state))
        self.network.eval()

    def answer(self) -> Tensor:
        """What `train/target` is the target of."""
        x = self.inputs["x"]
        if isinstance(self.network, FlowAttention):
            return self.network(x)
        if isinstance(self.network, LMUCell):
            return self.network(x)[0]
        labels = torch.full((len(x),), -1)
        return self.network(SequenceBatch((), torch.arange(len(x)), x, self.inputs["padding_mask"], labels))


def test_outputs(fixture: ForecastFixture) -> None:
    case = Case(fixture)
    network, theirs = case.network, fixture.under("out")
    with torch.no_grad():
        for name in ("self", "logits", "h"):
            if name in theirs:
                assert_near(case.answer(), theirs[name], OUT_RTOL)
        if "cross" in theirs:
            assert_near(network(case.inputs["q"], case.inputs["kv"]), theirs["cross"], OUT_RTOL)
        if "h_last" in theirs:
            assert isinstance(network, LMUCell)
            assert_near(network.last(case.inputs["x"])[0], theirs["h_last"], OUT_RTOL)


def test_step_by_step(fixture: ForecastFixture) -> None:
    network = (case := Case(fixture)).network
    if not (isinstance(network, LMUCell) or (isinstance(network, FlowAttention) and network.causal)):
        pytest.skip("this network has no steps")
    state, found = None, []
    for x in case.inputs["x"].unbind(1):
        answer, state = network.step(x, state)
        found.append(answer)
        if isinstance(network, LMUCell):
            memory = fixture.tensors["extra/m_recurrent"][:, len(found) - 1]
            assert_near(state[:, 0], memory, OUT_RTOL)
    theirs = fixture.tensors["out/h" if isinstance(network, LMUCell) else "out/self"]
    assert_near(torch.stack(found, dim=1), theirs, OUT_RTOL)


def test_training(fixture: ForecastFixture) -> None:
    case = Case(fixture)
    assert_same_training(case.network, case.answer, fixture, case.rename, loss=case.loss)
