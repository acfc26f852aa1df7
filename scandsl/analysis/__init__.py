"""Recurrence to `Program`: components, classes, events, forms, ranges."""

from scandsl.analysis.pipeline import analyse

__all__ = ["analyse"]
