"""The pipeline: the only place that composes the stages.

In: a source text and options.  Out: a `Compilation`, which keeps every intermediate value.
Does not read or write files.  Stages are imported when they are needed, so that checking and
formatting start without sympy and jinja2.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from scandsl.diagnostics import Diagnostic, ScanError, Source, Span

if TYPE_CHECKING:
    from scandsl.analysis.program import Program
    from scandsl.ir.nodes import Recurrence
    from scandsl.plan import Plan
    from scandsl.plan.launches import Table
    from scandsl.syntax.ast import File


class OptionError(ValueError):
    """An option asks for what a spec does not have."""


@dataclass(frozen=True, slots=True)
class Options:
    """What the caller may decide: values of statics, a form, chunk length or schedule to force.

    `launches` were measured (`scandsl tune`); they come before those that are shipped.
    """

    settings: Mapping[str, int] = field(default_factory=dict)
    form: str | None = None
    chunk: int | None = None
    schedule: str | None = None
    launches: Table | None = None


@dataclass(frozen=True, slots=True)
class Front:
    """What the front end finds in a file: its syntax, its recurrences, its warnings."""

    source: Source
    file: File
    recurrences: tuple[Recurrence, ...]
    warnings: tuple[Diagnostic, ...]


@dataclass(frozen=True, slots=True)
class Compilation:
    """A compiled file: every stage's product, the text of the module last."""

    front: Front
    plans: tuple[Plan, ...]
    module: str


def check(source: Source, settings: Mapping[str, int] | None = None) -> Front:
    """Parse and check: every error that a user can make is raised here, as `ScanError`."""
    from scandsl.check import check_file
    from scandsl.syntax.parse import recover

    read = recover(source)
    if not read.diagnostics:
        checked = check_file(read.file, source, settings or {})
        return Front(source, read.file, checked.recurrences, checked.warnings)
    found = list(read.diagnostics)
    try:  # what could be read may hold errors of its own: all are reported in one go
        check_file(read.file, source, settings or {}, read.lost)
    except ScanError as error:
        found += error.diagnostics
    raise ScanError(source, found)


@contextmanager
def _of_bounded_depth(front: Front) -> Iterator[None]:
    """Values made of values made of values ...: beyond what Python can follow it is the spec's."""
    try:
        yield
    except RecursionError:
        message = "a value of the step is made through too many others, one after the other"
        mend = "unroll less: a smaller static, or fewer turns of a loop"
        place = front.recurrences[0].span
        line = Span(place.start, max(front.source.text.find("\n", place.start), place.start + 1))
        raise ScanError(front.source, [Diagnostic(message, line, (mend,))]) from None


def analyse(source: Source, options: Options) -> tuple[Front, tuple[Program, ...]]:
    """The front end and the analysis."""
    from scandsl.analysis import analyse as analyse_recurrence

    front = check(source, options.settings)
    with _of_bounded_depth(front):
        return front, tuple(analyse_recurrence(r, options.form) for r in front.recurrences)


def plan(source: Source, options: Options) -> tuple[Front, tuple[Plan, ...]]:
    """The front end, the analysis and the plans: what `explain` shows."""
    from scandsl.plan import PlanError, make_plan
    from scandsl.plan.launches import Table, joined, shipped

    front, programs = analyse(source, options)
    table = joined(options.launches or Table(), shipped())
    try:
        with _of_bounded_depth(front):
            return front, tuple(
                make_plan(p, options.form, options.chunk, options.schedule, table) for p in programs
            )
    except PlanError as error:
        raise OptionError(f"{source.name}: {error}") from None


def compile_source(source: Source, options: Options) -> Compilation:
    """The whole pipeline, from text to the text of a Python module."""
    from scandsl.render import render_module

    front, plans = plan(source, options)
    with _of_bounded_depth(front):
        return Compilation(front, plans, render_module(plans, source))
