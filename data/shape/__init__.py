"""Shapes on disk: meshes read, repaired and sampled into `samples.h5`; datasets of samples and of latents."""

from data.shape.datasets import LatentSamples, ShapeSamples, ShapeSamplesConfig, write_latents
from data.shape.item import PrepareConfig, prepare_item
from data.shape.kinds import SHAPE_LATENTS, SHAPE_SAMPLES
from data.shape.mesh_reading import SourceMesh, read_mesh
from data.shape.preparation import Preparation, preparation_key, prepare

__all__ = [
    "SHAPE_LATENTS",
    "SHAPE_SAMPLES",
    "LatentSamples",
    "Preparation",
    "PrepareConfig",
    "ShapeSamples",
    "ShapeSamplesConfig",
    "SourceMesh",
    "preparation_key",
    "prepare",
    "prepare_item",
    "read_mesh",
    "write_latents",
]
