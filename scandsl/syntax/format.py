"""From any well-formed text to its canonical text.

In: a `Source`. Out: text with the same tokens and comments and with one way of spacing: four spaces
per level, one space around operators, comments of neighbouring lines in one column, one blank line
around scans, at most one elsewhere, bodies on lines of their own, lines of at most 100 columns
where a break is allowed. Documentation stays as it is, numbers as they were written. Works on
tokens, since the AST holds no comments; raises `ScanError` for a text that does not parse.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from lark import Token

from scandsl.diagnostics import InternalError, ScanError, Source
from scandsl.syntax.layout import measure, width
from scandsl.syntax.parse import parse, parser
from scandsl.syntax.tokens import Comment, Line, cut

COLUMNS: Final = 100
INDENT: Final = "    "

_NAMES: Final = ("NAME", "UNIT", "COMPLEX")
_OPERATORS: Final = (
    "PLUS",
    "MINUS",
    "STAR",
    "SLASH",
    "PERCENT",
    "AT",
    "POW",
    "COMPARE",
    "AND",
    "OR",
)
_BEFORE_UNARY: Final = (*_OPERATORS, "NOT", "LPAR", "LSQB", "COMMA", "EQ", "AUGMENTED")
_BREAK: Final = re.compile(r"\r\n?|\n")


@dataclass(slots=True)
class _Piece:
    """A token as printed, with what may come before it: a space, a line break, comments."""

    text: str
    space: bool
    cost: int | None = None  # of a line break before it; `None` where none is allowed
    comments: list[Comment] = field(
        default_factory=list
    )  # that stand before it, each ending its line


@dataclass(slots=True)
class _Unit:
    """A statement, header, documentation or comment on its own line."""

    depth: int
    pieces: list[_Piece]
    blank: bool  # whether a blank line comes before
    role: str  # comment, scan, fn, header, other
    trailing: str = ""
    opens: bool = False


# ---------------------------------------------------------------- pieces


class _Spacer:
    """Decides on spaces and breaks from one token of a statement to the next."""

    def __init__(self, declaration: bool) -> None:
        self.declaration = declaration
        self.brackets: list[str] = []  # over, names, interval or group
        self.previous: str = ""
        self.unary = False  # whether the previous token is a sign
        self.over_closed = False  # whether it closes the list of `@[W]`

    def piece(self, token: Token, text: str) -> _Piece:
        """The next token."""
        kind = token.type
        out = _Piece(text, self._space(kind), self._cost(kind))
        self.unary = kind in ("PLUS", "MINUS") and self._sign_follows()
        self.over_closed = False
        if kind in ("LPAR", "LSQB"):
            self.brackets.append(self._opened(kind))
        elif kind in ("RPAR", "RSQB") and self.brackets:
            self.over_closed = self.brackets.pop() == "over"
        self.previous = kind
        return out

    def _sign_follows(self) -> bool:
        return self.previous in _BEFORE_UNARY or self.over_closed or not self.previous

    def _opened(self, kind: str) -> str:
        if self.previous == "IN":
            return "interval"
        if kind == "LPAR":
            return "group"
        return "over" if self.previous == "AT" else "names"

    def _space(self, kind: str) -> bool:
        before = self.previous
        if not before or kind in ("COMMA", "COLON", "RPAR", "RSQB"):
            return False
        if before in ("LPAR", "LSQB") or self.unary:
            return False
        if kind == "LSQB":
            return before not in (*_NAMES, "AT")
        if kind == "LPAR":
            return before not in _NAMES and (before != "RSQB" or self.over_closed)
        return True

    def _cost(self, kind: str) -> int | None:
        """Breaks come after commas, before operators and, at a pinch, after an opening bracket."""
        depth = 10 * len(self.brackets)
        if not self.brackets:
            return 0 if self.declaration and self.previous == "COMMA" else None
        if self.brackets[-1] != "group":
            depth += 50
        if self.previous == "COMMA":
            return depth
        if kind in _OPERATORS and not (kind in ("PLUS", "MINUS") and self._sign_follows()):
            return depth + (5 if kind == "POW" else 0)
        return (
            depth + 8
            if self.previous in ("LPAR", "LSQB") and kind not in ("RPAR", "RSQB")
            else None
        )


def _pieces(tokens: Sequence[Token], comments: Sequence[Comment], text: str) -> list[_Piece]:
    spacer = _Spacer(tokens[0].type == "KIND")
    waiting = list(comments)
    out: list[_Piece] = []
    held: list[Comment] = []
    for place, token in enumerate(tokens):
        start, end = token.start_pos or 0, token.end_pos or 0
        while waiting and waiting[0].span.start < start:
            held.append(waiting.pop(0))
        following = tokens[place + 1].type if place + 1 < len(tokens) else ""
        if token.type == "COMMA" and following in ("RPAR", "RSQB"):
            continue  # a comma before a closing bracket says nothing
        shown = text[start:end] if token.type in ("INT", "FLOAT") else str(token)
        piece = spacer.piece(token, shown)
        piece.comments, held = held, []
        out.append(piece)
    return out


# ---------------------------------------------------------------- units


def _comment_text(comment: Comment) -> str:
    text = comment.text
    if len(text) > 1 and text[1] not in " !#:":
        return "# " + text[1:]
    return text


def _split_body(tokens: list[Token]) -> list[list[Token]]:
    """A header and what stands behind its colon."""
    if tokens[0].type in ("FOR", "EVERY"):
        colon = next(i for i, t in enumerate(tokens) if t.type == "COLON")
        if colon + 1 < len(tokens):
            return [tokens[: colon + 1], tokens[colon + 1 :]]
    return [tokens]


def _role(tokens: Sequence[Token]) -> str:
    match tokens[0].type:
        case "SCAN":
            return "scan"
        case "FN":
            return "fn"
        case _:
            return "other"


class _Collector:
    """Gathers the units of a file in order of place."""

    def __init__(self, source: Source) -> None:
        self.text = source.text
        self.cutting = cut(source, parser().scanner)
        self.depths = measure(source.text, self.cutting.lines).depths
        self.comments = list(self.cutting.comments)
        self.units: list[_Unit] = []
        self.end = 0  # where the last unit ended in the source
        self.widths = [0]  # of the blocks that are open

    def run(self) -> list[_Unit]:
        for line, depth in zip(self.cutting.lines, self.depths, strict=True):
            start = line.tokens[0].start_pos or 0
            self._own_lines(start, depth)
            del self.widths[depth:]
            self.widths.append(width(self.text[line.lead.start : line.lead.end]))
            self._statement(line, depth)
        self._own_lines(len(self.text), 0)
        return self.units

    def _blank_before(self, start: int) -> bool:
        return bool(self.units) and len(_BREAK.findall(self.text, self.end, start)) > 1

    def _taken(self, limit: int) -> Iterator[Comment]:
        while self.comments and self.comments[0].span.start < limit:
            yield self.comments.pop(0)

    def _own_lines(self, limit: int, least: int) -> None:
        """Comments before a statement: in the deepest open block that they are indented for."""
        for comment in self._taken(limit):
            start = comment.span.start
            row = max(self.text.rfind("\n", 0, start), self.text.rfind("\r", 0, start)) + 1
            columns = width(self.text[row:start].lstrip("\ufeff"))
            depth = least
            for level in range(least, len(self.widths)):
                if self.widths[level] <= columns:
                    depth = level
            piece = _Piece(_comment_text(comment), False)
            self.units.append(_Unit(depth, [piece], self._blank_before(start), "comment"))
            self.end = comment.span.end

    def _statement(self, line: Line, depth: int) -> None:
        start, end = line.tokens[0].start_pos or 0, line.tokens[-1].end_pos or 0
        blank = self._blank_before(start)
        inside = list(self._taken(end))
        parts = _split_body(line.tokens)
        for place, tokens in enumerate(parts):
            low = tokens[0].start_pos or 0
            high = tokens[-1].end_pos or 0
            own = [c for c in inside if low <= c.span.start < high]
            opens = tokens[-1].type == "COLON"
            pieces = _pieces(tokens, own, self.text)
            unit = _Unit(depth + place, pieces, blank and not place, _role(tokens), opens=opens)
            self.units.append(unit)
        self.end = end
        if self.comments and not self.comments[0].own_line and self._same_row(end):
            trailing = self.comments.pop(0)
            self.units[-1].trailing = _comment_text(trailing)
            self.end = trailing.span.end

    def _same_row(self, end: int) -> bool:
        return _BREAK.search(self.text, end, self.comments[0].span.start) is None


def _space_out(units: Sequence[_Unit]) -> None:
    """One blank line around scans, none right under a header."""
    for place, unit in enumerate(units):
        before = units[place - 1] if place else None
        if before is None or before.opens:
            unit.blank = False
        elif unit.depth == 0 and before.depth > 0:
            unit.blank = True
        if unit.role in ("scan", "fn"):
            head = place
            while (
                head
                and units[head - 1].role == "comment"
                and units[head - 1].depth == 0
                and not units[head].blank
            ):
                head -= 1
            both = unit.role == "fn" and head and units[head - 1].role == "fn"
            if head and not both:
                units[head].blank = True


# ---------------------------------------------------------------- printing


def _wrap(pieces: Sequence[_Piece], first: str, hanging: str) -> list[str]:
    """Lines of at most `COLUMNS`, broken at the last of the cheapest places that fit."""
    out: list[str] = []
    lead, rest = first, list(pieces)
    while rest:
        column = len(lead)
        best: int | None = None
        overflow = False
        for place, piece in enumerate(rest):
            if place and piece.cost is not None and (best is None or not overflow):
                known = rest[best].cost if best is not None else None
                if known is None or piece.cost <= known:
                    best = place
            column += len(piece.text) + (1 if piece.space and place else 0)
            overflow = overflow or column > COLUMNS
            if overflow and best is not None:
                break
        count = best if overflow and best is not None else len(rest)
        out.append(lead + _joined(rest[:count]))
        lead, rest = hanging, rest[count:]
    return out


def _joined(pieces: Sequence[_Piece]) -> str:
    return "".join((" " if p.space and i else "") + p.text for i, p in enumerate(pieces))


def _print(unit: _Unit) -> list[str]:
    indent = INDENT * unit.depth
    hanging = indent + INDENT
    out: list[str] = []
    segment: list[_Piece] = []
    for piece in unit.pieces:
        for comment in piece.comments:
            if segment:
                out += _wrap(segment, hanging if out else indent, hanging)
                segment = []
            if comment.own_line:
                out.append(hanging + _comment_text(comment))
            else:
                out[-1] += "  " + _comment_text(comment)
        segment.append(piece)
    out += _wrap(segment, hanging if out else indent, hanging)
    return out


def _trail(units: Sequence[_Unit], printed: Sequence[list[str]]) -> None:
    """Put comments behind statements, in one column for neighbours of the same block."""
    run: list[int] = []
    for place, unit in enumerate(units):
        joins = (
            bool(run)
            and unit.depth == units[run[-1]].depth
            and not unit.blank
            and run[-1] == place - 1
        )
        if run and not (joins and unit.trailing):
            _align(run, units, printed)
            run = []
        if unit.trailing:
            run.append(place)
    _align(run, units, printed)


def _align(run: Sequence[int], units: Sequence[_Unit], printed: Sequence[list[str]]) -> None:
    # documentation is one entry of several rows
    widths = [len(printed[place][-1].rpartition("\n")[2]) for place in run]
    for place, own in zip(run, widths, strict=True):
        printed[place][-1] += " " * (max(widths) - own + 2) + units[place].trailing


def format_source(source: Source) -> str:
    """The canonical text of a well-formed source."""
    before = parse(source)
    units = _Collector(source).run()
    _space_out(units)
    printed = [_print(unit) for unit in units]
    _trail(units, printed)
    lines: list[str] = []
    for unit, rows in zip(units, printed, strict=True):
        lines += ["", *rows] if unit.blank else rows
    text = "\n".join(lines) + "\n" if lines else ""
    try:
        same = parse(Source(source.name, text)) == before
    except ScanError as error:
        raise InternalError(f"the canonical text does not parse: {error}") from error
    if not same:
        raise InternalError("the canonical text says something else than the file")
    return text
