"""Drops from a printed module what nothing in it reads.

In: the text of a module.  Out: the same text without private top-level functions, classes and
constants that no kept statement refers to, without unused imports, without sizes and parts of
tuples that a function takes and does not read, and without headings of sections that end up empty.
A name in a string does not count as a reference; the tuple `_HELPERS` of names shrinks to those
referred to.
"""

from __future__ import annotations

import ast
import gc
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

_LISTED = "_HELPERS"


@dataclass(slots=True)
class _Edits:
    """Lines to drop, and texts to put in place of others, by line (from 0)."""

    drop: set[int] = field(default_factory=set)
    change: dict[int, list[tuple[int, int, str]]] = field(default_factory=dict)
    replace: dict[int, str] = field(default_factory=dict)

    def applied(self, lines: Sequence[str]) -> list[str]:
        out = []
        for number, line in enumerate(lines):
            if number in self.drop:
                continue
            for start, end, text in sorted(self.change.get(number, ()), reverse=True):
                raw = line.encode()
                line = (raw[:start] + text.encode() + raw[end:]).decode()
            out.append(self.replace.get(number, line))
        return out

    def drop_statement(self, node: ast.stmt) -> None:
        first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", ()))])
        self.drop |= set(range(first - 1, (node.end_lineno or node.lineno)))


def shaken(text: str) -> str:
    """The module without what is not read."""
    with _no_collection():  # which would take longer than all that is done here
        return _shaken(text)


@contextmanager
def _no_collection() -> Iterator[None]:
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def _shaken(text: str) -> str:
    edits = _Edits()
    tree = ast.parse(text)
    for node, inside in _top_level(tree, edits):
        if isinstance(node, ast.FunctionDef):
            _locals(inside, edits)
    lines = text.split("\n")
    _comments(lines, edits)
    return "\n".join(_without_empty_sections(edits.applied(lines)))


# ---------------------------------------------------------------- the top level


def _top_level(tree: ast.Module, edits: _Edits) -> list[tuple[ast.stmt, list[ast.AST]]]:
    """Mark what goes; the statements that stay, each with all nodes in it."""
    private: dict[str, list[ast.stmt]] = {}
    imports: list[ast.Import | ast.ImportFrom] = []
    roots: list[ast.stmt] = []
    listed: ast.Assign | None = None
    for node in tree.body:
        name = _private_name(node)
        if isinstance(node, ast.Import | ast.ImportFrom):
            imports.append(node)
        elif name is None:
            roots.append(node)
        else:
            private.setdefault(name, []).append(node)
            if name == _LISTED and isinstance(node, ast.Assign):
                listed = node
    read, stay = _reached(roots, private)
    for name, nodes in private.items():
        for node in nodes if name not in read else ():
            edits.drop_statement(node)
    if listed is not None and _LISTED in read:
        _shrink(listed, read, edits)
    for node in imports:
        _import(node, read, edits)
    return stay


def _private_name(node: ast.stmt) -> str | None:
    """The name a statement defines, if it is private and may go when it is unused."""
    name: str | None = None
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        name = node.name
    elif isinstance(node, ast.Assign) and len(node.targets) == 1:
        target = node.targets[0]
        name = target.id if isinstance(target, ast.Name) else None
    elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        name = node.target.id
    return name if name is not None and name.startswith("_") and name[1:2] != "_" else None


def _reached(
    roots: Iterable[ast.stmt], private: dict[str, list[ast.stmt]]
) -> tuple[set[str], list[tuple[ast.stmt, list[ast.AST]]]]:
    """All names that the roots and what they refer to read; those statements, with their nodes."""
    read: set[str] = set()
    pending = list(roots)
    stay = []
    while pending:
        statement = pending.pop()
        inside = _nodes(statement)
        stay.append((statement, inside))
        for node in inside:
            if isinstance(node, ast.Name) and node.id not in read:
                read.add(node.id)
                pending.extend(private.get(node.id, ()))
    return read, stay


def _nodes(root: ast.AST) -> list[ast.AST]:
    """What `ast.walk` gives, in its order, in half the time: modules are long."""
    out = [root]
    for node in out:
        for name in node._fields:
            value = getattr(node, name, None)
            if type(value) is list:
                out += [x for x in value if isinstance(x, ast.AST)]
            elif isinstance(value, ast.AST) and value._fields:
                out.append(value)
    return out


