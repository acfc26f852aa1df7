"""Prints the values of a kernel as Triton statements.

In: a `Kernel` and the texts of its leaves.  Out: lines of a kernel's body.  A tile has one axis per
dimension of its value, in canonical order, padded to a power of two.  Numbers in the padding are
arbitrary unless a value is *clean* along a dimension, which means zero there; whatever is summed is
made clean first.
"""

from __future__ import annotations

import keyword
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from typing_extensions import assert_never

from scandsl.diagnostics import InternalError
from scandsl.ir.nodes import (
    Binary,
    Cast,
    Clamp,
    Const,
    Contract,
    CumProd,
    CumSum,
    Dims,
    Every,
    Expand,
    Grad,
    Input,
    Insert,
    Inverse,
    Iota,
    Kind,
    Lag,
    LagState,
    Load,
    MakeComplex,
    Normalize,
    Op,
    Param,
    Prev,
    Recur,
    Reduce,
    Ref,
    Rename,
    Row,
    Scalar,
    Scores,
    ScoresAdjoint,
    Segment,
    SegmentAdjoint,
    SegmentProduct,
    Select,
    Size,
    Spread,
    Stack,
    StopGrad,
    Tangent,
    Time,
    Unary,
    Value,
    Where,
    operands,
)
from scandsl.kernels.apart import is_matrix_product
from scandsl.kernels.program import COLUMN, ROW
from scandsl.render import triton_expressions as expressions
from scandsl.render.layout import weight
from scandsl.render.padding import wild

WIDTH = 80
_ZERO_KEEPING = frozenset({
    "neg", "log1p", "expm1", "sqrt", "abs", "sign", "floor", "sin", "tanh", "silu", "relu", "elu",
    "gelu", "erf", "re", "conj",
})  # fmt: skip


_TYPES = {Kind.BOOL: "tl.int1", Kind.INT: "tl.int32"}


@dataclass(slots=True)
class Tile:
    """How a value is written: its text, whether that is a name, and where its padding is zero.

    `raw` is a name of the same tile in its storage type, for matrix products.
    """

    text: str
    atom: bool
    clean: frozenset[str]
    raw: str | None = None
    number: bool = False  # a Python number, which has no `.to`
    wild: frozenset[str] | None = None  # where the padding may hold infinities or NaN, if known


