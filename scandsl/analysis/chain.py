"""Orders the components of a step into stages, and decides which values go between them.

In: a `Program` whose components have their forms.  Out: the same as a chain of stages, or in one
piece where one stage is all there is or a cut is not possible.  The stages themselves are made by
`scandsl.analysis.extract`.

The level of a value is the stage whose states or lags it looks at last; values of level 0 look at
inputs only, and every stage that needs one computes it again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from scandsl.analysis.cut import NEVER, cheapest
from scandsl.analysis.extract import Piece, extracted, taken
from scandsl.analysis.forms import CHUNKS, is_fold
from scandsl.analysis.graph import Graph, dependency_graph, strongly_connected, tied
from scandsl.analysis.handed import Sizes
from scandsl.analysis.invariant import Linear, System, system_of
from scandsl.analysis.program import (
    Component,
    Form,
    Probe,
    Program,
    Read,
    Refusal,
    Transition,
)
from scandsl.analysis.show import show
from scandsl.ir.nodes import (
    Input,
    Kind,
    Lag,
    LagState,
    Memory,
    Output,
    Prev,
    Recurrence,
    Ref,
    memories,
    operands,
)

_ORDER = (Form.CONVOLUTION, Form.INVARIANT, Form.SCAN, Form.SEQUENTIAL, Form.CHUNK)


@dataclass(frozen=True, slots=True)
class _Unit:
    """Nodes of the dependency graph that stay together, and the nodes they need beforehand."""

    mask: int
    needs: int
    form: Form
    components: tuple[int, ...]
    folds: bool = False  # a state of another algebra, which no other of its stage looks at


@dataclass(frozen=True, slots=True)
class _Fault:
    """Why a program is no chain."""

    reason: str
    culprit: Ref | None = None


def chained(program: Program) -> Program:
    """The program as a chain of stages, if it is one."""
    if _is_one_stage(program):
        return program
    found = _Cutter(program).run()
    if isinstance(found, Program):
        return found
    plain = _without_systems(program, found)
    if plain is not None:
        return separated(plain) or chained(plain)
    return _in_one_piece(program, found)


def separated(program: Program) -> Program | None:
    """The same with a stage of its own for states that move entry by entry, if there is a cut."""
    if _is_one_stage(program) and len({c.form for c in program.components}) == 1:
        return program
    found = _Cutter(program, apart=True).run()
    return found if isinstance(found, Program) else None


def _is_one_stage(program: Program) -> bool:
    """Whether all of a program is one stage of chunks."""
    complex_ = any(v.kind is Kind.COMPLEX for v in program.recurrence.values)
    return program.form is Form.CHUNK and (not complex_ or _holds_complex(program))


def _without_systems(program: Program, fault: _Fault) -> Program | None:
    """The program with its time-invariant systems in the loop over tokens, if it has any."""
    if all(c.form is not Form.CONVOLUTION for c in program.components):
        return None
    components = tuple(
        replace(
            c,
            form=Form.SEQUENTIAL,
            reason=fault.reason,
            culprit=fault.culprit,
            refused=(*c.refused, Refusal(Form.CONVOLUTION, fault.reason, fault.culprit)),
        )
        if c.form is Form.CONVOLUTION
        else c
        for c in program.components
    )
    reason = f"a component is sequential ({fault.reason})"
    return replace(program, components=components, reason=reason)


def _holds_complex(program: Program) -> bool:
    """Whether some state that is carried out in chunks is complex: then so may all values be."""
    own = {s for c in program.components if c.form in CHUNKS for s in c.states}
    return any(s.name in own and s.kind is Kind.COMPLEX for s in program.recurrence.states)


def _in_one_piece(program: Program, fault: _Fault) -> Program:
    """Every component in the loop over tokens."""
    components = tuple(
        c
        if c.form is Form.SEQUENTIAL
        else replace(
            c,
            form=Form.SEQUENTIAL,
            reason=fault.reason,
            culprit=fault.culprit,
            refused=(Refusal(Form.CHUNK, fault.reason, fault.culprit),),
        )
        for c in program.components
    )
    reason = fault.reason if program.form is Form.CHUNK else program.reason or fault.reason
    return replace(program, components=components, form=Form.SEQUENTIAL, reason=reason)


class _Cutter:
    """Cuts a program; `apart` tells whether states of the two forms of chunks go to own stages."""

    def __init__(self, program: Program, apart: bool = False) -> None:
        self.program = program
        self.matrices = (Form.CHUNK,) if apart else CHUNKS
        self.recurrence: Recurrence = program.recurrence
        self.values = program.recurrence.values
        self.graph: Graph = dependency_graph(self.recurrence)
        self.memories: tuple[Memory, ...] = memories(self.recurrence)
        self.sizes = Sizes(self.recurrence)
        self.bit = {name: 1 << i for i, name in enumerate(self.graph.names)}
        self.systems: dict[int, System] = {}
        self.results = {
            e.result
            for c in program.components
            if c.form in self.matrices
            for e in c.events
            if isinstance(e, Probe | Read)
        }

    def run(self) -> Program | _Fault:
        """The chain, or why there is none."""
        units = self._units()
        plan = _shortest(units)
        if plan is None:
            return self._tangled(units)
        plan = _mapped(plan)
        self.systems = self._systems(plan)
        if [form for form, _ in plan] == [Form.SEQUENTIAL]:
            return _Fault(self.program.reason)
        real = not any(v.kind is Kind.COMPLEX for v in self.values)
        if real and [form for form, _ in plan] == [Form.SCAN]:
            reason = "every component is carried out entry by entry"
            return replace(self.program, form=Form.SCAN, reason=reason)
        self.level = self._levels(plan)
        pieces = self._pieces(plan)
        if isinstance(pieces, _Fault):
            return pieces
        return self._finished(plan, units, pieces)

    # ------------------------------------------------------------ units

    def _units(self) -> list[_Unit]:
        """States and what goes with them, and lags of what is known beforehand, in order."""
        place = {s: i for i, c in enumerate(self.program.components) for s in c.states}
        place |= {m: i for i, c in enumerate(self.program.components) for m in c.memories}
        count = len(self.recurrence.states)
        kept = {count + i: m for i, m in enumerate(self.memories)}
        follower = {node: self.bit[m.state] for node, m in kept.items() if m.state is not None}
        masks: list[int] = []
        together = [c.states for c in self.program.components]
        for part in strongly_connected(tied(self.graph.feeds, self.graph.names, together)):
            mask = sum(1 << node for node in part)
            home = next((i for i, m in enumerate(masks) if m & follower.get(part[0], 0)), None)
            if len(part) == 1 and home is not None:  # a state's past stays with the state
                masks[home] |= mask
            else:
                masks.append(mask)
        names = self.graph.names
        units = []
        for mask in masks:
            nodes = [i for i in range(len(names)) if mask >> i & 1]
            component = next((place[names[i]] for i in nodes if names[i] in place), None)
            needs = self._needs(nodes, component) & ~mask
            own = () if component is None else (component,)
            folds = component is not None and is_fold(self.program.components[component])
            units.append(_Unit(mask, needs, self._form(nodes, component), own, folds))
        return _joined(units)

    def _needs(self, nodes: Sequence[int], component: int | None) -> int:
        mask = 0
        for node in nodes:
            mask |= self.graph.feeds[node]
        if component is not None and self.program.components[component].form in CHUNKS:
            for ref in taken(self.program.components[component].events):
                mask |= self.graph.looks[ref]
        return mask

    def _form(self, nodes: Sequence[int], component: int | None) -> Form:
        if component is not None:
            found = self.program.components[component]
            if found.form is Form.CONVOLUTION:
                return Form.INVARIANT
            return Form.CHUNK if found.form in self.matrices and not is_fold(found) else found.form
        memory = self.memories[nodes[0] - len(self.recurrence.states)]
        smooth = memory.kind in (Kind.REAL, Kind.COMPLEX)
        return Form.CONVOLUTION if smooth else Form.SEQUENTIAL

    def _tangled(self, units: Sequence[_Unit]) -> _Fault:
        """A read that waits for what is computed from its own state."""
        for unit in units:
            if unit.form not in CHUNKS:
                continue
            events = [e for i in unit.components for e in self.program.components[i].events]
            for event in events:
                q = event.q if isinstance(event, Read) else None
                if q is not None and self.graph.looks[q] & ~unit.mask:
                    text = show(self.values, q)
                    return _Fault(f"`{text}` depends on a state that is computed later", q)
        return _Fault("its components wait for each other")

    # ------------------------------------------------------------ levels and cuts

    def _systems(self, plan: Sequence[tuple[Form, int]]) -> dict[int, System]:
        """The time-invariant systems, by the level of their stage."""
        out: dict[int, System] = {}
        for place, (form, mask) in enumerate(plan):
            for component in self.program.components if form is Form.INVARIANT else ():
                if any(mask & self.bit[n] for n in (*component.states, *component.memories)):
                    found = system_of(self.recurrence, component)
                    assert isinstance(found, System)
                    out[place + 1] = found
        return out

    def _levels(self, plan: Sequence[tuple[Form, int]]) -> list[int]:
        """The stage of each value; what is no linear function of a system is mapped behind it."""
        out = []
        for ref, looks in enumerate(self.graph.looks):
            seen = [i + 1 for i, (_, mask) in enumerate(plan) if looks & mask]
            level = max(seen, default=0)
            system = self.systems.get(level)
            behind = system is not None and system.linear[ref] is Linear.OTHER
            out.append(level + 1 if behind else level)
        return out

    def _node_level(self, plan: Sequence[tuple[Form, int]], name: str) -> int:
        return next(i + 1 for i, (_, mask) in enumerate(plan) if mask & self.bit[name])

    def _pieces(self, plan: Sequence[tuple[Form, int]]) -> list[Piece] | _Fault:
        """What every stage carries, hands on and computes."""
        roots = self._roots(plan)
        outputs = [o.value for o in self.recurrence.outputs]
        for output in self.recurrence.outputs:
            if output.kind is Kind.COMPLEX and self.level[output.value] in self.systems:
                text = show(self.values, output.value)
                return _Fault(f"`{text}` is a complex output", output.value)
        live = self._live([*outputs, *(r for found in roots for r in found)])
        forced = self._forced(plan)
        real = not _holds_complex(self.program)
        if real and any(form in CHUNKS for form, _ in plan):
            forced[0] |= {r for r in live if not self.level[r] and self._leaves_complex(r)}
        for ref in sorted(live):
            level = self.level[ref]
            if real and level and plan[level - 1][0] in CHUNKS and self._is_complex(ref):
                return _Fault(f"`{show(self.values, ref)}` is complex; chunks are real", ref)
        pieces = []
        for level, (form, mask) in enumerate([(Form.MAP, 0), *plan]):
            later = {r for found in roots[level + 1 :] for r in found}
            cut = self._cut(level, live, later, forced[level])
            if cut is None:
                return self._too_large(level, live)
            own = tuple(s for s in self.recurrence.states if mask & self.bit[s.name])
            kept = tuple(m for m in self.memories if mask & self.bit[m.name])
            passed = tuple(sorted({*cut, *forced[level]}))
            pieces.append(Piece(form, own, kept, passed, self._outputs(level, len(plan))))
        return pieces

    def _outputs(self, level: int, last: int) -> tuple[Output, ...]:
        """Outputs of a stage; the last has those of inputs only, complex ones the first map."""
        out = []
        for output in self.recurrence.outputs:
            home = self.level[output.value] or last
            if home == last and not self.level[output.value] and output.kind is Kind.COMPLEX:
                home = 0
            if home == level:
                out.append(output)
        return tuple(out)

    def _is_complex(self, ref: Ref) -> bool:
        return self.values[ref].kind is Kind.COMPLEX

    def _leaves_complex(self, ref: Ref) -> bool:
        """Whether a value is real and made of complex ones."""
        inner = operands(self.values[ref].op)
        return not self._is_complex(ref) and any(self._is_complex(r) for r in inner)

    def _roots(self, plan: Sequence[tuple[Form, int]]) -> list[list[Ref]]:
        """What each stage computes for its own states."""
        out: list[list[Ref]] = [[] for _ in range(len(plan) + 1)]
        chunked = {s: c for c in self.program.components if c.form in CHUNKS for s in c.states}
        for state in self.recurrence.states:
            level = self._node_level(plan, state.name)
            if state.name in chunked:
                out[level] += taken(chunked[state.name].events)
            if plan[level - 1][0] is not Form.CHUNK:
                out[level].append(state.next)
        for memory in self.memories:
            if memory.value is not None:
                out[self._node_level(plan, memory.name)].append(memory.value)
        return out

    def _live(self, roots: Sequence[Ref]) -> set[Ref]:
        live: set[Ref] = set()
        stack = list(roots)
        while stack:
            ref = stack.pop()
            if ref not in live:
                live.add(ref)
                stack += self._made_of(ref)
        return live

    def _made_of(self, ref: Ref) -> tuple[Ref, ...]:
        """The operands that a value is computed from in its stage."""
        op = self.values[ref].op
        return () if ref in self.results or isinstance(op, Lag) else operands(op)

    def _forced(self, plan: Sequence[tuple[Form, int]]) -> list[set[Ref]]:
        """Values that a later stage looks back at: they have to be there for every token."""
        out: list[set[Ref]] = [set() for _ in range(len(plan) + 1)]
        for memory in self.memories:
            if memory.value is None or isinstance(self.values[memory.value].op, Input):
                continue
            level = self._node_level(plan, memory.name)
            if plan[level - 1][0] is Form.CONVOLUTION:
                out[self.level[memory.value]].add(memory.value)
        for system in self.systems.values():
            for ref in system.drives:
                if not isinstance(self.values[ref].op, Input):
                    out[self.level[ref]].add(ref)
        return out

    def _cut(
        self, level: int, live: set[Ref], later: set[Ref], forced: set[Ref]
    ) -> tuple[Ref, ...] | None:
        """The values that a stage hands on, beside the forced ones; `later` are roots behind it."""
        if level == 0:
            return ()
        own = {r for r in live if self.level[r] == level}
        ends = later & own
        for ref in live:
            if self.level[ref] > level:
                ends |= {x for x in self._made_of(ref) if x in own}
        uses = {r: [x for x in self._made_of(r) if x in own] for r in own}
        sources = {r for r in own if self._is_source(r)}
        sizes = {r: 0 if r in forced else self.sizes.of(r) for r in own}
        return cheapest(uses, sizes, sources, ends)

    def _is_source(self, ref: Ref) -> bool:
        return ref in self.results or isinstance(self.values[ref].op, Prev | Lag | LagState)

    def _too_large(self, level: int, live: set[Ref]) -> _Fault:
        large = [r for r in sorted(live) if self.level[r] == level and self.sizes.of(r) >= NEVER]
        text = show(self.values, large[-1])
        return _Fault(f"`{text}` would have to be kept for every token", large[-1])

    # ------------------------------------------------------------ the result

    def _finished(
        self, plan: Sequence[tuple[Form, int]], units: Sequence[_Unit], pieces: list[Piece]
    ) -> Program:
        kept = [p for p in pieces if p.states or p.memories or p.passed or p.outputs]
        stages = extracted(self.program, kept, self.results)
        components: list[Component] = []
        for form, mask in plan:
            if form is Form.CONVOLUTION:
                components.append(self._window(mask))
            else:
                places = {i for u in units if u.mask & mask for i in u.components}
                own = enumerate(self.program.components)
                components += [c for i, c in own if i in places]
        words = ", ".join(s.form.value for s in stages)
        reason = f"stages: {words}" if len(stages) > 1 else f"one stage: {words}"
        return replace(
            self.program,
            components=tuple(components),
            form=Form.CHAIN,
            reason=reason,
            stages=stages,
        )

    def _window(self, mask: int) -> Component:
        names = tuple(m.name for m in self.memories if mask & self.bit[m.name])
        return Component(
            states=(),
            transition=Transition.WINDOW,
            events=(),
            contracted=(),
            free=(),
            merged=(),
            form=Form.CONVOLUTION,
            reason="earlier tokens of what is known beforehand: all tokens at once",
            memories=names,
        )


def _joined(units: Sequence[_Unit]) -> list[_Unit]:
    """The units, chunks that read each other's states joined: one chunk holds them all."""
    feeds = tuple(
        sum(1 << i for i, other in enumerate(units) if unit.needs & other.mask) for unit in units
    )
    out: list[_Unit] = []
    for part in strongly_connected(feeds):
        found = [units[i] for i in part]
        (form, *others) = {u.form for u in found}
        if len(found) == 1 or others or form not in CHUNKS:
            out += found
            continue
        mask = sum(u.mask for u in found)
        needs = 0
        for unit in found:
            needs |= unit.needs
        places = tuple(sorted(i for u in found for i in u.components))
        out.append(_Unit(mask, needs & ~mask, form, places))
    return out


