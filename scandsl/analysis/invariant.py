"""Time-invariant systems: components whose step is linear with coefficients that are constant.

In: a recurrence and one component of it.  Out: a `System`: the values that drive it, the fewest
numbers per token of which the new state is a linear function beside the old one, and which values
are linear in the two; or a `Fault`, why there is none.  One rule per operation, as in `linear`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from scandsl.analysis.cut import cheapest
from scandsl.analysis.handed import Sizes
from scandsl.analysis.program import Component
from scandsl.analysis.show import show
from scandsl.ir.nodes import (
    Binary,
    Cast,
    Const,
    Contract,
    Expand,
    Insert,
    Kind,
    Lag,
    LagState,
    MakeComplex,
    Op,
    Prev,
    Recurrence,
    Reduce,
    Ref,
    Rename,
    Select,
    Stack,
    Unary,
    Value,
    memories,
    operands,
)


class Linear(IntEnum):
    """How a value depends on the old state and on what drives it."""

    CONSTANT = 0
    LINEAR = 1
    REAL_LINEAR = 2  # with real coefficients only: it holds the real part of something complex
    OTHER = 3


@dataclass(frozen=True, slots=True)
class System:
    """`drives` are the values `u` of `s' = A s + B u`; `linear` tells of all values of the step."""

    drives: tuple[Ref, ...]
    linear: tuple[Linear, ...]


@dataclass(frozen=True, slots=True)
class SystemFault:
    """Why a component is no time-invariant system, and the value that is the reason."""

    reason: str
    culprit: Ref | None = None


def system_of(recurrence: Recurrence, component: Component) -> System | SystemFault:
    """The component as a time-invariant system."""
    return _Finder(recurrence, component).run()


class _Finder:
    def __init__(self, recurrence: Recurrence, component: Component) -> None:
        self.recurrence = recurrence
        self.values = recurrence.values
        self.states = [s for s in recurrence.states if s.name in component.states]
        names = set(component.states)
        kept = [m for m in memories(recurrence) if m.name in component.memories]
        self.targets = {m.value for m in kept if m.value is not None}
        self.own = {r for r, v in enumerate(self.values) if self._is_own(v.op, names)}
        self.roots = [s.next for s in self.states] + sorted(self.targets)
        self.kinds = {s.kind for s in self.states} | {m.kind for m in kept}
        self.sizes = Sizes(recurrence)
        self.varying = [Linear.LINEAR if v.varies else Linear.CONSTANT for v in self.values]
        self.looks = self._looking()

    def _is_own(self, op: Op, names: set[str]) -> bool:
        match op:
            case Prev(state) | LagState(state, _):
                return state in names
            case Lag(x, _):
                return x in self.targets
            case _:
                return False

    def _looking(self) -> list[bool]:
        """Whether a value is made of the component's own past."""
        out: list[bool] = []
        for ref, value in enumerate(self.values):
            inner = () if isinstance(value.op, Lag | LagState) else operands(value.op)
            out.append(ref in self.own or any(out[r] for r in inner))
        return out

    def run(self) -> System | SystemFault:
        """The system, or why there is none."""
        if len(self.kinds) != 1 or self.kinds - {Kind.REAL, Kind.COMPLEX}:
            return SystemFault("its states are not all real, or all complex")
        found = self._classes(None)
        for root in self.roots:
            culprit = self._culprit(root, found)
            if culprit is not None:
                text = show(self.values, culprit)
                return SystemFault(f"`{text}` is not linear with constant coefficients", culprit)
        drives = self._drives(found)
        if drives is None:
            return SystemFault("no vector of reals per token drives it")
        return System(drives, tuple(self._classes(frozenset(drives))))

    def _classes(self, drives: frozenset[Ref] | None) -> list[Linear]:
        """Of every value; with `None` all that does not look at the state counts as a drive."""
        out: list[Linear] = []
        for ref, value in enumerate(self.values):
            if not value.varies:
                out.append(Linear.CONSTANT)
            elif ref in self.own or (not self.looks[ref] if drives is None else ref in drives):
                out.append(Linear.LINEAR)
            else:
                out.append(_linear(self.values, value, out))
        return out

    def _culprit(self, root: Ref, found: Sequence[Linear]) -> Ref | None:
        """The first value on the way to a new state that is not linear."""
        complex_ = Kind.COMPLEX in self.kinds
        worst = Linear.LINEAR if complex_ else Linear.REAL_LINEAR
        if found[root] <= worst:
            return None
        ref = root
        while True:
            inner = () if isinstance(self.values[ref].op, Lag) else operands(self.values[ref].op)
            worse = [r for r in inner if self.looks[r] and found[r] > worst]
            if not worse:
                return ref
            ref = worse[0]

    # ------------------------------------------------------------ what drives it

    def _drives(self, found: Sequence[Linear]) -> tuple[Ref, ...] | None:
        """The cheapest values that do not look at the state and determine what is added to it."""
        path = self._path()
        ends = {
            r
            for p in path
            for r in operands(self.values[p].op)
            if self.values[r].varies and not self.looks[r] and p not in self.own
        }
        ends |= {r for r in self.roots if not self.looks[r]}
        uses: dict[Ref, list[Ref]] = {}
        sources: set[Ref] = set()
        stack = list(ends)
        while stack:
            ref = stack.pop()
            if ref in uses:
                continue
            inner = self._opened(ref)
            uses[ref] = inner
            if not inner:
                sources.add(ref)
            stack += inner
        return cheapest(uses, {r: self.sizes.of(r) for r in uses}, sources, ends)

    def _path(self) -> set[Ref]:
        """The values between the old state and the new one."""
        seen: set[Ref] = set()
        stack = [r for r in self.roots if self.looks[r]]
        while stack:
            ref = stack.pop()
            if ref not in seen:
                seen.add(ref)
                if ref not in self.own:
                    stack += [r for r in operands(self.values[ref].op) if self.looks[r]]
        return seen

    def _opened(self, ref: Ref) -> list[Ref]:
        """The varying values that one outside of the system is a linear function of; else none."""
        op = self.values[ref].op
        if isinstance(op, Lag | LagState | Prev):
            return []
        inner = [r for r in operands(op) if self.values[r].varies]
        return inner if inner and _linear(self.values, self.values[ref], self.varying) <= 2 else []


