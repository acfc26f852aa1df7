"""Renders a chain of stages: each in a form of its own, joined by per-token values.

In: a plan whose program has stages.  Out: a `RenderedForm` per backend that calls the stages'
functions: forward in order, backward in reverse order with the cotangents of each value summed.
Stages that the backend cannot print run as tensor operations.

For the backward, values handed on by a stage with a state are kept; those of a stage without are
computed again, in order of time, before the stages are run against it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from scandsl.analysis.forms import is_fold
from scandsl.analysis.program import Decay, Form, Program, Stage
from scandsl.ir.nodes import Input, Kind, Output, Recurrence, Ref, Tensor, operands
from scandsl.plan import Plan
from scandsl.render.form import Handed, RenderedForm, RenderedMove, RenderedSlices
from scandsl.render.functions import FunctionPrinter
from scandsl.render.layout import (
    bracketed,
    docstring,
    indented,
    read_only,
    signature,
    tuple_assigned,
)
from scandsl.render.lowering import Lowered, lower
from scandsl.render.map_form import render_map
from scandsl.render.names import PRIVATE_LOCALS, Names, inner_names
from scandsl.render.scan import ScanNames, StatePart, base_names, is_smooth, state_parts
from scandsl.render.sequential_triton import render_sequential_triton
from scandsl.render.tables import scan_table

_STATEFUL = (Form.CHUNK, Form.INVARIANT, Form.SCAN, Form.SEQUENTIAL)
"""The forms of stages that carry states."""


@dataclass(frozen=True, slots=True)
class _Link:
    """A stage with its names and its forms by backend; `parts` maps its parts to the scan's."""

    stage: Stage
    names: ScanNames
    forms: dict[str, RenderedForm]
    parts: dict[str, str]
    handed: Handed

    @property
    def recurrence(self) -> Recurrence:
        """The recurrence of the stage."""
        return self.stage.program.recurrence

    @property
    def keeps(self) -> bool:
        """Whether what it hands on is kept for the backward."""
        return self.stage.form in _STATEFUL

    def form(self, backend: str) -> RenderedForm:
        """The form for a backend, else the one in tensor operations."""
        return self.forms[backend if backend in self.forms else "torch"]


Renderer: TypeAlias = Callable[
    [Plan, ScanNames, Lowered, FunctionPrinter, Handed | None], tuple[RenderedForm, ...]
]


def chain_forms(
    plan: Plan, names: ScanNames, printer: FunctionPrinter, render: Renderer
) -> tuple[RenderedForm, ...]:
    """The forms of a chain, torch first; `render` gives the forms of a stage with states."""
    links: list[_Link] = []
    cheap: set[str] = set()  # values of stages without states
    given: set[str] = set()
    for number, stage in enumerate(plan.program.stages, 1):
        inputs = {t.name for t in stage.program.recurrence.inputs if t.dims} & given
        handed = Handed(
            passed=frozenset(stage.passed),
            given=frozenset(given),
            wide=frozenset(inputs - (cheap - _in_decays(stage.program))),
        )
        links.append(_link(plan, stage, number, names, printer, handed, render))
        given |= set(stage.passed)
        if stage.form in (Form.MAP, Form.CONVOLUTION):
            cheap |= set(stage.passed)
    return tuple(_Chain(names, tuple(links), b).render() for b in _backends(links))


def hoisted_form(
    plan: Plan, names: ScanNames, printer: FunctionPrinter, handed: Handed | None
) -> RenderedForm:
    """The form for Triton of a chain that is one kernel over time and maps in front and behind.

    `handed` is what goes between it and others where it is a stage of a chain itself.
    """
    links: list[_Link] = []
    outer = frozenset[str]() if handed is None else handed.passed
    given: set[str] = set()
    for number, stage in enumerate(plan.program.stages, 1):
        own = Handed(outer.union(stage.passed), frozenset(given), frozenset(given))
        links.append(_link(plan, stage, number, names, printer, own, _over_time))
        given |= set(stage.passed)
    return _Chain(names, tuple(links), "triton", alone=True, inner=handed is not None).render()


