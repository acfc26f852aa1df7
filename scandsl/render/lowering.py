"""A recurrence as one plain step: lags become carried parts, the work is cut into three stages.

In: a `Recurrence` without `Grad`.  Out: `Lowered` (one step: parts in, parts and outputs out) and
`Stages` (what is constant, what all tokens can compute at once, what has to run in the loop).

A lag of depth n becomes n parts that hand their value on: entry 1 takes the value of this step,
entry j + 1 the previous value of entry j.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from scandsl.ir.builder import Builder
from scandsl.ir.nodes import (
    Binary,
    Const,
    Dim,
    Dims,
    Every,
    Input,
    Kind,
    Lag,
    LagState,
    Load,
    Memory,
    Param,
    Prev,
    Recurrence,
    Ref,
    Scalar,
    Size,
    Time,
    Unary,
    Value,
    Where,
    made_of,
    memories,
    operands,
)
from scandsl.ir.rewrite import with_operands


@dataclass(frozen=True, slots=True)
class Part:
    """One carried tensor `[N, H, *dims]`, dims in canonical order."""

    name: str
    dims: Dims
    kind: Kind
    prev: Ref  # its `Prev` leaf
    next: Ref

    @property
    def smooth(self) -> bool:
        """Whether it has a gradient."""
        return self.kind in (Kind.REAL, Kind.COMPLEX)


@dataclass(frozen=True, slots=True)
class Lowered:
    """One step without lags.  `outputs` lists the value of each output of the recurrence.

    `behind` are the values that some `where`, of this step or of the next, may leave out.
    """

    recurrence: Recurrence
    dims: tuple[Dim, ...]
    values: tuple[Value, ...]
    parts: tuple[Part, ...]
    outputs: tuple[Ref, ...]
    behind: frozenset[Ref]


class _PartNames:
    """Names for the entries of memories: `<memory>_<entry>`, away from all other names."""

    def __init__(self, recurrence: Recurrence) -> None:
        self.taken = {*recurrence.arguments, *(s.name for s in recurrence.states)}
        self.taken |= {x.name for x in recurrence.scalars} | {x.name for x in recurrence.outputs}

    def of(self, memory: Memory, entry: int) -> str:
        """The part that holds what a memory's target was `entry` steps ago."""
        name = f"{memory.name}_{entry}"
        while name in self.taken:
            name += "_"
        return name


def lower(recurrence: Recurrence) -> Lowered:
    """Replace lags by parts of their own."""
    kept = memories(recurrence)
    order = Builder(recurrence.dims)
    names = _PartNames(recurrence)
    values = [_without_lag(v, kept, names) for v in recurrence.values]
    builder = Builder(recurrence.dims)
    builder.values = values  # refs stay; only leaves are added below

    def leaf(name: str, dims: Dims, kind: Kind) -> Ref:
        for ref, value in enumerate(builder.values):
            if value.op == Prev(name):
                return ref
        builder.values.append(Value(Prev(name), dims, kind, True))
        return len(builder.values) - 1

    def fitted(ref: Ref, dims: Dims, kind: Kind) -> Ref:
        return builder.expand(builder.cast(ref, kind), dims)

    parts: list[Part] = []
    for state in recurrence.states:
        dims = order.sort(state.dims)
        prev = leaf(state.name, dims, state.kind)
        parts.append(Part(state.name, dims, state.kind, prev, fitted(state.next, dims, state.kind)))
    ends = {p.name: p.next for p in parts}
    for memory in kept:
        dims = order.sort(memory.dims)
        newest = ends[memory.state] if memory.state is not None else memory.value
        assert newest is not None
        for entry in range(1, memory.depth + 1):
            name = names.of(memory, entry)
            prev = leaf(name, dims, memory.kind)
            parts.append(Part(name, dims, memory.kind, prev, newest))
            newest = prev
    outputs = tuple(builder.cast(o.value, o.kind) for o in recurrence.outputs)
    outputs = tuple(
        builder.expand(r, o.dims) for r, o in zip(outputs, recurrence.outputs, strict=True)
    )
    behind = _behind(builder.values, parts)
    return Lowered(
        recurrence, recurrence.dims, tuple(builder.values), tuple(parts), outputs, behind
    )


def _without_lag(value: Value, kept: Sequence[Memory], names: _PartNames) -> Value:
    match value.op:
        case Lag(x, n):
            memory = next(m for m in kept if m.value == x and m.state is None)
            return replace(value, op=Prev(names.of(memory, n)))
        case LagState(state, n):
            memory = next(m for m in kept if m.state == state)
            return replace(value, op=Prev(names.of(memory, n)))
        case _:
            return value


