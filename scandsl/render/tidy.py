"""Makes printed Python look as a formatter would leave it.

In: the text of a module whose statements are printed without care for line breaks.  Out: the same
module with long statements exploded one item per line, short ones joined, and two blank lines
between top-level definitions.  It knows just enough of Python for what the printers write:
brackets, operators, strings and comments; text inside triple quotes is left alone, and so is the
meaning.

Formatters set to 88 columns and to 100 agree with the result: what one of them would join, and the
other would not, ends in a comma.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise

from scandsl.render.layout import WIDTH

_WIDER = 100  # formatters set to this leave the text alone as well
_ONE_TARGET = re.compile(r"^(\s*)([^\W\d]\w*), = ")
_ASSIGNS = re.compile(r" (?:[-+*/@|&])?= ")
_OPEN, _CLOSE = "([{", ")]}"
_PLAIN = re.compile(r"[^\"'#]*").fullmatch  # without strings and comments
_LEVELS = tuple(
    re.compile(r" (?=(?:" + words + r") )")
    for words in (
        r"if|else",
        r"or",
        r"and",
        r"<|>|<=|>=|==|!=|in|is|not in|is not",
        r"\|",
        r"\^",
        r"&",
        r"\+|-",
        r"\*|/|//|%|@",
    )
)  # operators, the loosest first


def tidied(text: str) -> str:
    """The module's text, tidied."""
    lines = list(_statements(text.split("\n")))
    return "\n".join(_spaced(lines))


def _statements(lines: Sequence[str]) -> Iterator[str]:
    quoted = hopeless = False
    depth = index = 0
    while index < len(lines):
        line = lines[index]
        index += 1
        comment = not quoted and line.lstrip().startswith("#")
        opens = not comment and line.count('"""') % 2 == 1
        if comment or quoted or opens or line.lstrip().startswith('"""'):
            quoted = quoted != opens
            yield line
            continue
        if depth == 0:
            line = _single_brackets(_ONE_TARGET.sub(r"\1(\2,) = ", line))
        joined = _joined(line, lines[index : index + 2])
        if joined is not None:
            yield joined
            index += 2
            continue
        balance = _balance(line)
        long = len(line) > WIDTH and "  # " not in line
        *first, last = _broken(line, depth, balance) if long else [line]
        yield from first
        hopeless = hopeless or any(_breakable(x) for x in (*first, last))
        depth += balance
        if depth == 0:
            last = last if not hopeless or last.endswith("# fmt: skip") else _kept(last)[0]
            hopeless = False
        yield last


def _breakable(line: str) -> bool:
    """Whether formatters would find a place to break a line that is still too long."""
    if len(line) <= WIDTH or "  # " in line:
        return False
    code = "".join(char for char, _ in _code(line)).strip()
    return any(c in code for c in " ([")


def _broken(line: str, depth: int, balance: int) -> list[str]:
    """A long line: a statement, an item of one, or the end of a head with a long result."""
    if balance == 0 and depth == 0:
        return exploded(line)
    if balance == 0:
        comma = "," if line.endswith(",") else ""
        lines = exploded(line.removesuffix(","), inside=True)
        return [*lines[:-1], lines[-1] + comma]
    return _result_exploded(line) if line.lstrip().startswith(") -> ") else [line]


def _single_brackets(line: str) -> str:
    """`f((a + b))` as `f(a + b)`."""
    place = line.find("((")
    while place >= 0:
        end = _matching(line, place + 1)
        called = line[place - 1 : place].isalnum() or line[place - 1 : place] == "_"
        inner = line[place + 2 : end]
        alone = called and line[end + 1 : end + 2] == ")" and len(_items(inner)) == 1
        if alone and not inner.endswith(",") and " for " not in inner:
            line = line[: place + 1] + inner + line[end + 1 :]
        place = line.find("((", place + 1)
    return line


def _matching(text: str, start: int) -> int:
    """Where the bracket at `start` is closed, or -1."""
    depth = 0
    for char, place in _code(text):
        if place >= start:
            depth += (char in _OPEN) - (char in _CLOSE)
            if depth == 0:
                return place
    return -1


