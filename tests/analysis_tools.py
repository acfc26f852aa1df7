"""Judging an analysis by numbers: a program whose states are computed from the events alone."""

from __future__ import annotations

from dataclasses import replace

import torch

from scandsl.analysis.program import Couple, Decay, Fold, Probe, Program, Read, Update, Write
from scandsl.ir.builder import Builder
from scandsl.ir.nodes import Kind, Lag, Prev, Recurrence, Ref, operands
from scandsl.ir.rewrite import with_operands
from scandsl.reference.interpret import interpret


class Replay:
    """Rebuilds a recurrence: states by replaying events, values outside by results of events.

    A value that looks at a state of an event component in any other way is an error.
    """

    def __init__(self, program: Program) -> None:
        self.old = program.recurrence
        self.events = {
            state: [e for e in c.events if e.state == state]
            for c in program.components
            for state in c.states
            if c.events
        }
        self.results: dict[Ref, tuple[str, int]] = {}
        for state, events in self.events.items():
            for place, event in enumerate(events):
                if isinstance(event, Probe | Read):
                    self.results[event.result] = (state, place)
        self.b = Builder(self.old.dims)
        self.built: dict[Ref, Ref] = {}
        self.moments: dict[tuple[str, int], Ref] = {}
        self.lags: dict[int, Ref] = {}

    def recurrence(self) -> Recurrence:
        old, build = self.old, self.build
        states = []
        for state in old.states:
            if state.name in self.events:
                final = self.moment(state.name, len(self.events[state.name]))
            else:
                final = build(state.next)
            states.append(replace(state, init=build(state.init), next=final))
        outputs = tuple(replace(o, value=build(o.value)) for o in old.outputs)
        scalars = tuple(replace(s, default=build(s.default)) for s in old.scalars)
        for ref, value in enumerate(old.values):
            if isinstance(value.op, Lag):
                self.build(ref)
                self.lags[self.built[ref]] = build(value.op.x)
        values = list(self.b.values)
        for ref, target in self.lags.items():
            values[ref] = replace(values[ref], op=replace(values[ref].op, x=target))
        return replace(
            old, values=tuple(values), states=tuple(states), outputs=outputs, scalars=scalars
        )

    def build(self, ref: Ref) -> Ref:
        if ref not in self.built:
            self.built[ref] = self._build(ref)
        return self.built[ref]

    def _build(self, ref: Ref) -> Ref:
        value = self.old.values[ref]
        if ref in self.results:
            return self._result(*self.results[ref])
        match value.op:
            case Prev(state) if any(isinstance(e, Fold) for e in self.events.get(state, ())):
                return self.b.emit(value.op, value.dims, value.kind)
            case Prev(state):
                assert state not in self.events, f"looks at {state} past the events"
                return self.b.emit(value.op, value.dims, value.kind)
            case Lag(x, n):
                self.b.values.append(replace(value, op=Lag(x, n)))
                return len(self.b.values) - 1
            case _:
                op = with_operands(value.op, [self.build(r) for r in operands(value.op)])
                return self.b.emit(op, value.dims, value.kind, value.name, varies=value.varies)

    def _result(self, state: str, place: int) -> Ref:
        before = self.moment(state, place)
        match self.events[state][place]:
            case Read(_, None, _, _):
                return before
            case Read(_, q, over, _) | Probe(_, q, over, _):
                assert q is not None
                return self.b.contract(self.build(q), before, over)
        raise AssertionError

    def moment(self, name: str, place: int) -> Ref:
        """The state after its first `place` events."""
        key = (name, place)
        if key in self.moments:
            return self.moments[key]
        state = next(s for s in self.old.states if s.name == name)
        if place == 0:
            out = self.b.emit(Prev(name), state.dims, state.kind)
        else:
            out = self._after(self.moment(name, place - 1), self.events[name][place - 1])
        self.moments[key] = self.b.expand(out, state.dims)
        return self.moments[key]

    def _after(self, before: Ref, event: object) -> Ref:
        b, build = self.b, self.build
        match event:
            case Decay(_, factor, log, _, angle):
                by = build(factor)
                if log is not None:  # the logarithm is what the kernels use
                    by = b.exp(build(log))
                if angle is not None:
                    by = b.mul(by, b.exp(b.make_complex(b.const(0.0), build(angle))))
                return b.mul(by, before)
            case Couple(_, other, factor):
                (found,) = (s for s in self.old.states if s.name == other)
                whole = b.emit(Prev(other), found.dims, found.kind)
                return b.add(before, b.mul(build(factor), whole))
            case Update(_, p, probe, strength):
                term = b.mul(build(p), build(probe))
                return b.add(before, term if strength is None else b.mul(term, build(strength)))
            case Write(_, None, x):
                return b.add(before, build(x))
            case Write(_, key, x):
                return b.add(before, b.mul(build(key), build(x)))
            case Fold(_, shift, term, algebra):
                return b.binary(algebra, b.add(before, build(shift)), build(term))
        return before


