"""Programs to Python modules: printers, forms, and the skeleton of what is generated."""

from scandsl.render.module import render_module

__all__ = ["render_module"]
