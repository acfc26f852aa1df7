"""What states are at the start of a chunk that begins where an `every` block does.

In: a `Block`.  Out: the value with which each state that a block sets begins the chunk, as values
of a chunk program without rows.  A chunk in whose middle the sequence was cut, or without tokens,
starts no block: its states begin with what it is handed.
"""

from __future__ import annotations

from scandsl.analysis.program import Block
from scandsl.ir.builder import Builder
from scandsl.ir.nodes import Every, Input, Kind, Prev, Ref, Time, made_of, operands
from scandsl.ir.rewrite import with_operands
from scandsl.kernels.program import POSITION, ROW


def block_starts(builder: Builder, block: Block, row: Ref) -> dict[str, Ref]:
    """The states' values after what the blocks do, by name; `row` tells which rows hold a token."""
    values = block.whole.values
    first = _First(builder, row)
    found: dict[Ref, Ref] = {}
    for ref in sorted(made_of(values, [ref for _, ref in block.starts])):
        value = values[ref]
        match value.op:
            case Prev(state):
                found[ref] = builder.load(state, value.dims, value.kind)
            case Input(name):
                rows = builder.emit(Input(name), (ROW, *value.dims), value.kind)
                found[ref] = first.of(rows)
            case Time():
                found[ref] = first.of(first.position)
            case Every(period):
                found[ref] = first.starts(period)
            case op:
                moved = with_operands(op, [found[r] for r in operands(op)])
                found[ref] = builder.emit(moved, value.dims, value.kind, value.name, value.span)
    return {name: found[ref] for name, ref in block.starts}


class _First:
    """What is known of the first row."""

    def __init__(self, builder: Builder, row: Ref) -> None:
        self.b = builder
        self.position = builder.load(POSITION, (ROW,), Kind.INT)
        self.row = row
        self.here = builder.binary("eq", builder.iota(ROW), builder.const(0, Kind.INT))

    def of(self, rows: Ref) -> Ref:
        """A value of the first row."""
        b, kind = self.b, self.b.kind_of(rows)
        if kind is Kind.BOOL:
            counted = b.sum(
                b.cast(b.where(self.here, rows, b.const(False, kind)), Kind.INT), (ROW,)
            )
            return b.binary("gt", counted, b.const(0, Kind.INT))
        return b.sum(b.where(self.here, rows, b.const(0, kind)), (ROW,))

    def starts(self, period: int) -> Ref:
        """Whether the first row holds a token, and one where a block starts."""
        b = self.b
        rest = b.binary("mod", self.position, b.const(period, Kind.INT))
        found = b.binary("and", b.binary("eq", rest, b.const(0, Kind.INT)), self.row)
        return self.of(found)