def _behind(values: Sequence[Value], parts: Sequence[Part]) -> frozenset[Ref]:
    """Values that a `where` may leave out, through the parts of the next step too."""
    behind: set[Ref] = set()
    size = -1
    while len(behind) != size:
        size = len(behind)
        for ref in range(len(values) - 1, -1, -1):
            op = values[ref].op
            if isinstance(op, Where):
                behind.update((op.a, op.b))
            if ref in behind:
                behind.update(operands(op))
        behind.update(p.next for p in parts if p.prev in behind)
    return frozenset(behind)


# ---------------------------------------------------------------- stages


@dataclass(frozen=True, slots=True)
class Stage:
    """A program of its own: leaves by name, results by name, both in order.

    `leaves` maps a name to its ref; a leaf is a `Load` of that name, or an input, param or part.
    """

    dims: tuple[Dim, ...]
    values: tuple[Value, ...]
    leaves: tuple[tuple[str, Ref], ...]
    results: tuple[tuple[str, Ref], ...]
    behind: frozenset[Ref]
    whole: frozenset[str] = frozenset()  # leaves that have every batch element and head

    @property
    def trivial(self) -> bool:
        """Whether every result is a leaf."""
        leaves = {ref for _, ref in self.leaves}
        return all(ref in leaves for _, ref in self.results)


@dataclass(frozen=True, slots=True)
class Stages:
    """`constants` once per call, `maps` for all tokens at once, `step` token after token.

    `token` and `fixed` name the results of `maps` and of `constants` that the step reads (in the
    order of its arguments); `early` maps an output's place to the result of `maps` that it is.
    """

    constants: Stage
    maps: Stage
    step: Stage
    token: tuple[str, ...]
    fixed: tuple[str, ...]
    early: tuple[tuple[int, str], ...]
    smooth_token: tuple[str, ...]
    smooth_fixed: tuple[str, ...]


