"""Prints the two kernels that walk over time: the steps of one sequence, and their adjoint.

In: a `StepProgram` and what the host calls the tensors.  Out: the text of a plain Python function
(made a kernel by `triton.jit` at the first launch) and its arguments with what the host passes.

A program of the grid carries out one sequence, some heads, and one tile of the dimensions that are
cut.  The carried parts stay on chip.  Forward leaves them behind every `EVERY` steps; backward goes
from one of these checkpoints to the one before: it replays the steps in between, with the parts
before each of them in a buffer of its own, then runs the adjoint of the step against time.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from scandsl.diagnostics import InternalError
from scandsl.ir.nodes import Contract, Dims, Kind, Load, Ref, Scalar, Value, made_of, operands
from scandsl.kernels.program import POSITION, Carry, Store
from scandsl.kernels.step import HEAD, StepProgram
from scandsl.kernels.step_tiles import STRIPS
from scandsl.render.layout import WIDTH, weight
from scandsl.render.names import LAUNCH_NAMES
from scandsl.render.triton_kernel import drop_unused
from scandsl.render.triton_printer import Axis, Tile, TritonPrinter, strip, use_counts

_LINE = 64  # longer pointers and masks are computed in lines of their own

_OWN = (
    *LAUNCH_NAMES,
    "tl", "triton", "TOKENS", "HEADS", "EVERY", "HEAD_TILES", "SAVE", "HOLD", "PACKED",
    "BLOCK_HEADS",
    "DOT", "PRECISION", "ROOM", "WHOLE", "seq", "h", "in_h", "tile", "lane", "begin", "length",
    "slot",
    "step", "token", "position", "start", "chunk", "chunks", "back", "first", "count", "c", "r",
    "seat", "products", "products_ptr", "THROUGH", "AREA", "room", "at", "float", "range", "if",
    "for", "in", "is", "offsets_ptr", "position_ptr",
    "kept_ptr", "scratch_ptr", "kept_at", "program",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Plane:
    """One real tensor: its name in kernels, its dimensions as they lie in memory, what it is.

    `heads` is what the host says of the number of its heads; empty for one that has them all.
    """

    var: str
    dims: Dims
    host: str
    heads: str = ""


@dataclass(frozen=True, slots=True)
class PartPlanes:
    """Where a carried part begins and ends: entry `entry` of `depth` in a tensor of the state."""

    start: Plane
    end: Plane
    entry: int = 0
    depth: int = 1


@dataclass(frozen=True, slots=True)
class Setup:
    """What both kernels know: the program, and the tensors by their names in it.

    `sizes` are the dimensions' sizes as the host calls them, `cut` the dimensions that are cut.
    """

    program: StepProgram
    dims: Mapping[str, str]
    sizes: Mapping[str, str]
    inputs: Mapping[str, Plane]
    params: Mapping[str, Plane]
    scalars: Mapping[str, Plane]
    parts: Mapping[str, PartPlanes]
    rows: Mapping[str, Plane]  # outputs, their cotangents, gradients of inputs
    sums: Mapping[str, Plane]  # gradients of params
    cut: Dims
    steps: bool  # whether the position is carried


@dataclass(frozen=True, slots=True)
class StepKernel:
    """A kernel's text, its arguments with what the host passes, how many products it makes."""

    name: str
    source: str
    arguments: Mapping[str, str]
    products: int


def step_forward(setup: Setup, name: str) -> StepKernel:
    """The kernel that runs the steps."""
    return _Forward(setup, name).render()


def step_backward(setup: Setup, name: str) -> StepKernel:
    """The kernel that runs their adjoint."""
    return _Backward(setup, name).render()


@dataclass(slots=True)
class _Text:
    """Lines in the making."""

    lines: list[str] = field(default_factory=list)

    def add(self, *lines: str, level: int = 0) -> None:
        pad = "    " * level
        self.lines.extend(pad + line for line in lines)


