"""Where the grammar lies: beside the package in a checkout, inside it in a wheel.

In: nothing.  Out: the text of `scan.lark`.  Does not parse it.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from scandsl.diagnostics import InternalError

_PACKAGE = Path(__file__).resolve().parent.parent


def grammar_path() -> Path:
    """The first place where `scan.lark` exists."""
    candidates = (_PACKAGE / "grammar" / "scan.lark", _PACKAGE.parent / "grammar" / "scan.lark")
    for path in candidates:
        if path.is_file():
            return path
    raise InternalError(
        "scan.lark is missing from this installation; looked at " + ", ".join(map(str, candidates))
    )


@cache
def grammar_text() -> str:
    """The grammar, read once."""
    return grammar_path().read_text(encoding="utf-8")
