"""Runs as a table for the terminal, and what failed in words.

In: `Run`s.  Out: a rich table and lines of text.  Does not print.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.table import Table

from scandsl.testing.compare import Run, Verdict
from scandsl.testing.tolerances import Role

_FORWARD = (Role.OUTPUT, Role.STATE)
_BACKWARD = (Role.VECTOR, Role.GATE)


def table(runs: Sequence[Run]) -> Table:
    """One row per run: the tensor nearest to its bound, forward and backward."""
    out = Table(title="relative RMS error against the float64 reference (bound)")
    for name in ("scan", "data", "backend", "dtype"):
        out.add_column(name)
    out.add_column("values", justify="right")
    out.add_column("gradients", justify="right")
    out.add_column("")
    for run in runs:
        out.add_row(
            run.scan,
            run.case,
            run.backend,
            str(run.dtype).removeprefix("torch."),
            _cell(run.worst(*_FORWARD)),
            _cell(run.worst(*_BACKWARD)),
            "[green]ok[/]" if run.ok else "[red]failed[/]",
        )
    return out


def _cell(verdict: Verdict | None) -> str:
    if verdict is None:
        return "–"
    text = f"{verdict.tensor} {verdict.error:.1e} ({verdict.bound:.0e})"
    return text if verdict.ok else f"[red]{text}[/]"


def failures(runs: Sequence[Run]) -> Iterator[str]:
    """One line for each tensor beyond its bound, and for each run that broke."""
    for run in runs:
        dtype = str(run.dtype).removeprefix("torch.")
        where = f"{run.scan}, {run.case}, {run.backend}, {dtype}"
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
