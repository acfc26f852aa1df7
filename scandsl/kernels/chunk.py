"""Derives the chunk program of a recurrence: the step's values for all rows of a chunk.

In: a `Program` whose components all have the chunk form.  Out: the forward `ChunkProgram`; its
backward is derived from it by `scandsl.kernels.backward`.  What is no event is carried over value
by value; the results of reads and probes come from `scandsl.kernels.matrix_state`, of states that
steps only move entry by entry from `scandsl.kernels.elementwise_state`, of those that are
affine in another algebra from `scandsl.kernels.folded_state`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from scandsl.analysis.program import (
    Block,
    Component,
    Couple,
    Coupled,
    Decay,
    Event,
    Fold,
    Form,
    Probe,
    Program,
    Read,
    Update,
    Write,
)
from scandsl.analysis.ranges import intervals
from scandsl.ir.builder import Builder
from scandsl.ir.nodes import (
    Dim,
    Every,
    Input,
    Kind,
    Prev,
    Recurrence,
    Ref,
    Row,
    State,
    Time,
    operands,
)
from scandsl.ir.rewrite import with_operands
from scandsl.kernels.block_starts import block_starts
from scandsl.kernels.coupled_matrices import CoupledMatrices
from scandsl.kernels.coupled_state import CoupledStates
from scandsl.kernels.elementwise_state import ElementwiseState
from scandsl.kernels.folded_state import FoldedState
from scandsl.kernels.matrix_state import MatrixState
from scandsl.kernels.program import COLUMN, INNER, POSITION, ROW, Carry, ChunkProgram, Store
from scandsl.kernels.simplify import simplify


def chunk_program(program: Program, late: bool = False) -> ChunkProgram:
    """The forward chunk program of a recurrence.

    With `late`, the states enter a triangular system before it is solved: fewer products, of which
    fewer are known before the states.
    """
    if program.block is None:
        return _Lifter(program, late).run()
    lifter = _Lifter(program.block.between, late, program.block)
    return lifter.run(program.recurrence.states)


class _Lifter:
    """Carries the step's values over to rows, events being replaced by the chunk formula.

    With a `block`, states begin the chunk with what the step makes of them there.
    """

    def __init__(self, program: Program, late: bool, block: Block | None = None) -> None:
        self.recurrence: Recurrence = program.recurrence
        dims = (Dim(ROW), Dim(COLUMN, base=ROW), Dim(INNER, base=ROW))
        self.b = Builder((*dims, *self.recurrence.dims))
        self.lifted: dict[Ref, Ref] = {}
        row = self.b.emit(Row(ROW), (ROW,), Kind.BOOL)
        self.started = {} if block is None else block_starts(self.b, block, row)
        events: dict[str, list[Event]] = {s.name: [] for s in self.recurrence.states}
        home = {s: c for c in program.components for s in c.states}
        for component in program.components:
            for event in component.events:
                for name in component.states if len(component.states) > 1 else (event.state,):
                    events[name].append(event)
        self.events = events
        ranges = intervals(self.recurrence)
        self.row = row
        self.coupled = {name: c for c in program.coupled for name in c.states}
        self.together: dict[Coupled, CoupledStates] = {}
        self.states: dict[str, MatrixState | CoupledMatrices | ElementwiseState | FoldedState] = {}
        self.folded: dict[Ref, FoldedState] = {}  # by their old and new values
        for state in self.recurrence.states:
            if state.name in self.coupled:
                continue
            name, own = state.name, events[state.name]
            fold = next((e for e in own if isinstance(e, Fold)), None)
            if fold is not None:
                found = FoldedState(self.b, self.recurrence.values, state, fold, self.lift, row)
                self.states[name] = found
                old = (r for r, v in enumerate(self.recurrence.values) if v.op == Prev(name))
                self.folded |= dict.fromkeys((*old, state.next), found)
                continue
            if home[name].form is Form.SCAN:
                self.states[name] = ElementwiseState(
                    self.b, state, own, self.lift, row, self.started.get(name)
                )
                continue
            if len(home[name].states) > 1:
                self.states[name] = self._matrices(home[name], late)
                continue
            self.states[name] = MatrixState(
                self.b, state, home[name].contracted, own, self.lift, row, ranges, late,
                self.started.get(name),
            )  # fmt: skip
        self.seen: dict[Ref, Read | Probe] = {
            e.result: e for found in events.values() for e in found if isinstance(e, Read | Probe)
        }

    def _matrices(self, component: Component, late: bool) -> CoupledMatrices:
        """The states of a component that feed each other, made once."""
        for name in component.states:
            found = self.states.get(name)
            if isinstance(found, CoupledMatrices):
                return found
        states = [s for s in self.recurrence.states if s.name in component.states]
        events = self.events[component.states[0]]
        return CoupledMatrices(
            self.b, states, component.contracted, events, self.lift, self.row, late, self.started
        )

    def run(self, states: Sequence[State] = ()) -> ChunkProgram:
        """Outputs and final states, and all that they need; `states` where the step has more."""
        stores = [
            Store(o.name, o.dims, o.kind, self.b.expand(self.lift(o.value), (ROW, *o.dims)))
            for o in self.recurrence.outputs
        ]
        carries = []
        for state in states or self.recurrence.states:
            if state.name in self.coupled:
                for ref in self._coefficients(state.name):
                    self.lift(ref)
                group, place = self._coupled(state.name)
                carries.append(Carry(state.name, state.dims, state.kind, group.final(place)))
                continue
            if state.name not in self.states:  # held through the chunk
                final = self.b.expand(self.started[state.name], state.dims)
                carries.append(Carry(state.name, state.dims, state.kind, final))
                continue
            own = self.states[state.name]
            taken = own.taken() if isinstance(own, FoldedState) else self._taken(state.name)
            for ref in taken:
                self.lift(ref)
            final = own.final(state.name) if isinstance(own, CoupledMatrices) else own.final()
            carries.append(Carry(state.name, state.dims, state.kind, final))
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
        if ref in self.folded:
            return self.folded[ref].taken()
        event, op = self.seen.get(ref), self.recurrence.values[ref].op
        if isinstance(op, Prev) and op.state in self.coupled:
            return self._coefficients(op.state)
        if event is None:
            return operands(op)
        own = (event.q,) if isinstance(event, Read) else (event.w,)
        return (*(r for r in own if r is not None), *self._taken(event.state))

    def _coefficients(self, state: str) -> tuple[Ref, ...]:
        """The values that tell how a state moves with those it feeds."""
        found = self.coupled[state]
        entries = (*(x for line in found.matrix for x in line), *found.rest)
        return tuple(x for x in entries if x is not None)

    def _coupled(self, state: str) -> tuple[CoupledStates, int]:
        """The states that a state moves with, and its place among them."""
        found = self.coupled[state]
        if found not in self.together:
            own = [next(s for s in self.recurrence.states if s.name == n) for n in found.states]
            self.together[found] = CoupledStates(self.b, own, found, self.lift, self.row)
        return self.together[found], found.states.index(state)

    def _taken(self, state: str) -> tuple[Ref, ...]:
        """The values that the events of a state take, results of its probes aside."""
        out: list[Ref | None] = []
        for event in self.events[state]:
            match event:
                case Write(_, b, x):
                    out += [b, x]
                case Update(_, p):
                    out.append(p)
                case Probe(_, w):
                    out.append(w)
                case Read():
                    pass
                case Decay(_, factor, log, _, angle):
                    out += [factor if log is None else log, angle]
                case Couple(_, _, factor):
                    out.append(factor)
                case Fold(_, shift, term):
                    out += [shift, term]
        return tuple(r for r in out if r is not None)

    def _lift_one(self, ref: Ref) -> Ref:
        if ref in self.folded:
            found = self.folded[ref]
            return found.each() if ref == found.state.next else found.before()
        event = self.seen.get(ref)
        if isinstance(event, Read):
            reader = self.states[event.state]
            assert not isinstance(reader, FoldedState)
            return reader.read(event)
        if isinstance(event, Probe):
            state = self.states[event.state]
            assert isinstance(state, MatrixState | CoupledMatrices)
            return state.probe(ref)
        value = self.recurrence.values[ref]
        b = self.b
        match value.op:
            case Prev(name) if name in self.coupled:
                group, place = self._coupled(name)
                lifted = group.before(place)
            case Input(name) if name in self.started:
                lifted = b.expand(self.started[name], value.dims)
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
                dims: Sequence[str] = value.dims
                if any(ROW in b.dims_of(r) for r in operands(op)):
                    dims = (ROW, *dims)
                lifted = b.emit(op, dims, value.kind)
        if value.name and b.values[lifted].name is None:
            b.values[lifted] = replace(b.values[lifted], name=value.name)
        return lifted
