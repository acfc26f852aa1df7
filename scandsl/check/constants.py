"""Numbers known at compile time: range bounds, sizes, lag distances, the constant under a root.

In: an expression and the names that stand for numbers.  Out: the number, or `None` when it is not
one.  Nothing that a spec writes can make this slow: powers are bounded and depth is limited.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TypeAlias

from scandsl.syntax import ast

Number: TypeAlias = int | float

MAX_DEPTH = 100
MAX_INT = 2**63 - 1
CONSTANTS: Mapping[str, float] = {"inf": math.inf, "pi": math.pi}


def fold(expr: ast.Expr, names: Mapping[str, Number], depth: int = 0) -> Number | None:
    """The value of a constant expression of literals, `names`, signs and arithmetic."""
    if depth > MAX_DEPTH:
        return None
    match expr:
        case ast.Number(value):
            return value
        case ast.Name(text):
            return names.get(text, CONSTANTS.get(text))
        case ast.Paren(inner):
            return fold(inner, names, depth + 1)
        case ast.UnaryOp("-" | "+" as sign, operand):
            x = fold(operand, names, depth + 1)
            return None if x is None else (-x if sign == "-" else x)
        case ast.BinaryOp("+" | "-" | "*" | "/" | "%" | "**" as op, left, right):
            a, b = fold(left, names, depth + 1), fold(right, names, depth + 1)
            return None if a is None or b is None else _apply(op, a, b)
        case _:
            return None


def _apply(op: str, a: Number, b: Number) -> Number | None:
    try:
        result = _arithmetic(op, a, b)
    except (ArithmeticError, ValueError):
        return None
    if isinstance(result, complex) or result != result:
        return None
    return None if isinstance(result, int) and abs(result) > MAX_INT else result


def _arithmetic(op: str, a: Number, b: Number) -> Number | complex:
    match op:
        case "+":
            return a + b
        case "-":
            return a - b
        case "*":
            return a * b
        case "/":
            return a / b
        case "%":
            return a % b
        case _:
            return _power(a, b)


def _power(a: Number, b: Number) -> Number | complex:
    """`a ** b` in integers only where the result is small, so that nothing can run away."""
    if isinstance(a, int) and isinstance(b, int) and 0 <= b <= 64 and abs(a) <= 1_000_000:
        return int(a**b)
    result: Number | complex = float(a) ** float(b)
    return result
