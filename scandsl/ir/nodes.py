"""The typed intermediate form: SSA values with named dimensions, and the `Recurrence` made of them.

A program is a flat tuple of `Value`s; an operand is the index (`Ref`) of another value.  Operands
come before their users, with one exception: `Lag` looks at an earlier step, so its operand may come
later.  Batch, time and head are implicit.  The same form serves the step of a recurrence (one
token) and, with a row dimension added, the program of one chunk of tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Literal, TypeAlias

from scandsl.diagnostics import Span

NO_SPAN = Span(0, 0)

Ref: TypeAlias = int
Dims: TypeAlias = tuple[str, ...]


class Kind(Enum):
    """Number system of a value."""

    BOOL = "bool"
    INT = "int"
    REAL = "real"
    COMPLEX = "complex"


# ---------------------------------------------------------------- leaves


@dataclass(frozen=True, slots=True)
class Const:
    """A literal.  `inf` and `pi` are floats; bool and int keep their Python type."""

    value: bool | int | float


@dataclass(frozen=True, slots=True)
class Size:
    """The size of a dimension, an INT known when the function is called."""

    dim: str


@dataclass(frozen=True, slots=True)
class Iota:
    """The INT vector 0, 1, ... along `dim`."""

    dim: str


@dataclass(frozen=True, slots=True)
class Time:
    """The exact 0-based position in the sequence (INT)."""


@dataclass(frozen=True, slots=True)
class Every:
    """BOOL: position is a multiple of `period`."""

    period: int


@dataclass(frozen=True, slots=True)
class Input:
    """A tensor that varies with time, at the present step."""

    name: str


@dataclass(frozen=True, slots=True)
class Param:
    """A tensor that is constant in time."""

    name: str


@dataclass(frozen=True, slots=True)
class Scalar:
    """A Python number given by the caller."""

    name: str


@dataclass(frozen=True, slots=True)
class Prev:
    """A state's value at the end of the previous step (the initial value before the first)."""

    state: str


# ---------------------------------------------------------------- elementwise

