"""Specs broken at random: by their bytes, and by their words."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from pathlib import Path

from scandsl.diagnostics import Diagnostic, ScanError, Source
from scandsl.driver import check
from scandsl.loader import decode
from scandsl.syntax.format import format_source

ROOT = Path(__file__).resolve().parent.parent
TEXTS = tuple(
    path.read_text(encoding="utf-8")
    for folder in ("examples", "tests/specs")
    for path in sorted((ROOT / folder).glob("*.scan"))
)
_WORD = re.compile(r"\s+|[^\W\d]\w*'*|\d[\w.]*|\"\"\"|[-+*/<>=!]=|\*\*|.", re.S)
_ODD = (
    "scan", "fn", "input", "param", "scalar", "static", "state", "output", "for", "in", "every",
    "and", "or", "not", "where", "grad", "lag", "window", "sum", "max", "softmax", "complex", "re",
    "t", "inf", "pi", "iota", "unit", "stopgrad", "clamp", "argmax", "K", "V", "K'", "x", "S", "0",
    "1", "-1", "2.5", "1e400", "99999999999999999999", "1e", "0x1", "(", ")", "[", "]", "{", "}",
    ",", ":", "=", "+=", "**", "@", "@[K]", "/", "%", "-", "<", "<=", "==", "!=", "'", '"', '"""',
    "\n", "\n    ", "\n        ", "\t", "\r", "\\", "#", ";", "$", "β", "\u0387", "\u202e",
    "\ufeff", "\u200b", "\x00", "Ｋ", "ſ", "{{ 1 }}", "{% raw %}", "lambda", "class", "__import__",
)  # fmt: skip


def broken_bytes(rng: random.Random) -> bytes:
    """A spec with some bytes changed, taken away or put in."""
    data = bytearray(rng.choice(TEXTS).encode())
    for _ in range(rng.choice((1, 2, 4, 16))):
        place = rng.randrange(len(data) + 1)
        what = rng.randrange(4)
        if what == 0:
            data[place:place] = bytes(rng.randrange(256) for _ in range(rng.randrange(1, 5)))
        elif what == 1:
            del data[place : place + rng.choice((1, 3, 40))]
        elif what == 2 and place < len(data):
            data[place] ^= 1 << rng.randrange(8)
        else:
            start = rng.randrange(len(data) + 1)
            data[place:place] = data[start : start + rng.choice((2, 10, 200))]
    return bytes(data)


def broken_words(rng: random.Random) -> bytes:
    """A spec with some words changed, moved, doubled or left out."""
    words = _WORD.findall(rng.choice(TEXTS))
    others = _WORD.findall(rng.choice(TEXTS))
    for _ in range(rng.choice((1, 1, 2, 3, 8))):
        place = rng.randrange(len(words))
        what = rng.randrange(6)
        if what == 0:
            words[place] = rng.choice(_ODD)
        elif what == 1:
            del words[place : place + rng.choice((1, 1, 5))]
        elif what == 2:
            words.insert(place, rng.choice((*_ODD, *others[:200])))
        elif what == 3:
            other = rng.randrange(len(words))
            words[place], words[other] = words[other], words[place]
        elif what == 4:
            words[place:place] = words[place : place + rng.choice((1, 4, 30))]
        else:
            start = rng.randrange(len(others))
            words[place:place] = others[start : start + rng.choice((3, 12))]
        words = words or ["x"]
    return "".join(words).encode("utf-8", "replace")


def judge(data: bytes) -> Sequence[Diagnostic] | None:
    """What is wrong with a file, each with a place in it, or `None`; anything else is raised."""
    try:
        source = decode("broken.scan", data)
        check(source)
    except ScanError as error:
        _placed(error)
        found: Sequence[Diagnostic] | None = error.diagnostics
    else:
        found = None
    try:
        source = decode("broken.scan", data)
        assert format_source(Source("again.scan", format_source(source)))
    except ScanError as error:
        _placed(error)
        assert found is not None, "formatting refuses what checking takes"
    return found


def _placed(error: ScanError) -> None:
    assert error.diagnostics
    for diagnostic in error.diagnostics:
        assert diagnostic.message and "Traceback" not in str(error)
        assert 0 <= diagnostic.span.start <= diagnostic.span.end
        assert diagnostic.span.start <= len(error.source.text)
