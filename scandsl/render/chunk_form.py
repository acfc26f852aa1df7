"""What the torch and the Triton text of the chunked form share: names, sizes, parameters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from scandsl.diagnostics import InternalError
from scandsl.ir.nodes import Dims, Kind, Recurrence, Tensor, uses_time
from scandsl.kernels.backward import Backward
from scandsl.kernels.precision import cancels
from scandsl.kernels.program import ChunkProgram
from scandsl.render.form import Handed


@dataclass(slots=True)
class ChunkForm:
    """One recurrence with its chunk programs; `arg` maps declared to Python names.

    A stage of a chain is handed the sizes of its scan, and values of earlier stages.  Outputs in
    `wide` keep the compute dtype.
    """

    recurrence: Recurrence
    arg: dict[str, str]
    name: str
    forward: ChunkProgram
    backward: Backward
    handed: Handed | None = field(default=None, kw_only=True)
    wide: frozenset[str] = field(default=frozenset(), kw_only=True)

    @property
    def uses_time(self) -> bool:
        """Whether the position is part of the carried state."""
        return uses_time(self.recurrence)

    @property
    def storage(self) -> str:
        """The type of kept matrices on Triton, as text of the functions that are given sizes."""
        wide = cancels(self.forward) or (self.handed is not None and not self._narrow)
        return "sizes.dtype" if wide else "sizes.storage"

    @property
    def _narrow(self) -> bool:
        """Whether a stage has vectors, all of them in the dtype of those of the scan."""
        wide = frozenset() if self.handed is None else self.handed.wide
        vectors = [t for t in self.recurrence.inputs if t.dims]
        return bool(vectors) and not any(t.name in wide for t in vectors)

    @property
    def passed(self) -> frozenset[str] | None:
        """The outputs that a stage hands on; `None` for a scan in one piece."""
        return None if self.handed is None else self.handed.passed

    @property
    def tensors(self) -> list[Tensor]:
        """Inputs and params in the order of declaration."""
        by_name = {t.name: t for t in (*self.recurrence.inputs, *self.recurrence.params)}
        return [by_name[n] for n in self.recurrence.arguments]

    def tensor(self, name: str) -> Tensor:
        """A declared tensor."""
        return next(t for t in self.tensors if t.name == name)

    def is_input(self, tensor: Tensor) -> bool:
        """Whether a tensor varies with time."""
        return any(t.name == tensor.name for t in self.recurrence.inputs)

    def head_axis(self, tensor: Tensor) -> int:
        """The axis of a tensor that counts its heads."""
        return 2 if self.is_input(tensor) else 0

    @property
    def first(self) -> str:
        """The first input, which gives batch, length, device and the outputs' dtype."""
        return self.arg[self.recurrence.inputs[0].name]

    def parameters(self) -> list[str]:
        """What both functions begin with."""
        out = [self.arg[t.name] for t in self.tensors]
        out += [self.arg[s.name] for s in self.recurrence.scalars]
        out += self.starts()
        if self.uses_time:
            out.append("start_t")
        return [*out, "cu_seqlens"] if self.passed is None else [*out, "cu_seqlens", "sizes"]

    def starts(self) -> list[str]:
        """The names of the initial states."""
        return [f"start_{self.arg[s.name]}" for s in self.recurrence.states]

    def carry_arg(self, name: str) -> str:
        """The Python name of a state, or of its cotangent."""
        return self.arg[name] if name in self.arg else f"d_{self.arg[name.removeprefix('d ')]}"

    def kept(self, program: ChunkProgram) -> list[str]:
        """The names of what every chunk is handed."""
        return [f"kept_{self.carry_arg(c.name)}" for c in program.carries]

    def heads(self) -> str:
        """An expression for the number of heads."""
        if self.passed is not None:
            return "sizes.heads"
        parts = [f"{self.arg[t.name]}.shape[{self.head_axis(t)}]" for t in self.tensors]
        return parts[0] if len(parts) == 1 else f"max({', '.join(parts)})"

    def size_name(self, dim: str) -> str:
        """The local variable that holds the size of a dimension."""
        text = "".join(c if c.isalnum() or c == "_" else "_" for c in dim)
        return f"size_{text}"

    def size(self, dim: str) -> str:
        """The size of a dimension as text."""
        declared = next(d for d in self.recurrence.dims if d.name == dim)
        return (
            str(declared.size)
            if declared.size is not None
            else self.size_name(declared.base or dim)
        )

    def size_lines(self) -> list[str]:
        """Statements that read the sizes off the tensors."""
        lines = []
        for dim in self.recurrence.dims:
            if dim.size is None and dim.base is None:
                size = f'sizes.dim["{dim.name}"]' if self.passed is not None else ""
                size = size or self._size_of(dim.name)
                lines.append(f"{self.size_name(dim.name)} = {size}")
        return lines

    def result_dtype(self, name: str, kind: Kind) -> str:
        """The dtype of an output, as text."""
        known = {Kind.INT: "torch.int64", Kind.BOOL: "torch.bool"}
        if name in self.wide:
            return self.compute_dtype()
        if kind is Kind.COMPLEX:
            return "dtype.to_complex()"
        if self.passed is None:
            real = self.recurrence.inputs[0].kind is not Kind.COMPLEX
            return known.get(kind, f"{self.first}.dtype" if real else "dtype")
        return known.get(kind, "sizes.dtype" if name in self.passed else "sizes.result")

    def compute_dtype(self) -> str:
        """The dtype that values are computed in, as text."""
        return "dtype"

    def _size_of(self, dim: str) -> str:
        family = {d.name for d in self.recurrence.dims if dim in (d.name, d.base)}
        for tensor in self.tensors:
            for place, name in enumerate(tensor.dims):
                if name in family:
                    return f"{self.arg[tensor.name]}.shape[{self.head_axis(tensor) + 1 + place}]"
        raise InternalError(f"dimension `{dim}` has no size")

    def saved_shapes(self, name: str, size: str, flat: bool) -> list[str]:
        """The function that gives shapes and dtypes of the kept carries.

        `flat` ones lie as `[chunks of all rows, H, ...]`, others as `[chunks of a row, B, H, ...]`.
        """
        lines = [f"def {name}(sizes: _Sizes, save: bool) -> tuple[tuple[Any, torch.dtype], ...]:"]
        body = ['"""What the forward keeps for the backward: shapes and dtypes."""']
        body += ["if not save:", "    return ()", f"count = {self.chunk_bound(size)}"]
        if flat:
            body.append("rows = count if sizes.packed else sizes.batch * count")
        shapes = []
        for carry in self.forward.carries:
            wide = len(carry.dims) >= 2
            inner = self._kept_sizes(carry.dims, flat)
            lead = ["rows"] if flat else ["count", "sizes.batch"]
            dtype = self.storage if flat and wide else "sizes.dtype"
            if carry.kind is Kind.COMPLEX:
                dtype = "wide"
            shapes.append(f"({tuple_of([*lead, *inner])}, {dtype})")
        if any(c.kind is Kind.COMPLEX for c in self.forward.carries):
            body.append("wide = sizes.dtype.to_complex()")
        body += ["return (", *(f"    {s}," for s in shapes), ")"]
        return [*lines, *("    " + x for x in body)]

    def _kept_sizes(self, dims: Dims, flat: bool) -> list[str]:
        """The sizes of heads and dimensions of a kept carry, as they lie in memory."""
        base = {d.name: d.base or d.name for d in self.recurrence.dims}
        order = dims if flat else self.canonical(dims)
        return ["sizes.heads", *(f'sizes.dim["{base[d]}"]' for d in order)]

    def chunk_bound(self, size: str) -> str:
        """How many chunks there are at most, as text of the function that tells shapes."""
        return f"_chunk_bound(sizes, {size})"

    def canonical(self, dims: Dims) -> Dims:
        """Dimensions in the order in which printed values have them."""
        order = [d.name for d in self.recurrence.dims]
        return tuple(sorted(dims, key=order.index))


def tuple_of(items: Sequence[str]) -> str:
    """A tuple with its brackets."""
    return f"({', '.join(items)}{',' if len(items) == 1 else ''})"


def unpacked(items: Sequence[str]) -> str:
    """The left side of an assignment that takes a tuple apart."""
    return f"({items[0]},)" if len(items) == 1 else ", ".join(items)


def definition(name: str, parameters: Sequence[str]) -> list[str]:
    """The `def` line, or one line a parameter."""
    line = f"def {name}({', '.join(parameters)}):"
    if len(line) <= 88:
        return [line]
    return [f"def {name}(", *(f"    {p}," for p in parameters), "):"]


def call(target: str, function: str, arguments: Sequence[str]) -> list[str]:
    """`target = function(arguments)`, or one line an argument; no target, no assignment."""
    start = f"{target} = {function}(" if target else f"{function}("
    line = f"{start}{', '.join(arguments)})"
    if len(line) <= 84:
        return [line]
    return [start, *(f"    {a}," for a in arguments), ")"]
