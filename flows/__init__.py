"""The order of work: one Metaflow FlowSpec per domain over the plain functions of steps/."""

from pkgutil import extend_path

__path__ = extend_path(__path__, __name__)  # see data/__init__.py