def _joined(line: str, rest: Sequence[str]) -> str | None:
    """`f(` + one line of items + `)` on one line, if nothing asks for more lines."""
    if len(rest) < 2 or not line.endswith(("(", "[")) or "#" in rest[0]:
        return None
    indent = line[: len(line) - len(line.lstrip())]
    inner, tail = rest[0].strip(), rest[1]
    if not tail.startswith((indent + ")", indent + "]")) or rest[0][: len(indent) + 4].strip():
        return None
    if inner.endswith(("(", "[", "{")) or tail.endswith(("(", "[", "{")):
        return None
    if inner.endswith(","):
        tuple_opens = line.endswith(("= (", "return ("))
        if not tuple_opens or len(_items(inner[:-1])) != 1:
            return None
    whole = line + inner + tail.strip()
    return whole if len(whole) <= WIDTH and _balance(whole) == 0 else None


# ---------------------------------------------------------------- long lines


def exploded(line: str, inside: bool = False) -> list[str]:
    """A line that is too long in several: one item per line, or one operand per line.

    The last item takes a comma.  `inside` says that the line stands in brackets of a longer
    statement.
    """
    if line.lstrip().startswith("def "):
        return _head_exploded(line)
    lead = _lead(line)
    value = line[len(lead) :]
    if not inside and len(_items(value)) > 1:
        return exploded(f"{lead}({value})")
    places = _operators(value)
    if places:
        return _operands(line, lead, places, inside)
    found = [
        opened
        for start, end in reversed(_outer_pairs(line))
        if start >= len(lead) and (opened := _opened(line, start, end)) is not None
    ]
    fitting = [x for x in found if _fits(x)]
    if fitting or not inside:
        return fitting[0] if fitting else _kept(line)
    return found[0] if found else [line]


def _head_exploded(line: str) -> list[str]:
    """A `def` with one parameter per line; the parts of its result too, if they must."""
    pairs = _outer_pairs(line)
    out = _opened(line, *pairs[0]) if pairs else None
    if out is None:
        return [line]
    return [*out[:-1], *(_result_exploded(out[-1]) if len(out[-1]) > WIDTH else out[-1:])]


def _result_exploded(line: str) -> list[str]:
    """`) -> tuple[A, B]:` with one part per line."""
    start = line.find("[")
    end = _matching(line, start)
    return _opened(line, start, end, subscript=True) or [line]


def _opened(line: str, start: int, end: int, subscript: bool = False) -> list[str] | None:
    """The bracket at `start` opened up, if a comma can stand behind its last item."""
    inner = line[start + 1 : end]
    items = _items(inner)
    called = _called(line, start)
    comma = inner.rstrip().endswith(",")
    if not items or (line[start] == "[" and called and not subscript):
        return None
    if any(re.search(r"\bfor ", _visible(i)) for i in items):
        return None
    if len(items) == 1 and not comma and not called and line[start] == "(":
        return None
    indent = line[: len(line) - len(line.lstrip())]
    out = [line[: start + 1]]
    for item in items:
        text = f"{indent}    {item}"
        out += exploded(text, inside=True) if len(text) >= WIDTH else [text]
        out[-1] += ","
    return [*out, indent + line[end:]]


def _called(line: str, place: int) -> bool:
    """Whether the bracket at `place` belongs to what stands before it."""
    before = line[place - 1 : place]
    return bool(before) and (before.isalnum() or before in "_)]")


def _lead(line: str) -> str:
    """What stands before the value of a statement: its indent, with `return` or the targets."""
    indent = line[: len(line) - len(line.lstrip())]
    if line.startswith(f"{indent}return "):
        return f"{indent}return "
    found = _ASSIGNS.search(_visible(line))
    return line[: found.end()] if found else indent


def _operators(text: str) -> list[int]:
    """Where the loosest operators of an expression stand, outside of its brackets."""
    shown = _visible(text)
    found = ([m.start() for m in level.finditer(shown)] for level in _LEVELS)
    return next((places for places in found if places), [])


