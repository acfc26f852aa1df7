"""Drops from a printed module what nothing in it reads.

In: the text of a module.  Out: the same text without private top-level functions, classes and
constants that no kept statement refers to.  A name in a string does not count as a reference.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable


def shaken(text: str) -> str:
    """The module without its unused private definitions."""
    tree = ast.parse(text)
    private: dict[str, list[ast.stmt]] = {}
    roots: list[ast.stmt] = []
    for node in tree.body:
        name = _private_name(node)
        if name is None:
            roots.append(node)
        else:
            private.setdefault(name, []).append(node)
    kept = _reached(roots, private)
    dropped = [node for name, nodes in private.items() if name not in kept for node in nodes]
    lines = text.split("\n")
    for node in dropped:
        first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", ()))])
        assert node.end_lineno is not None
        for number in range(first - 1, node.end_lineno):
            lines[number] = "\0"
    return "\n".join(line for line in lines if line != "\0")


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


def _reached(roots: Iterable[ast.stmt], private: dict[str, list[ast.stmt]]) -> set[str]:
    kept: set[str] = set()
    pending = list(roots)
    while pending:
        for node in ast.walk(pending.pop()):
            if isinstance(node, ast.Name) and node.id in private and node.id not in kept:
                kept.add(node.id)
                pending.extend(private[node.id])
    return kept
