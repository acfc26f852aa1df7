r"""The step of a scan as mathematics: syntax in, lines of LaTeX out.

A product of names is elementwise by the names of dimensions, `\cdot` sums over the dimensions that
both sides have (or those named under it), `\leftarrow` gives a name its next value.  Nothing is
rewritten: what stands in the spec is what is shown.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Final

from scandsl.syntax.ast import (
    Assign,
    BinaryOp,
    Call,
    Compare,
    Declaration,
    Every,
    Expr,
    For,
    Function,
    Identifier,
    Name,
    Number,
    Paren,
    Scan,
    Slot,
    Statement,
    Subscript,
    Target,
    UnaryOp,
)

_GREEK: Final = frozenset(
    """alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi pi rho sigma tau
    upsilon phi chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Upsilon Phi Psi Omega""".split()
)
_CONSTANTS: Final = {"inf": r"\infty", "pi": r"\pi", "lam": r"\lambda"}
_COMPARE: Final = {
    "<": "<", "<=": r"\le", ">": ">", ">=": r"\ge", "==": "=", "!=": r"\ne",
}  # fmt: skip
_SHORT: Final = {
    "sigmoid": r"\sigma", "log": r"\log", "tanh": r"\tanh", "sin": r"\sin", "cos": r"\cos",
    "max": r"\max", "min": r"\min", "re": r"\operatorname{Re}", "im": r"\operatorname{Im}",
}  # fmt: skip
_LARGE: Final = {"sum": r"\sum", "prod": r"\prod", "max": r"\max", "min": r"\min"}
_EMPTY: Final = r"\;"  # a space that is only for the eye


def step(scan: Scan) -> list[str]:
    """The lines of a scan's step, of a loop and what it holds one after the other."""
    return [line for statement in scan.body for line in _statement(statement, 0)]


def definition(function: Function) -> str:
    """A function as an equation."""
    arguments = ", ".join(_name(p.text) for p in function.parameters)
    head = rf"{_operator(function.name.text)}{_under(function.dims)}"
    return rf"{head}\left({arguments}\right) = {_text(function.body)}"


def aligned(lines: Sequence[str]) -> str:
    """One display of several lines."""
    body = " \\\\\n".join(lines)
    return f"\\begin{{aligned}}\n{body}\n\\end{{aligned}}"


# ---------------------------------------------------------------- statements


def _statement(statement: Statement, depth: int) -> list[str]:
    indent = r"\quad " * depth
    match statement:
        case Assign(target, op, value):
            left = _target(target)
            right = _text(value) if op == "=" else _text(_written_out(target, op, value))
            return [rf"{indent}{left} &\leftarrow {right}"]
        case Declaration(kind="output", items=items):
            return [
                rf"{indent}{_indexed(item.name, item.dims)} &= {_text(item.value)}"
                for item in items
                if item.value is not None
            ]
        case Declaration():
            return []
        case For(variable, over, body):
            many = _slot(over)
            head = rf"{indent}\text{{for }} {_name(variable.text)} &= 0, \dots, {many} - 1:"
            return [head, *(line for s in body for line in _statement(s, depth + 1))]
        case Every(period, body):
            head = rf"{indent}\text{{every }} {_slot(period)} &\text{{ tokens:}}"
            return [head, *(line for s in body for line in _statement(s, depth + 1))]


def _written_out(target: Target, op: str, value: Expr) -> Expr:
    """`x += y` as `x + y`; what binds less than the operator gets brackets."""
    own: Expr = Name(target.name.text)
    if target.slots is not None:
        own = Subscript(target.name, target.slots)
    loose = isinstance(value, Compare) or (
        isinstance(value, BinaryOp) and value.op in ("and", "or", *("+-" if op != "+=" else ""))
    )
    right = Paren(value) if loose else value
    match op:
        case "+=":
            return BinaryOp("+", own, right)
        case "-=":
            return BinaryOp("-", own, right)
        case "*=":
            return BinaryOp("*", right, own)
        case _:
            return BinaryOp("/", own, value)


def _target(target: Target) -> str:
    return _indexed(target.name, target.slots or ())


# ---------------------------------------------------------------- names


def _name(text: str) -> str:
    """An identifier: Greek letters, indices behind `_` or as last digits, else upright words."""
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    head, _, rest = text.partition("_")
    if head and rest and not rest.startswith("_"):
        return rf"{_plain(head)}_{{{_index(rest)}}}"
    return _plain(text)


def _plain(text: str) -> str:
    stem = text.rstrip("'")
    primes = "'" * (len(text) - len(stem))
    found = re.fullmatch(r"([^\W\d_]+)(\d+)", stem)
    digits = ""
    if found:
        stem, digits = found[1], f"_{{{found[2]}}}"
    if stem in _GREEK:
        return rf"\{stem}{primes}{digits}"
    if len(stem) == 1:
        return stem.replace("_", r"\_") + primes + digits
    return rf"\mathrm{{{stem}}}".replace("_", r"\_") + primes + digits


def _index(text: str) -> str:
    return r"\mathrm{" + text.replace("_", r"\_") + "}" if len(text) > 1 else text


def _indexed(name: Identifier, slots: Sequence[Slot]) -> str:
    if not slots:
        return _name(name.text)
    base = _name(name.text)
    base = f"{{{base}}}" if "_" in base or "'" in base else base
    return f"{base}_{{{', '.join(map(_slot, slots))}}}"


def _slot(slot: Slot) -> str:
    return str(slot.value) if isinstance(slot, Number) else _name(slot.text)


def _under(dims: Sequence[Identifier] | None) -> str:
    return f"_{{{', '.join(_name(d.text) for d in dims)}}}" if dims else ""