def _shrink(node: ast.Assign, read: set[str], edits: _Edits) -> None:
    """Leave only names in the tuple that are read."""
    names = [n for n in ast.literal_eval(node.value) if n in read]
    edits.drop_statement(node)
    edits.drop.discard(node.lineno - 1)
    items = [f'    "{n}",' for n in names]
    edits.replace[node.lineno - 1] = "\n".join([f"{_LISTED} = (", *items, ")"])
    if len(names) < 2:
        edits.replace[node.lineno - 1] = (
            f'{_LISTED} = ("{names[0]}",)' if names else f"{_LISTED} = ()"
        )


def _import(node: ast.Import | ast.ImportFrom, read: set[str], edits: _Edits) -> None:
    if isinstance(node, ast.ImportFrom) and node.module == "__future__":
        return
    names = [a for a in node.names if (a.asname or a.name.split(".")[0]) in read]
    if len(names) == len(node.names):
        return
    edits.drop_statement(node)
    if names:
        edits.drop.discard(node.lineno - 1)
        edits.replace[node.lineno - 1] = ast.unparse(_with_names(node, names))


def _with_names(node: ast.Import | ast.ImportFrom, names: list[ast.alias]) -> ast.stmt:
    if isinstance(node, ast.ImportFrom):
        return ast.ImportFrom(node.module, names, node.level)
    return ast.Import(names)


# ---------------------------------------------------------------- inside functions


def _locals(inside: Sequence[ast.AST], edits: _Edits) -> None:
    """Mark sizes that a function does not read, and name the unread parts of tuples `_`."""
    loads = Counter(_loads(inside))
    loads.update(n for s in inside if isinstance(s, ast.Global) for n in s.names)
    pending = [n for n in inside if isinstance(n, ast.Assign) and len(n.targets) == 1]
    for node in reversed(pending):
        names = _targets(node.targets[0])
        unread = [n for n in names if not loads[n.id] and n.id != "_"]
        if not unread:
            continue
        if len(unread) == len(names) and _plain(node.value):
            edits.drop_statement(node)
            loads.subtract(_loads(_nodes(node)))
        elif isinstance(node.targets[0], ast.Tuple):
            for name in unread:
                place = (name.col_offset, name.end_col_offset or name.col_offset, "_")
                edits.change.setdefault(name.lineno - 1, []).append(place)


def _loads(inside: Iterable[ast.AST]) -> Iterator[str]:
    for n in inside:
        if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load):
            yield n.id
        elif isinstance(n, ast.AugAssign) and isinstance(n.target, ast.Name):
            yield n.target.id


def _targets(target: ast.expr) -> list[ast.Name]:
    """The names that an assignment to names or to a tuple of names gives."""
    items = target.elts if isinstance(target, ast.Tuple) else [target]
    names = [n for n in items if isinstance(n, ast.Name)]
    return names if len(names) == len(items) else []


def _plain(value: ast.expr) -> bool:
    """Whether a value is a name, a part of one, or one of its sizes."""
    match value:
        case ast.Name():
            return True
        case ast.Attribute(inner):
            return _plain(inner)
        case ast.Subscript(inner, ast.Constant() | ast.UnaryOp(operand=ast.Constant())):
            return _plain(inner)
        case _:
            return False


# ---------------------------------------------------------------- comments


def _comments(lines: Sequence[str], edits: _Edits) -> None:
    """Mark the comments that stand right above what goes."""
    for number in sorted(edits.drop):
        above = number - 1
        while above >= 0 and lines[above].startswith("#") and above not in edits.drop:
            edits.drop.add(above)
            above -= 1


_BOX = re.compile(r"# -{60,}")
_RULE = re.compile(r"# -{60,} \S")


def _without_empty_sections(lines: Sequence[str]) -> list[str]:
    """The lines without headings behind which nothing comes before the next one of their rank."""
    out: list[str] = []
    empty, boxed = True, True  # nothing but headings below; nothing but that up to the next box
    index = len(lines) - 1
    while index >= 0:
        line = lines[index]
        box = _BOX.fullmatch(line) and index >= 2 and _BOX.fullmatch(lines[index - 2])
        heading = list(reversed(lines[index - 2 : index + 1] if box else [line]))
        index -= len(heading)
        if box:
            out += [] if boxed else heading
            empty = boxed = True
        elif _RULE.match(line):
            out += [] if empty else heading
            empty = True
        else:
            out.append(line)
            if line.strip():
                empty = boxed = False
    return out[::-1]
