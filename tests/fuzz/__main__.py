"""`make fuzz N=2000`: random specs against the judge, on all cores, going on where it stopped.

In: how many specs, from which number on, a folder for what is found.  Out: a report; exit status 1
if something is wrong.  Every spec has a number; what was tried is written down as it goes.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TRITON_INTERPRET", "1")

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from scandsl.loader import compiler_hash
from tests.fuzz.hunt import Record, alone, hunt
from tests.fuzz.regressions import FOLDER, keep
from tests.fuzz.report import summary, table
from tests.fuzz.trials import Trial


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("count", type=click.IntRange(1))
@click.option("--first", default=0, help="The number of the first spec.")
@click.option("--workers", default=os.cpu_count() or 1, help="Processes.")
@click.option("--done", "log", default=Path("build/fuzz.jsonl"), type=click.Path(path_type=Path),
              help="Where it is written down what was tried.")  # fmt: skip
@click.option("--again", is_flag=True, help="Forget what was tried before.")
def main(count: int, first: int, workers: int, log: Path, again: bool) -> None:
    """Try COUNT random specs; faults are kept, as small as can be, in tests/regressions."""
    log.parent.mkdir(parents=True, exist_ok=True)
    if again:
        log.unlink(missing_ok=True)
    numbers = range(first, first + count)
    records = {r.number: r for r in _written(log) if r.number in numbers}
    todo = [n for n in numbers if n not in records]
    console = Console()
    with log.open("a", encoding="utf-8") as out:
        for record in _shown(console, todo, workers, len(records)):
            records[record.number] = record
            out.write(json.dumps({"version": _version(), **asdict(record)}) + "\n")
            out.flush()
            if record.fault:
                file = keep(FOLDER, record.text, Trial.read(record.trial), record.message)
                console.print(f"{record.fault}: {file}", markup=False)
    found = [records[n] for n in numbers]
    console.print(table(found))
    for line in summary(found):
        console.print(line, markup=False)
    sys.exit(any(r.fault for r in found))


@cache
def _version() -> str:
    """A hash of the compiler, and of what draws: a number stands for a spec of theirs."""
    digest = hashlib.sha256(compiler_hash().encode())
    for file in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def _written(log: Path) -> Iterator[Record]:
    """What was tried before with this very code; a line that was cut off is left out."""
    lines: Sequence[str] = log.read_text("utf-8").splitlines() if log.exists() else ()
    for line in lines:
        try:
            data = json.loads(line)
        except ValueError:
            continue
        if data.pop("version") == _version():
            lists = ("classes", "backends")
            yield Record(**{k: tuple(v) if k in lists else v for k, v in data.items()})


def _shown(console: Console, todo: list[int], workers: int, before: int) -> Iterator[Record]:
    columns = (TextColumn("specs"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    # what was imported and registered for a spec stays in a process, so that none lives for long
    pools = multiprocessing.get_context("spawn").Pool(workers, alone, maxtasksperchild=50)
    with Progress(*columns, console=console) as bar, pools as pool:
        task = bar.add_task("specs", total=len(todo) + before, completed=before)
        for record in pool.imap_unordered(hunt, todo):
            bar.advance(task)
            yield record


if __name__ == "__main__":
    main()
