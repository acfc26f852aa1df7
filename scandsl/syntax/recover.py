"""What is wrong with a file that the grammar refused, and what can be kept of it.

In: logical lines, and a function that parses one of them alone. Out: diagnostics for every line
that is wrong by itself or stands in the wrong place, and the lines that together make a well-formed
file. A line that cannot be kept takes the block under it along.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from lark import Token

from scandsl.diagnostics import Diagnostic, Span
from scandsl.syntax import build, errors
from scandsl.syntax.layout import measure
from scandsl.syntax.tokens import Line

# the content of a line, or what is wrong with it and whether a colon at its end would mend it
Outcome: TypeAlias = build.Line | tuple[Diagnostic, bool]

ENOUGH: Final = 200  # findings, after which lines are no longer read one by one
_NAMES: Final = ("NAME", "PRIMED", "UNIT", "COMPLEX")
_HEADERS: Final = {"SCAN": "scan", "FN": "fn", "FOR": "for", "EVERY": "every", "DOC": "doc"}


@dataclass(frozen=True, slots=True)
class Kept:
    """The lines that make a well-formed file, their depths, and the names in those left out."""

    lines: tuple[Line, ...]
    depths: tuple[int, ...]
    lost: frozenset[str]
    diagnostics: tuple[Diagnostic, ...]


@dataclass(slots=True)
class _Entry:
    """A line, what it is, and where it lies."""

    line: Line
    role: str  # scan, fn, for, every, doc, simple
    opens: bool  # a block has to follow
    bad: bool
    depth: int = 0
    fault: Diagnostic | None = None  # what is wrong with the line by itself
    silent: bool = False  # what hangs on a bad line is not judged
    keep: bool = True

    def span(self) -> Span:
        tokens = self.line.tokens
        if not tokens:  # nothing but what is no token
            return Span(self.line.lead.end, self.line.lead.end)
        return Span(tokens[0].start_pos or 0, tokens[-1].end_pos or 0)

    def title(self) -> str:
        tokens = self.line.tokens
        if self.role == "scan" and len(tokens) > 1:
            return f"scan {tokens[1]}"
        return " ".join(str(t) for t in tokens if t.type != "COLON")


class _Salvage:
    """One pass over a refused file."""

    def __init__(
        self, text: str, lines: Sequence[Line], parse_line: Callable[[Line], Outcome]
    ) -> None:
        self.text = text
        self.parse_line = parse_line
        self.found: list[Diagnostic] = []
        self.faults = 0
        self.entries = [self._read(line) for line in lines]

    def run(self) -> Kept:
        layout = measure(self.text, [e.line for e in self.entries], lenient=True)
        self.found += layout.diagnostics
        del self.entries[len(layout.depths) :]
        for entry, depth in zip(self.entries, layout.depths, strict=True):
            entry.depth = depth
        self._indent_bodies()
        self._silence()
        self.found += (e.fault for e in self.entries if e.fault is not None and not e.silent)
        self._places()
        self._bodies()
        self._drop()
        kept = [e for e in self.entries if e.keep]
        left_out = [t for e in self.entries if not e.keep for t in e.line.tokens]
        lost = {str(t) for t in left_out if t.type in _NAMES}
        lost |= {name.rstrip("'") for name in lost}
        lines, depths = tuple(e.line for e in kept), tuple(e.depth for e in kept)
        return Kept(lines, depths, frozenset(lost), tuple(self.found))

    # ------------------------------------------------------------ lines alone

    def _read(self, line: Line) -> _Entry:
        role = _HEADERS.get(line.tokens[0].type, "simple") if line.tokens else "simple"
        opens = bool(line.tokens) and line.tokens[-1].type == "COLON"
        if line.broken or not line.tokens or self.faults > ENOUGH:
            line.broken = True
            return _Entry(line, role, opens, bad=True)
        outcome = self.parse_line(line)
        if isinstance(outcome, build.Line):
            header = isinstance(outcome.content, build.Header)
            return _Entry(line, role, header and outcome.body is None, bad=False)
        diagnostic, mended = outcome
        self.faults += 1
        if mended:
            end = line.tokens[-1].end_pos or 0
            colon = Token("COLON", ":", start_pos=end, end_pos=end)
            whole = Line([*line.tokens, colon], line.lead)
            return _Entry(whole, role, opens=True, bad=False, fault=diagnostic)
        line.broken = True
        return _Entry(line, role, opens, bad=True, fault=diagnostic)

    # ------------------------------------------------------------ places

    def _indent_bodies(self) -> None:
        """A scan whose statements stand at the left margin: one error, and read as if indented."""
        header: _Entry | None = None
        for place, entry in enumerate(self.entries):
            before = self.entries[place - 1] if place else None
            if entry.role in ("scan", "fn"):
                header = None
            elif (
                before is not None
                and before.role == "scan"
                and before.opens
                and entry.depth == before.depth
            ):
                header = before
                self.found.append(
                    errors.body_not_indented(entry.span(), before.title(), before.span())
                )
            if header is not None:
                entry.depth += 1

    def _silence(self) -> None:
        """Lines that go deeper under a bad line that is no header are part of what is bad there."""
        under: int | None = None
        for entry in self.entries:
            if under is not None and entry.depth > under:
                entry.silent = True
                continue
            ends_in_colon = bool(entry.line.tokens) and entry.line.tokens[-1].type == "COLON"
            header = entry.role in ("scan", "for", "every") or (
                ends_in_colon and entry.role != "fn"
            )
            under = entry.depth if entry.bad and not header else None

    def _places(self) -> None:
        """Statements outside scans, definitions inside, documentation elsewhere than on top."""
        stray = False  # only the first of a run of stray statements is reported
        before: _Entry | None = None
        for entry in self.entries:
            if entry.depth == 0:
                stray = self._at_margin(entry, stray)
            elif entry.role in ("scan", "fn"):
                entry.keep = False
                self._say(entry, errors.nested_definition(self._word(entry), entry.role))
            elif entry.role == "doc" and not (
                before is not None and before.role == "scan" and before.opens
            ):
                entry.keep = False
                self._say(entry, errors.doc_outside_scan(entry.span()))
            before = entry

    def _at_margin(self, entry: _Entry, stray: bool) -> bool:
        if entry.role in ("scan", "fn"):
            return False
        entry.keep = False
        if entry.role == "doc":
            self._say(entry, errors.doc_outside_scan(entry.span()))
        elif not stray:
            self._say(entry, errors.outside_scan(entry.span()))
        return True

    def _word(self, entry: _Entry) -> Span:
        first = entry.line.tokens[0]
        return Span(first.start_pos or 0, first.end_pos or 0)

    def _say(self, entry: _Entry, diagnostic: Diagnostic) -> None:
        if not entry.bad and not entry.silent:
            self.found.append(diagnostic)

    def _bodies(self) -> None:
        """Headers without a body; the body of a scan is more than its documentation."""
        for place, entry in enumerate(self.entries):
            if entry.bad or not entry.opens:
                continue
            body = self._block(place)
            if not body or (entry.role == "scan" and all(e.role == "doc" for e in body)):
                self._say(entry, errors.empty_body(entry.span(), entry.title()))

    def _block(self, place: int) -> list[_Entry]:
        depth = self.entries[place].depth
        out: list[_Entry] = []
        for entry in self.entries[place + 1 :]:
            if entry.depth <= depth:
                break
            out.append(entry)
        return out

    # ------------------------------------------------------------ what is kept

    def _drop(self) -> None:
        """Leave out what is bad or misplaced with all that hangs on it, then headers left empty."""
        for entry in self.entries:
            entry.keep = entry.keep and not entry.bad and not entry.silent
        self._drop_blocks()
        filled: set[int] = (
            set()
        )  # depths at which a statement was kept since the last shallower line
        for entry in reversed(self.entries):
            if not entry.keep:
                continue
            if entry.opens and entry.depth + 1 not in filled:
                entry.keep = False
            filled = {d for d in filled if d <= entry.depth}
            if entry.keep and entry.role != "doc":
                filled.add(entry.depth)
        self._drop_blocks()

    def _drop_blocks(self) -> None:
        """Leave out the block under every line that is left out."""
        under: int | None = None
        for entry in self.entries:
            if under is not None and entry.depth > under:
                entry.keep = False
            else:
                under = None if entry.keep else entry.depth


def salvage(text: str, lines: Sequence[Line], parse_line: Callable[[Line], Outcome]) -> Kept:
    """Find everything that is wrong, and the part that can be kept."""
    return _Salvage(text, lines, parse_line).run()
