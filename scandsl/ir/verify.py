"""Is a `Recurrence` well formed?  Raises `InternalError` where it is not.

In: a recurrence of any stage.  Out: nothing.  Every rule of the intermediate form that later stages
rely on is stated here once: order of operands, dimensions, kinds, and what varies in time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NoReturn

from typing_extensions import assert_never

from scandsl.diagnostics import InternalError
from scandsl.ir.nodes import (
    Binary,
    Cast,
    Clamp,
    Const,
    Contract,
    CumProd,
    CumSum,
    Dims,
    Every,
    Expand,
    Grad,
    Input,
    Insert,
    Inverse,
    Iota,
    Kind,
    Lag,
    LagState,
    Load,
    MakeComplex,
    Normalize,
    Op,
    Param,
    Prev,
    Recur,
    Recurrence,
    Reduce,
    Ref,
    Rename,
    Row,
    Scalar,
    Scores,
    ScoresAdjoint,
    Segment,
    SegmentAdjoint,
    SegmentProduct,
    Select,
    Size,
    Spread,
    Stack,
    StopGrad,
    Tangent,
    Time,
    Unary,
    Value,
    Where,
    operands,
)
from scandsl.ir.printer import print_op

COMPARISONS = frozenset({"lt", "le", "gt", "ge", "eq", "ne"})
KEEP_INT = frozenset({"neg", "abs", "sign"})
COMPLEX_FUNCTIONS = frozenset(
    {"neg", "exp", "log", "sqrt", "rsqrt", "sin", "cos", "tanh", "abs", "re", "im", "conj"}
)
NEVER_INT = frozenset({"div", "pow", "logaddexp"})
NEVER_COMPLEX = frozenset({"pow", "mod", "max", "min", "logaddexp"})
ALWAYS_VARIES = Input | Prev | Time | Every | Lag | LagState | Row | Load
CASTS = {
    Kind.BOOL: (Kind.INT, Kind.REAL), Kind.INT: (Kind.REAL,), Kind.REAL: (Kind.COMPLEX,),
    Kind.COMPLEX: (),
}  # fmt: skip


def verify(recurrence: Recurrence) -> None:
    """Raise `InternalError` for the first rule that a recurrence breaks."""
    check = _Check(recurrence, {d.name: i for i, d in enumerate(recurrence.dims)})
    for ref, value in enumerate(recurrence.values):
        check.value(ref, value)
    check.whole()


@dataclass(frozen=True, slots=True)
class _Check:
    """One recurrence under inspection."""

    recurrence: Recurrence
    order: dict[str, int]

    def fail(self, ref: Ref | None, reason: str) -> NoReturn:
        place = ""
        if ref is not None:
            place = f" at %{ref} = {print_op(self.recurrence.values[ref].op)}"
        raise InternalError(f"ill-formed recurrence {self.recurrence.name}{place}: {reason}")

    def sort(self, ref: Ref | None, dims: Dims | list[str]) -> Dims:
        for dim in dims:
            if dim not in self.order:
                self.fail(ref, f"unknown dimension {dim}")
        return tuple(sorted(set(dims), key=self.order.__getitem__))

    def size(self, dim: str) -> int | None:
        return next((d.size for d in self.recurrence.dims if d.name == dim), None)

    # ------------------------------------------------------------ one value

    def value(self, ref: Ref, value: Value) -> None:
        values = self.recurrence.values
        for x in operands(value.op):
            if not 0 <= x < len(values) or (x >= ref and not isinstance(value.op, Lag)):
                self.fail(ref, f"operand %{x} does not come before its user")
        if value.dims != self.sort(ref, value.dims):
            self.fail(ref, f"dimensions {value.dims} are not a set in the order of the recurrence")
        xs = [values[x] for x in operands(value.op)]
        varies = isinstance(value.op, ALWAYS_VARIES) or any(x.varies for x in xs)
        if varies and not value.varies:
            self.fail(ref, "it varies in time but is marked constant")
        dims, kind = self.expected(ref, value, xs)
        if value.dims != self.sort(ref, dims):
            self.fail(ref, f"dimensions are {value.dims}, expected {self.sort(ref, dims)}")
        if value.kind is not kind:
            self.fail(ref, f"kind is {value.kind.value}, expected {kind.value}")

    def expected(self, ref: Ref, value: Value, xs: list[Value]) -> tuple[Dims | list[str], Kind]:  # noqa: C901 - one line per operation
        """The dimensions and kind that follow from the operands."""
        match value.op:
            case Const() | Size() | Iota() | Time() | Every() | Scalar() | Row() | Load():
                return self.leaf(ref, value)
            case Input(name) | Param(name) | Prev(name) | LagState(name, _):
                return self.declared(ref, value.op, name)
            case Unary() | StopGrad() | Cast():
                return xs[0].dims, self.unary_kind(ref, value, xs[0])
            case Binary() | Where() | Clamp() | MakeComplex():
                return _union(xs), self.joint_kind(ref, value.op, xs)
            case Contract(_, _, over):
                return self.contract(ref, xs, over)
            case Reduce(fn, _, over):
                self.reduced(ref, fn, xs[0], over)
                kind = Kind.INT if fn == "argmax" else xs[0].kind
                return [d for d in xs[0].dims if d not in over], kind
            case Normalize(_, _, over, _):
                self.need(
                    ref, xs[0].kind is Kind.REAL and set(over) <= set(xs[0].dims), "normalize"
                )
                return xs[0].dims, Kind.REAL
            case Rename() | Select() | Insert() | Stack() | Expand():
                return self.layout(ref, value, xs)
            case Lag(_, n):
                self.need(ref, n >= 1, "a lag of at least 1")
                return xs[0].dims, xs[0].kind
            case Grad():
                self.need(ref, not xs[0].dims and xs[0].kind is Kind.REAL, "a real number")
                return xs[1].dims, Kind.REAL
            case CumSum(_, dim) | CumProd(_, dim):
                self.need(ref, dim in xs[0].dims, "the summed dimension")
                return xs[0].dims, xs[0].kind
            case Scores(row=row, column=column, over=over):
                self.need(ref, all({row, over} <= set(x.dims) for x in xs), "rows of vectors")
                return [*(d for d in xs[0].dims if d != over), column], xs[0].kind
            case Spread(row=row, column=column, over=over):
                self.need(ref, {row, column} <= set(xs[0].dims), "rows and columns")
                good = all({row, over} <= set(x.dims) for x in xs[1:])
                self.need(ref, good, "rows of vectors")
                return [row, over], xs[1].kind
            case ScoresAdjoint(row=row, column=column, of=of):
                self.need(ref, {row, column} <= set(xs[3].dims), "rows and columns")
                return xs["qka".index(of)].dims, xs[0].kind
            case Recur(row=row, of=of):
                self.need(ref, xs[3].dims == (row,) and row not in xs[2].dims, "rows and a start")
                self.need(ref, xs[0].kind is xs[1].kind is xs[2].kind, "operands of one kind")
                dims = [d for x in xs for d in x.dims if d != row]
                return dims if of == "end" else [row, *dims], xs[2].kind
            case Tangent(row=row):
                self.need(ref, xs[4].dims == (row,) and row not in xs[3].dims, "rows and a start")
                self.need(ref, all(x.kind is xs[0].kind for x in xs[:4]), "operands of one kind")
                return xs[0].dims, xs[0].kind
            case Inverse(_, row, column):
                self.need(ref, {row, column} <= set(xs[0].dims), "rows and columns")
                return xs[0].dims, xs[0].kind
            case Segment(_, row, column) | SegmentProduct(_, row, column):
                good = row in xs[0].dims and column not in xs[0].dims
                self.need(ref, good, "the row and not the column dimension")
                return [*xs[0].dims, column], xs[0].kind
            case SegmentAdjoint(_, row, column):
                self.need(ref, {row, column} <= set(xs[0].dims), "rows and columns")
                return [d for d in xs[0].dims if d != column], xs[0].kind
            case _:
                assert_never(value.op)

    def need(self, ref: Ref, good: bool, what: str) -> None:
        if not good:
            self.fail(ref, f"needs {what}")

    def leaf(self, ref: Ref, value: Value) -> tuple[Dims | list[str], Kind]:
        match value.op:
            case Const(number):
                kinds: dict[type, Kind] = {bool: Kind.BOOL, int: Kind.INT, float: Kind.REAL}
                return (), kinds[type(number)]
            case Size(dim):
                self.sort(ref, (dim,))
                return (), Kind.INT
            case Iota(dim):
                return (dim,), Kind.INT
            case Row(dim):
                return (dim,), Kind.BOOL
            case Time():
                return (), Kind.INT
            case Every(period):
                self.need(ref, period >= 1, "a positive period")
                return (), Kind.BOOL
            case Scalar(name):
                self.need(
                    ref, any(s.name == name for s in self.recurrence.scalars), "a declared scalar"
                )
                return (), Kind.REAL
            case _:
                return value.dims, value.kind

    def declared(self, ref: Ref, op: Op, name: str) -> tuple[Dims | list[str], Kind]:
        recurrence = self.recurrence
        tensors = recurrence.inputs if isinstance(op, Input) else recurrence.params
        for declared in recurrence.states if isinstance(op, Prev | LagState) else tensors:
            if declared.name == name:
                return declared.dims, declared.kind
        self.fail(ref, f"{name} is not declared")

    def unary_kind(self, ref: Ref, value: Value, x: Value) -> Kind:
        match value.op:
            case Cast():
                self.need(ref, value.kind in CASTS[x.kind], "a cast to a wider kind")
                return value.kind
            case Unary("not"):
                self.need(ref, x.kind is Kind.BOOL, "a bool")
            case Unary(fn):
                self.need(ref, x.kind is not Kind.BOOL, "a number")
                self.need(ref, x.kind is not Kind.INT or fn in KEEP_INT, "a real value")
                self.need(
                    ref, x.kind is not Kind.COMPLEX or fn in COMPLEX_FUNCTIONS, "a real value"
                )
                if fn in ("re", "im", "abs") and x.kind is Kind.COMPLEX:
                    return Kind.REAL
            case _:
                pass
        return x.kind

    def joint_kind(self, ref: Ref, op: Op, xs: list[Value]) -> Kind:
        if isinstance(op, Where):
            self.need(ref, xs[0].kind is Kind.BOOL, "a bool condition")
            xs = xs[1:]
        kind = xs[0].kind
        self.need(ref, all(x.kind is kind for x in xs), "operands of one kind")
        match op:
            case MakeComplex():
                self.need(ref, kind is Kind.REAL, "real parts")
                return Kind.COMPLEX
            case Binary("and" | "or"):
                self.need(ref, kind is Kind.BOOL, "bools")
            case Binary(fn):
                self.need(ref, kind is not Kind.BOOL, "numbers")
                ordered = fn in COMPARISONS or fn in NEVER_COMPLEX
                self.need(ref, kind is not Kind.COMPLEX or not ordered, "no complex values")
                self.need(ref, kind is not Kind.INT or fn not in NEVER_INT, "real values")
                return Kind.BOOL if fn in COMPARISONS else kind
            case Clamp():
                self.need(ref, kind in (Kind.INT, Kind.REAL), "real values")
            case _:
                pass
        return kind

    def contract(self, ref: Ref, xs: list[Value], over: Dims) -> tuple[list[str], Kind]:
        a, b = xs
        self.need(ref, bool(over) and set(over) <= set(a.dims) & set(b.dims), "shared dimensions")
        self.need(ref, a.kind is b.kind is not Kind.BOOL, "numbers of one kind")
        return [d for d in (*a.dims, *b.dims) if d not in over], a.kind

    def reduced(self, ref: Ref, fn: str, x: Value, over: Dims) -> None:
        self.need(ref, bool(over) and set(over) <= set(x.dims), "dimensions that the operand has")
        self.need(ref, x.kind is not Kind.BOOL, "a number")
        self.need(ref, x.kind is not Kind.COMPLEX or fn in ("sum", "mean"), "a real value")
        self.need(ref, x.kind is not Kind.INT or fn not in ("mean", "logsumexp"), "a real value")

    def layout(self, ref: Ref, value: Value, xs: list[Value]) -> tuple[Dims | list[str], Kind]:
        x = xs[0]
        match value.op:
            case Rename(_, pairs):
                table = dict(pairs)
                self.need(ref, set(table) <= set(x.dims), "dimensions that the operand has")
                renamed = [table.get(d, d) for d in x.dims]
                self.need(ref, len(set(renamed)) == len(renamed), "distinct new names")
                return renamed, x.kind
            case Select(_, dim, index):
                self.need(
                    ref, dim in x.dims and 0 <= index < (self.size(dim) or 0), "a valid index"
                )
                return [d for d in x.dims if d != dim], x.kind
            case Insert(_, dim, index, _):
                self.need(
                    ref, dim in x.dims and 0 <= index < (self.size(dim) or 0), "a valid index"
                )
                good = set(xs[1].dims) == set(x.dims) - {dim} and xs[1].kind is x.kind
                self.need(ref, good, "an entry of the right type")
                return x.dims, x.kind
            case Stack(_, dim):
                same = all(y.dims == x.dims and y.kind is x.kind for y in xs)
                self.need(ref, same and dim not in x.dims, "entries of one type")
                self.need(ref, len(xs) == self.size(dim), "as many entries as the dimension has")
                return [*x.dims, dim], x.kind
            case _:
                self.need(ref, set(x.dims) <= set(value.dims), "the dimensions of its operand")
                return value.dims, x.kind

    # ------------------------------------------------------------ the whole

    def whole(self) -> None:
        recurrence, count = self.recurrence, len(self.recurrence.values)
        roots: list[tuple[str, str, Dims, Kind, Ref]] = []
        roots += [("scalar", s.name, (), Kind.REAL, s.default) for s in recurrence.scalars]
        roots += [("state", s.name, s.dims, s.kind, s.init) for s in recurrence.states]
        roots += [("state", s.name, s.dims, s.kind, s.next) for s in recurrence.states]
        roots += [("output", o.name, o.dims, o.kind, o.value) for o in recurrence.outputs]
        for role, name, dims, kind, ref in roots:
            if not 0 <= ref < count:
                self.fail(None, f"{role} {name} has no value")
            value = recurrence.values[ref]
            if value.dims != self.sort(ref, dims) or value.kind is not kind:
                self.fail(ref, f"not of the type of {role} {name}")
        for state in recurrence.states:
            if recurrence.values[state.init].varies:
                self.fail(state.init, f"the initial value of {state.name} varies in time")
        names = sorted(t.name for t in (*recurrence.inputs, *recurrence.params))
        if sorted(recurrence.arguments) != names:
            self.fail(None, "the arguments are not the inputs and params")


def _union(xs: list[Value]) -> list[str]:
    return [d for x in xs for d in x.dims]
