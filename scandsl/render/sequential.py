"""Renders the sequential form in tensor operations: maps of all tokens, then a loop over time.

In: a recurrence without `Grad` and its names.  Out: a `RenderedForm`.  Any valid spec has this
form. Forward keeps the carried parts of every 64th step; backward replays the steps in between and
runs the printed adjoint of the step against time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from scandsl.ir.nodes import Every, Recurrence
from scandsl.render.form import RenderedForm
from scandsl.render.functions import FunctionPrinter, Order, Printed, Sized
from scandsl.render.layout import (
    assigned,
    bracketed,
    docstring,
    indented,
    signature,
    tuple_assigned,
)
from scandsl.render.lowering import Lowered, Stage, Stages, cut_stages
from scandsl.render.names import Names
from scandsl.render.scan import ScanNames, base_names, is_smooth


@dataclass(frozen=True, slots=True)
class _Functions:
    """The printed functions of the stages; `None` for a stage that computes nothing."""

    constants: Printed | None
    constants_backward: Printed | None
    maps: Printed | None
    maps_backward: Printed | None
    step: Printed
    advance: Printed
    adjoint: Printed


def render_sequential(names: ScanNames, lowered: Lowered, printer: FunctionPrinter) -> RenderedForm:
    """The sequential form of one scan."""
    return _Sequential(names, lowered, printer).render()


class _Sequential:
    def __init__(self, names: ScanNames, lowered: Lowered, printer: FunctionPrinter) -> None:
        self.names = names
        self.lowered = lowered
        self.recurrence: Recurrence = lowered.recurrence
        self.printer = printer
        self.stages: Stages = cut_stages(lowered)
        self.stem = f"{names.private}_sequential"
        self.parts = lowered.parts
        self.smooth_parts = [i for i, p in enumerate(self.parts) if p.smooth]
        self.late = [
            o
            for i, o in enumerate(self.recurrence.outputs)
            if i not in {place for place, _ in self.stages.early}
        ]
        self.early = dict(self.stages.early)
        self.functions = self._print()
        self.local = self._locals()

    # ------------------------------------------------------------ the stages

    def _print(self) -> _Functions:
        p, s, stem = self.printer, self.stages, self.stem
        late = Order(late=frozenset(part.name for part in self.parts))
        full = {f"next {part.name}": part.name for part in self.parts}
        step = p.forward(
            f"{stem}_step", "One step: outputs, then the carried parts.", s.step, late, full=full
        )
        carried = [r for r in s.step.results if r[0].startswith("next ")]
        only = Stage(
            s.step.dims, s.step.values, s.step.leaves, tuple(carried), s.step.behind, s.step.whole
        )
        advance = p.forward(
            f"{stem}_advance", "One step without its outputs.", only, late, full=full
        )
        adjoint = p.backward(
            f"{stem}_step_backward",
            "The adjoint of one step: gradients of tokens, constants and carried parts.",
            s.step,
            [*s.smooth_token, *s.smooth_fixed, *(self.parts[i].name for i in self.smooth_parts)],
            [
                *(f"output {o.name}" for o in self.late if is_smooth(o.kind)),
                *(f"next {self.parts[i].name}" for i in self.smooth_parts),
            ],
            late,
        )
        constants, constants_backward = self._both(
            "constants", "What stays the same in time.", s.constants
        )
        maps, maps_backward = self._both(
            "maps", "What every token computes by itself, for all tokens at once.", s.maps
        )
        return _Functions(
            constants, constants_backward, maps, maps_backward, step, advance, adjoint
        )

    def _both(self, name: str, doc: str, stage: Stage) -> tuple[Printed | None, Printed | None]:
        if stage.trivial:
            return None, None
        order = Order(middle=("t",) if self._reads_time(stage) else ())
        forward = self.printer.forward(f"{self.stem}_{name}", doc, stage, order)
        wanted = [n for n, ref in stage.leaves if is_smooth(stage.values[ref].kind)]
        seeds = self._graded(stage)
        backward = None
        if wanted and seeds:
            backward = self.printer.backward(
                f"{self.stem}_{name}_backward", f"The adjoint of `{self.stem}_{name}`.",
                stage, list(dict.fromkeys(wanted)), seeds, order,
            )  # fmt: skip
        return forward, backward

    def _reads_time(self, stage: Stage) -> bool:
        """Whether a stage needs the position although no leaf of it is."""
        from_leaf = {ref for _, ref in stage.leaves}
        return any(
            isinstance(v.op, Every) for r, v in enumerate(stage.values) if r not in from_leaf
        ) and not any(name == "t" for name, _ in stage.leaves)

    def _graded(self, stage: Stage) -> list[str]:
        """Results of a stage through which gradients flow."""
        graded = {*self.stages.smooth_token, *self.stages.smooth_fixed}
        graded |= {
            name
            for place, name in self.stages.early
            if is_smooth(self.recurrence.outputs[place].kind)
        }
        if stage is self.stages.constants:
            graded |= {name for name, _ in self.stages.maps.leaves}
        return [n for n, ref in stage.results if n in graded and is_smooth(stage.values[ref].kind)]

    # ------------------------------------------------------------ names of locals

    def _locals(self) -> dict[str, str]:
        """Local names of everything that goes between stages."""
        taken = {
            "sizes", "sequences", "tokens", "fixed", "parts", "outputs", "final", "saved", "t",
            "like",
            "cu_seqlens", "save", "device", "d_tokens", "d_fixed", "d_parts", "allow_tf32",
            "advance",
        }  # fmt: skip
        names = Names(taken)
        names.reserve(self.names.inner.values())
        self.sized = Sized.of(self.recurrence.dims, names)
        names.reserve(v for v in self.sized.text.values() if not v.isdigit())
        out: dict[str, str] = {"t": "t"}
        for name in self.recurrence.arguments:
            out[name] = self.names.inner[name]
        for stage in (self.stages.constants, self.stages.maps):
            for name, _ in stage.results:
                if name not in out:
                    out[name] = "t" if name == "t" else names.fresh(name)
        self.start = {p.name: names.fresh(f"start_{p.python}") for p in self.names.state}
        self.d_out = {o.name: names.fresh(f"d_{o.name}") for o in self.recurrence.outputs}
        self.d_end = {p.name: names.fresh(f"d_end_{p.python}") for p in self.names.state}
        self.kept = {p.name: names.fresh(f"kept_{p.name}") for p in self.parts}
        self.gradient = {n: names.fresh(f"d_{v}") for n, v in out.items()}
        self.free = names
        return out

    # ------------------------------------------------------------ shared statements

    def _parameters(self) -> list[str]:
        out = [f"{self.names.inner[n]}: Tensor" for n in self.recurrence.arguments]
        out += [f"{s}: float" for s in self.names.inner_scalars.values()]
        out += [f"{self.start[p.name]}: Tensor | None" for p in self.names.state]
        return [*out, "cu_seqlens: Tensor | None"]

    def _prologue(self, outputs: bool) -> list[str]:
        """Sizes, arguments in the layout of the step, and the stages before the loop."""
        read = {*self.stages.token, *self.stages.fixed, *(n for n, _ in self.stages.maps.leaves)}
        read |= set(self.early.values()) if outputs else set()
        table = self.names.table
        raw = [self.names.inner[n] for n in self.recurrence.arguments]
        starts = [self.start[p.name] for p in self.names.state]
        lines = tuple_assigned("given", raw)
        lines += tuple_assigned("start", starts)
        lines.append(f"sizes = _measured({table}, given, start, cu_seqlens)")
        lines.append("device = given[0].device")
        lines += self._prepared()
        lines.append(f"parts = _parts_of({table}, start, sizes, device)")
        lines.append("sequences = _sequences(cu_seqlens, sizes.length)")
        lines += self._sizes()
        if self._needs_time():
            start = next((self.start[p.name] for p in self.names.state if p.kind == "time"), "None")
            lines.append(f"t = _token_positions({start}, sizes, sequences, device)")
        if self._extras_have("like"):
            lines.append("like = torch.empty((), dtype=sizes.dtype, device=device)")
        for stage, printed in self._before():
            if printed is not None:
                targets = [self.local[n] if n in read else "_" for n, _ in stage.results]
                call = self._arguments(stage, printed)
                lines += assigned(targets, printed.name, call)
        return lines

    def _before(self) -> list[tuple[Stage, Printed | None]]:
        return [
            (self.stages.constants, self.functions.constants),
            (self.stages.maps, self.functions.maps),
        ]

    def _prepared(self) -> list[str]:
        """The arguments that are used, in the layout of the step."""
        lines = []
        used = {n for stage in (self.stages.constants, self.stages.maps) for n, _ in stage.leaves}
        used |= {*self.stages.token, *self.stages.fixed, *self.early.values()}
        for index, name in enumerate(self.recurrence.arguments):
            if name in used:
                call = f"_argument({self.names.table}.tensors[{index}], given[{index}], sizes)"
                lines.append(f"{self.local[name]} = {call}")
        return lines

    def _all_printed(self) -> list[Printed]:
        f = self.functions
        found = (
            f.constants,
            f.constants_backward,
            f.maps,
            f.maps_backward,
            f.step,
            f.advance,
            f.adjoint,
        )
        return [p for p in found if p is not None]

    def _extras_have(self, name: str) -> bool:
        return any(name in p.extras for p in self._all_printed())

    def _needs_time(self) -> bool:
        reads = {n for n, _ in self.stages.maps.leaves} | {*self.stages.token, *self.early.values()}
        return "t" in reads or self._reads_time(self.stages.maps)

    def _sizes(self) -> list[str]:
        """Sizes that some function takes as an argument."""
        bases = base_names(self.recurrence.dims)
        lines: dict[str, None] = {}
        for dim in self.recurrence.dims:
            if any(self._size_argument(dim.name) in p.extras for p in self._all_printed()):
                text = self.sized.text[dim.name]
                if not text.isdigit():
                    lines[f'{text} = sizes.dim["{bases[dim.name]}"]'] = None
        return list(lines)

    def _size_argument(self, dim: str) -> str:
        """The name of a size inside printed functions."""
        reserved = set(self.printer.scalars.values()) | {"t", "like"}
        return Sized.of(self.recurrence.dims, Names(reserved)).text[dim]

    def _extra(self, printed: Printed) -> list[str]:
        """What a function takes behind its leaves, in the names of the caller."""
        inside = {
            self._size_argument(d.name): self.sized.text[d.name] for d in self.recurrence.dims
        }
        return [inside.get(extra, extra) for extra in printed.extras]

    def _arguments(self, stage: Stage, printed: Printed) -> list[str]:
        leaves = list(dict.fromkeys(name for name, _ in stage.leaves))
        out = [self.local[n] if n != "t" else "t" for n in leaves]
        if self._reads_time(stage):
            out.append("t")
        return [*out, *self._extra(printed)]

    def _loop_arguments(self, printed: Printed) -> tuple[list[str], list[str]]:
        tokens = [self.local[n] for n in self.stages.token]
        fixed = [self.local[n] for n in self.stages.fixed]
        return tokens, [*fixed, *self._extra(printed)]

    # ------------------------------------------------------------ forward

    def render(self) -> RenderedForm:
        """Both functions, after those of the stages."""
        blocks = ["\n".join(p.lines) for p in self._all_printed()]
        forward, backward = f"{self.stem}_forward", f"{self.stem}_backward"
        saved = f"{self.stem}_saved"
        blocks += [
            "\n".join(lines)
            for lines in (self._forward(forward), self._saved(saved), self._backward(backward))
        ]
        return RenderedForm(
            "torch",
            "\n\n\n".join(blocks),
            forward,
            backward,
            tuple(self.kept[p.name] for p in self.parts),
            saved,
        )

    def _saved(self, name: str) -> list[str]:
        head = signature(
            name, ["sizes: _Sizes", "save: bool"], "tuple[tuple[Any, torch.dtype], ...]"
        )
        doc = docstring("What the forward keeps for the backward: shapes and dtypes.")
        return [*head, *indented([*doc, f"return _saved_shapes({self.names.table}, sizes, save)"])]

    def _forward(self, name: str) -> list[str]:
        lines = self._prologue(True)
        tokens, fixed = self._loop_arguments(self.functions.step)
        lines += tuple_assigned("tokens", tokens)
        lines += tuple_assigned("fixed", fixed)
        count = len(self.late)
        call = [
            self.functions.step.name, "tokens", "fixed", "parts", str(count), "sequences",
            "sizes.length", "save",
        ]  # fmt: skip
        outputs = "outputs" if self.late else "_"
        lines += bracketed(f"{outputs}, final, saved = _loop(", call, ")", 4)
        results = []
        for index, output in enumerate(self.recurrence.outputs):
            if index in self.early:
                value = self.local[self.early[index]]
            else:
                value = f"_in_time(outputs[{self.late.index(output)}])"
            results.append(f"_output({self.names.table}, {index}, {value}, given, sizes)")
        if len(results) == 1:
            lines += [f"result = {results[0]}", "results = (result,)"]
        else:
            lines += tuple_assigned("results", results)
        time = "None"
        for part in self.names.state:
            if part.kind == "time":
                start = self.start[part.name]
                lines.append(f"end = _positions_after({start}, sizes, cu_seqlens, device)")
                time = "end"
        lines.append(f"state = _state_of({self.names.table}, final, {time}, sizes, fresh=True)")
        lines.append(f"shapes = _saved_shapes({self.names.table}, sizes, save)")
        lines.append("kept = _checkpoints(saved, shapes, device)")
        lines.append("return results, state, kept")
        parameters = [*self._parameters(), "save: bool", "allow_tf32: bool"]
        head = signature(name, parameters, "tuple[Any, Any, Any]")
        return [*head, *indented([*docstring("All tokens in order of time."), *lines])]

    # ------------------------------------------------------------ backward

    def _backward(self, name: str) -> list[str]:
        lines = self._prologue(False)
        tokens, fixed = self._loop_arguments(self.functions.adjoint)
        _, advance_fixed = self._loop_arguments(self.functions.advance)
        lines += tuple_assigned("tokens", tokens)
        lines += tuple_assigned("fixed", advance_fixed)
        lines += tuple_assigned("fixed_backward", fixed)
        kept = [self.kept[p.name] for p in self.parts]
        lines += tuple_assigned("saved", kept)
        lines += self._cotangents()
        s = self.stages
        call = [
            self.functions.advance.name, self.functions.adjoint.name, "tokens", "fixed",
            "fixed_backward",
            "parts", f"({len(s.smooth_token)}, {len(s.smooth_fixed)})", "sequences",
            "sizes.length", "saved", "d_outputs", "d_final",
        ]  # fmt: skip
        fixed_name = "d_fixed" if s.smooth_fixed else "_"
        tokens_name = "d_tokens" if s.smooth_token else "_"
        loop = f"{tokens_name}, {fixed_name}, d_parts = _loop_backward("
        lines += bracketed(loop, call, ")", 4)
        lines += self._through_stages()
        gradients = []
        for index, argument in enumerate(self.recurrence.arguments):
            field = f"{self.names.table}.tensors[{index}]"
            if argument in self.flowing:
                share = self.gradient[argument]
                text = f"_argument_gradient({field}, given[{index}], {share}, sizes)"
            else:
                text = f"torch.zeros_like(given[{index}])"
            gradients.append(text)
        lines += tuple_assigned("gradients", gradients)
        lines.append(f"d_start = _state_gradients({self.names.table}, d_parts, sizes)")
        lines.append("return gradients, d_start")
        parameters = [*self._parameters(), *(f"{k}: Tensor" for k in kept)]
        parameters += [f"{self.d_out[o.name]}: Tensor | None" for o in self.recurrence.outputs]
        ends = [p for p in self.names.state if p.kind != "time"]
        parameters += [f"{self.d_end[p.name]}: Tensor | None" for p in ends]
        parameters.append("allow_tf32: bool")
        head = signature(name, parameters, "tuple[Any, Any]")
        return [*head, *indented([*docstring("The same against time."), *lines])]

    def _cotangents(self) -> list[str]:
        """Cotangents of outputs and final parts, in the layout of the step."""
        places = {o.name: i for i, o in enumerate(self.recurrence.outputs)}
        items = []
        for output in self.late:
            if is_smooth(output.kind):
                field = f"{self.names.table}.outputs[{places[output.name]}]"
                items.append(f"_output_cotangent({field}, {self.d_out[output.name]}, sizes)")
        lines = tuple_assigned("d_outputs", items)
        ends = [self.d_end[p.name] for p in self.names.state if p.kind != "time"]
        lines += tuple_assigned("d_end", ends)
        lines.append(f"d_final = _part_cotangents({self.names.table}, d_end)")
        return lines

    def _through_stages(self) -> list[str]:
        """The gradients of the loop, through the maps and the constants, to the arguments."""
        s = self.stages
        found: dict[str, list[str]] = {}
        for index, name in enumerate(s.smooth_token):
            found.setdefault(name, []).append(f"_in_time(d_tokens[{index}], {self.local[name]})")
        constant = {name for name, _ in s.constants.results}
        constant |= {param.name for param in self.recurrence.params}
        for place, name in s.early:
            output = self.recurrence.outputs[place]
            if is_smooth(output.kind):
                field = f"{self.names.table}.outputs[{place}]"
                share = f"_output_cotangent({field}, {self.d_out[output.name]}, sizes)"
                if name in constant:
                    share = f"_summed({share}, {self.local[name]})"
                found.setdefault(name, []).append(share)
        for index, name in enumerate(s.smooth_fixed):
            found.setdefault(name, []).append(f"_summed(d_fixed[{index}], {self.local[name]})")
        lines: list[str] = []
        lines += self._pushed(s.maps, self.functions.maps_backward, found, summed=True)
        lines += self._pushed(s.constants, self.functions.constants_backward, found, summed=False)
        self.flowing = {a for a in self.recurrence.arguments if found.get(a)}
        for argument in self.recurrence.arguments:
            if argument in self.flowing:
                lines += self._collect(argument, found)
        return lines

    def _collect(self, name: str, found: dict[str, list[str]]) -> list[str]:
        """One name for the sum of what has been found for a value so far."""
        shares = found.get(name, [])
        target = self.gradient[name]
        if shares == [target]:
            return []
        if not shares:
            found[name] = [target]
            return [f"{target} = torch.zeros_like({self.local[name]})"]
        lines = [f"{target} = {shares[0]}"]
        lines += [f"{target} = {target} + {share}" for share in shares[1:]]
        found[name] = [target]
        return lines

    def _pushed(
        self, stage: Stage, backward: Printed | None, found: dict[str, list[str]], summed: bool
    ) -> list[str]:
        """Gradients of a stage's results turned into those of its leaves."""
        if backward is None:
            return []
        lines: list[str] = []
        seeds = self._graded(stage)
        for seed in seeds:
            lines += self._collect(seed, found)
        arguments = self._arguments_backward(stage, backward, seeds)
        wanted = [name.removeprefix("d ") for name in backward.results]
        for seed in seeds:  # a leaf that is a result too has been counted
            if seed in wanted:
                found.pop(seed)
        targets = [self.free.fresh(f"share_{self.local[n]}") for n in wanted]
        lines += assigned(targets, backward.name, arguments)
        inputs = {t.name for t in self.recurrence.inputs}
        for name, target in zip(wanted, targets, strict=True):
            text = target
            if summed and name not in inputs:
                text = f"_summed({target}, {self.local[name]})"
            found.setdefault(name, []).append(text)
        return lines

    def _arguments_backward(
        self, stage: Stage, printed: Printed, seeds: Sequence[str]
    ) -> list[str]:
        leaves = list(dict.fromkeys(name for name, _ in stage.leaves))
        out = [self.local[n] if n != "t" else "t" for n in leaves]
        if self._reads_time(stage):
            out.append("t")
        return [*out, *self._extra(printed), *(self.gradient[s] for s in seeds)]
