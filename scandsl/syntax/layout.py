"""Indentation: from logical lines to one stream of tokens with INDENT and DEDENT.

In: logical lines.  Out: the stream that the grammar's `file` reads, the depth of each line, and a
diagnostic for each line whose indentation is wrong.  It does not look at what the lines say.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lark import Token

from scandsl.diagnostics import Diagnostic, Note, Span
from scandsl.syntax import errors
from scandsl.syntax.tokens import Line

TAB = 8
MAX_BLOCKS = 50


@dataclass(frozen=True, slots=True)
class Layout:
    """How deep each line lies (0 is the left margin), and what is wrong with the white space."""

    depths: tuple[int, ...]
    diagnostics: tuple[Diagnostic, ...]


def width(lead: str) -> int:
    """Columns taken by leading white space."""
    return len(lead.replace("\f", "").expandtabs(TAB))


def opens_block(line: Line) -> bool:
    """Whether a block should follow: the line ends in a colon."""
    return bool(line.tokens) and line.tokens[-1].type == "COLON"


def measure(text: str, lines: Sequence[Line], lenient: bool = False) -> Layout:
    """Find the depth of every line; a line that fits nowhere takes the nearest depth.

    With `lenient`, a broken line may be followed by a deeper one.
    """
    depths: list[int] = []
    found: list[Diagnostic] = []
    widths = [0]
    first: tuple[str, Span] | None = None
    opens = False
    for line in lines:
        lead = text[line.lead.start : line.lead.end].replace("\f", "")
        kinds = set(lead)
        if first is None and len(kinds) == 1:
            first = (lead[0], line.lead)
        mixed = len(kinds) > 1 or (first is not None and bool(kinds) and lead[0] != first[0])
        if mixed:
            note = (
                ()
                if first is None or len(kinds) > 1
                else (Note(errors.indented_with(first[0]), first[1]),)
            )
            found.append(errors.mixed_indentation(line.lead, note))
        columns = width(lead)
        if columns > widths[-1]:
            if opens:
                widths.append(columns)
            elif not mixed:
                found.append(errors.unexpected_indent(line.lead, first=not depths))
        else:
            while widths[-1] > columns:
                widths.pop()
            if widths[-1] < columns and not mixed:
                found.append(errors.unmatched_dedent(line.lead))
        if len(widths) > MAX_BLOCKS:
            found.append(errors.blocks_too_deep(line.lead, MAX_BLOCKS))
            break
        depths.append(len(widths) - 1)
        opens = opens_block(line) or (lenient and line.broken)
    return Layout(tuple(depths), tuple(found))


def _mark(kind: str, at: int) -> Token:
    return Token(kind, "", start_pos=at, end_pos=at)


def stream(lines: Sequence[Line], depths: Sequence[int]) -> list[Token]:
    """The tokens of all lines, with NEWLINE, INDENT and DEDENT between them."""
    out: list[Token] = []
    depth = end = 0
    for line, level in zip(lines, depths, strict=True):
        start = line.tokens[0].start_pos or 0
        out += (_mark("INDENT", start) for _ in range(level - depth))
        out += (_mark("DEDENT", end) for _ in range(depth - level))
        out += line.tokens
        end = line.tokens[-1].end_pos or 0
        out.append(_mark("NEWLINE", end))
        depth = level
    out += (_mark("DEDENT", end) for _ in range(depth))
    return out
