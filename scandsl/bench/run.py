"""Judges and times one scan at one shape.

In: a `Job`, a `Shape`, what to compare with.  Out: a `Result`.  All contenders take turns, so that
whatever else the machine does meets them alike.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from scandsl.bench.contenders import Job, Shape, contenders, is_own
from scandsl.bench.floor import needs
from scandsl.bench.machine import Rates
from scandsl.bench.worker import Counts, Trouble, Verdict, Worker

PATIENCE = 8000.0  # milliseconds that the timed calls of one contender in one mode may take


@dataclass(frozen=True, slots=True)
class Choice:
    """What to compare with and how often to time."""

    compiled: bool = False
    loop: bool = True
    repeats: int = 7
    threads: int = 1
    only: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Times:
    """Milliseconds: the median and the quartiles around it."""

    median: float
    low: float
    high: float
    all: tuple[float, ...]

    @classmethod
    def of(cls, values: Sequence[float]) -> Times:
        """Of at least one."""
        if len(values) == 1:
            return cls(values[0], values[0], values[0], tuple(values))
        low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(middle, low, high, tuple(values))


@dataclass(slots=True)
class Entry:
    """One contender at one shape; `trouble` is why it has no times."""

    name: str
    times: dict[str, Times] = field(default_factory=dict)
    verdicts: list[Verdict] = field(default_factory=list)
    counts: Counts | None = None
    trouble: str | None = None

    @property
    def wrong(self) -> bool:
        """Whether generated code failed or gave wrong numbers."""
        return is_own(self.name) and self.trouble is not None


@dataclass(frozen=True, slots=True)
class Result:
    """One scan at one shape."""

    scan: str
    form: str
    shape: Shape
    floor: Mapping[str, float]
    entries: tuple[Entry, ...]
    trouble: str | None = None

    @property
    def wrong(self) -> bool:
        """Whether something of ours failed."""
        return self.trouble is not None or any(e.wrong for e in self.entries)

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "scan": self.scan,
            "form": self.form,
            **asdict(self.shape),
            "floor": dict(self.floor),
            "trouble": self.trouble,
            "contenders": [asdict(e) for e in self.entries],
        }


Told = Callable[[str], None]


def measure(
    job: Job, shapes: Sequence[Shape], choice: Choice, rates: Rates, told: Told
) -> Iterator[Result]:
    """A result for each shape; processes live as long as their scan."""
    with _Team(job, choice) as team, tempfile.TemporaryDirectory() as folder:
        for shape in shapes:
            yield _one(team, shape, rates, told, Path(folder) / "truth.pt")


@dataclass(slots=True)
class _Team:
    """The processes of one scan, by contender; one more says what is true."""

    job: Job
    choice: Choice
    workers: dict[str, Worker] = field(default_factory=dict)

    def __enter__(self) -> _Team:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self.workers.values():
            worker.close()

    def __getitem__(self, name: str) -> Worker:
        if name not in self.workers:
            self.workers[name] = Worker(self.job, self.choice.threads)
        return self.workers[name]

    def drop(self, name: str) -> None:
        """Its next request gets a new process."""
        self.workers.pop(name).close()


def _one(team: _Team, shape: Shape, rates: Rates, told: Told, file: Path) -> Result:
    job, choice = team.job, team.choice
    plan = job.plan()
    item = job.dtype.itemsize
    found = needs(plan, shape.sizes, shape.rows, item)
    floor = {mode: x.milliseconds(rates) for mode, x in found.items()}
    told(f"{job.scan} {shape}: what is true")
    answer = team["truth"].ask("truth", shape, file)
    team.drop("truth")  # it holds much memory by now
    if isinstance(answer, Trouble):
        return Result(job.scan, plan.form.value, shape, floor, (), answer.text)
    names = contenders(job, shape, compiled=choice.compiled, loop=choice.loop)
    names = [n for n in names if not choice.only or n in choice.only]
    entries = tuple(Entry(name) for name in names)
    for entry in entries:
        told(f"{job.scan} {shape}: {entry.name}, results")
        _prepare(team, entry, shape, file)
    _time(
        [e for e in entries if e.trouble is None],
        team,
        lambda text: told(f"{job.scan} {shape}: {text}"),
    )
    return Result(job.scan, plan.form.value, shape, floor, entries)


def _prepare(team: _Team, entry: Entry, shape: Shape, file: Path) -> None:
    """Get ready and be judged; whoever is wrong is not timed."""
    with _troubled(team, entry) as ask:
        ask("prepare", shape, entry.name)
        entry.verdicts = ask("judge", file)
        worst = max(entry.verdicts, key=lambda v: v.error / v.bound)
        if not worst.ok:
            entry.trouble = (
                f"its {worst.tensor} is off by {worst.error:.1e}, allowed {worst.bound:.1e}"
            )


def _time(entries: Sequence[Entry], team: _Team, told: Told) -> None:
    """Rounds in which each contender makes one call of a mode."""
    modes: dict[str, list[str]] = {}
    for entry in entries:
        with _troubled(team, entry) as ask:
            modes[entry.name] = ask("modes")
    for mode in ("forward", "backward", "both", "decode"):
        able = [e for e in entries if e.trouble is None and mode in modes[e.name]]
        expected: dict[str, float] = {}
        laps: dict[str, list[float]] = {e.name: [] for e in able}
        for turn in range(team.choice.repeats + 1):
            told(f"{mode}, round {turn} of {team.choice.repeats}")
            for entry in able:
                if entry.trouble is not None or turn > _rounds(expected.get(entry.name, 0.0), team):
                    continue
                with _troubled(team, entry) as ask:
                    if turn == 0:
                        expected[entry.name] = ask("warm", mode)
                    else:
                        laps[entry.name].append(ask("time", mode, expected[entry.name]))
        for entry in able:
            if entry.trouble is None:
                entry.times[mode] = Times.of(laps[entry.name])
    for entry in entries:
        if entry.trouble is None:
            with _troubled(team, entry) as ask:
                entry.counts = ask("counts")


def _rounds(expected: float, team: _Team) -> int:
    """What takes seconds is timed less often, but at least twice."""
    return max(2, min(team.choice.repeats, int(PATIENCE / max(expected, 1.0))))


class _Stopped(Exception):
    """A contender could not meet a request."""


@contextmanager
def _troubled(team: _Team, entry: Entry) -> Iterator[Callable[..., Any]]:
    """Requests to a contender; trouble is written down, and its process replaced."""

    def ask(request: str, *arguments: Any) -> Any:
        answer = team[entry.name].ask(request, *arguments)
        if isinstance(answer, Trouble):
            entry.trouble = answer.text
            raise _Stopped
        return answer

    try:
        yield ask
    except _Stopped:
        team.drop(entry.name)
