"""Renders a stage without a loop: maps of tokens and of windows of earlier tokens, all at once.

In: a recurrence without states whose lags look back at its inputs.  Out: a `RenderedForm` in tensor
operations.  A lag is the input moved along time, behind what came before the first token; nothing
is kept for the backward but the inputs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from scandsl.diagnostics import InternalError
from scandsl.ir.builder import Builder
from scandsl.ir.nodes import (
    Contract,
    Dims,
    Input,
    Kind,
    Lag,
    Memory,
    Param,
    Recurrence,
    Ref,
    Stack,
    Tensor,
    memories,
    operands,
)
from scandsl.ir.rewrite import with_operands
from scandsl.render.form import RenderedForm
from scandsl.render.functions import FunctionPrinter
from scandsl.render.layout import (
    bracketed,
    docstring,
    indented,
    read_only,
    signature,
    tuple_assigned,
)
from scandsl.render.lowering import cut_stages, lower
from scandsl.render.scan import ScanNames
from scandsl.render.token_maps import Before, TokenMaps


def render_map(
    names: ScanNames, recurrence: Recurrence, printer: FunctionPrinter, passed: frozenset[str]
) -> RenderedForm:
    """The form of a stage of a chain, which hands on `passed`."""
    return _MapForm(names, recurrence, printer, passed).render()


@dataclass(frozen=True, slots=True)
class _Past:
    """An input and the names under which the maps know its earlier values, by distance."""

    memory: Memory
    source: str
    names: dict[int, str]


@dataclass(frozen=True, slots=True)
class _Filter:
    """A sum over the places of a window of an input, weighted by a param: `name` to the maps.

    `order` tells for each dimension of the input, and for the window's, whether the param has it;
    the window's is `along`, counted from the end.
    """

    past: _Past
    param: str
    name: str
    order: tuple[bool, ...]
    along: int


def _pasts(recurrence: Recurrence) -> tuple[_Past, ...]:
    out = []
    for memory in memories(recurrence):
        op = None if memory.value is None else recurrence.values[memory.value].op
        if not isinstance(op, Input):
            raise InternalError("a stage without a loop looks back at its inputs only")
        lags = [v.op for v in recurrence.values if isinstance(v.op, Lag)]
        steps = sorted({lag.n for lag in lags if lag.x == memory.value})
        out.append(_Past(memory, op.name, {n: f"{op.name} {n}" for n in steps}))
    return tuple(out)


def _without_lags(
    recurrence: Recurrence, pasts: tuple[_Past, ...]
) -> tuple[Recurrence, tuple[_Filter, ...]]:
    """Lags and filters as further inputs; another sum over a window as a sum of its terms."""
    b = Builder(recurrence.dims)
    filters: dict[str, _Filter] = {}
    called = {(p.memory.value, n): name for p in pasts for n, name in p.names.items()}
    new: dict[Ref, Ref] = {}
    for ref, value in enumerate(recurrence.values):
        if isinstance(value.op, Lag):
            name = called[value.op.x, value.op.n]
            new[ref] = b.emit(Input(name), value.dims, value.kind)
            continue
        inner = [new[r] for r in operands(value.op)]
        found = _filter(recurrence, value.op, pasts, len(filters))
        if found is not None:
            filters[found.name] = found
            new[ref] = b.emit(Input(found.name), value.dims, value.kind, value.name, value.span)
            continue
        terms = _terms(b, value.op, inner)
        if terms is None:
            op = with_operands(value.op, inner)
            new[ref] = b.emit(op, value.dims, value.kind, value.name, value.span, value.varies)
            continue
        new[ref] = terms
        if b.values[terms].name is None:
            b.values[terms] = replace(b.values[terms], name=value.name, span=value.span)
    further = [
        Tensor(name, recurrence.values[ref].dims, recurrence.values[ref].kind)
        for (ref, _), name in called.items()
        if ref is not None
    ]
    further += [
        Tensor(v.op.name, v.dims, v.kind)
        for v in b.values
        if isinstance(v.op, Input) and v.op.name in filters
    ]
    plain = replace(
        recurrence,
        values=tuple(b.values),
        inputs=(*recurrence.inputs, *further),
        scalars=tuple(replace(s, default=new[s.default]) for s in recurrence.scalars),
        outputs=tuple(replace(o, value=new[o.value]) for o in recurrence.outputs),
    )
    return plain, tuple(filters.values())


def _filter(
    recurrence: Recurrence, op: object, pasts: tuple[_Past, ...], count: int
) -> _Filter | None:
    """The filter that a contraction is, if it is one."""
    values = recurrence.values
    if not isinstance(op, Contract):
        return None
    for stack, weights in ((op.a, op.b), (op.b, op.a)):
        window, param = values[stack].op, values[weights].op
        if not isinstance(window, Stack) or not isinstance(param, Param):
            continue
        past = next((p for p in pasts if p.memory.value == window.xs[0]), None)
        if past is None or op.over != (window.dim,) or values[weights].kind is not Kind.REAL:
            continue
        lags = [Lag(window.xs[0], n) for n in range(1, len(window.xs))]
        own = values[stack].dims
        fits = set(values[weights].dims) <= set(own) and past.memory.kind is Kind.REAL
        if fits and [values[x].op for x in window.xs[1:]] == lags:
            order = tuple(d in values[weights].dims for d in own)
            along = own.index(window.dim) - len(own)
            return _Filter(past, param.name, f"{past.source} filtered {count}", order, along)
    return None


def _terms(b: Builder, op: object, inner: list[Ref]) -> Ref | None:
    """A contraction over the places of a stack, one place after the other."""
    if not isinstance(op, Contract):
        return None
    for stack, other in (inner, inner[::-1]):
        found = b.values[stack].op
        if isinstance(found, Stack) and found.dim in op.over:
            rest = [d for d in op.over if d != found.dim]
            total: Ref | None = None
            for place, x in enumerate(found.xs):
                term = b.contract(_entry(b, other, found.dim, place), x, rest)
                total = term if total is None else b.add(total, term)
            return total
    return None


def _entry(b: Builder, ref: Ref, dim: str, place: int) -> Ref:
    """One entry along a static dimension, under the name of what it is taken from."""
    value = b.values[ref]
    name = value.op.name if isinstance(value.op, Input | Param) else value.name
    found = b.select(ref, dim, place)
    if name and b.values[found].name is None:
        b.values[found] = replace(b.values[found], name=f"{name}_{place}")
    return found


class _MapForm(TokenMaps):
    def __init__(
        self,
        names: ScanNames,
        recurrence: Recurrence,
        printer: FunctionPrinter,
        passed: frozenset[str],
    ) -> None:
        self.pasts = _pasts(recurrence)
        plain, self.filters = _without_lags(recurrence, self.pasts)
        lowered = lower(plain)
        super().__init__(names, lowered, printer, cut_stages(lowered, False), "map", passed)
        self.also = {*(p.source for p in self.pasts), *(f.param for f in self.filters)}
        self.local = self._locals()
        for name in [
            *(n for p in self.pasts for n in p.names.values()),
            *(f.name for f in self.filters),
        ]:
            self.local[name] = self.free.fresh(name)
            self.gradient[name] = self.free.fresh(f"d_{self.local[name]}")
        self.earlier = {p.source: self.free.fresh(f"earlier_{p.source}") for p in self.pasts}
        self.taps = {f.name: self.free.fresh(f"taps_{f.param}") for f in self.filters}

    def render(self) -> RenderedForm:
        """Both functions, after those of the maps."""
        forward, backward = f"{self.stem}_forward", f"{self.stem}_backward"
        saved = f"{self.stem}_saved"
        blocks = ["\n".join(p.lines) for p in self._all_printed()]
        texts = (self._forward(forward), self._saved(saved), self._backward(backward))
        blocks += ["\n".join(lines) for lines in texts]
        return RenderedForm("torch", "\n\n\n".join(blocks), forward, backward, (), saved)

    def _saved(self, name: str) -> list[str]:
        head = signature(
            name, ["sizes: _Sizes", "save: bool"], "tuple[tuple[Any, torch.dtype], ...]"
        )
        doc = docstring("Nothing is kept: the backward computes it again.")
        return [*head, *indented([*doc, "return ()"])]

    def _looked_back(self) -> list[str]:
        """The earlier values of inputs."""
        lines: list[str] = []
        for past in self.pasts:
            earlier, depth = self.earlier[past.source], str(past.memory.depth)
            call = [self.local[past.source], self.start[past.memory.name], depth, "sequences"]
            lines += bracketed(f"{earlier} = _earlier(", call, ")", 4)
            lines += [f"{self.local[name]} = {earlier}[{n - 1}]" for n, name in past.names.items()]
        for found in self.filters:
            source, taps = found.past.source, self.taps[found.name]
            own = ", ".join(":" if have else "None" for have in (True, *found.order))
            spread = "" if all(found.order) else f"[{own}]"
            lines.append(f"{taps} = {self.local[found.param]}{spread}.unbind({found.along})")
            start = self.start[found.past.memory.name]
            call = [self.local[source], start, taps, "sequences"]
            lines += bracketed(f"{self.local[found.name]} = _filtered(", call, ")", 4)
        return lines

    def _before(self, outputs: bool) -> list[Before]:
        """The backward of the maps computes again what it needs of them."""
        found = super()._before(outputs)
        return found if outputs else found[:1]

    # ------------------------------------------------------------ functions

    def _forward(self, name: str) -> list[str]:
        lines = self._prologue(True)
        results = []
        for index in range(len(self.recurrence.outputs)):
            results.append(self._result(index, self.local[self.early[index]]))
        lines += tuple_assigned("results", results)
        ends = []
        for past in self.pasts:
            start = self.start[past.memory.name]
            call = [self.local[past.source], start, str(past.memory.depth), "cu_seqlens"]
            ends.append(f"_window_end({', '.join(call)})")
        ends += self._end_of_time()
        lines += tuple_assigned("ends", ends)
        lines.append("return results, ends, ()")
        parameters = [*self._parameters(), "save: bool", "allow_tf32: bool"]
        head = signature(name, parameters, "tuple[Any, Any, Any]")
        doc = docstring("All tokens at once; earlier ones stand beside each token.")
        return [*head, *indented([*doc, *read_only(lines)])]

    def _end_of_time(self) -> list[str]:
        parts = [p for p in self.names.state if p.kind == "time"]
        call = "sizes, cu_seqlens, device"
        return [f"_positions_after({self.start[p.name]}, {call})" for p in parts]

    def _backward(self, name: str) -> list[str]:
        lines = self._prologue(False)
        lines += self._through_stages()
        lines += self._argument_gradients()
        starts = [self.past_gradient[p.memory.name] for p in self.pasts]
        lines += tuple_assigned("d_start", starts)
        lines.append("return gradients, d_start")
        parameters = [*self._parameters(), *self._cotangent_parameters()]
        head = signature(name, parameters, "tuple[Any, Any]")
        return [*head, *indented([*docstring("The same, backwards."), *read_only(lines)])]

    def _through_pasts(self, found: dict[str, list[str]]) -> list[str]:
        """Gradients of earlier values are those of the inputs, and of what was before them."""
        lines: list[str] = []
        shares: dict[str, list[list[str]]] = {
            p.source: [[] for _ in range(p.memory.depth + 1)] for p in self.pasts
        }
        for past in self.pasts:
            for n, name in past.names.items():
                if found.get(name):
                    lines += self._collect(name, found)
                    shares[past.source][n].append(self.gradient[name])
        for filtered in self.filters:
            if found.get(filtered.name):
                lines += self._collect(filtered.name, found)
                lines += self._through_filter(filtered, shares[filtered.past.source], found)
        self.past_gradient: dict[str, str] = {}
        for past in self.pasts:
            share = self.free.fresh(f"share_{self.local[past.source]}")
            start = self.free.fresh(f"d_{self.start[past.memory.name]}")
            words = [f"({', '.join(s)}{',' if len(s) == 1 else ''})" for s in shares[past.source]]
            lines += bracketed("shares = (", words, ",)" if len(words) == 1 else ")", 4)
            call = [self.local[past.source], "shares"]
            call += [self.d_end[past.memory.name], "sequences", "cu_seqlens"]
            lines += bracketed(f"{share}, {start} = _earlier_backward(", call, ")", 4)
            found.setdefault(past.source, []).append(share)
            self.past_gradient[past.memory.name] = start
        return lines

    def _through_filter(
        self, filtered: _Filter, shares: list[list[str]], found: dict[str, list[str]]
    ) -> list[str]:
        """What a filter gives to each distance, and the gradient of its param."""
        d, taps, source = (
            self.gradient[filtered.name],
            self.taps[filtered.name],
            filtered.past.source,
        )
        static = {x.name: x.size for x in self.recurrence.dims}
        param = next(p for p in self.recurrence.params if p.name == filtered.param)
        width = next(static[x] for x in param.dims if x not in _dims_of(self.recurrence, source))
        for n in range(width or 0):
            shares[n].append(f"({d}, {taps}[{n}])")
        share = self.free.fresh(f"share_{self.local[filtered.param]}")
        start = self.start[filtered.past.memory.name]
        call = [d, self.local[source], start, taps, "sequences", str(filtered.along)]
        lines = bracketed(f"{share} = _taps_backward(", call, ")", 4)
        shaped = f"{share}.reshape({self.local[filtered.param]}.shape)"
        found.setdefault(filtered.param, []).append(shaped)
        return lines


def _dims_of(recurrence: Recurrence, name: str) -> Dims:
    return next(t.dims for t in recurrence.inputs if t.name == name)