class _Cutter:
    """Assigns each value to a stage and names what goes from one to the next."""

    def __init__(self, lowered: Lowered, loop: bool = True, bare: bool = False) -> None:
        self.lowered = lowered
        self.loop = loop
        self.bare = bare
        self.values = lowered.values
        self.static = {d.name for d in lowered.dims if d.size is not None}
        self.input_dims = [set(v.dims) for v in self.values if isinstance(v.op, Input)]
        self.inline = self._inline()
        self.early = self._early()
        self.names: dict[Ref, str] = {}
        self.taken: set[str] = {
            "t",
            *lowered.recurrence.arguments,
            *(p.name for p in lowered.parts),
            *(s.name for s in lowered.recurrence.scalars),
        }

    def _inline(self) -> list[bool]:
        """Numbers: cheap enough to be written again wherever they are used."""
        out = [False] * len(self.values)
        for ref, value in enumerate(self.values):
            if value.dims or value.varies:
                continue
            if isinstance(value.op, Const | Size | Scalar):
                out[ref] = True
            elif not isinstance(value.op, Param):
                inner = operands(value.op)
                out[ref] = bool(inner) and all(r < ref and out[r] for r in inner)
        return out

    def _early(self) -> list[bool]:
        """Values that vary, do not look at the carried parts, and are small enough to keep."""
        out = [False] * len(self.values)
        for ref, value in enumerate(self.values):
            if not value.varies:
                continue
            if isinstance(value.op, Input | Time | Every):
                out[ref] = True
            elif not self.bare and not isinstance(value.op, Prev | Load):
                inner = [r for r in operands(value.op) if self.values[r].varies]
                out[ref] = bool(inner) and all(r < ref and out[r] for r in inner)
                out[ref] = out[ref] and self._small(value.dims)
        return out

    def _small(self, dims: Dims) -> bool:
        open_ = set(dims) - self.static
        return not self.loop or len(open_) <= 1 or any(open_ <= have for have in self.input_dims)

    def place(self, ref: Ref) -> str:
        """The stage that computes a value."""
        if self.inline[ref]:
            return "inline"
        if not self.values[ref].varies:
            return "constants"
        return "maps" if self.early[ref] else "step"

    def moving(self, ref: Ref) -> bool:
        """Whether a value depends on an input or a carried part."""
        reached = made_of(self.values, [ref])
        return any(isinstance(self.values[r].op, Input | Prev) for r in reached)

    def graded(self, ref: Ref) -> bool:
        """Whether a gradient can flow through a value to a tensor argument."""
        if self.values[ref].kind not in (Kind.REAL, Kind.COMPLEX):
            return False
        reached = made_of(self.values, [ref])
        return any(isinstance(self.values[r].op, Input | Param) for r in reached)

    def name_of(self, ref: Ref) -> str:
        """The name under which a value goes to another stage."""
        if ref not in self.names:
            op = self.values[ref].op
            if isinstance(op, Input | Param):
                name = op.name
            elif isinstance(op, Time):
                name = "t"
            else:
                name = _fresh(self.values[ref].name or _wish(self.values, ref), self.taken)
            self.taken.add(name)
            self.names[ref] = name
        return self.names[ref]

    def frontier(self, roots: Iterable[Ref], stage: str) -> list[Ref]:
        """Values of earlier stages that a stage reads on the way to `roots`, in order."""
        found: set[Ref] = set()
        seen: set[Ref] = set()
        stack = list(roots)
        while stack:
            ref = stack.pop()
            if ref in seen:
                continue
            seen.add(ref)
            place = self.place(ref)
            if place in (stage, "inline"):
                stack.extend(operands(self.values[ref].op))
            else:
                found.add(ref)
        return sorted(found)

    def extract(
        self, roots: Sequence[tuple[str, Ref]], cut: Mapping[Ref, str], whole: Iterable[str] = ()
    ) -> Stage:
        """The program between `cut` and `roots`."""
        builder = Builder(self.lowered.dims)
        needed: set[Ref] = set()
        stack = [ref for _, ref in roots]
        while stack:
            ref = stack.pop()
            if ref not in needed:
                needed.add(ref)
                if ref not in cut:
                    stack.extend(operands(self.values[ref].op))
        new: dict[Ref, Ref] = {}
        for ref in sorted(needed | set(cut)):
            value = self.values[ref]
            if ref in cut:
                load = Load(cut[ref])
                new[ref] = builder.emit(
                    load, value.dims, value.kind, None, value.span, value.varies
                )
                continue
            op = with_operands(value.op, [new[r] for r in operands(value.op)])
            new[ref] = builder.emit(
                op, value.dims, value.kind, value.name, value.span, value.varies
            )
        behind = frozenset(new[r] for r in self.lowered.behind if r in new)
        return Stage(
            tuple(builder.dims),
            tuple(builder.values),
            tuple((name, new[ref]) for ref, name in cut.items()),
            tuple((name, new[ref]) for name, ref in roots),
            behind,
            frozenset(whole),
        )


def _wish(values: Sequence[Value], ref: Ref) -> str:
    """A telling name for a value without one: `exp_g` for `exp(g)`."""
    op = values[ref].op
    inner = [values[r] for r in operands(op)]
    known = [v.op.name if isinstance(v.op, Input | Param) else v.name for v in inner]
    kind = op.fn if isinstance(op, Unary | Binary) else type(op).__name__.lower()
    named = [name for name in known if name]
    return "_".join([kind, *named[:1]])


def _fresh(wish: str, taken: set[str]) -> str:
    name, count = wish, 1
    while name in taken:
        count += 1
        name = f"{wish}_{count}"
    return name


