"""The program of one token and its adjoint, for kernels that walk over time.

In: one step without lags (leaves and results by name).  Out: a `StepProgram` in real numbers, whose
values serve the step, its replay in the backward, and the adjoint.

Heads are independent of each other.  Where all values are vectors or numbers, one program carries
out several heads, and every value gets the dimension `HEAD` in front; else each head has a program
of its own.  A dimension over which nothing is summed, normalised or renamed is *independent* too:
it may be cut over programs.  The adjoint is linear in the cotangents, so that each of these
programs may compute its share: what lacks a cut dimension is counted in the first tile, and
gradients that lack one are summed over the tiles.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from scandsl.ir.adjoint import vjp
from scandsl.ir.builder import Builder
from scandsl.ir.nodes import (
    Binary,
    Contract,
    CumSum,
    Dim,
    Dims,
    Insert,
    Kind,
    Load,
    Normalize,
    Reduce,
    Ref,
    Rename,
    Select,
    Stack,
    Value,
    operands,
)
from scandsl.kernels.backward import cotangent
from scandsl.kernels.pairs import Pair, parts_of, real_pairs
from scandsl.kernels.program import Carry, Store

HEAD = "#h"


@dataclass(frozen=True, slots=True)
class Named:
    """A leaf or a result: its name, its dimensions (as they lie in memory), kind and value."""

    name: str
    dims: Dims
    kind: Kind
    ref: Ref


@dataclass(frozen=True, slots=True)
class Step:
    """One step without lags.

    `inputs`, `params` and `before` (the carried parts) are leaves; `outputs` and `after` (the parts
    at the end of the step, in the order of `before`) are results.  `behind` lists values that a
    `where` may leave out.
    """

    dims: tuple[Dim, ...]
    values: tuple[Value, ...]
    inputs: tuple[Named, ...]
    params: tuple[Named, ...]
    before: tuple[Named, ...]
    outputs: tuple[Named, ...]
    after: tuple[Named, ...]
    behind: frozenset[Ref]


@dataclass(frozen=True, slots=True)
class Outer:
    """The gradient of a param as a sum over tokens of products of two vectors, one row a token."""

    name: str
    dims: Dims
    left: Store
    right: Store


@dataclass(frozen=True, slots=True)
class StepProgram:
    """The step and its adjoint.  `Load(part)` is a part before the step, `Load(d part)` behind it.

    `d_parts` hands cotangents to the step before, `d_inputs` has one row a token, and `d_params` is
    to be summed over tokens; so are the products `d_outer`, which need no room on chip.
    """

    dims: tuple[Dim, ...]
    values: tuple[Value, ...]
    heads: bool
    independent: Dims
    parts: tuple[Carry, ...]
    outputs: tuple[Store, ...]
    d_parts: tuple[Carry, ...]
    d_inputs: tuple[Store, ...]
    d_params: tuple[Store, ...]
    d_outer: tuple[Outer, ...]


def step_program(step: Step) -> StepProgram:
    """Derive the program of a step."""
    heads = not _has_matrix(step)
    dims, values = _with_heads(step) if heads else (step.dims, step.values)
    lead = (HEAD,) if heads else ()
    b = Builder(dims)
    b.values = list(values)  # refs stay
    smooth = (Kind.REAL, Kind.COMPLEX)
    seeds: dict[Ref, Ref] = {}

    def full(x: Named) -> Ref:
        return b.expand(b.cast(x.ref, x.kind), (*lead, *x.dims))

    outputs = [full(x) for x in step.outputs]
    after = [full(x) for x in step.after]
    for x, ref in zip((*step.outputs, *step.after), (*outputs, *after), strict=True):
        if x.kind in smooth:
            g = b.load(cotangent(x.name), (*lead, *x.dims), x.kind)
            seeds[ref] = b.add(seeds[ref], g) if ref in seeds else g
    wanted = [x for x in (*step.inputs, *step.params, *step.before) if x.kind in smooth]
    found = vjp(b, seeds, [x.ref for x in wanted], step.behind)
    carried = {x.name for x in step.before}
    gradients: dict[str, Ref] = {}
    d_parts: dict[str, Ref] = {}
    for x in wanted:
        share = found[x.ref]
        if x.name in carried:
            share = b.const(0.0, x.kind) if share is None else share
            d_parts[x.name] = b.expand(share, (*lead, *x.dims))
        elif share is not None:
            gradients[x.name] = b.expand(share, (*lead, *x.dims))
    roots = [*outputs, *after, *d_parts.values(), *gradients.values()]
    real, pairs = real_pairs(b.dims, b.values, roots)
    split = _Splitter(real, pairs)
    independent = _independent(step, values)
    d_params = tuple(split.stores(_gradients(step.params, gradients)))
    d_outer = () if heads or independent else tuple(_outer_products(real, d_params))
    alone = {x.name for x in d_outer}
    return StepProgram(
        dims=tuple(real.dims),
        heads=heads,
        parts=tuple(split.carries(zip(step.before, after, strict=True))),
        outputs=tuple(split.stores(zip(step.outputs, outputs, strict=True))),
        d_parts=tuple(
            split.carries((_d(x), d_parts[x.name]) for x in step.before if x.name in d_parts)
        ),
        d_inputs=tuple(split.stores(_gradients(step.inputs, gradients))),
        d_params=tuple(x for x in d_params if x.name not in alone),
        d_outer=d_outer,
        independent=independent,
        values=tuple(real.values),
    )


def _d(x: Named) -> Named:
    return Named(cotangent(x.name), x.dims, x.kind, x.ref)


def _gradients(tensors: Iterable[Named], found: Mapping[str, Ref]) -> list[tuple[Named, Ref]]:
    return [(_d(x), found[x.name]) for x in tensors if x.name in found]


class _Splitter:
    """Results in real numbers: two for each complex one."""

    def __init__(self, builder: Builder, pairs: Mapping[Ref, Pair]) -> None:
        self.builder = builder
        self.pairs = pairs

    def _parts(self, x: Named, ref: Ref) -> list[tuple[str, Ref]]:
        re, im = self.pairs[ref]
        names = parts_of(x.name, x.kind)
        if len(names) == 1:
            return [(names[0], re)]
        zero = self.builder.zeros(self.builder.dims_of(re))
        return [(names[0], re), (names[1], zero if im is None else im)]

    def carries(self, results: Iterable[tuple[Named, Ref]]) -> Iterable[Carry]:
        for x, ref in results:
            for name, part in self._parts(x, ref):
                yield Carry(name, x.dims, self.builder.kind_of(part), part)

    def stores(self, results: Iterable[tuple[Named, Ref]]) -> Iterable[Store]:
        for x, ref in results:
            for name, part in self._parts(x, ref):
                yield Store(name, x.dims, self.builder.kind_of(part), part)


def _outer_products(b: Builder, gradients: Iterable[Store]) -> Iterable[Outer]:
    """The gradients of matrices that are products of two vectors at every token."""
    for x in gradients:
        op = b.values[x.value].op
        if not (isinstance(op, Binary) and op.fn == "mul"):
            continue
        left, right = b.dims_of(op.a), b.dims_of(op.b)
        if left and right and not set(left) & set(right):
            stores = (
                Store(f"{x.name} {side}", dims, Kind.REAL, ref)
                for side, dims, ref in (("left", left, op.a), ("right", right, op.b))
            )
            yield Outer(x.name, x.dims, *stores)


# ---------------------------------------------------------------- heads


def _has_matrix(step: Step) -> bool:
    """Whether some value has two dimensions that are not static: it fills a program by itself."""
    static = {d.name for d in step.dims if d.size is not None}
    return any(len(set(value.dims) - static) > 1 for value in step.values)


def _with_heads(step: Step) -> tuple[tuple[Dim, ...], tuple[Value, ...]]:
    """Every value that depends on a tensor with the dimension of heads in front."""
    values: list[Value] = []
    for value in step.values:
        spread = isinstance(value.op, Load) or any(
            HEAD in values[r].dims for r in operands(value.op)
        )
        dims = (HEAD, *value.dims) if spread else value.dims
        values.append(Value(value.op, dims, value.kind, value.varies, value.name, value.span))
    return (Dim(HEAD), *step.dims), tuple(values)


# ---------------------------------------------------------------- independent dimensions


def _independent(step: Step, values: Sequence[Value]) -> Dims:
    """Dimensions along which no entry of a step looks at another."""
    mixed = {d.name for d in step.dims if d.size is not None} | {HEAD}
    for value in values:
        match value.op:
            case Contract(_, _, over) | Reduce(_, _, over) | Normalize(_, _, over):
                mixed.update(over)
            case Rename(_, pairs):
                mixed.update(d for pair in pairs for d in pair)
            case Select(_, dim) | Insert(_, dim) | Stack(_, dim) | CumSum(_, dim):
                mixed.add(dim)
            case _:
                pass
    used = {d for x in (*step.after, *step.outputs) for d in x.dims}
    return tuple(d.name for d in step.dims if d.name in used and d.name not in mixed)
