"""Tries one spec in every way and says what is wrong with it.

In: the text of a spec and a `Trial`.  Out: a `Tried`, or one of three errors: the spec was refused,
something broke, or a number is wrong.  The judge of numbers is that of `scandsl test`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from scandsl.diagnostics import ScanError, Source, render_all
from scandsl.driver import Options, plan
from scandsl.ir.nodes import Normalize, Recurrence
from scandsl.loader import import_file, write_atomic
from scandsl.render import render_module
from scandsl.testing.compare import Bench, Run, backends, state_names
from tests.fuzz.specs import NO_STATE
from tests.fuzz.trials import CHUNK, Trial


class Refused(Exception):
    """A spec that is valid was refused."""


class Broken(Exception):
    """The compiler, or what it made, failed."""


class Wrong(Exception):
    """A value or gradient is wrong."""


class Untame(Exception):
    """No draw of data keeps the state bounded: the spec says nothing."""


@dataclass(frozen=True, slots=True)
class Tried:
    """What was tried: the structure classes and forms of a spec, and on which backends."""

    classes: tuple[str, ...]
    form: str
    backends: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Built:
    """A spec, compiled as planned and as a loop over tokens."""

    recurrence: Recurrence
    classes: tuple[str, ...]
    form: str
    planned: ModuleType
    sequential: ModuleType | None


def build(text: str, folder: Path) -> Built:
    """Compile a spec in both forms and import the modules from a folder."""
    source = Source("drawn.scan", text)
    try:
        front, plans = plan(source, Options(chunk=CHUNK))
    except ScanError as error:
        raise Refused(render_all(error.source, error.diagnostics)) from error
    program = plans[0].program
    classes = tuple(dict.fromkeys(c.transition.value for c in program.components)) or (NO_STATE,)
    planned = _module(render_module(plans, source), folder, "planned")
    form, loop = plans[0].form.value, None
    if form != "sequential":
        _, forced = plan(source, Options(form="sequential"))
        loop = _module(render_module(forced, source), folder, "sequential")
    return Built(front.recurrences[0], classes, form, planned, loop)


def _module(text: str, folder: Path, name: str) -> ModuleType:
    file = folder / f"{name}.py"
    write_atomic(file, text)
    return import_file(file, f"fuzzed_{folder.name}_{name}")


def judge(text: str, trial: Trial) -> Tried:
    """Compile a spec, run it in every way, and raise what is wrong."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            built = build(text, Path(folder))
        except Refused:
            raise
        except Exception as error:
            raise Broken(f"compiling: {type(error).__name__}: {error}") from error
        used = set()
        try:
            for run in _runs(built, trial):
                used.add(run.backend)
                if run.failure is not None:
                    raise Broken(f"{run.case}, {run.backend}, {run.dtype}: {run.failure}")
                bad = [v for v in run.verdicts if not v.ok]
                if bad:
                    words = "; ".join(
                        f"{v.role.value} `{v.tensor}` off by {v.error:.1e}, allowed {v.bound:.0e}"
                        for v in bad
                    )
                    raise Wrong(f"{run.case}, {run.backend}, {run.dtype}: {words}")
        except (Broken, Wrong):
            raise
        except Exception as error:
            if "keeps the state bounded" in str(error):
                raise Untame from error
            raise Broken(f"judging: {type(error).__name__}: {error}") from error
        return Tried(built.classes, built.form, tuple(sorted(used)))


def _runs(built: Built, trial: Trial) -> Iterator[Run]:
    """All runs of a spec: whole, in two parts, packed, as a loop, decoding, and on Triton."""
    recurrence, module = built.recurrence, built.planned
    plain, packed = trial.plain(recurrence), trial.packs(recurrence)
    bench = Bench.prepare(recurrence, plain, torch.float64, trial.seed, "cpu")
    for backend in ("torch", "reference", "step"):
        yield bench.judged(module, plain, backend)
    if trial.split:
        yield bench.judged(in_two(recurrence, module, trial.split), plain, "torch")
    bench = Bench.prepare(recurrence, packed, torch.float64, trial.seed, "cpu")
    yield bench.judged(module, packed, "torch")
    if built.sequential is not None:
        yield bench.judged(built.sequential, packed, "torch")
    if trial.triton and "triton" in backends(module, recurrence.name):
        small = _for_interpreter(built, trial).packs(recurrence)
        bench = Bench.prepare(recurrence, small, torch.float32, trial.seed, "cpu")
        yield bench.judged(module, small, "triton")


def _for_interpreter(built: Built, trial: Trial) -> Trial:
    """Two sequences, two heads: the interpreter takes each of its programs by itself.

    What a normalised vector of one entry hands back, or a centred one of two, is the difference of
    two numbers that are nearly the same: in float32 rounding alone, by any formula.  Such a vector
    gets one entry more.
    """
    longest = sorted(range(len(trial.packed)), key=lambda i: -trial.packed[i])[:2]
    packed = tuple(trial.packed[i] for i in sorted(longest))
    kinds = {v.op.fn for v in built.recurrence.values if isinstance(v.op, Normalize)}
    least = 3 if "layernorm" in kinds else 2 if kinds else 1
    sizes = tuple(max(size, least) for size in trial.sizes)
    heads = tuple(min(h, 2) for h in trial.heads)
    return replace(trial, packed=packed, heads=heads, sizes=sizes)


def in_two(recurrence: Recurrence, module: ModuleType, at: int) -> ModuleType:
    """A module whose function takes a sequence in two calls, handing on the state."""
    name = recurrence.name
    whole = getattr(module, name)
    inputs = {x.name for x in recurrence.inputs}
    stateful = bool(state_names(recurrence))

    def part(given: tuple[torch.Tensor, ...], piece: slice) -> list[torch.Tensor]:
        named = zip(recurrence.arguments, given, strict=True)
        return [x[:, piece] if n in inputs else x for n, x in named]

    def function(
        *given: torch.Tensor, initial_state: Any = None, **options: Any
    ) -> tuple[Any, ...]:
        *first, middle = whole(*part(given, slice(at)), initial_state=initial_state, **options)
        start = middle if stateful else None
        *second, end = whole(*part(given, slice(at, None)), initial_state=start, **options)
        joined = [torch.cat(pair, 1) for pair in zip(first, second, strict=True)]
        return (*joined, end)

    made = ModuleType(f"{module.__name__}_in_two")
    setattr(made, name, function)
    setattr(made, f"{name}_step", getattr(module, f"{name}_step"))
    return made
