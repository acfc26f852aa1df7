"""What every form of a scan needs to know to be printed: names, tables, and the stages of its step.

In: a `Recurrence` without `Grad`.  Out: a `ScanNames` and small pieces of text about declarations.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from scandsl.ir.nodes import (
    Dim,
    Dims,
    Kind,
    Memory,
    Output,
    Param,
    Recurrence,
    State,
    Tensor,
    memories,
    uses_time,
)
from scandsl.render.names import (
    PUBLIC_LOCALS,
    Names,
    PublicNames,
    argument_name,
    identifier,
    inner_names,
)


@dataclass(frozen=True, slots=True)
class StatePart:
    """A part of the state tuple: a state, a memory (`depth` > 0), or the position."""

    name: str
    python: str
    dims: Dims
    kind: str
    depth: int = 0
    of: str = ""  # for a memory of a state: that state

    @property
    def smooth(self) -> bool:
        """Whether it has a gradient."""
        return self.kind in ("real", "complex")


@dataclass(frozen=True, slots=True)
class ScanNames:
    """The Python names of one scan.

    `public` is the function's name, `private` the stem of its helpers, `table` its constant.
    `arguments` and `scalars` map declared names to those of the signature, `inner` everything that
    is declared to names for the private functions.
    """

    recurrence: Recurrence
    public: str
    private: str
    camel: str
    table: str
    arguments: dict[str, str]
    scalars: dict[str, str]
    inner: dict[str, str]
    state: tuple[StatePart, ...]
    module: PublicNames = field(compare=False)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """Inputs and params in the order of the arguments."""
        found = {t.name: t for t in (*self.recurrence.inputs, *self.recurrence.params)}
        return tuple(found[name] for name in self.recurrence.arguments)

    def is_input(self, name: str) -> bool:
        """Whether an argument varies in time."""
        return any(t.name == name for t in self.recurrence.inputs)

    @property
    def inner_scalars(self) -> dict[str, str]:
        """The scalars inside of private functions."""
        return {name: self.inner[name] for name in self.scalars}


def scan_names(recurrence: Recurrence, module: PublicNames | None = None) -> ScanNames:
    """Choose the names of a scan, beside those of the other scans of its module."""
    module = module or PublicNames()
    public = module.function(recurrence.name)
    stem = module.stem(public)
    own = (public, f"{public}_step", f"{public}_reference")
    arguments = _unique(recurrence.arguments, own)
    scalars = [s.name for s in recurrence.scalars]
    declared = [*recurrence.arguments, *scalars, *(s.name for s in recurrence.states)]
    declared += [o.name for o in recurrence.outputs]
    return ScanNames(
        recurrence,
        public,
        stem,
        module.type(recurrence.name),
        module.table(stem),
        arguments,
        _unique(scalars, (*own, *arguments.values(), *PUBLIC_LOCALS)),
        inner_names(dict.fromkeys(declared)),
        state_parts(recurrence),
        module,
    )


def _unique(names: Iterable[str], taken: Iterable[str]) -> dict[str, str]:
    """Names for a signature: as they are declared, unless that cannot be."""
    used = set(taken)
    out = {}
    for name in names:
        python = argument_name(name)
        while python in used:
            python += "_"
        used.add(python)
        out[name] = python
    return out


def state_parts(recurrence: Recurrence) -> tuple[StatePart, ...]:
    """The parts of the state tuple, in order."""
    names = Names({"count", "index"})  # methods of tuples

    def part(x: State | Memory, depth: int) -> StatePart:
        wish = identifier(x.name).lstrip("_") or "state"
        of = x.state or "" if isinstance(x, Memory) else ""
        return StatePart(x.name, names.fresh(wish), x.dims, x.kind.value, depth, of)

    out = [part(s, 0) for s in recurrence.states]
    out += [part(m, m.depth) for m in memories(recurrence)]
    if uses_time(recurrence):
        out.append(StatePart("t", names.fresh("t"), (), "time"))
    return tuple(out)


def base_names(dims: tuple[Dim, ...]) -> dict[str, str]:
    """Each dimension's base: `K` for `K'`."""
    return {d.name: d.base or d.name for d in dims}


def canonical(recurrence: Recurrence, dims: Dims) -> Dims:
    """Dimensions in the order of the recurrence."""
    order = {d.name: i for i, d in enumerate(recurrence.dims)}
    return tuple(sorted(dims, key=order.__getitem__))


def axis_order(recurrence: Recurrence, dims: Dims) -> tuple[int, ...] | None:
    """Trailing axes of a declared tensor in canonical order, or `None` if they are in it."""
    want = canonical(recurrence, dims)
    if want == dims:
        return None
    return tuple(dims.index(d) - len(dims) for d in want)


def used_params(recurrence: Recurrence) -> frozenset[str]:
    """Params that some value reads."""
    return frozenset(v.op.name for v in recurrence.values if isinstance(v.op, Param))


def output_kind(output: Output) -> str:
    """The kind of an output as the runtime names it."""
    return output.kind.value


def is_smooth(kind: Kind) -> bool:
    """Whether values of a kind have gradients."""
    return kind in (Kind.REAL, Kind.COMPLEX)