def _over_time(
    plan: Plan,
    names: ScanNames,
    lowered: Lowered,
    printer: FunctionPrinter,
    handed: Handed | None,
) -> tuple[RenderedForm, ...]:
    """The kernel over time alone."""
    del printer
    passed = handed.passed if handed else None
    return (render_sequential_triton(names, lowered, passed, plan.launches),)


def _backends(links: Sequence[_Link]) -> list[str]:
    """Triton too, but not where one kernel over time does it all: a maximum, and no matrices."""
    chunks = [link for link in links if link.stage.form is Form.CHUNK]
    folds = any(is_fold(c) for link in links for c in link.stage.program.components)
    if folds and not any("triton" in link.forms for link in chunks):
        return ["torch"]
    return list(dict.fromkeys(["torch", *(b for link in links for b in link.forms)]))


def _in_decays(program: Program) -> set[str]:
    """The inputs that some decay is computed from: rounding them would grow along a sequence."""
    values = program.recurrence.values
    events = [e for c in program.components for e in c.events if isinstance(e, Decay)]
    stack = [r for e in events for r in (e.factor, e.log) if r is not None]
    seen: set[Ref] = set()
    found = set()
    while stack:
        ref = stack.pop()
        if ref not in seen:
            seen.add(ref)
            op = values[ref].op
            stack += operands(op)
            if isinstance(op, Input):
                found.add(op.name)
    return found


def _link(
    plan: Plan,
    stage: Stage,
    number: int,
    names: ScanNames,
    printer: FunctionPrinter,
    handed: Handed,
    render: Renderer,
) -> _Link:
    recurrence = stage.program.recurrence
    own = _stage_names(recurrence, names, number)
    own_printer = FunctionPrinter(recurrence.dims, own.inner_scalars, printer.note)
    if stage.form in _STATEFUL:
        part = replace(plan, program=stage.program, form=stage.form)
        rendered = render(part, own, lower(recurrence), own_printer, handed)
    else:
        rendered = (render_map(own, recurrence, own_printer, handed.passed),)
    printer.helpers |= own_printer.helpers
    forms = {f.backend: f for f in rendered}
    if stage.form not in (Form.CHUNK, Form.SCAN) and "torch" in forms:
        table = "\n".join(scan_table(own, (), None))
        forms["torch"] = replace(forms["torch"], tables=(table,))
    memory = iter(stage.memories)
    parts = {
        p.name: "t" if p.kind == "time" else next(memory) if p.depth else p.name for p in own.state
    }
    return _Link(stage, own, forms, parts, handed)


def _stage_names(recurrence: Recurrence, names: ScanNames, number: int) -> ScanNames:
    """Names for the functions of a stage, which nobody calls but the chain."""
    declared = [*recurrence.arguments, *(s.name for s in recurrence.scalars)]
    declared += [*(s.name for s in recurrence.states), *(o.name for o in recurrence.outputs)]
    stem = names.module.stem(f"{names.private.strip('_')}_stage{number}")
    return replace(
        names,
        recurrence=recurrence,
        public=f"{names.public}, stage {number}",
        private=stem,
        table=names.module.table(stem),
        arguments={n: n for n in recurrence.arguments},
        inner=inner_names(dict.fromkeys(declared)),
        state=state_parts(recurrence),
    )


