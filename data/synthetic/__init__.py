"""Generators of synthetic data: the embedded default of every domain, with exact labels."""

from pkgutil import extend_path

__path__ = extend_path(__path__, __name__)  # see data/__init__.py
