"""What the benchmarks share: tables, JSON, and by other names what `scandsl bench` has of data.

Needs torch and the compiler, not rich: without it tables are plain text.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from scandsl.bench.files import write_json
from scandsl.bench.inputs import realistic, sizes_for
from scandsl.bench.machine import environment, version

__all__ = [
    "ROOT", "environment", "number", "realistic", "show", "sizes_for", "version", "write_json",
]  # fmt: skip

ROOT = Path(__file__).resolve().parents[1]


def show(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table: with rich on a terminal that has it, else in plain columns."""
    try:
        from rich.console import Console
        from rich.table import Table
    except ImportError:
        _show_plain(title, columns, rows)
        return
    if not sys.stdout.isatty():
        _show_plain(title, columns, rows)
        return
    table = Table(title=title, title_justify="left")
    for i, name in enumerate(columns):
        table.add_column(name, justify="right" if i else "left")
    for row in rows:
        table.add_row(*row)
    Console().print(table)


def _show_plain(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    lines = [columns, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    print(f"\n{title}")
    for line in lines:
        pairs = zip(line, widths, strict=True)
        cells = [f"{c:>{w}}" if i else f"{c:<{w}}" for i, (c, w) in enumerate(pairs)]
        print("  ".join(cells).rstrip())
    sys.stdout.flush()


def number(x: float | None, digits: int = 3) -> str:
    """A number for a table."""
    return "-" if x is None else f"{x:.{digits}g}" if abs(x) < 100 else f"{x:.0f}"
