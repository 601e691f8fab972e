"""Subgrid models in the channel: the divergence of their stress, and what they leave alone."""

import numpy as np
import pytest
import torch

from data.synthetic.turbulence.channel import ChannelConfig
from data.synthetic.turbulence.channel_products import Products
from data.synthetic.turbulence.subgrid import SubgridConfig


def test_a_constant_eddy_viscosity_is_a_viscosity(monkeypatch):
    """nu = 0.01 with an eddy viscosity of 0.01 flows like nu = 0.02."""
    monkeypatch.setattr(Products, "_viscosity", lambda self, u, gradient, part, first: torch.full_like(u[0], 0.01))
    fields = []
    for nu, model in ((0.01, "smagorinsky"), (0.02, "none")):
        channel = ChannelConfig(
            points=(16, 25, 16), nu=nu, perturbation=1.0, time_step=5e-4, dtype="float64",
            start="laminar", subgrid=SubgridConfig(model=model),
        ).build(0)  # fmt: skip
        start = channel.fields()
        channel.advance(0.02)
        fields.append((channel.fields() - start).numpy())
    inside = slice(2, -2)
    assert np.abs(fields[0] - fields[1])[:, inside].max() < 1e-3 * np.abs(fields[1]).max()


@pytest.mark.parametrize("model", ["smagorinsky", "dynamic", "wale"])
def test_models_take_energy(model):
    energies = {}
    for each in ("none", model):
        channel = ChannelConfig(points=(16, 25, 16), subgrid=SubgridConfig(model=each), time_step=2e-3).build(0)
        channel.advance(0.04)
        energies[each] = channel.energy()
    assert 0.95 * energies["none"] < energies[model] < energies["none"]


@pytest.mark.parametrize("model", ["dynamic", "wale"])
def test_models_leave_laminar_flow_alone(model):
    """No viscosity in pure shear: WALE by its invariant, the dynamic model because nothing is resolved."""
    channel = ChannelConfig(
        points=(8, 17, 8), start="laminar", perturbation=0.0, bulk_velocity=1.0, nu=0.05, dtype="float64",
        frame_velocity=0.7, subgrid=SubgridConfig(model=model),
    ).build(0)  # fmt: skip
    before = channel.fields()
    channel.advance(0.5)
    assert (channel.fields() - before).abs().max() < 1e-10


def test_the_dynamic_coefficient_is_that_of_turbulence_and_small_at_the_wall():
    channel = ChannelConfig(points=(16, 25, 16), subgrid=SubgridConfig(model="dynamic")).build(0)
    channel.advance(0.1)
    coefficient = channel._products.coefficient.flatten()
    assert float(coefficient.min()) >= 0 and 1e-4 < float(coefficient[4:-4].mean()) < 0.1