class _Kernel:
    """What both directions share: arguments, addresses, leaves, bodies."""

    doc = ""
    direction = ""

    def __init__(self, setup: Setup, name: str) -> None:
        self.setup = setup
        self.program = setup.program
        self.values = setup.program.values
        self.name = name
        self.arguments: dict[str, str] = {}
        self.constants: dict[str, str] = {}
        self.head = _Text()  # before the loop
        self.taken = set(_OWN)
        self._reserve()
        self.axis = self._axes()
        self.vars = {c.name: self._fresh(self._part_hint(c.name)) for c in self.program.parts}
        self.settled: dict[Ref, Tile] = {}
        self.matrices: dict[Ref, tuple[str, list[str]]] = {}
        self.strips: dict[tuple[str, str], str] = {}  # where rows of a matrix begin

    # ------------------------------------------------------------ names

    def _reserve(self) -> None:
        s = self.setup
        for n in s.dims.values():
            self.taken.update((f"o_{n}", f"in_{n}", f"lane_{n}", f"size_{n}", f"BLOCK_{n}"))
            self.taken.update((f"tile_{n}", f"tiles_{n}"))
            self.taken.update(f"STRIP_{n}_{other}" for other in s.dims.values())
        planes = [*s.inputs.values(), *s.params.values(), *s.scalars.values(), *s.rows.values()]
        planes += [*s.sums.values(), *(p.start for p in s.parts.values())]
        planes += [p.end for p in s.parts.values()]
        for plane in planes:
            n = plane.var
            self.taken.update((f"{n}_ptr", f"{n}_at", f"heads_{n}", f"SHARED_{n}", f"part_{n}"))
        self.taken.update(p.var for p in s.scalars.values())

    def _fresh(self, wish: str) -> str:
        wish += "_" * (wish in ("l", "I", "O"))  # linters take them for digits
        name, number = wish, 2
        while name in self.taken:
            name, number = f"{wish}_{number}", number + 1
        self.taken.add(name)
        return name

    def _part_hint(self, name: str) -> str:
        planes = self.setup.parts[name]
        stem = planes.start.var.removeprefix("start_")
        return f"{stem}_{planes.entry + 1}" if planes.depth > 1 else stem

    def _argument(self, name: str, host: str, constant: bool = False) -> str:
        (self.constants if constant else self.arguments)[name] = host
        return name

    # ------------------------------------------------------------ dimensions

    def _axes(self) -> dict[str, Axis]:
        out = {}
        if self.program.heads:
            out[HEAD] = Axis("h", "BLOCK_HEADS", "in_h", "HEADS", True)
        for dim, n in self.setup.dims.items():
            out[dim] = Axis(f"o_{n}", f"BLOCK_{n}", f"in_{n}", f"size_{n}", True)
        return out

    @property
    def lead(self) -> Dims:
        """The dimensions in front of all tensors."""
        return (HEAD,) if self.program.heads else ()

    def _ordered(self, dims: Iterable[str]) -> Dims:
        own = set(dims)
        return tuple(d for d in self.axis if d in own)

    def _spread(self, text: str, own: Dims, dims: Dims) -> str:
        """A name with axes `own`, spread over `dims`."""
        if own == dims or not own:
            return text
        return f"{text}[" + ", ".join(":" if d in own else "None" for d in dims) + "]"

    def _volume(self, dims: Dims) -> str:
        return " * ".join(self.axis[d].size for d in dims)

    def _inner(self, order: Dims, dims: Dims) -> list[str]:
        """The place in one head's share of a tensor, as a sum, for a tile with axes `dims`."""
        parts = []
        for dim in self._ordered(order):
            behind = [self.axis[d].size for d in order[order.index(dim) + 1 :]]
            offsets = self._spread(self.axis[dim].offsets, (dim,), dims)
            parts.append(" * ".join([offsets, *behind]))
        return parts

    def _mask(self, dims: Dims, *more: str) -> str:
        masks = [self._spread(self.axis[d].mask, (d,), dims) for d in dims]
        return " & ".join([*more, *masks])

    def _missing(self, dims: Dims) -> Dims:
        return tuple(d for d in self.setup.cut if d not in dims)

    def _only_first(self, dims: Dims) -> list[str]:
        """Conditions that make the first tile the only one where a tensor lacks a cut dimension."""
        return [f"(tile_{self.setup.dims[d]} == 0)" for d in self._missing(dims)]

    # ------------------------------------------------------------ the beginning

    def _begin(self) -> None:
        """Where the program stands in the grid."""
        a = self._argument
        a("offsets_ptr", "offsets")
        a("TOKENS", "tokens")
        a("HEADS", "heads")
        a("EVERY", "every")
        self.constants |= {"PACKED": "offsets is not None"}
        add = self.head.add
        add(f'"""{self.doc}"""', "seq = tl.program_id(0).to(tl.int64)")
        if self.program.heads:
            self.constants["BLOCK_HEADS"] = "block_heads"
            add("h = tl.program_id(1).to(tl.int64) * BLOCK_HEADS + tl.arange(0, BLOCK_HEADS)")
            add("in_h = h < HEADS")
        else:
            add("h = tl.program_id(1).to(tl.int64)")
        add("if PACKED:")
        add("begin = tl.load(offsets_ptr + seq)", level=1)
        add("length = tl.load(offsets_ptr + seq + 1) - begin", level=1)
        if self.program.parts:
            add("slot = begin // EVERY + seq", level=1)
        add("else:")
        add("begin = seq * TOKENS", "length = TOKENS", level=1)
        if self.program.parts:
            add("slot = seq * ((TOKENS + EVERY - 1) // EVERY)", level=1)
        if self.setup.steps:
            a("position_ptr", "start_t")
            add("start = tl.load(position_ptr + seq)")
        self._tiles()

    def _tiles(self) -> None:
        rest = "tile"
        if self.setup.cut:
            self.head.add("tile = tl.program_id(2)")
        for dim, n in self.setup.dims.items():
            self._argument(f"size_{n}", self.setup.sizes[dim], constant=True)
            self._argument(f"BLOCK_{n}", f"block_{n}", constant=True)
            start = ""
            if dim in self.setup.cut:
                self.head.add(f"tiles_{n} = (size_{n} + BLOCK_{n} - 1) // BLOCK_{n}")
                self.head.add(f"tile_{n} = {rest} % tiles_{n}")
                rest = f"({rest} // tiles_{n})"
                start = f"tile_{n} * BLOCK_{n} + "
            self.head.add(f"o_{n} = {start}tl.arange(0, BLOCK_{n})")
            self.head.add(f"in_{n} = o_{n} < size_{n}")

    def _at_step(self, step: str, body: Sequence[str]) -> list[str]:
        """The token and the position of a step, if its body reads them."""
        text = "\n".join(body)
        found = [("token", "begin"), ("position", "start")]
        return [f"{n} = {b} + {step}" for n, b in found if re.search(rf"\b{n}\b", text)]

    def _part_number(self, missing: Dims) -> str:
        """The number of the share of a sum that this tile computes."""
        text = ""
        for dim in missing:
            n = self.setup.dims[dim]
            text = f"({text} * tiles_{n} + tile_{n})" if text else f"tile_{n}"
        return f"{text}.to(tl.int64)"

    # ------------------------------------------------------------ addresses

    def _summed(self, name: str, terms: Sequence[str]) -> list[str]:
        """Statements for a sum of many terms, two in each line."""
        pairs = [terms[n : n + 2] for n in range(0, len(terms), 2)]
        lines = [strip(" + ".join(pair)) for pair in pairs]
        return [f"{name} = {lines[0]}", *(f"{name} += {line}" for line in lines[1:])]

    def _pointed(self, terms: Sequence[str], wish: str, lines: list[str]) -> str:
        """A pointer; one of many terms gets a name."""
        held = [t for t in terms if t]
        if len(held) <= 2:
            return " + ".join(held)
        name = self._fresh(wish)
        lines += self._summed(name, held)
        return name

    def _masked(self, dims: Dims, more: Sequence[str], lines: list[str]) -> str:
        """A mask; a long one gets a name."""
        text = self._mask(dims, *more)
        if weight(text) <= _LINE:
            return text
        name = self._fresh("mask")
        terms = text.split(" & ")
        half = (len(terms) + 1) // 2
        lines.append(f"{name} = {' & '.join(terms[:half])}")
        lines.append(f"{name} &= {' & '.join(terms[half:])}")
        return name

    def _address(self, plane: Plane, head: str, base: str = "") -> list[str]:
        """A pointer to the tile of one tensor, in the row `base`, heads spread as axes ask."""
        dims = self._ordered((*self.lead, *plane.dims))
        volume = self._volume(plane.dims)
        index = self._spread(head, self.lead, dims)
        row = f"({base} + {index})" if base else index
        terms = [f"{plane.var}_ptr", f"{row} * {volume}" if volume else row]
        return self._summed(f"{plane.var}_at", [*terms, *self._inner(plane.dims, dims)])

    def _narrow_address(self, plane: Plane, row: str) -> list[str]:
        """The same for all heads of a program together, which stand in one row."""
        own = self._ordered(plane.dims)
        volume = self._volume(plane.dims)
        terms = [f"{plane.var}_ptr", f"{row} * {volume}" if volume else row]
        return self._summed(f"{plane.var}_at", [*terms, *self._inner(plane.dims, own)])

    def _either(self, condition: str, one: list[str], other: list[str]) -> list[str]:
        """One of two lists of statements; of single ones, the better value."""
        if len(one) == len(other) == 1:
            name, _, text = one[0].partition(" = ")
            short = f"{name} = {text} if {condition} else {other[0].partition(' = ')[2]}"
            if len(short) <= WIDTH - 4:
                return [short]
        inner = ["    " + x for x in one]
        return [f"if {condition}:", *inner, "else:", *("    " + x for x in other)]

    def _group_address(self, plane: Plane) -> None:
        """The same for a tensor that may have fewer heads."""
        n = plane.var
        self._argument(f"heads_{n}", plane.heads)
        if not self.program.heads:
            self.head.add(*self._address(plane, f"(h // (HEADS // heads_{n}))"))
            return
        shared = f"_shared(heads, {plane.heads}, block_heads)"
        self._argument(f"SHARED_{n}", shared, constant=True)
        group = self._fresh(f"{n}_head")
        first = "(tl.program_id(1).to(tl.int64) * BLOCK_HEADS)"
        self.head.add(
            *self._either(
                f"SHARED_{n}",
                [
                    f"{group} = {first} // (HEADS // heads_{n})",
                    *self._narrow_address(plane, group),
                ],
                [f"{group} = h // (HEADS // heads_{n})", *self._address(plane, group)],
            )
        )

    def _read(self, plane: Plane, row: str, kind: Kind) -> list[str]:
        """Statements that load the tile of a tensor that may have fewer heads, to `at`."""
        n = plane.var
        dims = self._ordered((*self.lead, *plane.dims))
        offset = ""
        if row:
            offset = " * ".join(filter(None, (f" + {row} * heads_{n}", self._volume(plane.dims))))
        lines: list[str] = []
        load = self._load(f"{n}_at{offset}", self._masked(dims, (), lines), kind)
        name = self._fresh(n)
        if not self.program.heads:
            return [*lines, f"{name} = {load}"]
        own = self._ordered(plane.dims)
        one = self._load(f"{n}_at{offset}", self._masked(own, (), lines), kind)
        narrow = self._fresh(f"{n}_one")
        index = ", ".join("None" if d == HEAD else ":" for d in dims)
        text = f"{narrow}[{index}]" if own else narrow
        shape = "[" + ", ".join(self.axis[d].block for d in dims) + "]"
        return [
            *lines, f"if SHARED_{n}:", f"    {narrow} = {one}",
            f"    {name} = tl.broadcast_to({text}, {shape})", "else:", f"    {name} = {load}",
        ]  # fmt: skip

    def _load(self, pointer: str, mask: str, kind: Kind) -> str:
        text = f"tl.load({pointer}{f', mask={mask}, other=0.0' if mask else ''})"
        match kind:
            case Kind.BOOL:
                return f"{text.replace('other=0.0', 'other=0')} != 0"
            case Kind.INT:
                return f"{text.replace('other=0.0', 'other=0')}.to(tl.int32)"
            case _:
                return f"{text}.to(tl.float32)"

    # ------------------------------------------------------------ values

    def _needed(self, roots: Iterable[Ref]) -> list[Ref]:
        return sorted(made_of(self.values, roots))

    def _printer(self, refs: Sequence[Ref], roots: Sequence[Ref]) -> TritonPrinter:
        printer = TritonPrinter(
            values=self.values,
            leaf=self._leaf,
            axis=self.axis,
            users=use_counts(self.values, refs, roots),
            through=True,
        )
        printer.taken = self.taken
        printer.tiles = {r: replace(t) for r, t in self.settled.items()}
        return printer

    def _settle(self, roots: Sequence[Ref]) -> None:
        """Compute what stays the same in time, before the loop."""
        needed = self._needed(roots)
        varying = [self.values[r].op for r in needed if self.values[r].varies]
        used = {*roots, *(r for op in varying for r in operands(op))}
        steady = [r for r in needed if not self.values[r].varies]
        inner = {r for ref in steady for r in operands(self.values[ref].op)} | set(roots)
        for ref in steady:
            if ref not in inner and self._is_matrix(self.values[ref]):
                self._hold(ref)
        refs = [r for r in steady if r not in self.matrices]
        printer = self._printer(refs, roots)
        self.leaf_printer = printer
        printer.run(refs)
        for ref in refs:
            if ref in used:
                printer.named(ref)
        self.head.add(*printer.lines)
        self.settled = printer.tiles

    def _is_matrix(self, value: Value) -> bool:
        """Whether a value is a param that may be too large to stay on chip."""
        wide = [d for d in value.dims if not self.setup.sizes.get(d, "").isdigit()]
        param = isinstance(value.op, Load) and value.op.name in self.setup.params
        return param and len(wide) > 1 and not self.program.heads

    def _hold(self, ref: Ref) -> None:
        """A matrix that is loaded once where there is room, else wherever it is used."""
        op = self.values[ref].op
        assert isinstance(op, Load)
        plane = self.setup.params[op.name]
        self._argument("HOLD", "hold", constant=True)
        self._argument(f"{plane.var}_ptr", plane.host)
        self._group_address(plane)
        lines = self._read(plane, "", self.values[ref].kind)
        self.head.add("if HOLD:", *("    " + x for x in lines))
        name = lines[-1].partition(" = ")[0]
        self.matrices[ref] = (name, ["if not HOLD:", *("    " + x for x in lines)])

    def _body(self, roots: Sequence[Ref]) -> TritonPrinter:
        """Compute the values of one step."""
        refs = [r for r in self._needed(roots) if self.values[r].varies]
        printer = self._printer(refs, roots)
        self.leaf_printer = printer
        for ref in refs:
            if self._applied(printer, ref):
                continue
            for operand in operands(self.values[ref].op):
                if operand in self.matrices:
                    name, lines = self.matrices[operand]
                    printer.lines += lines
                    printer.tiles[operand] = Tile(name, True, frozenset(self.values[operand].dims))
            printer.run([ref])
        return printer

    def _applied(self, printer: TritonPrinter, ref: Ref) -> bool:
        """A vector times a matrix, in strips where the matrix is too large for the registers."""
        found = self._matrix_and_vector(ref)
        if found is None:
            return False
        op = self.values[found].op
        assert isinstance(op, Load)
        plane = self.setup.params[op.name]
        name, load = self.matrices[found]
        printer.tiles[found] = Tile(name, True, frozenset(self.values[found].dims))
        before = len(printer.lines)
        printer.run([ref])
        whole = printer.named(ref)
        *first, last = printer.lines[before:]
        call, condition = self._strips(printer, plane, found, ref)
        printer.lines[before:] = [
            *first, f"if {condition}:", f"    {whole} = {call}", "else:",
            *("    " + x for x in load), f"    {last}",
        ]  # fmt: skip
        return True

    def _matrix_and_vector(self, ref: Ref) -> Ref | None:
        """The matrix that may not stay on chip, in its product with a vector."""
        op, cut = self.values[ref].op, set(self.setup.cut)
        if not isinstance(op, Contract):
            return None
        for matrix, vector in ((op.a, op.b), (op.b, op.a)):
            dims = self.values[matrix].dims
            if matrix not in self.matrices or len(dims) != 2 or cut & set(dims):
                continue
            if self.values[vector].dims == op.over and len(op.over) == 1:
                return matrix
        return None

    def _strips(
        self, printer: TritonPrinter, plane: Plane, matrix: Ref, ref: Ref
    ) -> tuple[str, str]:
        """The call that multiplies strips of rows, and when it is made."""
        op = self.values[ref].op
        assert isinstance(op, Contract)
        (row,), (inner,) = self.values[ref].dims, op.over
        rows, inside = self.setup.dims[row], self.setup.dims[inner]
        strip = f"STRIP_{rows}_{inside}"
        host = f"_step_strip(block_{rows}, block_{inside}, {STRIPS[self.direction]})"
        self._argument(strip, host, constant=True)
        if (plane.var, row) not in self.strips:
            name = self._fresh(f"{plane.var}_{rows}_at")
            head = f"(h // (HEADS // heads_{plane.var})) * {self._volume(plane.dims)}"
            terms = [f"{plane.var}_ptr", head, self._along(plane.dims, inner)]
            self.head.add(*self._summed(name, terms))
            self.strips[plane.var, row] = name
        vector = printer.named(op.b if matrix == op.a else op.a)
        behind = self._volume(plane.dims[plane.dims.index(row) + 1 :]) or "1"
        call = [
            self.strips[plane.var, row], behind, f"in_{inside}", vector, f"size_{rows}",
            f"BLOCK_{rows}", strip,
        ]  # fmt: skip
        return f"_in_strips({', '.join(call)})", f"{strip} < BLOCK_{rows} and not HOLD"

    def _along(self, order: Dims, dim: str) -> str:
        """The places of a dimension's entries in one head's share of a tensor."""
        behind = self._volume(order[order.index(dim) + 1 :])
        return f"{self.axis[dim].offsets} * {behind}" if behind else self.axis[dim].offsets

    def _leaf(self, ref: Ref, value: Value) -> Tile:
        s = self.setup
        everywhere = frozenset(value.dims)
        match value.op:
            case Scalar(name):
                plane = s.scalars[name]
                return Tile(self._argument(plane.var, plane.host), True, frozenset())
            case Load(name) if name == POSITION:
                return Tile("position", True, frozenset())
            case Load(name) if name in self.vars:
                return Tile(self.vars[name], True, everywhere)
            case Load(name) if name in s.inputs:
                return self._tensor(s.inputs[name], "token", value)
            case Load(name) if name in s.params:
                return self._tensor(s.params[name], "", value)
            case Load(name) if name in s.rows:
                return self._row(s.rows[name], value)
            case _:
                raise InternalError("not a leaf of a step")

    def _tensor(self, plane: Plane, row: str, value: Value) -> Tile:
        if f"{plane.var}_ptr" not in self.arguments:
            self._argument(f"{plane.var}_ptr", plane.host)
            self._group_address(plane)
        lines = self._read(plane, row, value.kind)
        self.leaf_printer.lines += lines
        return Tile(lines[-1].strip().partition(" = ")[0], True, frozenset(value.dims))

    def _row(self, plane: Plane, value: Value) -> Tile:
        """The cotangent of an output; one that lacks a cut dimension counts in the first tile."""
        n = plane.var
        dims = self._ordered((*self.lead, *plane.dims))
        if f"{n}_ptr" not in self.arguments:
            self._argument(f"{n}_ptr", plane.host)
            self.head.add(*self._address(plane, "h"))
        offset = " * ".join(filter(None, ("token * HEADS", self._volume(plane.dims))))
        mask = self._masked(dims, self._only_first(plane.dims), self.leaf_printer.lines)
        text = self._load(f"{n}_at + {offset}", mask, value.kind)
        return Tile(self.leaf_printer.assign(text, n), True, frozenset(value.dims))

    def _typed(self, printer: TritonPrinter, ref: Ref, carry: bool = True) -> str:
        """A value as a tile, in the type in which it is carried."""
        value = self.values[ref]
        tile = printer.tiles[ref]
        if tile.number:
            kind = {Kind.BOOL: "tl.int1", Kind.INT: "tl.int32"}.get(value.kind, "tl.float32")
            return f"tl.full({printer.shape(value.dims)}, {tile.text}, {kind})"
        if carry and value.kind is Kind.REAL:
            padded = tuple(d for d in value.dims if d != HEAD)
            return printer.cleaned(ref, padded)
        if carry and value.kind is Kind.INT:
            return f"{printer.named(ref)}.to(tl.int32)"
        if carry and value.kind is Kind.BOOL:
            return f"({printer.named(ref)} != 0)"
        return printer.named(ref)

    # ------------------------------------------------------------ parts

    def _raw(self, text: str, kind: Kind) -> str:
        """A part as float32 bits."""
        match kind:
            case Kind.BOOL:
                return f"tl.where({text}, 1.0, 0.0)"
            case Kind.INT:
                return f"{text}.to(tl.float32, bitcast=True)"
            case _:
                return text

    def _unraw(self, text: str, kind: Kind) -> str:
        match kind:
            case Kind.BOOL:
                return f"{text} != 0"
            case Kind.INT:
                return f"{text}.to(tl.int32, bitcast=True)"
            case _:
                return text

    def _kept_at(self, name: str, slot: str) -> str:
        """Where the parts of the first head lie at a checkpoint."""
        self._argument("kept_ptr", "kept")
        self._argument("WHOLE", "whole", constant=True)
        head = "" if self.program.heads else " + h"
        return f"{name} = kept_ptr + (({slot}) * HEADS{head}) * WHOLE"

    def _kept_terms(self, name: str, carry: Carry) -> list[str]:
        """The tile of a part, from the pointer to its first number."""
        dims = self._ordered((*self.lead, *carry.dims))
        heads = [f"{self._spread('h', self.lead, dims)} * WHOLE"] if self.program.heads else []
        return [name, *heads, *self._inner(self._ordered(carry.dims), dims)]

    def _state_terms(self, planes: PartPlanes, plane: Plane) -> list[str]:
        """The tile of a part in a tensor of the state."""
        dims = self._ordered((*self.lead, *plane.dims))
        volume = self._volume(plane.dims)
        head = self._spread("h", self.lead, dims)
        row = f"(seq * HEADS + {head})"
        if planes.depth > 1 or planes.entry:
            row = f"({row} * {planes.depth} + {planes.entry})"
        row = f"{row} * {volume}" if volume else row
        return [f"{plane.var}_ptr", row, *self._inner(plane.dims, dims)]

    def _load_part(self, name: str, planes: PartPlanes, carry: Carry, first: Sequence[str]) -> None:
        """A carried part before the loop, from the state that was given."""
        dims = self._ordered((*self.lead, *carry.dims))
        lines = self.head.lines
        terms = self._state_terms(planes, planes.start)
        pointer = self._pointed(terms, f"{planes.start.var}_at", lines)
        load = self._load(pointer, self._masked(dims, first, lines), carry.kind)
        lines.append(f"{name} = {load}")

    def _steps_on(self, name: str, carry: Carry, volume: str) -> list[str]:
        """A pointer moved behind a part, if there is another one."""
        return [] if carry.name == self.program.parts[-1].name else [f"{name} += {volume}"]

    def _ask(self, plane: Plane) -> None:
        self._argument(f"{plane.var}_ptr", plane.host)

    # ------------------------------------------------------------ assembly

    def _finished(self, body: Sequence[str]) -> StepKernel:
        lines = [*self.head.lines, *body]
        products = sum(line.count("_dot_through(") for line in lines)
        if products:
            self.constants |= {"DOT": "tl.float32", "PRECISION": "_step_precision(allow_tf32)"}
            self.constants |= {"THROUGH": "through", "AREA": "2 * numbers"}
            self._argument("products_ptr", "products")
            seat = "(seq * tl.num_programs(1) + tl.program_id(1)) * tl.num_programs(2)"
            place = [f"seat = {seat} + tl.program_id(2)", "products = products_ptr + seat * AREA"]
            at = next(i for i, line in enumerate(lines) if line.startswith("seq = ")) + 1
            lines = [*lines[:at], *place, *lines[at:]]
        every = {**self.arguments, **self.constants}
        head = [f"def {self.name}("]
        head += [f"    {a}," for a in self.arguments]
        head += [f"    {c}: tl.constexpr," for c in self.constants]
        head.append("):")
        lines = drop_unused(lines)
        text = "\n".join([*head, *("    " + x for x in lines)]) + "\n"
        return StepKernel(self.name, text, every, products)

    def _store(self, pointer: str, value: str, mask: str) -> str:
        return f"tl.store({pointer}, {value}{f', mask={mask}' if mask else ''})"

    def _cast_to(self, plane: Plane, value: str) -> str:
        name = value if value.isidentifier() else f"({strip(value)})"
        return f"{name}.to({plane.var}_ptr.dtype.element_ty)"

    def _together(self, updates: Sequence[tuple[str, str]]) -> list[str]:
        """New values for all parts at once."""
        changed = [(a, b) for a, b in updates if a != b]
        if not changed:
            return []
        left, right = (", ".join(x) for x in zip(*changed, strict=True))
        return [f"{left} = {right}"]


