"""Makes printed Python look as a formatter would leave it.

In: the text of a module whose statements are printed without care for line breaks.  Out: the same
module with long statements exploded one item per line, short ones joined, and two blank lines
before top-level definitions.  It knows just enough of Python for what the printers write: brackets,
strings and comments; text inside triple quotes is left alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from scandsl.render.layout import WIDTH

_ONE_TARGET = re.compile(r"^(\s*)([^\W\d]\w*), = ")
_LOCAL = re.compile(
    r"^    (?=size_\w+ = \w+\.shape|\(kept_\w+,\) = kept$)\(?(?P<name>\w+)(,\))? = [\w.\[\]]+$"
)
_OPEN, _CLOSE = "([{", ")]}"


def tidied(text: str) -> str:
    """The module's text, tidied."""
    lines = list(_statements(text.split("\n")))
    return "\n".join(_spaced(_without_unused_sizes(lines)))


def _without_unused_sizes(lines: Sequence[str]) -> list[str]:
    """Drop `size_K = x.shape[2]` and the like where nothing of the function reads it."""
    out: list[str] = []
    body: list[str] = []
    for line in [*lines, "def end():"]:
        if line.startswith(("def ", "class ")):
            words = re.findall(r"\w+", "\n".join(body))
            used = [x for x in body if not (m := _LOCAL.match(x)) or words.count(m["name"]) > 1]
            if re.findall(r"\w+", "\n".join(used)).count("kept") == 1:
                used = [x.replace("    kept, ends = ", "    _, ends = ") for x in used]
            out += used
            body = []
        body.append(line)
    return out


def _statements(lines: Sequence[str]) -> Iterator[str]:
    quoted = False
    index = 0
    while index < len(lines):
        line = lines[index]
        index += 1
        opens = line.count('"""') % 2 == 1
        if quoted or opens or line.lstrip().startswith("#"):
            quoted = quoted != opens
            yield line
            continue
        line = _single_brackets(_ONE_TARGET.sub(r"\1(\2,) = ", line))
        joined = _joined(line, lines[index : index + 2])
        if joined is not None:
            yield joined
            index += 2
        elif len(line) > WIDTH:
            yield from exploded(line)
        else:
            yield line


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
    return whole if len(whole) <= WIDTH and _closed(whole) else None


def _closed(text: str) -> bool:
    depth = 0
    for char, _ in _code(text):
        depth += (char in _OPEN) - (char in _CLOSE)
    return depth == 0


def _code(text: str) -> Iterator[tuple[str, int]]:
    """The characters outside of strings, with their places."""
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
        else:
            yield char, place


def _items(text: str) -> list[str]:
    """The items between top-level commas."""
    cuts = []
    depth = 0
    for char, place in _code(text):
        depth += (char in _OPEN) - (char in _CLOSE)
        if char == "," and depth == 0:
            cuts.append(place)
    pieces = [text[a + 1 : b] for a, b in zip([-1, *cuts], [*cuts, len(text)], strict=True)]
    return [p.strip() for p in pieces if p.strip()]


def exploded(line: str) -> list[str]:
    """A statement that is too long, its last bracket opened up: one item per line."""
    indent = line[: len(line) - len(line.lstrip())]
    code = list(_code(line))
    found = _first_pair(code) if line.lstrip().startswith("def ") else _last_pair(code)
    if found is None:
        return [line]
    start, last = found
    if _subscript(line, code[start][1]):
        return _parenthesised(line)
    head, inner = line[: code[start][1] + 1], line[code[start][1] + 1 : code[last][1]]
    tail = line[code[last][1] :]
    items = _items(inner)
    if not items:
        return [line]
    out = [head]
    group = line[code[start][1]] == "(" and not _called(line, code[start][1])
    alone = len(items) == 1 and (
        " for " in items[0] or (group and not inner.rstrip().endswith(","))
    )
    comma = "" if alone else ","  # a generator takes none, an expression in brackets stays one
    for item in items:
        text = f"{indent}    {item}{comma}"
        out += exploded(text) if len(text) > WIDTH else [text]
    return [*out, indent + tail]


def _subscript(line: str, place: int) -> bool:
    return line[place] == "[" and _called(line, place)


def _called(line: str, place: int) -> bool:
    """Whether the bracket at `place` belongs to what stands before it."""
    before = line[place - 1 : place]
    return bool(before) and (before.isalnum() or before in "_)]")


def _parenthesised(line: str) -> list[str]:
    """`name = expression` with the expression on a line of its own."""
    indent = line[: len(line) - len(line.lstrip())]
    target, sign, value = line.partition(" = ")
    if not sign or len(indent) + 4 + len(value) > WIDTH:
        return [line]
    return [f"{target} = (", f"{indent}    {value}", f"{indent})"]


def _last_pair(code: Sequence[tuple[str, int]]) -> tuple[int, int] | None:
    """The bracket that closes last, and where it was opened."""
    last = max((i for i, (c, _) in enumerate(code) if c in _CLOSE), default=None)
    if last is None:
        return None
    depth = 0
    for i in range(last, -1, -1):
        depth += (code[i][0] in _CLOSE) - (code[i][0] in _OPEN)
        if depth == 0:
            return i, last
    return None


def _first_pair(code: Sequence[tuple[str, int]]) -> tuple[int, int] | None:
    """The bracket that opens first, and where it is closed."""
    depth = 0
    start: int | None = None
    for i, (char, _) in enumerate(code):
        depth += (char in _OPEN) - (char in _CLOSE)
        if depth == 1 and start is None:
            start = i
        elif depth == 0 and start is not None:
            return start, i
    return None


def _spaced(lines: Sequence[str]) -> list[str]:
    """Exactly two blank lines before a top-level definition that has one before it."""
    out: list[str] = []
    for line in lines:
        top = line.startswith(("def ", "class ", "@"))
        if top and out and out[-1] == "" and any(out):
            while out and out[-1] == "":
                out.pop()
            out += ["", ""]
        out.append(line)
    return out
