"""Derives the chunk program of a recurrence whose matrix states decay by scalars.

In: a `Program` whose components all have the chunk form.  Out: the forward `ChunkProgram`; its
backward is derived from it by `scandsl.kernels.backward`.

Let `a_i` be the logarithm of all that step `i` multiplies the state by, and let a write `b_j x_j`
be followed in its own step by decays `after_j`, a read be preceded in its step by decays
`before_i`. Then, with the state `S_0` at the start of the chunk (design: "canonical events"),

    r_i = exp(before_i + Σ_{m<i} a_m) (q_i · S_0)
        + Σ_{j<i} exp(before_i + Σ_{j<m<i} a_m + after_j) (q_i · b_j) x_j
        + the writes that come before the read in step i itself,
    S_C = exp(Σ a_m) S_0 + Σ_j exp(after_j + Σ_{m>j} a_m) b_j x_j.

Every exponent is a sum of logarithms running outward from `j`, never a difference of two sums.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from scandsl.analysis.program import Decay, Event, Program, Read, Write
from scandsl.diagnostics import InternalError
from scandsl.ir.builder import Builder
from scandsl.ir.nodes import (
    Cast,
    Dim,
    Every,
    Input,
    Kind,
    Recurrence,
    Ref,
    Row,
    Time,
    operands,
)
from scandsl.ir.rewrite import with_operands
from scandsl.kernels.program import COLUMN, POSITION, ROW, Carry, ChunkProgram, Store
from scandsl.kernels.simplify import simplify


def chunk_program(program: Program) -> ChunkProgram:
    """The forward chunk program of a recurrence."""
    return _Lifter(program).run()


@dataclass(frozen=True, slots=True)
class _Term:
    """A write of the chunk: vectors per row, and the decays of its step on either side of it."""

    place: int
    b: Ref | None
    x: Ref
    after: Ref | None


class _Lifter:
    """Carries the step's values over to rows, reads being replaced by the chunk formula."""

    def __init__(self, program: Program) -> None:
        self.recurrence: Recurrence = program.recurrence
        self.states = {s.name: s for s in self.recurrence.states}
        self.events: dict[str, list[Event]] = {s: [] for s in self.states}
        for component in program.components:
            for event in component.events:
                self.events[event.state].append(event)
        self.reads = {
            event.result: event
            for events in self.events.values()
            for event in events
            if isinstance(event, Read)
        }
        self.b = Builder((Dim(ROW), Dim(COLUMN, base=ROW), *self.recurrence.dims))
        self.lifted: dict[Ref, Ref] = {}
        self.row = self.b.emit(Row(ROW), (ROW,), Kind.BOOL)

    def run(self) -> ChunkProgram:
        carries = []
        stores = [
            Store(o.name, o.dims, o.kind, self.rows(self.lift(o.value), o.dims))
            for o in self.recurrence.outputs
        ]
        for state in self.recurrence.states:
            carries.append(Carry(state.name, state.dims, state.kind, self.final(state.name)))
        return simplify(
            ChunkProgram(
                dims=tuple(self.b.dims),
                values=tuple(self.b.values),
                carries=tuple(carries),
                stores=tuple(stores),
                saved=(),
                reverse=False,
            )
        )

    def rows(self, x: Ref, dims: Sequence[str]) -> Ref:
        """`x` with a row for every token and all of `dims`."""
        return self.b.expand(x, (ROW, *dims))

    # ------------------------------------------------------------ values of the step

    def lift(self, ref: Ref) -> Ref:
        """The value `ref` of the step, for all rows of the chunk."""
        pending = [ref]
        while pending:
            top = pending[-1]
            if top in self.lifted:
                pending.pop()
                continue
            needed = [r for r in self._needs(top) if r not in self.lifted]
            if needed:
                pending.extend(needed)
                continue
            pending.pop()
            self.lifted[top] = self._lift_one(top)
        return self.lifted[ref]

    def _needs(self, ref: Ref) -> tuple[Ref, ...]:
        if ref not in self.reads:
            return operands(self.recurrence.values[ref].op)
        read = self.reads[ref]
        out: list[Ref] = [] if read.q is None else [read.q]
        for event in self.events[read.state]:
            match event:
                case Decay():
                    out.append(_log_of(event))
                case Write(_, b, x):
                    out.extend(r for r in (b, x) if r is not None)
                case _:
                    pass
        return tuple(out)

    def _lift_one(self, ref: Ref) -> Ref:
        if ref in self.reads:
            return self._read(self.reads[ref])
        value = self.recurrence.values[ref]
        b = self.b
        match value.op:
            case Input(name):
                lifted = b.emit(Input(name), (ROW, *value.dims), value.kind)
            case Time():
                lifted = b.load(POSITION, (ROW,), Kind.INT)
            case Every(period):
                at = b.load(POSITION, (ROW,), Kind.INT)
                rest = b.binary("mod", at, b.const(period, Kind.INT))
                lifted = b.binary("eq", rest, b.const(0, Kind.INT))
            case _:
                op = with_operands(value.op, [self.lifted[r] for r in operands(value.op)])
                dims = set(value.dims)
                if any(ROW in b.dims_of(r) for r in operands(op)):
                    dims.add(ROW)
                lifted = b.emit(op, dims, value.kind)
        if value.name and b.values[lifted].name is None:
            b.values[lifted] = replace(b.values[lifted], name=value.name)
        return lifted

    # ------------------------------------------------------------ decays

    def _sum_logs(self, events: Sequence[Event]) -> Ref | None:
        """Sum of the logs of the decays among events, per row; `None` if there are none."""
        total: Ref | None = None
        for event in events:
            if isinstance(event, Decay):
                log = self.lift(_log_of(event))
                total = log if total is None else self.b.add(total, log)
        return None if total is None else self.rows(total, ())

    def _step_log(self, state: str) -> Ref | None:
        """`a_i`: zero in rows without token, where nothing decays."""
        total = self._sum_logs(self.events[state])
        return None if total is None else self.b.where(self.row, total, self.b.const(0.0))

    def _terms(self, state: str) -> list[_Term]:
        events = self.events[state]
        out = []
        for place, event in enumerate(events):
            if isinstance(event, Write):
                vector = None if event.b is None else self.rows(self.lift(event.b), ())
                value = self.rows(self.lift(event.x), ())
                out.append(_Term(place, vector, value, self._sum_logs(events[place + 1 :])))
        return out

    def _column(self, x: Ref) -> Ref:
        return self.b.rename(x, [(ROW, COLUMN)])

    def _lower(self, fn: str) -> Ref:
        b = self.b
        assert fn in ("ge", "gt")
        return b.binary("ge" if fn == "ge" else "gt", b.iota(ROW), b.iota(COLUMN))

    def _plus(self, *logs: Ref | None) -> Ref | None:
        total: Ref | None = None
        for log in logs:
            if log is not None:
                total = log if total is None else self.b.add(total, log)
        return total

    def _scaled(self, x: Ref, log: Ref | None) -> Ref:
        return x if log is None else self.b.mul(x, self.b.exp(log))

    # ------------------------------------------------------------ reads

    def _read(self, read: Read) -> Ref:
        b = self.b
        events = self.events[read.state]
        place = next(i for i, e in enumerate(events) if e is read)
        state = self.states[read.state]
        q = None if read.q is None else self.rows(self.lift(read.q), ())
        carried = b.load(read.state, state.dims, state.kind)
        total = carried if q is None else b.contract(q, carried, read.over)
        total = self._scaled(total, self._since_start(read.state, events[:place]))
        for term in self._terms(read.state):
            total = b.add(total, self._of_write(read, place, q, term))
        return total

    def _since_start(self, state: str, before: Sequence[Event]) -> Ref | None:
        """`before_i + Σ_{m<i} a_m`."""
        step = self._step_log(state)
        if step is None:
            return None
        if _decays(before) == _decays(self.events[state]):
            return self.b.cumsum(step, ROW)
        return self._plus(self.b.cumsum(step, ROW, exclusive=True), self._sum_logs(before))

    def _of_write(self, read: Read, place: int, q: Ref | None, term: _Term) -> Ref:
        """What the writes of earlier rows, and of the row itself, give to a read."""
        b = self.b
        events = self.events[read.state]
        early = term.place < place
        before = _decays(events[:place])
        alone = not _decays(events[term.place : place]) and before in ([], _decays(events))
        if early and alone:
            # at i = j the exponent of the strict part is an empty sum: one triangle serves both
            return self._weighted(
                read, q, term, self._weights(read.state, events[:place], term, "ge")
            )
        total = self._weighted(read, q, term, self._weights(read.state, events[:place], term, "gt"))
        if early:
            own = (
                term.x
                if q is None or term.b is None
                else b.mul(b.contract(q, term.b, read.over), term.x)
            )
            if q is not None and term.b is None:
                own = b.contract(q, term.x, read.over)
            total = b.add(total, self._scaled(own, self._sum_logs(events[term.place : place])))
        return total

    def _weights(self, state: str, before: Sequence[Event], term: _Term, triangle: str) -> Ref:
        """`exp` of the decay from a write in row j to a read in row i; zero above the triangle."""
        b = self.b
        mask = self._lower(triangle)
        step = self._step_log(state)
        if step is None:
            return b.cast(mask, Kind.REAL)
        everything = _decays(self.events[state])
        after = None if term.after is None else self._column(term.after)
        if _decays(before) == everything:
            log = self._plus(b.segment(step, ROW, COLUMN), after)
            if triangle == "ge" and log is not None:
                return b.exp(log)
        elif triangle == "ge":
            # every decay comes after the read in its step: Σ_{j≤m<i} a_m
            from_own = b.where(self._lower("ge"), step, b.const(0.0))
            log = b.cumsum(from_own, ROW, exclusive=True)
        else:
            later = b.where(self._lower("gt"), step, b.const(0.0))  # a_m at [m, j], m > j
            log = self._plus(b.cumsum(later, ROW, exclusive=True), self._sum_logs(before), after)
        assert log is not None
        return b.exp(b.where(mask, log, b.infinity(negative=True)))

    def _weighted(self, read: Read, q: Ref | None, term: _Term, weights: Ref) -> Ref:
        b = self.b
        x = self._column(term.x)
        if q is not None and term.b is not None:
            scores = b.contract(q, self._column(term.b), read.over)
            return b.contract(self._masked(scores, weights), x, (COLUMN,))
        if q is not None:  # the state has no free dimension: q · x is the score
            scores = b.contract(q, x, read.over)
            return b.sum(self._masked(scores, weights), (COLUMN,))
        return b.contract(weights, x, (COLUMN,))

    def _masked(self, scores: Ref, weights: Ref) -> Ref:
        b = self.b
        op = b.values[weights].op
        if isinstance(op, Cast):  # no decay: the weights are only a triangle
            return b.where(op.x, scores, b.const(0.0))
        return b.mul(scores, weights)

    # ------------------------------------------------------------ the carry

    def final(self, name: str) -> Ref:
        """The state at the end of the chunk."""
        b = self.b
        state = self.states[name]
        for event in self.events[name]:
            for ref in (_log_of(event),) if isinstance(event, Decay) else ():
                self.lift(ref)
        step = self._step_log(name)
        total = b.load(name, state.dims, state.kind)
        if step is not None:
            total = b.mul(b.exp(b.sum(step, (ROW,))), total)
        for term in self._terms(name):
            rest = None if step is None else b.cumsum(step, ROW, reverse=True, exclusive=True)
            log = self._plus(rest, term.after)
            if log is None:
                weight = b.cast(self.row, Kind.REAL)
                x = b.where(self.row, term.x, b.const(0.0))
            else:
                weight = b.exp(b.where(self.row, log, b.infinity(negative=True)))
                x = b.mul(term.x, weight)
            left = term.b
            added = b.sum(x, (ROW,)) if left is None else b.contract(left, x, (ROW,))
            total = b.add(total, b.expand(added, state.dims))
        return b.expand(total, state.dims)


def _log_of(event: Decay) -> Ref:
    if event.log is None or event.dims:
        raise InternalError("a chunk of this form needs scalar decays with a logarithm")
    return event.log


def _decays(events: Sequence[Event]) -> list[Ref]:
    return [_log_of(e) for e in events if isinstance(e, Decay)]
