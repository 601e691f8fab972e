"""Curves, surfaces and manifolds."""