def cut_stages(lowered: Lowered, loop: bool = True, bare: bool = False) -> Stages:
    """Cut one step into the three stages; without a loop nothing is left for the last.

    A `bare` step takes inputs as they are: nothing is mapped before.
    """
    cutter = _Cutter(lowered, loop, bare)
    late = [(i, r) for i, r in enumerate(lowered.outputs) if cutter.place(r) == "step"]
    rest = [(i, r) for i, r in enumerate(lowered.outputs) if cutter.place(r) != "step"]
    names = [o.name for o in lowered.recurrence.outputs]
    step_roots = [(f"output {names[i]}", r) for i, r in late]
    step_roots += [(f"next {p.name}", p.next) for p in lowered.parts]
    prev = {p.prev: p.name for p in lowered.parts}
    frontier = [r for r in cutter.frontier([r for _, r in step_roots], "step") if r not in prev]
    token = [r for r in frontier if cutter.place(r) == "maps"]
    fixed = [r for r in frontier if cutter.place(r) == "constants"]
    wanted = dict.fromkeys([*token, *(r for _, r in rest)])
    direct = (Input, Param, Time)  # these go from the call to where they are used
    map_roots = [r for r in wanted if not isinstance(lowered.values[r].op, direct)]
    map_frontier = cutter.frontier(map_roots, "maps")
    leaves = _leaves(cutter, map_roots, lowered)  # the position keeps the name `t`
    constants = [
        r
        for r in dict.fromkeys([*fixed, *map_frontier])
        if not isinstance(lowered.values[r].op, direct)
    ]
    params = {
        r: op.name
        for r, op in ((r, v.op) for r, v in enumerate(lowered.values))
        if isinstance(op, Param)
    }
    params = {r: n for r, n in params.items() if r in made_of(lowered.values, constants)}
    return Stages(
        constants=cutter.extract([(cutter.name_of(r), r) for r in constants], params),
        maps=cutter.extract(
            [(cutter.name_of(r), r) for r in map_roots],
            leaves | {r: cutter.name_of(r) for r in map_frontier},
        ),
        step=cutter.extract(
            step_roots,
            {r: cutter.name_of(r) for r in [*token, *fixed]} | prev,
            [*prev.values(), *(cutter.name_of(r) for r in token if cutter.moving(r))],
        ),
        token=tuple(dict.fromkeys(cutter.name_of(r) for r in token)),
        fixed=tuple(dict.fromkeys(cutter.name_of(r) for r in fixed)),
        early=tuple((i, cutter.name_of(r)) for i, r in rest),
        smooth_token=tuple(dict.fromkeys(cutter.name_of(r) for r in token if cutter.graded(r))),
        smooth_fixed=tuple(dict.fromkeys(cutter.name_of(r) for r in fixed if cutter.graded(r))),
    )


def whole_step(lowered: Lowered) -> Stage:
    """The step in one piece: inputs, params and parts to outputs and parts."""
    cutter = _Cutter(lowered)
    names = [o.name for o in lowered.recurrence.outputs]
    roots = [(f"output {names[i]}", r) for i, r in enumerate(lowered.outputs)]
    roots += [(f"next {p.name}", p.next) for p in lowered.parts]
    cut: dict[Ref, str] = {}
    for name in lowered.recurrence.arguments:
        cut |= {
            r: name
            for r, v in enumerate(lowered.values)
            if isinstance(v.op, Input | Param) and v.op.name == name
        }
    cut |= {p.prev: p.name for p in lowered.parts}
    inputs = [x.name for x in lowered.recurrence.inputs]
    stage = cutter.extract(roots, cut, [*inputs, *(p.name for p in lowered.parts)])
    return _with_all_arguments(stage, lowered.recurrence)


def _with_all_arguments(stage: Stage, recurrence: Recurrence) -> Stage:
    """The stage with a leaf for every argument, in their order: callers hand all of them over."""
    declared = {x.name: x for x in (*recurrence.inputs, *recurrence.params)}
    varying = {x.name for x in recurrence.inputs}
    values, found = list(stage.values), dict(stage.leaves)
    for name in recurrence.arguments:
        if name not in found:  # the step reads nothing of it
            found[name] = len(values)
            x = declared[name]
            values.append(Value(Load(name), x.dims, x.kind, name in varying))
    order = dict.fromkeys((*recurrence.arguments, *found))
    return replace(stage, values=tuple(values), leaves=tuple((n, found[n]) for n in order))


def initial_values(lowered: Lowered) -> tuple[tuple[str, ...], Stage]:
    """The states that do not start at zero, and the program of their initial values."""
    cutter = _Cutter(lowered)
    builder = Builder(lowered.dims)
    builder.values = list(lowered.values)
    roots = []
    for state in lowered.recurrence.states:
        if builder.constant_of(state.init) != 0:
            cast = builder.cast(state.init, state.kind)
            roots.append((state.name, builder.expand(cast, state.dims)))
    cutter.values = tuple(builder.values)
    params = {r: v.op.name for r, v in enumerate(cutter.values) if isinstance(v.op, Param)}
    reached = made_of(cutter.values, [r for _, r in roots])
    params = {r: name for r, name in params.items() if r in reached}
    return tuple(name for name, _ in roots), cutter.extract(roots, params)


def _leaves(cutter: _Cutter, roots: Iterable[Ref], lowered: Lowered) -> dict[Ref, str]:
    """Inputs and the position, as far as the maps read them."""
    reached = made_of(lowered.values, list(roots))
    return {
        ref: cutter.name_of(ref)
        for ref, value in enumerate(lowered.values)
        if ref in reached and isinstance(value.op, Input | Time)
    }
