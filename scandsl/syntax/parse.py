"""From text to AST.

In: a `Source`.  Out: `ast.File`, or `ScanError` with every error of syntax that could be found.
Does not resolve names.  The grammar is loaded at the first call and kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Final

from lark import Lark, Token
from lark.exceptions import UnexpectedInput, UnexpectedToken
from lark.lexer import Lexer

from scandsl.diagnostics import Diagnostic, InternalError, ScanError, Source, Span
from scandsl.syntax import ast, build, errors
from scandsl.syntax.faults import Refusal, explain
from scandsl.syntax.grammar_file import grammar_text
from scandsl.syntax.layout import measure, stream
from scandsl.syntax.recover import Outcome, salvage
from scandsl.syntax.tokens import Line, Scanner, TooMuch, cut, make_scanner

MAX_ERRORS: Final = 100
_BLOCKS: Final = ("SCAN", "FOR", "EVERY")


class _Replay(Lexer):
    """Hands lark the tokens that were cut before."""

    __future_interface__ = 2

    def __init__(self, lexer_conf: Any) -> None:
        del lexer_conf

    def lex(self, lexer_state: Any, parser_state: Any) -> Iterator[Token]:
        """The tokens as they are."""
        del parser_state
        yield from lexer_state.text


@dataclass(frozen=True, slots=True)
class Parser:
    """The compiled grammar."""

    lark: Lark
    scanner: Scanner


@cache
def parser() -> Parser:
    """Compile the grammar, once."""
    lark = Lark(
        grammar_text(),
        parser="lalr",
        lexer=_Replay,
        start=["file", "line"],
        keep_all_tokens=True,
        maybe_placeholders=False,
        transformer=build.Builder(),
    )
    return Parser(lark, make_scanner(list(lark.terminals)))


@dataclass(frozen=True, slots=True)
class Recovery:
    """What could be read of a file, what is wrong with the rest, and the names that the rest holds.

    A later stage that goes on with `file` should not complain about a name in `lost`.
    """

    file: ast.File
    diagnostics: tuple[Diagnostic, ...]
    lost: frozenset[str]


def _parse_line(line: Line) -> Outcome:
    end = line.tokens[-1].end_pos or 0
    tokens = [*line.tokens, Token("NEWLINE", "", start_pos=end, end_pos=end)]
    try:
        content: build.Line = parser().lark.parse(tokens, start="line")  # type: ignore[assignment]
    except build.Fault as fault:
        return fault.diagnostic, False
    except UnexpectedToken as error:
        at = next((i for i, t in enumerate(tokens) if t is error.token), len(tokens) - 1)
        refusal = Refusal(tokens, at, frozenset(_accepted(tokens, at)))
        mended = (
            at == len(tokens) - 1 and "COLON" in refusal.accepted and line.tokens[0].type in _BLOCKS
        )
        return explain(refusal), mended
    return content


def _accepted(tokens: Sequence[Token], at: int) -> set[str]:
    """The kinds of token that could have stood at a place."""
    interactive = parser().lark.parse_interactive(start="line")
    for token in tokens[:at]:
        interactive.feed_token(token)
    return set(interactive.accepts())  # type: ignore[no-untyped-call]


def _parse_file(lines: Sequence[Line], depths: Sequence[int], length: int) -> ast.File | None:
    """The AST of lines, or `None` if the grammar refuses them."""
    try:
        file: ast.File = parser().lark.parse(stream(lines, depths), start="file")  # type: ignore[assignment]
    except (UnexpectedInput, build.Fault):
        return None
    return replace(file, span=Span(0, length))


def _limited(found: Sequence[Diagnostic]) -> tuple[Diagnostic, ...]:
    """In order of place, each once, not more than anyone reads."""
    ordered = sorted(dict.fromkeys(found), key=lambda d: (d.span.start, d.span.end))
    if len(ordered) <= MAX_ERRORS:
        return tuple(ordered)
    return (*ordered[:MAX_ERRORS], errors.too_many(ordered[MAX_ERRORS].span))


def recover(source: Source) -> Recovery:
    """Read as much of a file as is well formed."""
    empty = ast.File((), Span(0, len(source.text)))
    try:
        cutting = cut(source, parser().scanner)
    except TooMuch as limit:
        return Recovery(empty, (limit.diagnostic,), frozenset())
    layout = measure(source.text, cutting.lines)
    if not cutting.diagnostics and not layout.diagnostics:
        file = _parse_file(cutting.lines, layout.depths, len(source.text))
        if file is not None:
            return Recovery(file, (), frozenset())
    kept = salvage(source.text, cutting.lines, _parse_line)
    found = _limited([*cutting.diagnostics, *kept.diagnostics])
    if not found:
        raise InternalError("a file was refused, but nothing in it is wrong")
    rest = _parse_file(kept.lines, kept.depths, len(source.text))
    return Recovery(rest or empty, found, kept.lost | cutting.unread)


def parse_recovering(source: Source) -> tuple[ast.File, list[Diagnostic]]:
    """The part of a file that is well formed, and everything that is wrong with the rest."""
    result = recover(source)
    return result.file, list(result.diagnostics)


def parse(source: Source) -> ast.File:
    """Parse a source; raises `ScanError` with every error of syntax."""
    result = recover(source)
    if result.diagnostics:
        raise ScanError(source, result.diagnostics)
    return result.file
