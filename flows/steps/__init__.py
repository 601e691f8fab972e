"""What a workflow does, as plain functions of a run; one module per domain."""

from pkgutil import extend_path

__path__ = extend_path(__path__, __name__)  # see data/__init__.py
