"""The mathematics: tensors in, tensors out."""

from pkgutil import extend_path

__path__ = extend_path(__path__, __name__)  # see data/__init__.py
