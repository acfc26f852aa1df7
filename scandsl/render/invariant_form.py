"""Renders a stage that is a time-invariant system: chunks by powers of its matrix.

In: a stage whose step is linear in what it carries and in its inputs, with constant coefficients.
Out: a `RenderedForm` in tensor operations.  The step is printed once, for unit vectors laid along a
further dimension, and with it its adjoint; the runtime reads the matrices off it, and takes their
gradients back through it.  Nothing is kept for the backward but the inputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from scandsl.ir.builder import Builder
from scandsl.ir.nodes import (
    Contract,
    Dim,
    Dims,
    Insert,
    MakeComplex,
    Op,
    Reduce,
    Ref,
    Rename,
    Select,
    Stack,
    operands,
)
from scandsl.ir.rewrite import with_operands
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
from scandsl.render.scan import ScanNames
from scandsl.render.token_maps import TokenMaps

_UNITS = "unit vectors"


def render_invariant(
    names: ScanNames, lowered: Lowered, printer: FunctionPrinter, passed: frozenset[str]
) -> RenderedForm:
    """The form of a stage of a chain, which hands on `passed`."""
    return _InvariantForm(names, lowered, printer, passed).render()


@dataclass(frozen=True, slots=True)
class Wiring:
    """Along which axes the system acts by itself, per token, part and output; -1 where it has none.

    `diagonal`: every entry of the state feeds on itself alone.
    """

    tokens: tuple[tuple[int, ...], ...]
    parts: tuple[tuple[int, ...], ...]
    outputs: tuple[tuple[int, ...], ...]
    diagonal: bool


def wiring(step: Stage, tokens: Sequence[str], parts: Sequence[str]) -> Wiring:
    """What a step does to the dimensions of what it takes and gives."""
    leaves, results = dict(step.leaves), dict(step.results)
    outputs = [r for n, r in step.results if n.startswith("output ")]
    nexts = [results[f"next {p}"] for p in parts]
    values = step.values
    mixed = {d for v in values if v.varies for d in _mixed(v.op)}
    whole = [set(values[leaves[p]].dims) for p in parts] + [set(values[r].dims) for r in outputs]
    common = set.intersection(*whole) - mixed
    shared = tuple(d for d in values[leaves[parts[0]]].dims if d in common)

    def places(dims: Dims) -> tuple[int, ...]:
        return tuple(dims.index(d) if d in dims else -1 for d in shared)

    prevs = {leaves[p] for p in parts}
    return Wiring(
        tuple(places(values[leaves[t]].dims) for t in tokens),
        tuple(places(values[leaves[p]].dims) for p in parts),
        tuple(places(values[r].dims) for r in outputs),
        len(parts) == 1 and not _mixes(step, prevs, nexts),
    )


def _mixed(op: Op) -> Dims:
    """The dimensions along which an operation looks at more than one entry."""
    match op:
        case Contract(_, _, over) | Reduce(_, _, over):
            return over
        case Rename(_, pairs):
            return tuple(d for pair in pairs for d in pair)
        case Select(_, dim) | Stack(_, dim):
            return (dim,)
        case Insert(_, dim):
            return (dim,)
        case _:
            return ()


def _mixes(step: Stage, prevs: set[Ref], nexts: Sequence[Ref]) -> bool:
    """Whether some entry of the new state looks at another one of the old."""
    carried: list[bool] = []
    for ref, value in enumerate(step.values):
        carried.append(ref in prevs or any(carried[r] for r in operands(value.op)))
    stack, seen = [r for r in nexts if carried[r]], set[Ref]()
    while stack:
        ref = stack.pop()
        if ref in seen:
            continue
        seen.add(ref)
        if _mixed(step.values[ref].op):
            return True
        stack += [r for r in operands(step.values[ref].op) if carried[r]]
    return False


def at_units(step: Stage) -> Stage:
    """The step with a further dimension of unit vectors in all that varies."""
    name = _UNITS
    b = Builder((*step.dims, Dim(name)))
    new: list[Ref] = []
    for value in step.values:
        inner = [new[r] for r in operands(value.op)]
        dims = (*value.dims, name) if value.varies else value.dims
        if value.varies and isinstance(value.op, Insert | Stack | MakeComplex):
            inner = [
                x if step.values[r].varies else b.expand(x, (*step.values[r].dims, name))
                for r, x in zip(operands(value.op), inner, strict=True)
            ]
        op = with_operands(value.op, inner)
        new.append(b.emit(op, dims, value.kind, value.name, value.span, value.varies))
    return replace(
        step,
        dims=tuple(b.dims),
        values=tuple(b.values),
        leaves=tuple((n, new[r]) for n, r in step.leaves),
        results=tuple((n, new[r]) for n, r in step.results),
        behind=frozenset(new[r] for r in step.behind),
    )


class _InvariantForm(TokenMaps):
    def __init__(
        self,
        names: ScanNames,
        lowered: Lowered,
        printer: FunctionPrinter,
        passed: frozenset[str],
    ) -> None:
        stages = cut_stages(lowered, bare=True)
        super().__init__(names, lowered, printer, stages, "system", passed)
        self.wiring = wiring(stages.step, stages.token, [p.name for p in self.parts])
        self.system, self.adjoint = self._print()
        self.local = self._locals()

    def _print(self) -> tuple[Printed, Printed]:
        p, s = self.printer, self.stages
        step = at_units(s.step)
        parts = [part.name for part in self.parts]
        late = Order(late=frozenset(parts))
        full = {f"next {n}": n for n in parts}
        system = p.forward(
            f"{self.stem}_step", "One step at unit vectors: outputs, then the carried parts.",
            step, late, full=full,
        )  # fmt: skip
        seeds = [n for n, _ in step.results]
        adjoint = p.backward(
            f"{self.stem}_step_backward", "The gradients of what stays the same.",
            step, list(s.smooth_fixed), seeds, late,
        )  # fmt: skip
        return system, adjoint

    def _all_printed(self) -> list[Printed]:
        return [*super()._all_printed(), self.system, self.adjoint]

    def _carried(self) -> list[str]:
        return [f"parts = _parts_of({self.names.table}, start, sizes, device)"]

    # ------------------------------------------------------------ functions

    def render(self) -> RenderedForm:
        """Both functions, after those of the step."""
        stem = self.stem
        forward, backward, saved = f"{stem}_forward", f"{stem}_backward", f"{stem}_saved"
        blocks = ["\n".join(p.lines) for p in self._all_printed()]
        blocks += [self._table(), "\n".join(self._forward(forward))]
        head = signature(
            saved, ["sizes: _Sizes", "save: bool"], "tuple[tuple[Any, torch.dtype], ...]"
        )
        doc = docstring("Nothing is kept: the backward computes it again.")
        blocks.append("\n".join([*head, *indented([*doc, "return ()"])]))
        blocks.append("\n".join(self._backward(backward)))
        return RenderedForm("torch", "\n\n\n".join(blocks), forward, backward, (), saved)

    def _table(self) -> str:
        """The function that gives the wiring, a constant."""
        w = self.wiring
        head = signature(f"{self.stem}_wiring", [], "_Wiring")
        call = [repr(w.tokens), repr(w.parts), repr(w.outputs), repr(w.diagonal)]
        doc = docstring("Axes along which the system acts by itself.")
        return "\n".join([*head, *indented([*doc, *bracketed("return _Wiring(", call, ")", 4)])])

    def _taken(self, printed: Printed) -> tuple[list[str], list[str]]:
        tokens = [self.local[n] for n in self.stages.token]
        fixed = [self.local[n] for n in self.stages.fixed]
        return tokens, [*fixed, *self._extra(printed)]

    def _forward(self, name: str) -> list[str]:
        lines = self._prologue(True)
        tokens, fixed = self._taken(self.system)
        lines += tuple_assigned("tokens", tokens)
        lines += tuple_assigned("fixed", fixed)
        call = [
            self.system.name, f"{self.stem}_wiring()", "tokens", "fixed", "parts", "cu_seqlens",
            "sizes",
        ]  # fmt: skip
        lines += bracketed("outputs, final = _system_run(", call, ")", 4)
        late = [i for i in range(len(self.recurrence.outputs)) if i not in self.early]
        results = []
        for index in range(len(self.recurrence.outputs)):
            if index in self.early:
                results.append(self._result(index, self.local[self.early[index]]))
            else:
                results.append(self._result(index, f"outputs[{late.index(index)}]"))
        lines += tuple_assigned("results", results)
        lines.append(f"state = _state_of({self.names.table}, final, None, sizes, fresh=True)")
        lines.append("return results, state, ()")
        parameters = [*self._parameters(), "save: bool", "allow_tf32: bool"]
        head = signature(name, parameters, "tuple[Any, Any, Any]")
        doc = docstring("All tokens, chunk by chunk.")
        return [*head, *indented([*doc, *read_only(lines)])]

    def _backward(self, name: str) -> list[str]:
        lines = self._prologue(False)
        tokens, fixed = self._taken(self.system)
        _, fixed_backward = self._taken(self.adjoint)
        lines += tuple_assigned("tokens", tokens)
        lines += tuple_assigned("fixed", fixed)
        lines += tuple_assigned("fixed_backward", fixed_backward)
        lines += self._cotangents()
        call = [
            self.system.name, self.adjoint.name, f"{self.stem}_wiring()", "tokens", "fixed",
            "fixed_backward", "parts", "cu_seqlens", "sizes", "d_outputs", "d_final",
        ]  # fmt: skip
        targets = "d_inputs, d_fixed, d_parts"
        lines += bracketed(f"{targets} = _system_run_backward(", call, ")", 4)
        lines += self._through_stages()
        lines += self._argument_gradients()
        lines.append(f"d_start = _state_gradients({self.names.table}, d_parts, sizes)")
        lines.append("return gradients, d_start")
        parameters = [*self._parameters(), *self._cotangent_parameters()]
        head = signature(name, parameters, "tuple[Any, Any]")
        return [*head, *indented([*docstring("The same, backwards."), *read_only(lines)])]

    def _token_share(self, index: int, name: str) -> str:
        """The gradient of a token, for all tokens at once."""
        del name
        return f"d_inputs[{list(self.stages.token).index(self.stages.smooth_token[index])}]"
