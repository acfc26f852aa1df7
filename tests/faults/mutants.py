"""Small changes of the compiler, drawn at random: one operator, number, condition or loop each."""

from __future__ import annotations

import ast
import random
from collections import defaultdict
from dataclasses import dataclass
from functools import cache

from tests.faults.copies import ROOT

FOLDERS = ("analysis", "plan", "kernels")
SKIPPED = ("Decorator", "Exception", "Variable")  # operators that need arguments or change no value


@dataclass(frozen=True, slots=True)
class Mutant:
    """The change that an operator makes to a file for the n-th time, and the line it stands on."""

    file: str
    operator: str
    occurrence: int
    line: int

    @property
    def key(self) -> tuple[str, str, int]:
        """What tells it from all others."""
        return self.file, self.operator, self.occurrence


def text_of(file: str) -> str:
    """A file of the compiler."""
    return (ROOT / file).read_text(encoding="utf-8")


def places(file: str) -> dict[tuple[int, int], list[Mutant]]:
    """The changes that can be made to a file, by the place where they stand."""
    from cosmic_ray.ast import ast_nodes, get_ast
    from cosmic_ray.plugins import get_operator, operator_names

    nodes = list(ast_nodes(get_ast(text_of(file))))
    found: defaultdict[tuple[int, int], list[Mutant]] = defaultdict(list)
    for name in operator_names():
        if any(word in name for word in SKIPPED):
            continue
        operator = get_operator(name)()
        occurrence = 0
        for node in nodes:
            for start, _ in operator.mutation_positions(node):
                found[start].append(Mutant(file, name, occurrence, start[0]))
                occurrence += 1
    return found


def mutated(mutant: Mutant) -> str | None:
    """The text of the changed file; `None` if it means the same, or does not parse."""
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator

    text = text_of(mutant.file)
    changed: str | None = mutate_code(text, get_operator(mutant.operator)(), mutant.occurrence)
    try:
        same = changed is None or _meaning(changed) == _meaning(text)
    except SyntaxError:
        return None
    return None if same else changed


@cache
def _meaning(text: str) -> str:
    """A module without what cannot change a result.

    Annotations are never evaluated.  Whether a dataclass is frozen or has slots matters to code
    that assigns to its fields, or hashes it: such code raises, or there is none.  `strict=True` of
    a `zip` raises where lengths differ, and otherwise does nothing.  `is` and `==` agree where one
    side is `None` or the member of an enumeration: no class here defines an equality with those.
    """
    tree = ast.parse(text)
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef():
                node.returns = None
            case ast.arg():
                node.annotation = None
            case ast.AnnAssign():
                node.annotation = ast.Constant(None)
            case ast.Call(func=ast.Name(id="dataclass" | "zip")):
                node.keywords = []
            case ast.Compare(ops=[ast.Is() | ast.IsNot()], comparators=[right]) if _single(right):
                node.ops = [ast.Eq() if isinstance(node.ops[0], ast.Is) else ast.NotEq()]
    return ast.dump(tree)


def _single(node: ast.expr) -> bool:
    match node:
        case ast.Constant(value=None):
            return True
        case ast.Attribute(value=ast.Name(id="Kind" | "Form" | "Transition"), attr=a):
            return a.isupper()
        case _:
            return False


def drawn(number: int, seed: int) -> list[Mutant]:
    """Mutants, at places drawn evenly over all modules, of each place one change."""
    files = [
        str(path.relative_to(ROOT))
        for folder in FOLDERS
        for path in sorted((ROOT / "scandsl" / folder).glob("*.py"))
    ]
    chance = random.Random(seed)
    everywhere = [changes for file in files for changes in places(file).values()]
    chance.shuffle(everywhere)
    chosen: list[Mutant] = []
    for changes in everywhere:
        mutant = chance.choice(changes)
        if len(chosen) < number and mutated(mutant) is not None:
            chosen.append(mutant)
    return chosen


@cache
def reach(file: str, line: int) -> frozenset[int]:
    """The lines of which one runs wherever a change on `line` can matter; none: at import.

    A statement may be traced under any of its lines, a default is read wherever its function runs.
    """
    owner: ast.FunctionDef | None = None
    found: ast.stmt | None = None
    for node in ast.walk(ast.parse(text_of(file))):
        if isinstance(node, ast.stmt) and node.lineno <= line <= (node.end_lineno or 0):
            found = node if found is None or _within(node, found) else found
            if isinstance(node, ast.FunctionDef) and (owner is None or _within(node, owner)):
                owner = node
    if owner is None or found is None:
        return frozenset()
    if found is owner:  # its head
        body = owner.body[1:] if ast.get_docstring(owner) and owner.body[1:] else owner.body
        return frozenset(x for s in body for x in range(s.lineno, (s.end_lineno or 0) + 1))
    parts = [x for x in ast.iter_child_nodes(found) if isinstance(x, ast.stmt | ast.match_case)]
    first = [x.lineno if isinstance(x, ast.stmt) else x.pattern.lineno for x in parts]
    end = min(first, default=(found.end_lineno or 0) + 1)
    return frozenset(range(found.lineno, max(end, found.lineno + 1)))


def _within(inner: ast.stmt, outer: ast.stmt) -> bool:
    return outer.lineno <= inner.lineno and (inner.end_lineno or 0) <= (outer.end_lineno or 0)
