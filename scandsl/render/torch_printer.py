"""Prints IR values as torch statements.

In: a list of values, what its leaves are called, and the values that are wanted.  Out: statements
and one expression per wanted value.  Decides nothing about mathematics.

A printed value has the layout `[*lead, *dims]`, its dimensions in the order of `Value.dims`.  The
number of lead axes does not matter: trailing axes are counted from the right, and an operand may
have fewer lead axes than another, or lead axes of size 1, where it does not vary.  Numbers
(literals, sizes, scalars) stay Python numbers as long as they can.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

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
    Expand,
    Insert,
    Inverse,
    Iota,
    Kind,
    Lag,
    MakeComplex,
    Normalize,
    Recur,
    Reduce,
    Ref,
    Rename,
    Row,
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
from scandsl.kernels.heads import is_product
from scandsl.kernels.program import ROW
from scandsl.kernels.spans import Span, spans
from scandsl.render.layout import bracketed, weight
from scandsl.render.names import Names
from scandsl.render.slopes import Slope, slope
from scandsl.render.stacked import STACK

ATOM, POWER, UNARY, MUL, ADD, BIT_AND, BIT_OR, COMPARE = 100, 90, 80, 70, 60, 50, 40, 30

# Which part of a square, with which diagonal, has a row's number compared so with its column's.
_TRIANGLES = {"ge": "tril", "gt": "tril -1", "le": "triu", "lt": "triu 1"}
_TURNED = {"ge": "le", "gt": "lt", "le": "ge", "lt": "gt"}

_NEST = 64  # an expression longer than this gets a name of its own
_LIMIT, _LINE = 74, 84  # longest expression, were all names equally long and as they are
_SIMPLE = re.compile(r"-?(\d[\d.e+-]*|[^\W\d][\w.]*)\Z")


@dataclass(frozen=True, slots=True)
class Text:
    """An expression: its precedence, and whether it is a Python number rather than a tensor."""

    text: str
    prec: int = ATOM
    number: bool = False
    call: tuple[str, ...] = ()  # of a plain call: the function, then its arguments
    fresh: bool = False  # a tensor that nothing else looks at, so that its room may be taken
    product: tuple[str, ...] = ()  # of a matrix product: left, right, and a factor if there is one
    diagonal: str = ""  # of a matrix with zeros beside its diagonal: what stands on it


@dataclass(frozen=True, slots=True)
class Scope:
    """What a printed function can refer to.

    `leaf` names the leaves that depend on where the values are used (inputs, params, states, loads,
    rows, positions); it may return `None` to leave a value to the printer.  `dtype`, `device` are
    expressions for the real compute dtype and the device; `sizes` for the size of each dimension.
    """

    leaf: Callable[[Ref, Value], Text | str | None]
    sizes: Mapping[str, str]
    dtype: str = "dtype"
    device: str = "device"
    comment: Callable[[Value], str | None] | None = None
    autograd: bool = False  # printed for torch's autograd rather than beside a printed adjoint
    numeric: bool = False  # everything is a Python number
    in_place: bool = False  # results may take the room of operands that nothing else looks at
    by_heads: bool = False  # the heads are one of the dimensions (`kernels.heads`)
    behind: frozenset[Ref] = frozenset()  # what a `where` elsewhere may leave out
    gaps: Mapping[Ref, str] = field(default_factory=dict)  # masks of rows, `None` where all hold


def literal(value: bool | int | float) -> Text:
    """A Python number as text."""
    if isinstance(value, bool | int):
        return Text(repr(value), UNARY if value < 0 else ATOM, number=True)
    if math.isinf(value):
        return Text("math.inf" if value > 0 else "-math.inf", ATOM if value > 0 else UNARY, True)
    if abs(value) == math.pi:
        return Text("math.pi" if value > 0 else "-math.pi", ATOM if value > 0 else UNARY, True)
    text = repr(value).replace("e+", "e")
    return Text(text, UNARY if text.startswith("-") else ATOM, number=True)


_FUNCTION: Mapping[str, str] = {
    "exp": "torch.exp", "log": "torch.log", "log1p": "torch.log1p", "expm1": "torch.expm1",
    "sqrt": "torch.sqrt", "rsqrt": "torch.rsqrt", "abs": "torch.abs", "sign": "torch.sgn",
    "floor": "torch.floor", "sin": "torch.sin", "cos": "torch.cos", "tanh": "torch.tanh",
    "sigmoid": "torch.sigmoid", "logsigmoid": "torch.nn.functional.logsigmoid",
    "silu": "torch.nn.functional.silu", "relu": "torch.relu", "elu": "torch.nn.functional.elu",
    "gelu": "torch.nn.functional.gelu", "erf": "torch.erf", "re": "torch.real", "im": "torch.imag",
    "conj": "torch.conj_physical", "softplus": "_softplus",
}  # fmt: skip

_NUMERIC: Mapping[str, str] = {
    "exp": "math.exp", "log": "math.log", "log1p": "math.log1p", "expm1": "math.expm1",
    "sqrt": "math.sqrt", "abs": "abs", "sin": "math.sin", "cos": "math.cos", "tanh": "math.tanh",
    "erf": "math.erf", "floor": "math.floor",
}  # fmt: skip

_OPERATOR: Mapping[str, tuple[str, int]] = {
    "add": ("+", ADD), "sub": ("-", ADD), "mul": ("*", MUL), "div": ("/", MUL), "mod": ("%", MUL),
    "lt": ("<", COMPARE), "le": ("<=", COMPARE), "gt": (">", COMPARE), "ge": (">=", COMPARE),
    "eq": ("==", COMPARE), "ne": ("!=", COMPARE), "and": ("&", BIT_AND), "or": ("|", BIT_OR),
}  # fmt: skip

# Operations whose result is a tensor of its own, never a view or the operand itself.
_MAKERS = (Binary, Contract, CumSum, Inverse, Reduce, Scores, ScoresAdjoint, Segment, Unary, Where)

# Functions whose derivative may be infinite or NaN: behind a `where` they need care under autograd.
_RISKY = frozenset(
    {"exp", "log", "log1p", "expm1", "sqrt", "rsqrt", "abs", "sin", "cos", "tanh", "silu", "gelu"}
    | {"erf", "softplus", "elu", "mul", "div", "pow", "mod", "logaddexp"}
)

_NAME_OF_OP: Mapping[type, str] = {
    Contract: "dot", Reduce: "total", Where: "chosen", Normalize: "normal", CumSum: "running",
    Insert: "filled", Stack: "stacked", Expand: "wide", Cast: "cast", Select: "entry",
    Segment: "spans",
}  # fmt: skip


class TorchPrinter:
    """Prints values of one function: `lines` are its statements, `helpers` what they call.

    `rooms` are empty lists that the function has to hold.
    """

    def __init__(self, values: Sequence[Value], scope: Scope, names: Names) -> None:
        self.values = values
        self.scope = scope
        self.names = names
        self.lines: list[str] = []
        self.helpers: set[str] = set()
        self.rooms: list[str] = []
        self._text: dict[Ref, Text] = {}
        self._uses: dict[Ref, int] = {}
        self._fixed: set[Ref] = set()
        self._adjoints: dict[tuple[Ref, ...], tuple[str, ...]] = {}
        self._spans: dict[tuple[Ref, bool, int], str] = {}
        self._known: Mapping[Ref, Span] = spans(values) if scope.in_place else {}
        self._slopes: dict[Ref, Slope | None] = {}
        self._decays = self._exponents() if scope.in_place else frozenset()
        self._stacks: dict[Ref, list[str]] = {}
        self._runs: dict[Recur, str] = {}
        self._behind: frozenset[Ref] = frozenset()
        self._expected = False
        self._commented: set[str] = set()

    # ------------------------------------------------------------ the walk

    def expect(self, roots: Sequence[Ref]) -> None:
        """Announce all roots, where `emit` is called more than once and values may be shared."""
        self._needed(roots)
        self._expected = True

    def emit(self, roots: Sequence[Ref]) -> list[str]:
        """Print what `roots` need; their expressions (names or short expressions) in order."""
        order = self._needed(roots)
        if self.scope.autograd:
            self._behind = _behind_where(self.values, order, self.scope.behind)
        for ref in order:
            if ref not in self._text:
                self._text[ref] = self._compute(ref)
                self._settle(ref)
                if self._uses[ref] > 1:  # what another name stands for may be used once itself
                    self._text[ref] = replace(self._text[ref], fresh=False)
        return [self._text[r].text for r in roots]

    def is_number(self, ref: Ref) -> bool:
        """Whether a printed value is a Python number."""
        return self._text[ref].number

    def tensor_of(self, ref: Ref, atom: bool = False) -> str:
        """A printed value as a tensor, also when it is a number; in brackets if it has to be."""
        text = self._tensor(self._text[ref], self.values[ref].kind)
        return wrapped(text, ATOM) if atom else text.text

    def _leaf(self, ref: Ref) -> Text | None:
        found = self.scope.leaf(ref, self.values[ref])
        return Text(found) if isinstance(found, str) else found

    def _is_given(self, ref: Ref) -> bool:
        return self._leaf(ref) is not None and not isinstance(self.values[ref].op, Const)

    def _needed(self, roots: Sequence[Ref]) -> list[Ref]:
        seen: set[Ref] = set()
        stack = list(roots)
        for ref in roots:
            self._count(ref)
        while stack:
            ref = stack.pop()
            if ref in seen or ref in self._text:
                continue
            seen.add(ref)
            if self._leaf(ref) is not None:
                continue
            for operand in self._read(ref):
                self._count(operand)
                stack.append(operand)
        return sorted(seen)

    def _read(self, ref: Ref) -> tuple[Ref, ...]:
        """The values that the text of a value holds: of a diagonal what stands on it."""
        if ref in self._known:
            known = self._known[ref]
            return (known.decays,) if known.rows is None else (known.decays, known.rows)
        if (found := self._slope_of(ref)) is not None:
            return (found.g, found.at)
        return self.read(ref)

    def read(self, ref: Ref) -> tuple[Ref, ...]:
        """The values that an operation reads as it is printed: a masked one not always its mask."""
        value = self.values[ref]
        if isinstance(value.op, Where):
            op = value.op
            if self._diagonal(value, op) or self._triangle(value, op, 0.0) is not None:
                return (op.a,)
            if self._capped(value, op):
                return (op.b,)
        if (masked := self._masked_exp(value)) is not None:
            return masked[:1]
        return operands(value.op)

    def _count(self, ref: Ref) -> None:
        if not self._expected:
            self._uses[ref] = self._uses.get(ref, 0) + 1

    def named(self, ref: Ref) -> str:
        """A printed value as a name; a number in brackets if it is more than one word."""
        text = self._text[ref]
        if not _SIMPLE.match(text.text) and text.number:
            return f"({text.text})"
        if not _SIMPLE.match(text.text):
            self._bind(ref)
        return self._text[ref].text

    def _settle(self, ref: Ref) -> None:
        """Give a value a name if it is used twice, has the user's name, or is long."""
        text = self._text[ref]
        if _SIMPLE.match(text.text) or ref in self._fixed:
            return
        value = self.values[ref]
        short = text.number and weight(text.text) <= 14
        if (self._uses[ref] > 1 and not short) or value.name:
            self._bind(ref)
        elif weight(text.text) > _NEST:
            self._shorten(ref)

    def _bind(self, ref: Ref) -> None:
        value = self.values[ref]
        text = self._text[ref]
        name = self._name(value)
        if self.scope.comment is not None:
            note = self.scope.comment(value)
            if note and note not in self._commented:
                self._commented.add(note)
                self.lines.append("# " + note)
        if text.call and len(name) + len(text.text) > 78:
            self.lines += bracketed(f"{name} = {text.call[0]}(", text.call[1:], ")", indent=10)
        else:
            self.lines.append(f"{name} = {text.text}")
        fresh = text.fresh and self._uses[ref] == 1
        self._text[ref] = Text(name, number=text.number, fresh=fresh)

    def _name(self, value: Value) -> str:
        if value.name:
            return self.names.fresh(value.name)
        if isinstance(value.op, Unary):
            return self.names.fresh(value.op.fn + "_", numbered=True)
        return self.names.fresh(_NAME_OF_OP.get(type(value.op), "x"), numbered=True)

    def _compute(self, ref: Ref) -> Text:
        """The expression of a value; operands are given names until it is short enough."""
        found = self._leaf(ref)
        if found is not None:
            self._fixed.add(ref)
            return found
        text = self._fresh(ref, self._print(ref))
        if self._fits(text):
            return text
        loose = [r for r in dict.fromkeys(self._read(ref)) if self._loose(r)]
        for operand in sorted(loose, key=lambda r: (-weight(self._text[r].text), r)):
            self._shorten(operand)
            text = self._fresh(ref, self._print(ref))
            if self._fits(text):
                break
        return text

    def _fresh(self, ref: Ref, text: Text) -> Text:
        """The expression of a value, marked if it makes a tensor of its own."""
        value = self.values[ref]
        op = value.op
        view = isinstance(op, Unary) and op.fn in ("re", "im", "conj")
        if self.scope.autograd or view or not isinstance(op, _MAKERS):
            return text
        if self.scope.in_place and isinstance(op, Where) and masks_rows(self.values, value, op.c):
            return text
        name = _SIMPLE.match(text.text)
        return text if text.number or name else replace(text, fresh=True)

    def _shorten(self, ref: Ref) -> None:
        """Give a value a name; or its operands, if it is a matrix product that may join a sum."""
        if not (self._text[ref].product and self.scope.in_place and self._uses[ref] == 1):
            self._bind(ref)
            return
        path = [ref]
        while not isinstance(self.values[path[-1]].op, Contract):
            path += [r for r in operands(self.values[path[-1]].op) if self._text[r].product]
        loose = [r for r in operands(self.values[path[-1]].op) if self._loose(r)]
        if not loose:
            self._bind(ref)
            return
        for operand in dict.fromkeys(loose):
            self._bind(operand)
        for step in reversed(path):
            self._text[step] = self._fresh(step, self._print(step))

    def _fits(self, text: Text) -> bool:
        return weight(text.text) <= _LIMIT and len(text.text) <= _LINE

    def _loose(self, ref: Ref) -> bool:
        return ref not in self._fixed and not _SIMPLE.match(self._text[ref].text)

    # ------------------------------------------------------------ pieces

    def operand(self, ref: Ref, dims: Dims) -> Text:
        """A printed value with singleton axes put in, so that it lines up with `dims`."""
        text = self._text[ref]
        have = self.values[ref].dims
        if text.number or have == dims or not dims:
            return text
        return self.aligned(text, have, dims)

    def aligned(self, text: Text, have: Dims, dims: Dims) -> Text:
        """`text` of dimensions `have` (a part of `dims`, in order) lined up with `dims`."""
        picks = [":" if d in have else "None" for d in dims]
        while picks and picks[0] == ":":
            picks.pop(0)
        if not picks:
            return text
        return Text(f"{wrapped(text, ATOM)}[..., {', '.join(picks)}]")

    def _tensor(self, text: Text, kind: Kind) -> Text:
        if not text.number:
            return text
        dtype = self.dtype(kind)
        return Text(f"torch.tensor({text.text}, dtype={dtype}, device={self.scope.device})")

    def dtype(self, kind: Kind) -> str:
        """The torch dtype of a kind of values."""
        if kind is Kind.BOOL:
            return "torch.bool"
        if kind is Kind.INT:
            return "torch.int64"
        return self.scope.dtype if kind is Kind.REAL else f"{self.scope.dtype}.to_complex()"

    def call(self, function: str, *arguments: str) -> Text:
        """A call; functions with a leading underscore are helpers of the module."""
        if function.startswith("_"):
            self.helpers.add(function)
        return Text(f"{function}({', '.join(arguments)})", call=(function, *arguments))

    def _strictly(self, ref: Ref, fn: str, text: Text, function: str, *xs: Text) -> Text:
        """The operation with a derivative that keeps a zero gradient zero, if that is needed."""
        if ref not in self._behind or fn not in _RISKY:
            return text
        kind = self.values[ref].kind
        return self.call("_strict", function, *(self._tensor(x, kind).text for x in xs))

    # ------------------------------------------------------------ one value

    def _print(self, ref: Ref) -> Text:
        value = self.values[ref]
        match value.op:
            case Const(number):
                return literal(number)
            case Size(dim):
                return Text(self.scope.sizes[dim], number=True)
            case Iota(dim):
                return Text(f"torch.arange({self.scope.sizes[dim]}, device={self.scope.device})")
            case Unary() if ref in self._known:
                return self._over_span(value, self._known[ref])
            case Unary():
                return self._applied(ref, value, value.op)
            case Binary():
                found = self._slope_of(ref)
                return self._slope(value, found) if found else self._binary(ref, value, value.op)
            case Cast(x):
                text = self._text[x]
                return (
                    text
                    if text.number
                    else Text(f"{wrapped(text, ATOM)}.to({self.dtype(value.kind)})")
                )
            case Clamp():
                return self._clamp(value, value.op)
            case Where(c, a, b):
                return self._where(value, c, a, b)
            case MakeComplex(re, im):
                return self._complex(value, re, im)
            case StopGrad(x):
                text = self._text[x]
                detach = self.scope.autograd and not text.number
                return Text(f"{wrapped(text, ATOM)}.detach()") if detach else text
            case _:
                return self._dimensional(ref, value)

    def _dimensional(  # noqa: C901 - one case per operation
        self, ref: Ref, value: Value
    ) -> Text:
        match value.op:
            case Contract():
                return self._contract(value, value.op)
            case Reduce():
                return self._reduce(value.op)
            case Normalize():
                return self._normalize(value.op)
            case Rename(x, pairs):
                return self._rename(value, x, dict(pairs))
            case Select(x, dim, index) if dim.startswith(STACK):
                return Text(self._entries(x, dim)[index])
            case Select(x, dim, index):
                dims = self.values[x].dims
                rest = [":"] * (len(dims) - dims.index(dim) - 1)
                text = self._tensor(self._text[x], value.kind)
                return Text(f"{wrapped(text, ATOM)}[..., {', '.join([str(index), *rest])}]")
            case Insert(x, dim, index, y):
                axis = value.dims.index(dim) - len(value.dims)
                rest_dims = tuple(d for d in value.dims if d != dim)
                inner = self._tensor(self.operand(y, rest_dims), value.kind)
                whole = self._tensor(self.operand(x, value.dims), value.kind)
                return self.call("_insert", whole.text, str(axis), str(index), inner.text)
            case Stack(xs, dim):
                axis = value.dims.index(dim) - len(value.dims)
                rest_dims = tuple(d for d in value.dims if d != dim)
                parts = [self._tensor(self.operand(x, rest_dims), value.kind).text for x in xs]
                return self.call("_stack", str(axis), *parts)
            case Expand(x):
                return self._expand(value, x)
            case Scores(q, k, a, factors=factors, block=block):
                arguments = self._decayed((q, k), a, factors, block)
                return self.call("_scores", *arguments, *self._several(q))
            case ScoresAdjoint(q, k, a, g):
                text = self._scores_adjoint(value.op, (q, k, a, g))
                return replace(text, fresh=self._uses[ref] == 1)
            case Spread(m, x, a, factors=factors, block=block):
                return self.call("_weighted", *self._decayed((m, x), a, factors, block))
            case Recur(of=of):
                return Text(f"{self._recurrence(value, value.op)}.{of}")
            case Tangent():
                raise InternalError("tangents go once a program has been differentiated")
            case SegmentProduct(x, exclusive=exclusive):
                return self.call("_segment_product", self._text[x].text, repr(exclusive))
            case CumProd(x, dim, reverse, exclusive):
                axis = value.dims.index(dim) - len(value.dims)
                flags = (str(axis), repr(reverse), repr(exclusive))
                return self.call("_cumprod", self._text[x].text, *flags)
            case Inverse(x):
                return self.call("_triangular_inverse", self._text[x].text)
            case Segment(x):
                function = "_segment_decays" if ref in self._decays else "_segment_sum"
                return self.call(function, self._text[x].text)
            case SegmentAdjoint(g):
                return self.call("_segment_adjoint", self._text[g].text)
            case CumSum(x, dim, reverse, exclusive):
                axis = value.dims.index(dim) - len(value.dims)
                return self._cumsum(self._text[x], axis, reverse, exclusive)
            case _:
                raise InternalError(f"the torch printer was not told what {value.op} is called")

    def _entries(self, x: Ref, dim: str) -> list[str]:
        """Names for all entries of a stack."""
        if x not in self._stacks:
            dims = self.values[x].dims
            size = int(self.scope.sizes[dim])
            names = [self.names.fresh("entry", numbered=True) for _ in range(size)]
            self.lines.append(
                f"{', '.join(names)} = {self.named(x)}.unbind({dims.index(dim) - len(dims)})"
            )
            self._stacks[x] = names
        return self._stacks[x]

    def _cumsum(self, text: Text, axis: int, reverse: bool, exclusive: bool) -> Text:
        inner = wrapped(text, ATOM)
        if self.scope.in_place and axis == -2:
            return self.call("_row_sums", text.text, f"reverse={reverse}", f"exclusive={exclusive}")
        if exclusive:
            return self.call("_cumsum_exclusive", text.text, str(axis), repr(reverse))
        if reverse:
            return Text(f"{inner}.flip({axis}).cumsum({axis}).flip({axis})")
        return Text(f"{inner}.cumsum({axis})")

    # ------------------------------------------------------------ elementwise

    def _applied(self, ref: Ref, value: Value, op: Unary) -> Text:
        of, cut = self._masked_exp(value) or (op.x, None)
        x = self._text[of]
        if of in self._decays:
            return self._cut(x, cut, x.fresh)
        return self._cut(self._unary(ref, op.fn, x, self.values[of]), cut, True)

    def _unary(self, ref: Ref, fn: str, x: Text, of: Value) -> Text:
        if fn == "neg":
            if x.fresh and self.scope.in_place:
                return Text(f"{wrapped(x, ATOM)}.neg_()")
            return Text("-" + wrapped(x, UNARY), UNARY, x.number)
        if fn == "not":
            return Text("~" + wrapped(self._tensor(x, Kind.BOOL), UNARY), UNARY)
        if fn in ("re", "conj") and of.kind is not Kind.COMPLEX:
            return x
        if fn == "im" and of.kind is not Kind.COMPLEX:
            return Text("0.0", number=True) if x.number else self.call("torch.zeros_like", x.text)
        if x.number and fn == "sqrt" and isinstance(_bare(self.values, ref), Size):
            return self._pow(x, Text("0.5", number=True))
        if x.number and fn == "rsqrt" and isinstance(_bare(self.values, ref), Size):
            return self._pow(x, Text("-0.5", UNARY, number=True))
        if x.number and self.scope.numeric and fn in _NUMERIC:
            return Text(f"{_NUMERIC[fn]}({x.text})", number=True)
        x = self._tensor(x, of.kind)
        function = _FUNCTION[fn]
        if fn == "exp" and x.fresh and self.scope.in_place and of.kind is Kind.REAL:
            return Text(f"{wrapped(x, ATOM)}.exp_()")
        return self._strictly(ref, fn, self.call(function, x.text), function, x)

    def _pow(self, a: Text, b: Text) -> Text:
        number = a.number and b.number
        tight = _SIMPLE.match(a.text) and _SIMPLE.match(b.text) and a.prec > UNARY
        left = wrapped(a, POWER + 1)
        right = wrapped(b, UNARY)
        return Text(f"{left}**{right}" if tight else f"{left} ** {right}", POWER, number)

    def _binary(self, ref: Ref, value: Value, op: Binary) -> Text:
        a, b = self.operand(op.a, value.dims), self.operand(op.b, value.dims)
        kind = self.values[op.a].kind
        if a.number and b.number and not self._stays_number(op):
            a = self._tensor(a, kind)
        if op.fn in ("max", "min"):
            return self._extreme(op.fn, a, b)
        if op.fn == "logaddexp":
            a, b = self._tensor(a, kind), self._tensor(b, kind)
            function = "torch.logaddexp"
            if self.scope.autograd:
                return self.call("_strict", function, a.text, b.text)
            return self.call(function, a.text, b.text)
        if op.fn == "pow":
            return self._strictly(ref, "pow", self._pow(a, b), "torch.pow", a, b)
        if self.scope.in_place and value.kind is kind is self.values[op.b].kind is Kind.REAL:
            found = self._in_place(op.fn, a, b)
            if found is not None:
                return found
        sign, prec = _OPERATOR[op.fn]
        left = wrapped(a, prec + 1 if prec == COMPARE else prec)
        text = Text(f"{left} {sign} {wrapped(b, prec + 1)}", prec, a.number and b.number)
        if text.number:
            return text
        function = {"mul": "torch.mul", "div": "torch.div", "mod": "torch.remainder"}.get(op.fn, "")
        return self._strictly(ref, op.fn, text, function, a, b)

    def _slope_of(self, ref: Ref) -> Slope | None:
        """The value as a cotangent times a slope, where autograd and numbers do not forbid it."""
        if self.scope.autograd or self.scope.numeric:
            return None
        if ref not in self._slopes:
            self._slopes[ref] = slope(self.values, ref, self._is_given)
        return self._slopes[ref]

    def _slope(self, value: Value, found: Slope) -> Text:
        """A cotangent times the slope of a function, in one pass."""
        parts = [self._tensor(self.operand(r, value.dims), value.kind) for r in (found.g, found.at)]
        return self.call(found.kernel, *(part.text for part in parts))

    def _in_place(self, fn: str, a: Text, b: Text) -> Text | None:
        """The operation in the room of an operand; `None` if both are still needed."""
        if fn not in ("add", "sub", "mul"):
            return None
        if fn == "add" and (a.diagonal or b.diagonal):
            a, b = (b, a) if a.diagonal else (a, b)
            return self.call("_add_diagonal_", a.text, b.diagonal) if a.fresh else None
        if fn != "sub" and (not a.fresh or (fn == "add" and a.product and not b.product)):
            a, b = (b, a) if b.fresh else (a, b)
        if not a.fresh:
            return None
        if b.number:
            text = Text(f"{wrapped(a, ATOM)}.{fn}_({b.text})")
            if fn == "mul" and len(a.product) == 2 and _SIMPLE.match(b.text):
                found = self.call("_matmul_scaled", *a.product, b.text)
                return replace(found, product=(*a.product, b.text))
            return text
        if fn == "add" and b.product:
            return self.call("_matmul_add_", a.text, *b.product)
        return self.call(f"_{fn}_", a.text, b.text)

    def _stays_number(self, op: Binary) -> bool:
        """Whether an operation on Python numbers gives what torch would give."""
        if op.fn in ("add", "sub", "mul"):
            return True
        if self.scope.numeric and op.fn in ("div", "pow", "mod"):
            return True
        base, other = _bare(self.values, op.a), _bare(self.values, op.b)
        if op.fn == "div":
            return isinstance(other, Size) or (isinstance(other, Const) and other.value != 0)
        if op.fn == "pow":
            positive = isinstance(base, Size) or (isinstance(base, Const) and base.value > 0)
            return positive and isinstance(other, Const) and abs(other.value) <= 16
        return False

    def _extreme(self, fn: str, a: Text, b: Text) -> Text:
        function = "torch.maximum" if fn == "max" else "torch.minimum"
        if a.number:
            a, b = b, a
        if not b.number:
            return self.call(function, a.text, b.text)
        if self.scope.autograd:  # clamp has another derivative at a tie
            return self.call(function, a.text, f"torch.full_like({a.text}, {b.text})")
        bound = "min" if fn == "max" else "max"
        return self.call("torch.clamp", a.text, f"{bound}={b.text}")

    def _clamp(self, value: Value, op: Clamp) -> Text:
        x = self._tensor(self.operand(op.x, value.dims), value.kind)
        low, high = self.operand(op.low, value.dims), self.operand(op.high, value.dims)
        if low.number != high.number:
            low, high = self._tensor(low, value.kind), self._tensor(high, value.kind)
        return self.call("torch.clamp", x.text, low.text, high.text)

    def _where(self, value: Value, c: Ref, a: Ref, b: Ref) -> Text:
        if self._diagonal(value, Where(c, a, b)):
            entries = self._tensor(self._text[a], value.kind)
            if self.values[a].dims == value.dims[:-1]:
                return replace(self.call("torch.diag_embed", entries.text), diagonal=entries.text)
            size = self.scope.sizes[value.dims[-1]]
            spread = f"{wrapped(entries, ATOM)}[..., None]"
            return replace(self.call("_times_identity", entries.text, size), diagonal=spread)
        op = Where(c, a, b)
        if (cut := self._triangle(value, op, 0.0)) is not None:
            x = self.operand(a, value.dims)
            return self._cut(x, cut, x.fresh and self.scope.in_place)
        if self._capped(value, op):
            return self.call("torch.clamp", self.operand(b, value.dims).text, "max=1.0")
        condition = self._tensor(self.operand(c, value.dims), Kind.BOOL)
        x, y = self.operand(a, value.dims), self.operand(b, value.dims)
        mask = self.values[c].op
        if self.scope.in_place and isinstance(mask, Row) and masks_rows(self.values, value, c):
            rows, after = self._gaps(c), len(value.dims) - 1 - value.dims.index(mask.dim)
            return replace(self.call("_held", x.text, rows, str(after), y.text), fresh=x.fresh)
        if x.number and y.number:
            x = self._tensor(x, value.kind)
        elif value.kind is Kind.COMPLEX:
            x, y = self._tensor(x, value.kind), self._tensor(y, value.kind)
        return self.call("torch.where", condition.text, x.text, y.text)

    def _diagonal(self, value: Value, op: Where) -> bool:
        """Whether a value is a square with `op.a` on its diagonal and zeros beside it.

        `op.a` is one number for each entry of the diagonal, or one for all of them.
        """
        same = self.values[op.c].op
        if not (isinstance(same, Binary) and same.fn == "eq" and len(value.dims) > 1):
            return False
        sides = [self.values[r].op for r in (same.a, same.b)]
        along = [x.dim for x in sides if isinstance(x, Iota)]
        other = self.values[op.b].op
        zero = isinstance(other, Const) and other.value == 0
        first, last = value.dims[-2:]
        rest = tuple(d for d in value.dims if d != last)
        given = self.values[op.a]
        spread = given.dims == rest or (given.varies and given.dims == rest[:-1])
        return zero and set(along) == {first, last} and spread

    def _triangle(self, value: Value, op: Where, beside: float) -> str | None:
        """The arguments of `tril` or `triu` if a value is such a part of `op.a`, else `None`.

        Beside it there is the number `beside`.  Choices by a mask cost a CPU many times as much.
        """
        test = self.values[op.c].op
        other = self.values[op.b].op
        if not (isinstance(test, Binary) and test.fn in _TRIANGLES and len(value.dims) > 1):
            return None
        if not (isinstance(other, Const) and other.value == beside and not self.scope.autograd):
            return None
        sides = [self.values[r].op for r in (test.a, test.b)]
        along = tuple(x.dim for x in sides if isinstance(x, Iota))
        fn = test.fn if along == value.dims[-2:] else _TURNED[test.fn]
        if along not in (value.dims[-2:], value.dims[:-3:-1]):
            return None
        return _TRIANGLES[fn] if self.values[op.a].dims == value.dims else None

    def _cut(self, x: Text, cut: str | None, in_place: bool) -> Text:
        """A part of a square, in its room if nothing else looks at it; all of it for `None`."""
        if cut is None:
            return x
        name, _, diagonal = cut.partition(" ")
        return Text(f"{wrapped(x, ATOM)}.{name}{'_' * in_place}({diagonal})")

    def _masked_exp(self, value: Value) -> tuple[Ref, str] | None:
        """The `a` of `exp(where(triangle, a, -inf))`, and which part of `exp(a)` that is."""
        if not (isinstance(value.op, Unary) and value.op.fn == "exp"):
            return None
        op = self.values[value.op.x].op
        if value.kind is not Kind.REAL or not isinstance(op, Where) or self._is_given(value.op.x):
            return None
        cut = self._triangle(value, op, -math.inf)
        return None if cut is None else (op.a, cut)

    def _exponents(self) -> frozenset[Ref]:
        """The sums of logs over spans that only exponentials look at: printed as these."""
        real = (r for r, v in enumerate(self.values) if v.kind is Kind.REAL)
        sums = {r for r in real if isinstance(self.values[r].op, Segment)}
        masked = {}
        for ref, value in enumerate(self.values):
            if isinstance(value.op, Where) and value.op.a in sums and value.op.b not in sums:
                masked[ref] = value.op.a
        seen = set()
        for ref, value in enumerate(self.values):
            exp = isinstance(value.op, Unary) and value.op.fn == "exp"
            for x in operands(value.op):
                if x in sums and not exp and ref not in masked:
                    seen.add(x)
                elif x in masked and self._masked_exp(value) is None:
                    seen.add(masked[x])
        return frozenset(sums - seen)

    def _capped(self, value: Value, op: Where) -> bool:
        """Whether a value is the slope of elu: one above zero, else `elu(x) + 1`, which is less."""
        test, one, slope_ = (self.values[r].op for r in (op.c, op.a, op.b))
        if not (isinstance(test, Binary) and test.fn == "gt" and isinstance(slope_, Binary)):
            return False
        zero, bump = self.values[test.b].op, self.values[slope_.b].op
        elu = self.values[slope_.a].op
        numbers = [x.value for x in (one, zero, bump) if isinstance(x, Const)]
        same = isinstance(elu, Unary) and elu.fn == "elu" and elu.x == test.a
        return same and slope_.fn == "add" and numbers == [1, 0, 1] and not self.scope.autograd

    def _complex(self, value: Value, re_: Ref, im: Ref) -> Text:
        x, y = self.operand(re_, value.dims), self.operand(im, value.dims)
        if x.number and y.number:
            x, y = self._tensor(x, Kind.REAL), self._tensor(y, Kind.REAL)
        if x.number:
            x = self._beside(y, x)
        if y.number:
            y = self._beside(x, y)
        return self.call("_complex", x.text, y.text)

    def _beside(self, x: Text, number: Text) -> Text:
        """A number as the other part of a complex value; `x`, unless a name, is printed once."""
        if x.text.isidentifier():
            return self.call("torch.full_like", x.text, number.text)
        return self._tensor(number, Kind.REAL)

    # ------------------------------------------------------------ dimensions

    def _axes(self, dims: Dims, over: Iterable[str]) -> str:
        axes = [dims.index(d) - len(dims) for d in over]
        return str(axes[0]) if len(axes) == 1 else f"({', '.join(map(str, axes))})"

    def _reduce(self, op: Reduce) -> Text:
        dims = self.values[op.x].dims
        x = wrapped(self._text[op.x], ATOM)
        axes = self._axes(dims, op.over)
        match op.fn:
            case "sum" | "mean":
                return Text(f"{x}.{op.fn}({axes})")
            case "max" | "min":
                return Text(f"{x}.a{op.fn}({axes})")
            case "logsumexp":
                return Text(f"{x}.logsumexp({axes})")
            case _:
                if len(op.over) == 1:
                    return Text(f"{x}.argmax({axes})")
                last = ", ".join(str(i - len(op.over)) for i in range(len(op.over)))
                return Text(f"{x}.movedim({axes}, ({last})).flatten(-{len(op.over)}).argmax(-1)")

    def _normalize(self, op: Normalize) -> Text:
        text = self._text[op.x]
        axes = self._axes(self.values[op.x].dims, op.over)
        if op.fn == "softmax":
            if len(op.over) == 1:
                return Text(f"{wrapped(text, ATOM)}.softmax({axes})")
            return self.call("_softmax", text.text, axes)
        if not axes.startswith("("):
            axes = f"({axes},)"
        return self.call(f"_{op.fn}", text.text, axes, literal(op.eps).text)

    def _rename(self, value: Value, x: Ref, table: Mapping[str, str]) -> Text:
        renamed = tuple(table.get(d, d) for d in self.values[x].dims)
        return self._permuted(self._text[x], renamed, value.dims)

    def _permuted(self, text: Text, have: Dims, want: Dims) -> Text:
        if text.number or have == want:
            return text
        n = len(have)
        moved = [i for i in range(n) if have[i] != want[i]]
        if moved == [n - 2, n - 1]:
            return Text(f"{wrapped(text, ATOM)}.mT")
        return Text(wrapped(text, ATOM) + moved_axes(have, want))

    def _expand(self, value: Value, x: Ref) -> Text:
        text = self._text[x]
        sizes = [self.scope.sizes[d] for d in value.dims]
        if text.number:
            dtype = self.dtype(value.kind)
            shape = sizes[0] + "," if len(sizes) == 1 else ", ".join(sizes)
            rest = f"dtype={dtype}, device={self.scope.device}"
            return Text(f"torch.full(({shape}), {text.text}, {rest})")
        return self.call("_expand", self.operand(x, value.dims).text, *sizes)

    # ------------------------------------------------------------ recurrences along rows

    def recurrence_arguments(self, dims: Dims, op: Recur) -> list[str]:
        """Factors, terms, rows, the axis of the rows and their number; `dims` with the rows."""
        rows = self._text[op.rows].text
        axis = dims.index(op.row) - len(dims)
        linear = op.algebra == "linear"
        terms = "None" if linear and self._is_zero(op.b) else self.along(op.b, dims)
        return [self.along(op.a, dims), terms, rows, str(axis), self.scope.sizes[op.row]]

    def _recurrence(self, value: Value, op: Recur) -> str:
        """The name of a recurrence, which is printed once for all of its values."""
        key = replace(op, of="each")
        if key not in self._runs:
            dims = value.dims if op.row in value.dims else (op.row, *value.dims)
            arguments = self.recurrence_arguments(dims, op)
            linear = op.algebra == "linear"
            none = linear and self._is_zero(op.start)
            arguments.append("None" if none else self.along(op.start, dims))
            if linear:
                arguments.append(self.room())
            if op.after is not None:
                arguments.append(self.along(op.after, dims))
            name = self.names.fresh("run", numbered=True)
            function = "_recurrence_adjoint" if op.adjoint else "_recurrence"
            if not linear:
                function = "_fold"
                arguments.append(f'"{op.algebra}"')
            call = self.call(function, *arguments)
            self.lines += bracketed(f"{name} = {function}(", call.call[1:], ")", indent=10)
            self._runs[key] = name
        return self._runs[key]

    def room(self) -> str:
        """The name of memory that a recurrence takes again and again."""
        self.rooms.append(self.names.fresh("room", numbered=True))
        return self.rooms[-1]

    def along(self, ref: Ref, dims: Dims) -> str:
        """A printed value as a tensor whose axes line up with `dims`."""
        text = self._tensor(self._text[ref], self.values[ref].kind)
        return self.aligned(text, self.values[ref].dims, dims).text

    def _is_zero(self, ref: Ref) -> bool:
        op = self.values[ref].op
        while isinstance(op, Cast | Expand):
            op = self.values[op.x].op
        return isinstance(op, Const) and op.value == 0

    # ------------------------------------------------------------ contractions

    def _decayed(self, refs: Sequence[Ref], decays: Ref, factors: bool, block: int) -> list[str]:
        """Arguments of a function of rows and of the decays between them."""
        tensors = [self._tensor(self._text[r], self.values[r].kind).text for r in refs]
        return [*tensors, self._spans_of(decays, factors, block)]

    def _spans_of(self, decays: Ref, factors: bool, block: int) -> str:
        """The name of decays over stretches of rows, which are printed once."""
        key = (decays, factors, block)
        if key not in self._spans:
            name = self.names.fresh("spans", numbered=True)
            text = self._tensor(self._text[decays], self.values[decays].kind).text
            how = ["factors=True"] if factors else [f"block={block}"] if block else []
            whole = any(x.decays == decays and x.block == block for x in self._known.values())
            how += ["whole=True"] if whole and not factors else []
            self.lines.append(f"{name} = {self.call('_spans', text, *how).text}")
            self._spans[key] = name
        return self._spans[key]

    def _over_span(self, value: Value, known: Span) -> Text:
        """A product of decays that is known from those between rows."""
        name = self._spans_of(known.decays, False, known.block)
        if known.of == "through":
            return Text(f"{name}.since * {name}.each", MUL)
        text = Text(f"{name}.{known.of}")
        if known.rows is None:
            return text
        after = len(value.dims) - 1 - value.dims.index(ROW)
        return self.call("_held", text.text, self._gaps(known.rows), str(after), "0.0")

    def _gaps(self, rows: Ref) -> str:
        """A mask of rows for those that only ask where one holds no token."""
        return self.scope.gaps.get(rows, self._text[rows].text)

    def _several(self, q: Ref) -> list[str]:
        """How many queries a token has, where they are stacked."""
        op = self.values[q].op
        return [f"several={len(op.xs)}"] if isinstance(op, Stack) else []

    def _scores_adjoint(self, op: ScoresAdjoint, refs: tuple[Ref, ...]) -> Text:
        """One of three results of one call, which is printed once."""
        if refs not in self._adjoints:
            names = tuple(self.names.fresh("d_scores", numbered=True) for _ in range(3))
            arguments = self._decayed((op.q, op.k), op.a, op.factors, op.block)
            arguments += [self._text[op.g].text, *self._several(op.q)]
            call = self.call("_scores_adjoint", *arguments)
            self.lines.append(f"{', '.join(names)} = {call.text}")
            self._adjoints[refs] = names
        return Text(self._adjoints[refs]["qka".index(op.of)])

    def _contract(self, value: Value, op: Contract) -> Text:
        a, b = self.values[op.a], self.values[op.b]
        x, y = self._tensor(self._text[op.a], a.kind), self._tensor(self._text[op.b], b.kind)
        if self.scope.by_heads:
            return self._contract_heads(value, op, x, y)
        over = set(op.over)
        mine = [d for d in a.dims if d not in over]
        yours = [d for d in b.dims if d not in over]
        if not mine and not yours:
            return Text(f"({_product(x, y)}).sum({self._axes(a.dims, op.over)})")
        if value.kind in (Kind.BOOL, Kind.INT):
            every = tuple(sorted({*a.dims, *b.dims}, key=self._order(value, op)))
            left, right = self.operand(op.a, every), self.operand(op.b, every)
            return Text(f"({_product(left, right)}).sum({self._axes(every, op.over)})")
        if a.dims == b.dims:
            return Text(f"({_product(x, y)}).sum({self._axes(a.dims, op.over)})")
        plain = len(over) == 1 and len(mine) <= 1 and len(yours) <= 1 and mine != yours
        if not plain or a.varies != b.varies:
            return self._einsum(value, op, x, y)
        (inner,) = over
        if not mine or not yours:
            matrix, vector = (y, x) if not mine else (x, y)
            dims = b.dims if not mine else a.dims
            if dims[0] == inner:
                row = f"{wrapped(vector, ATOM)}[..., None, :]"
                return Text(f"({row} @ {wrapped(matrix, MUL + 1)})[..., 0, :]")
            return Text(f"({wrapped(matrix, MUL)} @ {wrapped(vector, ATOM)}[..., None])[..., 0]")
        left, right, first, second = x, y, a.dims, b.dims
        if value.dims[0] == yours[0]:
            left, right, first, second = y, x, b.dims, a.dims
        if first[0] == inner:
            left = Text(wrapped(left, ATOM) + ".mT")
        if second[1] == inner:
            right = Text(wrapped(right, ATOM) + ".mT")
        text = f"{wrapped(left, MUL)} @ {wrapped(right, MUL + 1)}"
        return Text(text, MUL, product=(left.text, right.text))

    def _contract_heads(self, value: Value, op: Contract, x: Text, y: Text) -> Text:
        """A sum where the heads are a dimension; what has rows comes first in a product."""
        a, b = self.values[op.a], self.values[op.b]
        if is_product(self.values, op):
            return self._einsum(value, op, x, y, turned=b.varies and not a.varies)
        every = tuple(sorted({*a.dims, *b.dims}, key=self._order(value, op)))
        parts = [self.aligned(t, v.dims, every).text for t, v in ((x, a), (y, b))]
        axes = self._axes(every, op.over)
        return self.call("_sum_over", *parts, axes if axes.startswith("(") else f"({axes},)")

    def _order(self, value: Value, op: Contract) -> Callable[[str], int]:
        """Places of dimensions in the order that both operands and the result keep."""
        merged = merge_orders([self.values[op.a].dims, self.values[op.b].dims, value.dims])
        return {d: i for i, d in enumerate(merged)}.__getitem__

    def _einsum(self, value: Value, op: Contract, x: Text, y: Text, turned: bool = False) -> Text:
        """`torch.einsum`, with the second operand first where it is `turned`."""
        letters: dict[str, str] = {}
        for dim in (*self.values[op.a].dims, *self.values[op.b].dims):
            letters.setdefault(dim, chr(ord("i") + len(letters)))
        parts = [self.values[op.a].dims, self.values[op.b].dims, value.dims]
        first, second, out = ("..." + "".join(letters[d] for d in dims) for dims in parts)
        if turned:
            first, second, x, y = second, first, y, x
        return self.call("torch.einsum", f'"{first},{second}->{out}"', x.text, y.text)