@dataclass(slots=True)
class TritonPrinter:
    """Prints one kernel's values; `leaf` gives tiles of inputs, params and loads.

    `axis_name` maps a dimension to the names of its offsets (`i`, `o_K`), block size and mask.
    """

    values: Sequence[Value]
    leaf: Callable[[Ref, Value], Tile]
    axis: Mapping[str, Axis]
    users: Mapping[Ref, int]
    lines: list[str] = field(default_factory=list)
    tiles: dict[Ref, Tile] = field(default_factory=dict)
    taken: set[str] = field(default_factory=set)
    count: int = 0
    by_entry: frozenset[Ref] = frozenset()  # inputs of which only single entries are taken
    apart: frozenset[Ref] | None = None  # in a fused walk: products that all warps share
    late: frozenset[Ref] = frozenset()  # and what is made of its carries
    through: bool = False  # whether factors of products may go through memory

    # ------------------------------------------------------------ names and lines

    def fresh(self, hint: str | None) -> str:
        """A name not used before in this kernel."""
        base = hint or f"x{self.count}"
        if keyword.iskeyword(base) or base in ("l", "I", "O"):  # linters take these for digits
            base += "_"
        if hint is None:
            self.count += 1
        name = base
        number = 2
        while name in self.taken:
            name = f"{base}_{number}"
            number += 1
        self.taken.add(name)
        return name

    def assign(self, text: str, hint: str | None = None) -> str:
        """A statement giving `text` a name, broken over lines when long."""
        name = self.fresh(hint)
        self.lines.extend(statement(name, text))
        return name

    def tile(self, ref: Ref) -> Tile:
        """The tile of a value, printed before."""
        return self.tiles[ref]

    def named(self, ref: Ref) -> str:
        """A name (or number) for a value."""
        tile = self.tiles[ref]
        if not tile.atom and not tile.number:
            tile.text = self.assign(strip(tile.text))
            tile.atom = True
        return tile.text

    def dims(self, ref: Ref) -> Dims:
        """Dimensions of a value."""
        return self.values[ref].dims

    def aligned(self, ref: Ref, dims: Dims) -> str:
        """A value's text with an axis for each of `dims`, to be broadcast."""
        return self.align_text(ref, self.dims(ref), dims)

    def align_text(self, ref: Ref, own: Dims, dims: Dims) -> str:
        """A value whose axes stand for `own`, spread over the axes `dims`."""
        if not own or own == dims:
            return self.tiles[ref].text
        index = ", ".join(":" if d in own else "None" for d in dims)
        return f"{self.named(ref)}[{index}]"

    def shape(self, dims: Dims) -> str:
        """The shape of a tile."""
        return "[" + ", ".join(self.axis[d].block for d in dims) + "]"

    def mask(self, dim: str, dims: Dims) -> str:
        """The mask of a dimension, aligned with `dims`."""
        mask = self.axis[dim].mask
        if dims == (dim,):
            return mask
        return f"{mask}[" + ", ".join(":" if d == dim else "None" for d in dims) + "]"

    def cleaned(self, ref: Ref, over: Dims, fill: str = "0.0") -> str:
        """A name of the value with `fill` in the padding of the dimensions `over`."""
        tile, dims = self.tiles[ref], self.dims(ref)
        need = [d for d in over if d in dims and self.axis[d].padded]
        if fill == "0.0":
            need = [d for d in need if d not in tile.clean]
        if not need:
            return self.named(ref)
        mask = " & ".join(self.mask(d, dims) for d in need)
        name = self.assign(f"tl.where({mask}, {tile.text}, {fill})")
        if fill == "0.0":
            self.tiles[ref] = Tile(name, True, tile.clean | set(need), wild=tile.wild)
        return name

    # ------------------------------------------------------------ values

    def run(self, refs: Sequence[Ref]) -> None:
        """Print all values, in order."""
        for ref in refs:
            if ref not in self.tiles and ref not in self.by_entry:
                wildness = self._wildness(ref)
                self.tiles[ref] = replace(self._settle(ref, self._tile(ref)), wild=wildness)

    def _wildness(self, ref: Ref) -> frozenset[str]:
        """Dimensions along which the padding of a value may hold what is not finite."""
        value = self.values[ref]
        of = [r for r in operands(value.op) if r in self.tiles]
        given = frozenset[str]().union(*map(self._wild, of))
        zeros = self.tiles[of[0]].clean if of else frozenset[str]()
        shifted = self._apart_in(of[0]) if of else frozenset[str]()
        divisor = frozenset(self.dims(of[-1])) if of else frozenset[str]()
        return wild(value.op, self._padded(ref), given, zeros, shifted, divisor)

    def _apart_in(self, ref: Ref) -> frozenset[str]:
        """Dimensions that one term of a sum has not: it is added in the padding of the other."""
        op = self.values[ref].op
        if not (isinstance(op, Binary) and op.fn in ("add", "sub")):
            return frozenset()
        terms = (r for r in (op.a, op.b) if not isinstance(self.values[r].op, Const))
        return frozenset(d for r in terms for d in self.dims(ref) if d not in self.dims(r))

    def _wild(self, ref: Ref) -> frozenset[str]:
        """The same of a printed value; one of which nothing is known is so where it is not zero."""
        tile = self.tiles[ref]
        return (self._padded(ref) if tile.wild is None else tile.wild) - tile.clean

    def _padded(self, ref: Ref) -> frozenset[str]:
        rows = (ROW, COLUMN)
        return frozenset(d for d in self.dims(ref) if d not in rows and self.axis[d].padded)

    def _product_clean(self, a: Ref, b: Ref) -> frozenset[str]:
        """Where a product is zero: where a factor is, if the other one is finite there."""
        clean_a, clean_b = self.tiles[a].clean, self.tiles[b].clean
        return (clean_a - self._wild(b)) | (clean_b - self._wild(a))

    def settle_operand(self, ref: Ref) -> None:
        """Give a value its name here, and its form as a matrix operand if it is a matrix."""
        name = self.named(ref)
        tile = self.tiles[ref]
        if len(self.dims(ref)) > 1 and tile.raw is None:
            tile.raw = self.assign(f"{name}.to(DOT)")

    def added(self, ref: Ref, total: str) -> tuple[str, frozenset[str]]:
        """An assignment (from its sign on) that adds a value to a total; where it is clean."""
        op = self.values[ref].op
        if isinstance(op, Scores):
            return f"= {self._scores(op, total)}", frozenset()
        tile = self._tile(ref)
        return f"+= {strip(tile.text)}", tile.clean

    def _settle(self, ref: Ref, tile: Tile) -> Tile:
        """Give the value a name, unless it is short and used once."""
        short = weight(tile.text) <= 44 and self.users.get(ref, 0) <= 1
        if tile.number:  # the interpreter makes tensors of names, and those without axes misbehave
            return tile
        if tile.atom or (short and isinstance(self.values[ref].op, Unary | Binary | Cast)):
            return tile
        name = self.assign(strip(tile.text), _hint(self.values[ref]))
        return Tile(name, True, tile.clean, tile.raw)

    def _tile(self, ref: Ref) -> Tile:  # noqa: C901 - one line per operation
        value = self.values[ref]
        match value.op:
            case Const(number):
                return Tile(_number(number), True, _zero(number), number=True)
            case Size(dim):
                return Tile(self.axis[dim].size, True, frozenset(), number=True)
            case Iota(dim):
                return Tile(self.axis[dim].offsets, True, frozenset())
            case Row(dim):
                return Tile(self.axis[dim].mask, True, frozenset())
            case Input() | Param() | Load() | Scalar():
                return self.leaf(ref, value)
            case Unary(fn, x):
                return self._unary(fn, x)
            case Binary():
                return self._binary(value.op, value.dims, value.kind)
            case Cast(x):
                return self._cast(x, value.kind)
            case Clamp(x, low, high):
                lower = (
                    f"tl.maximum({self.aligned(x, value.dims)}, {self.aligned(low, value.dims)})"
                )
                return self._plain(f"tl.minimum({lower}, {self.aligned(high, value.dims)})")
            case Where(c, a, b):
                return self._where(value, c, a, b)
            case StopGrad(x):
                return self.tiles[x]
            case Contract():
                return self._contract(value, value.op, ref in (self.apart or ()))
            case Reduce():
                return self._reduce(value.op)
            case Normalize():
                return self._normalize(value.op)
            case Rename(x, pairs):
                return self._rename(ref, x, dict(pairs))
            case Expand(x):
                text = f"tl.broadcast_to({self.aligned(x, value.dims)}, {self.shape(value.dims)})"
                if not self.dims(x):
                    kind = _TYPES.get(value.kind, "tl.float32")
                    text = f"tl.full({self.shape(value.dims)}, {self.tiles[x].text}, {kind})"
                own = self.tiles[x].clean
                zero = frozenset(value.dims) if self._is_zero(x) else frozenset()
                return Tile(text, False, own | zero)
            case CumSum(x, dim, reverse, exclusive):
                return self._cumsum(x, dim, reverse, exclusive)
            case Inverse(x):
                return self._plain(f"_tile_inverse({self.named(x)}, i, CHUNK, EXACT)")
            case Segment(x):
                return self._segment(x)
            case SegmentAdjoint(g):
                return self._segment_adjoint(g)
            case Select(x) if x in self.by_entry:
                return self.leaf(ref, value)
            case Select(x, dim, index):
                return self._select(x, dim, index)
            case Insert(x, dim, index, y):
                here = f"{self._offsets(dim, value.dims)} == {index}"
                chosen = ", ".join(self.aligned(r, value.dims) for r in (y, x))
                return self._plain(f"tl.where({here}, {chosen})")
            case Stack(xs, dim):
                text = "0.0" if value.kind is Kind.REAL else "0"
                for index, x in enumerate(xs):
                    here = f"{self._offsets(dim, value.dims)} == {index}"
                    text = self.assign(f"tl.where({here}, {self.aligned(x, value.dims)}, {text})")
                if value.kind is Kind.BOOL:
                    text = f"({text} != 0)"
                return Tile(text, value.kind is not Kind.BOOL, frozenset())
            case CumProd():
                return self._cumprod(value.op)
            case SegmentProduct(x, exclusive=exclusive):
                return self._segment_product(x, exclusive)
            case Scores():
                return self._plain(self._scores(value.op, "tl.zeros([CHUNK, CHUNK], tl.float32)"))
            case ScoresAdjoint():
                return self._scores_adjoint(value.op)
            case Spread(m, x, a, _, _, over, factors, _):
                texts = ", ".join(self.cleaned(r, (over,)) for r in (x, x, a))
                tail = f"i, 0, DOT, PRECISION{_factors(factors)}"
                return self._plain(f"_tile_scores_adjoint({texts}, {self.named(m)}, {tail})")
            case Time() | Every() | Prev() | MakeComplex() | Lag() | LagState() | Grad():
                raise InternalError(f"{type(value.op).__name__} has no place in a kernel")
            case Recur() | Tangent():
                raise InternalError(f"{type(value.op).__name__} has no place in a kernel")
            case unreachable:
                assert_never(unreachable)

    def _plain(self, text: str) -> Tile:
        return Tile(text, False, frozenset())

    def _is_zero(self, ref: Ref) -> bool:
        op = self.values[ref].op
        return isinstance(op, Const) and op.value == 0

    def _offsets(self, dim: str, dims: Dims) -> str:
        offsets = self.axis[dim].offsets
        if dims == (dim,):
            return offsets
        return f"{offsets}[" + ", ".join(":" if d == dim else "None" for d in dims) + "]"

    def _unary(self, fn: str, x: Ref) -> Tile:
        text = self.named(x) if expressions.repeats_operand(fn) else self.tiles[x].text
        clean = self.tiles[x].clean if fn in _ZERO_KEEPING else frozenset()
        return Tile(expressions.unary(fn, text), False, clean)

    def _binary(self, op: Binary, dims: Dims, kind: Kind) -> Tile:
        exponent = self.values[op.b].op
        names = op.fn in ("mod", "pow", "logaddexp")
        if op.fn == "pow" and isinstance(exponent, Const):
            short = expressions.power(self.named(op.a), exponent.value)
            if short is not None:
                return self._plain(short)
        if names:
            self.named(op.a)
            self.named(op.b)
        left, right = op.a, op.b
        if op.fn in ("and", "or") and self.tiles[left].number:
            left, right = right, left  # a number has no operator for a tensor behind it
        text = expressions.binary(
            op.fn, self.aligned(left, dims), self.aligned(right, dims), kind is Kind.INT
        )
        if not names and self.tiles[op.a].number and self.tiles[op.b].number:
            return Tile(text, False, frozenset(), number=op.fn not in ("max", "min"))
        a, b = self.tiles[op.a].clean, self.tiles[op.b].clean
        clean: frozenset[str] = frozenset()
        if op.fn == "mul":
            clean = self._product_clean(op.a, op.b)
        elif op.fn in ("add", "sub"):
            clean = a & b
        elif op.fn == "div":
            clean = a - frozenset(self.dims(op.b))
        return Tile(text, False, clean)

    def _cast(self, x: Ref, kind: Kind) -> Tile:
        tile = self.tiles[x]
        if tile.number and kind is Kind.REAL and not isinstance(self.values[x].op, Const):
            return Tile(f"({tile.text} * 1.0)", False, tile.clean, number=True)
        if tile.number:
            return tile
        target = "tl.float32" if kind is Kind.REAL else "tl.int32"
        return Tile(f"{self.named(x)}.to({target})", False, tile.clean)

    def _where(self, value: Value, c: Ref, a: Ref, b: Ref) -> Tile:
        dims = value.dims
        texts = ", ".join(self.aligned(r, dims) for r in (c, a, b))
        clean_a = frozenset(dims) if self._is_zero(a) else self.tiles[a].clean
        clean_b = frozenset(dims) if self._is_zero(b) else self.tiles[b].clean
        return Tile(f"tl.where({texts})", False, clean_a & clean_b)

    def _rename(self, ref: Ref, x: Ref, table: Mapping[str, str]) -> Tile:
        tile = self.tiles[x]
        moved = tuple(table.get(d, d) for d in self.dims(x))
        clean = frozenset(table.get(d, d) for d in tile.clean)
        dims = self.dims(ref)
        if moved == dims:
            return Tile(self.named(x), True, clean, tile.raw)
        order = ", ".join(str(moved.index(d)) for d in dims)
        return Tile(f"tl.permute({self.named(x)}, ({order}))", False, clean)

    def _select(self, x: Ref, dim: str, index: int) -> Tile:
        dims = self.dims(x)
        here = f"{self._offsets(dim, dims)} == {index}"
        kind = self.values[x].kind
        entry = self.named(x) if kind is not Kind.BOOL else f"{self.named(x)}.to(tl.int32)"
        empty = "0.0" if kind is Kind.REAL else "0"
        text = f"tl.sum(tl.where({here}, {entry}, {empty}), {dims.index(dim)})"
        text = f"({text} != 0)" if kind is Kind.BOOL else text
        return Tile(text, False, self.tiles[x].clean - {dim})

    # ------------------------------------------------------------ sums

    def _operand(self, ref: Ref, over: Dims, rows: Dims, columns: Dims) -> str:
        """A matrix operand in the type of the matrix units; several dimensions count as one."""
        tile = self.tiles[ref]
        if tile.raw is not None and set(over) <= tile.clean | {
            d for d in over if not self.axis[d].padded
        }:
            text = tile.raw
        else:
            text = self.cleaned(ref, over)
        text, dims, order = f"{text}.to(DOT)", self.dims(ref), (*rows, *columns)
        if len(order) == 2:
            return text if dims == order else f"tl.trans({text})"
        if dims != order:
            text = f"tl.permute({text}, ({', '.join(str(dims.index(d)) for d in order)}))"
        return f"tl.reshape({text}, [{self._volume(rows)}, {self._volume(columns)}])"

    def _volume(self, dims: Dims) -> str:
        """The size on chip of several dimensions together."""
        return " * ".join(self.axis[d].block for d in dims)

    def _contract(self, value: Value, op: Contract, apart: bool) -> Tile:
        a, b = op.a, op.b
        only_a = tuple(d for d in self.dims(a) if d not in self.dims(b))
        only_b = tuple(d for d in self.dims(b) if d not in self.dims(a))
        if not is_matrix_product(self.dims(a), self.dims(b), op.over):
            return self._multiply_and_sum(value, op)
        if value.dims[0] != only_a[0]:
            a, b, only_a, only_b = b, a, only_b, only_a
        turned = len(op.over) > 1 and only_a == (ROW,) and len(only_b) == 1
        if turned:  # a row of so many numbers is a larger operand than a column
            a, b, only_a, only_b = b, a, only_b, only_a
        left = self._operand(a, op.over, only_a, op.over)
        right = self._operand(b, op.over, op.over, only_b)
        clean = self._product_clean(a, b) & frozenset(value.dims)
        text = f"tl.dot({left}, {right}, input_precision=PRECISION)"
        if self.through:
            text = f"_dot_through({left}, {right}, products, THROUGH, PRECISION)"
        if self.apart is not None and (apart or only_a == (ROW,)):
            text = f"_apart({left}, {right}, count, PRECISION)"
            if not apart:
                late = bool({op.a, op.b} & self.late)
                text = f"_of_rows({left}, {right}, count, PRECISION, LATE={late})"
        if turned:
            text = f"tl.trans({text})"
        if len(value.dims) > 2:
            dims = (*only_a, *only_b)
            text = f"tl.reshape({text}, {self.shape(dims)})"
            if dims != value.dims:
                order = ", ".join(str(dims.index(d)) for d in value.dims)
                text = f"tl.permute({text}, ({order}))"
        return Tile(text, False, clean)

    def _multiply_and_sum(self, value: Value, op: Contract) -> Tile:
        union = set(self.dims(op.a)) | set(self.dims(op.b))
        full = tuple(d for d in self.axis if d in union)
        for ref in (op.a, op.b):
            self.cleaned(ref, op.over)
        text = f"{self.aligned(op.a, full)} * {self.aligned(op.b, full)}"
        text = self._sum_axes(text, full, op.over)
        clean = self._product_clean(op.a, op.b) & frozenset(value.dims)
        return Tile(text, False, clean)

    def _sum_axes(self, text: str, dims: Dims, over: Dims, fn: str = "sum") -> str:
        left = list(dims)
        for dim in over:
            text = f"tl.{fn}({text}, {left.index(dim)})"
            left.remove(dim)
        return text

    def _reduce(self, op: Reduce) -> Tile:
        dims = self.dims(op.x)
        clean = self.tiles[op.x].clean - frozenset(op.over)
        if op.fn in ("sum", "mean"):
            text = self.cleaned(op.x, op.over)
            again = dims == (ROW,) and self._of_row_sums(op.x)
            total = f"_sum_of_sums({text})" if again else self._sum_axes(text, dims, op.over)
            if op.fn == "mean":
                total = f"({total} / {self._size(op.over)})"
            return Tile(total, False, clean)
        if op.fn == "argmax" and len(op.over) > 1:
            return self._first_of_largest(op, dims)
        if op.fn == "argmax":
            filled = self.cleaned(op.x, op.over, 'float("-inf")')
            return self._plain(f"tl.argmax({filled}, {dims.index(op.over[0])})")
        worst = 'float("inf")' if op.fn == "min" else 'float("-inf")'
        filled = self.cleaned(op.x, op.over, worst)
        fn = "min" if op.fn == "min" else "max"
        best = self._sum_axes(filled, dims, op.over, fn)
        if op.fn != "logsumexp":
            return self._plain(best)
        top = self.assign(best)
        safe = self.assign(f'tl.where({top} == float("-inf"), 0.0, {top})')
        kept = tuple(d for d in dims if d not in op.over)
        spread = self._spread(safe, kept, dims)
        total = self._sum_axes(f"tl.exp({filled} - {spread})", dims, op.over)
        return self._plain(f"(tl.log({total}) + {safe})")

    def _of_row_sums(self, ref: Ref) -> bool:
        """Whether numbers per row are made of sums over rows' entries, with no running sum."""
        todo, seen = [ref], set[Ref]()
        while todo:
            place = todo.pop()
            op = self.values[place].op
            per_row = self.dims(place) == (ROW,) and not isinstance(op, CumSum | CumProd)
            if place in seen or not per_row:
                continue
            if isinstance(op, Reduce | Contract):
                return True
            seen.add(place)
            todo += operands(op)
        return False

    def _first_of_largest(self, op: Reduce, dims: Dims) -> Tile:
        """`argmax` over several dimensions: the least row-major place where the largest is."""
        filled = self.cleaned(op.x, op.over, 'float("-inf")')
        kept = tuple(d for d in dims if d not in op.over)
        top = self.assign(self._sum_axes(filled, dims, op.over, "max"))
        place = ""
        for dim in op.over:
            here = self._offsets(dim, dims)
            place = f"({place} * {self.axis[dim].size} + {here})" if place else here
        inside = [self.mask(d, dims) for d in op.over if self.axis[d].padded]
        best = " & ".join([f"({filled} == {self._spread(top, kept, dims)})", *inside])
        text = self.assign(f"tl.where({best}, {place}, {self._size(op.over)})")
        return self._plain(self._sum_axes(text, dims, op.over, "min"))

    def _spread(self, name: str, kept: Dims, dims: Dims) -> str:
        if not kept or kept == dims:
            return name
        return f"{name}[" + ", ".join(":" if d in kept else "None" for d in dims) + "]"

    def _size(self, over: Dims) -> str:
        return " * ".join(self.axis[d].size for d in over)

    def _normalize(self, op: Normalize) -> Tile:
        dims = self.dims(op.x)
        kept = tuple(d for d in dims if d not in op.over)
        if op.fn == "softmax":
            filled = self.cleaned(op.x, op.over, 'float("-inf")')
            top = self.assign(self._sum_axes(filled, dims, op.over, "max"))
            weight = self.assign(f"tl.exp({filled} - {self._spread(top, kept, dims)})")
            total = self.assign(self._sum_axes(weight, dims, op.over))
            clean = frozenset(op.over)  # of zeros along another dimension it is one share for each
            return Tile(f"({weight} / {self._spread(total, kept, dims)})", False, clean)
        x = self.cleaned(op.x, op.over)
        clean = self.tiles[op.x].clean if op.eps > 0 else frozenset()
        if op.fn == "layernorm":
            mean = self.assign(f"{self._sum_axes(x, dims, op.over)} / ({self._size(op.over)})")
            inside = " & ".join(self.mask(d, dims) for d in op.over)
            x = self.assign(f"tl.where({inside}, {x} - {self._spread(mean, kept, dims)}, 0.0)")
        power = self._sum_axes(f"{x} * {x}", dims, op.over)
        if op.fn != "l2norm":
            power = f"{power} / ({self._size(op.over)})"
        root = self.assign(f"tl.rsqrt({power} + {op.eps!r})")
        return Tile(f"({x} * {self._spread(root, kept, dims)})", False, clean | frozenset(op.over))

    def _scores(self, op: Scores, total: str) -> str:
        """Scores, added to a total."""
        texts = ", ".join(self.cleaned(r, (op.over,)) for r in (op.q, op.k, op.a))
        tail = _factors(op.factors)
        if not op.factors:
            tail = f", SHORT=SHORT, PARTS={1 if self._short(op.a) else 3}"
        return f"_tile_scores({texts}, {total}, i, DOT, PRECISION{tail})"

    def _scores_adjoint(self, op: ScoresAdjoint) -> Tile:
        texts = ", ".join(self.cleaned(r, (op.over,)) for r in (op.q, op.k, op.a))
        texts = f"{texts}, {self.named(op.g)}, i"
        if op.factors and op.of == "a":
            return self._plain(f"_tile_factors_adjoint({texts}, DOT, PRECISION)")
        place = "qka".index(op.of)
        tail = f"{place}, DOT, PRECISION{_factors(op.factors)}"
        return self._plain(f"_tile_scores_adjoint({texts}, {tail})")

    def _cumprod(self, op: CumProd) -> Tile:
        dims = self.dims(op.x)
        axis = dims.index(op.dim)
        name = self._shifted(op.x, op.dim, op.reverse) if op.exclusive else self.named(op.x)
        flag = ", reverse=True" if op.reverse else ""
        return self._plain(f"tl.cumprod({name}, {axis}{flag})")

    def _shifted(self, x: Ref, dim: str, reverse: bool) -> str:
        """Each row's predecessor (or, reversed, successor); 1 where there is none."""
        dims, name = self.dims(x), self.named(x)
        offsets, place = self.axis[dim].offsets, self._offsets(dim, dims)
        step, least = ("+ 1", "tl.minimum") if reverse else ("- 1", "tl.maximum")
        edge = f"{self.axis[dim].block} - 1" if reverse else "0"
        if len(dims) == 1:
            near = f"{offsets}[None, :] == {offsets}[:, None] {step}"
            moved = self.assign(f"tl.sum(tl.where({near}, {name}[None, :], 0.0), 1)")
        else:
            inner = f"tl.broadcast_to({least}({place} {step}, {edge}), {self.shape(dims)})"
            moved = self.assign(f"tl.gather({name}, {self.assign(inner)}, {dims.index(dim)})")
        return self.assign(f"tl.where({place} == {edge}, 1.0, {moved})")

    def _segment_product(self, x: Ref, exclusive: bool) -> Tile:
        name = self._shifted(x, self.dims(x)[0], False) if exclusive else self.named(x)
        first = "i[None, :] + 1" if exclusive else "i[None, :]"
        factors = self.assign(f"tl.where(i[:, None] > {first}, {name}[:, None], 1.0)")
        total = self.assign(f"tl.cumprod({factors}, 0)")
        sign = ">" if exclusive else ">="
        return self._plain(f"tl.where(i[:, None] {sign} i[None, :], {total}, 0.0)")

    def _segment(self, x: Ref) -> Tile:
        return self._plain(f"_tile_segment({self.named(x)}, i, CHUNK)")

    def _segment_adjoint(self, g: Ref) -> Tile:
        lower = self.assign(f"tl.where(i[:, None] >= i[None, :], {self.tiles[g].text}, 0.0)")
        total = self.assign(f"tl.cumsum({lower}, 0, reverse=True)")
        text = f"tl.sum(tl.where(i[:, None] > i[None, :], {total}, 0.0), 1)"
        return Tile(text, False, frozenset())

    def _cumsum(self, x: Ref, dim: str, reverse: bool, exclusive: bool) -> Tile:
        dims = self.dims(x)
        axis = dims.index(dim)
        name = self.cleaned(x, (dim,))
        clean = self.tiles[x].clean
        if len(dims) == 2 and dim == ROW:
            parts = 1 if self._short(x) else 3
            short = "SHORT" if self.apart is None else "False"
            text = f"_tile_sums({name}, i, {parts}, {reverse}, {exclusive}, {short}, DOT)"
            return Tile(text, False, clean)
        if not exclusive:
            flag = ", reverse=True" if reverse else ""
            return Tile(f"tl.cumsum({name}, {axis}{flag})", False, clean)
        flag = ", reverse=True" if reverse else ""
        whole = self.assign(f"tl.cumsum({name}, {axis}{flag})")
        step = "+ 1" if reverse else "- 1"
        place = self._offsets(dim, dims)
        edge = f"{self.axis[dim].block} - 1" if reverse else "0"
        last = "tl.minimum" if reverse else "tl.maximum"
        inner = self.assign(f"tl.broadcast_to({last}({place} {step}, {edge}), {self.shape(dims)})")
        moved = self.assign(f"tl.gather({whole}, {inner}, {axis})")
        return Tile(f"tl.where({place} == {edge}, 0.0, {moved})", False, clean)

    def _short(self, ref: Ref) -> bool:
        """Whether a value is one of 16 bits where the vectors that the kernel loads are."""
        value = self.values[ref]
        match value.op:
            case Input():
                return len(value.dims) > 1
            case Const(number):
                return number in (0, 1, float("inf"), -float("inf"))
            case Where(_, a, b):
                return self._short(a) and self._short(b)
            case Expand(x) | Rename(x) | Unary("neg", x):
                return self._short(x)
            case _:
                return False


