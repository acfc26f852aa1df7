"""One numbered spec: drawn, tried, and made as small as can be if something is wrong with it.

In: a number.  Out: a `Record`.  Under one version of hypothesis a number is always the same spec.
"""

from __future__ import annotations

import gc
import signal
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from hypothesis import HealthCheck, Phase, assume, given, seed, settings
from hypothesis.errors import Unsatisfiable

from tests.fuzz.judge import Broken, Refused, Tried, Untame, Wrong, judge
from tests.fuzz.reduce import reduced
from tests.fuzz.specs import TURNS, specs
from tests.fuzz.trials import Trial, trials

TRITON = (0, 3)  # of seven in a row, so that every turn gets to it
SHRINKING = 45.0  # seconds that a fault may take to be made small, each time
FAULTS = (Refused, Broken, Wrong)


class Enough(BaseException):
    """The time for making a fault small is over; hypothesis lets this through."""


@dataclass(frozen=True, slots=True)
class Record:
    """What became of one spec; `fault` is empty if nothing is wrong with it."""

    number: int
    seconds: float
    classes: tuple[str, ...] = ()
    form: str = ""
    backends: tuple[str, ...] = ()
    fault: str = ""
    message: str = ""
    text: str = ""
    trial: str = ""


def alone() -> None:
    """Make this process ready to try specs beside others."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that hands out work
    gc.freeze()  # what was imported stays; looking through it took a third of the time
    gc.set_threshold(20_000, 20, 100)
    warnings.simplefilter("ignore")  # numpy in Triton's interpreter, sums of unlike dimensions


def hunt(
    number: int,
    judged: Callable[[str, Trial], Tried] = judge,
    shrink: bool = True,
    triton: bool | None = None,
) -> Record:
    """Try the spec of this number; its first step is meant to have the class whose turn it is.

    Two in seven are tried on Triton, unless `triton` says it of this one.
    """
    begun = time.monotonic()
    calls: list[tuple[str, Trial]] = []
    found: list[Tried] = []
    bad: dict[tuple[str, Trial], Exception] = {}
    end = 0.0

    def once(text: str, trial: Trial) -> None:
        nonlocal end
        calls.append((text, trial))
        assume(len(calls) > 1)  # hypothesis begins with the simplest of all specs, every time
        if (text, trial) in bad:
            raise bad[text, trial]
        if bad and time.monotonic() > end:
            raise Enough
        try:
            found.append(judged(text, trial))
        except Untame:
            assume(False)
        except FAULTS as fault:
            end = end or time.monotonic() + SHRINKING
            bad[text, trial] = fault
            raise

    if triton is None:
        triton = number % 7 in TRITON
    phases = [Phase.generate, Phase.shrink] if shrink else [Phase.generate]
    quiet = settings(
        max_examples=1,
        deadline=None,
        database=None,
        phases=phases,
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
    )
    drawn = given(specs(TURNS[number % len(TURNS)]), trials(triton))
    record = Record(number, 0.0)
    try:
        seed(number)(quiet(drawn(once)))()
    except Unsatisfiable:
        return replace(record, seconds=time.monotonic() - begun)
    except (*FAULTS, Enough):
        (text, trial), fault = min(bad.items(), key=_size)
        text = _smallest(text, trial, fault, judged) if shrink else text
        record = replace(record, fault=type(fault).__name__, message=str(fault))
        record = replace(record, text=text, trial=trial.line())
    if found:
        first = found[0]
        record = replace(record, classes=first.classes, form=first.form, backends=first.backends)
    return replace(record, seconds=time.monotonic() - begun)


def _smallest(
    text: str, trial: Trial, fault: Exception, judged: Callable[[str, Trial], Tried]
) -> str:
    """The text without what the fault, in the same run of the same kind, can do without."""
    end = time.monotonic() + SHRINKING

    def same(smaller: str) -> bool:
        if time.monotonic() > end:
            return False
        try:
            judged(smaller, trial)
        except type(fault) as other:
            return str(other).split(":")[0] == str(fault).split(":")[0]
        except (*FAULTS, Untame):
            return False
        return False

    return reduced(text, same)


def _size(item: tuple[tuple[str, Trial], Exception]) -> tuple[int, int]:
    (text, trial), _ = item
    return len(text), sum(trial.sizes) + trial.length + sum(trial.packed)


def draw(number: int) -> tuple[str, Trial]:
    """The spec of a number as it was drawn, and how it is tried; nothing is compiled."""
    calls: list[tuple[str, Trial]] = []

    def keep(text: str, trial: Trial) -> Tried:
        calls.append((text, trial))
        return Tried((), "", ())

    hunt(number, keep)
    return calls[0]