def _operands(line: str, lead: str, places: Sequence[int], inside: bool) -> list[str]:
    """An expression in brackets of its own, on one line or with one operand per line."""
    indent = line[: len(line) - len(line.lstrip())]
    value = line[len(lead) :]
    if not inside and (len(line) <= _WIDER or not lead.strip() or _hugs(value, places)):
        return _kept(line)
    if not inside and len(indent) + 4 + len(value) <= WIDTH:
        return [f"{lead}(", f"{indent}    {value}", f"{indent})"]
    if not inside and len(indent) + 4 + len(value) <= _WIDER:
        return _kept(line)
    pad = indent if inside else indent + "    "
    lines: list[str] = []
    cuts = [0, *(p + 1 for p in places), len(value)]
    for a, b in pairwise(cuts):
        piece = pad + value[a:b].rstrip()
        lines += exploded(piece, inside=True) if inside and len(piece) > WIDTH else [piece]
    if inside:
        return lines
    return [f"{lead}(", *lines, f"{indent})"] if _fits(lines) else _kept(line)


def _fits(lines: Sequence[str]) -> bool:
    return all(len(line) <= WIDTH for line in lines)


def _hugs(value: str, places: Sequence[int]) -> bool:
    """Whether formatters would rather break a bracket at either end than take another one."""
    return len(places) == 1 and (value.startswith("(") or value.endswith(")"))


def _kept(line: str) -> list[str]:
    """A long statement that formatters of different widths would break differently."""
    return [f"{line}  # fmt: skip"]


# ---------------------------------------------------------------- pieces of a line


def _code(text: str) -> Iterator[tuple[str, int]]:
    """The characters outside of strings and comments, with their places."""
    if _PLAIN(text):
        yield from zip(text, range(len(text)), strict=True)
        return
    quote = ""
    skip = False
    for place, char in enumerate(text):
        if skip:
            skip = False
        elif quote:
            skip = char == "\\"
            quote = "" if char == quote else quote
        elif char in "\"'":
            quote = char
        elif char == "#":
            return
        else:
            yield char, place


def _balance(text: str) -> int:
    """How many brackets a line leaves open."""
    if _PLAIN(text):
        return sum(map(text.count, _OPEN)) - sum(map(text.count, _CLOSE))
    return sum((char in _OPEN) - (char in _CLOSE) for char, _ in _code(text))


def _visible(text: str) -> str:
    """The text with everything in brackets and strings masked."""
    out = ["#"] * len(text)
    depth = 0
    for char, place in _code(text):
        depth -= char in _CLOSE
        if depth == 0:
            out[place] = char
        depth += char in _OPEN
    return "".join(out)


def _items(text: str) -> list[str]:
    """The items between top-level commas."""
    cuts = [place for place, char in enumerate(_visible(text)) if char == ","]
    pieces = [text[a + 1 : b] for a, b in zip([-1, *cuts], [*cuts, len(text)], strict=True)]
    return [p.strip() for p in pieces if p.strip()]


def _outer_pairs(text: str) -> list[tuple[int, int]]:
    """Places of the brackets that stand in no others."""
    out = []
    depth = start = 0
    for char, place in _code(text):
        if char in _OPEN:
            start = place if depth == 0 else start
            depth += 1
        elif char in _CLOSE:
            depth -= 1
            if depth == 0:
                out.append((start, place))
    return out


def _spaced(lines: Sequence[str]) -> list[str]:
    """At most two blank lines in a row, and two before a top-level definition that has any."""
    out: list[str] = []
    blanks = 0
    quoted = False
    for line in lines:
        turns = line.count('"""') % 2 == 1 and (quoted or not line.startswith("#"))
        if quoted:
            quoted = not turns
            out.append(line)
            continue
        quoted = turns
        if line == "":
            blanks += 1
            continue
        if blanks:
            top = line.startswith(("def ", "class ", "@"))
            inner = line.startswith((" ", ")", "]", "}", '"""'))
            count = 2 if top else min(blanks, 1 if inner else 2)
            out += [""] * (count if out else 0)
        blanks = 0
        out.append(line)
    return out
