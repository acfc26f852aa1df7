"""Renders what stands around a chunked form in real numbers, where a scan has complex tensors.

In: the form, whose tensors, states and outputs come in pairs, and the recurrence with complex ones.
Out: a `RenderedForm` for the latter, whose functions take complex tensors apart and put complex
results together.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from scandsl.ir.nodes import Kind, Recurrence, uses_time
from scandsl.kernels.pairs import parts_of
from scandsl.render.form import RenderedForm
from scandsl.render.layout import assigned, docstring, indented, signature, tuple_assigned
from scandsl.render.names import Names


def paired_names(recurrence: Recurrence, arg: dict[str, str]) -> dict[str, str]:
    """Names for the real tensors that stand for complex ones, beside all others."""
    names = Names([*arg.values(), "save", "sizes", "cu_seqlens", "allow_tf32", "start_t"])
    out = dict(arg)
    for name, kind in _declared(recurrence):
        if kind is Kind.COMPLEX:
            for part, end in zip(parts_of(name, kind), ("re", "im"), strict=True):
                out[part] = names.fresh(f"{arg[name]}_{end}")
    return out


def complex_results(recurrence: Recurrence) -> frozenset[str]:
    """The names of the outputs that stand for complex ones."""
    found = [o for o in recurrence.outputs if o.kind is Kind.COMPLEX]
    return frozenset(part for o in found for part in parts_of(o.name, o.kind))


def has_pairs(recurrence: Recurrence) -> bool:
    """Whether some tensor, state or output is complex."""
    return any(kind is Kind.COMPLEX for _, kind in _declared(recurrence))


def _declared(recurrence: Recurrence) -> Iterable[tuple[str, Kind]]:
    for t in (*recurrence.inputs, *recurrence.params):
        yield t.name, t.kind
    for s in recurrence.states:
        yield s.name, s.kind
    for o in recurrence.outputs:
        yield o.name, o.kind


@dataclass(frozen=True, slots=True)
class Paired:
    """Writes the functions around `form`; a stage of a chain is handed sizes."""

    recurrence: Recurrence
    arg: dict[str, str]
    form: RenderedForm
    stage: bool

    def render(self) -> RenderedForm:
        """Both functions, behind those in real numbers."""
        forward, backward = f"{self.form.forward}_pairs", f"{self.form.backward}_pairs"
        blocks = [self.form.source.strip("\n")]
        blocks += ["\n".join(self._forward(forward)), "\n".join(self._backward(backward))]
        source = "\n\n\n".join(blocks) + "\n"
        return replace(self.form, source=source, forward=forward, backward=backward, slices=None)

    # ------------------------------------------------------------ pieces

    @property
    def _kinds(self) -> dict[str, Kind]:
        return {t.name: t.kind for t in (*self.recurrence.inputs, *self.recurrence.params)}

    def _tensors(self) -> list[str]:
        out = [f"{self.arg[n]}: Tensor" for n in self.recurrence.arguments]
        out += [f"{self.arg[s.name]}: float" for s in self.recurrence.scalars]
        out += [f"start_{self.arg[s.name]}: Tensor | None" for s in self.recurrence.states]
        out += ["start_t: Tensor"] if uses_time(self.recurrence) else []
        out.append("cu_seqlens: Tensor | None")
        return [*out, "sizes: _Sizes"] if self.stage else out

    def _given(self) -> list[str]:
        """What the functions in real numbers begin with."""
        kinds, out = self._kinds, []
        for name in self.recurrence.arguments:
            out += _apart(self.arg[name], kinds[name], sure=True)
        out += [self.arg[s.name] for s in self.recurrence.scalars]
        for state in self.recurrence.states:
            out += _apart(f"start_{self.arg[state.name]}", state.kind)
        out += ["start_t"] if uses_time(self.recurrence) else []
        return [*out, "cu_seqlens", "sizes"] if self.stage else [*out, "cu_seqlens"]

    def _forward(self, name: str) -> list[str]:
        call = [*self._given(), "save", "allow_tf32"]
        lines = assigned(["results", "ends", "saved"], self.form.forward, call)
        lines += tuple_assigned("outputs", _joined("results", self._outputs()))
        ends = _joined("ends", [s.kind for s in self.recurrence.states])
        if uses_time(self.recurrence):
            ends.append("ends[-1]")
        lines += tuple_assigned("state", ends)
        lines.append("return outputs, state, saved")
        parameters = [*self._tensors(), "save: bool", "allow_tf32: bool"]
        head = signature(name, parameters, "tuple[Any, Any, Any]")
        return [*head, *indented([*docstring("Complex tensors as pairs of real ones."), *lines])]

    def _outputs(self) -> list[Kind]:
        return [o.kind for o in self.recurrence.outputs]

    def _backward(self, name: str) -> list[str]:
        saved = list(self.form.saved)
        d_outputs = [f"d_{self.arg[o.name]}" for o in self.recurrence.outputs]
        d_ends = [f"d_end_{self.arg[s.name]}" for s in self.recurrence.states]
        call = [*self._given(), *saved]
        for text, kind in zip(d_outputs, self._outputs(), strict=True):
            call += _apart(text, kind)
        for text, state in zip(d_ends, self.recurrence.states, strict=True):
            call += _apart(text, state.kind)
        lines = assigned(["shares", "starts"], self.form.backward, [*call, "allow_tf32"])
        kinds = [self._kinds[n] for n in self.recurrence.arguments]
        lines += tuple_assigned("gradients", _joined("shares", kinds))
        starts = _joined("starts", [s.kind for s in self.recurrence.states])
        lines += tuple_assigned("d_start", starts)
        lines.append("return gradients, d_start")
        parameters = [*self._tensors(), *(f"{x}: Tensor" for x in saved)]
        parameters += [f"{x}: Tensor | None" for x in (*d_outputs, *d_ends)]
        head = signature(name, [*parameters, "allow_tf32: bool"], "tuple[Any, Any]")
        return [*head, *indented([*docstring("The same against time."), *lines])]


def _apart(text: str, kind: Kind, sure: bool = False) -> list[str]:
    """A tensor as the real ones that stand for it; `sure` that it is not `None`."""
    if kind is not Kind.COMPLEX:
        return [text]
    parts = (f"{text}.real", f"{text}.imag")
    return list(parts) if sure else [f"None if {text} is None else {p}" for p in parts]


def _joined(text: str, kinds: Sequence[Kind]) -> list[str]:
    """The items of a tuple, pairs put together."""
    out, place = [], 0
    for kind in kinds:
        if kind is Kind.COMPLEX:
            out.append(f"torch.complex({text}[{place}], {text}[{place + 1}]).contiguous()")
        else:
            out.append(f"{text}[{place}]")
        place += 2 if kind is Kind.COMPLEX else 1
    return out