@dataclass(slots=True)
class _Chain:
    """The functions of one backend.

    `alone`: no other chain prints its stages in tensor operations.  `inner`: it is a stage itself.
    """

    names: ScanNames
    links: tuple[_Link, ...]
    backend: str
    alone: bool = False
    inner: bool = False
    local: Names = field(init=False)
    start: dict[str, str] = field(init=False)
    value: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        self.local = Names(PRIVATE_LOCALS | {"device", "allow_tf32", "starts", "shares"})
        self.local.reserve(self.names.inner.values())
        self.start = {p.name: self.local.fresh(f"start_{p.python}") for p in self.names.state}
        self.value = {n: self.names.inner[n] for n in self.names.recurrence.arguments}
        for link in self.links:
            for name in link.stage.passed:
                self.value[name] = self.local.fresh(name)

    def render(self) -> RenderedForm:
        """Both functions, after those of the stages."""
        stem = f"{self.names.private}_{self.backend}_chain"
        forward, backward, saved = f"{stem}_forward", f"{stem}_backward", f"{stem}_saved"
        used = [f for link in self.links if (f := self._rendered(link)) is not None]
        kept = [self.local.fresh(f"kept_{self.value[n]}") for n in self._kept_values()]
        kept_by = [
            [self.local.fresh(f"{k}_{i}") for k in link.form(self.backend).saved]
            for i, link in enumerate(self.links, 1)
        ]
        blocks = [f.source.strip("\n") for f in used]
        blocks += ["\n".join(self._forward(forward)), "\n".join(self._saved(saved))]
        blocks.append("\n".join(self._backward(backward, kept, kept_by)))
        tables = tuple(t for f in used for t in f.tables)
        names = tuple(n for group in ([kept], kept_by) for part in group for n in part)
        return RenderedForm(
            self.backend,
            "\n\n\n".join(blocks),
            forward,
            backward,
            names,
            saved,
            slices=None if self.alone else self._slices(),
            tables=tables,
            sites=tuple(s for f in used for s in f.sites),
        )

    def _rendered(self, link: _Link) -> RenderedForm | None:
        """What has to be printed for this backend: tensor operations are printed once."""
        if self.backend == "torch" or self.alone:
            return link.form(self.backend)
        return link.forms.get(self.backend)

    def _kept_values(self) -> list[str]:
        """Values of stages with states that later stages read."""
        out = []
        for place, link in enumerate(self.links):
            if link.keeps:
                later = {n for x in self.links[place + 1 :] for n in x.recurrence.arguments}
                out += [n for n in link.stage.passed if n in later]
        return out

    # ------------------------------------------------------------ pieces

    def _parameters(self) -> list[str]:
        out = [f"{self.names.inner[n]}: Tensor" for n in self.names.recurrence.arguments]
        out += [f"{s}: float" for s in self.names.inner_scalars.values()]
        out += [f"{self.start[p.name]}: Tensor | None" for p in self.names.state]
        out.append("cu_seqlens: Tensor | None")
        return [*out, "sizes: _Sizes"] if self.inner else out

    def _prologue(self) -> list[str]:
        lines = tuple_assigned(
            "given", [self.names.inner[n] for n in self.names.recurrence.arguments]
        )
        lines += tuple_assigned("start", [self.start[p.name] for p in self.names.state])
        if not self.inner:
            lines.append(f"sizes = _measured({self.names.table}, given, start, cu_seqlens)")
        return lines

    def _arguments(self, link: _Link) -> list[str]:
        """What the functions of a stage begin with."""
        out = [self._argument(link, n) for n in link.recurrence.arguments]
        out += list(self.names.inner_scalars.values())
        out += [self.start[link.parts[p.name]] for p in link.names.state]
        return [*out, "cu_seqlens", "sizes"]

    def _argument(self, link: _Link, name: str) -> str:
        """A tensor as a stage takes it: kernels take vectors as narrow as those of the scan."""
        vector = next(t.dims for t in _tensors(link.recurrence) if t.name == name)
        narrow = name in link.handed.given - link.handed.wide and vector
        if narrow and self.backend == "triton" and link.form(self.backend).backend == "triton":
            return f"{self.value[name]}.to(sizes.storage)"
        return self.value[name]

    def _lasting(self, link: _Link) -> list[StatePart]:
        """The parts of a stage's state that are no position."""
        return [p for p in link.names.state if p.kind != "time"]

    # ------------------------------------------------------------ forward

    def _call(self, link: _Link, save: str, targets: Sequence[str]) -> list[str]:
        form = link.form(self.backend)
        call = [*self._arguments(link), save, "allow_tf32"]
        return bracketed(f"{', '.join(targets)} = {form.forward}(", call, ")", 4)

    def _forward(self, name: str) -> list[str]:
        lines = self._prologue()
        outputs: dict[str, str] = {}
        ends: dict[str, str] = {}
        saved: list[str] = []
        for number, link in enumerate(self.links, 1):
            lines.append(f"# stage {number}: {_words(link)}")
            targets = [self.local.fresh(f"{t}_{number}") for t in ("results", "ends", "saved")]
            lines += self._call(link, "save", targets)
            saved.append(targets[2])
            for place, output in enumerate(link.recurrence.outputs):
                text = f"{targets[0]}[{place}]"
                if output.name in link.stage.passed:
                    lines.append(f"{self.value[output.name]} = {text}")
                else:
                    outputs[output.name] = text
            for place, part in enumerate(self._lasting(link)):
                ends[link.parts[part.name]] = f"{targets[1]}[{place}]"
        results = [outputs[o.name] for o in self.names.recurrence.outputs]
        lines += tuple_assigned("results", results)
        finals = [self._end(p, ends) for p in self.names.state]
        lines += tuple_assigned("state", finals)
        lines += tuple_assigned("kept", [self.value[n] for n in self._kept_values()])
        lines += tuple_assigned("saved", self._together(saved))
        lines.append("return results, state, saved")
        parameters = [*self._parameters(), "save: bool", "allow_tf32: bool"]
        head = signature(name, parameters, "tuple[Any, Any, Any]")
        doc = docstring("The stages one after the other; each hands values of all tokens on.")
        return [*head, *indented([*doc, *read_only(lines)])]

    def _end(self, part: StatePart, ends: dict[str, str]) -> str:
        if part.kind != "time":
            return ends[part.name]
        device = f"{self.names.inner[self.names.recurrence.arguments[0]]}.device"
        return f"_positions_after({self.start[part.name]}, sizes, cu_seqlens, {device})"

    def _saved(self, name: str) -> list[str]:
        head = signature(
            name, ["sizes: _Sizes", "save: bool"], "tuple[tuple[Any, torch.dtype], ...]"
        )
        doc = docstring("What the forward keeps for the backward: shapes and dtypes.")
        found = {o.name: o for link in self.links for o in link.recurrence.outputs}
        shapes = [self._shape(found[n]) for n in self._kept_values()]
        lines = tuple_assigned("kept", shapes)
        calls = [f"{link.form(self.backend).saved_shapes}(sizes, save)" for link in self.links]
        lines += tuple_assigned("saved", self._together(calls))
        lines.append("return saved")
        return [*head, *indented([*doc, *read_only(lines)])]

    def _together(self, parts: Sequence[str]) -> list[str]:
        """What is kept of values, if there are any, and of the stages."""
        values = ["*(kept if save else ())"] if self._kept_values() else []
        return [*values, *(f"*{part}" for part in parts)]

    def _shape(self, output: Output) -> str:
        bases = base_names(self.names.recurrence.dims)
        sizes = "".join(f', sizes.dim["{bases[d]}"]' for d in output.dims)
        dtype = "sizes.dtype"
        if output.kind is Kind.COMPLEX:
            dtype = '_kind_dtype("complex", sizes.dtype)'
        return f"((sizes.batch, sizes.length, sizes.heads{sizes}), {dtype})"

    # ------------------------------------------------------------ slices of time

    def _slices(self) -> RenderedSlices | None:
        """The maps of a slice of time, one stage after the other, in tensor operations."""
        for link in self.links:
            lasting = self._lasting(link)
            smooth = all(is_smooth(Kind(p.kind)) for p in lasting)
            if lasting and not (smooth and len(_moves(link)) == len(lasting)):
                return None
        moves: dict[str, RenderedMove] = {}
        targets: list[tuple[_Link, int]] = []
        for link in self.links:
            found = _moves(link) if self._lasting(link) else ()
            base = len(targets)
            for part, move in zip(self._lasting(link), found, strict=True):
                moves[link.parts[part.name]] = replace(move, level=base + move.level)
            targets += [(link, n) for n in range(1 + max((m.level for m in found), default=-1))]
        stem = f"{self.names.private}_chain_maps"
        parts = [p for p in self.names.state if p.kind != "time"]
        own = {p.name: self.local.fresh(f"map_{p.python}") for p in parts if moves[p.name].moved}
        sources = [link.forms["torch"].slices for link, _ in targets]
        texts = dict.fromkeys(s.source.strip("\n") for s in sources if s is not None)
        if self.backend != "torch":
            texts = {}
        names = [f"{stem}_{n}" for n in range(1, len(targets) + 1)]
        blocks = ["\n".join(self._maps(n, *t, own)) for n, t in zip(names, targets, strict=True)]
        source = "\n\n\n".join([*texts, *blocks]) if self.backend == "torch" else ""
        return RenderedSlices(source, tuple(names), None, tuple(moves[p.name] for p in parts))

    def _maps(self, name: str, target: _Link, level: int, own: dict[str, str]) -> list[str]:
        """The maps of one stage, behind the stages before it; other parts stay as they are."""
        lines = self._prologue()
        for number, link in enumerate(self.links, 1):
            if link is target:
                break
            passed = [o.name for o in link.recurrence.outputs if o.name in link.stage.passed]
            results = self.local.fresh(f"results_{number}")
            lines += self._call(link, "False", [results, "_", "_"])
            for place, output in enumerate(link.recurrence.outputs):
                if output.name in passed:
                    lines.append(f"{self.value[output.name]} = {results}[{place}]")
        lasting = self._lasting(target)
        maps = [own[n] for p in lasting if (n := target.parts[p.name]) in own]
        slices = target.forms["torch"].slices
        call = self._arguments(target)
        place = len(target.recurrence.arguments) + len(self.names.inner_scalars) + len(lasting)
        call[place:place] = maps
        function = target.forms["torch"].forward
        if slices is not None:
            function = slices.maps[min(level, len(slices.maps) - 1)]
        call += ["False", "allow_tf32"]
        lines += bracketed(f"_, ends, _ = {function}(", call, ")", 4)
        ends = {target.parts[p.name]: f"ends[{i}]" for i, p in enumerate(lasting)}
        moved = {m: f"ends[{len(lasting) + i}]" for i, m in enumerate(maps)}
        parts = [p for p in self.names.state if p.kind != "time"]
        found = [ends.get(p.name, self.start[p.name]) for p in parts]
        found += [moved.get(m, m) for m in own.values()]
        lines += tuple_assigned("found", found)
        lines.append("return (), found, ()")
        parameters = [f"{self.names.inner[n]}: Tensor" for n in self.names.recurrence.arguments]
        parameters += [f"{s}: float" for s in self.names.inner_scalars.values()]
        parameters += [f"{self.start[p.name]}: Tensor" for p in parts]
        parameters += [f"{m}: Tensor" for m in own.values()]
        parameters += [f"{self.start[p.name]}: Tensor" for p in self.names.state[len(parts) :]]
        parameters += ["cu_seqlens: Tensor | None", "save: bool", "allow_tf32: bool"]
        head = signature(name, parameters, "tuple[Any, Any, Any]")
        doc = docstring("How the tokens move what one stage carries.")
        return [*head, *indented([*doc, *read_only(lines)])]

    # ------------------------------------------------------------ backward

    def _backward(
        self, name: str, kept: Sequence[str], kept_by: Sequence[Sequence[str]]
    ) -> list[str]:
        recurrence = self.names.recurrence
        d_out = {o.name: self.local.fresh(f"d_{o.name}") for o in recurrence.outputs}
        ends = [p for p in self.names.state if p.kind != "time"]
        d_end = {p.name: self.local.fresh(f"d_end_{p.python}") for p in ends}
        lines = self._prologue()
        lines += [f"{self.value[n]} = {k}" for n, k in zip(self._kept_values(), kept, strict=True)]
        lines += self._again()
        found: dict[str, list[str]] = {}
        d_start: dict[str, str] = {}
        for number in range(len(self.links), 0, -1):
            lines += self._stage_backward(
                number, list(kept_by[number - 1]), found, d_start, d_out, d_end
            )
        gradients = []
        for argument in recurrence.arguments:
            shares = found.get(argument, [])
            value = self.value[argument]
            gradients.append(" + ".join(shares) if shares else f"torch.zeros_like({value})")
        lines += tuple_assigned("gradients", gradients)
        lines += tuple_assigned("d_start", [d_start[p.name] for p in ends])
        lines.append("return gradients, d_start")
        parameters = self._parameters()
        parameters += [f"{k}: Tensor" for k in [*kept, *(n for part in kept_by for n in part)]]
        parameters += [f"{d}: Tensor | None" for d in (*d_out.values(), *d_end.values())]
        parameters.append("allow_tf32: bool")
        head = signature(name, parameters, "tuple[Any, Any]")
        doc = docstring("The stages in reverse; the cotangents of each value are summed.")
        return [*head, *indented([*doc, *read_only(lines)])]

    def _again(self) -> list[str]:
        """Values that are cheap to compute again, as far as a stage behind them reads them."""
        lines: list[str] = []
        for place, link in enumerate(self.links):
            later = {n for x in self.links[place + 1 :] for n in x.recurrence.arguments}
            if link.keeps or not later & set(link.stage.passed):
                continue
            results = self.local.fresh(f"again_{place + 1}")
            lines += self._call(link, "False", [results, "_", "_"])
            for index, output in enumerate(link.recurrence.outputs):
                if output.name in later:
                    lines.append(f"{self.value[output.name]} = {results}[{index}]")
        return lines

    def _stage_backward(
        self,
        number: int,
        kept: list[str],
        found: dict[str, list[str]],
        d_start: dict[str, str],
        d_out: dict[str, str],
        d_end: dict[str, str],
    ) -> list[str]:
        """One stage against time: its gradients join those found so far."""
        link = self.links[number - 1]
        lines = [f"# stage {number}: {_words(link)}"]
        cotangents = []
        for output in link.recurrence.outputs:
            if output.name not in link.stage.passed:
                cotangents.append(d_out[output.name])
                continue
            shares = found.get(output.name)
            d_value = self.local.fresh(f"d_{self.value[output.name]}")
            sum_ = " + ".join(shares) if shares else f"torch.zeros_like({self.value[output.name]})"
            lines.append(f"{d_value} = {sum_}")
            cotangents.append(d_value if is_smooth(output.kind) else "None")
        ends = [d_end[link.parts[p.name]] for p in self._lasting(link)]
        call = [*self._arguments(link), *kept, *cotangents, *ends, "allow_tf32"]
        shares_name = self.local.fresh(f"shares_{number}")
        starts_name = self.local.fresh(f"starts_{number}")
        form = link.form(self.backend)
        lines += bracketed(f"{shares_name}, {starts_name} = {form.backward}(", call, ")", 4)
        for place, argument in enumerate(link.recurrence.arguments):
            found.setdefault(argument, []).append(f"{shares_name}[{place}]")
        for place, part in enumerate(self._lasting(link)):
            d_start[link.parts[part.name]] = f"{starts_name}[{place}]"
        return lines


def _tensors(recurrence: Recurrence) -> tuple[Tensor, ...]:
    return (*recurrence.inputs, *recurrence.params)


def _moves(link: _Link) -> tuple[RenderedMove, ...]:
    """How a slice of time moves the parts of a stage; none if that is not known."""
    slices = link.forms["torch"].slices
    if slices is not None:
        return slices.moves
    if link.stage.form in (Form.MAP, Form.CONVOLUTION):
        count = sum(p.kind != "time" for p in link.names.state)
        return (RenderedMove(window=True),) * count
    return ()


def _words(link: _Link) -> str:
    carried = ", ".join((*(s.name for s in link.recurrence.states), *link.stage.memories))
    words = {
        Form.CHUNK: "chunks", Form.SEQUENTIAL: "the loop over tokens", Form.MAP: "maps",
        Form.SCAN: "entry by entry", Form.CONVOLUTION: "earlier tokens, without a loop",
        Form.INVARIANT: "a time-invariant system, by powers of its matrix",
    }  # fmt: skip
    return f"{words[link.stage.form]} ({carried})" if carried else words[link.stage.form]
