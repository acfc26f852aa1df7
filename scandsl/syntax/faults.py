"""From lark's refusal of one logical line to what the reader did wrong.

In: the tokens of the line, which one was refused, and which would have been accepted. Out: one
`Diagnostic`. Rules are tried in order, the most telling first; each looks at the line and says what
it means, or passes. The wording is in `scandsl.syntax.errors`.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from lark import Token

from scandsl.diagnostics import Diagnostic, Span
from scandsl.syntax import errors

_NAMES: Final = ("NAME", "UNIT", "COMPLEX")
_WORDS: Final = ("SCAN", "FN", "KIND", "FOR", "EVERY", "IN", "AND", "OR", "NOT")
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
    "NOT",
)
_ENDS_OPERAND: Final = (*_NAMES, "PRIMED", "INT", "FLOAT", "RPAR", "RSQB")
_STARTS_OPERAND: Final = (*_NAMES, "PRIMED", "INT", "FLOAT", "LPAR")
_SUFFIXES: Final = ("LSQB", "COLON", "IN", "EQ")
_STATEMENT_WORDS: Final = (
    "scan", "fn", "input", "param", "scalar", "static", "state", "output", "for", "every",
)  # fmt: skip
_SHOWN: Final = {
    "NAME": "a name", "PRIMED": "a dimension", "INT": "a whole number", "FLOAT": "a number",
    "NEWLINE": "the end of the line", "EQ": "`=`", "COMMA": "`,`", "COLON": "`:`",
    "LPAR": "`(`", "RPAR": "`)`", "LSQB": "`[`", "RSQB": "`]`", "IN": "`in`",
    "COMPLEX": "`complex`", "UNIT": "`unit`",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Refusal:
    """A logical line with NEWLINE at its end, the place of the refused token, and what would do."""

    tokens: Sequence[Token]
    at: int
    accepted: frozenset[str]

    @property
    def token(self) -> Token:
        """The refused one."""
        return self.tokens[self.at]

    @property
    def first(self) -> Token:
        """The first of the line."""
        return self.tokens[0]

    @property
    def previous(self) -> Token | None:
        """The one before the refused one."""
        return self.tokens[self.at - 1] if self.at else None

    @property
    def following(self) -> Token | None:
        """The one after the refused one."""
        return self.tokens[self.at + 1] if self.at + 1 < len(self.tokens) else None

    def span(self) -> Span:
        """The refused token; the place after the last one when the line ended too early."""
        start, end = self.token.start_pos or 0, self.token.end_pos or 0
        return Span(start, max(end, start + 1))

    def open_brackets(self) -> list[int]:
        """Places of the brackets that are open before the refused token."""
        stack: list[int] = []
        for place, token in enumerate(self.tokens[: self.at]):
            if token.type in ("LPAR", "LSQB"):
                stack.append(place)
            elif token.type in ("RPAR", "RSQB") and stack:
                stack.pop()
        return stack

    def kind_before(self, place: int) -> str:
        """The kind of the token before a place."""
        return self.tokens[place - 1].type if place else ""


def _span(token: Token) -> Span:
    return Span(token.start_pos or 0, token.end_pos or 0)


def _join(first: Token, last: Token) -> Span:
    return Span(first.start_pos or 0, last.end_pos or 0)


_Rule: TypeAlias = Callable[[Refusal], Diagnostic | None]

# ---------------------------------------------------------------- words


def _reserved(r: Refusal) -> Diagnostic | None:
    """`state = 3`, `input for`, `x = in * 2`."""
    token, before = r.token, r.previous
    if token.type in ("EQ", "AUGMENTED") and r.at == 1 and r.first.type in _WORDS:
        return errors.reserved_word(_span(r.first), str(r.first))
    if token.type not in _WORDS or not {"NAME", "UNIT"} & r.accepted:
        return None
    if before is not None and (
        before.type == "COLON" or (before.type == "FOR" and token.type == "IN")
    ):
        return None  # a block behind a header; a loop without a variable
    if token.type == "NOT" and before is not None and before.type in _OPERATORS:
        return errors.not_needs_brackets(r.span())
    if (
        token.type in ("AND", "OR")
        and r.following is not None
        and r.following.type in _STARTS_OPERAND
    ):
        return None
    if before is not None and before.type == "COMMA" and token.type in ("AND", "OR"):
        return None
    return errors.reserved_word(r.span(), str(token))


def _start_of_line(r: Refusal) -> Diagnostic | None:
    """The first token is already wrong."""
    if r.at:
        return None
    if r.token.type == "PRIMED":
        return errors.primed_name(r.span(), str(r.token))
    if r.token.type in _WORDS:
        return errors.reserved_word(r.span(), str(r.token))
    if r.token.type in ("INT", "FLOAT", "LPAR", "MINUS", "PLUS"):
        last = r.tokens[-2] if len(r.tokens) > 1 else r.token
        return errors.no_effect(_join(r.token, last))
    return None


def _unknown_word(r: Refusal) -> Diagnostic | None:
    """`inptu q[K]`, `def f(x):`, `if x > 0:`, `return o`."""
    if r.first.type not in _NAMES or any(t.type in ("EQ", "AUGMENTED") for t in r.tokens[1:2]):
        return None
    word = str(r.first)
    foreign = errors.is_foreign_word(word)
    juxtaposed = len(r.tokens) > 1 and r.tokens[1].type in (*_NAMES, "PRIMED", "INT", "KIND")
    if not (juxtaposed or (foreign and r.at == 1)):
        return None
    near = difflib.get_close_matches(word.lower(), _STATEMENT_WORDS, 1, 0.6)
    return errors.unknown_statement(_span(r.first), word, near[0] if near else None)


def _conditional(r: Refusal) -> Diagnostic | None:
    """`a if c else b`."""
    if r.token.type == "NAME" and r.token == "if":
        return errors.foreign_conditional(r.span())
    return None


# ---------------------------------------------------------------- headers


def _header(r: Refusal) -> Diagnostic | None:
    match r.first.type:
        case "SCAN":
            return _scan_header(r)
        case "FN":
            return _function_header(r)
        case "FOR" | "EVERY":
            return _loop_header(r)
        case _:
            return None


def _text(tokens: Sequence[Token]) -> str:
    words = [str(t) for t in tokens]
    return " ".join(words)


def _scan_header(r: Refusal) -> Diagnostic | None:
    before = r.previous
    if before is not None and before.type == "COLON":
        return errors.body_behind_scan(r.span())
    if r.token.type == "LPAR":
        return errors.scan_parameters(r.span())
    if r.token.type == "PRIMED":
        return errors.primed_name(r.span(), str(r.token))
    if r.at == 2 and r.token.type in (*_NAMES, "INT", "FLOAT", "MINUS", "KIND"):
        return errors.one_word_name(r.span(), f"{r.tokens[1]}_{r.token}")
    return _missing_colon(r)


def _missing_colon(r: Refusal) -> Diagnostic | None:
    if r.token.type == "NEWLINE" and "COLON" in r.accepted:
        return errors.missing_colon(r.span(), _text(r.tokens[: r.at]))
    return None


def _function_header(r: Refusal) -> Diagnostic | None:
    if r.token.type == "COLON" and "EQ" in r.accepted:
        return errors.function_with_block(r.span())
    if r.token.type in ("EQ", "COLON", "NEWLINE") and "LPAR" in r.accepted and r.at == 2:
        return errors.function_without_parameters(r.span(), str(r.tokens[1]))
    if r.token.type in (*_STARTS_OPERAND, "NEWLINE") and "EQ" in r.accepted:
        return errors.missing_equals(r.span())
    inside = r.open_brackets()
    has_body = any(t.type == "EQ" for t in r.tokens[: r.at])
    if (
        inside
        and not has_body
        and r.tokens[inside[-1]].type == "LPAR"
        and r.token.type not in ("NEWLINE", "COMMA")
    ):
        return errors.parameter_not_name(r.span())
    return None


def _loop_header(r: Refusal) -> Diagnostic | None:
    keyword = str(r.first)
    colon = any(t.type == "COLON" for t in r.tokens[: r.at])
    if colon:
        if r.previous is not None and r.previous.type == "COLON":
            return errors.block_behind_header(r.span())
        return None
    if "IN" in r.accepted:
        return errors.missing_in(r.span())
    if r.token.type == "NEWLINE" and "COLON" in r.accepted:
        return _missing_colon(r)
    if keyword == "for" and r.at == 1:
        return errors.loop_variable(_span(r.first))
    if r.token.type == "NEWLINE":
        return errors.loop_count(_span(r.tokens[r.at - 1]), keyword)
    if "COLON" in r.accepted and r.previous is not None:
        return errors.loop_count(_join(r.previous, r.token), keyword)
    return errors.loop_count(r.span(), keyword)


# ---------------------------------------------------------------- assignments


def _not_an_assignment(r: Refusal) -> Diagnostic | None:
    """The line starts with a name, and no `=` comes where it should."""
    if r.first.type not in _NAMES or not {"EQ", "AUGMENTED"} & r.accepted or r.open_brackets():
        return None
    target = _join(r.first, r.tokens[r.at - 1]) if r.at else _span(r.first)
    following = r.following
    if (
        following is not None
        and following.type == "EQ"
        and r.token.type in ("AT", "POW", "PERCENT")
    ):
        name = str(r.first)
        mend = f"write `{name} = {name} {r.token} ...`"
        return errors.no_such_operator(_join(r.token, following), f"{r.token}=", mend)
    match r.token.type:
        case "COMPARE" if r.token == "==":
            return errors.equality_as_assignment(r.span(), str(r.first))
        case "COMMA":
            return errors.several_targets(r.span())
        case "COLON" if following is not None and following.type == "EQ":
            return errors.no_such_operator(
                _join(r.token, following), ":=", f"write `{r.first} = ...`"
            )
        case "COLON":
            return errors.annotated_assignment(r.span(), str(r.first))
        case _:
            last = r.tokens[-2]
            return errors.no_effect(_join(r.first, last) if last is not r.first else target)


def _equals_inside(r: Refusal) -> Diagnostic | None:
    """A second `=`."""
    if r.token.type not in ("EQ", "AUGMENTED"):
        return None
    before = r.previous
    if (
        before is not None
        and before.type in (*_OPERATORS, "EQ")
        and before.end_pos == r.token.start_pos
    ):
        return None
    if r.open_brackets():
        return errors.assignment_in_expression(r.span())
    if any(t.type in ("EQ", "AUGMENTED") for t in r.tokens[: r.at]) and r.first.type != "KIND":
        return errors.chained_assignment(r.span())
    return None


_PAIRS: Final = {
    "//": "write `floor(a / b)`",
    "<>": "write `!=`",
    "=<": "write `<=`",
    "=>": "write `>=`",
    "===": "write `==`",
    "==": "write `==` without a space",
    "!==": "write `!=`",
    "->": "a result is written behind `=`",
    "++": "write `x += 1`",
    "--": "write `x -= 1`",
    "=*": "write `*=`",
    "=/": "write `/=`",
    "=@": "write `x = x @ ...`",
    "@=": "write `x = x @ ...`",
    "**=": "write `x = x ** ...`",
    "%=": "write `x = x % ...`",
    ":=": "write `=`",
}


def _foreign_operator(r: Refusal) -> Diagnostic | None:
    """Two signs side by side that are one operator elsewhere."""
    before = r.previous
    if before is None or before.end_pos != r.token.start_pos:
        return None
    symbol = f"{before}{r.token}"
    mend = _PAIRS.get(symbol)
    if mend is None:
        return None
    return errors.no_such_operator(_join(before, r.token), symbol, mend)


# ---------------------------------------------------------------- declarations


def _declaration(r: Refusal) -> Diagnostic | None:
    if r.first.type != "KIND":
        return None
    before = r.previous
    assert before is not None
    if before.type == "KIND":
        if r.token.type == "PRIMED":
            return errors.primed_name(r.span(), str(r.token))
        return errors.missing_declared_name(_span(before), str(before))
    opened = r.open_brackets()
    if opened:
        return _range_inside(r, opened)
    if before.type == "IN":
        return errors.bad_range(r.span() if r.token.type != "NEWLINE" else _span(before))
    if before.type == "COLON":
        return errors.only_complex(r.span())
    if before.type == "COMMA" and r.token.type in ("NEWLINE", *_WORDS):
        return errors.trailing_comma(_span(before))
    if before.type == "COMMA" and r.token.type == "PRIMED":
        return errors.primed_name(r.span(), str(r.token))
    return _suffix(r, before)


def _suffix(r: Refusal, before: Token) -> Diagnostic | None:
    """Behind a declared name, outside brackets."""
    in_value = any(t.type == "EQ" for t in _present_item(r))
    if (
        r.token.type in _SUFFIXES
        and "COMMA" in r.accepted
        and (not in_value or r.token.type != "LSQB")
    ):
        return errors.suffix_order(r.span())
    if in_value:
        return None
    if r.token.type == "LPAR" and before.type in _NAMES:
        return errors.round_dimensions(r.span(), str(before))
    if r.token.type in _NAMES and "COMMA" in r.accepted:
        return errors.missing_comma(r.span())
    if r.token.type == "AUGMENTED":
        return errors.suffix_order(r.span())
    return None


def _present_item(r: Refusal) -> Sequence[Token]:
    """The tokens since the last comma that is outside brackets."""
    depth = start = 0
    for place, token in enumerate(r.tokens[: r.at]):
        if token.type in ("LPAR", "LSQB"):
            depth += 1
        elif token.type in ("RPAR", "RSQB"):
            depth -= 1
        elif token.type == "COMMA" and depth == 0:
            start = place + 1
    return r.tokens[start : r.at]


def _range_inside(r: Refusal, opened: list[int]) -> Diagnostic | None:
    if r.kind_before(opened[-1]) != "IN":
        return None
    commas = sum(t.type == "COMMA" for t in r.tokens[opened[-1] : r.at])
    if (r.token.type in ("RPAR", "RSQB") and "COMMA" in r.accepted) or (
        r.token.type == "COMMA" and commas
    ):
        return errors.range_ends(_join(r.tokens[opened[-1]], r.token))
    return None


# ---------------------------------------------------------------- bracket lists and expressions


def _bracket_list(r: Refusal) -> Diagnostic | None:
    """Something else than names (and numbers) in `x[...]`."""
    opened = r.open_brackets()
    if not opened or r.tokens[opened[-1]].type != "LSQB":
        return None
    before = r.kind_before(opened[-1])
    if before == "IN":
        return None
    if r.token.type == "RSQB" and r.at == opened[-1] + 1:
        return errors.empty_brackets(_join(r.tokens[opened[-1]], r.token), square=True)
    if r.token.type in ("RSQB", "NEWLINE", *_WORDS):
        return None
    if r.token.type in (*_NAMES, "PRIMED") and "COMMA" in r.accepted:
        return errors.missing_slot_comma(r.span())
    if "INT" in r.accepted or (
        before in _NAMES and "RSQB" in r.accepted and r.first.type not in ("KIND", "FN")
    ):
        return errors.index_not_literal(r.span())
    if r.token.type in ("INT", "FLOAT"):
        return errors.dimension_not_name(r.span())
    if r.first.type not in ("KIND", "FN") or before == "AT" or r.token.type == "COLON":
        return errors.index_not_literal(r.span())
    return None


def _missing_operand(r: Refusal) -> Diagnostic | None:
    """An operator, a comma or a bracket with nothing where an expression has to stand."""
    before = r.previous
    if before is None or not {"INT", "NAME"} & r.accepted:
        return None
    symbol = before.type
    if symbol == "LPAR" and r.token.type == "RPAR":
        return errors.empty_brackets(_join(before, r.token), square=False)
    if r.token.type == "NEWLINE":
        if symbol in _OPERATORS:
            return errors.unfinished_line(_span(before), str(before))
        return errors.missing_expression(_span(before), f"after `{before}`")
    if symbol in (*_OPERATORS, "EQ", "AUGMENTED", "COMMA", "LPAR", "LSQB"):
        if r.token.type in ("RPAR", "RSQB", "COMMA", "EQ", "COLON"):
            return errors.missing_expression(
                _join(before, r.token), f"between `{before}` and `{r.token}`"
            )
        if r.token.type in _OPERATORS:
            return errors.missing_expression(r.span(), f"before `{r.token}`")
    return None


def _missing_operator(r: Refusal) -> Diagnostic | None:
    """Two operands side by side."""
    before = r.previous
    if before is None or before.type not in _ENDS_OPERAND:
        return None
    in_expression = "STAR" in r.accepted
    if in_expression and r.token.type == "LSQB":
        return errors.index_on_expression(r.span())
    if in_expression and r.token.type in _STARTS_OPERAND:
        span = _join(before, r.token)
        if before.type in ("RPAR", "RSQB") or r.token.type == "LPAR":
            return errors.missing_operator_here(span)
        return errors.missing_operator(span, str(before), str(r.token))
    return None


def _rest(r: Refusal) -> Diagnostic | None:
    """Commas, colons and documentation in the wrong place."""
    if r.token.type == "COMMA" and not r.open_brackets():
        return errors.tuple_value(r.span())
    if r.token.type == "DOC":
        return errors.string_literal(r.span())
    if r.token.type == "PRIMED":
        return errors.primed_name(r.span(), str(r.token))
    return None


def _generic(r: Refusal) -> Diagnostic:
    what = "the end of the line" if r.token.type == "NEWLINE" else f"`{r.token}`"
    accepted = r.accepted - {"UNIT", "COMPLEX"} if "NAME" in r.accepted else r.accepted
    shown = tuple(_SHOWN[k] for k in sorted(accepted) if k in _SHOWN)
    return errors.unexpected(r.span(), what, shown if 0 < len(shown) <= 4 else ())


_RULES: Final[tuple[_Rule, ...]] = (
    _reserved, _start_of_line, _unknown_word, _conditional, _header, _foreign_operator,
    _not_an_assignment, _equals_inside, _bracket_list, _declaration, _missing_operand,
    _missing_operator, _rest,
)  # fmt: skip


def explain(refusal: Refusal) -> Diagnostic:
    """Say what is wrong with a line."""
    for rule in _RULES:
        found = rule(refusal)
        if found is not None:
            return found
    return _generic(refusal)
