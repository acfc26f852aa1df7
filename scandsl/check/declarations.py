"""The declarations of a scan: names, dimensions, kinds and ranges.

In: the syntax of a scan and the sizes set from outside.  Out: `Declared` and the table of
dimensions, with a report for everything that is wrong in a declaration itself.  The values of
scalars, initial values and outputs are not looked at here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from scandsl.check import errors
from scandsl.check.constants import CONSTANTS, fold
from scandsl.check.context import Declared, OutputDecl, StateDecl
from scandsl.check.shapes import DimTable, base_of
from scandsl.check.walk import dimension_names, statements
from scandsl.diagnostics import Diagnostic, Span
from scandsl.ir.nodes import Dims, Kind, Range, Tensor
from scandsl.syntax import ast

RESERVED = frozenset({
    "t", *CONSTANTS, "input", "param", "scalar", "static", "state", "output", "scan", "fn", "for",
    "every", "in", "and", "or", "not",
})  # fmt: skip

# A static size above this cannot be unrolled or laid out sensibly.
MAX_STATIC = 2**31 - 1
# More of one kind than this make a step that takes long to compile and that nobody can read.
MAX_DECLARED = 64


@dataclass(slots=True)
class _Collector:
    """Working state while the declarations of one scan are read."""

    report: Callable[[Diagnostic], None]
    settings: Mapping[str, int]
    dims: DimTable
    spans: dict[str, Span] = field(default_factory=dict)
    dim_spans: dict[str, Span] = field(default_factory=dict)
    sized: set[str] = field(default_factory=set)
    inputs: dict[str, Tensor] = field(default_factory=dict)
    params: dict[str, Tensor] = field(default_factory=dict)
    scalars: dict[str, ast.Item] = field(default_factory=dict)
    states: dict[str, StateDecl] = field(default_factory=dict)
    outputs: dict[str, OutputDecl] = field(default_factory=dict)
    statics: dict[str, int] = field(default_factory=dict)
    arguments: list[str] = field(default_factory=list)
    doubtful: set[str] = field(default_factory=set)


def declare(
    scan: ast.Scan,
    settings: Mapping[str, int],
    report: Callable[[Diagnostic], None],
    whole: bool = True,
) -> tuple[Declared, DimTable]:
    """All declarations of a scan; a scan that is not whole may lack some."""
    out = _Collector(report, settings, DimTable())
    declarations = [s for s in statements(scan.body) if isinstance(s, ast.Declaration)]
    items = [(d.kind, item) for d in declarations for item in d.items]
    for kind, item in items:
        if kind == "static":
            _static(out, item)
    _find_dims(out, items)
    _order_dims(out, scan)
    if whole:
        _check_sizes(out)
    counts: dict[str, int] = {}
    for kind, item in items:
        counts[kind] = counts.get(kind, 0) + 1
        if counts[kind] == MAX_DECLARED + 1:
            report(errors.too_many_declared(item.span, kind, MAX_DECLARED))
        _item(out, kind, item)
    if whole:
        _check_whole(out, scan)
    declared = Declared(
        out.inputs, out.params, out.scalars, out.states, out.outputs, out.statics,
        tuple(out.arguments), out.spans, frozenset(out.doubtful),
    )  # fmt: skip
    return declared, out.dims


# ---------------------------------------------------------------- dimensions


def _static(out: _Collector, item: ast.Item) -> None:
    name = item.name.text
    if not _new_name(out, item.name):
        return
    _refuse_suffixes(out, "static", item)
    size = None if item.value is None else fold(item.value, out.statics)
    size = out.settings.get(name, size)
    good = isinstance(size, int) and 1 <= size <= MAX_STATIC
    if not good:
        span = item.name.span if item.value is None else item.value.span
        out.report(errors.static_value(span, name, item.value is None, size))
    out.statics[name] = int(size) if good and size is not None else 1
    out.dims.sizes[name] = out.statics[name]
    out.dims.families.add(name)
    out.dim_spans[name] = item.name.span


def _find_dims(out: _Collector, items: Iterable[tuple[str, ast.Item]]) -> None:
    """Every name in the bracket list of a declaration is a dimension."""
    for kind, item in items:
        for identifier in item.dims:
            base = base_of(identifier.text)
            out.dims.families.add(base)
            out.dim_spans.setdefault(base, identifier.span)
            if kind in ("input", "param"):
                out.sized.add(base)


def _order_dims(out: _Collector, scan: ast.Scan) -> None:
    for statement in statements(scan.body):
        if isinstance(statement, ast.Declaration) and statement.kind == "static":
            for item in statement.items:
                out.dims.register(item.name.text)
        for name in dimension_names(statement):
            if out.dims.knows(name):
                out.dims.register(name)
    for name in list(out.dims.order):
        out.dims.register(base_of(name))


def _check_sizes(out: _Collector) -> None:
    """Every dimension needs a tensor or a number to take its size from."""
    for base in sorted(out.dims.families - out.sized - set(out.statics)):
        out.report(errors.dim_without_size(out.dim_spans[base], base, sorted(out.sized)))


def _item_dims(out: _Collector, item: ast.Item) -> Dims:
    """The dimensions of a declared name, each once."""
    dims: list[str] = []
    for identifier in item.dims:
        if identifier.text in dims:
            out.report(errors.dim_twice(identifier.span, identifier.text))
        else:
            dims.append(identifier.text)
    return tuple(dims)


# ---------------------------------------------------------------- names


def _new_name(out: _Collector, name: ast.Identifier) -> bool:
    """Take a name, if it is free; reports what holds it otherwise."""
    text = name.text
    if text in RESERVED:
        out.report(errors.reserved(name.span, text))
        return False
    if text in out.spans:
        out.report(errors.duplicate_name(name.span, text, out.spans[text]))
        out.doubtful.add(text)
        return False
    if text in out.dims.families and text not in out.statics:
        out.report(errors.dim_as_value(name.span, text, out.dim_spans.get(text)))
        return False
    out.spans[text] = name.span
    return True


def _item(out: _Collector, kind: str, item: ast.Item) -> None:
    dims = _item_dims(out, item)
    if kind == "static":
        return
    if kind == "output" and item.name.text in out.outputs:
        out.report(errors.output_twice(item.name.span, item.name.text, out.spans[item.name.text]))
        return
    if not _new_name(out, item.name):
        return
    match kind:
        case "input" | "param":
            _tensor(out, kind, item, dims)
        case "scalar":
            _refuse_suffixes(out, kind, item)
            if item.value is None:
                out.report(errors.scalar_without_default(item.span, item.name.text))
            out.scalars[item.name.text] = item
        case "state":
            _refuse_range(out, kind, item)
            number = Kind.COMPLEX if item.is_complex else Kind.REAL
            out.states[item.name.text] = StateDecl(item.name.text, dims, number, item)
        case _:
            _refuse_range(out, kind, item)
            if item.value is None:
                out.report(errors.output_without_value(item.span, item.name.text, dims))
            out.outputs[item.name.text] = OutputDecl(item.name.text, dims, item)


def _refuse_range(out: _Collector, kind: str, item: ast.Item) -> None:
    if item.range is not None:
        out.report(errors.range_not_here(item.range.span, kind))


def _refuse_suffixes(out: _Collector, kind: str, item: ast.Item) -> None:
    """Scalars and statics have neither dimensions nor number systems nor ranges."""
    if item.dims:
        out.report(errors.no_dims_here(item.dims[0].span, kind, item.name.text))
    if item.is_complex:
        out.report(errors.no_complex_here(item.name.span, kind, item.name.text))
    _refuse_range(out, kind, item)


# ---------------------------------------------------------------- tensors


def _tensor(out: _Collector, kind: str, item: ast.Item, dims: Dims) -> None:
    name = item.name.text
    number = Kind.COMPLEX if item.is_complex else Kind.REAL
    if item.value is not None:
        out.report(errors.tensor_with_value(item.value.span, kind, name))
    unit = isinstance(item.range, ast.Unit)
    bounds: Range | None = None
    if item.range is not None and item.is_complex:
        out.report(errors.complex_range(item.range.span, name))
    elif isinstance(item.range, ast.Interval):
        bounds = _range(out, item.range)
    elif unit and item.range is not None and not dims:
        out.report(errors.unit_without_dims(item.range.span, name))
    table = out.inputs if kind == "input" else out.params
    table[name] = Tensor(name, dims, number, bounds, unit, item.span)
    out.arguments.append(name)


def _range(out: _Collector, interval: ast.Interval) -> Range | None:
    """The range of an interval of constants that is not empty."""
    ends: list[float] = []
    for bound in (interval.low, interval.high):
        value = fold(bound, out.statics)
        if value is None:
            out.report(errors.range_bound(bound.span))
            return None
        ends.append(float(value))
    low, high = ends
    open_end = interval.low_open or interval.high_open
    if low > high or (low == high and (open_end or math.isinf(low))):
        out.report(errors.empty_range(interval.span, low, high, open_end))
        return None
    return Range(low, high, interval.low_open, interval.high_open)


# ---------------------------------------------------------------- the scan as a whole


def _check_whole(out: _Collector, scan: ast.Scan) -> None:
    if not out.inputs:
        out.report(errors.no_input(scan.name.span, scan.name.text))
    if not out.outputs:
        out.report(errors.no_output(scan.name.span, scan.name.text))
