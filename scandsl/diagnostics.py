"""Source text, spans, diagnostics and the two exceptions of the compiler.

In: a source text and findings about places in it.  Out: rendered messages.
This module knows nothing of the language; wording lives in `scandsl.check.errors` and
`scandsl.syntax.errors`, rendering lives here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum


@dataclass(frozen=True, slots=True)
class Source:
    """A text and the name it is shown under (a path as the user typed it)."""

    name: str
    text: str


@dataclass(frozen=True, slots=True)
class Span:
    """A half-open range `[start, end)` of character offsets into a source text."""

    start: int
    end: int


MAX_FINDINGS = 100  # of one stage that are shown
_WIDEST = 160  # characters of a source line that are shown


class Severity(Enum):
    """How bad a finding is."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Note:
    """A second place that matters, with one line of text about it."""

    text: str
    span: Span


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One finding: what is wrong, where, and how to mend it.

    `help` lines are printed behind `=`; `notes` show further places of the same source.
    """

    message: str
    span: Span
    help: tuple[str, ...] = ()
    notes: tuple[Note, ...] = ()
    severity: Severity = Severity.ERROR


class ScanError(Exception):
    """The user's spec or call is wrong.  Carries every diagnostic found, in order of place."""

    def __init__(self, source: Source, diagnostics: Sequence[Diagnostic]) -> None:
        self.source = source
        self.diagnostics = tuple(sorted(diagnostics, key=lambda d: (d.span.start, d.span.end)))
        super().__init__(render_all(source, self.diagnostics))


class InternalError(Exception):
    """The compiler is wrong.  A bug to be reported, never the user's fault."""


@dataclass(slots=True)
class Findings:
    """A collector of diagnostics for one source; raises at the end of a stage."""

    source: Source
    items: list[Diagnostic] = field(default_factory=list)

    def add(self, diagnostic: Diagnostic) -> None:
        """Keep one diagnostic; the same message at the same place is kept once."""
        if diagnostic not in self.items:
            self.items.append(diagnostic)

    def raise_if_errors(self) -> None:
        """Raise `ScanError` with all findings if at least one is an error."""
        if not any(d.severity is Severity.ERROR for d in self.items):
            return
        found = sorted(self.items, key=lambda d: (d.severity is not Severity.ERROR, d.span.start))
        if len(found) > MAX_FINDINGS:
            rest = found[MAX_FINDINGS:]
            text = f"{len(rest)} more findings are not shown"
            found = [*found[:MAX_FINDINGS], Diagnostic(text, rest[0].span)]
        raise ScanError(self.source, found)


def line_and_column(text: str, offset: int) -> tuple[int, int]:
    """The 1-based line and column (in characters) of an offset."""
    line = text.count("\n", 0, offset) + 1
    return line, offset - (text.rfind("\n", 0, offset) + 1) + 1


def _excerpt(source: Source, span: Span) -> list[str]:
    line, column = line_and_column(source.text, span.start)
    lines = source.text.split("\n")
    content = lines[line - 1].rstrip("\r") if line <= len(lines) else ""
    shown = "".join(c if c.isprintable() else "\ufffd" for c in content.expandtabs(4))
    lead = len(content[: column - 1].expandtabs(4))
    inside = content[column - 1 : column - 1 + max(span.end - span.start, 1)]
    width = max(1, len((content[: column - 1] + inside).expandtabs(4)) - lead)
    if len(shown) > _WIDEST:  # a window around the place
        start = max(0, min(lead - 40, len(shown) - _WIDEST))
        before = "…" if start else ""
        after = "…" if start + _WIDEST < len(shown) else ""
        shown = before + shown[start : start + _WIDEST] + after
        lead += len(before) - start
        width = max(1, min(width, len(shown) - lead))
    gutter = f"{line:>5} | "
    blank = " " * (len(gutter) - 2) + "| "
    return [gutter + shown, blank + " " * lead + "^" * width]


def render(source: Source, diagnostic: Diagnostic) -> str:
    """One diagnostic as text: place, message, line with carets, notes and help."""
    line, column = line_and_column(source.text, diagnostic.span.start)
    head = f"{source.name}:{line}:{column}: {diagnostic.severity.value}: {diagnostic.message}"
    out = [head, *_excerpt(source, diagnostic.span)]
    pad = " " * 6
    for note in diagnostic.notes:
        note_line, note_column = line_and_column(source.text, note.span.start)
        out.append(f"{pad}: {note.text} ({source.name}:{note_line}:{note_column})")
        out.extend(_excerpt(source, note.span))
    out.extend(f"{pad}= {text}" for text in diagnostic.help)
    return "\n".join(out)


def render_all(source: Source, diagnostics: Sequence[Diagnostic]) -> str:
    """All diagnostics as text, separated by empty lines."""
    return "\n\n".join(render(source, d) for d in diagnostics)
