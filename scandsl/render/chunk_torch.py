"""Renders the chunked form in tensor operations: many chunks at once, a loop for the carries.

In: the forward and backward chunk programs of a recurrence.  Out: the source of two functions with
the calling convention of `scandsl.render.form`.  The chunks are computed piece by piece, N chunks
at once, so that memory stays bounded; values lie as `[N, B, H, *dims]`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from scandsl.ir.nodes import (
    Binary,
    Contract,
    Dims,
    Input,
    Kind,
    Load,
    Output,
    Param,
    Recur,
    Ref,
    Row,
    Scalar,
    Tensor,
    Value,
    operands,
)
from scandsl.kernels.backward import cotangent
from scandsl.kernels.carry_map import INTO, with_carry_maps
from scandsl.kernels.factors import gathered
from scandsl.kernels.heads import summed, with_heads
from scandsl.kernels.joint import joint
from scandsl.kernels.program import (
    COLUMN,
    HEAD,
    INNER,
    POSITION,
    ROW,
    Carry,
    ChunkProgram,
    Store,
)
from scandsl.kernels.split import split
from scandsl.render.chunk_form import ChunkForm, call, definition, tuple_of, unpacked
from scandsl.render.form import RenderedForm
from scandsl.render.layout import indented
from scandsl.render.names import Names
from scandsl.render.torch_printer import Scope, Text, TorchPrinter, masks_rows


@dataclass(slots=True)
class ChunkTorch(ChunkForm):
    """Writes the torch form of one recurrence; `chunk` forces the tokens in a chunk.

    With `apart`, chunks begin where the position is a multiple of it, and hold no more tokens.
    """

    chunk: int | None
    helpers: set[str] = field(default_factory=set)
    apart: int | None = field(default=None, kw_only=True)
    once: list[str] = field(default_factory=list)  # statements before the loop over pieces

    def render(self) -> RenderedForm:
        """Both functions."""
        forward, backward = f"_{self.name}_chunk_forward", f"_{self.name}_chunk_backward"
        shapes = f"_{self.name}_chunk_saved"
        parts = [
            self.forward_function(
                forward, "The chunks, some at a time; a loop hands on the states."
            ),
            "\n".join(self.saved_shapes(shapes, self._chunk_length('sizes.dim["{}"]'), False)),
        ]
        doc = "The same chunks against time; a loop hands on the states' cotangents."
        source = "\n\n\n".join([*parts, self.backward_function(backward, doc)])
        saved = tuple(self.kept(self.forward))
        return RenderedForm("torch", source + "\n", forward, backward, saved, shapes)

    # ------------------------------------------------------------ shared pieces

    @property
    def _before(self) -> Dims:
        """The dimensions before the heads, where these are among the dimensions; else none."""
        return summed(self.forward) if self._walks(self.forward) else ()

    def _lead(self, axes: int, dims: Dims) -> tuple[int, Dims, Dims]:
        """Lead axes, of which the last are the heads, and dimensions: as given and as printed.

        Where the heads are among the dimensions, they are one of them and no lead axis.
        """
        if not self._before:
            return axes, dims, self.canonical(dims)
        return axes - 1, (HEAD, *dims), self.canonical((HEAD, *dims))

    def canonical(self, dims: Dims) -> Dims:
        """Dimensions in the order in which printed values have them."""
        order = [d.name for d in self.recurrence.dims]
        before = [d for d in order if d in self._before]
        order = [ROW, *before, HEAD, *(d for d in order if d not in before)]
        return tuple(sorted(dims, key=order.index))

    def _kept_sizes(self, dims: Dims, flat: bool) -> list[str]:
        """The sizes of heads and dimensions of a kept carry, as they lie in memory."""
        base = {d.name: d.base or d.name for d in self.recurrence.dims}
        _, _, order = self._lead(1, dims)
        sizes = {d: f'sizes.dim["{base[d]}"]' for d in order if d != HEAD} | {HEAD: "sizes.heads"}
        lead = [] if self._before else ["sizes.heads"]
        return [*lead, *(sizes[d] for d in order)]

    def _laid(self, text: str, axes: int, dims: Dims) -> str:
        """A tensor of the caller as printed values lie; the heads are the last of `axes`."""
        lead, have, want = self._lead(axes, dims)
        return self._moved(text, lead, have, want)

    def _given_back(self, text: str, axes: int, dims: Dims) -> str:
        """A printed value as the caller has it."""
        lead, have, want = self._lead(axes, dims)
        return self._moved(text, lead, want, have)

    def _moved(self, text: str, lead: int, have: Dims, want: Dims) -> str:
        """`text` with its trailing axes in another order."""
        if have == want:
            return text
        axes = [*range(lead), *(lead + have.index(d) for d in want)]
        return f"{text}.permute({', '.join(map(str, axes))})"

    def _prelude(self) -> list[str]:
        first = self.first
        dtype = call("dtype", "_compute_dtype", [self.arg[t.name] for t in self.tensors])
        return [
            *(dtype if self.passed is None else ["dtype = sizes.dtype"]),
            f"heads = {self.heads()}",
            f"device = {first}.device",
            *self.size_lines(),
            f"length = {self._chunk_length('size')}",
            self._where_chunks_lie(),
        ]

    def _where_chunks_lie(self) -> str:
        shape = f"{self.first}.shape[0], {self.first}.shape[1]"
        if self.apart is None:
            return f"chunks = _chunks({shape}, length, cu_seqlens)"
        return f"chunks = _blocks({shape}, {self.apart}, length, cu_seqlens, start_t)"

    def chunk_bound(self, size: str) -> str:
        """How many chunks there are at most, as text of the function that tells shapes."""
        if self.apart is None:
            return ChunkForm.chunk_bound(self, size)
        return f"_block_bound(sizes, {self.apart})"

    def _sizes(self) -> dict[str, str]:
        sizes = dict.fromkeys((ROW, COLUMN, INNER), "length") | {HEAD: "heads"}
        sizes |= {d.name: self.size(d.name) for d in self.recurrence.dims}
        return sizes | {INTO + d.name: self.size(d.name) for d in self.recurrence.dims}

    def _shape(self, carry: Carry) -> str:
        lead, _, own = self._lead(1, carry.dims)
        sizes = self._sizes()
        return tuple_of([*["heads"] * lead, *(sizes[d] for d in own)])

    def _names(self) -> Names:
        taken = {*self.parameters(), "dtype", "heads", "device", "chunks", "save", "n", "step"}
        taken |= {"piece", "first", "last"}
        taken |= {
            "length",
            "shape",
            "allow_tf32",
            "math",
            "torch",
            "carried",
            "kept",
            "ends",
            "saved",
        }
        taken |= {self.size_name(d.name) for d in self.recurrence.dims}
        for carry in (*self.forward.carries, *self.backward.program.carries):
            own = self.carry_arg(carry.name)
            taken |= {f"kept_{own}", f"all_{own}", f"end_{own}"}
        return Names(taken)

    def _used(self, program: ChunkProgram, refs: Sequence[Ref]) -> list[tuple[Ref, Value]]:
        return [(r, program.values[r]) for r in refs]

    def _chunk_length(self, size: str) -> str:
        """Tokens in a chunk, as text; `size` tells how a dimension's size is written."""
        if self.apart is not None:
            return str(1 << (self.apart - 1).bit_length())
        if self.chunk is not None:
            return str(self.chunk)
        widest = max((s.dims for s in self.recurrence.states), key=len, default=())
        if self._walks(self.forward):
            return "_ROWS"
        base = {d.name: d.base or d.name for d in self.recurrence.dims}
        parts = [self.size(d) if size == "size" else size.format(base[d]) for d in widest]
        return f"_chunk_length({', '.join(parts)})"

    # ------------------------------------------------------------ leaves

    def _load_leaves(
        self,
        program: ChunkProgram,
        refs: Sequence[Ref],
        names: Names,
        kept: dict[str, str],
        inside: frozenset[Ref],
    ) -> tuple[list[str], dict[Ref, str], dict[Ref, str]]:
        """Statements that lay out what the program reads, and the names they give it.

        The last names are for masks of rows where only choices ask.
        """
        lines: list[str] = []
        leaf: dict[Ref, str] = {}
        gaps: dict[Ref, str] = {}
        for ref, value in self._used(program, refs):
            match value.op:
                case Input(name):
                    arg = self.arg[name]
                    own = self.tensor(name).dims
                    leaf[ref] = names.fresh(f"{arg}_rows")
                    how = (self.tensor(name).kind, own, program, "zero=False")
                    lines += self._rows(leaf[ref], arg, *how)
                case Param(name):
                    arg = self.arg[name]
                    own = self.tensor(name).dims
                    leaf[ref] = names.fresh(f"{arg}_heads")
                    text = f"_param({arg}, heads, {self._dtype(self.tensor(name).kind)})"
                    text = self._laid(text, 1, own)
                    text += ".contiguous()" if text.endswith(")") and "permute" in text else ""
                    self.once.append(f"{leaf[ref]} = {text}")
                    self.helpers.add("_param")
                case Row():
                    leaf[ref] = names.fresh("rows")
                    asked, chosen = self._askers(program, ref, inside)
                    lines.append(f"{leaf[ref]} = {self._row_mask(asked)}")
                    if asked and chosen:
                        gaps[ref] = names.fresh("gaps")
                        lines.append(f"{gaps[ref]} = {self._row_mask(False)}")
                case Load(name) if name == POSITION:
                    leaf[ref] = names.fresh("position")
                    heads = "[:, :, 0]" if self._before else ""
                    lines.append(f"{leaf[ref]} = _positions(piece, start_t){heads}")
                case Load(name) if name in kept:
                    leaf[ref] = kept[name]
                case Load(name):
                    out = self._output(name)
                    arg = f"d_{self.arg[out.name]}"
                    leaf[ref] = names.fresh(f"{arg}_rows")
                    how = (out.kind, out.dims, program, "zero=True")
                    lines += self._rows(leaf[ref], arg, *how)
                case Scalar(name):
                    leaf[ref] = self.arg[name]
                case _:
                    pass
        return lines, leaf, gaps

    def _askers(
        self, program: ChunkProgram, rows: Ref, inside: frozenset[Ref]
    ) -> tuple[bool, bool]:
        """Whether anything needs the mask of rows itself; whether choices before the loop ask."""
        users = [r for r, v in enumerate(program.values) if rows in operands(v.op)]
        walks = self._walks(program)
        if walks:
            users = [r for r in users if not isinstance(program.values[r].op, Recur)]
        chosen = [r for r in users if masks_rows(program.values, program.values[r], rows)]
        if not walks:
            chosen = [r for r in chosen if r not in inside]
        return len(chosen) < len(users), bool(chosen)

    def _row_mask(self, needed: bool) -> str:
        """Which rows hold a token; unless that is needed, nothing where all do."""
        flags = f"{'' if needed else ', needed=False'}{', axes=1' if self._before else ''}"
        return f"_row_mask(piece, device{flags})"

    def _rows(
        self, target: str, arg: str, kind: Kind, dims: Dims, program: ChunkProgram, flag: str
    ) -> list[str]:
        """A tensor by rows; in the order of time where recurrences run along them."""
        arguments = [arg, "piece", "heads", self._dtype(kind), flag]
        if self._before:
            have = (HEAD, ROW, *dims)
            order = [0, 1, *(2 + have.index(d) for d in self.canonical(have))]
            return call(target, "_rows", [*arguments, f"order={tuple_of([*map(str, order)])}"])
        arguments += ["in_time=True"] if self._walks(program) else []
        text = self._moved(f"_rows({', '.join(arguments)})", 4, dims, self.canonical(dims))
        return [f"{target} = {text}"]

    def _dtype(self, kind: Kind) -> str:
        return "dtype.to_complex()" if kind is Kind.COMPLEX else "dtype"

    def _output(self, name: str) -> Output:
        return next(o for o in self.recurrence.outputs if cotangent(o.name) == name)

    # ------------------------------------------------------------ the three parts

    def _scope(
        self,
        leaf: dict[Ref, str],
        numbers: frozenset[Ref],
        gaps: dict[Ref, str] | None = None,
    ) -> Scope:
        def find(ref: Ref, value: Value) -> Text | str | None:
            del value
            if ref in leaf:
                return Text(leaf[ref], number=ref in numbers)
            return None

        by_heads = bool(self._before)
        return Scope(find, self._sizes(), in_place=True, by_heads=by_heads, gaps=gaps or {})

    def _scalars(self, program: ChunkProgram) -> frozenset[Ref]:
        return frozenset(r for r, v in enumerate(program.values) if isinstance(v.op, Scalar))

    def _boundary(
        self, printer: TorchPrinter, first: Sequence[Ref], then: Sequence[Ref]
    ) -> list[Ref]:
        """What of the first values is read by those that come then."""
        from_first = set(first)
        read = (operand for ref in then for operand in printer.read(ref))
        return list(dict.fromkeys(operand for operand in read if operand in from_first))

    def _step(
        self, program: ChunkProgram, found: dict[Ref, str], plain: frozenset[Ref], names: Names
    ) -> list[str]:
        """The loop over the chunks of a piece, where no form of it is known beforehand."""
        leaf: dict[Ref, str] = {}
        for ref, text in found.items():
            value = program.values[ref]
            if ref in plain:
                leaf[ref] = text
            else:
                leaf[ref] = f"{text}[n]" if value.varies else text
        carried = []
        for carry in program.carries:
            name = names.fresh(f"carry_{self.carry_arg(carry.name)}")
            carried.append(name)
            for ref, value in enumerate(program.values):
                if isinstance(value.op, Load) and value.op.name == carry.name:
                    leaf[ref] = name
        printer = TorchPrinter(program.values, self._scope(leaf, plain), names)
        texts = printer.emit([c.next for c in program.carries])
        self.helpers |= printer.helpers
        self.once += [f"{room}: list[Any] = []" for room in printer.rooms]
        ends, kept = self._ends_of(program), self.kept(program)
        body = [
            f"{name} = _take({end}, {room}, piece, n)"
            for name, end, room in zip(carried, ends, kept, strict=True)
        ]
        body += printer.lines
        results = []
        for carry, text, name in zip(program.carries, texts, carried, strict=True):
            constant = self._constant(program, carry.next)
            results.append(f"({text}) + torch.zeros_like({name})" if constant else text)
        if len(results) > 1:  # all results before any state moves on
            fresh = [names.fresh(f"next_{self.carry_arg(c.name)}") for c in program.carries]
            body += [f"{name} = {text}" for name, text in zip(fresh, results, strict=True)]
            results = fresh
        for end, text in zip(ends, results, strict=True):
            body += call("", "_give", [end, text, "piece", "n"])
        rooms = [
            f"{room} = _handed({end}, piece, {into})"
            for room, end, into in zip(kept, ends, self._into(program), strict=True)
        ]
        head = f"for n in _order(piece, reverse={program.reverse}):"
        return [*rooms, head, *indented(body)]

    def _constant(self, program: ChunkProgram, ref: Ref) -> bool:
        """Whether a carry's next value depends on nothing that has batch and head axes."""
        return not program.values[ref].varies

    def _body(
        self, program: ChunkProgram, names: Names, kept: dict[str, str]
    ) -> tuple[list[str], list[str]]:
        """The statements for one piece, and the expressions of the stores."""
        program = joint(gathered(with_carry_maps(program)))
        program = with_heads(program, self._before) if self._before else program
        parts = split(program)
        need = [r for r, v in enumerate(program.values) if not self._is_carry(program, v)]
        inside = frozenset(parts.inside)
        lines, leaf, gaps = self._load_leaves(program, need, names, kept, inside)
        for ref, value in enumerate(program.values):
            if self._is_carry(program, value) and isinstance(value.op, Load):
                leaf[ref] = f"kept_{self.carry_arg(value.op.name)}"
        scope = self._scope(leaf, self._scalars(program), gaps)
        printer = TorchPrinter(program.values, scope, names)
        before = set(parts.before)
        walks = self._walks(program)
        wanted = self._boundary(printer, parts.before, parts.inside)
        wanted += [c.next for c in program.carries if c.next in before and c.next not in wanted]
        roots = [x.value for x in program.stores]
        ends = [c.next for c in program.carries] if walks else []
        printer.expect([*wanted, *roots, *ends])
        printer.emit(wanted)
        found = {ref: printer.named(ref) for ref in wanted}
        plain = frozenset(ref for ref in wanted if printer.is_number(ref))
        lines += printer.lines
        printer.lines = []
        if walks:
            lines += self._walked(program, printer)
        else:
            lines += self._loop(program, names, found, plain)
        texts = printer.emit([*roots, *ends])[len(roots) :]
        for end, text in zip(self._ends_of(program), texts, strict=False):
            printer.lines += call("", "_advance", [end, text, "piece"])
        self.helpers |= printer.helpers
        self.once += [f"{room}: list[Any] = []" for room in printer.rooms]
        texts = []
        for store in program.stores:
            plain_layout = store.dims == self.canonical(store.dims) and not self._before
            varies = program.values[store.value].varies
            texts.append(printer.tensor_of(store.value, atom=not (plain_layout and varies)))
        return [*lines, *printer.lines], texts

    def _loop(
        self, program: ChunkProgram, names: Names, found: dict[Ref, str], plain: frozenset[Ref]
    ) -> list[str]:
        """The walk over the chunks of a piece."""
        affine = self._affine(program, found, plain)
        if affine is not None:
            return self._run_loop(program, "_walk_affine", affine)
        linear = self._linear(program, found)
        if linear is not None:
            return self._run_loop(program, "_walk_linear", linear)
        return self._step(program, found, plain, names)

    def _walks(self, program: ChunkProgram) -> bool:
        """Whether every carry runs along the rows by factors and terms known beforehand."""
        before = set(split(program).before)
        ops = [program.values[c.next].op for c in program.carries]
        return bool(ops) and all(
            isinstance(op, Recur)
            and before.issuperset({op.a, op.b} | ({op.after} if op.after is not None else set()))
            and program.values[op.start].op == Load(c.name)
            for op, c in zip(ops, program.carries, strict=True)
        )

    def _walked(self, program: ChunkProgram, printer: TorchPrinter) -> list[str]:
        """Statements that give every chunk of a piece what it is handed."""
        lines: list[str] = []
        rooms = zip(self._ends_of(program), self._into(program), strict=True)
        for carry, (end, into) in zip(program.carries, rooms, strict=True):
            op = program.values[carry.next].op
            assert isinstance(op, Recur)
            dims = (op.row, *program.values[carry.next].dims)
            arguments = printer.recurrence_arguments(dims, op)
            walk = "_walk_rows"
            if op.algebra == "linear":
                after = "None" if op.after is None else printer.along(op.after, dims)
                arguments += [after, end, "piece", f"{program.reverse}", into, printer.room()]
            else:
                walk = "_walk_folds"
                arguments += [f'"{op.algebra}"', end, "piece", into]
            lines += call(f"kept_{self.carry_arg(carry.name)}", walk, arguments)
        return lines

    def _is_carry(self, program: ChunkProgram, value: Value) -> bool:
        carried = {c.name for c in program.carries}
        return isinstance(value.op, Load) and value.op.name in carried

    def _affine(
        self, program: ChunkProgram, found: dict[Ref, str], plain: frozenset[Ref]
    ) -> list[str] | None:
        """Factors and terms, if every carry becomes `factor * carry + term`; else `None`."""
        factors: list[str] = []
        terms: list[str] = []
        for carry in program.carries:
            parts = self._factor_and_term(program, carry)
            if parts is None:
                return None
            factor, term = parts
            known = [r for r in (factor, term) if r is not None]
            if any(r not in found or r in plain or not program.values[r].varies for r in known):
                return None
            own = self.canonical(carry.dims)
            if program.values[term].dims != own:
                return None
            terms.append(found[term])
            if factor is None:
                factors.append("None")
                continue
            have = program.values[factor].dims
            picks = [":" if d in have else "None" for d in own]
            factors.append(f"{found[factor]}[..., {', '.join(picks)}]" if own else found[factor])
        return [tuple_of(factors), tuple_of(terms)]

    def _factor_and_term(
        self, program: ChunkProgram, carry: Carry
    ) -> tuple[Ref | None, Ref] | None:
        values = program.values

        def is_carry(ref: Ref) -> bool:
            op = values[ref].op
            return isinstance(op, Load) and op.name == carry.name

        total = values[carry.next].op
        if not isinstance(total, Binary) or total.fn != "add":
            return None
        for moved, term in ((total.a, total.b), (total.b, total.a)):
            if is_carry(moved):
                return None, term
            product = values[moved].op
            if isinstance(product, Binary) and product.fn == "mul":
                for factor, state in ((product.a, product.b), (product.b, product.a)):
                    if is_carry(state):
                        return factor, term
        return None

    def _linear(self, program: ChunkProgram, found: dict[Ref, str]) -> list[str] | None:
        """Matrices and terms, if every carry becomes `matrix @ carry + term`; else `None`."""
        matrices: list[str] = []
        terms: list[str] = []
        for carry in program.carries:
            total = program.values[carry.next].op
            if not isinstance(total, Binary) or total.fn != "add" or len(carry.dims) != 2:
                return None
            product = program.values[total.a].op
            if not isinstance(product, Contract) or not product.over[0].startswith(INTO):
                return None
            matrix, term = product.a, total.b
            into = product.over[0]
            wanted = (into.removeprefix(INTO), into), self.canonical(carry.dims)
            for ref, dims in zip((matrix, term), wanted, strict=True):
                value = program.values[ref]
                if ref not in found or not value.varies or value.dims != dims:
                    return None
            if wanted[1][0] != wanted[0][0]:  # the contracted dimension is the carry's last
                return None
            matrices.append(found[matrix])
            terms.append(found[term])
        return [tuple_of(matrices), tuple_of(terms)]

    def _ends_of(self, program: ChunkProgram) -> list[str]:
        return [f"end_{self.carry_arg(c.name)}" for c in program.carries]

    def _into(self, program: ChunkProgram) -> list[str]:
        """Where what the chunks are handed is kept: that of the forward, for the backward."""
        whole = [f"all_{self.carry_arg(c.name)}" for c in program.carries]
        return ["None"] * len(whole) if program.reverse else whole

    def _run_loop(self, program: ChunkProgram, walk: str, how: list[str]) -> list[str]:
        arguments = [*how, tuple_of(self._ends_of(program)), "piece", f"reverse={program.reverse}"]
        arguments.append(f"into={tuple_of(self._into(program))}")
        return call(unpacked(self.kept(program)), walk, arguments)

    # ------------------------------------------------------------ functions

    def _carried(self, program: ChunkProgram, starts: Sequence[str]) -> list[str]:
        """Statements that make room for the states that are handed on."""
        lines: list[str] = []
        for carry, start in zip(program.carries, starts, strict=True):
            moved = self._laid(start, 2, carry.dims)
            given = start if moved == start else f"None if {start} is None else {moved}"
            arguments = [given, self._shape(carry), "chunks", self._dtype(carry.kind), "device"]
            lines += call(f"end_{self.carry_arg(carry.name)}", "_carried", arguments)
        return lines

    def _pieces(self, program: ChunkProgram, body: list[str]) -> list[str]:
        """The loop over pieces."""
        inner = {d for v in program.values for d in v.dims} - {ROW, COLUMN, INNER}
        sizes = self._sizes()
        widths = list(dict.fromkeys(sizes[d] for d in self._order(inner)))
        widest = f"max({', '.join(widths)})" if len(widths) > 1 else "".join(widths) or "1"
        if self._walks(program):
            widest = self._largest(program)
        arguments = ["chunks", "heads", widest, "device", f"reverse={program.reverse}"]
        if self._walks(program):
            arguments.append("square=False")
        once, self.once = self.once, []
        return [*once, f"for piece in _pieces({', '.join(arguments)}):", *indented(body)]

    def _largest(self, program: ChunkProgram) -> str:
        """Numbers in the largest value of a row, as text."""
        sizes = self._sizes()
        products = {
            " * ".join(sizes[d] for d in v.dims if d != ROW) or "1": None
            for v in program.values
            if ROW in v.dims
        }
        return f"max({', '.join(products)})" if len(products) > 1 else next(iter(products), "1")

    def _order(self, dims: set[str]) -> list[str]:
        known = [d.name for d in self.recurrence.dims]
        return [*(d for d in known if d in dims), *sorted(dims - set(known))]

    def _ends(self, program: ChunkProgram) -> list[str]:
        out = []
        for carry in program.carries:
            text = f"end_{self.carry_arg(carry.name)}[: chunks.sequences]"
            out.append(self._given_back(text, 2, carry.dims))
        return out

    def _put(self, target: str, store: Store, text: str, wide: str = "") -> list[str]:
        """Statements that write one piece of a result; `wide` names one that varies nowhere."""
        if self._before:
            have, want = self.canonical((HEAD, ROW, *store.dims)), (HEAD, ROW, *store.dims)
        else:
            have, want = ("", ROW, *self.canonical(store.dims)), ("", ROW, *store.dims)
        lines: list[str] = []
        if wide:  # it may lack the axes of chunks, batch and heads
            sizes = {**self._sizes(), "": "heads"}
            shape = ["piece.per_row", "chunks.batch", *(sizes[d] for d in have)]
            lines = call(wide, f"{text}.expand", shape)
            text = wide
        text = self._moved(text, 2, have, want)
        return [*lines, *call("", "_put", [target, text, "piece", "heads"])]

    def _inner(self, store: Store) -> str:
        sizes = self._sizes()
        return tuple_of([sizes[d] for d in store.dims])

    def forward_function(self, name: str, doc: str) -> str:
        """The forward, or what else the forward program says."""
        program = self.forward
        names = self._names()
        lines = [*self._prelude(), *self._carried(program, self.starts())]
        for carry in program.carries:
            arguments = [self._shape(carry), "chunks", "save", self._dtype(carry.kind), "device"]
            lines += call(f"all_{self.carry_arg(carry.name)}", "_kept", arguments)
        targets = [names.fresh(f"out_{self.arg[s.name]}") for s in program.stores]
        for store, target in zip(program.stores, targets, strict=True):
            dtype = self.result_dtype(store.name, store.kind)
            arguments = [self.first, "heads", self._inner(store), dtype, "chunks"]
            lines += call(target, "_all_tokens", arguments)
        body, texts = self._body(program, names, {})
        for store, target, text in zip(program.stores, targets, texts, strict=True):
            varies = program.values[store.value].varies
            body += self._put(target, store, text, "" if varies else names.fresh("wide"))
        lines += self._pieces(program, body)
        finals = self._ends(program)
        if self.uses_time:
            finals.append("_end_position(start_t, chunks)")
        whole = [f"all_{self.carry_arg(c.name)}" for c in program.carries]
        outputs = [f"_complete({t}, chunks)" for t in targets]
        lines.append(f"saved = {tuple_of(whole)} if save else ()")
        lines.append(f"return {tuple_of(outputs)}, {tuple_of(finals)}, saved")
        head = definition(name, [*self.parameters(), "save", "allow_tf32"])
        return "\n".join([*head, *indented([f'"""{doc}"""', "del allow_tf32", *lines])])

    def backward_function(self, name: str, doc: str) -> str:
        """The backward, or as much of it as the backward program holds."""
        program = self.backward.program
        names = self._names()
        kept = {c.name: f"kept_{self.arg[c.name]}" for c in self.forward.carries}
        whole = {c.name: f"all_{self.arg[c.name]}" for c in self.forward.carries}
        d_outputs = [f"d_{self.arg[o.name]}" for o in self.recurrence.outputs]
        d_finals = [f"d_end_{self.arg[s.name]}" for s in self.recurrence.states]
        names.reserve([*kept.values(), *whole.values(), *d_outputs, *d_finals])
        names.reserve([f"grad_{self.arg[t.name]}" for t in self.tensors])
        lines = [*self._prelude(), *self._carried(program, d_finals)]
        statements, texts = self._body(program, names, kept)
        used = [c for c in kept if any(kept[c] in x for x in (*statements, *texts))]
        body = ["first, last = piece.first, piece.first + piece.per_row"] if used else []
        body += [f"{kept[c]} = {whole[c]}[first:last]" for c in used]
        body += statements
        stores = {s.name: (s, text) for s, text in zip(program.stores, texts, strict=True)}
        results = []
        for tensor in self.tensors:
            found = stores.get(cotangent(tensor.name))
            if found is None:
                results.append(f"torch.zeros_like({self.arg[tensor.name]})")
                continue
            room, put, result = self._gradient(tensor, *found)
            lines += room
            body += put
            results.append(result)
        lines += self._pieces(program, body)
        parameters = [*self.parameters(), *whole.values()]
        parameters += [*d_outputs, *d_finals, "allow_tf32"]
        lines += [f"gradients = {tuple_of(results)}"]
        lines.append(f"return gradients, {tuple_of(self._ends(program))}")
        head = definition(name, parameters)
        return "\n".join([*head, *indented([f'"""{doc}"""', "del allow_tf32", *lines])])

    def _gradient(
        self, tensor: Tensor, store: Store, text: str
    ) -> tuple[list[str], list[str], str]:
        """Room for the cotangent of a tensor, what one piece adds, and the result."""
        arg = self.arg[tensor.name]
        target = f"grad_{arg}"
        if not self.is_input(tensor):
            moved = self._given_back(text, 3, store.dims)
            added = call(f"{target} +", "_param_sum", [moved, "piece", "heads", arg])
            dtype = self._dtype(tensor.kind)
            room = [f"{target} = torch.zeros({arg}.shape, dtype={dtype}, device=device)"]
            return room, [x.replace(" + = ", " += ", 1) for x in added], f"{target}.to({arg}.dtype)"
        arguments = [arg, f"{arg}.shape[2]", self._inner(store), f"{arg}.dtype", "chunks"]
        room = call(target, "_all_tokens", arguments)
        return room, self._put(target, store, text), f"_complete({target}, chunks)"
