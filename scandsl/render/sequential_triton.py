"""Renders the sequential form for Triton: one fused kernel over time in each direction.

In: a recurrence as one plain step.  Out: a `RenderedForm`: the kernels and the functions that
launch them.  Any valid spec has this form.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from scandsl.ir.nodes import (
    Contract,
    Dim,
    Dims,
    Kind,
    Load,
    Ref,
    Tensor,
    Value,
    uses_time,
)
from scandsl.kernels.backward import cotangent
from scandsl.kernels.pairs import parts_of
from scandsl.kernels.program import Store
from scandsl.kernels.rules import structure
from scandsl.kernels.step import HEAD, Named, Step, StepProgram, step_program
from scandsl.kernels.step_cost import REGISTERS
from scandsl.kernels.step_tiles import LIMITS, crowding, matrix_dims, widest
from scandsl.plan.launches import Table
from scandsl.render.form import RenderedForm, Site, SiteKernel
from scandsl.render.layout import bracketed, docstring, indented, signature
from scandsl.render.lowering import Lowered, Stage, whole_step
from scandsl.render.names import Names, ascii_name
from scandsl.render.scan import ScanNames, StatePart, base_names, is_smooth
from scandsl.render.step_kernel import (
    PartPlanes,
    Plane,
    Setup,
    StepKernel,
    step_backward,
    step_forward,
)
from scandsl.render.tables import tuned_of

_HEAD_LIMIT = 512


def render_sequential_triton(
    names: ScanNames,
    lowered: Lowered,
    passed: frozenset[str] | None = None,
    launches: Table | None = None,
) -> RenderedForm:
    """The sequential form of one scan, or of a stage of a chain, which hands on `passed`."""
    return _SequentialTriton(names, lowered, passed, launches or Table()).render()


def render_steps_forward(names: ScanNames, lowered: Lowered) -> tuple[str, str]:
    """The forward alone: its source and the name of the function that launches the kernel."""
    return _SequentialTriton(names, lowered, None, Table()).forward_only()


def step_of(lowered: Lowered) -> Step:
    """One plain step with its leaves and results by name."""
    stage = whole_step(lowered)
    recurrence = lowered.recurrence
    leaves: dict[str, Ref] = dict(stage.leaves)
    results = dict(stage.results)

    def named(x: Tensor, values: Sequence[Value]) -> Iterable[Named]:
        if x.name in leaves:
            yield Named(x.name, x.dims, values[leaves[x.name]].kind, leaves[x.name])

    values = _without_repeats(stage)
    return Step(
        stage.dims,
        values,
        tuple(n for x in recurrence.inputs for n in named(x, values)),
        tuple(n for x in recurrence.params for n in named(x, values)),
        tuple(Named(p.name, p.dims, p.kind, leaves[p.name]) for p in lowered.parts),
        tuple(
            Named(o.name, o.dims, o.kind, results[f"output {o.name}"]) for o in recurrence.outputs
        ),
        tuple(Named(p.name, p.dims, p.kind, results[f"next {p.name}"]) for p in lowered.parts),
        stage.behind,
    )


def _without_repeats(stage: Stage) -> tuple[Value, ...]:
    """The values; a name that stands for one leaf only."""
    seen: dict[str, Ref] = {}
    for ref, value in enumerate(stage.values):
        if isinstance(value.op, Load):
            assert seen.setdefault(value.op.name, ref) == ref, "a leaf occurs once"
    return stage.values


@dataclass(frozen=True, slots=True)
class _Field:
    """A part of the state tuple as the host calls it."""

    part: StatePart
    start: str
    end: str
    shape: str


class _SequentialTriton:
    def __init__(
        self,
        names: ScanNames,
        lowered: Lowered,
        passed: frozenset[str] | None,
        launches: Table,
    ) -> None:
        self.names = names
        self.passed = passed
        self.lowered = lowered
        self.recurrence = lowered.recurrence
        self.program: StepProgram = step_program(step_of(lowered))
        self.stem = f"{names.private}_steps"
        self.tuned, self.tables = tuned_of(launches, structure(self.program), self.stem)
        self.bases = base_names(self.recurrence.dims)
        self.local = Names(_LOCALS)
        self.local.reserve(names.inner.values())
        for n in list(names.inner.values()):
            self.local.reserve((f"d_{n}", f"start_{n}", f"end_{n}", f"out_{n}", f"d_end_{n}"))
        self.tensors = names.tensors
        self.arg = names.inner
        self.kernel_dims = self._kernel_dims()
        self.kernel_names = self._kernel_names()
        self.fields = [self._field(p) for p in names.state if p.kind != "time"]

    # ------------------------------------------------------------ names

    def _kernel_dims(self) -> dict[str, str]:
        used = {d for v in self.program.values for d in v.dims}
        used |= {d for v in self.program.values if isinstance(v.op, Contract) for d in v.op.over}
        used |= {d for t in self.tensors for d in t.dims}
        out: dict[str, str] = {}
        for index, dim in enumerate(self.recurrence.dims):
            if dim.name not in used and not self._sized(dim.name):
                continue
            name = ascii_name(dim.name.replace("'", "_"), f"dim{index}")
            while name in out.values():
                name += "_"
            out[dim.name] = name
        return out

    def _sized(self, dim: str) -> bool:
        return any(getattr(v.op, "dim", None) == dim for v in self.program.values)

    def _kernel_names(self) -> dict[str, str]:
        """ASCII names of everything that is declared, and of memories."""
        out: dict[str, str] = {}
        wishes = [*self.names.inner.items(), *((p.name, p.python) for p in self.names.state)]
        for index, (name, wish) in enumerate(wishes):
            if name in out:
                continue
            free = ascii_name(wish, f"tensor{index}")
            while free in out.values() or free in _KERNEL_OWN:
                free += "_"
            out[name] = free
        return out

    def _field(self, part: StatePart) -> _Field:
        stem = self.arg.get(part.name, part.python)
        lead = ["sequences", "heads", *([str(part.depth)] if part.depth else [])]
        shape = f"({', '.join([*lead, *(self._size(d) for d in part.dims)])})"
        if part.name in self.arg:
            return _Field(part, f"start_{stem}", f"end_{stem}", shape)
        return _Field(
            part, self.local.fresh(f"start_{stem}"), self.local.fresh(f"end_{stem}"), shape
        )

    def _size(self, dim: str) -> str:
        """The size of a dimension as the host calls it."""
        base = next(d for d in self.recurrence.dims if d.name == self.bases[dim])
        return str(base.size) if base.size is not None else self._host_size(base.name)

    def _host_size(self, base: str) -> str:
        places = {d.name: i for i, d in enumerate(self.recurrence.dims)}
        return f"size_{ascii_name(base, f'dim{places[base]}')}"

    def _dims_text(self, dims: Dims) -> str:
        inner = [self._size(d) for d in dims]
        return f"({', '.join(inner)}{',' if len(inner) == 1 else ''})"

    # ------------------------------------------------------------ planes

    def _is_input(self, name: str) -> bool:
        return self.names.is_input(name)

    def _heads_of(self, tensor: Tensor) -> str:
        return f"{self.arg[tensor.name]}.shape[{2 if self._is_input(tensor.name) else 0}]"

    def _named_planes(
        self, name: str, kind: Kind, dims: Dims, var: str, host: str, heads: str = ""
    ) -> dict[str, Plane]:
        """The real tensors that stand for one, by their names in the program."""
        if kind is not Kind.COMPLEX:
            return {name: Plane(var, dims, host, heads)}
        real, imaginary = parts_of(name, kind)
        return {
            real: Plane(f"{var}_re", dims, f"{host}_re", heads),
            imaginary: Plane(f"{var}_im", dims, f"{host}_im", heads),
        }

    def _tensor_planes(self, inputs: bool) -> dict[str, Plane]:
        out: dict[str, Plane] = {}
        for t in self.tensors:
            if self._is_input(t.name) == inputs:
                host, var = self.arg[t.name], self.kernel_names[t.name]
                out |= self._named_planes(t.name, t.kind, t.dims, var, host, self._heads_of(t))
        return out

    def _gradient_planes(self, inputs: bool) -> dict[str, Plane]:
        out: dict[str, Plane] = {}
        for t in self.tensors:
            if self._is_input(t.name) == inputs:
                host, var = f"d_{self.arg[t.name]}", f"d_{self.kernel_names[t.name]}"
                name, heads = cotangent(t.name), self._heads_of(t)
                out |= self._named_planes(name, t.kind, t.dims, var, host, heads)
        return out

    def _factor_planes(self) -> dict[str, Plane]:
        """The vectors whose products are gradients of params."""
        planes = self._gradient_planes(False)
        return {
            store.name: Plane(f"{p.var}_{side}", store.dims, f"{p.host}_{side}")
            for x in self.program.d_outer
            for p in (planes[x.name],)
            for side, store in (("left", x.left), ("right", x.right))
        }

    def _part_planes(self, backward: bool) -> dict[str, PartPlanes]:
        """Where each part begins and ends; in the backward its cotangent does so."""
        out: dict[str, PartPlanes] = {}
        index = 0
        for field in self.fields:
            part = field.part
            kind = Kind(part.kind)
            var = self.kernel_names[part.name]
            hosts = self._field_hosts(field, backward)
            lead = "d_" if backward else ""
            for entry in range(max(part.depth, 1)):
                lowered = self.lowered.parts[index]
                index += 1
                name = cotangent(lowered.name) if backward else lowered.name
                begins = self._named_planes(name, kind, part.dims, f"start_{lead}{var}", hosts[0])
                ends = self._named_planes(name, kind, part.dims, f"end_{lead}{var}", hosts[1])
                for key in begins:
                    depth = max(part.depth, 1)
                    out[key] = PartPlanes(begins[key], ends[key], entry, depth)
        return out

    def _field_hosts(self, field: _Field, backward: bool) -> tuple[str, str]:
        if backward:
            return f"d_{field.end}", f"d_{field.start}"
        return field.start, field.end

    def _setup(self, backward: bool) -> Setup:
        rows: dict[str, Plane] = {}
        for o in self.recurrence.outputs:
            var, host = self.kernel_names[o.name], self.arg[o.name]
            if backward:
                rows |= self._named_planes(
                    cotangent(o.name), o.kind, o.dims, f"d_out_{var}", f"d_out_{host}"
                )
            else:
                rows |= self._named_planes(o.name, o.kind, o.dims, f"out_{var}", f"out_{host}")
        if backward:
            rows |= self._gradient_planes(True)
            rows |= self._factor_planes()
        parts = self._part_planes(False)
        if backward:
            parts |= self._part_planes(True)
        return Setup(
            program=self.program,
            dims=self.kernel_dims,
            sizes={d: self._size(d) for d in self.kernel_dims},
            inputs=self._tensor_planes(True),
            params=self._tensor_planes(False),
            scalars={
                s.name: Plane(self.kernel_names[s.name], (), self.arg[s.name])
                for s in self.recurrence.scalars
            },
            parts=parts,
            rows=rows,
            sums=self._gradient_planes(False) if backward else {},
            cut=self._cut(),
            steps=uses_time(self.recurrence),
        )

    def _cut(self) -> Dims:
        return tuple(d for d in self.program.independent if d in self.kernel_dims)

    # ------------------------------------------------------------ blocks

    def _blocks(self, direction: str, kernel: StepKernel) -> list[str]:
        """Statements for the sizes of tiles and the grid."""
        matrix, cut = matrix_dims(self.program), self._cut()
        lines = []
        for dim, n in self.kernel_dims.items():
            if dim not in cut:
                least = 16 if dim in matrix else 1
                lines.append(f"block_{n} = _block({self._size(dim)}, least={least})")
        tiles = widest(self.program)
        known = [d for d in self.kernel_dims if d not in cut]
        for dim in reversed(cut):
            others = self._largest(tiles, known, dim)
            limit = self._measured("numbers") + str(LIMITS[direction] // crowding(self.program))
            text = f"_step_block({self._size(dim)}, {others}, {limit})"
            if dim in matrix:
                text = f"max(16, {text})"
            lines.append(f"block_{self.kernel_dims[dim]} = {text}")
            known.append(dim)
        everything = self._largest(tiles, known, None)
        cuts = [f"({self._size(d)}, block_{self.kernel_dims[d]})" for d in cut]
        if self.program.heads:
            lines.append(f"block_heads = _step_block(heads, {everything}, {_HEAD_LIMIT})")
            lines.append("head_tiles = _tiles((heads, block_heads))")
            everything = f"block_heads * {everything}"
        lines.append(f"numbers = {everything}")
        lines += self._held(direction, kernel)
        lines.append(f"parts = _tiles({', '.join(cuts)})" if cuts else "parts = 1")
        lines.append(
            f"grid = (sequences, {'head_tiles' if self.program.heads else 'heads'}, parts)"
        )
        if kernel.products:
            lines.append(f"through = _step_through({kernel.products} * numbers)")
            lines.append("warps = min(2 * warps, 16) if through else warps")
            room = "grid[0] * grid[1] * parts * 2 * numbers if through else 1"
            lines.append(f"products = {self._empty(room, 'torch.float32')}")
        return lines

    def _held(self, direction: str, kernel: StepKernel) -> list[str]:
        """How many warps, and whether matrices among the params stay on chip with them."""
        many = crowding(self.program)
        numbers = f"{many} * numbers" if many > 1 else "numbers"
        if "HOLD" not in kernel.arguments:
            return [f"warps = {self._measured('warps')}_step_warps({numbers})"]
        static = {d.name for d in self.recurrence.dims if d.size is not None}
        matrices = [
            " * ".join(f"block_{self.kernel_dims[d]}" for d in t.dims)
            for t in self.recurrence.params
            if len(set(t.dims) - static) > 1
            for _ in parts_of(t.name, t.kind)
        ]
        lines = self._sum_lines("held", matrices)
        warps = f"_step_warps(max({numbers}, held // 2))"
        lines.append(f"warps = {self._measured('warps')}{warps}")
        return [*lines, f"hold = held <= {REGISTERS[direction]} * 32 * warps"]

    def _largest(
        self, tiles: Sequence[frozenset[str]], known: Sequence[str], dim: str | None
    ) -> str:
        """The most numbers of a value (with the dimension `dim`), along the known dimensions."""
        own = [
            [f"block_{self.kernel_dims[d]}" for d in self.kernel_dims if d in x and d in known]
            for x in tiles
            if dim is None or dim in x
        ]
        texts = list(dict.fromkeys(" * ".join(x) or "1" for x in own))
        return texts[0] if len(texts) == 1 else f"max({', '.join(texts)})" if texts else "1"

    # ------------------------------------------------------------ host

    @property
    def first(self) -> str:
        """The first input, which gives batch, length, device and the outputs' dtype."""
        tensors = self.recurrence.inputs or self.recurrence.params
        return self.arg[tensors[0].name]

    def _parameters(self) -> list[str]:
        out = [f"{self.arg[t.name]}: Tensor" for t in self.tensors]
        out += [f"{self.arg[s.name]}: float" for s in self.recurrence.scalars]
        out += [f"{f.start}: Tensor | None" for f in self.fields]
        if uses_time(self.recurrence):
            out.append("start_t: Tensor")
        out.append("cu_seqlens: Tensor | None")
        return out if self.passed is None else [*out, "sizes: _Sizes"]

    def _prelude(self, direction: str, kernel: StepKernel) -> list[str]:
        lines = ["_load_triton()"]
        for t in self.tensors:
            arg = self.arg[t.name]
            if t.kind is Kind.COMPLEX:
                lines.append(f"{arg}_re, {arg}_im = _planes({arg})")
            else:
                lines.append(f"{arg} = {arg}.contiguous()")
        counts = [self._heads_of(t) for t in self.tensors]
        several = f"max({', '.join(counts)})"
        heads = counts[0] if len(counts) == 1 else several
        lead = f"{self.first}.shape[:2]"
        if self.passed is not None:
            heads, lead = "sizes.heads", "sizes.batch, sizes.length"
        lines.append(f"heads = {heads}")
        lines += self._size_lines()
        lines.append(f"batch, tokens = {lead}")
        lines.append(f"device = {self.first}.device")
        lines.append("offsets = _bounds(cu_seqlens, tokens)")
        lines.append("sequences = batch if offsets is None else offsets.shape[0] - 1")
        lines.append("every = _checkpoint_steps(tokens)")
        if self.tuned is not None:
            sizes = [self._host_size(d.name) for d in self._free_dims()]
            found = ", ".join([self.tuned.table, "device", f"{self.first}.dtype", *sizes])
            lines.append(f"tuned = _tuned({found})")
            lines.append(f'tile_steps = tuned.launches.get("{self._short(kernel)}", _BY_RULE)')
        return [*lines, *self._blocks(direction, kernel)]

    def _measured(self, what: str) -> str:
        """What was measured of a launch, where it was, in front of the rule."""
        return "" if self.tuned is None else f"tile_steps.{what} or "

    def _short(self, kernel: StepKernel) -> str:
        """The name of a kernel without that of the scan."""
        return kernel.name.removeprefix(self.stem).replace("_kernel", "steps_kernel", 1)

    def _free_dims(self) -> list[Dim]:
        """The dimensions whose sizes the host reads."""
        return [d for d in self.recurrence.dims if d.size is None and d.base is None]

    def _site(self, kernels: Sequence[StepKernel]) -> Site:
        """What there is to measure."""
        table = "" if self.tuned is None else self.tuned.table
        found = tuple(SiteKernel(self._short(k), self._cut(), False, True) for k in kernels)
        dims = tuple(d.name for d in self._free_dims())
        return Site(table, structure(self.program), dims, found)

    def _size_lines(self) -> list[str]:
        lines = []
        for dim in self.recurrence.dims:
            if dim.size is None and dim.base is None and self.passed is not None:
                lines.append(f'{self._host_size(dim.name)} = sizes.dim["{dim.name}"]')
            elif dim.size is None and dim.base is None:
                family = {d.name for d in self.recurrence.dims if dim.name in (d.name, d.base)}
                tensor, place = next(
                    (t, i) for t in self.tensors for i, d in enumerate(t.dims) if d in family
                )
                axis = place + (3 if self._is_input(tensor.name) else 1)
                lines.append(f"{self._host_size(dim.name)} = {self.arg[tensor.name]}.shape[{axis}]")
        return lines

    def _launch(self, kernel: StepKernel) -> list[str]:
        lines = [f"_kernel({kernel.name})[grid]("]
        lines += [f"    {name}={host}," for name, host in kernel.arguments.items()]
        return [*lines, "    num_warps=warps,", "    num_stages=1,", ")"]

    def render(self) -> RenderedForm:
        """The kernels and the functions that launch them."""
        forward = step_forward(self._setup(False), f"{self.stem}_kernel")
        backward = None
        p = self.program
        if p.d_inputs or p.d_params or p.d_outer or p.d_parts:
            backward = step_backward(self._setup(True), f"{self.stem}_kernel_backward")
        names = (f"{self.stem}_forward", f"{self.stem}_backward", f"{self.stem}_saved")
        blocks = [k.source.rstrip() for k in (forward, backward) if k is not None]
        blocks += [
            "\n".join(self._forward(names[0], forward)),
            "\n".join(self._backward(names[1], backward)),
            "\n".join(self._saved(names[2])),
        ]
        text = "\n\n\n".join(blocks) + "\n"
        site = self._site([k for k in (forward, backward) if k is not None])
        return RenderedForm(
            "triton", text, names[0], names[1], ("kept",), names[2],
            tables=self.tables, sites=(site,),
        )  # fmt: skip

    def forward_only(self) -> tuple[str, str]:
        """The source of the forward, and its name."""
        kernel = step_forward(self._setup(False), f"{self.stem}_kernel")
        name = f"{self.stem}_forward"
        source = [kernel.source.rstrip(), "\n".join(self._forward(name, kernel))]
        return "\n\n\n".join(source) + "\n", name

    # ------------------------------------------------------------ forward

    def _volumes(self, size: Callable[[str], str]) -> list[str]:
        """Numbers in each part of one head."""
        return [" * ".join(size(d) for d in part.dims) or "1" for part in self.program.parts]

    def _sum_lines(self, name: str, terms: Sequence[str]) -> list[str]:
        """Statements for a sum, equal terms put together."""
        counted = [
            t if (n := terms.count(t)) == 1 else f"{n} * {t}" if t != "1" else str(n)
            for t in dict.fromkeys(terms)
        ] or ["0"]
        return [f"{name} = {counted[0]}", *(f"{name} += {t}" for t in counted[1:])]

    def _field_size(self, dim: str) -> str:
        text = self._size(dim)
        return text if text.isdigit() else f'sizes.dim["{self.bases[dim]}"]'

    def _saved(self, name: str) -> list[str]:
        head = signature(
            name, ["sizes: _Sizes", "save: bool"], "tuple[tuple[Any, torch.dtype], ...]"
        )
        body = docstring("What the forward keeps for the backward: shape and dtype.")
        body += ["slots = _checkpoint_slots(sizes) if save else 0"]
        body += self._sum_lines("whole", self._volumes(self._field_size))
        body += ["return (((slots, sizes.heads, whole), torch.float32),)"]
        return [*head, *indented(body)]

    def _empty(self, shape: str, dtype: str) -> str:
        return f"torch.empty({shape}, dtype={dtype}, device=device)"

    def _forward(self, name: str, kernel: StepKernel) -> list[str]:
        lines = self._prelude("forward", kernel)
        for field in self.fields:
            lines += self._start_lines(field, field.start)
            ends = [field.end]
            starts = [field.start]
            if field.part.kind == "complex":
                ends = [f"{field.end}_re", f"{field.end}_im"]
                starts = [f"{field.start}_re", f"{field.start}_im"]
            lines += [f"{e} = torch.empty_like({s})" for e, s in zip(ends, starts, strict=True)]
        results = []
        for output in self.recurrence.outputs:
            more, text = self._output(output.name, output.kind, output.dims)
            lines += more
            results.append(text)
        every = "sequences * -(-tokens // every)"
        slots = f"tokens // every + sequences if offsets is not None else {every}"
        lines.append(f"slots = ({slots}) if save else 0")
        lines += self._sum_lines("whole", self._volumes(self._size))
        kept = self._empty("(slots, heads, whole)", "torch.float32")
        lines += [f"kept = {kept}", *self._launch(kernel)]
        finals = [self._end_text(f) for f in self.fields]
        if uses_time(self.recurrence):
            length = "tokens if offsets is None else offsets.diff()"
            finals.append(f"start_t + ({length})")
        lines += bracketed("return (", [_tuple(results), _tuple(finals), "(kept,)"], ")", 4)
        parameters = [*self._parameters(), "save: bool", "allow_tf32: bool"]
        head = signature(name, parameters, "tuple[Any, Any, Any]")
        doc = docstring("Launches the kernel over time; it leaves the parts at checkpoints.")
        return [*head, *indented([*doc, *lines])]

    def _start_lines(self, field: _Field, name: str) -> list[str]:
        kind = field.part.kind
        if kind == "complex":
            call = bracketed(
                f"{name}_re, {name}_im = _begin_pair(", [name, field.shape, "device"], ")", 4
            )
            return call
        dtype = "torch.float32" if kind == "real" else "torch.int32"
        return bracketed(f"{name} = _begin(", [name, field.shape, dtype, "device"], ")", 4)

    def _end_text(self, field: _Field) -> str:
        match field.part.kind:
            case "complex":
                return f"torch.complex({field.end}_re, {field.end}_im)"
            case "int":
                return f"{field.end}.to(torch.int64)"
            case "bool":
                return f"{field.end}.to(torch.bool)"
            case _:
                return field.end

    def _output(self, name: str, kind: Kind, dims: Dims) -> tuple[list[str], str]:
        host = f"out_{self.arg[name]}"
        inner = "".join(f", {self._size(d)}" for d in dims)
        shape = f"(batch, tokens, heads{inner})"
        if kind is Kind.COMPLEX:
            lines = [f"{host}_{p} = {self._empty(shape, 'torch.float32')}" for p in ("re", "im")]
            return lines, f"torch.complex({host}_re, {host}_im)"
        first = f"{self.first}.dtype"
        if self.passed is not None:
            first = "torch.float32" if name in self.passed else "sizes.result"
        dtype = f'_output_dtype("{kind.value}", {first}, torch.float32)'
        return [f"{host} = {self._empty(shape, dtype)}"], host

    # ------------------------------------------------------------ backward

    def _backward(self, name: str, kernel: StepKernel | None) -> list[str]:
        lines = [] if kernel is None else self._against_time(kernel)
        found = {s.name for s in (*self.program.d_inputs, *self.program.d_params)}
        found |= {x.name for x in self.program.d_outer}
        gradients = [self._gradient(t, found) for t in self.tensors]
        starts = [self._start_gradient(f) for f in self.fields]
        lines += bracketed("gradients = (", gradients, "," * (len(gradients) == 1) + ")", 4)
        lines += bracketed("d_start = (", starts, "," * (len(starts) == 1) + ")", 4)
        lines.append("return gradients, d_start")
        parameters = [*self._parameters(), "kept: Tensor"]
        parameters += [f"d_out_{self.arg[o.name]}: Tensor | None" for o in self.recurrence.outputs]
        parameters += [f"d_{f.end}: Tensor | None" for f in self.fields]
        head = signature(name, [*parameters, "allow_tf32: bool"], "tuple[Any, Any]")
        doc = docstring("Launches the kernel against time; shares of gradients are summed here.")
        return [*head, *indented([*doc, *lines])]

    def _against_time(self, kernel: StepKernel) -> list[str]:
        """The launch, and room for what it leaves."""
        lines = self._prelude("backward", kernel)
        for output in self.recurrence.outputs:
            lines += self._cotangent_lines(f"d_out_{self.arg[output.name]}", output.kind)
        lines += self._part_gradient_lines()
        for store in (*self.program.d_inputs, *self.program.d_params):
            lines.append(self._gradient_room(store))
        factors = self._factor_planes()
        for x in self.program.d_outer:
            for store in (x.left, x.right):
                inner = "".join(f", {self._size(d)}" for d in factors[store.name].dims)
                room = self._empty(f"(batch, tokens, heads{inner})", "torch.float32")
                lines.append(f"{factors[store.name].host} = {room}")
        if self.program.parts:
            lines += self._sum_lines("whole", self._volumes(self._size))
            lines += self._sum_lines("room", [self._lanes(p.dims) for p in self.program.parts])
            scratch = self._empty("grid[0] * grid[1] * parts * every * room", "torch.float32")
            lines.append(f"scratch = {scratch}")
        lines += self._launch(kernel)
        planes = self._gradient_planes(False)
        for x in self.program.d_outer:
            order = tuple((*x.left.dims, *x.right.dims).index(d) for d in x.dims)
            one, other = factors[x.left.name].host, factors[x.right.name].host
            lines.append(f"{planes[x.name].host} = _outer({one}, {other}, {order})")
        return lines

    def _lanes(self, dims: Dims) -> str:
        lead = ["block_heads"] if self.program.heads else []
        return " * ".join([*lead, *(f"block_{self.kernel_dims[d]}" for d in dims)]) or "1"

    def _cotangent_lines(self, host: str, kind: Kind) -> list[str]:
        if kind is Kind.COMPLEX:
            return [f"{host}_re, {host}_im = _planes({host})"]
        return [f"{host} = {host}.contiguous()"] if is_smooth(kind) else []

    def _part_gradient_lines(self) -> list[str]:
        """The cotangents of the final parts, and room for those of the initial ones."""
        lines = []
        for field in self.fields:
            if not field.part.smooth:
                continue
            end, start = f"d_{field.end}", f"d_{field.start}"
            lines += self._cotangent_lines(end, Kind(field.part.kind))
            missing = self._parts_text(field.part.dims)
            ends = (f"{end}_re", f"{end}_im") if field.part.kind == "complex" else (end,)
            starts = (f"{start}_re", f"{start}_im") if len(ends) == 2 else (start,)
            for e, s in zip(ends, starts, strict=True):
                lines.append(f"{s} = {e}.new_empty(({missing}, *{e}.shape), dtype=torch.float32)")
        return lines

    def _parts_text(self, dims: Dims) -> str:
        """Shares of a sum: one for each tile of the cut dimensions that a tensor lacks."""
        missing = [d for d in self._cut() if d not in dims]
        cuts = [f"({self._size(d)}, block_{self.kernel_dims[d]})" for d in missing]
        return f"_tiles({', '.join(cuts)})" if cuts else "1"

    def _gradient_room(self, store: Store) -> str:
        planes = self._gradient_planes(True) | self._gradient_planes(False)
        plane = planes[store.name]
        tensor = next(t for t in self.tensors if store.name in parts_of(cotangent(t.name), t.kind))
        arg = self.arg[tensor.name]
        lead = "(batch, tokens)" if self._is_input(tensor.name) else "(sequences,)"
        own = self._heads_of(tensor)
        heads = "heads"
        if self.program.heads:
            heads = f"head_tiles if _shared(heads, {own}, block_heads) else heads"
        call = [self._parts_text(tensor.dims), lead, heads, self._dims_text(tensor.dims), arg, own]
        return f"{plane.host} = _room({', '.join(call)})"

    def _gradient(self, tensor: Tensor, found: set[str]) -> str:
        arg = self.arg[tensor.name]
        if not found & set(parts_of(cotangent(tensor.name), tensor.kind)):
            return f"torch.zeros_like({arg})"
        axis = 2 if self._is_input(tensor.name) else 0
        if tensor.kind is Kind.COMPLEX:
            return f"_collected_pair(d_{arg}_re, d_{arg}_im, {arg}, {axis})"
        return f"_collected(d_{arg}, {arg}, {axis})"

    def _start_gradient(self, field: _Field) -> str:
        if not field.part.smooth:
            return "None"
        start = f"d_{field.start}"
        if field.part.kind == "complex":
            return f"torch.complex({start}_re.sum(0), {start}_im.sum(0))"
        return f"{start}.sum(0)"


def _tuple(items: Sequence[str]) -> str:
    return f"({', '.join(items)}{',' if len(items) == 1 else ''})"


_LOCALS = frozenset({
    "heads", "batch", "tokens", "device", "offsets", "sequences", "every", "head_tiles",
    "block_heads", "numbers", "parts", "grid", "slots", "kept", "scratch", "gradients", "d_start",
    "save", "allow_tf32", "cu_seqlens", "start_t", "sizes", "whole", "room",
    "held", "hold", "warps", "through", "products", "tuned",
})  # fmt: skip

_KERNEL_OWN = frozenset({
    "tl", "triton", "seq", "h", "tile", "begin", "length", "slot", "step", "token", "position",
    "start", "chunk", "chunks", "back", "first", "count", "c", "r", "room", "at", "float", "range",
    "kept", "scratch", "offsets", "program", "lane", "heads", "in_h", "TOKENS", "HEADS", "EVERY",
    "DOT", "PRECISION", "ROOM", "WHOLE", "SAVE", "HOLD", "PACKED", "HEAD_TILES", "BLOCK_HEADS",
    "seat", "products", "THROUGH", "AREA",
})  # fmt: skip

__all__ = ["HEAD", "render_sequential_triton", "step_of"]
