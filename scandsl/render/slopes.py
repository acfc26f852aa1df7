"""Finds products of a cotangent with the slope of a function that torch has a kernel for.

In: values of a program.  Out: which of them are `g f'(x)` for such an `f`, with `g` and what the
kernel takes.  The forms looked for are what `scandsl.ir.adjoint` derives from the functions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from scandsl.ir.adjoint import vjp
from scandsl.ir.builder import Builder
from scandsl.ir.nodes import Binary, Const, Kind, Load, Ref, Unary, UnaryFn, Value

# The kernel, and whether it takes the value of the function rather than its argument.
_KERNELS: Mapping[UnaryFn, tuple[str, bool]] = {
    "silu": ("torch.ops.aten.silu_backward", False),
    "gelu": ("torch.ops.aten.gelu_backward", False),
    "tanh": ("torch.ops.aten.tanh_backward", True),
    "sigmoid": ("torch.ops.aten.sigmoid_backward", True),
}


@dataclass(frozen=True, slots=True)
class Slope:
    """A call of a kernel: the cotangent, and the argument or value of the function."""

    kernel: str
    g: Ref
    at: Ref


@dataclass(frozen=True, slots=True)
class _Form:
    """What `g f'(x)` looks like, as values of its own; `at` is what the kernel takes."""

    kernel: str
    values: tuple[Value, ...]
    root: Ref
    g: Ref
    at: Ref

    @property
    def ends(self) -> tuple[Ref, ...]:
        """What is not looked behind: the product, and what the kernel and the function take."""
        leaves = (r for r, v in enumerate(self.values) if isinstance(v.op, Load))
        return (self.root, self.at, *leaves)


@cache
def _forms() -> tuple[_Form, ...]:
    out = []
    for fn, (kernel, by_value) in _KERNELS.items():
        b = Builder(())
        x, g = b.load("x", (), Kind.REAL), b.load("g", (), Kind.REAL)
        y = b.unary(fn, x)
        root = vjp(b, {y: g}, (x,))[x]
        assert root is not None
        out.append(_Form(kernel, tuple(b.values), root, g, y if by_value else x))
    return tuple(out)


def slope(
    values: Sequence[Value], ref: Ref, given: Callable[[Ref], bool] = lambda ref: False
) -> Slope | None:
    """The value as such a product, if it is one.

    What is `given` to a function comes from elsewhere: what it is made of may not be at hand there.
    """
    value = values[ref]
    if not isinstance(value.op, Binary) or value.op.fn != "mul" or value.kind is not Kind.REAL:
        return None
    for form in _forms():
        for match in _matches(values, form, form.root, ref, {}):
            inner = [r for of, r in match.items() if of not in form.ends]
            if not any(map(given, inner)):
                return Slope(form.kernel, match[form.g], match[form.at])
    return None


def _matches(
    values: Sequence[Value], form: _Form, of: Ref, ref: Ref, known: Mapping[Ref, Ref]
) -> Iterator[Mapping[Ref, Ref]]:
    """How a value `ref` can be read as the value `of` of a form, given what is `known`."""
    if of in known:
        if known[of] == ref:
            yield known
        return
    op, wanted = values[ref].op, form.values[of].op
    found = {**known, of: ref}
    match wanted:
        case Load():
            yield found
        case Const(number) if isinstance(op, Const) and op.value == number:
            yield found
        case Unary(fn, x) if isinstance(op, Unary) and op.fn == fn:
            yield from _matches(values, form, x, op.x, found)
        case Binary(fn, a, b) if isinstance(op, Binary) and op.fn == fn:
            turned = [(op.a, op.b), (op.b, op.a)] if fn in ("add", "mul") else [(op.a, op.b)]
            for left, right in turned:
                for half in _matches(values, form, a, left, found):
                    yield from _matches(values, form, b, right, half)
        case _:
            return
