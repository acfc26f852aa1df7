"""Lines of Python that a formatter leaves alone: one line if it fits, else one item per line.

In: pieces of text.  Out: lines.  Knows nothing of what they mean.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Sequence

WIDTH = 88
TEXT_WIDTH = 100  # of docstrings and comments, which formatters leave alone


def indented(lines: Iterable[str], levels: int = 1) -> list[str]:
    """Lines moved to the right."""
    pad = "    " * levels
    return [pad + line if line else line for line in lines]


def bracketed(head: str, items: Sequence[str], tail: str, indent: int = 0) -> list[str]:
    """`head` + items + `tail` on one line if it fits, else exploded with a trailing comma.

    `head` ends in an opening bracket and `tail` begins with the closing one; `indent` is the column
    at which the lines will stand.
    """
    line = head + ", ".join(items) + tail
    if indent + len(line) <= WIDTH or not items:
        return [line]
    return [head, *(f"    {item}," for item in items), tail]


def tuple_text(items: Sequence[str]) -> str:
    """A tuple without outer brackets, as it stands behind `return` or before `=`."""
    return items[0] + "," if len(items) == 1 else ", ".join(items)


def returned(items: Sequence[str], indent: int = 4) -> list[str]:
    """`return` of a tuple."""
    if not items:
        return ["return ()"]
    if len(items) == 1:
        return [f"return ({items[0]},)"]
    line = "return " + ", ".join(items)
    if indent + len(line) <= WIDTH:
        return [line]
    return ["return (", *(f"    {item}," for item in items), ")"]


def assigned(
    targets: Sequence[str], call: str, arguments: Sequence[str], indent: int = 4
) -> list[str]:
    """`a, b = call(arguments)`, also when there are many targets."""
    left = f"({targets[0]},)" if len(targets) == 1 else ", ".join(targets)
    if indent + len(left) + len(call) + 5 <= WIDTH:
        return bracketed(f"{left} = {call}(", arguments, ")", indent)
    head = ["(", *(f"    {t}," for t in targets)]
    rest = bracketed(f") = {call}(", arguments, ")", indent)
    return [*head, *rest]


def tuple_assigned(name: str, items: Sequence[str], indent: int = 4) -> list[str]:
    """`name = (items)`; one item alone keeps its comma."""
    if len(items) == 1 and items[0].isidentifier():
        return [f"{name} = ({items[0]},)"]
    if len(items) == 1 and items[0].startswith("*"):
        return [f"{name} = tuple({items[0][1:]})"]
    if len(items) == 1:
        return [f"only = {items[0]}", f"{name} = (only,)"]
    return bracketed(f"{name} = (", items, ")", indent)


def signature(name: str, parameters: Sequence[str], result: str, indent: int = 0) -> list[str]:
    """The `def` line or lines."""
    return bracketed(f"def {name}(", parameters, f") -> {result}:", indent)


def read_only(lines: Sequence[str]) -> list[str]:
    """The statements of a function without assignments to one name that nothing behind them reads.

    For statements without side effects only.
    """
    blocks: list[list[str]] = []
    for line in lines:
        if blocks and (line.startswith(" ") or line[:1] in ")]}"):
            blocks[-1].append(line)
        else:
            blocks.append([line])
    kept: list[list[str]] = []
    read: set[str] = set()
    for block in reversed(blocks):
        target = _ONE_TARGET.match(block[0])
        if target is not None and target[1] not in read:
            continue
        read |= set(_WORD.findall("\n".join(block)))
        kept.append(block)
    return [line for block in reversed(kept) for line in block]


def commented(text: str, width: int = TEXT_WIDTH) -> list[str]:
    """Text as comment lines; nothing in it can end the comment."""
    lines: list[str] = []
    for raw in text.split("\n"):
        line = "".join(c if c.isprintable() else " " for c in raw.expandtabs(4)).rstrip()
        lead = " " * min(len(line) - len(line.lstrip()), width // 4)
        while len(line) > width - 2:
            cut = line.rfind(" ", width // 2, width - 1)
            cut = width - 2 if cut < 0 else cut
            lines.append(("# " + line[:cut]).rstrip())
            line = lead + "    " + line[cut:].strip()
        lines.append(("# " + line).rstrip())
    return lines


def _wrapped(line: str, width: int) -> list[str]:
    """A line of text in pieces of at most `width`, the later ones indented further."""
    if len(line) <= width:
        return [line]
    lead = line[: len(line) - len(line.lstrip())]
    return textwrap.wrap(
        line.lstrip(),
        width,
        initial_indent=lead,
        subsequent_indent=lead + "    " if lead else "",
        break_long_words=False,
        break_on_hyphens=False,
    )


def docstring(text: str, indent: int = 4) -> list[str]:
    """Text as a docstring's lines; nothing in it can end the string."""
    cleaned = []
    for raw in text.strip().split("\n"):
        line = "".join(c if c.isprintable() else " " for c in raw.expandtabs(4)).rstrip()
        escaped = line.replace("\\", "\\\\").replace('"""', '\\"\\"\\"')
        cleaned += _wrapped(escaped, TEXT_WIDTH - indent - 3)
    if not cleaned:
        cleaned = [""]
    if cleaned[-1].endswith('"'):
        cleaned[-1] = cleaned[-1][:-1] + '\\"'
    if cleaned[0].startswith('"'):
        cleaned[0] = "\\" + cleaned[0]
    if len(cleaned) == 1 and indent + len(cleaned[0]) + 6 <= TEXT_WIDTH:
        return [f'"""{cleaned[0]}"""']
    return [f'"""{cleaned[0]}', *cleaned[1:], '"""']


_WORD = re.compile(r"[^\W\d]\w*")
_ONE_TARGET = re.compile(r"([^\W\d]\w*) = ")
_USUAL = 6  # letters of a usual name


def weight(text: str) -> int:
    """The length of an expression were all names equally long.

    What gets a name of its own is decided by this, so that it does not depend on the user's names.
    """
    return len(_WORD.sub("_" * _USUAL, text))
