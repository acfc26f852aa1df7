"""From text to logical lines of tokens.

In: a `Source` and the terminals of the grammar. Out: `Lines`: the logical lines with their leading
white space, the comments, and a diagnostic for everything that is no token, for brackets that do
not match, and for texts beyond the limits below. A line in which something was wrong is marked
`broken`. It knows of the syntax only what joins physical lines: brackets, and commas of
declarations.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from lark import Token
from lark.lexer import TerminalDef

from scandsl.diagnostics import Diagnostic, Source, Span
from scandsl.syntax import errors

MAX_FILE: Final = 262_144
MAX_NAME: Final = 200
MAX_NUMBER: Final = 100
MAX_BRACKETS: Final = 200

_OPENING: Final = {"LPAR": "RPAR", "LSQB": "RSQB"}
_CLOSING: Final = ("RPAR", "RSQB")
_LONGEST_TARGET: Final = 40
_LEADERS: Final = ("SCAN", "FN", "KIND", "FOR", "EVERY")
_BAD_UNDERSCORE: Final = re.compile(r"_(?![0-9])|(?<![0-9])_")
_DOTS: Final = "\u00b7\u0387"
_STRING: Final = re.compile(r"""(['"])[^'"\r\n]*\1?""")


class TooMuch(Exception):
    """A limit was passed; nothing more is read."""

    def __init__(self, diagnostic: Diagnostic) -> None:
        super().__init__(diagnostic.message)
        self.diagnostic = diagnostic


@dataclass(frozen=True, slots=True)
class Comment:
    """A comment with its place; `own_line` when nothing stands before it on its physical line."""

    text: str
    span: Span
    own_line: bool


@dataclass(slots=True)
class Line:
    """A logical line: its tokens without NEWLINE, and the white space before them."""

    tokens: list[Token]
    lead: Span
    broken: bool = False


@dataclass(slots=True)
class Lines:
    """All logical lines and comments of a text, and what was wrong in it."""

    lines: list[Line] = field(default_factory=list)
    comments: list[Comment] = field(default_factory=list)
    diagnostics: list[Diagnostic] = field(default_factory=list)
    unread: frozenset[str] = frozenset()  # words behind documentation that never ends


@dataclass(frozen=True, slots=True)
class Scanner:
    """One regular expression for all terminals, and those that the lexer treats apart."""

    pattern: re.Pattern[str]
    name: re.Pattern[str]
    keywords: dict[str, str]


def make_scanner(terminals: Sequence[TerminalDef]) -> Scanner:
    """Join the terminals of the grammar: by priority, then the longest first."""
    defined = [t for t in terminals if t.pattern is not None]
    defined.sort(key=lambda t: (-t.priority, -t.pattern.max_width, -len(t.pattern.value), t.name))
    joined = "|".join(f"(?P<{t.name}>{t.pattern.to_regexp()})" for t in defined)
    by_name = {t.name: t for t in defined}
    keywords: dict[str, str] = {}
    for terminal in defined:
        value = terminal.pattern.value
        if value.endswith(r"\b"):
            for word in value.removesuffix(r"\b").strip("()").split("|"):
                keywords[word] = terminal.name
    return Scanner(re.compile(joined), re.compile(by_name["NAME"].pattern.to_regexp()), keywords)


def _continues_name(char: str) -> bool:
    # a raised dot may stand in Unicode identifiers, but who writes it means a product
    return char not in _DOTS and ("a" + char).isidentifier()


def _identifier_length(word: str) -> int:
    """How many characters at the start of a word are a Unicode identifier."""
    if not word[0].isidentifier():
        return 0
    length = 1
    while length < len(word) and _continues_name(word[length]):
        length += 1
    return length


class _Cutter:
    """The state of one pass over a text."""

    def __init__(self, source: Source, scanner: Scanner) -> None:
        self.text = source.text
        self.scanner = scanner
        self.out = Lines()
        self.pos = 0
        self.line: Line | None = None
        self.brackets: list[
            tuple[Token, bool]
        ] = []  # the opening bracket, and whether of an interval
        self.row = 0  # where the present physical line starts
        self.row_tokens = 0  # how many tokens the logical line had there
        self.looked_at = -1  # up to where, and with what answer, a declaration was followed last
        self.goes_on = False

    # ------------------------------------------------------------ the loop

    def run(self) -> Lines:
        if self.text.startswith("\ufeff"):
            self.pos = self.row = 1
        while self.pos < len(self.text):
            self._next()
        self._unclosed()
        self._end_line()
        return self.out

    def _next(self) -> None:
        match = self.scanner.pattern.match(self.text, self.pos)
        if match is None:
            self._stray()
            return
        kind, value = match.lastgroup or "", match.group()
        # a combining mark or the like may follow a keyword: then it is a longer name
        following = self.text[match.end() : match.end() + 1]
        if (
            kind in self.scanner.keywords.values()
            and not following.isascii()
            and _continues_name(following)
        ):
            longer = self.scanner.name.match(self.text, self.pos)
            assert longer is not None
            kind, value = "NAME", longer.group()
        match kind:
            case "BLANK":
                self.pos += len(value)
            case "COMMENT":
                self._comment(value)
            case "BREAK":
                self.pos += len(value)
                self._physical_break()
            case "NAME" | "PRIMED":
                self._name(kind, value)
            case "INT" | "FLOAT":
                self._number(kind, value)
            case _:
                self._plain(kind, value)

    def _comment(self, value: str) -> None:
        own = not self.text[self.row : self.pos].strip(" \t\f")
        span = Span(self.pos, self.pos + len(value))
        self.out.comments.append(Comment(value.rstrip(), span, own))
        self.pos += len(value)

    def _physical_break(self) -> None:
        self.row = self.pos
        if self.line is None:
            return
        self.row_tokens = len(self.line.tokens)
        if not self.brackets and not self._continues_declaration():
            self._end_line()

    def _continues_declaration(self) -> bool:
        assert self.line is not None
        tokens = self.line.tokens
        if not tokens or tokens[0].type != "KIND" or tokens[-1].type != "COMMA":
            return False
        if self.pos > self.looked_at:
            self.looked_at, following = self._next_token()
            self.goes_on = following is not None and following not in _LEADERS
        return self.goes_on

    def _next_token(self) -> tuple[int, str | None]:
        """Place and kind of the first token on the rows that follow."""
        pos = self.pos
        while match := self.scanner.pattern.match(self.text, pos):
            if match.lastgroup not in ("BLANK", "COMMENT", "BREAK"):
                return pos, match.lastgroup
            pos = match.end()
        return pos, "stray" if pos < len(self.text) else None

    def _end_line(self) -> None:
        if self.line is not None and (self.line.tokens or self.line.broken):
            self.out.lines.append(self.line)
        self.line = None
        self.brackets.clear()

    # ------------------------------------------------------------ tokens

    def _current(self) -> Line:
        if self.line is None:
            self.line = Line([], Span(self.row, self.pos))
            self.row_tokens = 0
        return self.line

    def _add(self, kind: str, value: str, length: int) -> None:
        token = Token(kind, value, start_pos=self.pos, end_pos=self.pos + length)
        self._current().tokens.append(token)
        self.pos += length

    def _report(self, diagnostic: Diagnostic, broken: bool = True) -> None:
        self.out.diagnostics.append(diagnostic)
        if broken:
            self._current().broken = True

    def _name(self, kind: str, raw: str) -> None:
        if len(raw) > MAX_NAME:
            raise TooMuch(errors.name_too_long(Span(self.pos, self.pos + MAX_NAME), MAX_NAME))
        if not raw.isascii():
            word = raw.rstrip("'")
            length = _identifier_length(word)
            if length == 0:
                self._stray()
                return
            if length < len(word):
                kind, raw = "NAME", raw[:length]
        value = unicodedata.normalize("NFKC", raw)
        if value != raw and value.rstrip("'") in self.scanner.keywords and kind == "NAME":
            kind = self.scanner.keywords[value]
        self._add(kind, value, len(raw))

    def _number(self, kind: str, raw: str) -> None:
        if len(raw) > MAX_NUMBER:
            raise TooMuch(errors.number_too_long(Span(self.pos, self.pos + MAX_NUMBER), MAX_NUMBER))
        end = self.pos + len(raw)
        following = self.scanner.name.match(self.text, end)
        if following is not None and following.group()[0].isidentifier():
            word = following.group()
            if not word.isascii():
                word = "".join(c for c in word if _continues_name(c))
            span = Span(self.pos, end + len(following.group()))
            self._report(errors.number_with_letters(span, raw, word))
        elif _BAD_UNDERSCORE.search(raw):
            self._report(errors.bad_underscore(Span(self.pos, end)))
        self._add(kind, raw.replace("_", ""), len(raw))

    def _plain(self, kind: str, value: str) -> None:
        if self.brackets and self._starts_statement(kind):
            self._split_row()
            return
        self._punctuation(kind, value, len(value))

    def _punctuation(self, kind: str, value: str, length: int) -> None:
        previous = self.line.tokens[-1].type if self.line and self.line.tokens else ""
        self._add(kind, value, length)
        token = self._current().tokens[-1]
        if kind in _OPENING:
            self._open(token, previous)
        elif kind in _CLOSING:
            self._close(token)

    # ------------------------------------------------------------ brackets

    def _open(self, token: Token, previous: str) -> None:
        if len(self.brackets) >= MAX_BRACKETS:
            raise TooMuch(errors.brackets_too_deep(_span(token), MAX_BRACKETS))
        self.brackets.append((token, previous == "IN"))

    def _close(self, token: Token) -> None:
        if not self.brackets:
            if self._current().broken:  # most likely by the bracket that this one was for
                return
            self._report(errors.closes_nothing(_span(token), str(token)))
            return
        opening, interval = self.brackets.pop()
        if interval or _OPENING[opening.type] == token.type:
            return
        if self.brackets and _OPENING[self.brackets[-1][0].type] == token.type:
            self.brackets.pop()
            self._report(errors.never_closed(_span(opening), str(opening)))
        else:
            self._report(
                errors.bracket_mismatch(_span(opening), str(opening), _span(token), str(token))
            )

    def _starts_statement(self, kind: str) -> bool:
        """Whether the present row, inside brackets, can only be the start of another statement."""
        assert self.line is not None
        count = len(self.line.tokens) - self.row_tokens
        if self.row_tokens == 0:
            return False
        if kind in _LEADERS:
            return count == 0
        if kind not in ("EQ", "AUGMENTED") or not 1 <= count <= _LONGEST_TARGET:
            return False
        kinds = [t.type for t in self.line.tokens[self.row_tokens :]]
        if kinds[0] not in ("NAME", "UNIT", "COMPLEX"):
            return False
        return count == 1 or (
            kinds[1] == "LSQB" and kinds.count("RSQB") == 1 and kinds[-1] == "RSQB"
        )

    def _split_row(self) -> None:
        """A bracket was never closed: end the line before the present row, and read that again."""
        assert self.line is not None
        del self.line.tokens[self.row_tokens :]
        while self.brackets and (self.brackets[-1][0].start_pos or 0) >= self.row:
            self.brackets.pop()
        comments = self.out.comments
        while comments and comments[-1].span.start >= self.row:
            comments.pop()
        self._unclosed()
        self._end_line()
        self.pos = self.row

    def _unclosed(self) -> None:
        for opening, _ in self.brackets:
            self._report(errors.never_closed(_span(opening), str(opening)))

    # ------------------------------------------------------------ no token

    def _stray(self) -> None:
        char = self.text[self.pos]
        rest = self.text[self.pos : self.pos + 3]
        if rest in ('"""', "'''"):
            self._report(errors.unterminated_doc(Span(self.pos, self.pos + 3), rest))
            self.out.unread = frozenset(re.findall(r"\w+", self.text[self.pos :]))
            self.pos = len(self.text)
        elif char in "'\"":
            match = _STRING.match(self.text, self.pos)
            length = len(match.group()) if match else 1
            self._report(errors.string_literal(Span(self.pos, self.pos + length)))
            self.pos += length
        else:
            self._unknown(char)

    def _unknown(self, char: str) -> None:
        span = Span(self.pos, self.pos + 1)
        meant = errors.LOOK_ALIKES.get(char)
        self._report(errors.unknown_character(span, char), broken=meant is None)
        if meant is None:
            end = self.pos + 1
            while end < len(self.text) and self.text[end] == char:
                end += 1
            self.pos = end
            return
        match = self.scanner.pattern.fullmatch(meant)
        if match is None or match.lastgroup in (None, "BLANK"):
            self.pos += 1
        else:
            self._punctuation(match.lastgroup, meant, 1)


def _span(token: Token) -> Span:
    return Span(token.start_pos or 0, token.end_pos or 0)


def cut(source: Source, scanner: Scanner) -> Lines:
    """Cut a text into logical lines; raises `TooMuch` when a limit is passed."""
    if len(source.text) > MAX_FILE:
        raise TooMuch(errors.file_too_long(MAX_FILE, len(source.text)))
    return _Cutter(source, scanner).run()
