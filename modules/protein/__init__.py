"""Rectified quaternion flow for protein backbones (Yue et al. 2025)."""
