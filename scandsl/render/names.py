"""Python names for the names of a spec: unique, no keywords, not what the module itself uses.

In: wished names.  Out: names that are free.  Knows nothing of values.
"""

from __future__ import annotations

import keyword
import re
import unicodedata
from collections.abc import Iterable

# What the generated functions refer to from inside: a local of that name would hide it.
MODULE_NAMES = frozenset(
    {
        "torch", "math", "Tensor", "NamedTuple", "BACKENDS", "annotations",
        "range", "len", "zip", "max", "min", "tuple", "list", "dict", "any", "all", "sum", "int",
        "float", "bool", "str", "isinstance", "getattr", "hasattr", "super", "enumerate", "reversed",
        "ValueError", "TypeError", "RuntimeError", "NotImplementedError", "property", "type", "set",
        "print", "sorted", "staticmethod", "self", "cls", "triton", "tl", "abs", "round", "repr",
    }
)  # fmt: skip

SIGNATURE_NAMES = frozenset(
    {
        "initial_state", "output_final_state", "cu_seqlens", "backend", "group", "check",
        "allow_tf32", "state", "heads", "device", "dtype",
    }
)  # fmt: skip

_LONGEST = 32


def identifier(text: str) -> str:
    """A Python identifier as near to `text` as can be: primes and the like become underscores."""
    normal = unicodedata.normalize("NFKC", text)
    cleaned = "".join(c if ("_" + c).isidentifier() else "_" for c in normal)
    if not cleaned or not cleaned.isidentifier():
        cleaned = "_" + cleaned
    return cleaned


def argument_name(text: str) -> str:
    """A name in a public signature: a trailing underscore where it is taken."""
    name = identifier(text)
    taken = keyword.iskeyword(name) or name in MODULE_NAMES or name in SIGNATURE_NAMES
    return name + "_" if taken else name


def function_name(text: str) -> str:
    """The name of a public function."""
    name = identifier(text)
    return name + "_" if keyword.iskeyword(name) or name in MODULE_NAMES else name


def camel(text: str) -> str:
    """`gated_delta_rule` as `GatedDeltaRule`."""
    parts = [p for p in re.split(r"_+", identifier(text)) if p]
    name = "".join(p[:1].upper() + p[1:] for p in parts)
    return name if name.isidentifier() else "Scan" + name


def ascii_name(text: str, fallback: str) -> str:
    """`text` if a schema of torch can hold it, else the fallback."""
    return text if text.isascii() and text.isidentifier() else fallback


class Names:
    """The names taken in one function."""

    def __init__(self, taken: Iterable[str] = ()) -> None:
        self._taken: set[str] = set(taken)
        self._count: dict[str, int] = {}

    def reserve(self, names: Iterable[str]) -> None:
        """Mark names as taken."""
        self._taken.update(names)

    def fresh(self, wish: str, numbered: bool = False) -> str:
        """A free name like `wish`; numbered ones count from 1, others only when they clash."""
        base = identifier(wish)
        if len(base) > _LONGEST or not base.strip("_"):
            base = base[:_LONGEST].rstrip("_") or "_x"
        if keyword.iskeyword(base) or base in MODULE_NAMES:
            base += "_"
        name = base
        count = self._count.get(base, 0)
        if numbered or name in self._taken:
            name = ""
        while not name or name in self._taken:
            count += 1
            joint = "_" if base[-1].isdigit() else ""
            name = f"{base}{joint}{count if numbered else count + 1}"
        self._count[base] = count
        self._taken.add(name)
        return name