def masks_rows(values: Sequence[Value], value: Value, rows: Ref) -> bool:
    """Whether a value chooses between rows that hold a token and a filling for the others."""
    op = value.op
    mask = values[rows].op
    if not isinstance(op, Where) or op.c != rows or rows in (op.a, op.b):
        return False
    # What does not differ from row to row gets its rows from the choice.
    return isinstance(mask, Row) and values[op.a].varies and mask.dim in values[op.a].dims


def moved_axes(have: Dims, want: Dims) -> str:
    """The method call that brings trailing axes `have` into the order `want`."""
    if have == want:
        return ""
    n = len(have)
    source = ", ".join(str(have.index(d) - n) for d in want)
    target = ", ".join(str(i - n) for i in range(n))
    return f".movedim(({source}), ({target}))"


def wrapped(text: Text, prec: int) -> str:
    """The expression, in brackets if it binds less tightly than `prec`."""
    return text.text if text.prec >= prec else f"({text.text})"


def _product(x: Text, y: Text) -> str:
    return f"{wrapped(x, MUL)} * {wrapped(y, MUL + 1)}"


def merge_orders(orders: Sequence[Dims]) -> Dims:
    """One order of all dimensions that agrees with each given one (they are parts of one order)."""
    out: list[str] = []
    pending = [list(order) for order in orders]
    while any(pending):
        for order in pending:
            if order and all(order[0] not in other[1:] for other in pending):
                head = order[0]
                break
        else:
            raise InternalError(f"dimension orders {orders} disagree")
        out.append(head)
        pending = [order[1:] if order and order[0] == head else order for order in pending]
    return tuple(out)


def _bare(values: Sequence[Value], ref: Ref) -> object:
    """The operation behind casts; for a function, that of its argument."""
    op = values[ref].op
    while isinstance(op, Cast | Unary):
        op = values[op.x].op
    return op


def _behind_where(
    values: Sequence[Value], order: Sequence[Ref], known: Iterable[Ref]
) -> frozenset[Ref]:
    """Values that some `where` may leave out."""
    behind: set[Ref] = set(known)
    for ref in reversed(order):
        op = values[ref].op
        if isinstance(op, Where):
            behind.update((op.a, op.b))
        if ref in behind and not isinstance(op, Lag | Time):
            behind.update(operands(op))
    return frozenset(behind)
