"""The wording of every error of syntax.

In: places and the few facts that a message needs. Out: `Diagnostic`s. Nothing is decided here: who
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
    "（": "(", "）": ")", "［": "[", "］": "]", "，": ",", "：": ":", "＝": "=", "＋": "+",
    "－": "-",
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
    return Diagnostic(
        f"{_glyph(char)} ({name}) is not part of the language", span, (f"write `{meant}`",)
    )


def unterminated_doc(span: Span, quotes: str) -> Diagnostic:
    """A triple quote opens and never closes."""
    return Diagnostic("this documentation is never closed", span, (f"end it with {quotes}",))


def string_literal(span: Span) -> Diagnostic:
    """A string in single quotes."""
    mend = (
        "documentation right under `scan name:` stands in triple quotes; a comment starts with `#`"
    )
    return Diagnostic("there are no strings in the language", span, (mend,))


def number_with_letters(span: Span, number: str, letters: str) -> Diagnostic:
    """`2x`."""
    if letters in ("j", "J"):
        mend = f"an imaginary number is written `complex(0, {number})`"
    elif number == "0" and letters[:1] in "xXbBoO":
        mend = "numbers are written in decimal"
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
    return Diagnostic(
        "this number is beyond the range of double precision", span, ("write `inf` for infinity",)
    )


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
    return Diagnostic(
        "the indentation mixes tabs and spaces", span, ("use four spaces per level",), notes
    )


def unexpected_indent(span: Span, first: bool) -> Diagnostic:
    """A line deeper than the one before, which opens no block."""
    if first:
        return Diagnostic("the first line of a file is not indented", span)
    mend = "it should line up with the line before, or that line should open a block with `:`"
    return Diagnostic("this line is indented more than the line before", span, (mend,))


def unmatched_dedent(span: Span) -> Diagnostic:
    """A line that lines up with no open block."""
    return Diagnostic("this indentation matches no block that is open here", span)


# ---------------------------------------------------------------- blocks


def outside_scan(span: Span) -> Diagnostic:
    """A statement at the left margin."""
    mend = "it belongs under `scan name:`, indented; at the left margin start only `scan` and `fn`"
    return Diagnostic("this statement stands outside a scan", span, (mend,))


def doc_outside_scan(span: Span) -> Diagnostic:
    """Documentation in the wrong place."""
    mend = "elsewhere write a comment with `#`"
    return Diagnostic(
        "documentation stands right under `scan name:` and nowhere else", span, (mend,)
    )


def nested_definition(span: Span, keyword: str) -> Diagnostic:
    """`scan` or `fn` inside a block."""
    return Diagnostic(f"`{keyword}` starts at the left margin, not inside a block", span)


def body_not_indented(span: Span, header: str, header_span: Span) -> Diagnostic:
    """The statements of a scan at the left margin."""
    note = Note("its statements follow this line", header_span)
    return Diagnostic(
        f"the body of `{header}` is not indented", span, ("indent it by four spaces",), (note,)
    )


def empty_body(span: Span, header: str) -> Diagnostic:
    """A header with nothing under it."""
    mend = "give it at least one statement, indented, on the lines below"
    return Diagnostic(f"`{header}` has an empty body", span, (mend,))


# ---------------------------------------------------------------- words in the wrong place


def reserved_word(span: Span, word: str) -> Diagnostic:
    """A keyword where a name has to stand."""
    mend = f"choose another name, such as `{word}_`"
    return Diagnostic(f"`{word}` is a reserved word and cannot be a name", span, (mend,))


def primed_name(span: Span, name: str) -> Diagnostic:
    """`x' = 1`."""
    mend = f"write `{name.rstrip(chr(39))}`, or `{name.rstrip(chr(39))}_`"
    return Diagnostic(
        f"only dimensions carry primes, so `{name}` cannot be declared or assigned", span, (mend,)
    )


def unknown_statement(span: Span, word: str, near: str | None) -> Diagnostic:
    """A line that starts like a statement but with no known word."""
    help_ = _FOREIGN.get(word) or (f"did you mean `{near}`?" if near else None)
    mends = (
        (help_,) if help_ else ("a statement is a declaration, an assignment, `for` or `every`",)
    )
    return Diagnostic(f"`{word}` starts no statement", span, mends)


_FOREIGN: Final = {
    "def": "a function is written `fn f(x) = expr`, a recurrence `scan name:`",
    "if": "a choice is written `x = where(condition, a, b)`",
    "elif": "a choice is written `x = where(condition, a, b)`",
    "else": "a choice is written `x = where(condition, a, b)`",
    "while": "loops run over a static dimension or a number: `for i in 5:`",
    "return": "a result is declared where it is read: `output o[V] = expr`",
    "let": "an assignment needs no word before it: `x = expr`",
    "var": "an assignment needs no word before it: `x = expr`",
    "const": "an assignment needs no word before it: `x = expr`",
    "import": "nothing is imported: all functions are built in or written with `fn`",
    "from": "nothing is imported: all functions are built in or written with `fn`",
    "class": "a recurrence is written `scan name:`",
    "lambda": "a function is written `fn f(x) = expr`, at the left margin",
    "function": "a function is written `fn f(x) = expr`",
    "pass": "a block needs a statement that does something",
    "print": "nothing can be printed from a scan",
}


def is_foreign_word(word: str) -> bool:
    """Whether a word starts a statement in Python or elsewhere, but not here."""
    return word in _FOREIGN


def foreign_conditional(span: Span) -> Diagnostic:
    """`a if c else b`."""
    return Diagnostic("there is no `if` in expressions", span, ("write `where(condition, a, b)`",))


# ---------------------------------------------------------------- statements


def missing_colon(span: Span, header: str) -> Diagnostic:
    """A header without its colon."""
    return Diagnostic(f"`:` is missing after `{header}`", span, (f"write `{header}:`",))


def one_word_name(span: Span, joined: str) -> Diagnostic:
    """`scan gated delta:`."""
    mend = (
        f"write `scan {joined}:`"
        if joined.isidentifier()
        else "a name is made of letters, digits and `_`"
    )
    return Diagnostic("the name of a scan is one word, followed by `:`", span, (mend,))


def missing_equals(span: Span) -> Diagnostic:
    """`fn f(x) x + 1`."""
    return Diagnostic(
        "`=` is missing before the body of the function", span, ("write `fn f(x) = expr`",)
    )


def missing_slot_comma(span: Span) -> Diagnostic:
    """`x[K V]`."""
    return Diagnostic("names in brackets are separated by commas", span)


def body_behind_scan(span: Span) -> Diagnostic:
    """`scan x: input y`."""
    return Diagnostic("the body of a scan stands on the lines below, indented", span)


def block_behind_header(span: Span) -> Diagnostic:
    """`for a in A: for b in B: ...`."""
    mend = "put it on the next line, indented"
    return Diagnostic(
        "only a declaration or an assignment may follow `:` on the same line", span, (mend,)
    )


def scan_parameters(span: Span) -> Diagnostic:
    """`scan f(x):`."""
    mend = "declare them in its body: `input x`, `param w`"
    return Diagnostic("a scan has no parameter list", span, (mend,))


def function_with_block(span: Span) -> Diagnostic:
    """`fn f(x):`."""
    return Diagnostic("a function is one expression behind `=`", span, ("write `fn f(x) = expr`",))


def function_without_parameters(span: Span, name: str) -> Diagnostic:
    """`fn f = 1`."""
    return Diagnostic("a function has a parameter list", span, (f"write `fn {name}(x) = expr`",))


def parameter_not_name(span: Span) -> Diagnostic:
    """`fn f(x[D]) = ...`, `fn f(x=1) = ...`."""
    mend = "dimensions stand behind the function's name: `fn f[D](x) = expr`; there are no defaults"
    return Diagnostic("a parameter is a bare name", span, (mend,))


def missing_in(span: Span) -> Diagnostic:
    """`for r R:`."""
    return Diagnostic("`in` is missing", span, ("write `for r in R:` or `for i in 5:`",))


def loop_variable(span: Span) -> Diagnostic:
    """`for in R:`, `for 3:`."""
    mend = "write `for r in R:` or `for i in 5:`"
    return Diagnostic("a loop variable is missing after `for`", span, (mend,))


def loop_count(span: Span, keyword: str) -> Diagnostic:
    """`for i in range(5):`, `every 2 * n:`."""
    example = "for i in 5:` or `for r in R:" if keyword == "for" else "every 16:` or `every W:"
    return Diagnostic(
        f"`{keyword}` takes a whole number or a static dimension", span, (f"write `{example}`",)
    )


def equality_as_assignment(span: Span, name: str) -> Diagnostic:
    """`x == 3` as a statement."""
    return Diagnostic(
        "`==` compares and assigns nothing", span, (f"write `{name} = ...` to assign",)
    )


def assignment_in_expression(span: Span) -> Diagnostic:
    """`f(x = 1)`, `where(a = b, ...)`."""
    mend = "write `==` to compare; arguments are passed by position"
    return Diagnostic("`=` cannot stand inside an expression", span, (mend,))


def chained_assignment(span: Span) -> Diagnostic:
    """`x = y = 3`."""
    return Diagnostic(
        "one line assigns one name", span, ("write `==` to compare, or use a line for each",)
    )


def several_targets(span: Span) -> Diagnostic:
    """`x, y = ...`."""
    return Diagnostic("one line assigns one name", span, ("use a line for each",))


def annotated_assignment(span: Span, name: str) -> Diagnostic:
    """`x: complex = ...`."""
    mend = f"locals need no declaration: `{name} = ...`; a state is declared by `state {name}`"
    return Diagnostic("only declarations take `:`", span, (mend,))


def tuple_value(span: Span) -> Diagnostic:
    """`x = a, b`."""
    return Diagnostic(
        "a value is one expression; there are no tuples", span, ("use a line for each",)
    )


def no_effect(span: Span) -> Diagnostic:
    """An expression alone on a line."""
    mend = "assign it, `x = ...`, or return it, `output x = ...`"
    return Diagnostic("this line computes a value and keeps it nowhere", span, (mend,))


def no_such_operator(span: Span, symbol: str, mend: str) -> Diagnostic:
    """`@=`, `//`, `<>` and their like."""
    return Diagnostic(f"there is no operator `{symbol}`", span, (mend,))


# ---------------------------------------------------------------- declarations


def missing_declared_name(span: Span, keyword: str) -> Diagnostic:
    """`input` alone."""
    return Diagnostic(f"a name is missing after `{keyword}`", span, (f"write `{keyword} x[D]`",))


def trailing_comma(span: Span) -> Diagnostic:
    """`input q[K],` at the end."""
    return Diagnostic("a name is missing after the comma", span)


def missing_comma(span: Span) -> Diagnostic:
    """`input q k`."""
    return Diagnostic("declared names are separated by commas", span)


def round_dimensions(span: Span, name: str) -> Diagnostic:
    """`input q(K)`."""
    return Diagnostic("dimensions stand in square brackets", span, (f"write `{name}[K]`",))


def suffix_order(span: Span) -> Diagnostic:
    """Suffixes of a declared name in another order than the fixed one."""
    mend = "the order is `x[D]: complex in [a, b] = expr`; each may be left out"
    return Diagnostic("this part of the declaration comes too late, or twice", span, (mend,))


def only_complex(span: Span) -> Diagnostic:
    """`x: real`."""
    return Diagnostic(
        "only `complex` may follow `:`", span, ("values are real unless declared `: complex`",)
    )


def bad_range(span: Span) -> Diagnostic:
    """Something else than an interval behind `in`."""
    mend = "a range is written `in [a, b]`, with `(` or `)` for an open end, or `in unit`"
    return Diagnostic("this is no range", span, (mend,))


def range_ends(span: Span) -> Diagnostic:
    """`in [0]`, `in [0, 1, 2]`."""
    return Diagnostic("a range has two ends", span, ("write `in [a, b]`",))


# ---------------------------------------------------------------- expressions


def missing_expression(span: Span, where: str) -> Diagnostic:
    """An operator or the like with nothing behind it."""
    return Diagnostic(f"an expression is missing {where}", span)


def unfinished_line(span: Span, after: str) -> Diagnostic:
    """A line that ends in an operator."""
    mend = "a line goes on only inside brackets: put the expression in parentheses"
    return Diagnostic(f"an expression is missing after `{after}`", span, (mend,))


def missing_operator(span: Span, left: str, right: str) -> Diagnostic:
    """`2 (x)`, `a b`."""
    mend = f"write `{left} * {right}` for a product"
    return Diagnostic(f"an operator is missing between `{left}` and `{right}`", span, (mend,))


def missing_operator_here(span: Span) -> Diagnostic:
    """`(x) (y)`."""
    return Diagnostic(
        "an operator is missing next to this bracket", span, ("write `*` for a product",)
    )


def not_needs_brackets(span: Span) -> Diagnostic:
    """`a + not b`."""
    return Diagnostic("`not` binds weaker than the operator before it", span, ("write `(not x)`",))


def empty_brackets(span: Span, square: bool) -> Diagnostic:
    """`x[]`, `()`."""
    if square:
        return Diagnostic("this bracket list is empty", span, ("leave the brackets out",))
    return Diagnostic("there is no expression in these parentheses", span)


def index_not_literal(span: Span) -> Diagnostic:
    """`k[r + 1]`, `k[-1]`, `k[0:2]`."""
    mend = "a slot takes a whole number, a loop variable, or the name of a dimension"
    return Diagnostic("an index is not computed", span, (mend,))


def dimension_not_name(span: Span) -> Diagnostic:
    """`input x[3]`, `a @[0] b`."""
    return Diagnostic(
        "a dimension is a name", span, ("a fixed size is declared by `static R = 3`",)
    )


def index_on_expression(span: Span) -> Diagnostic:
    """`(a @ b)[0]`."""
    return Diagnostic(
        "only a name takes a bracket list", span, ("give the expression a name first",)
    )


def number_as_dimension(span: Span, function: str) -> Diagnostic:
    """`sum[0](x)`."""
    return Diagnostic(f"`{function}[...]` takes names of dimensions, not numbers", span)


def missing_arguments(span: Span, function: str) -> Diagnostic:
    """A function without its parentheses where nothing else can follow."""
    return Diagnostic(f"`{function}` is called with parentheses", span)


def unexpected(span: Span, what: str, expected: tuple[str, ...] = ()) -> Diagnostic:
    """Nothing better is known."""
    mends = ("expected here: " + ", ".join(expected),) if expected else ()
    return Diagnostic(f"{what} is not expected here", span, mends)


def too_many(span: Span) -> Diagnostic:
    """More findings than anyone reads."""
    return Diagnostic("further errors of syntax from here on are not shown", span)
