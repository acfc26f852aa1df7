"""Prints the declarations of a scan as the table that the generated module reads at run time.

In: the names of a scan.  Out: lines.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from scandsl.ir.nodes import Dims, Recurrence, Tensor
from scandsl.plan.launches import FIELDS, Measured, Table, entries_of
from scandsl.render.form import RenderedMove, RenderedSlices, Tuned
from scandsl.render.layout import WIDTH
from scandsl.render.scan import ScanNames, StatePart, axis_order, base_names


@dataclass(frozen=True, slots=True)
class Node:
    """A bracketed list: `head`, items, `tail`."""

    head: str
    items: tuple[Node | str, ...]
    tail: str


def flat(node: Node | str) -> str:
    """A node on one line."""
    if isinstance(node, str):
        return node
    comma = "," if node.head.endswith("=(") and len(node.items) == 1 else ""
    return node.head + ", ".join(flat(i) for i in node.items) + comma + node.tail


def rendered(node: Node | str, indent: int = 0, room: int = 0) -> list[str]:
    """A node on one line if it fits, else exploded; `room` columns are kept free behind it."""
    text = flat(node)
    if isinstance(node, str) or indent + len(text) + room <= WIDTH or not node.items:
        return [text]
    lines = [node.head]
    for item in node.items:
        inner = rendered(item, indent + 4, 1)
        lines += ["    " + line for line in inner[:-1]]
        lines.append("    " + inner[-1] + ",")
    return [*lines, node.tail]


def strings(items: Dims) -> str:
    """A tuple of strings."""
    return "(" + ", ".join(f'"{i}"' for i in items) + ("," if len(items) == 1 else "") + ")"


def number(value: float) -> str:
    """A float as text."""
    if math.isinf(value):
        return "math.inf" if value > 0 else "-math.inf"
    return repr(float(value)).replace("e+", "e")


def scan_table(names: ScanNames, backends: tuple[str, ...], state_class: str | None) -> list[str]:
    """The `_Scan(...)` of one scan."""
    recurrence = names.recurrence
    fixed = [d for d in recurrence.dims if d.size is not None and d.base is None]
    static = ", ".join(f'"{d.name}": {d.size}' for d in fixed)
    outputs = [_field(recurrence, o.name, o.dims, o.kind.value, 0, "") for o in recurrence.outputs]
    of = {m.name: m.of for m in names.state}
    state = [_field(recurrence, p.name, p.dims, p.kind, p.depth, of[p.name]) for p in names.state]
    node = Node(
        f"{names.table} = _Scan(",
        (
            f'name="{names.public}"',
            Node("tensors=(", tuple(_argument(names, t) for t in names.tensors), ")"),
            f"static={{{static}}}",
            f"scalars={strings(tuple(names.scalars.values()))}",
            Node("outputs=(", tuple(outputs), ")"),
            Node("state=(", tuple(state), ")"),
            f"state_type={state_class}",
            f"backends={strings(backends)}",
        ),
        ")",
    )
    return rendered(node)


def _bases(recurrence: Recurrence, dims: Dims) -> Dims:
    bases = base_names(recurrence.dims)
    return tuple(bases[d] for d in dims)


def _argument(names: ScanNames, tensor: Tensor) -> Node:
    recurrence = names.recurrence
    items = [
        f'"{names.arguments[tensor.name]}"',
        "3" if names.is_input(tensor.name) else "1",
        strings(_bases(recurrence, tensor.dims)),
    ]
    order = axis_order(recurrence, tensor.dims)
    if order is not None:
        items.append(f"order={order}")
    if tensor.kind.value == "complex":
        items.append("is_complex=True")
    if tensor.range is not None:
        items.append(f"low={number(tensor.range.low)}")
        items.append(f"high={number(tensor.range.high)}")
        items += ["low_open=True"] if tensor.range.low_open else []
        items += ["high_open=True"] if tensor.range.high_open else []
    if tensor.unit:
        items.append(f"unit={_unit_axes(recurrence, tensor)}")
    return Node("_Argument(", tuple(items), ")")


def _unit_axes(recurrence: Recurrence, tensor: Tensor) -> str:
    """Trailing axes that make one vector: those whose size is open, or else all."""
    static = {d.name for d in recurrence.dims if d.size is not None}
    count = len(tensor.dims)
    axes = [i - count for i, d in enumerate(tensor.dims) if d not in static]
    axes = axes or [i - count for i in range(count)]
    return "(" + ", ".join(map(str, axes)) + ("," if len(axes) == 1 else "") + ")"


def _field(recurrence: Recurrence, name: str, dims: Dims, kind: str, depth: int, of: str) -> Node:
    items = [f'"{name}"', strings(_bases(recurrence, dims)), f'"{kind}"']
    order = axis_order(recurrence, dims)
    if order is not None:
        items.append(f"order={order}")
    if depth:
        items.append(f"depth={depth}")
    if of:
        items.append(f'of="{of}"')
    return Node("_Field(", tuple(items), ")")


def slices_table(slices: RenderedSlices) -> list[str]:
    """The `_Slicing(...)` of one form, and the comma behind it."""
    maps = Node("maps=(", slices.maps, ")")
    moves = Node("moves=(", tuple(map(_move, slices.moves)), ")")
    steps = ("steps=True",) if slices.steps else ()
    items = (maps, f"ends={slices.ends}", moves, *steps)
    lines = rendered(Node("_Slicing(", items, ")"), 12, 1)
    return [*lines[:-1], lines[-1] + ","]


def _move(move: RenderedMove) -> Node:
    items = [f"level={move.level}"] if move.level else []
    if move.moved:
        items += [f'moved="{move.moved}"', f'back="{move.back}"']
    if move.window:
        items.append("window=True")
    if move.dims:
        items += [f"dims={strings(move.dims)}", f"over={move.over}"]
    return Node("_Move(", tuple(items), ")")


def state_lines(parts: tuple[StatePart, ...], name: str) -> list[str]:
    """The named tuple of a state with several parts."""
    lines = [f"class {name}(NamedTuple):", '    """What is carried from token to token."""', ""]
    lines += [f"    {part.python}: Tensor  # {state_shape(part)}" for part in parts]
    return lines


def state_shape(part: StatePart) -> str:
    """The shape of a part of a state, for readers."""
    if part.kind == "time":
        return "[N]"
    return f"[{', '.join(['N', 'H', *([str(part.depth)] if part.depth else []), *part.dims])}]"


def tuned_of(launches: Table, structure: str, name: str) -> tuple[Tuned | None, tuple[str, ...]]:
    """What a form's measured launches are looked up in, and the text of that constant."""
    found = entries_of(launches, structure)
    if not found and not launches.open:
        return None, ()
    tuned = Tuned(f"_{name.strip('_')}_tuned".upper())
    return tuned, ("\n".join(launch_table(tuned.table, found)),)


def launch_table(name: str, entries: Sequence[Measured]) -> list[str]:
    """The measured launches of a form, by architecture, type of kept states, and sizes."""
    if not entries:
        return [f"{name}: dict[tuple[Any, ...], _Tuned] = {{}}"]
    rows: list[Node | str] = []
    for entry in entries:
        key = ", ".join([f'"{entry.arch}"', f'"{entry.dtype}"', *map(str, entry.sizes)])
        launches: list[Node | str] = []
        for kernel, config in sorted(entry.kernels.items()):
            pairs = ((name, getattr(config, name)) for name in FIELDS)
            words = ", ".join(f"{name}={x}" for name, x in pairs if x is not None)
            launches.append(f'"{kernel}": _Launch({words})')
        items: tuple[Node | str, ...] = (str(entry.chunk or 0), Node("{", tuple(launches), "}"))
        rows.append(Node(f"({key}): _Tuned(", items, ")"))
    return rendered(Node(f"{name} = {{", tuple(rows), "}"))