@dataclass(frozen=True, slots=True)
class Axis:
    """The names that belong to a dimension in a kernel."""

    offsets: str
    block: str
    mask: str
    size: str
    padded: bool


def _factors(factors: bool) -> str:
    return ", FACTORS=True" if factors else ""


def _hint(value: Value) -> str | None:
    return value.name if value.name and value.name.isascii() and value.name.isidentifier() else None


def _number(value: bool | int | float) -> str:
    if isinstance(value, bool):
        return "1" if value else "0"
    if value in (float("inf"), float("-inf")):
        return f'float("{value}")'
    return repr(value).replace("e+", "e")


def _zero(value: bool | int | float) -> frozenset[str]:
    del value
    return frozenset()


def strip(text: str) -> str:
    """`text` without one pair of parentheses around all of it."""
    if not (text.startswith("(") and text.endswith(")")):
        return text
    depth = 0
    for place, char in enumerate(text):
        depth += (char == "(") - (char == ")")
        if depth == 0 and place < len(text) - 1:
            return text
    return text[1:-1]


def statement(name: str, text: str) -> list[str]:
    """`name = text`; long lines are broken when the module is tidied."""
    return [f"{name} = {text}"]


def taken_by_entry(values: Sequence[Value], refs: Sequence[Ref]) -> frozenset[Ref]:
    """The inputs that a kernel uses only through single entries of a dimension."""
    found = {r for r in refs if isinstance(values[r].op, Input)}
    for ref in refs:
        op = values[ref].op
        if not isinstance(op, Select):
            found -= set(operands(op))
    return frozenset(found)


def use_counts(
    values: Sequence[Value], refs: Sequence[Ref], roots: Sequence[Ref]
) -> dict[Ref, int]:
    """How often each value is used by the others of a kernel and by its results."""
    counts: dict[Ref, int] = {}
    for ref in refs:
        for operand in operands(values[ref].op):
            counts[operand] = counts.get(operand, 0) + 1
    for root in roots:
        counts[root] = counts.get(root, 0) + 1
    return counts


__all__ = [
    "COLUMN",
    "ROW",
    "Axis",
    "Op",
    "Tile",
    "TritonPrinter",
    "statement",
    "taken_by_entry",
    "use_counts",
]
