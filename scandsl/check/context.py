"""What the checker of one scan holds while it walks the step.

A `Context` is working state: the values built so far, what every name is bound to, the findings.
It is made for one pass over a scan and thrown away; nothing in it outlives `check_file`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TypeAlias

from scandsl.check import errors
from scandsl.check.builder import Builder, TooLarge
from scandsl.check.shapes import DimTable
from scandsl.diagnostics import Diagnostic, Findings, Note, Severity, Source, Span
from scandsl.ir.nodes import Const, Dims, Kind, Ref, Tensor
from scandsl.syntax import ast

# A value, or `None` where an error was reported: it suppresses everything that follows from it.
Typed: TypeAlias = Ref | None

# The number of expressions that may be evaluated when loops are unrolled and functions inlined.
MAX_WORK = 60_000


class Place(Enum):
    """Where an expression stands, which decides what it may use."""

    STEP = "the step"
    INIT = "an initial value"
    SCALAR = "the default of a scalar"


@dataclass(frozen=True, slots=True)
class StateDecl:
    """A declared state before its values are known."""

    name: str
    dims: Dims
    kind: Kind
    item: ast.Item


@dataclass(frozen=True, slots=True)
class OutputDecl:
    """A declared output; its kind is known when its value is."""

    name: str
    dims: Dims
    item: ast.Item


@dataclass(frozen=True, slots=True)
class Declared:
    """All declarations of a scan, wherever they stand; dimensions in declared order."""

    inputs: Mapping[str, Tensor]
    params: Mapping[str, Tensor]
    scalars: Mapping[str, ast.Item]
    states: Mapping[str, StateDecl]
    outputs: Mapping[str, OutputDecl]
    statics: Mapping[str, int]
    arguments: tuple[str, ...]
    spans: Mapping[str, Span]
    doubtful: frozenset[str]  # names that were declared twice

    def dims(self, name: str) -> Dims | None:
        """The declared dimensions of a tensor, state or output."""
        for table in (self.inputs, self.params, self.states, self.outputs):
            if name in table:
                return table[name].dims
        return None

    def role(self, name: str) -> str | None:
        """What a name was declared as."""
        tables: tuple[tuple[str, Mapping[str, object]], ...] = (
            ("input", self.inputs), ("param", self.params), ("scalar", self.scalars),
            ("state", self.states), ("output", self.outputs), ("static", self.statics),
        )  # fmt: skip
        return next((role for role, table in tables if name in table), None)


@dataclass(frozen=True, slots=True)
class StateView:
    """A state seen through its brackets, as `lag` and `window` take it apart.

    Entries are selected first, then dimensions renamed; `back` steps ago.
    """

    state: str
    selects: tuple[tuple[str, int], ...]
    renames: tuple[tuple[str, str], ...]
    back: int = 0


@dataclass(frozen=True, slots=True)
class Frame:
    """An inlined call: what parameters and dimensions of the function stand for."""

    function: str
    values: Mapping[str, Typed]
    views: Mapping[str, StateView]
    dims: Mapping[str, str]
    call: Span


@dataclass(frozen=True, slots=True)
class ForwardType:
    """Dimensions and kind of a local that a lag reads before the step assigns it."""

    dims: Dims
    kind: Kind


@dataclass(slots=True)
class Context:
    """The state of one pass over one scan."""

    source: Source
    declared: Declared
    dims: DimTable
    functions: Mapping[str, ast.Function]
    builder: Builder
    findings: Findings
    assigned: frozenset[str]  # names that the step assigns outside `every` blocks
    block_local: frozenset[str]  # names that it assigns inside such blocks only
    watched: frozenset[str]  # names that `grad` differentiates by
    written: Mapping[str, Dims]  # dimensions with which locals are assigned somewhere
    expected: Mapping[str, ForwardType] | None = None  # what forward lags may assume
    place: Place = Place.STEP
    env: dict[str, Typed] = field(default_factory=dict)
    local_dims: dict[str, Dims] = field(default_factory=dict)
    loops: dict[str, int] = field(default_factory=dict)
    frames: list[Frame] = field(default_factory=list)
    used: set[str] = field(default_factory=set)
    wanted: dict[str, Span] = field(default_factory=dict)  # names that a lag read ahead of time
    updated: set[str] = field(default_factory=set)
    ready_scalars: set[str] = field(default_factory=set)
    outputs: dict[str, Ref | None] = field(default_factory=dict)
    seen: set[tuple[Severity, int, int]] = field(default_factory=set)
    gave_up: bool = False  # an expression was nested too deeply
    lag_depth: int = 0
    depth: int = 0
    work: int = 0

    # ------------------------------------------------------------ findings

    def report(self, diagnostic: Diagnostic) -> None:
        """Keep a finding; one of each severity per place, so that unrolling repeats nothing."""
        key = (diagnostic.severity, diagnostic.span.start, diagnostic.span.end)
        if key in self.seen:
            return
        self.seen.add(key)
        if self.frames:
            frame = self.frames[-1]
            note = Note(f"in `{frame.function}`, called here", frame.call)
            diagnostic = replace(diagnostic, notes=(*diagnostic.notes, note))
        self.findings.add(diagnostic)

    def text(self, span: Span) -> str:
        """What the user wrote at a place, on one line and shortened."""
        return errors.excerpt(self.source.text, span)

    def spend(self) -> None:
        """Count one expression; stops a step that unrolls into too much."""
        self.work += 1
        if self.work > MAX_WORK:
            raise TooLarge

    # ------------------------------------------------------------ names

    @property
    def frame(self) -> Frame | None:
        """The function being inlined, if any."""
        return self.frames[-1] if self.frames else None

    @property
    def optimistic(self) -> bool:
        """Whether this pass only finds out the types of locals that lags read ahead of them."""
        return self.expected is None

    def numbers(self) -> dict[str, int | float]:
        """Names that stand for integers known here: static sizes and loop variables."""
        if self.frame is None:
            return {**self.declared.statics, **self.loops}
        out: dict[str, int | float] = {}
        for name, ref in self.frame.values.items():
            op = None if ref is None else self.builder.values[ref].op
            if isinstance(op, Const):
                out[name] = op.value
        return out

    def value_names(self) -> list[str]:
        """All names of values that could be meant here."""
        if self.frame is not None:
            return [*self.frame.values]
        names = [*self.declared.inputs, *self.declared.params, *self.declared.scalars]
        names += [*self.declared.states, *self.env, *self.loops]
        return list(dict.fromkeys(names))

    @contextmanager
    def inlined(self, frame: Frame) -> Iterator[None]:
        """Evaluate inside a function."""
        self.frames.append(frame)
        try:
            yield
        finally:
            self.frames.pop()

    @contextmanager
    def lagging(self) -> Iterator[None]:
        """Evaluate what a lag looks back at: it may name locals of this step ahead of time."""
        self.lag_depth += 1
        try:
            yield
        finally:
            self.lag_depth -= 1

    # ------------------------------------------------------------ dimensions

    def resolve_dim(self, identifier: ast.Identifier) -> str | None:
        """The dimension that a name in brackets means; reports it if there is none."""
        name = identifier.text
        base = name.rstrip("'")
        primes = name[len(base) :]
        if self.frame is not None:
            meant = self.frame.dims.get(base)
            if meant is None:
                self.report(errors.unknown_dim_in_function(self.frame.function, identifier))
                return None
            self.dims.register(meant + primes)
            return meant + primes
        if not self.dims.knows(name):
            self.report(errors.unknown_dim(identifier, self.known_dims(), self.role_of(base)))
            return None
        self.dims.register(name)
        return name

    def meant(self, name: str) -> str:
        """The dimension that a name means, in a function the one it was called with."""
        base = name.rstrip("'")
        meant = base if self.frame is None else self.frame.dims.get(base, base)
        return meant + name[len(base) :]

    def resolve_dims(self, identifiers: Iterable[ast.Identifier]) -> Dims | None:
        """Several dimensions, each of which may occur once."""
        out: list[str] = []
        good = True
        for identifier in identifiers:
            dim = self.resolve_dim(identifier)
            if dim is None:
                good = False
            elif dim in out:
                self.report(errors.dim_twice(identifier.span, identifier.text))
                good = False
            else:
                out.append(dim)
        return tuple(out) if good else None

    def known_dims(self) -> list[str]:
        """The dimensions of the scan without primes, in order."""
        return [d for d in self.dims.order if not d.endswith("'")]

    def role_of(self, name: str) -> str | None:
        """What a name that is no dimension is in this scan."""
        if name in self.loops:
            return "loop variable"
        return self.declared.role(name) or ("local" if name in self.env else None)
