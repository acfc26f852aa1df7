"""Renders one scheduled kernel as a Triton function.

In: a `Kernel` and the recurrence's tensors.  Out: the source of a plain Python function (made a
kernel by `triton.jit` at the first launch) and the order of its arguments, which the host code
needs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from scandsl.diagnostics import InternalError
from scandsl.ir.nodes import (
    Contract,
    CumSum,
    Dims,
    Input,
    Insert,
    Inverse,
    Iota,
    Kind,
    Load,
    MakeComplex,
    Normalize,
    Param,
    Recurrence,
    Reduce,
    Ref,
    Scalar,
    Scores,
    Select,
    Size,
    Time,
    Unary,
    Value,
    made_of,
    operands,
)
from scandsl.kernels.apart import is_matrix_product
from scandsl.kernels.program import COLUMN, INNER, POSITION, ROW, Carry, ChunkProgram, Store
from scandsl.kernels.schedule import PREPARED, Kernel
from scandsl.kernels.strips import Strips
from scandsl.kernels.tiling import FIRST
from scandsl.render.names import LAUNCH_NAMES, ascii_name, inner_names
from scandsl.render.triton_printer import (
    WIDTH,
    Axis,
    Tile,
    TritonPrinter,
    taken_by_entry,
    use_counts,
)

_OWN = (
    *LAUNCH_NAMES,
    "tl", "triton", "CHUNK", "CHUNKS", "TOKENS", "HEADS", "DOT", "PRECISION", "PACKED", "SHORT",
    "i", "row", "seq", "h", "tile", "first", "count", "local", "chunk", "length", "begin",
    "first_chunk", "past", "step", "strip", "n", "where", "position", "starts_ptr", "counts_ptr",
    "seqs_ptr", "locals_ptr", "first_chunks_ptr", "position_ptr", "chunks", "rest",
    "float", "range", "if", "for", "in", "is",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Names:
    """ASCII names of the tensors, dimensions and scalars of a recurrence inside kernels."""

    tensors: dict[str, str]
    dims: dict[str, str]

    @staticmethod
    def of(recurrence: Recurrence) -> Names:
        """Names as near to the user's as ASCII allows, unique."""
        declared = [t.name for t in (*recurrence.inputs, *recurrence.params)]
        declared += [s.name for s in recurrence.scalars] + [s.name for s in recurrence.states]
        declared += [o.name for o in recurrence.outputs]
        names = list(dict.fromkeys(declared))
        wished = {ascii_name(name, f"tensor{index}"): name for index, name in enumerate(names)}
        tensors = {wished[w]: found for w, found in inner_names(wished, _OWN).items()}
        dims: dict[str, str] = {}
        for index, dim in enumerate(recurrence.dims):
            base = ascii_name(dim.name.replace("'", "_"), f"dim{index}")
            while base in dims.values():
                base += "_"
            dims[dim.name] = base
        return Names(tensors, dims)

    def tensor(self, name: str) -> str:
        """The name of a tensor; `d_x` for the cotangent of `x`, which programs call `d x`."""
        if name.startswith(PREPARED):
            return name.removeprefix("#")
        if name in self.tensors:
            return self.tensors[name]
        return f"d_{self.tensors[name.removeprefix('d ')]}"


@dataclass(frozen=True, slots=True)
class RenderedKernel:
    """A kernel's text and its arguments, in order; `grid_tiles` are the dims cut over the grid."""

    name: str
    source: str
    arguments: tuple[str, ...]
    tiled: tuple[str, ...]
    dims: tuple[str, ...]


def unprintable(program: ChunkProgram) -> str | None:
    """Why a program has no Triton form yet, or `None` if it has one."""
    for value in program.values:
        if value.kind is Kind.COMPLEX or isinstance(value.op, MakeComplex):
            return "complex values"
        if isinstance(value.op, Unary) and value.op.fn == "im":
            return "complex values"
        if isinstance(value.op, Time):
            return "positions outside rows"
        if len(value.dims) > 3 or (isinstance(value.op, Contract) and _deep(program, value.op)):
            return "values of more than three dimensions"
    return None


def _deep(program: ChunkProgram, op: Contract) -> bool:
    """Whether a sum has more than three dimensions inside and is no product of two matrices."""
    a, b = program.values[op.a].dims, program.values[op.b].dims
    return len({*a, *b}) > 3 and not is_matrix_product(a, b, op.over)


