"""Sums over several dimensions of products of vectors, taken one dimension at a time.

In: a `ChunkProgram`.  Out: an equal one.  Where a factor of a sum is itself a product, of vectors
of different dimensions:

* what shares no summed dimension is summed by itself:
  Σ_kl (q_ik q_il) (p_jk p_jl) = (Σ_k q_ik p_jk) (Σ_l q_il p_jl);
* else one dimension is summed after the other, if that is smaller than the product:
  Σ_kl (q_ik q_il) Z_kl = Σ_k q_ik (Σ_l q_il Z_kl);
* a further factor goes to one of the vectors, if that makes a product of matrices:
  Σ_i (k_ia k_ib) w_i = Σ_i k_ia (k_ib w_i).

The product of the vectors has as many numbers as both of their dimensions together.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import reduce

from scandsl.ir.builder import Builder
from scandsl.ir.nodes import Binary, Contract, Dims, Kind, Ref, Rename, operands
from scandsl.ir.rewrite import with_operands
from scandsl.kernels.apart import is_matrix_product
from scandsl.kernels.program import ChunkProgram

DEEP = 4  # products within products that are looked through: powers may be nested without end


def separated(program: ChunkProgram) -> ChunkProgram:
    """Apply the rules; what they leave unused stays."""
    b = Builder(program.dims)
    moved: dict[Ref, Ref] = {}
    for ref, value in enumerate(program.values):
        op = with_operands(value.op, [moved[r] for r in operands(value.op)])
        if isinstance(op, Contract) and value.kind is Kind.REAL:
            moved[ref] = _sum(b, op.a, op.b, op.over)
        else:
            moved[ref] = b.emit(
                op, value.dims, value.kind, value.name, value.span, varies=value.varies
            )
    return program.rewritten(b.values, moved)


def _sum(b: Builder, x: Ref, y: Ref, over: Dims) -> Ref:
    """The sum of `x * y` over `over`, by the rules."""
    left, right = _factors(b, x), _factors(b, y)
    if len(left) == len(right) == 1:
        return b.contract(x, y, over)
    groups = _groups(b, [*left, *right], over)
    if len(groups) > 1:
        free = [r for r in (*left, *right) if not {*b.dims_of(r)} & {*over}]
        sums = []
        for group in groups:
            one, other = ([r for r in side if r in group] for side in (left, right))
            sums.append(_one(b, one, other, over))
        return _product(b, [*sums, *free])
    for first, second in ((x, y), (y, x)):
        found = _in_turn(b, first, second, over) or _as_matrices(b, first, second, over)
        if found is not None:
            return found
    return b.contract(x, y, over)


def _factors(b: Builder, ref: Ref, deep: int = DEEP) -> list[Ref]:
    """The factors of a product of vectors, a renamed product's renamed; products of so many."""
    value = b.values[ref]
    match value.op:
        case Binary("mul", x, y) if deep and value.kind is Kind.REAL:
            return [*_factors(b, x, deep - 1), *_factors(b, y, deep - 1)]
        case Rename(x, pairs):
            inner = _factors(b, x, deep)
            return [ref] if len(inner) == 1 else [b.rename(r, pairs) for r in inner]
        case _:
            return [ref]


def _groups(b: Builder, factors: Sequence[Ref], over: Iterable[str]) -> list[list[Ref]]:
    """Factors that share summed dimensions, directly or by others; those without any left out."""
    groups: list[tuple[set[str], list[Ref]]] = []
    for factor in factors:
        dims, members = {*b.dims_of(factor)} & {*over}, [factor]
        if not dims:
            continue
        for group in [g for g in groups if g[0] & dims]:
            groups.remove(group)
            dims, members = dims | group[0], [*group[1], *members]
        groups.append((dims, members))
    return [members for _, members in groups]


def _one(b: Builder, left: Sequence[Ref], right: Sequence[Ref], over: Dims) -> Ref:
    """The sum over the dimensions that a group of factors has; equal sums get equal names."""
    x, y = _product(b, left), _product(b, right)
    dims = [d for d in over if d in b.dims_of(x)]
    for dim in tuple(dims):
        old = next(d.base for d in b.dims if d.name == dim)
        if old is None or old in (*b.dims_of(x), *b.dims_of(y)):
            continue
        if all(isinstance(b.values[r].op, Rename) for r in (x, y)):
            x, y = (b.rename(r, [(dim, old)]) for r in (x, y))
            dims[dims.index(dim)] = old
    return _sum(b, x, y, b.sort(dims))


def _product(b: Builder, factors: Iterable[Ref]) -> Ref:
    return reduce(b.mul, factors)


def _in_turn(b: Builder, x: Ref, y: Ref, over: Dims) -> Ref | None:
    """The second rule: the last vector of `x` is summed with `y` first."""
    groups = _groups(b, _factors(b, x), over)
    if len(groups) < 2:
        return None
    last = _product(b, groups[-1])
    rest = _product(b, [r for r in _factors(b, x) if r not in groups[-1]])
    dims = tuple(d for d in over if d in b.dims_of(last))
    kept = ({*b.dims_of(last)} | {*b.dims_of(y)}) - {*dims}
    if len(kept) >= len(b.dims_of(x)):
        return None
    return _sum(b, rest, b.contract(last, y, dims), b.sort({*over} - {*dims}))


def _as_matrices(b: Builder, x: Ref, y: Ref, over: Dims) -> Ref | None:
    """The third rule: `y` goes to one of two vectors of `x`."""
    factors = _factors(b, x)
    if len(factors) != 2 or is_matrix_product(b.dims_of(x), b.dims_of(y), over):
        return None
    for one, other in (factors, factors[::-1]):
        dims = b.dims_of(other)
        if {*b.dims_of(y)} <= {*dims} and is_matrix_product(b.dims_of(one), dims, over):
            return b.contract(one, b.mul(other, y), over)
    return None
