"""Renders the chunked form as Triton kernels and the functions that launch them.

In: the forward and backward chunk programs of a recurrence.  Out: the source of the kernels and of
two functions with the calling convention of `scandsl.render.form`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from scandsl.diagnostics import InternalError
from scandsl.ir.nodes import Dims, Kind, Tensor
from scandsl.kernels.backward import cotangent, cotangent_stores
from scandsl.kernels.cost import planes
from scandsl.kernels.precision import cancels
from scandsl.kernels.program import Carry, Store
from scandsl.kernels.rules import rule, structure
from scandsl.kernels.schedule import PREPARED, Kernel, schedule
from scandsl.render.chunk_form import ChunkForm, definition, tuple_of
from scandsl.render.form import RenderedForm, Site, SiteKernel, Tuned
from scandsl.render.layout import indented
from scandsl.render.triton_kernel import KernelRenderer, Names, RenderedKernel

Launches = Sequence[tuple[Kernel, RenderedKernel]]


@dataclass(slots=True)
class ChunkTriton(ChunkForm):
    """Writes the Triton form of one recurrence; `schedule` forces one of the forward's two.

    `tuned` are its measured launches, or those of the form whose chunks these have to be; `None` if
    there are none.
    """

    schedule: str | None = None
    tuned: Tuned | None = None

    @property
    def names(self) -> Names:
        """ASCII names for use inside kernels."""
        return Names.of(self.recurrence)

    def render(self) -> RenderedForm:
        """The kernels and both functions."""
        forward, backward = f"_{self.name}_triton_forward", f"_{self.name}_triton_backward"
        outputs = cotangent_stores(self.forward)
        first: dict[str, Launches] = {
            name: [self._kernel(k, "forward") for k in schedule(self.forward, fused=fused)]
            for name, fused in (("fused", True), ("split", False))
            if self.schedule in (None, name)
        }
        second = [self._kernel(k, "backward") for k in schedule(self.backward.program, outputs)]
        every = [k for kernels in first.values() for _, k in kernels] + [k for _, k in second]
        texts = {k.name: k.source.rstrip() for k in every}
        if any(texts[k.name] != k.source.rstrip() for k in every):
            raise InternalError("schedules share the name of a kernel that is not the same")
        sources = list(texts.values())
        sources += [self._forward(forward, first), self._backward(backward, second)]
        saved = tuple(self.kept(self.forward))
        shapes = f"_{self.name}_triton_saved"
        base = {d.name: d.base or d.name for d in self.recurrence.dims}
        widest = tuple_of([f'sizes.dim["{base[d]}"]' for d in self._vector_dims()])
        size = f"_chunk_size({widest}, {self.storage}{self._planes()})"
        if self.tuned is not None:
            sizes = [f'sizes.dim["{base[d]}"]' for d in self._vector_dims()]
            size = f"{self._looked_up('sizes.device', self.storage, sizes)}.chunk or {size}"
        sources.append("\n".join(self.saved_shapes(shapes, size, True)))
        text = "\n\n\n".join(sources) + "\n"
        return RenderedForm("triton", text, forward, backward, saved, shapes)

    def _kernel(self, kernel: Kernel, direction: str) -> tuple[Kernel, RenderedKernel]:
        name = f"_{self.name}_{direction}_{kernel.name}"
        return kernel, KernelRenderer(self.recurrence, self.names, kernel, name).render()

    # ------------------------------------------------------------ pieces

    def compute_dtype(self) -> str:
        """The dtype that values are computed in, as text."""
        return "torch.float32"

    def _shape(self, lead: Sequence[str], dims: Dims) -> str:
        parts = [*lead, *(self.size(d) for d in dims)]
        return f"({', '.join(parts)}{',' if len(parts) == 1 else ''})"

    def _prelude(self) -> list[str]:
        args = [self.arg[t.name] for t in self.tensors]
        lines = ["_load_triton()"]
        lines += [f"{a} = {a}.contiguous()" for a in args]
        lines.append(f"heads = {self.heads()}")
        lines += self.size_lines()
        vectors = [self.arg[t.name] for t in self.recurrence.inputs if t.dims]
        lines.append(f"vectors = {tuple_of(vectors)}")
        digits = ", cancels=True" if cancels(self.forward) else self._narrowed()
        lines.append(f"dot, kept_dtype, precision = _operands(vectors, allow_tf32{digits})")
        widest = [self.size(d) for d in self._vector_dims()]
        chunk = f"_chunk_size({tuple_of(widest)}, kept_dtype{self._planes()})"
        if self.tuned is not None:
            found = self._looked_up(f"{self.first}.device", "kept_dtype", widest)
            lines.append(f"tuned = {found}")
            chunk = f"tuned.chunk or {chunk}"
        lines.append(f"chunk_size = {chunk}")
        lines.append(f"batch, tokens = {self.first}.shape[:2]")
        lines.append("chunks = _chunks(batch, tokens, chunk_size, cu_seqlens)")
        lines.append("packed = chunks.offsets is not None")
        lines.append("total = chunks.per_row * (1 if packed else batch)")
        return lines

    def _looked_up(self, device: str, dtype: str, sizes: Sequence[str]) -> str:
        """The measured launches of a call."""
        table = "" if self.tuned is None else self.tuned.table
        return f"_tuned({', '.join([table, device, dtype, *sizes])})"

    def site(self) -> Site:
        """What there is to measure."""
        outputs = cotangent_stores(self.forward)
        every = [("forward", k) for f in (True, False) for k in schedule(self.forward, fused=f)]
        every += [("backward", k) for k in schedule(self.backward.program, outputs)]
        kernels = [SiteKernel(f"{way}_{k.name}", k.tiled, k.loop) for way, k in every]
        word = structure(self.forward, self.backward.program)
        table = "" if self.tuned is None else self.tuned.table
        return Site(table, word, tuple(self._vector_dims()), tuple(dict.fromkeys(kernels)))

    def _planes(self) -> str:
        count = planes(self.recurrence, self.forward)
        return f", planes={count}" if count > 1 else ""

    def _narrowed(self) -> str:
        """A stage keeps its states as the whole scan does."""
        return ", cancels=sizes.storage != torch.bfloat16" if self.passed is not None else ""

    def _vector_dims(self) -> list[str]:
        used = {d for s in self.recurrence.states for d in s.dims}
        used |= {d for t in self.recurrence.inputs for d in t.dims}
        return [d.name for d in self.recurrence.dims if d.name in used and d.size is None]

    def _empty(self, shape: str, dtype: str) -> str:
        return f"torch.empty({shape}, dtype={dtype}, device={self.first}.device)"

    def _kept_dtype(self, carry: Carry) -> str:
        return "kept_dtype" if len(carry.dims) >= 2 else "torch.float32"

    # ------------------------------------------------------------ launches

    def _grid(self, kernel: Kernel, rendered: RenderedKernel) -> tuple[str, dict[str, str]]:
        """The grid of a launch, and what the sizes of its tiles are called, by dimension."""
        blocks: dict[str, str] = {}
        tiled = []
        for dim in rendered.dims:
            n = self.names.dims[dim]
            declared = next(d for d in self.recurrence.dims if d.name == dim)
            if declared.size is not None:
                blocks[n] = f"_block({declared.size}, least=1)"
            elif kernel.strips is not None and dim == kernel.strips.dim:
                blocks[n] = f"strip_{n}"
            elif dim in kernel.tiled:
                blocks[n] = f"tile_{kernel.name}_{n}"
                tiled.append(f"({self.size(dim)}, {blocks[n]})")
            else:
                blocks[n] = f"block_{n}"
        grid0 = "chunks.sequences" if kernel.loop else "total"
        tiles = f"_tiles({', '.join(tiled)})" if tiled else "1"
        return f"({grid0}, heads, {tiles})", blocks

    def _tile_lines(self, kernels: Launches, direction: str) -> list[str]:
        """Statements for the sizes of all tiles of some launches."""
        lines: dict[str, None] = {}
        for kernel, rendered in kernels:
            found = f'tuned.launches.get("{direction}_{kernel.name}", _BY_RULE)'
            if self.tuned is not None and not self.tuned.chunk_only:
                lines[f"tile_{kernel.name} = {found}"] = None
            for dim in rendered.dims:
                n, size = self.names.dims[dim], self.size(dim)
                if not self._is_wide(dim):
                    continue
                if kernel.strips is not None and dim == kernel.strips.dim:
                    lines[f"strip_{n} = _block({size}, _STRIP)"] = None
                elif dim in kernel.tiled:
                    limit = self._limit(kernel)
                    lines[f"tile_{kernel.name}_{n} = _block({size}, {limit})"] = None
                else:
                    lines[f"block_{n} = _block({size})"] = None
        return [*lines]

    def _launch(self, kernel: Kernel, rendered: RenderedKernel, texts: dict[str, str]) -> list[str]:
        """One launch; `texts` gives what the caller calls each pointer."""
        grid, blocks = self._grid(kernel, rendered)
        by_rule = rule(kernel, self._is_deep())
        lines = [f"grid = {grid}", f"_kernel({rendered.name})[grid]("]
        for argument in rendered.arguments:
            lines.append(f"    {argument}={self._argument(argument, kernel, texts, blocks)},")
        widths = [blocks[self.names.dims[d]] for d in rendered.dims if self._is_wide(d)]
        deep = ["axes=3"] if self._is_deep() else []
        least = str(by_rule.least)
        if by_rule.apart != by_rule.least:
            least = f"{by_rule.apart} if _sums_apart({self.first}.device) else {least}"
        warps = f"_warps({', '.join([least, *widths, *deep])})"
        lines.append(f"    num_warps={self._measured(kernel, 'warps')}{warps},")
        lines.append(f"    num_stages={self._measured(kernel, 'stages')}{by_rule.stages},")
        lines.append(")")
        return lines

    def _measured(self, kernel: Kernel, what: str) -> str:
        """What was measured of a launch, where it was, in front of the rule."""
        if self.tuned is None or self.tuned.chunk_only:
            return ""
        return f"tile_{kernel.name}.{what} or "

    def _limit(self, kernel: Kernel) -> str:
        """The largest tile of a dimension that is cut over the grid, as text."""
        found = rule(kernel, self._is_deep())
        names = {
            "walk": f"_walk_tile(kept_dtype, {self.first}.device, full={found.full})",
            "chunk": "_chunk_tile(kept_dtype)",
            "deep": "_DEEP_TILE",
        }
        return self._measured(kernel, "tile") + names[found.tile]

    def _is_deep(self) -> bool:
        """Whether a state has three dimensions."""
        return any(len(s.dims) > 2 for s in self.recurrence.states)

    def _is_wide(self, dim: str) -> bool:
        return next(d for d in self.recurrence.dims if d.name == dim).size is None

    def _argument(
        self, name: str, kernel: Kernel, texts: dict[str, str], blocks: dict[str, str]
    ) -> str:
        if name in texts:
            return texts[name]
        for scalar in self.recurrence.scalars:
            if self.names.tensor(scalar.name) == name:
                return self.arg[scalar.name]
        fixed = {
            "TOKENS": "tokens", "CHUNKS": "chunks.per_row", "HEADS": "heads",
            "EXACT": '"ieee" if torch.version.hip else "tf32x3"',
            "CHUNK": "chunk_size", "SHORT": "kept_dtype == torch.bfloat16",
            "PACKED": "packed", "DOT": "dot", "PRECISION": "precision",
            "starts_ptr": "chunks.offsets" if kernel.loop else "chunks.starts",
            "counts_ptr": "chunks.counts", "first_chunks_ptr": "chunks.first_chunks",
            "position_ptr": "start_t", "seqs_ptr": "chunks.owners", "locals_ptr": "chunks.places",
        }  # fmt: skip
        if name in fixed:
            return fixed[name]
        kind, _, rest = name.partition("_")
        if kind == "BLOCK":
            return blocks[rest]
        if kind == "size":
            dim = next(d for d, n in self.names.dims.items() if n == rest)
            return self.size(dim)
        if kind == "part":
            buffer = texts[f"{rest}_ptr"]
            return f"{buffer}.stride(0)"
        if kind == "HAS":
            return f"{texts[rest + '_ptr']} is not None"
        if kind == "heads":
            tensor = next(t for t in self.tensors if self.names.tensor(t.name) == rest)
            return f"{self.arg[tensor.name]}.shape[{self.head_axis(tensor)}]"
        raise KeyError(name)

    def _tensor_texts(self) -> dict[str, str]:
        return {f"{self.names.tensor(t.name)}_ptr": self.arg[t.name] for t in self.tensors}

    def _allocate_carries(
        self, carries: Sequence[Carry], starts: Sequence[str], texts: dict[str, str], when: str
    ) -> tuple[list[str], list[str]]:
        """Buffers of what the loop keeps (`when` it does) and leaves; the names of the ends."""
        lines: list[str] = []
        ends: list[str] = []
        for carry, start in zip(carries, starts, strict=True):
            n = self.names.tensor(carry.name)
            arg = self.carry_arg(carry.name)
            kept = self._empty(self._shape(("total", "heads"), carry.dims), self._kept_dtype(carry))
            end_shape = self._shape(("chunks.sequences", "heads"), carry.dims)
            lines += [f"kept_{arg} = None", f"if {when}:"] if when else []
            lines += [
                f"{'    ' if when else ''}kept_{arg} = {kept}",
                f"end_{arg} = {self._empty(end_shape, 'torch.float32')}",
            ]
            lines.append(f"if {start} is not None:")
            lines.append(f"    {start} = {start}.contiguous()")
            texts |= {
                f"start_{n}_ptr": start,
                f"kept_{n}_ptr": f"kept_{arg}",
                f"end_{n}_ptr": f"end_{arg}",
            }
            ends.append(f"end_{arg}")
        return lines, ends

    def _prepared_buffers(self, kernels: Launches, texts: dict[str, str]) -> list[str]:
        """Buffers that the first kernel fills for the others, which multiply with them."""
        lines = []
        for kernel, _ in kernels:
            for store in kernel.stores:
                n = self.names.tensor(store.name) if store.name.startswith(PREPARED) else ""
                if n and f"{n}_ptr" not in texts:
                    shape, dtype = "(batch, tokens, heads, chunk_size)", "_operand_dtype(dot)"
                    if not store.dims:  # numbers, rows behind an end among them
                        shape, dtype = "(total, heads, chunk_size)", "torch.float32"
                    lines.append(f"{n} = {self._empty(shape, dtype)}")
                    texts[f"{n}_ptr"] = n
        return lines

    def _parts(self, kernels: Launches) -> dict[str, Dims]:
        """Dimensions over whose tiles each result has to be summed."""
        out: dict[str, Dims] = {}
        for kernel, _ in kernels:
            for store, partial in zip(kernel.stores, kernel.partial, strict=True):
                out[store.name] = partial
        return out

    def _split_buffer(self, buffer: str, partial: Dims) -> list[str]:
        """A buffer for every part of a sum that tiles of all chunks at once compute."""
        if not partial:
            return []
        return [f"{buffer} = _split({buffer}, {self._part_count(partial)})"]

    def _part_count(self, partial: Dims) -> str:
        """What the number of parts of a sum is called."""
        return f"part_{'_'.join(self.names.dims[d] for d in partial)}"

    def _part_lines(self, parts: dict[str, Dims]) -> list[str]:
        """Statements for the numbers of parts of all sums."""
        lines: dict[str, None] = {}
        for partial in filter(None, parts.values()):
            sizes = [f"({self.size(d)}, tile_chunk_{self.names.dims[d]})" for d in partial]
            lines[f"{self._part_count(partial)} = _tiles({', '.join(sizes)})"] = None
        return [*lines]

    # ------------------------------------------------------------ functions

    def _choice(self, schedules: dict[str, Launches]) -> list[str]:
        """Whether the fused kernels run, and hence which of the states are kept."""
        scan = next(((k, r) for k, r in schedules.get("fused", ()) if k.loop and k.stores), None)
        if scan is None or "split" not in schedules:
            return [f"fused = {scan is not None}"]
        grid, _ = self._grid(*scan)
        room = [", kept_dtype"] if rule(scan[0], self._is_deep()).full else []
        return [f"fused = _fills({grid}, {self.first}.device{''.join(room)})"]

    def _forward(self, name: str, schedules: dict[str, Launches]) -> str:
        texts = self._tensor_texts()
        kernels = [k for found in schedules.values() for k in found]
        lines = [*self._prelude(), *self._tile_lines(kernels, "forward")]
        lines += self._choice(schedules)
        more, finals = self._allocate_carries(
            self.forward.carries, self.starts(), texts, "save or not fused"
        )
        lines += more
        outputs = []
        for store in self.forward.stores:
            dtype = self.result_dtype(store.name, store.kind)
            var = f"out_{self.arg[store.name]}"
            shape = self._shape(("batch", "tokens", "heads"), store.dims)
            lines.append(f"{var} = {self._empty(shape, dtype)}")
            texts[f"{self.names.tensor(store.name)}_ptr"] = var
            outputs.append(var)
        lines += self._prepared_buffers(kernels, texts)
        parts = self._parts(kernels)
        lines += self._part_lines(parts)
        for store, var in zip(self.forward.stores, outputs, strict=True):
            lines += self._split_buffer(var, parts.get(store.name, ()))
        lines += self._launches(schedules, texts)
        for store, var in zip(self.forward.stores, outputs, strict=True):
            if parts.get(store.name):
                dtype = self.result_dtype(store.name, store.kind)
                count = self._part_count(parts[store.name])
                lines.append(f"{var} = _joined({var}, {count}, {dtype})")
        if self.uses_time:
            finals.append("_end_position(start_t, chunks)")
        lines.append(f"saved = {tuple_of(self.kept(self.forward))} if save else ()")
        lines.append(f"return {tuple_of(outputs)}, {tuple_of(finals)}, saved")
        head = definition(name, [*self.parameters(), "save", "allow_tf32"])
        doc = '"""Launches the forward kernels; `saved` holds the states at the start of chunks."""'
        return "\n".join([*head, *indented([doc, *lines])])

    def _launches(self, schedules: dict[str, Launches], texts: dict[str, str]) -> list[str]:
        """The launches of both schedules, those that they share before the others."""
        fused, split = (schedules.get(x, ()) for x in ("fused", "split"))
        names = {r.name for _, r in fused} & {r.name for _, r in split}
        lines: list[str] = []
        for kernel, rendered in fused:
            if rendered.name in names:
                lines += self._launch(kernel, rendered, texts)
        branches = [
            [x for k, r in kernels if r.name not in names for x in self._launch(k, r, texts)]
            for kernels in (fused, split)
        ]
        if all(branches):
            for head, branch in zip(("if fused:", "else:"), branches, strict=True):
                lines += [head, *("    " + x for x in branch)]
            return lines
        return [*lines, *(x for branch in branches for x in branch)]

    def _backward(self, name: str, kernels: Launches) -> str:
        program = self.backward.program
        texts = self._tensor_texts()
        lines = [*self._prelude(), *self._tile_lines(kernels, "backward")]
        d_outputs = []
        for out in self.recurrence.outputs:
            d_outputs.append(f"d_{self.arg[out.name]}")
            texts[f"d_{self.names.tensor(out.name)}_ptr"] = d_outputs[-1]
            if out.kind is Kind.REAL:  # others have no cotangent
                lines.append(f"{d_outputs[-1]} = {d_outputs[-1]}.contiguous()")
        kept = self.kept(self.forward)
        for state, text in zip(self.recurrence.states, kept, strict=True):
            texts[f"kept_{self.names.tensor(state.name)}_ptr"] = text
        d_finals = [f"d_end_{self.arg[s.name]}" for s in self.recurrence.states]
        more, ends = self._allocate_carries(program.carries, d_finals, texts, "")
        lines += more
        found = {s.name: s for s in program.stores}
        lines += self._prepared_buffers(kernels, texts)
        parts = self._parts(kernels)
        lines += self._part_lines({n: p for n, p in parts.items() if n in found})
        for tensor in self.tensors:
            lines += self._gradient_buffer(tensor, found, texts)
            if cotangent(tensor.name) in found:
                cut = parts.get(cotangent(tensor.name), ())
                lines += self._split_buffer(f"d_{self.arg[tensor.name]}", cut)
        for kernel, rendered in kernels:
            lines += self._launch(kernel, rendered, texts)
        for tensor in self.tensors:
            if partial := parts.get(cotangent(tensor.name)):
                arg = f"d_{self.arg[tensor.name]}"
                lines.append(f"{arg} = _joined({arg}, {self._part_count(partial)}, {arg}.dtype)")
        grads = [self._gradient(t, found) for t in self.tensors]
        lines += ["gradients = (", *(f"    {g}," for g in grads), ")"]
        lines.append(f"return gradients, {tuple_of(ends)}")
        parameters = [*self.parameters(), *kept, *d_outputs, *d_finals, "allow_tf32"]
        head = definition(name, parameters)
        doc = '"""Launches the backward kernels; shared heads and params are summed at the end."""'
        return "\n".join([*head, *indented([doc, *lines])])

    def _gradient_buffer(
        self, tensor: Tensor, found: dict[str, Store], texts: dict[str, str]
    ) -> list[str]:
        if cotangent(tensor.name) not in found:
            return []
        arg = self.arg[tensor.name]
        texts[f"d_{self.names.tensor(tensor.name)}_ptr"] = f"d_{arg}"
        if self.is_input(tensor):
            shape = self._shape(("batch", "tokens", "heads"), tensor.dims)
            whole = f"whole = {arg}.shape[2] == heads"
            dtype = f"{arg}.dtype if whole else torch.float32"
            return [whole, f"d_{arg} = {self._empty(shape, dtype)}"]
        shape = self._shape(("total", "heads"), tensor.dims)
        return [f"d_{arg} = torch.zeros({shape}, dtype=torch.float32, device={self.first}.device)"]

    def _gradient(self, tensor: Tensor, found: dict[str, Store]) -> str:
        arg = self.arg[tensor.name]
        if cotangent(tensor.name) not in found:
            return f"torch.zeros_like({arg})"
        if self.is_input(tensor):
            return f"_group_sum(d_{arg}, {arg}.shape[2], 2).to({arg}.dtype)"
        return f"_group_sum(d_{arg}.sum(0), {arg}.shape[0], 0).to({arg}.dtype)"
