"""What `scandsl tune` does: reads its wishes, shows progress, writes the file.

In: `Wishes`.  Out: text on the terminal; a file of measured launches, written anew after each form,
in which what was measured earlier for other forms, types and sizes stays.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from scandsl.bench.files import write_json
from scandsl.bench.inputs import all_sizes
from scandsl.bench.machine import device_name, environment
from scandsl.diagnostics import Source
from scandsl.driver import OptionError, Options, compile_source
from scandsl.ir.nodes import Recurrence
from scandsl.loader import cached_module, import_file, read_launches, read_source
from scandsl.plan import Plan
from scandsl.plan.launches import FORMAT, Measured, Table, as_data, described, joined
from scandsl.render.form import Site
from scandsl.render.module import sites_of
from scandsl.testing.aot import Launch, misfit
from scandsl.testing.interpreter import interpreting, mend
from scandsl.tune.bench import Bench, Shape
from scandsl.tune.search import Found, Trial, search
from scandsl.tune.space import DRY, FULL, Space, count, lengths

_DRY_SHAPE = Shape(1, 40, 1, judged=40, rounds=1)
_DRY_SIZES = (32,)


@dataclass(frozen=True, slots=True)
class Wishes:
    """The options of the command line; no sizes are those that models have most."""

    files: tuple[Path, ...]
    settings: Mapping[str, int]
    out: Path
    target: str | None
    dry: bool
    batch: int
    time: int
    heads: int
    sizes: tuple[int, ...]
    dtypes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Machine:
    """Where it is measured: torch's device, how long, and what fits."""

    device: str
    shape: Shape
    space: Space
    fits: Callable[[Launch], str | None]


@dataclass(frozen=True, slots=True)
class _Task:
    """One form of one scan at one type and size."""

    recurrence: Recurrence
    source: Source
    file: Path
    site: Site
    sizes: Mapping[str, int]
    dtype: torch.dtype

    @property
    def title(self) -> str:
        """What is shown of it."""
        sizes = " ".join(f"{n}={s}" for n, s in self.sizes.items())
        return f"{self.recurrence.name}, {str(self.dtype).removeprefix('torch.')}, {sizes}"


def session(wishes: Wishes) -> None:
    """Do all of it."""
    machine = _machine(wishes)
    known = read_launches(wishes.out) if wishes.out.exists() else Table()
    plain = known.entries
    console = Console()
    if wishes.dry:
        console.print("dry: under Triton's interpreter, whose times mean nothing")
    times = _times(wishes.out)
    tasks = list(_tasks(wishes))
    if not tasks:
        console.print("nothing to measure: no kernels in these scans")
    with _progress() as progress:
        for task in tasks:
            found = _tuned(task, wishes, machine, progress)
            if found is None:
                continue
            plain = joined(Table((found.best,)), Table(plain)).entries
            times[found.best.key] = {"rule": round(found.rule, 4), "tuned": round(found.tuned, 4)}
            _write(wishes.out, plain, times, machine.device)
            progress.console.print(_summary(task, found), soft_wrap=True, highlight=False)
    if plain:
        console.print(f"{wishes.out}; next: scandsl compile --tuned {wishes.out}", soft_wrap=True)


# ---------------------------------------------------------------- machine and tasks


def _machine(wishes: Wishes) -> _Machine:
    """Where it is measured; `OptionError` where that cannot be."""
    if wishes.dry:
        if wishes.target is not None:
            raise OptionError("--dry runs under an interpreter, for which there is no --target")
        os.environ.setdefault("TRITON_INTERPRET", "1")
        if not interpreting():
            raise OptionError("--dry needs Triton's interpreter, which TRITON_INTERPRET=0 forbids")
        return _Machine("cpu", _DRY_SHAPE, DRY, lambda launch: None)
    if not torch.cuda.is_available():
        raise OptionError(
            "launches are measured on a GPU, and torch finds none here; --dry goes through all of "
            "it on the CPU, under Triton's interpreter"
        )
    if interpreting():
        raise OptionError("launches are measured on a GPU, which TRITON_INTERPRET=1 prevents")
    here = _architecture()
    if wishes.target not in (None, here):
        raise OptionError(f"the GPU here is {here}, not {wishes.target}")
    shape = Shape(wishes.batch, wishes.time, wishes.heads)
    return _Machine("cuda", shape, FULL, partial(misfit, target=here))