class _Forward(_Kernel):
    doc = "Runs the steps of one sequence with the carried parts on chip."
    direction = "forward"

    def render(self) -> StepKernel:
        p = self.program
        roots = [*(s.value for s in p.outputs), *(c.next for c in p.parts)]
        self._begin()
        self._start_parts()
        self._settle(roots)
        for store in p.outputs:
            plane = self.setup.rows[store.name]
            self._ask(plane)
            self.head.add(*self._address(plane, "h"))
        kept = self._checkpoint()
        printer = self._body(roots)
        for store in p.outputs:
            self._output(printer, store)
        updates = [(self.vars[c.name], self._typed(printer, c.next)) for c in p.parts]
        inner = [*printer.lines, *self._together(updates)]
        return self._finished([*self._over_time(kept, inner), *self._end_parts()])

    def _over_time(self, kept: Sequence[str], step: Sequence[str]) -> list[str]:
        """The loop over time; in stretches, so that no step holds addresses of checkpoints."""
        if not kept:
            inner = [*self._at_step("step", step), *step]
            return ["for step in range(length):", *("    " + x for x in inner)]
        inner = [*self._at_step("first + c", step), *step]
        stretch = [
            "first = chunk * EVERY", "count = tl.minimum(EVERY, length - first)", *kept,
            "for c in range(count):", *("    " + x for x in inner),
        ]  # fmt: skip
        self.head.add("chunks = (length + EVERY - 1) // EVERY")
        return ["for chunk in range(chunks):", *("    " + x for x in stretch)]

    def _start_parts(self) -> None:
        for carry in self.program.parts:
            planes = self.setup.parts[carry.name]
            self._ask(planes.start)
            self._load_part(self.vars[carry.name], planes, carry, [])

    def _end_parts(self) -> list[str]:
        out: list[str] = []
        for carry in self.program.parts:
            planes = self.setup.parts[carry.name]
            self._ask(planes.end)
            dims = self._ordered((*self.lead, *carry.dims))
            terms = self._state_terms(planes, planes.end)
            pointer = self._pointed(terms, f"{planes.end.var}_at", out)
            mask = self._masked(dims, self._only_first(carry.dims), out)
            out.append(self._store(pointer, self._cast_to(planes.end, self.vars[carry.name]), mask))
        return out

    def _checkpoint(self) -> list[str]:
        if not self.program.parts:
            return []
        self._argument("SAVE", "save", constant=True)
        inner = [self._kept_at("kept_at", "slot + chunk")]
        for carry in self.program.parts:
            dims = self._ordered((*self.lead, *carry.dims))
            pointer = self._pointed(self._kept_terms("kept_at", carry), "kept_tile", inner)
            mask = self._masked(dims, self._only_first(carry.dims), inner)
            inner.append(self._store(pointer, self._raw(self.vars[carry.name], carry.kind), mask))
            inner += self._steps_on("kept_at", carry, self._volume(carry.dims) or "1")
        return ["if SAVE:", *("    " + x for x in inner)]

    def _output(self, printer: TritonPrinter, store: Store) -> None:
        plane = self.setup.rows[store.name]
        dims = self._ordered((*self.lead, *plane.dims))
        offset = " * ".join(filter(None, ("token * HEADS", self._volume(plane.dims))))
        value = self._cast_to(plane, self._typed(printer, store.value, carry=False))
        mask = self._masked(dims, self._only_first(plane.dims), printer.lines)
        printer.lines.append(self._store(f"{plane.var}_at + {offset}", value, mask))