def replayed(program: Program) -> Recurrence:
    """The recurrence that the events of a program describe."""
    return Replay(program).recurrence()


def draw(recurrence: Recurrence, seed: int = 0, steps: int = 9) -> dict[str, torch.Tensor]:
    """Small float64 tensors for a recurrence, inside what is declared."""
    generator = torch.Generator().manual_seed(seed)
    sizes = {d.name: d.size or 3 + i % 2 for i, d in enumerate(recurrence.dims)}
    for dim in recurrence.dims:
        if dim.base:
            sizes[dim.name] = sizes[dim.base]
    out = {}
    for tensor in (*recurrence.inputs, *recurrence.params):
        given = any(tensor is t for t in recurrence.inputs)
        lead = (2, steps, 2) if given else (2,)
        shape = (*lead, *(sizes[d] for d in tensor.dims))
        x = torch.randn(shape, generator=generator, dtype=torch.float64) * 0.4
        if tensor.range is not None:
            low, high = max(tensor.range.low, -3.0), min(tensor.range.high, 3.0)
            x = low + (high - low) * (0.05 + 0.9 * torch.sigmoid(3 * x))
        if tensor.unit:
            x = x / (1 + x.norm(dim=-1, keepdim=True))
        if tensor.kind is Kind.COMPLEX:
            x = x.to(torch.complex128)
        elif tensor.kind is Kind.INT:
            x = (x * 4).to(torch.int64)
        elif tensor.kind is Kind.BOOL:
            x = x > 0
        out[tensor.name] = x
    return out


def agree(one: Recurrence, two: Recurrence, seed: int = 0, tolerance: float = 1e-10) -> None:
    """Both recurrences give the same outputs, states and gradients."""
    results = []
    for recurrence in (one, two):
        tensors = draw(one, seed)
        for x in tensors.values():
            if x.is_floating_point():
                x.requires_grad_(True)
        found = interpret(recurrence, tensors)
        loss = torch.zeros((), dtype=torch.float64)
        kept = [*found.outputs, *(found.state[name] for name in sorted(found.state))]
        for i, y in enumerate(kept):
            if y.is_floating_point() or y.is_complex():
                real = torch.view_as_real(y) if y.is_complex() else y
                weight = torch.cos(torch.arange(real.numel(), dtype=torch.float64) + i)
                finite = torch.nan_to_num(real, posinf=0.0, neginf=0.0)
                loss = loss + (finite.reshape(-1) * weight).sum()
        wanted = [x for x in tensors.values() if x.requires_grad]
        grads = torch.autograd.grad(loss, wanted, allow_unused=True) if loss.requires_grad else []
        results.append((kept, grads))
    for a, b in zip(results[0][0], results[1][0], strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance, equal_nan=False)
    for g, h in zip(results[0][1], results[1][1], strict=True):
        g, h = (torch.zeros(()) if x is None else x for x in (g, h))
        g, h = torch.broadcast_tensors(g.double(), h.double())
        torch.testing.assert_close(g, h, rtol=1e-8, atol=1e-8)
