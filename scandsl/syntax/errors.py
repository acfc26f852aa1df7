"""The wording of every error of syntax.

In: places and the few facts that a message needs.  Out: `Diagnostic`s.  Nothing is decided here: who
finds the fault says which one it is.
"""

from __future__ import annotations

import unicodedata
from typing import Final

from scandsl.diagnostics import Diagnostic, Note, Span

LOOK_ALIKES: Final = {
    "×": "*", "∗": "*", "·": "*", "⋅": "*", "∘": "*", "⊙": "*", "•": "*",
    "−": "-", "–": "-", "—": "-", "‐": "-", "‑": "-", "÷": "/", "∕": "/", "⁄": "/",
    "≤": "<=", "≥": ">=", "≠": "!=", "⩽": "<=", "⩾": ">=", "≔": "=",
    "（": "(", "）": ")", "［": "[", "］": "]", "，": ",", "：": ":", "＝": "=", "＋": "+", "－": "-",
    "＊": "*", "／": "/", "＠": "@", "＜": "<", "＞": ">", "；": ",", "、": ",", "‚": ",", "꞉": ":",
    "\u00a0": " ", "\u2002": " ", "\u2003": " ", "\u2009": " ", "\u202f": " ", "\u3000": " ",
    "\u200b": " ", "\ufeff": " ", "\u2028": " ", "\u2029": " ", "\u0085": " ", "\x0b": " ",
}  # fmt: skip

_CHARACTER_HELP: Final = {
    "^": "a power is written `**`",
    "²": "a square is written `x ** 2`",
    "³": "a cube is written `x ** 3`",
    "∞": "infinity is written `inf`",
    "√": "a square root is written `sqrt(x)`",
    "∑": "a sum is written `sum[K](x)`",
    "ᵀ": "nothing is transposed here: dimensions align by name",
    "′": "a primed dimension is written with a straight quote: `K'`",
    "’": "a primed dimension is written with a straight quote: `K'`",
    "‘": "a primed dimension is written with a straight quote: `K'`",
    "&": "write `and`",
    "|": "write `or`; an absolute value is `abs(x)`",
    "!": "write `not`",
    "~": "write `not`",
    ";": "one statement per line",
    "\\": "a line goes on inside brackets: put the expression in parentheses",
    ".": "functions are called by their bare name, without a module before it",
    "{": "bracket lists are written `[K, V]`, expressions are grouped with `(...)`",
    "}": "bracket lists are written `[K, V]`, expressions are grouped with `(...)`",
    "?": "a choice is written `where(condition, a, b)`",
    "“": "documentation stands between straight quotes, three of them",
    "”": "documentation stands between straight quotes, three of them",
}


def _quantity(count: int) -> str:
    return f"{count:,}"


def _glyph(char: str) -> str:
    if char.isprintable() and not char.isspace():
        return f"`{char}`"
    return unicodedata.name(char, f"U+{ord(char):04X}").lower()


# ---------------------------------------------------------------- limits


def file_too_long(limit: int, length: int) -> Diagnostic:
    """The whole text is beyond the limit."""
    message = f"the file has {_quantity(length)} characters; at most {_quantity(limit)} are read"
    return Diagnostic(message, Span(0, 1), ("split it into several files",))


def name_too_long(span: Span, limit: int) -> Diagnostic:
    """A name is beyond the limit."""
    return Diagnostic(f"a name has at most {limit} characters", span)


def number_too_long(span: Span, limit: int) -> Diagnostic:
    """A literal is beyond the limit."""
    return Diagnostic(f"a number is written with at most {limit} characters", span)


def brackets_too_deep(span: Span, limit: int) -> Diagnostic:
    """Too many brackets are open."""
    return Diagnostic(f"more than {limit} brackets are open here", span, (_SPLIT_HELP,))


def expression_too_deep(span: Span, limit: int) -> Diagnostic:
    """The tree of an expression is too deep."""
    message = f"this expression is nested more than {limit} levels deep"
    return Diagnostic(message, span, (_SPLIT_HELP,))


def blocks_too_deep(span: Span, limit: int) -> Diagnostic:
    """Too many blocks lie inside one another."""
    return Diagnostic(f"blocks are nested more than {limit} deep", span)


