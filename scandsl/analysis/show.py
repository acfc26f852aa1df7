"""Short expressions in the user's names, for reasons and reports.

In: values and a `Ref`.  Out: one line of text in the notation of the language.  Not a formatter:
long expressions are cut.
"""

from __future__ import annotations

from collections.abc import Sequence

from scandsl.ir.nodes import (
    Binary,
    Cast,
    Clamp,
    Const,
    Contract,
    Every,
    Expand,
    Grad,
    Input,
    Insert,
    Iota,
    Lag,
    LagState,
    Load,
    MakeComplex,
    Normalize,
    Op,
    Param,
    Prev,
    Reduce,
    Ref,
    Rename,
    Scalar,
    Select,
    Size,
    Stack,
    StopGrad,
    Time,
    Unary,
    Value,
    Where,
)

_INFIX = {
    "add": ("+", 4), "sub": ("-", 4), "mul": ("*", 5), "div": ("/", 5), "mod": ("%", 5),
    "pow": ("**", 7), "lt": ("<", 3), "le": ("<=", 3), "gt": (">", 3), "ge": (">=", 3),
    "eq": ("==", 3), "ne": ("!=", 3), "and": ("and", 2), "or": ("or", 1),
}  # fmt: skip
_ATOM = 9
Text = tuple[str, int]


def show(values: Sequence[Value], ref: Ref, depth: int = 4, inside: bool = False) -> str:
    """A value as a short expression; named values inside it appear by name.

    With `inside` the value's own name is not used, so that its definition is shown.
    """
    return _text(values, ref, depth, inside)[0]


def _text(values: Sequence[Value], ref: Ref, depth: int, inside: bool = False) -> Text:
    value = values[ref]
    leaf = _leaf(value.op)
    if leaf is not None:
        return leaf, _ATOM if not leaf.startswith("-") else 6
    if value.name is not None and not inside:
        return value.name, _ATOM
    if depth <= 0:
        return "…", _ATOM
    return _compound(values, value.op, depth - 1)


def _number(value: bool | int | float) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:g}"


def _leaf(op: Op) -> str | None:
    match op:
        case Const(value):
            return _number(value)
        case Load(name):
            return f"({name})"
        case Size(name) | Input(name) | Param(name) | Scalar(name) | Prev(name):
            return name
        case Iota(dim):
            return f"iota({dim})"
        case Time():
            return "t"
        case Every(period):
            return f"every {period}"
        case LagState(state, n):
            return f"lag({state}, {n})"
        case _:
            return None


def _compound(values: Sequence[Value], op: Op, depth: int) -> Text:  # noqa: C901 - by operation
    def sub(ref: Ref, level: int = 0) -> str:
        text, bound = _text(values, ref, depth)
        return f"({text})" if bound < level else text

    def call(name: str, *refs: Ref) -> Text:
        return f"{name}({', '.join(sub(r) for r in refs)})", _ATOM

    match op:
        case Unary("neg", x):
            return "-" + sub(x, 6), 6
        case Unary("not", x):
            return "not " + sub(x, 3), 2
        case Unary(fn, x):
            return call(fn, x)
        case Binary(fn, a, b):
            if fn not in _INFIX:
                return call(fn, a, b)
            sign, level = _INFIX[fn]
            tight = level + (fn not in ("add", "mul", "and", "or"))
            left = level + (fn == "pow")  # the right one of two powers comes first
            return f"{sub(a, left)} {sign} {sub(b, tight)}", level
        case Contract(a, b, over):
            shared = set(values[a].dims) & set(values[b].dims)
            sign = "@" if shared == set(over) else f"@[{', '.join(over)}]"
            return f"{sub(a, 6)} {sign} {sub(b, 6)}", 5
        case Reduce(fn, x, over):
            return f"{fn}[{', '.join(over)}]({sub(x)})", _ATOM
        case Normalize(fn, x, over, _):
            return f"{fn}[{', '.join(over)}]({sub(x)})", _ATOM
        case Cast(x) | Expand(x):
            return _text(values, x, depth + 1)
        case Rename(x, pairs):
            return f"{sub(x, 8)}[{', '.join(new for _, new in pairs)}]", _ATOM
        case Select(x, _, index):
            return f"{sub(x, 8)}[{index}]", _ATOM
        case Insert(x, _, index, y):
            return f"{sub(x, 8)} with [{index}] = {sub(y)}", 0
        case Stack(xs, _):
            return "[" + ", ".join(sub(x) for x in xs) + "]", _ATOM
        case Lag(x, n):
            return f"lag({sub(x)}, {n})", _ATOM
        case Where(c, a, b):
            return call("where", c, a, b)
        case Clamp(x, low, high):
            return call("clamp", x, low, high)
        case MakeComplex(re, im):
            return call("complex", re, im)
        case StopGrad(x):
            return call("stopgrad", x)
        case Grad(e, wrt):
            return call("grad", e, wrt)
        case _:
            return type(op).__name__.lower(), _ATOM
