"""One state that is affine in another algebra, for all rows of a chunk.

In: the step as values of a recurrence, and the `Fold` that analysis found.  Out: the state before
and after each row, and what the chunk leaves, as values of a chunk program.

`Recur` in the algebra tells the numbers.  The derivative is that of the step as it is written,
taken at these numbers: against time a linear recurrence, whose factors are the slopes of the steps
(for a maximum 1, 0, or at a tie 1/2, as `torch.maximum` has it).  So the gradient knows nothing of
the algebra, and goes through every operation of the step as the loop over tokens has it.
"""

from __future__ import annotations

from collections.abc import Callable

from scandsl.analysis.program import Fold
from scandsl.ir.adjoint import vjp
from scandsl.ir.builder import Builder
from scandsl.ir.nodes import (
    Binary,
    Expand,
    Kind,
    Of,
    Prev,
    Ref,
    State,
    StopGrad,
    Value,
    Where,
    operands,
)
from scandsl.ir.rewrite import with_operands
from scandsl.kernels.program import ROW


def path(values: tuple[Value, ...], state: State) -> tuple[Ref, ...]:
    """The values between the old state and the new, in order, both included."""
    from_old: set[Ref] = set()
    for ref in range(state.next + 1):
        op = values[ref].op
        if op == Prev(state.name) or any(r in from_old for r in operands(op)):
            from_old.add(ref)
    to_new = {state.next}
    for ref in sorted(from_old, reverse=True):
        if ref in to_new:
            to_new |= {r for r in operands(values[ref].op) if r in from_old}
    return tuple(sorted(from_old & to_new))


class FoldedState:
    """One state's value before, behind and at the end of the rows.

    `lift` gives a value of the step that does not look at the state, for all rows; `row` tells
    which rows hold a token.
    """

    def __init__(
        self,
        builder: Builder,
        values: tuple[Value, ...],
        state: State,
        event: Fold,
        lift: Callable[[Ref], Ref],
        row: Ref,
    ) -> None:
        self.b = builder
        self.values = values
        self.state = state
        self.event = event
        self.lift = lift
        self.row = row
        self.path = path(values, state)
        self._found: tuple[Ref, Ref] | None = None

    def taken(self) -> tuple[Ref, ...]:
        """The values that have to be lifted before: all that the step takes beside the state."""
        inner = [r for ref in self.path for r in operands(self.values[ref].op)]
        given = [r for r in inner if r not in self.path]
        return tuple(dict.fromkeys((*given, self.event.shift, self.event.term)))

    def before(self) -> Ref:
        """What each row is handed."""
        return self._with_slopes(self._run("before"), "before")

    def each(self) -> Ref:
        """What each row makes of it."""
        b, known = self.b, self._run("before")
        shift, term = self.lift(self.event.shift), self.lift(self.event.term)
        whole = (b.add(b.emit(StopGrad(known), b.dims_of(known), self.state.kind), shift), term)
        step = self._steps()[0]
        plain = [b.binary(self.event.algebra, *p) for p in (whole, whole[::-1])]
        return self._with_slopes(self._run("each") if step in plain else step, "each")

    def final(self) -> Ref:
        """The state at the end of the chunk."""
        return self._with_slopes(self._run("end"), "end")

    def _start(self) -> Ref:
        return self.b.load(self.state.name, self.state.dims, self.state.kind)

    def _run(self, of: Of) -> Ref:
        shift, term = self.lift(self.event.shift), self.lift(self.event.term)
        algebra = self.event.algebra
        return self.b.recur(shift, term, self._start(), self.row, ROW, of, algebra=algebra)

    def _with_slopes(self, known: Ref, of: Of) -> Ref:
        step, slope = self._steps()
        dims = self.state.dims if of == "end" else (ROW, *self.state.dims)
        known = self.b.expand(known, dims)
        return self.b.tangent(known, slope, step, self._start(), self.row, ROW, of)

    def _steps(self) -> tuple[Ref, Ref]:
        """What the steps make of the known states that they are handed, and their slopes."""
        if self._found is not None:
            return self._found
        b, dims = self.b, (ROW, *self.state.dims)
        run = b.expand(self._run("before"), dims)
        self._run("each")  # stands before the steps, which it may take the place of
        known = b.emit(StopGrad(run), dims, self.state.kind)
        moved: dict[Ref, Ref] = {}
        for ref in self.path:
            value = self.values[ref]
            if isinstance(value.op, Prev):
                moved[ref] = known
                continue
            given = [moved[r] if r in moved else self.lift(r) for r in operands(value.op)]
            rows = [d for r in given for d in b.dims_of(r) if d == ROW]
            op = with_operands(value.op, given)
            moved[ref] = b.emit(op, (*rows, *value.dims), value.kind)
        step = b.expand(moved[self.state.next], dims)
        first = len(b.values)
        slope = vjp(b, {step: b.const(1.0)}, [known])[known]
        slope = b.const(0.0) if slope is None else _with_numbers(b, slope, first)
        soft = self.event.algebra == "logaddexp"
        if soft and any(isinstance(self.values[r].op, Where) for r in self.path):
            # a step that a choice leaves out has none where the state is infinite; others are ≥ 0
            slope = b.where(b.binary("ge", slope, b.const(0.0)), slope, b.const(0.0))
        self._found = step, slope
        return self._found


def _with_numbers(b: Builder, root: Ref, first: Ref) -> Ref:
    """A value made of those from `first` on, in which numbers stand for tensors of equal entries.

    The cotangent of the whole step is 1: most of what is made of it is a number too.
    """
    moved: dict[Ref, Ref] = {}

    def at(ref: Ref) -> Ref:
        return moved.get(ref, ref)

    for ref in range(first, root + 1):
        value = b.values[ref]
        match value.op:
            case Expand(x) if b.constant_of(at(x)) is not None:
                moved[ref] = at(x)
            case Binary("mul", x, y):
                p, q = b.constant_of(at(x)), b.constant_of(at(y))
                if p is None or q is None:
                    moved[ref] = b.mul(at(x), at(y))
                else:
                    moved[ref] = b.const(float(p * q))
            case Where(c, x, y) if (b.constant_of(at(x)), b.constant_of(at(y))) == (1, 0):
                moved[ref] = b.cast(at(c), Kind.REAL)
            case Where(c, x, y) if (b.constant_of(at(x)), b.constant_of(at(y))) == (0, 1):
                moved[ref] = b.cast(b.unary("not", at(c)), Kind.REAL)
            case op if any(at(r) != r for r in operands(op)):
                changed = with_operands(op, [at(r) for r in operands(op)])
                moved[ref] = b.emit(changed, value.dims, value.kind)
    return b.expand(at(root), b.dims_of(root)) if b.constant_of(at(root)) is None else at(root)
