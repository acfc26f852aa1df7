"""Runs as a table for the terminal, and what failed in words.

In: `Run`s.  Out: a rich table and lines of text.  Does not print.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from rich.table import Table

from scandsl.testing.compare import DTYPES, Run, Verdict
from scandsl.testing.tolerances import Role

_FORWARD = (Role.OUTPUT, Role.STATE)
_BACKWARD = (Role.VECTOR, Role.GATE)


def table(runs: Sequence[Run]) -> Table:
    """A row per scan, data and backend, a column per dtype; of all tensors the worst ones."""
    out = Table(
        title="relative RMS errors against the float64 reference: of values, of gradients",
        title_justify="left",
    )
    dtypes = [d for d in DTYPES if any(run.dtype is d for run in runs)]
    for name in ("scan", "data", "backend", *map(_name, dtypes)):
        out.add_column(name, no_wrap=True)
    last = ""
    for (scan, case, backend), row in _rows(runs).items():
        if last and scan != last:
            out.add_section()
        last = scan
        cells = [_cell(row[d]) if d in row else "" for d in dtypes]
        out.add_row(scan, case, backend, *cells)
    return out


def _rows(runs: Sequence[Run]) -> dict[tuple[str, str, str], dict[torch.dtype, Run]]:
    rows: dict[tuple[str, str, str], dict[torch.dtype, Run]] = {}
    for run in runs:
        rows.setdefault((run.scan, run.case, run.backend), {})[run.dtype] = run
    return rows


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _cell(run: Run) -> str:
    if run.failure is not None:
        return "[red]failed[/]"
    return f"{_number(run.worst(*_FORWARD))} {_number(run.worst(*_BACKWARD))}"


def _number(verdict: Verdict | None) -> str:
    if verdict is None:
        return "      "
    colour = "green" if verdict.ok else "red"
    return f"[{colour}]{verdict.error:6.0e}[/]"


def failures(runs: Sequence[Run]) -> Iterator[str]:
    """One line for each tensor beyond its bound, and for each run that broke."""
    for run in runs:
        where = f"{run.scan}, {run.case}, {run.backend}, {_name(run.dtype)}"
        if run.failure is not None:
            yield f"failed: {where}: {run.failure}"
        for verdict in run.verdicts:
            if not verdict.ok:
                yield (
                    f"failed: {where}: {verdict.role.value} `{verdict.tensor}` is off by "
                    f"{verdict.error:.2e}, allowed {verdict.bound:.1e}"
                )


def summary(runs: Sequence[Run]) -> str:
    """How many runs passed."""
    failed = sum(not run.ok for run in runs)
    return f"{len(runs) - failed} passed, {failed} failed"
