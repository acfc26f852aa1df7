"""Derives the backward chunk program from the forward one, by differentiating it.

In: the forward `ChunkProgram` of a chunk.  Out: the program that runs over the chunks in reverse.
It is handed the cotangent of each carry at the end of the chunk, loads the forward's carries at
the start of the chunk (saved, or computed again), recomputes what it needs of the chunk, and stores
the cotangents of all tensors.  The cotangents of params are stored per chunk and summed by the
caller.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from scandsl.ir.adjoint import vjp
from scandsl.ir.builder import Builder
from scandsl.ir.nodes import Input, Kind, Load, Param, Ref, Tensor
from scandsl.kernels.program import ROW, Carry, ChunkProgram, Store
from scandsl.kernels.simplify import simplify
from scandsl.kernels.tangents import without_tangents


def cotangent(name: str) -> str:
    """The name of the cotangent of a tensor, output or carry: none that a user can write."""
    return f"d {name}"


def cotangent_stores(forward: ChunkProgram) -> tuple[Store, ...]:
    """The outputs under the names of their cotangents, which the backward loads by row."""
    return tuple(replace(s, name=cotangent(s.name)) for s in forward.stores)


@dataclass(frozen=True, slots=True)
class Backward:
    """The backward program, and the tensors that no gradient reaches."""

    program: ChunkProgram
    unreached: tuple[str, ...]


def backward_program(
    forward: ChunkProgram, inputs: Sequence[Tensor], params: Sequence[Tensor]
) -> Backward:
    """The adjoint of a forward chunk program."""
    b = Builder(forward.dims, forward.values)
    seeds: dict[Ref, Ref] = {}

    def seed(ref: Ref, g: Ref) -> None:
        seeds[ref] = b.add(seeds[ref], g) if ref in seeds else g

    for store in forward.stores:
        if store.kind in (Kind.REAL, Kind.COMPLEX):
            seed(store.value, b.load(cotangent(store.name), (ROW, *store.dims), store.kind))
    for carry in forward.carries:
        seed(carry.next, b.load(cotangent(carry.name), carry.dims, carry.kind))

    leaves = _leaves(forward)
    found = vjp(b, seeds, list(leaves.values()))
    carries = []
    for carry in forward.carries:
        ref = leaves.get(carry.name)
        share = None if ref is None else found[ref]
        share = b.zeros(carry.dims, carry.kind) if share is None else share
        carries.append(Carry(cotangent(carry.name), carry.dims, carry.kind, share))
    stores: list[Store] = []
    unreached: list[str] = []
    for tensor, row in [*((t, (ROW,)) for t in inputs), *((t, ()) for t in params)]:
        ref = leaves.get(tensor.name)
        share = None if ref is None else found[ref]
        if share is None:
            unreached.append(tensor.name)
        else:
            full = b.expand(share, (*row, *tensor.dims))
            stores.append(Store(cotangent(tensor.name), tensor.dims, tensor.kind, full))
    program = ChunkProgram(
        dims=tuple(b.dims),
        values=tuple(b.values),
        carries=tuple(carries),
        stores=tuple(stores),
        saved=forward.carries,
        reverse=True,
    )
    pruned = simplify(without_tangents(replace(program, saved=())))
    used = {v.op.name for v in pruned.values if isinstance(v.op, Load)}
    kept = tuple(replace(c, next=-1) for c in forward.carries if c.name in used)
    return Backward(replace(pruned, saved=kept), tuple(unreached))


def _leaves(forward: ChunkProgram) -> dict[str, Ref]:
    """The refs of inputs, params and carries, by name."""
    names = {c.name for c in forward.carries}
    out: dict[str, Ref] = {}
    for ref, value in enumerate(forward.values):
        match value.op:
            case Input(name) | Param(name):
                out[name] = ref
            case Load(name) if name in names:
                out[name] = ref
    return out
