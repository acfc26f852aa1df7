"""Renders the sequential form in tensor operations: maps of all tokens, then a loop over time.

In: a recurrence without `Grad` and its names.  Out: a `RenderedForm`.  Any valid spec has this
form. Forward keeps the carried parts of every 64th step, or of all where they are no more than the
inputs; backward replays the steps in between and runs the printed adjoint of the step against time.
"""

from __future__ import annotations

from dataclasses import dataclass

from scandsl.render.form import RenderedForm
from scandsl.render.functions import FunctionPrinter, Order, Printed
from scandsl.render.layout import (
    bracketed,
    docstring,
    indented,
    read_only,
    signature,
    tuple_assigned,
)
from scandsl.render.lowering import Lowered, Stage, cut_stages
from scandsl.render.scan import ScanNames, is_smooth
from scandsl.render.stacked import with_stacked_products
from scandsl.render.token_maps import TokenMaps


@dataclass(frozen=True, slots=True)
class _LoopFunctions:
    """The printed functions of the loop over time."""

    step: Printed
    advance: Printed
    adjoint: Printed


def render_sequential(
    names: ScanNames,
    lowered: Lowered,
    printer: FunctionPrinter,
    passed: frozenset[str] | None = None,
) -> RenderedForm:
    """The sequential form of one scan, or of a stage of a chain, which hands on `passed`."""
    return _Sequential(names, lowered, printer, passed).render()


class _Sequential(TokenMaps):
    def __init__(
        self,
        names: ScanNames,
        lowered: Lowered,
        printer: FunctionPrinter,
        passed: frozenset[str] | None,
    ) -> None:
        lowered = with_stacked_products(lowered)
        super().__init__(names, lowered, printer, cut_stages(lowered), "sequential", passed)
        self.smooth_parts = [i for i, p in enumerate(self.parts) if p.smooth]
        self.late = [o for i, o in enumerate(self.recurrence.outputs) if i not in self.early]
        self.functions = self._print()
        self.local = self._locals()

    # ------------------------------------------------------------ the loop's functions

    def _print(self) -> _LoopFunctions:
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
            in_pairs=frozenset(s.smooth_fixed),
        )
        return _LoopFunctions(step, advance, adjoint)

    def _all_printed(self) -> list[Printed]:
        f = self.functions
        return [*super()._all_printed(), f.step, f.advance, f.adjoint]

    def _carried(self) -> list[str]:
        return [f"parts = _parts_of({self.names.table}, start, sizes, device)"]

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
        lines.append(f"every = _saved_every({self.names.table}, sizes)")
        call = [
            self.functions.step.name, "tokens", "fixed", "parts", str(count), "sequences",
            "sizes.length", "every if save else 0",
        ]  # fmt: skip
        outputs = "outputs" if self.late else "_"
        lines += bracketed(f"{outputs}, final, saved = _loop(", call, ")", 4)
        results = []
        for index, output in enumerate(self.recurrence.outputs):
            if index in self.early:
                value = self.local[self.early[index]]
            else:
                value = f"_in_time(outputs[{self.late.index(output)}])"
            results.append(self._result(index, value))
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
        return [*head, *indented([*docstring("All tokens in order of time."), *self._read(lines)])]

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
        lines.append(f"every = _saved_every({self.names.table}, sizes)")
        s = self.stages
        call = [
            self.functions.advance.name, self.functions.adjoint.name, "tokens", "fixed",
            "fixed_backward",
            "parts", f"({len(s.smooth_token)}, {len(s.smooth_fixed)})", "sequences",
            "sizes.length", "every", "saved", "d_outputs", "d_final",
        ]  # fmt: skip
        fixed_name = "d_fixed" if s.smooth_fixed else "_"
        tokens_name = "d_tokens" if s.smooth_token else "_"
        loop = f"{tokens_name}, {fixed_name}, d_parts = _loop_backward("
        lines += bracketed(loop, call, ")", 4)
        lines += self._through_stages()
        lines += self._argument_gradients()
        lines.append(f"d_start = _state_gradients({self.names.table}, d_parts, sizes)")
        lines.append("return gradients, d_start")
        parameters = [*self._parameters(), *(f"{k}: Tensor" for k in kept)]
        parameters += self._cotangent_parameters()
        head = signature(name, parameters, "tuple[Any, Any]")
        return [*head, *indented([*docstring("The same against time."), *self._read(lines)])]

    def _read(self, lines: list[str]) -> list[str]:
        """The statements of a function; a stage does not read all that a whole scan does."""
        return lines if self.passed is None else read_only(lines)