def _operator(name: str) -> str:
    if name in _SHORT or name in _GREEK:
        return _SHORT.get(name, rf"\{name}")
    escaped = name.replace("_", r"\_")
    return rf"\operatorname{{{escaped}}}"


# ---------------------------------------------------------------- expressions


def _text(expr: Expr) -> str:
    match expr:
        case Number(value):
            return _number(value)
        case Name(text):
            return _name(text)
        case Subscript(name, slots):
            return _indexed(name, slots)
        case UnaryOp(op, operand):
            return {"-": "-", "+": "+", "not": r"\lnot "}[op] + _text(operand)
        case BinaryOp():
            return _binary(expr)
        case Compare(operands, ops):
            parts = [_text(operands[0])]
            for symbol, operand in zip(ops, operands[1:], strict=True):
                parts += [_COMPARE[symbol], _text(operand)]
            return " ".join(parts)
        case Call():
            return _call(expr)
        case Paren(inner):
            return _bracketed(inner)


def _number(value: int | float) -> str:
    text = repr(value)
    mantissa, e, exponent = text.partition("e")
    if not e:
        return text
    power = rf"10^{{{int(exponent)}}}"
    return power if mantissa in ("1", "1.0") else rf"{mantissa} \times {power}"


def _bracketed(expr: Expr) -> str:
    return rf"\left({_text(_bare(expr))}\right)"


def _bare(expr: Expr) -> Expr:
    """An expression without brackets around it, where something else already sets it apart."""
    while isinstance(expr, Paren):
        expr = expr.inner
    return expr


def _binary(expr: BinaryOp) -> str:
    left, right = expr.left, expr.right
    match expr.op:
        case "/":
            return rf"\frac{{{_text(_bare(left))}}}{{{_text(_bare(right))}}}"
        case "**":
            plain = isinstance(left, Name | Number | Paren) and "_" not in _text(left)
            base = _text(left) if plain else _bracketed(left)
            return f"{base}^{{{_text(_bare(right))}}}"
        case "*":
            return rf"{_text(left)} {_times(left, right)} {_text(right)}"
        case "@":
            over = "" if expr.over is None else _under(expr.over)
            return rf"{_text(left)} \cdot{over} {_text(right)}"
        case "%":
            return rf"{_text(left)} \bmod {_text(right)}"
        case "and":
            return rf"{_text(left)} \land {_text(right)}"
        case "or":
            return rf"{_text(left)} \lor {_text(right)}"
        case _:
            return f"{_text(left)} {expr.op} {_text(right)}"


def _times(left: Expr, right: Expr) -> str:
    """What stands between factors: a cross before a number, else a thin space."""
    return r"\times" if isinstance(_first(right), Number) else r"\,"


def _first(expr: Expr) -> Expr:
    while isinstance(expr, BinaryOp) and expr.op != "/":
        expr = expr.left
    return expr


# ---------------------------------------------------------------- calls


def _call(call: Call) -> str:
    name, arguments = call.function.text, call.arguments
    form = _FORMS.get(name)
    if form is not None and len(arguments) == form[0] and (not call.dims or name in _LARGE):
        return form[1](call)
    inner = ", ".join(_text(_bare(a)) for a in arguments)
    return rf"{_operator(name)}{_under(call.dims)}\left({inner}\right)"


def _exp(call: Call) -> str:
    return f"e^{{{_text(_bare(call.arguments[0]))}}}"


def _wrapped(before: str, after: str) -> Callable[[Call], str]:
    return lambda call: f"{before}{_text(_bare(call.arguments[0]))}{after}"


def _where(call: Call) -> str:
    test, yes, no = (_text(_bare(a)) for a in call.arguments)
    return rf"\begin{{cases}} {yes} & {test} \\ {no} & \text{{else}} \end{{cases}}"


def _complex(call: Call) -> str:
    real, imaginary = call.arguments
    other = _bare(imaginary)
    tight = isinstance(other, Name | Number | Call | Subscript)
    return rf"\left({_text(_bare(real))} + i\,{_text(other) if tight else _bracketed(other)}\right)"


def _gradient(call: Call) -> str:
    loss, of = call.arguments
    return rf"\nabla_{{{_text(_bare(of))}}} {_bracketed(loss)}"


def _lag(call: Call) -> str:
    value, steps = call.arguments
    if isinstance(value, Name):
        return rf"{{{_text(value)}}}_{{t - {_text(_bare(steps))}}}"
    return rf"{_bracketed(value)}_{{t - {_text(_bare(steps))}}}"


def _large(call: Call) -> str:
    assert call.dims is not None or len(call.arguments) == 1
    if not call.dims:
        return rf"{_operator(call.function.text)}\left({_text(_bare(call.arguments[0]))}\right)"
    argument = call.arguments[0]
    loose = isinstance(argument, BinaryOp) and argument.op in ("+", "-")
    inner = _bracketed(argument) if loose else _text(argument)
    return rf"{_LARGE[call.function.text]}{_under(call.dims)} {inner}"


_FORMS: Final[dict[str, tuple[int, Callable[[Call], str]]]] = {
    "exp": (1, _exp),
    "sqrt": (1, _wrapped(r"\sqrt{", "}")),
    "rsqrt": (1, _wrapped(r"\frac{1}{\sqrt{", "}}")),
    "abs": (1, _wrapped(r"\left|", r"\right|")),
    "floor": (1, _wrapped(r"\left\lfloor ", r"\right\rfloor")),
    "conj": (1, _wrapped(r"\overline{", "}")),
    "iota": (1, _wrapped(r"\iota_{", "}")),
    "where": (3, _where),
    "complex": (2, _complex),
    "grad": (2, _gradient),
    "lag": (2, _lag),
    **{name: (1, _large) for name in _LARGE},
}
