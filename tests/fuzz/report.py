"""What a run of many specs found, as a table for the terminal.

In: `Record`s.  Out: rich tables and lines.  Does not print.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rich.table import Table

from tests.fuzz.hunt import Record
from tests.fuzz.specs import CLASSES


def table(records: Sequence[Record]) -> Table:
    """A row per structure class: how many specs hold it, in which forms, how many are wrong."""
    title = f"{len(records)} specs drawn: by class, on Triton, by form, with a fault"
    out = Table(title=title, title_justify="left", box=None, padding=(0, 1, 0, 0), pad_edge=False)
    out.add_column("structure class", no_wrap=True)
    for name in ("all", "Triton", "chunk", "scan", "chain", "block", "loop", "bad"):
        out.add_column(name, justify="right", no_wrap=True)
    for name in CLASSES:
        held = [r for r in records if name in r.classes]
        forms = Counter(r.form for r in held)
        triton = sum("triton" in r.backends for r in held)
        counts = [len(held), triton, *(forms[f] for f in ("chunk", "scan", "chain", "blocks"))]
        counts += [forms["sequential"], sum(bool(r.fault) for r in held)]
        out.add_row(name, *map(str, counts))
    return out


def summary(records: Sequence[Record]) -> list[str]:
    """Totals, then every fault."""
    untame = sum(not r.classes and not r.fault for r in records)
    bad = [r for r in records if r.fault]
    seconds = sum(r.seconds for r in records)
    lines = [
        f"{len(records) - untame - len(bad)} agree in every form, {len(bad)} do not, "
        f"{untame} have no data that keeps them bounded; {seconds:.0f} s of one core"
    ]
    return lines + [f"number {r.number}: {r.fault}: {r.message.splitlines()[0]}" for r in bad]