def _linear(values: Sequence[Value], value: Value, known: Sequence[Linear]) -> Linear:
    """The class of a value that varies, by the classes of its operands."""
    op = value.op
    if isinstance(op, Lag | LagState | Prev) or not operands(op):
        return Linear.OTHER
    inner = [known[r] for r in operands(op)]
    worst = max(inner)
    match op:
        case Unary("neg"):
            return worst
        case Unary("re" | "im" | "conj", x):
            real = values[x].kind is not Kind.COMPLEX
            return worst if real else max(worst, Linear.REAL_LINEAR)
        case Binary("add" | "sub", a, b):
            constant = Linear.CONSTANT in inner  # an affine constant is nothing that drives it
            return Linear.OTHER if constant and not _both(known, a, b) else worst
        case Binary("mul") | Contract():
            return worst if Linear.CONSTANT in inner else Linear.OTHER
        case Binary("div", _, b):
            return worst if known[b] is Linear.CONSTANT else Linear.OTHER
        case Cast(x):
            return worst if values[x].kind in (Kind.REAL, Kind.COMPLEX) else Linear.OTHER
        case Reduce("sum" | "mean") | Rename() | Select() | Expand():
            return worst
        case MakeComplex() | Stack() | Insert():
            fixed = [r for r in operands(op) if known[r] is Linear.CONSTANT]
            return worst if all(_is_zero(values, r) for r in fixed) else Linear.OTHER
        case _:
            return Linear.OTHER


def _is_zero(values: Sequence[Value], ref: Ref) -> bool:
    match values[ref].op:
        case Const(value):
            return value == 0
        case Cast(x) | Expand(x):
            return _is_zero(values, x)
        case _:
            return False


def _both(known: Sequence[Linear], a: Ref, b: Ref) -> bool:
    return known[a] is not Linear.CONSTANT and known[b] is not Linear.CONSTANT
