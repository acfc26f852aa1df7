"""Renames the identifiers of a spec, and compares generated modules up to names."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator, Mapping, Sequence
from string import ascii_letters

from scandsl.check.builtins import PAIRWISE, SIGNATURES

WORDS = frozenset(
    "scan fn input param scalar static state output for every in and or not unit complex".split()
) | frozenset(("inf", "pi", "t", *SIGNATURES, *PAIRWISE))
_NAME = re.compile(r"(?<![\w.])[^\W\d]\w*")
_APART = re.compile(r'"""[\s\S]*?"""|#[^\n]*')


def _stripped(text: str) -> str:
    """The spec without documentation and comments, which may hold any words."""
    return _APART.sub("", text)


def identifiers(text: str) -> list[str]:
    """The names that a spec's author chose, in order of first appearance."""
    return list(dict.fromkeys(x for x in _NAME.findall(_stripped(text)) if x not in WORDS))


def renamed(text: str, names: Mapping[str, str]) -> str:
    """The spec with other names."""
    return _NAME.sub(lambda m: names.get(m[0], m[0]), _stripped(text))


def neutral(text: str, letter: str, falling: bool = False) -> dict[str, str]:
    """Names of one length that mean nothing; in alphabetical order, or against it."""
    found = identifiers(text)
    numbers = range(len(found), 0, -1) if falling else range(1, len(found) + 1)
    return {name: f"z{letter}{number:02}" for name, number in zip(found, numbers, strict=True)}


def short(text: str) -> dict[str, str]:
    """Names of two letters that mean nothing; lines stay about as long as an author's."""
    return {name: f"z{ascii_letters[i]}" for i, name in enumerate(identifiers(text))}


# ---------------------------------------------------------------- modules up to names


def _words(node: ast.stmt) -> Iterator[tuple[str, str]]:
    """Kind and text of each token of a statement; of strings only those that are one word."""
    for token in tokenize.generate_tokens(io.StringIO(ast.unparse(node)).readline):
        if token.type in (tokenize.NEWLINE, tokenize.NL, tokenize.INDENT, tokenize.DEDENT):
            continue
        if token.type == tokenize.STRING:
            text = token.string.strip("'\"")
            yield ("word", text) if text.isidentifier() else ("string", "")
        elif token.type == tokenize.NAME:
            yield "word", token.string
        else:
            yield "other", token.string


def _is_listing(node: ast.stmt) -> bool:
    """`__all__` is sorted by name, and the module's docstring holds a hash."""
    if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
        return node.targets[0].id == "__all__"
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def differing(one: str, two: str) -> str | None:
    """The first place where two modules differ in more than names, or `None`.

    Statement by statement there must be a one-to-one map between the words of one and the other.
    """
    first, second = ([n for n in ast.parse(text).body if not _is_listing(n)] for text in (one, two))
    if len(first) != len(second):
        return f"{len(first)} statements against {len(second)}"
    for a, b in zip(first, second, strict=True):
        found = _mismatch(list(_words(a)), list(_words(b)))
        if found is not None:
            return f"line {a.lineno} against {b.lineno}: {found}"
    return None


def _mismatch(one: Sequence[tuple[str, str]], two: Sequence[tuple[str, str]]) -> str | None:
    there: dict[str, str] = {}
    back: dict[str, str] = {}
    if len(one) != len(two):
        return f"{len(one)} tokens against {len(two)}"
    for (kind_a, a), (kind_b, b) in zip(one, two, strict=True):
        if kind_a != kind_b or (kind_a == "other" and a != b):
            return f"{a!r} against {b!r}"
        if kind_a == "word" and (there.setdefault(a, b) != b or back.setdefault(b, a) != a):
            return f"{a!r} is {there[a]!r} here and {b!r} there"
    return None