UnaryFn: TypeAlias = Literal[
    "neg", "not", "exp", "log", "log1p", "expm1", "sqrt", "rsqrt", "abs", "sign", "floor",
    "sin", "cos", "tanh", "sigmoid", "logsigmoid", "softplus", "silu", "relu", "elu", "gelu",
    "erf", "re", "im", "conj",
]  # fmt: skip
BinaryFn: TypeAlias = Literal[
    "add", "sub", "mul", "div", "pow", "mod", "max", "min", "logaddexp",
    "lt", "le", "gt", "ge", "eq", "ne", "and", "or",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Unary:
    """An elementwise function of one argument."""

    fn: UnaryFn
    x: Ref


@dataclass(frozen=True, slots=True)
class Binary:
    """An elementwise function of two arguments, aligned by dimension name.

    Arithmetic operands have one kind (INT, REAL or COMPLEX): `Cast` is explicit.  `div` and `pow`
    are never INT.  Comparisons take INT or REAL and give BOOL; `and`/`or` take BOOL.
    """

    fn: BinaryFn
    a: Ref
    b: Ref


@dataclass(frozen=True, slots=True)
class Cast:
    """BOOL→INT/REAL, INT→REAL, REAL→COMPLEX; the target is the kind of the value."""

    x: Ref


@dataclass(frozen=True, slots=True)
class Clamp:
    """`min(max(x, low), high)` with torch.clamp's gradient (1 inside and on the bounds)."""

    x: Ref
    low: Ref
    high: Ref


@dataclass(frozen=True, slots=True)
class Where:
    """`a` where `c`, else `b`; the branch not taken receives exactly zero gradient."""

    c: Ref
    a: Ref
    b: Ref


@dataclass(frozen=True, slots=True)
class MakeComplex:
    """A complex value from two real ones."""

    re: Ref
    im: Ref


@dataclass(frozen=True, slots=True)
class StopGrad:
    """The value of `x`, through which no gradient flows."""

    x: Ref


# ---------------------------------------------------------------- dimensions


@dataclass(frozen=True, slots=True)
class Contract:
    """Sum of `a * b` over the dimensions `over`, which both have.  Does not conjugate."""

    a: Ref
    b: Ref
    over: Dims


ReduceFn: TypeAlias = Literal["sum", "mean", "max", "min", "logsumexp", "argmax"]


@dataclass(frozen=True, slots=True)
class Reduce:
    """A reduction over `over`.  `argmax` over several dimensions counts row-major as written."""

    fn: ReduceFn
    x: Ref
    over: Dims


NormalizeFn: TypeAlias = Literal["softmax", "l2norm", "rmsnorm", "layernorm"]


@dataclass(frozen=True, slots=True)
class Normalize:
    """A normalisation over `over` that keeps the shape; `eps` is unused by softmax."""

    fn: NormalizeFn
    x: Ref
    over: Dims
    eps: float


@dataclass(frozen=True, slots=True)
class Rename:
    """The same numbers with dimensions renamed: pairs (old, new)."""

    x: Ref
    pairs: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Select:
    """Entry `index` along the static dimension `dim`, which disappears."""

    x: Ref
    dim: str
    index: int


@dataclass(frozen=True, slots=True)
class Insert:
    """`x` with its entry `index` along the static dimension `dim` replaced by `y`."""

    x: Ref
    dim: str
    index: int
    y: Ref


@dataclass(frozen=True, slots=True)
class Stack:
    """Values of equal dimensions laid along the static dimension `dim`, entry 0 first."""

    xs: tuple[Ref, ...]
    dim: str


@dataclass(frozen=True, slots=True)
class Expand:
    """A value repeated along further dimensions, to have all of the dimensions of the value."""

    x: Ref


# ---------------------------------------------------------------- time


@dataclass(frozen=True, slots=True)
class Lag:
    """The value that `x` had `n` steps ago (n ≥ 1); zero (false) before the start.

    `x` may be a later value of the same step: `lag(y, 1)` inside the definition of `y`.
    """

    x: Ref
    n: int


@dataclass(frozen=True, slots=True)
class LagState:
    """A state at the end of the step `n` steps ago (n ≥ 2); its initial value before the start."""

    state: str
    n: int


@dataclass(frozen=True, slots=True)
class Grad:
    """Derivative of the dimensionless real value `e` with respect to the value `wrt`.

    `e` is a function of `wrt` through the values between them; all else is held fixed.
    """

    e: Ref
    wrt: Ref


# ---------------------------------------------------------------- chunk level


@dataclass(frozen=True, slots=True)
class CumSum:
    """Sum along `dim` up to and including each place; with `reverse` from each place on.

    With `exclusive`, the place itself is left out.
    """

    x: Ref
    dim: str
    reverse: bool = False
    exclusive: bool = False


@dataclass(frozen=True, slots=True)
class CumProd:
    """Product along `dim` up to and including each place; flags as in `CumSum`."""

    x: Ref
    dim: str
    reverse: bool = False
    exclusive: bool = False


@dataclass(frozen=True, slots=True)
class SegmentProduct:
    """Products over stretches of `row`: at `[row i, column j]` that of `x` over `j < m ≤ i`.

    Zero where `i < j`.  With `exclusive` over `j < m < i`, and zero where `i = j` too.  `inner` is
    a third name of the same size, for its derivative.
    """

    x: Ref
    row: str
    column: str
    inner: str
    exclusive: bool = False


@dataclass(frozen=True, slots=True)
class Segment:
    """Sums over stretches of `row`: at `[row i, column j]` the sum of `x` over `j < m ≤ i`.

    −∞ where `i < j`.  Each is summed outward from `j`, so that a logarithm of −∞ or a large one
    outside the stretch costs nothing.
    """

    x: Ref
    row: str
    column: str


@dataclass(frozen=True, slots=True)
class SegmentAdjoint:
    """At `row` m the sum of `g` over all stretches `[i, j]` that hold m: `j < m ≤ i`."""

    g: Ref
    row: str
    column: str


@dataclass(frozen=True, slots=True)
class Inverse:
    """Inverse of `1 - L`, with `L` the part of `x` strictly under the diagonal.

    Rows `row`, columns `column`; `inner` is a third name of the same size, for its derivative.
    """

    x: Ref
    row: str
    column: str
    inner: str


@dataclass(frozen=True, slots=True)
class Scores:
    """At `[i, j]` with `i > j` the sum over `over` of `q_i k_j exp(Σ_{j<m<i} a_m)`, else zero.

    `q`, `k` and the logarithms `a` have the dimensions `row` and `over`.  With `factors`, `a` holds
    the factors themselves, of any sign or zero: `q_i k_j Π_{j<m<i} a_m`.  Over `block` rows
    (a power of two, or 0) the logarithms are known to sum to less than float32 can take the
    exponential of, with either sign.  Where `q` has a further dimension, so has the value.
    """

    q: Ref
    k: Ref
    a: Ref
    row: str
    column: str
    over: str
    factors: bool = False
    block: int = 0


@dataclass(frozen=True, slots=True)
class ScoresAdjoint:
    """Cotangent of one argument of `Scores`, from the cotangent `g` of its value."""

    q: Ref
    k: Ref
    a: Ref
    g: Ref
    row: str
    column: str
    over: str
    of: Literal["q", "k", "a"]
    factors: bool = False
    block: int = 0


@dataclass(frozen=True, slots=True)
class Spread:
    """At row i the sum over `j < i` of `m_ij x_j exp(Σ_{j<n<i} a_n)`, by each entry of `over`.

    `x` and `a` have the dimensions `row` and `over`; `m` is read under the diagonal.  `factors` and
    `block` are as in `Scores`, which is the adjoint of this with respect to `m`.
    """

    m: Ref
    x: Ref
    a: Ref
    row: str
    column: str
    over: str
    factors: bool = False
    block: int = 0


SumFn: TypeAlias = Literal["max", "min", "logaddexp"]
Algebra: TypeAlias = Literal["linear"] | SumFn
Of: TypeAlias = Literal["each", "before", "end"]


@dataclass(frozen=True, slots=True)
class Recur:
    """An elementwise recurrence along `row`, from `start`:  s_i = a_i s_{i-1} + b_i.

    In another algebra it is  s_i = max(a_i + s_{i-1}, b_i),  or `min`, or `logaddexp`; then it is
    not differentiated, and has no adjoint (see `Tangent`).

    `of` tells which value is meant: "each" s_i, what each row is handed "before" it, or what is
    left at the "end", which has no row.  An `adjoint` runs from the last row to the first and adds
    before it multiplies: each is  m_i = s_{i+1} + b_i,  handed on is  s_i = a_i m_i + after_i.  A
    row for which `rows` is false hands on what it was handed; its m_i is zero.
    """

    a: Ref
    b: Ref
    start: Ref
    rows: Ref
    row: str
    of: Of = "each"
    adjoint: bool = False
    after: Ref | None = None
    algebra: Algebra = "linear"


@dataclass(frozen=True, slots=True)
class Tangent:
    """The value `x`, with the derivative of `Recur(a, b, start, ...)`, in which `a` is constant.

    So a recurrence of any kind  s_i = f_i(s_{i-1})  is differentiated: `x` is what is known of it,
    `a` the slope of `f_i` at the s_{i-1} that is known, and `b` is `f_i` itself, in which the
    known s_{i-1} counts as constant.
    """

    x: Ref
    a: Ref
    b: Ref
    start: Ref
    rows: Ref
    row: str
    of: Of = "each"


@dataclass(frozen=True, slots=True)
class Row:
    """BOOL along the row dimension `dim` of a chunk: this row holds a token of the sequence."""

    dim: str


@dataclass(frozen=True, slots=True)
class Load:
    """A named per-chunk tensor of the enclosing program: saved states, cotangents, carries."""

    name: str


Op: TypeAlias = (
    Const | Size | Iota | Time | Every | Input | Param | Scalar | Prev
    | Unary | Binary | Cast | Clamp | Where | MakeComplex | StopGrad
    | Contract | Reduce | Normalize | Rename | Select | Insert | Stack | Expand
    | Lag | LagState | Grad | CumSum | Segment | SegmentAdjoint | Inverse
    | Scores | ScoresAdjoint | Spread | CumProd | SegmentProduct | Recur | Tangent | Row | Load
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Value:
    """One SSA value.

    `dims` is a set kept in the order of `Recurrence.dims`.  `varies` says whether it can differ
    from step to step; `name` is the user's name for it, if it was assigned to one (a hint for
    printing).
    """

    op: Op
    dims: Dims
    kind: Kind
    varies: bool
    name: str | None = field(default=None, compare=False)
    span: Span = field(default=NO_SPAN, compare=False)


# ---------------------------------------------------------------- the recurrence


@dataclass(frozen=True, slots=True)
class Dim:
    """A named dimension.  `size` is set for static ones; `base` is `K` for `K'` and `K''`."""

    name: str
    size: int | None = None
    base: str | None = None


@dataclass(frozen=True, slots=True)
class Range:
    """The promise `in [low, high]`; an infinite end is included only when closed."""

    low: float
    high: float
    low_open: bool = False
    high_open: bool = False


@dataclass(frozen=True, slots=True)
class Tensor:
    """A declared input or param: dimensions in declared order, and what the caller promises."""

    name: str
    dims: Dims
    kind: Kind = Kind.REAL
    range: Range | None = None
    unit: bool = False
    span: Span = field(default=NO_SPAN, compare=False)


@dataclass(frozen=True, slots=True)
class ScalarArg:
    """A Python number with a default, made of constants and sizes and earlier scalars."""

    name: str
    default: Ref
    span: Span = field(default=NO_SPAN, compare=False)


@dataclass(frozen=True, slots=True)
class State:
    """A carried state: initial value and the value at the end of the step."""

    name: str
    dims: Dims
    kind: Kind
    init: Ref
    next: Ref
    span: Span = field(default=NO_SPAN, compare=False)


@dataclass(frozen=True, slots=True)
class Output:
    """A value returned at every step; dimensions in declared order."""

    name: str
    dims: Dims
    kind: Kind
    value: Ref
    span: Span = field(default=NO_SPAN, compare=False)


@dataclass(frozen=True, slots=True)
class Recurrence:
    """One scan, resolved and typed.  Past this point a failure is a compiler bug."""

    name: str
    doc: str
    dims: tuple[Dim, ...]
    inputs: tuple[Tensor, ...]
    params: tuple[Tensor, ...]
    scalars: tuple[ScalarArg, ...]
    states: tuple[State, ...]
    outputs: tuple[Output, ...]
    values: tuple[Value, ...]
    arguments: tuple[str, ...]  # inputs and params by name, in the order of declaration
    span: Span = field(default=NO_SPAN, compare=False)


@dataclass(frozen=True, slots=True)
class Memory:
    """What a lag remembers: the last `depth` values of `target` (newest first).

    `state` is set when the target is a declared state (whose past before the start is its initial
    value); `name` is the field of the state tuple that holds it.
    """

    name: str
    depth: int
    value: Ref | None
    state: str | None
    dims: Dims
    kind: Kind


def operands(op: Op) -> tuple[Ref, ...]:  # noqa: C901 - one case per shape
    """The values an operation reads, in order; those of `Lag` and of the leaves included."""
    match op:
        case (
            Unary(_, x)
            | Cast(x)
            | StopGrad(x)
            | Expand(x)
            | Lag(x, _)
            | CumSum(x)
            | CumProd(x)
            | Segment(x)
            | SegmentProduct(x)
            | Inverse(x)
        ):
            return (x,)
        case Reduce(_, x) | Normalize(_, x) | Rename(x) | Select(x):
            return (x,)
        case Binary(_, a, b) | Contract(a, b):
            return (a, b)
        case Clamp(x, low, high):
            return (x, low, high)
        case Where(c, a, b):
            return (c, a, b)
        case MakeComplex(re, im):
            return (re, im)
        case Insert(x, _, _, y):
            return (x, y)
        case Stack(xs):
            return xs
        case SegmentAdjoint(g):
            return (g,)
        case Scores(q, k, a) | Spread(q, k, a):
            return (q, k, a)
        case ScoresAdjoint(q, k, a, g):
            return (q, k, a, g)
        case Recur(a, b, start, rows, after=after):
            return (a, b, start, rows) if after is None else (a, b, start, rows, after)
        case Tangent(x, a, b, start, rows):
            return (x, a, b, start, rows)
        case Grad(e, wrt):
            return (e, wrt)
        case _:
            return ()


def memories(recurrence: Recurrence) -> tuple[Memory, ...]:
    """What the lags of a recurrence remember, in order of first use: part of its carried state.

    The name of a memory is `<name>_lag` after the user's name of the value, or `lag<i>`.
    """
    depth: dict[tuple[Ref | None, str | None], int] = {}
    for value in recurrence.values:
        match value.op:
            case Lag(x, n):
                depth[x, None] = max(n, depth.get((x, None), 0))
            case LagState(followed, n):
                depth[None, followed] = max(n, depth.get((None, followed), 0))
    taken = {*recurrence.arguments, *(s.name for s in recurrence.states)}
    taken |= {s.name for s in recurrence.scalars} | {o.name for o in recurrence.outputs}
    out: list[Memory] = []
    for index, ((ref, state), n) in enumerate(depth.items()):
        if state is not None:
            declared = next(s for s in recurrence.states if s.name == state)
            dims, kind, base = declared.dims, declared.kind, state
        else:
            assert ref is not None
            value = recurrence.values[ref]
            dims, kind = value.dims, value.kind
            op = value.op
            base = op.name if isinstance(op, Input) else value.name or ""
        name = f"{base}_lag" if base else f"lag{index}"
        while name in taken:
            name += "_"
        taken.add(name)
        out.append(Memory(name, n, ref, state, dims, kind))
    return tuple(out)


def uses_time(recurrence: Recurrence) -> bool:
    """Whether the step looks at its position, which then is part of the carried state."""
    return any(isinstance(v.op, Time | Every) for v in recurrence.values)


def made_of(values: Sequence[Value], roots: Iterable[Ref]) -> set[Ref]:
    """The values that the roots are made of, the roots included."""
    seen: set[Ref] = set()
    stack = list(roots)
    while stack:
        ref = stack.pop()
        if ref not in seen:
            seen.add(ref)
            stack.extend(operands(values[ref].op))
    return seen