class KernelRenderer:
    """Assembles one kernel."""

    def __init__(self, recurrence: Recurrence, names: Names, kernel: Kernel, name: str) -> None:
        self.recurrence = recurrence
        self.names = names
        self.kernel = kernel
        self.name = name
        self.values = kernel.program.values
        self.tensors = {t.name: t for t in (*recurrence.inputs, *recurrence.params)}
        self.cotangents = {c.name: c for c in kernel.cotangents}
        self.prepared = {s.name: s for s in kernel.prepared}
        self.kept = {c.name: c for c in kernel.loads}
        self.carried = {c.name: c for c in kernel.carries}
        self.user_dims = self._dims()
        roots = [c.next for c in kernel.carries] + [s.value for s in kernel.stores]
        self.printer = TritonPrinter(
            values=self.values,
            leaf=self._leaf,
            axis=self._axes(),
            users=use_counts(self.values, kernel.refs, roots),
            apart=self._apart(),
            late=self._late(),
            by_entry=taken_by_entry(self.values, kernel.refs) - frozenset(roots),
        )
        self.printer.taken.update(_OWN)
        self.ahead: list[str] = []  # lines in front of the loop over chunks
        ranks = [len(c.dims) for c in kernel.carries]
        several = sum(rank > 1 for rank in ranks) > 1
        matrices = several and max(ranks) == 2
        apart = bool(kernel.vectors)
        # What a walk of few registers does not hold: its place until the end, addresses from
        # chunk to chunk, those of what is kept (of three dimensions they cost more than they save).
        self.places_again = apart or several
        self.starts_again = apart or matrices
        self.kept_late = not apart and matrices and bool(kernel.stores)

    def _apart(self) -> frozenset[Ref] | None:
        """In a fused walk, which has eight warps: the products with what is carried."""
        if not (self.kernel.loop and self.kernel.stores):
            return None
        carried = {
            r
            for r in self.kernel.refs
            if isinstance(op := self.values[r].op, Load) and op.name in self.carried
        }
        return frozenset(
            r
            for r in self.kernel.refs
            if isinstance(op := self.values[r].op, Contract) and carried & {op.a, op.b}
        )

    def _late(self) -> frozenset[Ref]:
        """What is made of the carries."""
        found: set[Ref] = set()
        for ref in self.kernel.refs:
            op = self.values[ref].op
            if (isinstance(op, Load) and op.name in self.carried) or found & {*operands(op)}:
                found.add(ref)
        return frozenset(found)

    # ------------------------------------------------------------ dimensions

    def _dims(self) -> tuple[str, ...]:
        used: set[str] = set()
        for ref in self.kernel.refs:
            used.update(self.values[ref].dims)
            match self.values[ref].op:
                case Iota(dim) | Size(dim) | Select(_, dim) | Insert(_, dim):
                    used.add(dim)
                case Contract(_, _, over) | Reduce(_, _, over) | Normalize(_, _, over):
                    used.update(over)
                case _:
                    pass
        results: list[Carry | Store] = [*self.kernel.carries, *self.kernel.loads]
        for result in [*results, *self.kernel.stores]:
            used.update(result.dims)
        for name in (*self.kernel.inputs, *self.kernel.params):
            used.update(self.tensors[name].dims)
        return tuple(d.name for d in self.recurrence.dims if d.name in used)

    def _axes(self) -> dict[str, Axis]:
        out = dict.fromkeys((ROW, COLUMN, INNER), Axis("i", "CHUNK", "row", "CHUNK", False))
        for dim in self.user_dims:
            n = self.names.dims[dim]
            out[dim] = Axis(f"o_{n}", f"BLOCK_{n}", f"in_{n}", f"size_{n}", True)
        return out

    # ------------------------------------------------------------ addresses

    def _offset(self, base: str, dims: Dims, order: Dims, rows: bool) -> str:
        """Address of a tile: `order` is how the dimensions lie in memory."""
        axes = ((ROW,) if rows else ()) + tuple(d for d in self.printer.axis if d in dims)
        axes = tuple(dict.fromkeys(axes))
        parts = []
        if rows:
            parts.append(self._at(base, (ROW,), axes))
        else:
            parts.append(base)
        for dim in axes:
            if dim == ROW:
                continue
            place = order.index(dim)
            inner = [self.printer.axis[d].size for d in order[place + 1 :]]
            text = self._at(self.printer.axis[dim].offsets, (dim,), axes)
            parts.append(" * ".join([text, *inner]))
        return " + ".join(parts)

    def _at(self, text: str, own: Dims, axes: Dims) -> str:
        if own == axes:
            return text
        return f"{text}[" + ", ".join(":" if a in own else "None" for a in axes) + "]"

    def _mask(self, dims: Dims, rows: bool) -> str:
        axes = tuple(d for d in self.printer.axis if d in dims or (rows and d == ROW))
        masks = [self._at(self.printer.axis[d].mask, (d,), axes) for d in axes if d != COLUMN]
        return " & ".join(masks)

    def _volume(self, dims: Dims) -> str:
        return " * ".join(self.printer.axis[d].size for d in dims)

    def _line(self, text: str) -> None:
        self.printer.lines.append(text)

    def _row_pointer(
        self, name: str, heads: str, group: str, dims: Dims, fixed: tuple[str, int] | None = None
    ) -> str:
        """Addresses of a chunk's rows of a tensor: the first one's in 64 bits, the rest's in 32.

        `fixed` is a dimension of which only one entry is wanted.
        """
        volume = self._volume(dims)
        own = dims if fixed is None else tuple(d for d in dims if d != fixed[0])
        inner = ""
        if fixed is not None:
            words = (str(fixed[1]), self._volume(dims[dims.index(fixed[0]) + 1 :]))
            inner = " + " + " * ".join(x for x in words if x)
        at = self._row_start(name, heads, group, volume, inner)
        rows = f"local * ({heads} * {volume})" if volume else f"local * {heads}"
        rows = self.printer.assign(rows, f"{name}_rows")
        return f"{at} + {self._offset(rows, own, dims, rows=True)}"

    def _row_start(self, name: str, heads: str, group: str, volume: str, inner: str) -> str:
        """The address of a chunk's first row; what no chunk changes is left to before the loop."""
        p, lines = self.printer, self.printer.lines
        before = self.kernel.loop and not self.starts_again
        if self.kernel.loop:
            p.lines = self.ahead
        head = p.assign(f"h{group}", f"{name}_head") if group else "h"
        if not before:
            p.lines = lines
        first = "begin" if before else "(begin + past)" if self.kernel.loop else "first"
        at = f"{first} * {heads} + {head}"
        at = f"({at}) * {volume}{inner}" if volume else f"{at}{inner}"
        at = p.assign(f"{name}_ptr + {at}", f"{name}_{'from' if before else 'at'}")
        p.lines = lines
        if not before:
            return at
        stride = f"({heads} * {volume})" if volume else heads
        return p.assign(f"{at} + past * {stride}", f"{name}_at")

    # ------------------------------------------------------------ leaves

    def _leaf(self, ref: Ref, value: Value) -> Tile:
        match value.op:
            case Scalar(name):
                return Tile(self.names.tensor(name), True, frozenset())
            case Input(name):
                return self._input(name, value.dims)
            case Select(x, dim, index):  # of an input: only that entry is loaded
                return self._entry(x, dim, index, value.dims)
            case Param(name):
                return self._param(name, value.dims)
            case Load(name) if name.startswith(FIRST):
                dim = self.names.dims[name.removeprefix(FIRST)]
                return Tile(f"(tile_{dim} == 0)", True, frozenset())
            case Load(name) if name == POSITION:
                return Tile("position", True, frozenset())
            case Load(name) if name in self.carried:
                return Tile(self.names.tensor(name), True, frozenset(value.dims))
            case Load(name) if name in self.prepared:
                return self._prepared(name)
            case Load(name) if name in self.cotangents:
                return self._cotangent(name, value.dims)
            case Load(name):
                return self._kept(name, value.dims)
            case _:
                raise InternalError("not a leaf of a kernel")

    def _named_pointer(self, pointer: str) -> str:
        """A pointer of many terms gets a name and two lines of its own."""
        terms = pointer.split(" + ")
        if len(terms) < 4:
            return pointer
        name = self.printer.assign(" + ".join(terms[:2]), f"{terms[0]}s")
        self._line(f"{name} += {' + '.join(terms[2:])}")
        return name

    def _named_mask(self, mask: str) -> str:
        """The same for a mask of many terms."""
        terms = mask.split(" & ")
        if len(terms) < 4:
            return mask
        name = self.printer.assign(" & ".join(terms[:2]), "mask")
        self._line(f"{name} &= {' & '.join(terms[2:])}")
        return name

    def _loaded(self, name: str, pointer: str, mask: str, dims: Dims) -> Tile:
        pointer = self._named_pointer(pointer)
        masked = f", mask={mask}, other=0.0" if mask else ""
        text = f"tl.load({pointer}{masked})"
        raw = self.printer.assign(text, name)
        wide = self.printer.assign(f"{raw}.to(tl.float32)", f"{name}_32")
        return Tile(wide, True, frozenset(dims), raw)

    def _input(self, name: str, dims: Dims) -> Tile:
        n = self.names.tensor(name)
        own = self.tensors[name].dims
        pointer = self._row_pointer(n, f"heads_{n}", f" // (HEADS // heads_{n})", own)
        return self._loaded(n, pointer, self._mask(own, rows=False) and self._wide(own), dims)

    def _entry(self, ref: Ref, dim: str, index: int, dims: Dims) -> Tile:
        """One entry along a dimension of an input."""
        op = self.values[ref].op
        if not isinstance(op, Input):
            raise InternalError("not a leaf of a kernel")
        n = self.names.tensor(op.name)
        own = self.tensors[op.name].dims
        left = tuple(d for d in own if d != dim)
        group = f" // (HEADS // heads_{n})"
        pointer = self._row_pointer(n, f"heads_{n}", group, own, (dim, index))
        return self._loaded(n, pointer, self._mask(left, rows=False) and self._wide(left), dims)

    def _wide(self, own: Dims) -> str:
        """Mask of the padding of a row tile; rows behind the end repeat the last token."""
        axes = (ROW, *(d for d in self.printer.axis if d in own))
        return " & ".join(self._at(self.printer.axis[d].mask, (d,), axes) for d in axes[1:])

    def _cotangent(self, name: str, dims: Dims) -> Tile:
        n = self.names.tensor(name)
        own = self.cotangents[name].dims
        pointer = self._row_pointer(n, "HEADS", "", own)
        return self._loaded(n, pointer, self._mask((ROW, *own), rows=True), dims)

    def _prepared(self, name: str) -> Tile:
        n = self.names.tensor(name)
        own = self.prepared[name].dims
        if not own:
            return self._loaded(n, self._number_pointer(n), "", (ROW,))
        pointer = self._row_pointer(n, "HEADS", "", own)
        return self._loaded(n, pointer, self._mask((ROW, *own), rows=True), own)

    def _number_pointer(self, name: str) -> str:
        """Addresses of prepared numbers of a chunk: of all its rows, those behind the end too."""
        at = self.printer.assign(f"{name}_ptr + (chunk * HEADS + h) * CHUNK", f"{name}_at")
        return f"{at} + i"

    def _param(self, name: str, dims: Dims) -> Tile:
        n = self.names.tensor(name)
        own = self.tensors[name].dims
        volume = self._volume(own)
        head = f"h // (HEADS // heads_{n})"
        base = f"({head}) * {volume}" if volume else head
        pointer = f"{n}_ptr + {self._offset(base, own, own, rows=False)}"
        return self._loaded(n, pointer, self._mask(own, rows=False), dims)

    def _kept(self, name: str, dims: Dims) -> Tile:
        n = self.names.tensor(name)
        own = self.kept[name].dims
        base = self.printer.assign(self._kept_base(own), f"{n}_at")
        pointer = f"kept_{n}_ptr + {self._offset(base, own, own, rows=False)}"
        return self._loaded(n, pointer, self._mask(own, rows=False), dims)

    def _kept_base(self, dims: Dims) -> str:
        volume = self._volume(dims)
        return f"(chunk * HEADS + h) * {volume}" if volume else "chunk * HEADS + h"

    # ------------------------------------------------------------ body

    def _tiles(self, dims: Iterable[str] = ()) -> list[str]:
        """Offsets and masks of the dimensions; the tiled ones take their part of the grid."""
        out = []
        rest = "tile"
        tiled = [d for d in self.user_dims if d in self.kernel.tiled]
        for dim in dims or self.user_dims:
            if self.kernel.strips is not None and dim == self.kernel.strips.dim:
                continue
            n = self.names.dims[dim]
            start = ""
            if dim in tiled:
                out.append(f"tiles_{n} = tl.cdiv(size_{n}, BLOCK_{n})")
                out.append(f"tile_{n} = {rest} % tiles_{n}")
                rest = f"({rest} // tiles_{n})"
                start = f"tile_{n} * BLOCK_{n} + "
            out.append(f"o_{n} = {start}tl.arange(0, BLOCK_{n})")
            out.append(f"in_{n} = o_{n} < size_{n}")
        return out

    def _store(self, pointer: str, value: str, mask: str) -> None:
        masked = f", mask={mask}" if mask else ""
        kind = f"{pointer.split(' + ')[0]}.dtype.element_ty"
        parts = [self._named_pointer(pointer), f"{value}.to({kind})"]
        line = f"tl.store({', '.join(parts)}{masked})"
        if len(line) <= WIDTH - 4:
            self._line(line)
            return
        tail = [f"mask={self._named_mask(mask)}"] if mask else []
        for text in ("tl.store(", *(f"    {p}," for p in (*parts, *tail)), ")"):
            self._line(text)

    def _only_first_tiles(self, dims: Dims) -> str:
        """Condition that keeps one writer where a result lacks a tiled dimension."""
        missing = [d for d in self.kernel.tiled if d in self.user_dims and d not in dims]
        return " & ".join(f"(tile_{self.names.dims[d]} == 0)" for d in missing)

    def _and(self, *masks: str) -> str:
        return " & ".join(m for m in masks if m)

    def _store_carry(self, pointer: str, base: str, carry: Carry, value: str) -> None:
        address = f"{pointer} + {self._offset(base, carry.dims, carry.dims, rows=False)}"
        mask = self._and(self._only_first_tiles(carry.dims), self._mask(carry.dims, rows=False))
        self._store(address, value, mask)

    def _seq_base(self, dims: Dims) -> str:
        volume = self._volume(dims)
        return f"(seq * HEADS + h) * {volume}" if volume else "seq * HEADS + h"

    def _start_carries(self) -> list[str]:
        out: list[str] = []
        for carry in self.kernel.carries:
            n = self.names.tensor(carry.name)
            base = f"{n}_seq"
            self.printer.taken.add(base)
            offset = self._offset(base, carry.dims, carry.dims, rows=False)
            mask = self._mask(carry.dims, rows=False)
            shape = self.printer.shape(tuple(d for d in self.printer.axis if d in carry.dims))
            start = f"start_{n}_ptr + {offset}"
            load = []
            if start.count(" + ") >= 3:
                load = [f"{n}_ptrs = start_{n}_ptr + {base}"]
                load += [f"{n}_ptrs += {offset.removeprefix(f'{base} + ')}"]
                start = f"{n}_ptrs"
            load += [f"{n} = tl.load(", f"    {start},"]
            load += [f"    mask={mask},", "    other=0.0,"] if mask else []
            load += [").to(tl.float32)"]
            zero = f"{n} = tl.zeros({shape}, dtype=tl.float32)" if carry.dims else f"{n} = 0.0"
            if not carry.dims:
                zero = f"{n} = tl.sum(tl.zeros([CHUNK], dtype=tl.float32))"
            out += [f"{base} = {self._seq_base(carry.dims)}"]
            out += [f"if HAS_start_{n}:", *(f"    {x}" for x in load), "else:", f"    {zero}"]
        return out

    def _keep_carries(self) -> None:
        """Store what the chunk is handed; a fused walk does so only where it is asked to."""
        p = self.printer
        for carry in self.kernel.carries:
            n = self.names.tensor(carry.name)
            before, p.lines = p.lines, []
            base = p.assign(self._kept_base(carry.dims), f"{n}_at")
            self._store_carry(f"kept_{n}_ptr", base, carry, n)
            if self.kernel.stores:
                p.lines = [f"if HAS_kept_{n}:", *("    " + x for x in p.lines)]
            p.lines = before + p.lines

    def _loop_body(self) -> list[str]:
        p = self.printer
        p.taken.update(self.names.tensor(c.name) for c in self.kernel.carries)
        if not self.kept_late:
            self._keep_carries()
        if self.kernel.stores:
            for ref in self.kernel.early:
                p.run(self.kernel.refs[: self.kernel.refs.index(ref) + 1])
                p.settle_operand(ref)
            self._vectors_apart()
            last = max(self.kernel.refs.index(s.value) for s in self.kernel.stores)
            behind = self._behind()
            p.run([r for r in self.kernel.refs[: last + 1] if r in behind])
            self._store_results()
            if self.kept_late:
                self._keep_carries()
        p.run(self._behind())
        for carry in self.kernel.carries:
            p.named(carry.next)
        updates = [
            (self.names.tensor(c.name), p.tiles[c.next].text)
            for c in self.kernel.carries
            if p.tiles[c.next].text != self.names.tensor(c.name)
        ]
        if len(updates) == 1:
            self._line(f"{updates[0][0]} = {updates[0][1]}")
        elif updates:
            left, right = (", ".join(x) for x in zip(*updates, strict=True))
            self._line(f"{left} = {right}")
        body, p.lines = p.lines, []
        return body

    def _vectors_apart(self) -> None:
        """Compute the vectors that are only multiplied in a branch, which is always taken.

        What they are made of is computed again behind it where something else needs it, and only
        loaded once.
        """
        p, vectors = self.printer, self.kernel.vectors
        if not vectors:
            return
        refs, behind = self.kernel.refs, self._behind()
        inside = refs[: max(map(refs.index, vectors)) + 1]
        loads = (Input, Load, Param)
        p.run([r for r in inside if isinstance(self.values[r].op, loads) and r in behind])
        self._branch(vectors, "count > 0")

    def _branch(self, vectors: Sequence[Ref], condition: str) -> None:
        """Vectors as operands of products; of what they are made of nothing stays."""
        p = self.printer
        known, lines, p.lines = dict(p.tiles), p.lines, []
        starts = []
        for ref in vectors:
            made = made_of(self.values, [ref])
            p.run([r for r in self.kernel.refs if r in made])
            padded = tuple(d for d in p.dims(ref) if p.axis[d].padded)
            text, name = p.cleaned(ref, padded), p.fresh(None)
            starts.append(f"{name} = tl.zeros({p.shape(p.dims(ref))}, dtype=DOT)")
            p.lines.append(f"{name} = {text}.to(DOT)")
            known[ref] = Tile(name, True, p.tiles[ref].clean, name)
        p.lines = [*lines, *starts, f"if {condition}:", *("    " + x for x in p.lines)]
        p.tiles = known

    def _behind(self) -> tuple[Ref, ...]:
        """What is computed behind the vectors that are computed apart, they themselves left out."""
        apart, found = set(self.kernel.vectors), set[Ref]()
        pending = [s.value for s in self.kernel.stores] + [c.next for c in self.kernel.carries]
        while pending:
            ref = pending.pop()
            if ref not in found | apart:
                found.add(ref)
                pending += operands(self.values[ref].op)
        return tuple(r for r in self.kernel.refs if r in found)

    def _finish_carries(self) -> list[str]:
        again = self._places_again() if self.places_again else []
        for carry in self.kernel.carries:
            n = self.names.tensor(carry.name)
            self._store_carry(f"end_{n}_ptr", f"{n}_seq", carry, n)
        body, self.printer.lines = self.printer.lines, []
        return [*again, *body]

    def _places_again(self) -> list[str]:
        """The program's place, of which nothing is then held through the loop."""
        lines = ["# read again: `chunks` is never negative, which the compiler does not know"]
        for place, name in enumerate(("seq", "h", "tile") if self.kernel.tiled else ("seq", "h")):
            wide = ".to(tl.int64)" if name == "seq" else ""
            lines.append(f"{name} = tl.where(chunks < 0, 0, tl.program_id({place})){wide}")
        bases = [
            f"{self.names.tensor(c.name)}_seq = {self._seq_base(c.dims)}"
            for c in self.kernel.carries
        ]
        wanted = {*self.kernel.tiled, *(d for c in self.kernel.carries for d in c.dims)}
        return [*lines, *self._tiles([d for d in self.user_dims if d in wanted]), *bases]

    def _chunk_body(self) -> list[str]:
        p, refs = self.printer, self.kernel.refs
        if (walk := self.kernel.strips) is not None:
            self._walk_strips(walk)
            refs = tuple(r for r in refs if r not in walk.inside or r in walk.sums)
        place = {ref: number for number, ref in enumerate(refs)}
        results = zip(self.kernel.stores, self.kernel.partial, strict=True)
        for store, partial in sorted(results, key=lambda x: place[x[0].value]):
            p.run(refs[: place[store.value] + 1])
            self._store_result(store, partial)  # at once: what waits is held
        body, p.lines = p.lines, []
        return body

    def _walk_strips(self, strips: Strips) -> None:
        """A loop over the strips of a dimension that adds up all sums over it."""
        p = self.printer
        p.run(strips.before)
        known = {r: replace(p.tiles[r]) for r in p.tiles}
        totals = {}
        for ref in strips.sums:
            totals[ref] = p.assign(f"tl.zeros({p.shape(p.dims(ref))}, dtype=tl.float32)")
        lines, p.lines = p.lines, []
        for ref in strips.inside:
            if ref not in totals:
                p.run([ref])
                continue
            total = totals[ref]
            text, clean = p.added(ref, total)
            self._line(f"{total} {text}")
            known[ref] = Tile(total, True, clean)
        n = self.names.dims[strips.dim]
        body = [
            f"o_{n} = strip * BLOCK_{n} + tl.arange(0, BLOCK_{n})",
            f"in_{n} = o_{n} < size_{n}",
            *p.lines,
        ]
        head = f"for strip in tl.range(0, tl.cdiv(size_{n}, BLOCK_{n}), disable_licm=True):"
        p.lines = [*lines, head, *("    " + x for x in body)]
        p.tiles = known

    def _store_results(self) -> None:
        for store, partial in zip(self.kernel.stores, self.kernel.partial, strict=True):
            self._store_result(store, partial)

    def _store_result(self, store: Store, partial: Dims) -> None:
        p, n = self.printer, self.names.tensor(store.name)
        value = p.named(store.value)
        rows = ROW in self.values[store.value].dims
        first = self._only_first_tiles((*store.dims, *partial))
        if partial:
            part = p.assign(self._part(partial), "part")
            self._line(f"{n}_ptr += {part} * part_{n}")
        if rows and store.name.startswith(PREPARED) and not store.dims:
            pointer, mask = self._number_pointer(n), ""
        elif rows:
            pointer = self._row_pointer(n, "HEADS", "", store.dims)
            mask = self._mask((ROW, *store.dims), rows=True)
        else:
            base = p.assign(self._kept_base(store.dims), f"{n}_at")
            where = self._offset(base, store.dims, store.dims, rows=False)
            pointer = f"{n}_ptr + {where}"
            mask = self._mask(store.dims, rows=False)
        self._store(pointer, value, self._and(first, mask))

    def _part(self, partial: Dims) -> str:
        """The number of the part of a sum that this tile computes."""
        text = ""
        for dim in partial:
            n = self.names.dims[dim]
            text = f"({text} * tiles_{n} + tile_{n})" if text else f"tile_{n}"
        return f"{text}.to(tl.int64)"

    # ------------------------------------------------------------ assembly

    def arguments(self) -> list[str]:
        """All arguments in order; constants are annotated in the text."""
        t = self.names.tensor
        out = [f"{t(x)}_ptr" for x in (*self.kernel.inputs, *self.kernel.params)]
        out += [f"{t(c.name)}_ptr" for c in self.kernel.cotangents]
        out += [f"{t(s.name)}_ptr" for s in self.kernel.prepared]
        out += [f"kept_{t(c.name)}_ptr" for c in self.kernel.loads]
        for carry in self.kernel.carries:
            n = t(carry.name)
            out += [f"start_{n}_ptr", f"kept_{n}_ptr", f"end_{n}_ptr"]
        out += [f"{t(s.name)}_ptr" for s in self.kernel.stores]
        for store, partial in zip(self.kernel.stores, self.kernel.partial, strict=True):
            out += [f"part_{t(store.name)}"] if partial else []
        out += [t(s) for s in self.kernel.scalars]
        out += (
            ["starts_ptr", "first_chunks_ptr"] if self.kernel.loop else ["starts_ptr", "counts_ptr"]
        )
        if self.kernel.uses_position:
            out += (
                ["position_ptr"] if self.kernel.loop else ["position_ptr", "seqs_ptr", "locals_ptr"]
            )
        out += ["TOKENS", "CHUNKS", "HEADS"]
        out += [f"heads_{t(x)}" for x in (*self.kernel.inputs, *self.kernel.params)]
        return out

    def constants(self) -> list[str]:
        """The compile-time arguments."""
        out = [f"HAS_start_{self.names.tensor(c.name)}" for c in self.kernel.carries]
        if self.kernel.stores:
            out += [f"HAS_kept_{self.names.tensor(c.name)}" for c in self.kernel.carries]
        for dim in self.user_dims:
            out += [f"size_{self.names.dims[dim]}", f"BLOCK_{self.names.dims[dim]}"]
        inverts = any(isinstance(self.values[r].op, Inverse) for r in self.kernel.refs)
        out += ["CHUNK", "PACKED", "DOT", "PRECISION"]
        return [*out, *(["EXACT"] if inverts else []), *(["SHORT"] if self._sums_rows() else [])]

    def _sums_rows(self) -> bool:
        """Whether running sums of vectors are taken, in scores too."""
        values = (self.values[r] for r in self.kernel.refs)
        return any(
            isinstance(v.op, Scores) or (isinstance(v.op, CumSum) and len(v.dims) == 2)
            for v in values
        )

    def render(self) -> RenderedKernel:
        """The whole function."""
        arguments, constants = self.arguments(), self.constants()
        self.printer.taken.update((*arguments, *constants))
        for dim in self.user_dims:
            n = self.names.dims[dim]
            self.printer.taken.update((f"o_{n}", f"in_{n}", f"tile_{n}", f"tiles_{n}"))
        head = [f"def {self.name}("]
        head += [f"    {a}," for a in arguments]
        head += [f"    {c}: tl.constexpr," for c in constants]
        head.append("):")
        lines = self._loop() if self.kernel.loop else self._chunk()
        lines = drop_unused(lines)
        text = "\n".join([*head, *(("    " + x) if x else x for x in lines)]) + "\n"
        return RenderedKernel(
            self.name, text, (*arguments, *constants), self.kernel.tiled, self.user_dims
        )

    def _loop(self) -> list[str]:
        walk = "chunks - 1 - step" if self.kernel.program.reverse else "step"
        lines = [
            '"""Walks over the chunks of one sequence and head with the carries on chip."""',
            "seq = tl.program_id(0).to(tl.int64)",
            "h = tl.program_id(1)",
            "tile = tl.program_id(2)",
            "if PACKED:",
            "    begin = tl.load(starts_ptr + seq)",
            "    length = tl.load(starts_ptr + seq + 1) - begin",
            "    first_chunk = tl.load(first_chunks_ptr + seq)",
            "else:",
            "    begin = seq * TOKENS",
            "    length = TOKENS",
            "    first_chunk = seq * CHUNKS",
            "i = tl.arange(0, CHUNK)",
            *self._tiles(),
            *self._start_carries(),
            "chunks = (length + CHUNK - 1) // CHUNK",
        ]
        inner = [
            f"n = {walk}",
            "chunk = first_chunk + n",
            "past = tl.full([], 0, tl.int64) + n * CHUNK",
            "count = tl.minimum(length - n * CHUNK, CHUNK).to(tl.int32)",
            "row = i < count",
            "local = tl.minimum(i, count - 1)",
        ]
        if self.kernel.uses_position:
            inner.append("position = tl.load(position_ptr + seq) + n * CHUNK + i")
        inner += self._loop_body()
        # addresses kept from chunk to chunk would spill
        head = "for step in tl.range(0, chunks, disable_licm=True):"
        return [*lines, *self.ahead, head, *("    " + x for x in inner), *self._finish_carries()]

    def _chunk(self) -> list[str]:
        lines = [
            '"""Computes the results of one chunk of one head from the kept carries."""',
            "chunk = tl.program_id(0).to(tl.int64)",
            "h = tl.program_id(1).to(tl.int64)",
            "tile = tl.program_id(2)",
            "if PACKED:",
            "    first = tl.load(starts_ptr + chunk)",
            "    count = tl.load(counts_ptr + chunk).to(tl.int32)",
            "    if count <= 0:",
            "        return",
            "else:",
            "    n = chunk % CHUNKS",
            "    first = chunk // CHUNKS * TOKENS + n * CHUNK",
            "    count = tl.minimum(TOKENS - n * CHUNK, CHUNK)",
            "i = tl.arange(0, CHUNK)",
            "row = i < count",
            "local = tl.minimum(i, count - 1)",
            *self._tiles(),
        ]
        if self.kernel.uses_position:
            lines += [
                "if PACKED:",
                "    seq = tl.load(seqs_ptr + chunk)",
                "    position = tl.load(position_ptr + seq) + tl.load(locals_ptr + chunk) + i",
                "else:",
                "    position = tl.load(position_ptr + chunk // CHUNKS) + n * CHUNK + i",
            ]
        return [*lines, *self._chunk_body()]


def drop_unused(lines: Sequence[str]) -> list[str]:
    """Lines without assignments to names that are never read (wide copies of matrix operands)."""
    kept = list(lines)
    while True:
        text = "\n".join(kept)
        dead = [k for k, line in enumerate(kept) if _dead(line, text)]
        if not dead:
            return kept
        kept = [line for k, line in enumerate(kept) if k not in set(dead)]


def _dead(line: str, text: str) -> bool:
    name, equals, rest = line.strip().partition(" = ")
    if not equals or not name.isidentifier() or rest.endswith("("):
        return False
    return _count(name, text) == 1


def _count(name: str, text: str) -> int:
    count = 0
    start = text.find(name)
    while start >= 0:
        before = text[start - 1] if start else " "
        end = start + len(name)
        after = text[end] if end < len(text) else " "
        if not (before.isalnum() or before == "_") and not (after.isalnum() or after == "_"):
            count += 1
        start = text.find(name, end)
    return count


def user_facing(dims: Iterable[str]) -> str:
    """Dimensions for a comment."""
    return ", ".join(dims)