_SPLIT_HELP: Final = "give parts of it a name on a line before"

# ---------------------------------------------------------------- characters and words


def unknown_character(span: Span, char: str) -> Diagnostic:
    """A character that starts no token."""
    meant = LOOK_ALIKES.get(char)
    if meant is None:
        mend = _CHARACTER_HELP.get(char)
        return Diagnostic(f"{_glyph(char)} has no meaning here", span, (mend,) if mend else ())
    name = unicodedata.name(char, f"U+{ord(char):04X}").lower()
    if meant == " ":
        return Diagnostic(f"this is no ordinary space but {name}", span, ("replace it by a space",))
    return Diagnostic(f"{_glyph(char)} ({name}) is not part of the language", span, (f"write `{meant}`",))


def unterminated_doc(span: Span, quotes: str) -> Diagnostic:
    """A triple quote opens and never closes."""
    return Diagnostic("this documentation is never closed", span, (f"end it with {quotes}",))


def string_literal(span: Span) -> Diagnostic:
    """A string in single quotes."""
    mend = "documentation right under `scan name:` stands in triple quotes; a comment starts with `#`"
    return Diagnostic("there are no strings in the language", span, (mend,))


def number_with_letters(span: Span, number: str, letters: str) -> Diagnostic:
    """`2x`."""
    if letters in ("j", "J"):
        mend = f"an imaginary number is written `complex(0, {number})`"
    else:
        mend = f"write `{number} * {letters}` for a product; a name starts with a letter"
    return Diagnostic("a number runs into a name", span, (mend,))


def bad_underscore(span: Span) -> Diagnostic:
    """`1__0`, `1_`."""
    return Diagnostic("an underscore in a number stands between two digits", span)


def integer_too_large(span: Span, as_float: str) -> Diagnostic:
    """An integer beyond 64 bits."""
    return Diagnostic("this integer does not fit into 64 bits", span, (f"write `{as_float}`",))


def number_too_large(span: Span) -> Diagnostic:
    """A float beyond the range of doubles."""
    return Diagnostic("this number is beyond the range of double precision", span, ("write `inf` for infinity",))


# ---------------------------------------------------------------- brackets


def closes_nothing(span: Span, bracket: str) -> Diagnostic:
    """A closing bracket without an opening one."""
    return Diagnostic(f"`{bracket}` closes nothing", span)


def bracket_mismatch(opening: Span, left: str, closing: Span, right: str) -> Diagnostic:
    """`(a]`."""
    note = Note(f"`{right}` stands where it should be closed", closing)
    return Diagnostic(f"`{left}` is closed by `{right}`", opening, notes=(note,))


def never_closed(span: Span, bracket: str) -> Diagnostic:
    """An opening bracket without a closing one."""
    return Diagnostic(f"`{bracket}` is never closed", span)


# ---------------------------------------------------------------- indentation


def indented_with(char: str) -> str:
    """A note on the first indented line."""
    return f"the first indented line of the file uses {'tabs' if char == chr(9) else 'spaces'}"


def mixed_indentation(span: Span, notes: tuple[Note, ...]) -> Diagnostic:
    """Tabs and spaces in one file's indentation."""
    return Diagnostic("the indentation mixes tabs and spaces", span, ("use four spaces per level",), notes)


def unexpected_indent(span: Span, first: bool) -> Diagnostic:
    """A line deeper than the one before, which opens no block."""
    if first:
        return Diagnostic("the first line of a file is not indented", span)
    mend = "it should line up with the line before, or that line should open a block with `:`"
    return Diagnostic("this line is indented more than the line before", span, (mend,))


def unmatched_dedent(span: Span) -> Diagnostic:
    """A line that lines up with no open block."""
    return Diagnostic("this indentation matches no block that is open here", span)


# ---------------------------------------------------------------- grammar


def number_as_dimension(span: Span, function: str) -> Diagnostic:
    """`sum[0](x)`."""
    return Diagnostic(f"`{function}[...]` takes names of dimensions, not numbers", span)


def unexpected(span: Span, what: str) -> Diagnostic:
    """Nothing better is known."""
    return Diagnostic(f"{what} is not expected here", span)
