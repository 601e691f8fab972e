"""Protein backbones: structure files read, checked, filtered, stored, and drawn as training samples."""

from data.protein.clusters import ClusterConfig, cluster_sequences
from data.protein.datasets import ProteinSample, ProteinSamples, ProteinSamplesConfig
from data.protein.filters import ProteinFilterConfig
from data.protein.kinds import PROTEIN_BACKBONES
from data.protein.preparation import (
    Prepared,
    ProteinPreparationConfig,
    preparation_key,
    prepare,
)
from data.protein.reading import STRUCTURE_SUFFIXES, Chain, is_structure, read_chains
from data.protein.secondary_structure import assign

__all__ = [
    "PROTEIN_BACKBONES",
    "STRUCTURE_SUFFIXES",
    "Chain",
    "ClusterConfig",
    "Prepared",
    "ProteinFilterConfig",
    "ProteinPreparationConfig",
    "ProteinSample",
    "ProteinSamples",
    "ProteinSamplesConfig",
    "assign",
    "cluster_sequences",
    "is_structure",
    "preparation_key",
    "prepare",
    "read_chains",
]
