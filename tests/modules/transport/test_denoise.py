"""Sampling towards a predicted end: exact where the prediction stands still, of its order where it moves."""

import math

import pytest
import torch
from torch import Tensor

from data.errors import ConfigError, PenstockError
from modules.geometry.manifold import Euclidean
from modules.transport.denoise import (
    METHODS,
    Denoised,
    ExponentialSchedule,
    LinearSchedule,
    Method,
    ProductSchedule,
    Schedule,
    denoise,
    drift_share,
)

SCHEDULES = pytest.mark.parametrize(
    "schedule", [LinearSchedule(), ExponentialSchedule(2.0), ExponentialSchedule(6.0)], ids=["linear", "exp2", "exp6"]
)
ORDERS: dict[Method, int] = {"first": 1, "two-call": 2, "multistep": 2}


def last(steps) -> Denoised:
    (*_, end) = steps
    return end


def even(steps: int, end: float) -> list[float]:
    return [end * k / steps for k in range(steps + 1)]


@SCHEDULES
@pytest.mark.parametrize("method", METHODS)
def test_one_step_is_exact_where_the_prediction_stands_still(space, schedule: Schedule, method: Method):
    """dx/dt = k log_x(y) has the solution exp_{x0}((1 - r) log_{x0} y), r the share of the way that remains."""
    x0, y = space.points(0), space.points(1)
    remains = 0.3 if isinstance(schedule, LinearSchedule) else math.exp(-schedule.rate * 0.7)
    exact = space.on.exp(x0, (1 - remains) * space.on.log(x0, y))
    for times in ([0.0, 0.7], even(5, 0.7)):
        space.assert_same_points(
            last(denoise(lambda x, t: y, space.on, x0, times, schedule, method=method)).state, exact
        )


@SCHEDULES
@pytest.mark.parametrize("method", METHODS)
def test_state_converges_at_the_order_of_the_method(space, schedule: Schedule, method: Method):
    """Against a much finer run; the prediction moves by itself and with the state, about crossing axes."""
    x0, a, b = space.points(0), space.points(1), space.tangents(2)

    def predict(x: Tensor, t: float) -> Tensor:
        moving = space.on.exp(a, math.sin(3 * t) * 0.6 * b)
        return space.on.exp(moving, 0.2 * space.on.log(moving, x))

    # Near the cut locus the shortest way jumps; those events have no order to converge at.
    x0 = space.on.exp(a, 0.4 * space.on.log(a, x0))

    def state(steps: int, by: Method) -> Tensor:
        return last(denoise(predict, space.on, x0, even(steps, 0.8), schedule, method=by)).state

    fine = state(240, "two-call")
    errors = [space.on.log(state(steps, method), fine).norm().item() for steps in (20, 40)]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(ORDERS[method], abs=0.25)


def test_components_follow_their_own_schedules():
    schedule = ProductSchedule(((ExponentialSchedule(3.0), 2), (LinearSchedule(), 1)))
    x0, y = torch.zeros(1, 3, dtype=torch.float64), torch.ones(1, 3, dtype=torch.float64)
    end = last(denoise(lambda x, t: y, Euclidean(), x0, [0.1, 0.3, 0.6], schedule)).state
    expected = torch.tensor([1 - math.exp(-1.5), 1 - math.exp(-1.5), 0.5 / 0.9], dtype=torch.float64)
    torch.testing.assert_close(end[0], expected)


@pytest.mark.parametrize("method", METHODS)
def test_a_run_to_the_end_gives_the_last_prediction_and_nothing_infinite(space, method: Method):
    x0, a, b = space.points(0), space.points(1), space.tangents(2)
    calls = []

    def predict(x: Tensor, t: float) -> Tensor:
        calls.append(t)
        return space.on.exp(a, t * 0.2 * b)

    end = last(denoise(predict, space.on, x0, even(3, 1.0), LinearSchedule(), method=method))
    space.assert_same_points(end.prediction, space.on.exp(a, 0.2 * b))
    # a linear schedule ends at the prediction it was last shown
    drift = {"first": 2 / 3, "multistep": 2 / 3, "two-call": 1.0}[method]
    space.assert_same_points(end.state, space.on.exp(a, drift * 0.2 * b), atol=1e-9, rtol=0)
    assert len(calls) == {"first": 4, "multistep": 4, "two-call": 7}[method]


def test_steps_never_overshoot():
    """However long the step, the state stays between where it was and the prediction."""
    for schedule in (LinearSchedule(), ExponentialSchedule(10.0)):
        for t, t_next in ((0.0, 1.0), (0.01, 0.9), (0.5, 0.5000001)):
            assert 0 <= schedule.fraction(t, t_next).item() <= 1


def test_share_of_the_drift_agrees_with_its_integral():
    """φ = ∫0^h (1 - exp(-(h - s))) ds / h, the weight of a drift that grows linearly over the step."""
    for h in (1e-6, 1e-3, 0.0099, 0.0101, 0.5, 4.0, 30.0):
        s = (torch.arange(20000, dtype=torch.float64) + 0.5) / 20000 * h
        expected = (-torch.expm1(-(h - s))).mean()
        share = torch.tensor(-math.expm1(-h), dtype=torch.float64)
        torch.testing.assert_close(drift_share(share), expected, rtol=1e-6, atol=0)
    assert drift_share(torch.tensor(1.0)).item() == 1.0


def test_states_are_projected_and_shown_one_by_one():
    seen = []

    def predict(x: Tensor, t: float) -> Tensor:
        seen.append(t)
        return torch.ones_like(x)

    def keep(x: Tensor, t: float) -> Tensor:
        return torch.cat([torch.zeros_like(x[:, :1]), x[:, 1:]], dim=1)

    steps = denoise(predict, Euclidean(), torch.zeros(2, 3), [0.0, 0.5, 1.0], LinearSchedule(), project=keep)
    assert next(steps).time == 0.0
    assert seen == [0.0]  # nothing is computed before it is asked for
    second = next(steps)
    assert second.state.tolist() == [[0.0, 0.5, 0.5]] * 2


def test_user_mistakes_are_named():
    x = torch.zeros(1, 2)
    for times in ([], [0.5, 0.2], [0.0, 1.5]):
        with pytest.raises(PenstockError, match="increasing times"):
            list(denoise(lambda x, t: x, Euclidean(), x, times, LinearSchedule()))
    with pytest.raises(ConfigError, match="rate"):
        ExponentialSchedule(0.0)
