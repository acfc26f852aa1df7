"""Cuts a chunk program into kernels.

In: a `ChunkProgram`.  Out: at most three `Kernel`s, first one that inverts the triangular matrices
of all chunks at once, if there are any.  Split, two more: one that walks over the chunks of a
sequence with the carries on chip and keeps what each chunk was handed; one that runs for all chunks
at once from what was kept.  Fused, one: it walks, computes the results on its way, and keeps what
each chunk was handed only where it is asked to.  What may be cut over the grid,
`scandsl.kernels.tiling` decides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from scandsl.ir.nodes import (
    Contract,
    Dims,
    Input,
    Inverse,
    Load,
    Param,
    Reduce,
    Ref,
    Scalar,
    Scores,
    Value,
    made_of,
    operands,
)
from scandsl.kernels.apart import multiplies, vectors_apart
from scandsl.kernels.order import in_order
from scandsl.kernels.program import COLUMN, INNER, POSITION, ROW, Carry, ChunkProgram, Store
from scandsl.kernels.split import reach, split
from scandsl.kernels.strips import Strips, strips
from scandsl.kernels.tiling import tile

PREPARED = "#prepared"
_PRODUCTS = 8  # of a fused walk that loads the next chunk ahead


@dataclass(frozen=True, slots=True)
class Kernel:
    """One launch.

    `loop`: walks over the chunks of one sequence (grid: sequences, heads, tiles), `carries` in
    registers, storing what each chunk is handed; with `stores` a fused one.  Otherwise one program
    per chunk and head, reading `loads` (carries kept by the loop kernels).  `tiled` dimensions are
    cut over the third grid axis; `partial` gives, for each store in order, those over whose tiles
    the caller has to sum.  `strips` tells how to walk over a dimension inside the kernel;
    `early` comes first, before the stores; then `vectors`, in a branch of their own.
    """

    name: str
    program: ChunkProgram
    loop: bool
    refs: tuple[Ref, ...]
    inputs: tuple[str, ...]
    params: tuple[str, ...]
    scalars: tuple[str, ...]
    loads: tuple[Carry, ...]
    prepared: tuple[Store, ...]
    cotangents: tuple[Store, ...]
    carries: tuple[Carry, ...]
    stores: tuple[Store, ...]
    tiled: Dims
    partial: tuple[Dims, ...]
    uses_position: bool
    strips: Strips | None
    early: tuple[Ref, ...]
    vectors: tuple[Ref, ...]

    @property
    def stages(self) -> int:
        """Chunks whose tiles are loaded at a time: many products need the registers for theirs."""
        return 2 if self.loop and not (self.stores and self.products > _PRODUCTS) else 1

    @property
    def products(self) -> int:
        """How many products of matrices it computes."""
        return sum(multiplies(self.program.values, self.program.values[r]) for r in self.refs)


def schedule(
    program: ChunkProgram, cotangents: tuple[Store, ...] = (), fused: bool = False
) -> tuple[Kernel, ...]:
    """The kernels of a chunk program, in the order in which they run.

    `cotangents` are the outputs whose cotangents the program loads by row (in a backward).
    """
    kernels = []
    prepared = _costly(program)
    rest = _without(program, prepared)
    fused = fused and bool(program.carries and program.stores)
    if program.carries:
        numbers = _numbers(rest, len(prepared))
        prepared, rest = (*prepared, *numbers), _without(rest, numbers)
    if fused:
        kernels.append(_kernel("scan", rest, cotangents, prepared))
    elif program.carries:
        kernels.append(_kernel("carry", replace(rest, stores=()), cotangents, prepared))
    if program.stores and not fused:
        kernels.append(_kernel("chunk", rest, cotangents, prepared))
    wanted = {s.name for k in kernels for s in k.prepared}
    needed = tuple(s for s in prepared if s.name in wanted)
    if needed:
        first = replace(program, carries=(), stores=needed)
        kernels.insert(0, _kernel("prepare", first, cotangents, ()))
    return tuple(kernels)


def _costly(program: ChunkProgram) -> tuple[Store, ...]:
    """Triangular inverses and decayed scores that do not look at the carries, rows per token.

    What only goes into another matrix of rows and columns is left to this.  Where a forward program
    has several inverses, so are the matrices of which they are made, if something else needs them.
    """
    before = frozenset(split(program).before)
    values = program.values
    users: list[list[Ref]] = [[] for _ in values]
    for ref, value in enumerate(values):
        for part in set(operands(value.op)):
            users[part].append(ref)
    for root in [c.next for c in program.carries] + [s.value for s in program.stores]:
        users[root].append(-1)
    inverses = [r for r, v in enumerate(values) if isinstance(v.op, Inverse)]
    several = not program.reverse and len(inverses) > 1
    inner = reach(program, inverses) if several else [False] * len(values)
    found = []
    for ref in sorted(before):
        op = values[ref].op
        if isinstance(op, Inverse | Scores) or (inner[ref] and isinstance(op, Contract)):
            last = _last_matrix(values, users, before, ref)
            found += [] if last is None else [last]
    return tuple(
        Store(f"{PREPARED}{n}", (COLUMN,), values[r].kind, r)
        for n, r in enumerate(dict.fromkeys(found))
    )


def _last_matrix(
    values: Sequence[Value], users: Sequence[Sequence[Ref]], before: frozenset[Ref], ref: Ref
) -> Ref | None:
    """The last of the matrices of rows and columns that a value alone goes into."""
    last: Ref | None = None
    while True:
        dims = values[ref].dims
        if len(dims) != 2 or not set(dims) <= {ROW, COLUMN, INNER}:
            return last
        if dims == (ROW, COLUMN):
            last = ref
        near = [r for r in users[ref] if dims == (ROW, INNER) and values[r].dims == (ROW, COLUMN)]
        if len(users[ref]) != 1 or users[ref][0] not in before:
            return near[0] if near else last
        ref = users[ref][0]


def _numbers(program: ChunkProgram, count: int) -> tuple[Store, ...]:
    """Numbers per token without which a walk can cut more of its matrices over the grid.

    A normaliser's cotangent sums over a dimension of the state, and looks at no carry: a walk that
    computes it on its way needs the state whole.  Of a forward the fused walk decides, for both
    schedules.
    """
    roots = _walk_roots(program)
    refs, before = _made_of(program, roots), frozenset(split(program).before)
    matrices = {d for c in program.carries if len(c.dims) > 1 for d in c.dims}
    cut = tile(program, refs, roots).dims
    if matrices <= {*cut}:
        return ()
    values = program.values
    sums = [isinstance(v.op, Contract | Reduce) for v in values]
    for ref, value in enumerate(values):
        sums[ref] |= any(sums[r] for r in operands(value.op))
    known = {r for r in refs if r in before and values[r].dims == (ROW,) and sums[r]}
    wanted = {x for r in refs if r not in known for x in operands(values[r].op)} & known
    found = tuple(
        Store(f"{PREPARED}{count + n}", (), values[r].kind, r) for n, r in enumerate(sorted(wanted))
    )
    rest = _without(program, found)
    more = tile(rest, _made_of(rest, roots), roots).dims
    return found if {*more} > {*cut} else ()


def _walk_roots(program: ChunkProgram) -> list[Ref]:
    """What a walk has to compute: against time the carries, else the results too."""
    carries = [c.next for c in program.carries]
    return carries if program.reverse else [*carries, *(s.value for s in program.stores)]


def _made_of(program: ChunkProgram, roots: list[Ref]) -> tuple[Ref, ...]:
    """What results are made of, in order."""
    return tuple(sorted(made_of(program.values, roots)))


def _without(program: ChunkProgram, prepared: tuple[Store, ...]) -> ChunkProgram:
    """The program with prepared values loaded instead of computed."""
    values = list(program.values)
    for store in prepared:
        old = values[store.value]
        values[store.value] = replace(old, op=Load(store.name), dims=(ROW, *store.dims))
    return replace(program, values=tuple(values))


def _kernel(
    name: str, program: ChunkProgram, cotangents: tuple[Store, ...], prepared: tuple[Store, ...]
) -> Kernel:
    loop = name in ("carry", "scan")
    carries = program.carries if loop else ()
    stores = program.stores
    roots = [c.next for c in carries] + [s.value for s in stores]
    refs = _made_of(program, roots)
    values = [program.values[r] for r in refs]
    loaded = [v.op.name for v in values if isinstance(v.op, Load)]
    kept = (*program.carries, *program.saved)
    carried = {c.name for c in carries}
    whole = [c.next for c in carries]
    if loop or name == "prepare":
        whole += [s.value for s in stores]
    tiling = tile(program, refs, whole)
    cut = replace(program, values=tiling.values)
    wanted = [*(s.value for s in stores), *(c.next for c in carries)]
    results = [tiling.moved[r] for r in wanted]
    vectors = vectors_apart(cut.values, results, carries) if loop and stores else ()
    early = _early(cut, carries, stores, tiling.moved) if loop and stores else ()
    early = tuple(r for r in early if r not in vectors)
    refs = in_order(cut.values, [*early, *vectors, *results])
    walked = strips(cut.dims, cut.values, refs, results) if name == "prepare" else None
    return Kernel(
        name=name,
        program=cut,
        loop=loop,
        refs=refs,
        inputs=_names(values, Input),
        params=_names(values, Param),
        scalars=_names(values, Scalar),
        loads=tuple(c for c in kept if c.name in loaded and c.name not in carried),
        prepared=tuple(s for s in prepared if s.name in loaded),
        cotangents=tuple(c for c in cotangents if c.name in loaded),
        carries=tuple(replace(c, next=tiling.moved[c.next]) for c in carries),
        stores=tuple(replace(s, value=tiling.moved[s.value]) for s in stores),
        tiled=tiling.dims,
        partial=tuple(
            tuple(d for d in tiling.dims if d in tiling.partial[s.value]) for s in stores
        ),
        uses_position=POSITION in loaded,
        strips=walked,
        early=early,
        vectors=vectors,
    )


def _early(
    program: ChunkProgram,
    carries: Sequence[Carry],
    stores: Sequence[Store],
    moved: Mapping[Ref, Ref],
) -> tuple[Ref, ...]:
    """What only the carries' next values need, and is known without the carries: numbers first.

    The vectors among it lie in shared memory until then, and what they are made of is let go.
    """
    values = program.values
    read = reach(program, [moved[s.value] for s in stores])
    names = {c.name for c in carries}
    looks = [False] * len(values)
    found: dict[Ref, None] = {}
    for ref, value in enumerate(values):
        carried = isinstance(value.op, Load) and value.op.name in names
        looks[ref] = carried or any(looks[r] for r in operands(value.op))
        if looks[ref] and not read[ref]:
            parts = [r for r in operands(value.op) if not looks[r] and not read[r]]
            found.update(dict.fromkeys(r for r in parts if operands(values[r].op)))
    small = [r for r in found if ROW in values[r].dims or len(values[r].dims) < 2]
    return tuple(sorted(small, key=lambda r: (len(values[r].dims), r)))


def _names(values: list[Value], kind: type[Input] | type[Param] | type[Scalar]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(v.op.name for v in values if isinstance(v.op, kind)))
