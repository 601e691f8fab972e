"""Protein backbones: structure files read, checked, filtered, stored, and drawn as training samples."""
