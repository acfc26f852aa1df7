"""Finds the best launches of a form: one kernel after the other, for each length of chunks.

In: a `Bench` and a form's `Site`.  Out: the best `Measured` and what became of each candidate.  A
candidate is tried only if its tiles fit the machine's shared memory, and timed only if its results
are right.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from scandsl.plan.launches import Config, Measured
from scandsl.render.form import Site, SiteKernel
from scandsl.testing.aot import Launch
from scandsl.tune.bench import Bench
from scandsl.tune.space import Space, configs, lengths

BETTER = 0.99
"""The part of the time by rule, or of the best, that another launch may take: less is noise."""

Fits = Callable[[Launch], str | None]
"""Why a launch does not fit the machine, or `None`."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One candidate: what was set of which kernel, and its time or why it has none."""

    kernel: str
    chunk: int | None
    config: Config
    milliseconds: float | None
    reason: str | None


@dataclass(frozen=True, slots=True)
class Found:
    """The best launches of a form, the time of those by rule and of these."""

    best: Measured
    rule: float
    tuned: float
    trials: tuple[Trial, ...]


def search(
    bench: Bench,
    site: Site,
    sizes: Mapping[str, int],
    space: Space,
    fits: Fits,
    tell: Callable[[Trial], None],
) -> Found | None:
    """The best launches of a form; `None` where it does not run at this shape."""
    with bench.lookups() as seen:
        bench.launches()
    table = id(getattr(bench.module, site.table))
    key = next((k for i, k in seen if i == table), None)
    if key is None:
        return None
    return _Search(bench, site, sizes, space, fits, tell, key).run()


class _Search:
    """The state of one search."""

    def __init__(
        self,
        bench: Bench,
        site: Site,
        sizes: Mapping[str, int],
        space: Space,
        fits: Fits,
        tell: Callable[[Trial], None],
        key: tuple[object, ...],
    ) -> None:
        self.bench, self.site, self.sizes, self.space = bench, site, sizes, space
        self.fits, self.tell, self.key = fits, tell, key
        self.trials: list[Trial] = []

    def run(self) -> Found:
        """All lengths of chunks."""
        wrong = self._set_fault(None, {})
        if wrong is not None:
            raise RuntimeError(f"by rule {wrong}")
        rule = best_time = self.bench.milliseconds()
        best: tuple[int | None, dict[str, Config]] = (None, {})
        known = {x.arguments.get("CHUNK") for x in self.bench.launches()} - {None}
        for chunk in lengths(self.site, self.space):
            if chunk in known:  # that is the length by rule
                continue
            time, found = self._chunk(chunk, rule)
            if time is not None and time < BETTER * best_time:
                best_time, best = time, (chunk, found)
        self.bench.set(self.site.table, self.key, *best)
        arch, dtype, *sizes = self.key
        kernels = {n: c for n, c in best[1].items() if c != Config()}
        entry = Measured(
            str(arch), self.site.structure, str(dtype), tuple(map(_whole, sizes)), best[0], kernels
        )
        return Found(entry, rule, best_time, tuple(self.trials))

    def _chunk(self, chunk: int | None, rule: float) -> tuple[float | None, dict[str, Config]]:
        """The best configurations for one length of chunks, one kernel after the other."""
        chosen: dict[str, Config] = {}
        time: float | None = rule
        if chunk is not None:
            time = self._try("", chunk, Config(), {})
        if time is None:
            return None, chosen
        self.bench.set(self.site.table, self.key, chunk, {})
        running = {x.function.__name__ for x in self.bench.launches()}
        for kernel in self.site.kernels:
            if not any(name.endswith(f"_{kernel.name}") for name in running):
                continue
            for config in configs(kernel, self.sizes, self.space):
                found = self._try(kernel.name, chunk, config, {**chosen, kernel.name: config})
                if found is not None and found < BETTER * time:
                    time, chosen = found, {**chosen, kernel.name: config}
        return time, chosen

    def _try(
        self, kernel: str, chunk: int | None, config: Config, launches: Mapping[str, Config]
    ) -> float | None:
        """The time of one candidate, if it fits, runs and is right."""
        time: float | None = None
        try:
            reason = self._room(kernel, chunk, launches) or self._set_fault(chunk, launches)
            if reason is None:
                time = self.bench.milliseconds()
        except Exception as error:  # of the compiler or of the launch: it is no candidate
            reason = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:100]}"
        trial = Trial(kernel, chunk, config, time, reason)
        self.trials.append(trial)
        self.tell(trial)
        return time

    def _room(self, kernel: str, chunk: int | None, launches: Mapping[str, Config]) -> str | None:
        """Why some launch that is new does not fit the machine."""
        self.bench.set(self.site.table, self.key, chunk, launches)
        for launch in self.bench.launches():
            name = launch.function.__name__
            if (not kernel or name.endswith(f"_{kernel}")) and (reason := self.fits(launch)):
                return reason
        return None

    def _set_fault(self, chunk: int | None, launches: Mapping[str, Config]) -> str | None:
        self.bench.set(self.site.table, self.key, chunk, launches)
        return self.bench.fault()


def _whole(x: object) -> int:
    assert isinstance(x, int)
    return x


__all__ = ["Found", "Site", "SiteKernel", "Trial", "search"]
