"""From text to AST.

In: a `Source`.  Out: `ast.File`, or `ScanError` with every error of syntax that could be found.
Does not resolve names.  The grammar is loaded at the first call and kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from lark import Lark, Token
from lark.exceptions import UnexpectedInput
from lark.lexer import Lexer

from scandsl.diagnostics import Diagnostic, ScanError, Source, Span
from scandsl.syntax import ast, errors
from scandsl.syntax.build import Builder, Fault
from scandsl.syntax.grammar_file import grammar_text
from scandsl.syntax.layout import measure, stream
from scandsl.syntax.tokens import Scanner, TooMuch, cut, make_scanner


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
        transformer=Builder(),
    )
    return Parser(lark, make_scanner(lark.terminals))


def parse_recovering(source: Source) -> tuple[ast.File, list[Diagnostic]]:
    """The part of a file that is well formed, and everything that is wrong with the rest."""
    try:
        lines = cut(source, parser().scanner)
    except TooMuch as limit:
        return ast.File(()), [limit.diagnostic]
    layout = measure(source.text, lines.lines)
    tokens = stream(lines.lines, layout.depths)
    try:
        file = parser().lark.parse(tokens, start="file")
    except UnexpectedInput as error:
        token = error.token
        return ast.File(()), [errors.unexpected(Span(token.start_pos, token.end_pos), f"`{token}`")]
    except Fault as fault:
        return ast.File(()), [fault.diagnostic]
    whole = replace(file, span=Span(0, len(source.text)))
    return whole, [*lines.diagnostics, *layout.diagnostics]


def parse(source: Source) -> ast.File:
    """Parse a source; raises `ScanError` with every error of syntax."""
    file, diagnostics = parse_recovering(source)
    if diagnostics:
        raise ScanError(source, diagnostics)
    return file
