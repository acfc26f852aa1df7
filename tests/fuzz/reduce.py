"""Makes a faulty spec smaller by its text: statements left out, calls replaced by what they hold.

In: a text and a test that says whether a text is still faulty.  Out: a smaller faulty text.  This
is what hypothesis cannot do in the time there is: a line may go although much was drawn after it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from scandsl.diagnostics import ScanError, Source
from scandsl.driver import check

_DECLARATION = re.compile(r"    (input|param|scalar|static|state) ")


def reduced(text: str, faulty: Callable[[str], bool]) -> str:
    """The smallest text that single changes lead to; `faulty` is asked about valid ones only."""
    progress = True
    while progress:
        progress = False
        for smaller in _smaller(text):
            tidy = without_unused(smaller)
            if len(tidy) < len(text) and _valid(tidy) and faulty(tidy):
                text, progress = tidy, True
                break
    return text


def _valid(text: str) -> bool:
    try:
        check(Source("drawn.scan", text))
    except ScanError:
        return False
    return True


def _smaller(text: str) -> Iterator[str]:
    """The text without a statement, then with something inside brackets in place of a whole."""
    lines = text.split("\n")
    for i in reversed(range(len(lines))):
        if lines[i].startswith("    ") and not _DECLARATION.match(lines[i]):
            yield "\n".join(lines[:i] + lines[i + 1 :])
    for i, line in enumerate(lines):
        if not _DECLARATION.match(line) and line.startswith("    "):
            for shorter in _simpler(line):
                yield "\n".join([*lines[:i], shorter, *lines[i + 1 :]])


def _simpler(line: str) -> Iterator[str]:
    """A line with a bracketed part replaced by an argument of it, or a factor or term left out."""
    for start, end in _brackets(line):
        head = re.search(r"[\w']*(\[[^\]]*\])?$", line[:start])
        begin = head.start() if head else start
        inside = line[start + 1 : end]
        for part in (*_split(inside), "0.5"):
            yield line[:begin] + part + line[end + 1 :]
    for found in re.finditer(r"(\S+) [-+*/] | [-+*/] (\S+)", line.split(" = ", 1)[-1]):
        yield line.replace(found.group(0), "", 1)


def _brackets(line: str) -> Iterator[tuple[int, int]]:
    """Places of round brackets that belong together, outer ones first."""
    stack, found = [], []
    for place, letter in enumerate(line):
        if letter == "(":
            stack.append(place)
        elif letter == ")" and stack:
            found.append((stack.pop(), place))
    yield from sorted(found)


def _split(inside: str) -> Iterator[str]:
    """Arguments, operands of the outermost operators, each by itself."""
    depth, part = 0, ""
    for word in re.split(r"(, | [-+*/@] | @\[[^\]]*\] |\(|\))", inside):
        depth += (word == "(") - (word == ")")
        if depth == 0 and re.fullmatch(r", | [-+*/@] | @\[[^\]]*\] ", word):
            yield part
            part = ""
        else:
            part += word
    yield part


def without_unused(text: str) -> str:
    """The text without declarations of names that nothing uses."""
    lines = text.split("\n")
    while True:
        out = []
        for i, line in enumerate(lines):
            rest = " ".join(lines[:i] + lines[i + 1 :])
            kept = _kept(line, rest)
            if kept is not None:
                out.append(kept)
        if out == lines:
            return "\n".join(out)
        lines = out


def _kept(line: str, rest: str) -> str | None:
    """A line with the declarations that the rest of the text needs; `None` if there are none."""
    match = _DECLARATION.match(line)
    if line.startswith("fn "):
        return line if _used(line.removeprefix("fn "), rest) else None
    if match is None or match[1] == "static":
        return line
    items = re.split(r", (?=[^\W\d]\w*(?:\[[^\]]*\])?(?::| in |,| =|$))", line[match.end() :])
    kept = [x for x in items if _used(x, rest)]
    return f"    {match[1]} {', '.join(kept)}" if kept else None


def _used(item: str, rest: str) -> bool:
    """Whether the name that an item begins with occurs in the rest."""
    name = re.match(r"\w+", item)
    return name is not None and re.search(rf"\b{name[0]}\b", rest) is not None