def _shortest(units: Sequence[_Unit]) -> list[tuple[Form, int]] | None:
    """The shortest sequence of stages, as pairs of a form and the nodes that it carries out."""
    whole = sum(u.mask for u in units)
    paths: dict[int, list[tuple[Form, int]]] = {0: []}
    queue = [0]
    for done in queue:
        if done == whole:
            return paths[done]
        for form in _ORDER:
            mask = _ready(units, done, form)
            if mask and done | mask not in paths:
                paths[done | mask] = [*paths[done], (form, mask)]
                queue.append(done | mask)
    return None


def _mapped(plan: Sequence[tuple[Form, int]]) -> list[tuple[Form, int]]:
    """The plan with a stage of maps behind each time-invariant system."""
    out: list[tuple[Form, int]] = []
    for form, mask in plan:
        out.append((form, mask))
        if form is Form.INVARIANT:
            out.append((Form.MAP, 0))
    return out


def _ready(units: Sequence[_Unit], done: int, form: Form) -> int:
    """The nodes of a form that can go into one stage.

    Lags and folds wait for what they look at, and what looks at a fold waits for it.
    """
    found, seen = 0, done
    while True:
        more = [
            u
            for u in units
            if u.form is form and not u.mask & (done | found)
            if not u.needs & ~(done if u.folds or form is Form.CONVOLUTION else seen)
        ]
        if form is Form.INVARIANT:  # each system by itself: their matrices stay small
            return more[0].mask if more else 0
        if not more:
            return found
        for unit in more:
            found |= unit.mask
            seen |= 0 if unit.folds else unit.mask
