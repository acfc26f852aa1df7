"""`make fuzz N=2000`: random specs against the judge, on all cores, going on where it stopped.

In: how many specs, from which number on, a folder for what is found.  Out: a report; exit status 1
if something is wrong.  Every spec has a number; what was tried is written down as it goes, with
what the number stood for (a hash of what draws) and under what (a hash of compiler and judge).
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
import hypothesis
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from scandsl.loader import compiler_hash
from tests.fuzz.hunt import Record, alone, hunt
from tests.fuzz.regressions import FOLDER, keep
from tests.fuzz.report import summary, table
from tests.fuzz.trials import Trial

DRAWING = (
    "expressions", "hunt", "matrices", "reads", "scope", "source", "specs", "steps", "trials",
)  # fmt: skip


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("count", type=click.IntRange(1))
@click.option("--first", default=0, help="The number of the first spec.")
@click.option("--workers", default=os.cpu_count() or 1, help="Processes.")
@click.option("--done", "log", default=Path("build/fuzz.jsonl"), type=click.Path(path_type=Path),
              help="Where it is written down what was tried.")  # fmt: skip
@click.option("--again", is_flag=True, help="Forget what was tried before.")
@click.option("--older", is_flag=True,
              help="Also count what agreed under other versions of the compiler.")  # fmt: skip
def main(count: int, first: int, workers: int, log: Path, again: bool, older: bool) -> None:
    """Try COUNT random specs; faults are kept, as small as can be, in tests/regressions."""
    log.parent.mkdir(parents=True, exist_ok=True)
    if again:
        log.unlink(missing_ok=True)
    numbers = range(first, first + count)
    records = {r.number: r for r in _written(log, older) if r.number in numbers}
    todo = [n for n in numbers if n not in records]
    console = Console()
    try:
        with log.open("a", encoding="utf-8") as out:
            for record in _shown(console, todo, workers, len(records)):
                records[record.number] = record
                out.write(json.dumps({**_versions(), **asdict(record)}) + "\n")
                out.flush()
                if record.fault:
                    file = keep(FOLDER, record.text, Trial.read(record.trial), record.message)
                    console.print(f"{record.fault}: {file}", markup=False)
    except KeyboardInterrupt:
        console.print(f"interrupted; the same command goes on with {count - len(records)} specs")
        sys.exit(130)
    found = [records[n] for n in numbers]
    console.print(table(found))
    for line in summary(found):
        console.print(line, markup=False, soft_wrap=True)
    sys.exit(any(r.fault for r in found))


@cache
def _versions() -> dict[str, str]:
    """Hashes of what draws, for which a number stands for a spec, and of compiler and judge."""
    drawing, judging = hashlib.sha256(hypothesis.__version__.encode()), hashlib.sha256()
    judging.update(compiler_hash().encode())
    for file in sorted(Path(__file__).parent.glob("*.py")):
        (drawing if file.stem in DRAWING else judging).update(file.read_bytes())
    return {"drawing": drawing.hexdigest()[:16], "judging": judging.hexdigest()[:16]}


def _written(log: Path, older: bool) -> Iterator[Record]:
    """What was tried before with this very code; a line that was cut off is left out.

    With `older`, also what agreed under another compiler: only what did not is tried again.
    """
    lines: Sequence[str] = log.read_text("utf-8").splitlines() if log.exists() else ()
    for line in lines:
        try:
            data = json.loads(line)
        except ValueError:
            continue
        now = _versions()
        drawn, judged = (data.pop(key, "") == now[key] for key in ("drawing", "judging"))
        if drawn and (judged or (older and not data["fault"])):
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