class _Backward(_Kernel):
    doc = "Runs the adjoint of the steps of one sequence against time."
    direction = "backward"

    def render(self) -> StepKernel:
        p = self.program
        self.by_row = [*p.d_inputs, *(s for x in p.d_outer for s in (x.left, x.right))]
        gradients = [*self.by_row, *p.d_params]
        adjoint = [*(s.value for s in gradients), *(c.next for c in p.d_parts)]
        self.read = {
            op.name for r in self._needed(adjoint) if isinstance(op := self.values[r].op, Load)
        }
        self._begin()
        self._start_cotangents()
        self._settle([*adjoint, *(c.next for c in p.parts)])
        self._gradient_places()
        self.sums = {s.name: self._fresh(f"{self.setup.sums[s.name].var}_sum") for s in p.d_params}
        for store in p.d_params:
            dims = self._ordered((*self.lead, *store.dims))
            shape = "[" + ", ".join(self.axis[d].block for d in dims) + "]"
            self.head.add(f"{self.sums[store.name]} = tl.zeros({shape}, tl.float32)")
        self.head.add("chunks = (length + EVERY - 1) // EVERY")
        self._scratch()
        inner = ["first = (chunks - 1 - back) * EVERY", "count = tl.minimum(EVERY, length - first)"]
        inner += [*self._replay(), *self._against_time(adjoint)]
        body = ["for back in range(chunks):", *("    " + x for x in inner)]
        return self._finished([*body, *self._end()])

    # ------------------------------------------------------------ cotangents of parts

    def _start_cotangents(self) -> None:
        for carry in self.program.d_parts:
            planes = self.setup.parts[carry.name]
            self.vars[carry.name] = self._fresh(self._part_hint(carry.name))
            self._ask(planes.start)
            first = self._only_first(carry.dims)
            self._load_part(self.vars[carry.name], planes, carry, first)

    def _end(self) -> list[str]:
        out: list[str] = []
        for carry in self.program.d_parts:
            planes = self.setup.parts[carry.name]
            self._ask(planes.end)
            dims = self._ordered((*self.lead, *carry.dims))
            terms = self._state_terms(planes, planes.end)
            missing = self._missing(planes.end.dims)
            if missing:
                terms.append(self._part_offset(planes.end, missing))
            pointer = self._pointed(terms, f"{planes.end.var}_at", out)
            mask = self._masked(dims, (), out)
            out.append(self._store(pointer, self.vars[carry.name], mask))
        for store in self.program.d_params:
            out += self._sum_store(store)
        return out

    def _part_offset(self, plane: Plane, missing: Dims) -> str:
        """From the first share of a sum to that of this tile."""
        self._argument(f"part_{plane.var}", f"{plane.host}.stride(0)")
        return f"{self._part_number(missing)} * part_{plane.var}"

    # ------------------------------------------------------------ gradients

    def _gradient_places(self) -> None:
        for store in self.by_row:
            plane = self.setup.rows[store.name]
            self._ask(plane)
            self.head.add(*self._shared_place(plane, ""))

    def _shared_place(self, plane: Plane, row: str) -> list[str]:
        """Where gradients go: a row for each head, or one for all heads of the program.

        `row` is the row of the tensor, or empty for the first.
        """
        n = plane.var
        lines = self._address(plane, "h", f"{row} * HEADS" if row else "")
        if self.program.heads:
            self._argument("HEAD_TILES", "head_tiles")
            shared = f"_shared(heads, {plane.heads}, block_heads)"
            self._argument(f"SHARED_{n}", shared, constant=True)
            index = "tl.program_id(1).to(tl.int64)"
            index = f"({row} * HEAD_TILES + {index})" if row else index
            lines = self._either(f"SHARED_{n}", self._narrow_address(plane, index), lines)
        missing = self._missing(plane.dims)
        if missing:
            lines.append(f"{n}_at += {self._part_offset(plane, missing)}")
        return lines

    def _write(self, plane: Plane, by_token: bool, value: str) -> list[str]:
        """Statements that store a gradient, summed over the heads of the program where shared."""
        n = plane.var
        dims = self._ordered((*self.lead, *plane.dims))
        volume = self._volume(plane.dims)

        def pointer(heads: str) -> str:
            row = " * ".join(filter(None, (f"token * {heads}", volume)))
            return f"{n}_at + {row}" if by_token else f"{n}_at"

        lines: list[str] = []
        mask = self._masked(dims, (), lines)
        whole = self._store(pointer("HEADS"), self._cast_to(plane, value), mask)
        if not self.program.heads:
            return [*lines, whole]
        own = self._ordered(plane.dims)
        one = self._cast_to(plane, f"tl.sum({value}, 0)")
        narrow = self._store(pointer("HEAD_TILES"), one, self._masked(own, (), lines))
        return [*lines, f"if SHARED_{n}:", f"    {narrow}", "else:", f"    {whole}"]

    def _sum_store(self, store: Store) -> list[str]:
        plane = self.setup.sums[store.name]
        self._ask(plane)
        place = self._shared_place(plane, "seq")
        return [*place, *self._write(plane, False, self.sums[store.name])]

    # ------------------------------------------------------------ the replay

    def _scratch(self) -> None:
        """Room for the parts before each step of a stretch, laid out as the program has them."""
        if not self.program.parts:
            return
        self._argument("scratch_ptr", "scratch")
        self._argument("ROOM", "room", constant=True)
        add = self.head.add
        add("program = (seq * tl.num_programs(1) + tl.program_id(1)) * tl.num_programs(2)")
        add("program += tl.program_id(2)")
        for dim in self._ordered(d for c in self.program.parts for d in (*self.lead, *c.dims)):
            add(f"{self._lane(dim)} = tl.arange(0, {self.axis[dim].block})")
        add("room = scratch_ptr + program * EVERY * ROOM")

    def _lane(self, dim: str) -> str:
        return "lane" if dim == HEAD else f"lane_{self.setup.dims[dim]}"

    def _scratch_terms(self, name: str, carry: Carry) -> list[str]:
        dims = self._ordered((*self.lead, *carry.dims))
        terms = [name]
        for place, dim in enumerate(dims):
            lane = self._spread(self._lane(dim), (dim,), dims)
            terms.append(" * ".join([lane, *(self.axis[d].block for d in dims[place + 1 :])]))
        return terms

    def _block_volume(self, carry: Carry) -> str:
        dims = self._ordered((*self.lead, *carry.dims))
        return " * ".join(self.axis[d].block for d in dims) or "1"

    def _remember(self, row: str) -> list[str]:
        at = self._fresh("at")
        out = [f"{at} = room + {row} * ROOM" if row else f"{at} = room"]
        for carry in self.program.parts:
            pointer = self._pointed(self._scratch_terms(at, carry), f"{at}_tile", out)
            out.append(self._store(pointer, self._raw(self.vars[carry.name], carry.kind), ""))
            out += self._steps_on(at, carry, self._block_volume(carry))
        return out

    def _replay(self) -> list[str]:
        if not self.program.parts:
            return []
        out = [self._kept_at("kept_at", "slot + chunks - 1 - back")]
        for carry in self.program.parts:
            dims = self._ordered((*self.lead, *carry.dims))
            pointer = self._pointed(self._kept_terms("kept_at", carry), "kept_tile", out)
            load = self._load(pointer, self._masked(dims, (), out), Kind.REAL)
            load = load.removesuffix(".to(tl.float32)")
            out.append(f"{self.vars[carry.name]} = {self._unraw(load, carry.kind)}")
            out += self._steps_on("kept_at", carry, self._volume(carry.dims) or "1")
        printer = self._body([c.next for c in self.program.parts])
        updates = [(self.vars[c.name], self._typed(printer, c.next)) for c in self.program.parts]
        inner = [*printer.lines, *self._together(updates), *self._remember("(c + 1)")]
        inner = [*self._at_step("first + c", inner), *inner]
        out += ["tl.debug_barrier()", *self._remember("")]
        return [
            *out, "for c in range(count - 1):", *("    " + x for x in inner), "tl.debug_barrier()"
        ]  # fmt: skip

    # ------------------------------------------------------------ the adjoint

    def _against_time(self, roots: Sequence[Ref]) -> list[str]:
        p = self.program
        inner: list[str] = []
        if any(c.name in self.read for c in p.parts):
            inner += self._recall()
        printer = self._body(roots)
        for store in self.by_row:
            plane = self.setup.rows[store.name]
            value = self._typed(printer, store.value, carry=False)
            printer.lines += self._write(plane, True, value)
        for store in p.d_params:
            value = self._typed(printer, store.value, carry=False)
            printer.lines.append(f"{self.sums[store.name]} += {value}")
        updates = [(self.vars[c.name], self._typed(printer, c.next)) for c in p.d_parts]
        inner += [*printer.lines, *self._together(updates)]
        inner = [*self._at_step("first + count - 1 - r", inner), *inner]
        return ["for r in range(count):", *("    " + x for x in inner)]

    def _recall(self) -> list[str]:
        """The parts before a step, from the buffer."""
        at = self._fresh("at")
        out = [f"{at} = room + (count - 1 - r) * ROOM"]
        last = [c.name for c in self.program.parts if c.name in self.read][-1]
        for carry in self.program.parts:
            if carry.name in self.read:
                pointer = self._pointed(self._scratch_terms(at, carry), f"{at}_tile", out)
                self.vars[carry.name] = self._fresh(f"{self.vars[carry.name]}_then")
                load = self._unraw(f"tl.load({pointer})", carry.kind)
                out.append(f"{self.vars[carry.name]} = {load}")
            if carry.name == last:
                return out
            out.append(f"{at} += {self._block_volume(carry)}")
        return out
