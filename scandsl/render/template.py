"""The templates: where they lie, and how they are filled in.

In: a template's name and a context.  Out: text.  A name that the context lacks is an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path

import jinja2

from scandsl.diagnostics import InternalError

_PACKAGE = Path(__file__).resolve().parent.parent


def template_directory() -> Path:
    """Inside the package in a wheel, beside it in a checkout."""
    candidates = (_PACKAGE / "templates", _PACKAGE.parent / "templates")
    for path in candidates:
        if (path / "module.py.jinja").is_file():
            return path
    raise InternalError("the templates are missing from this installation")


@cache
def environment() -> jinja2.Environment:
    """One environment for all templates."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(template_directory()),
        undefined=jinja2.StrictUndefined,
        autoescape=False,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=False,
    )


def fill(name: str, context: Mapping[str, object]) -> str:
    """A template with its names filled in."""
    return environment().get_template(f"{name}.py.jinja").render(dict(context))
