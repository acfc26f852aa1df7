"""What a form computes outside of its loop over time: constants, and maps of all tokens at once.

In: a recurrence whose step is cut into `Stages`.  Out: pieces of text: functions for the constants
and the maps, the statements that call them, and those that take gradients back through them.  The
sequential form puts its loop behind them; a form without carried states needs nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from scandsl.ir.nodes import Every, Recurrence
from scandsl.render.functions import FunctionPrinter, Order, Printed, Sized
from scandsl.render.layout import assigned, tuple_assigned
from scandsl.render.lowering import Lowered, Stage, Stages
from scandsl.render.names import Names
from scandsl.render.scan import ScanNames, base_names, is_smooth


@dataclass(frozen=True, slots=True)
class MapFunctions:
    """The printed functions of the stages before the loop; `None` where nothing is computed."""

    constants: Printed | None
    constants_backward: Printed | None
    maps: Printed | None
    maps_backward: Printed | None


Before: TypeAlias = tuple[Stage, Printed | None]


class TokenMaps:
    """The maps of one scan, or of one stage of a chain.

    A stage is handed the sizes of its scan; `passed` names the outputs that it hands on.
    """

    def __init__(
        self,
        names: ScanNames,
        lowered: Lowered,
        printer: FunctionPrinter,
        stages: Stages,
        kind: str,
        passed: frozenset[str] | None,
    ) -> None:
        self.names = names
        self.lowered = lowered
        self.recurrence: Recurrence = lowered.recurrence
        self.printer = printer
        self.stages = stages
        self.stem = f"{names.private}_{kind}"
        self.passed = passed
        self.parts = lowered.parts
        self.early = dict(self.stages.early)
        self.also: set[str] = set()  # arguments that are read beside those of the maps
        self.local: dict[str, str] = {}
        self.maps = self._print_maps()

    def _print_maps(self) -> MapFunctions:
        s = self.stages
        constants, constants_backward = self._both(
            "constants", "What stays the same in time.", s.constants
        )
        maps, maps_backward = self._both(
            "maps", "What every token computes by itself, for all tokens at once.", s.maps
        )
        return MapFunctions(constants, constants_backward, maps, maps_backward)

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
            "advance", "every",
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
        out.append("cu_seqlens: Tensor | None")
        return out if self.passed is None else [*out, "sizes: _Sizes"]

    def _cotangent_parameters(self) -> list[str]:
        """What the backward is given beside the parameters of the forward."""
        out = [f"{self.d_out[o.name]}: Tensor | None" for o in self.recurrence.outputs]
        ends = [p for p in self.names.state if p.kind != "time"]
        out += [f"{self.d_end[p.name]}: Tensor | None" for p in ends]
        return [*out, "allow_tf32: bool"]

    def _argument_gradients(self) -> list[str]:
        """The tuple `gradients`, one for each argument."""
        gradients = []
        for index, argument in enumerate(self.recurrence.arguments):
            field = f"{self.names.table}.tensors[{index}]"
            if argument in self.flowing:
                share = self.gradient[argument]
                text = f"_argument_gradient({field}, given[{index}], {share}, sizes)"
            else:
                text = f"torch.zeros_like(given[{index}])"
            gradients.append(text)
        return tuple_assigned("gradients", gradients)

    def _prologue(self, outputs: bool) -> list[str]:
        """Sizes, arguments in the layout of the step, and the stages before the loop."""
        read = {*self.stages.token, *self.stages.fixed, *(n for n, _ in self.stages.maps.leaves)}
        read |= set(self.early.values()) if outputs else set()
        table = self.names.table
        raw = [self.names.inner[n] for n in self.recurrence.arguments]
        starts = [self.start[p.name] for p in self.names.state]
        lines = tuple_assigned("given", raw)
        lines += tuple_assigned("start", starts)
        if self.passed is None:
            lines.append(f"sizes = _measured({table}, given, start, cu_seqlens)")
        lines.append("device = given[0].device")
        lines += self._prepared()
        lines += self._carried()
        lines.append("sequences = _sequences(cu_seqlens, sizes.length)")
        lines += self._looked_back()
        lines += self._sizes()
        if self._needs_time():
            start = next((self.start[p.name] for p in self.names.state if p.kind == "time"), "None")
            lines.append(f"t = _token_positions({start}, sizes, sequences, device)")
        if self._extras_have("like"):
            lines.append("like = torch.empty((), dtype=sizes.dtype, device=device)")
        for stage, printed in self._before(outputs):
            if printed is not None:
                targets = [self.local[n] if n in read else "_" for n, _ in stage.results]
                call = self._arguments(stage, printed)
                lines += assigned(targets, printed.name, call)
        return lines

    def _carried(self) -> list[str]:
        """Statements that take the state apart, if there is a loop over time."""
        return []

    def _looked_back(self) -> list[str]:
        """Statements that lay out earlier values of arguments."""
        return []

    def _before(self, outputs: bool) -> list[Before]:
        """The stages that run first; `outputs` tells whether outputs are wanted of them."""
        del outputs
        return [
            (self.stages.constants, self.maps.constants),
            (self.stages.maps, self.maps.maps),
        ]

    def _prepared(self) -> list[str]:
        """The arguments that are used, in the layout of the step."""
        lines = []
        used = {n for stage in (self.stages.constants, self.stages.maps) for n, _ in stage.leaves}
        used |= {*self.stages.token, *self.stages.fixed, *self.early.values(), *self.also}
        for index, name in enumerate(self.recurrence.arguments):
            if name in used:
                call = f"_argument({self.names.table}.tensors[{index}], given[{index}], sizes)"
                lines.append(f"{self.local[name]} = {call}")
        return lines

    def _all_printed(self) -> list[Printed]:
        f = self.maps
        found = (f.constants, f.constants_backward, f.maps, f.maps_backward)
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

    def _result(self, index: int, value: str) -> str:
        """An output, as text, in the dtype that the caller or the next stage wants."""
        arguments = [self.names.table, str(index), value, "given", "sizes"]
        if self.passed is not None:
            handed_on = self.recurrence.outputs[index].name in self.passed
            arguments.append("sizes.dtype" if handed_on else "sizes.result")
        return f"_output({', '.join(arguments)})"

    def _cotangents(self) -> list[str]:
        """Cotangents of outputs and final parts, in the layout of the step."""
        items = []
        for index, output in enumerate(self.recurrence.outputs):
            if index not in self.early and is_smooth(output.kind):
                field = f"{self.names.table}.outputs[{index}]"
                items.append(f"_output_cotangent({field}, {self.d_out[output.name]}, sizes)")
        lines = tuple_assigned("d_outputs", items)
        ends = [self.d_end[p.name] for p in self.names.state if p.kind != "time"]
        lines += tuple_assigned("d_end", ends)
        lines.append(f"d_final = _part_cotangents({self.names.table}, d_end)")
        return lines

    # ------------------------------------------------------------ gradients

    def _through_stages(self) -> list[str]:
        """The gradients behind the maps, through the maps and the constants, to the arguments."""
        s = self.stages
        found: dict[str, list[str]] = {}
        for index, name in enumerate(s.smooth_token):
            found.setdefault(name, []).append(self._token_share(index, name))
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
        lines += self._pushed(s.maps, self.maps.maps_backward, found, summed=True)
        lines += self._through_pasts(found)
        lines += self._pushed(s.constants, self.maps.constants_backward, found, summed=False)
        self.flowing = {a for a in self.recurrence.arguments if found.get(a)}
        for argument in self.recurrence.arguments:
            if argument in self.flowing:
                lines += self._collect(argument, found)
        return lines

    def _token_share(self, index: int, name: str) -> str:
        """The gradient of a token, for all tokens at once."""
        return f"_in_time(d_tokens[{index}], {self.local[name]})"

    def _through_pasts(self, found: dict[str, list[str]]) -> list[str]:
        """Gradients of earlier values of arguments, turned into those of the arguments."""
        del found
        return []

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
