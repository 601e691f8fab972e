"""Growth of a Tollmien-Schlichting wave against the Orr-Sommerfeld equation, solved here by other means."""

import numpy as np
import pytest
import scipy.linalg
import torch

from data.synthetic.turbulence.channel import Channel, ChannelConfig

REYNOLDS, ALPHA = 7500, 1.0
GROWTH, SPEED = 0.002234978, 0.24989
"""Published growth rate, and phase speed over the velocity in the middle."""


def orr_sommerfeld(n: int) -> tuple[complex, np.ndarray]:
    """The most unstable eigenvalue and v on n + 1 Chebyshev points, upwards; walls clamped (Trefethen 2000, ch. 14)."""
    x = np.cos(np.pi * np.arange(n + 1) / n)
    c = np.r_[2, np.ones(n - 1), 2] * (-1.0) ** np.arange(n + 1)
    first = np.outer(c, 1 / c) / (x[:, None] - x + np.eye(n + 1))
    first -= np.diag(first.sum(1))
    second = first @ first
    clamp = np.diag(np.r_[0, 1 / (1 - x[1:-1] ** 2), 0])
    fourth = (np.diag(1 - x**2) @ second @ second - 8 * np.diag(x) @ second @ first - 12 * second) @ clamp
    second, fourth, x = second[1:-1, 1:-1], fourth[1:-1, 1:-1], x[1:-1]
    one = np.eye(n - 1)
    laplacian = second - ALPHA**2 * one
    viscous = (fourth - 2 * ALPHA**2 * second + ALPHA**4 * one) / REYNOLDS
    matrix = viscous - 2j * ALPHA * one - 1j * ALPHA * np.diag(1 - x**2) @ laplacian
    values, vectors = scipy.linalg.eig(matrix, laplacian)
    best = int(np.argmax(np.where(np.isfinite(values), values.real, -np.inf)))
    return values[best], np.r_[0, vectors[:, best], 0][::-1]


def wave(points: int, step: float, frame_velocity: float) -> tuple[Channel, complex]:
    """A channel with the most unstable wave at an amplitude of 1e-5, and its eigenvalue."""
    channel = ChannelConfig(
        points=(4, points, 4),
        length_x=2 * np.pi / ALPHA,
        length_z=2 * np.pi,
        nu=1 / REYNOLDS,
        bulk_velocity=2 / 3,
        start="laminar",
        perturbation=0.0,
        frame_velocity=frame_velocity,
        time_step=step,
        dtype="float64",
    ).build(0)
    eigenvalue, v = orr_sommerfeld(points - 1)
    v = 1e-5 * v / np.abs(v).max()
    x, y, _ = (axis.points for axis in channel.grid.axes)
    slope = channel.grid.axes[1].derivative @ v
    frame = np.zeros((*channel.grid.shape, 3))
    frame[..., 0] = (y * (2 - y) + np.real(1j / ALPHA * slope * np.exp(1j * ALPHA * x)[:, None]))[..., None]
    frame[..., 1] = np.real(v * np.exp(1j * ALPHA * x)[:, None])[..., None]
    channel.start_from(torch.from_numpy(frame), channel.grid)
    return channel, eigenvalue


def amplitude(channel: Channel) -> complex:
    """Of the first mode of v along x, in the middle."""
    v = channel.fields()[..., 1].numpy()
    return np.fft.fft(v[:, len(channel.grid.axes[1]) // 2, 0])[1]


def growth(channel: Channel, until: float) -> complex:
    begin, energy = amplitude(channel), (channel.fields()[..., 1] ** 2).mean().item()
    channel.advance(until)
    grown = np.log((channel.fields()[..., 1] ** 2).mean().item() / energy) / (2 * until)
    return grown + 1j * np.angle(amplitude(channel) / begin) / until


@pytest.mark.parametrize("frame_velocity", [0.0, 0.6])
def test_the_wave_grows_and_travels_as_the_orr_sommerfeld_equation_says(frame_velocity):
    channel, eigenvalue = wave(65, 0.01, frame_velocity)
    assert eigenvalue.real == pytest.approx(GROWTH, rel=1e-5)
    found = growth(channel, 1.0)
    assert found.real == pytest.approx(eigenvalue.real, rel=1e-4)
    assert found.imag == pytest.approx(eigenvalue.imag, rel=1e-4)
    assert -eigenvalue.imag / ALPHA == pytest.approx(SPEED, abs=1e-5)


@pytest.mark.slow
def test_the_wave_grows_for_ten_time_units():
    channel, eigenvalue = wave(97, 0.005, 0.0)
    assert growth(channel, 10.0).real == pytest.approx(GROWTH, rel=1e-5)
    assert eigenvalue.real == pytest.approx(GROWTH, rel=1e-5)
