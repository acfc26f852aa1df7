"""What `scandsl bench` does: reads its wishes, shows progress, prints a table, writes files.

In: `Wishes`.  Out: text on the terminal, JSON, a plot; whether all that is generated was right.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import click
import torch
from rich.console import Console

from scandsl.bench.candidates import Comparison, agreement, compare, speeds
from scandsl.bench.contenders import Job, Shape
from scandsl.bench.files import write_json
from scandsl.bench.machine import Rates, device_name, environment, rates
from scandsl.bench.run import Choice, Result, Told, measure
from scandsl.bench.show import forms_table, plot, table, troubles
from scandsl.bench.suites import SUITES, Outline
from scandsl.driver import Options, check
from scandsl.ir.nodes import Recurrence
from scandsl.loader import read_source

SIZE = 64
"""Of a dimension that neither the user nor a suite gives one."""


@dataclass(frozen=True, slots=True)
class Wishes:
    """The options of the command line."""

    files: tuple[Path, ...]
    settings: Mapping[str, int]
    form: str | None
    chunk: int | None
    schedule: str | None
    suite: str | None
    times: tuple[int, ...]
    batch: int
    heads: int
    sizes: Mapping[str, int]
    heads_of: Mapping[str, int]
    dtype: str | None
    device: str | None
    threads: int
    repeats: int
    compiled: bool
    no_loop: bool
    forms: bool
    only: tuple[str, ...]
    json_file: Path | None
    plot_file: Path | None


def session(wishes: Wishes) -> bool:
    """Do all of it; whether everything generated was right."""
    _refuse_nonsense(wishes)
    torch.set_num_threads(wishes.threads)
    jobs = _jobs(wishes)
    device, dtype = jobs[0][0].device, jobs[0][0].dtype
    console, progress = Console(), Console(stderr=True)
    if not console.is_terminal:
        console = Console(width=160)
    if wishes.forms:
        return _forms(wishes, jobs, console)
    found: list[Result] = []
    choice = Choice(
        wishes.compiled, not wishes.no_loop, wishes.repeats, wishes.threads, wishes.only
    )
    with progress.status("measuring the machine") if progress.is_terminal else nullcontext() as bar:
        told: Told = bar.update if bar is not None else _silent
        speed = rates(device, dtype)
        for job, shapes in jobs:
            for result in measure(job, shapes, choice, speed, told):
                found.append(result)
                _write(wishes, device, dtype, speed, found)
    console.print(table(found, _title(device, dtype, wishes, speed)))
    for line in troubles(found):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    if wishes.plot_file is not None:
        plot(found, wishes.plot_file, f"{device_name(device)}, {_name(dtype)}")
    return not any(r.wrong for r in found)


def _forms(wishes: Wishes, jobs: Sequence[tuple[Job, tuple[Shape, ...]]], console: Console) -> bool:
    """The cost model's order of forms beside the measured one."""
    device, dtype = jobs[0][0].device, jobs[0][0].dtype
    if device != "cpu":
        raise click.UsageError("--forms: the model is one of CPUs; add --device cpu")
    speed = rates(device, dtype)
    at = speeds(speed)
    found: list[Comparison] = []
    for job, shapes in jobs:
        for shape in shapes:
            found.append(compare(job, shape, at, wishes.repeats))
            _write(wishes, device, dtype, speed, found)
    console.print(forms_table(found, _title(device, dtype, wishes, speed)))
    right, pairs = agreement(found)
    console.print(f"of {pairs} pairs that the clock tells apart the model has {right} in order")
    return True


def _silent(_: str) -> None:
    """Nobody watches."""


def _refuse_nonsense(wishes: Wishes) -> None:
    for name in ("batch", "heads", "threads", "repeats"):
        if getattr(wishes, name) < 1:
            raise click.UsageError(f"--{name} {getattr(wishes, name)}: expected one or more")
    if any(time < 1 for time in wishes.times):
        raise click.UsageError("--time: expected one or more")
    if wishes.device == "cuda" and not torch.cuda.is_available():
        raise click.UsageError("--device cuda: torch sees no GPU here")
    if wishes.plot_file is not None:
        try:
            import matplotlib  # noqa: F401, PLC0415  (an extra)
        except ImportError:
            raise click.UsageError(
                "--plot needs matplotlib: pip install 'scandsl[bench]'"
            ) from None


# ---------------------------------------------------------------- what is timed


def _jobs(wishes: Wishes) -> list[tuple[Job, tuple[Shape, ...]]]:
    device = wishes.device or ("cuda" if torch.cuda.is_available() else "cpu")
    dtype, outlines = _outlines(wishes, device)
    options = Options(wishes.settings, wishes.form, wishes.chunk, wishes.schedule)
    known: set[str] = set()
    out = []
    for file in wishes.files:
        for recurrence in check(read_source(file), wishes.settings).recurrences:
            own = {n: h for n, h in wishes.heads_of.items() if n in recurrence.arguments}
            job = Job(file.resolve(), recurrence.name, device, dtype, options, own)
            out.append((job, _shapes(wishes, recurrence, outlines)))
            known |= {d.name for d in recurrence.dims} | {*recurrence.arguments}
    for name in (*wishes.sizes, *wishes.heads_of):
        if name not in known:
            raise click.UsageError(f"no scan has a dimension or an argument `{name}`")
    return out


def _outlines(wishes: Wishes, device: str) -> tuple[torch.dtype, tuple[Outline, ...]]:
    suite = wishes.suite or ("gpu" if device == "cuda" and not wishes.times else None)
    name, outlines = SUITES["gpu" if device == "cuda" else "cpu"]
    if suite is None:
        times = wishes.times or (4096,)
        outlines = tuple(Outline(wishes.batch, time, wishes.heads, SIZE) for time in times)
    else:
        name, outlines = SUITES[suite]
    dtype: torch.dtype = getattr(torch, wishes.dtype or name)
    return dtype, outlines


def _shapes(
    wishes: Wishes, recurrence: Recurrence, outlines: Sequence[Outline]
) -> tuple[Shape, ...]:
    return tuple(outline.shape(recurrence, wishes.sizes) for outline in outlines)


# ---------------------------------------------------------------- what is told


def _title(device: str, dtype: torch.dtype, wishes: Wishes, speed: Rates) -> str:
    threads = f", {wishes.threads} threads" if device == "cpu" else ""
    return (
        f"{device_name(device)}{threads}, {_name(dtype)}, torch {torch.__version__}; "
        f"copies {speed.copy / 1e9:.3g} GB/s, products {speed.matrix / 1e12:.3g} Tflop/s"
    )


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _write(
    wishes: Wishes,
    device: str,
    dtype: torch.dtype,
    speed: Rates,
    found: Sequence[Result | Comparison],
) -> None:
    """After every result, so that an interrupted run leaves what it has."""
    if wishes.json_file is None:
        return
    content = {
        **environment(),
        "device": device_name(device),
        "dtype": _name(dtype),
        "threads": wishes.threads,
        "copy_bytes_per_second": speed.copy,
        "matrix_operations_per_second": speed.matrix,
        "results": [x.plain() for x in found],
    }
    write_json(wishes.json_file, content)