def _architecture() -> str:
    """The present GPU as targets are written."""
    if torch.version.hip:
        return str(torch.cuda.get_device_properties(0).gcnArchName).split(":")[0]
    return "sm_{}{}".format(*torch.cuda.get_device_capability())


def _tasks(wishes: Wishes) -> Iterator[_Task]:
    options = Options(wishes.settings, launches=Table(open=True))
    for file in wishes.files:
        source = read_source(file)
        for plan in compile_source(source, options).plans:
            yield from _of_plan(wishes, plan, source, file)


def _of_plan(wishes: Wishes, plan: Plan, source: Source, file: Path) -> Iterator[_Task]:
    recurrence = plan.program.recurrence
    free = [d.name for d in recurrence.dims if d.size is None and d.base is None]
    sites = sites_of(plan, source)
    for size in _DRY_SIZES if wishes.dry else wishes.sizes:
        for dtype in wishes.dtypes:
            for site in sites:
                sizes = dict.fromkeys(free, size)
                yield _Task(recurrence, source, file, site, sizes, getattr(torch, dtype))


# ---------------------------------------------------------------- measuring


def _progress() -> Progress:
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
    )  # fmt: skip
    return Progress(*columns, console=Console(stderr=True), transient=True)


def _tuned(task: _Task, wishes: Wishes, machine: _Machine, progress: Progress) -> Found | None:
    """The best launches of a form, with a bar that moves."""
    options = Options(wishes.settings, launches=Table(open=True))
    file = cached_module(task.file, options)
    module = import_file(file, f"scandsl_cache.{file.stem}")
    if interpreting():
        mend(module)
    sizes = all_sizes(task.recurrence, task.sizes)
    chunks = len(lengths(task.site, machine.space))
    total = chunks * count(task.site, sizes, machine.space) + chunks - 1
    bar = progress.add_task(task.title, total=total)

    def tell(trial: Trial) -> None:
        words = trial.reason or f"{trial.milliseconds:.3g} ms"
        progress.update(bar, advance=1, description=f"{task.title}: {trial.kernel} {words}"[:70])

    try:
        bench = Bench(
            task.recurrence, module, task.sizes, machine.shape, task.dtype, machine.device
        )
        return search(bench, task.site, sizes, machine.space, machine.fits, tell)
    finally:
        progress.remove_task(bar)


def _summary(task: _Task, found: Found) -> str:
    """What was found of one form, in words."""
    best = found.best
    words = [] if best.chunk is None else [f"chunks of {best.chunk}"]
    for name, config in sorted(best.kernels.items()):
        words.append(f"{name} {described(config)}")
    refused = Counter(_kind(t.reason) for t in found.trials if t.reason)
    tried = ", ".join([f"{len(found.trials)} tried", *(f"{n} {why}" for why, n in refused.items())])
    return (
        f"{task.title} on {best.arch}: {found.rule:.3g} ms by rule, {found.tuned:.3g} ms with "
        f"{'; '.join(words) or 'the same'} ({tried})"
    )


def _kind(reason: str | None) -> str:
    words = {"shared memory": "do not fit", "wrong": "wrong"}
    return next((kind for word, kind in words.items() if word in (reason or "")), "failed")


# ---------------------------------------------------------------- the file


def _times(file: Path) -> dict[tuple[object, ...], Any]:
    """The times that stand in a file, by entry."""
    if not file.exists():
        return {}
    found = json.loads(file.read_text(encoding="utf-8"))["launches"]
    pairs = zip(read_launches(file).entries, found, strict=True)
    return {e.key: x["milliseconds"] for e, x in pairs if "milliseconds" in x}


def _write(
    file: Path,
    entries: Sequence[Measured],
    times: Mapping[tuple[object, ...], Any],
    device: str,
) -> None:
    launches = []
    for entry in sorted(entries, key=lambda x: (x.arch, x.structure, x.dtype, x.sizes)):
        more = {"milliseconds": times[entry.key]} if entry.key in times else {}
        launches.append({**as_data(entry), **more})
    made = {**environment(), "device": device_name(device)}
    write_json(file, {"format": FORMAT, "made": made, "launches": launches})


__all__ = ["Wishes", "session"]
