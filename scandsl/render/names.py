"""Python names for the names of a spec: unique, no keywords, not what the module itself uses.

In: wished names.  Out: names that are free.  Knows nothing of values.
"""

from __future__ import annotations

import hashlib
import keyword
import re
import unicodedata
from collections.abc import Iterable

# What the generated functions refer to from inside: a local of that name would hide it.
MODULE_NAMES = frozenset(
    {
        "torch", "math", "Tensor", "NamedTuple", "BACKENDS", "annotations",
        "range", "len", "zip", "max", "min", "tuple", "list", "dict", "any", "all", "sum", "int",
        "float", "bool", "str", "isinstance", "getattr", "hasattr", "super", "enumerate",
        "reversed",
        "ValueError", "TypeError", "RuntimeError", "NotImplementedError", "property", "type", "set",
        "print", "sorted", "staticmethod", "self", "cls", "triton", "tl", "abs", "round", "repr",
    }
)  # fmt: skip

SIGNATURE_NAMES = frozenset(
    {
        "initial_state", "output_final_state", "cu_seqlens", "backend", "group", "check",
        "allow_tf32", "state", "heads", "device", "dtype", "options", "unknown",
    }
)  # fmt: skip

# What public functions call their own values while the scalars are still needed.
PUBLIC_LOCALS = frozenset({"given", "call", "values", "results"})

# What a launch of a kernel takes beside the kernel's own arguments.
LAUNCH_NAMES = frozenset(
    {
        "grid", "warmup", "num_warps", "num_stages", "num_ctas", "maxnreg", "ir_override",
        "enable_fp_fusion", "launch_cooperative_grid", "launch_pdl", "waves_per_eu", "debug",
    }
)  # fmt: skip

# What the private functions of a module call their own values.
PRIVATE_LOCALS = LAUNCH_NAMES | frozenset(
    {
        "advance", "batch", "carried", "chunk_size", "chunks", "cu_seqlens", "dim", "dot",
        "end", "ends",
        "final", "fixed", "fixed_backward", "given", "gradients", "grid", "kept", "kept_dtype",
        "like",
        "n", "numbers", "outputs", "packed", "parts", "precision", "results", "save", "saved",
        "sequences", "shapes", "sizes", "start", "state", "step", "t", "tokens", "total", "values",
        "vectors", "rows", "position", "scan", "every", "offsets", "block_heads", "head_tiles",
        "slots",
        "scratch", "whole", "room", "held", "hold", "warps", "length", "piece", "shape", "first",
        "last", "tuned", "fused",
    }
)  # fmt: skip

# What they and the kernels put before and behind the names of a spec.
_BEFORE = (
    "d_", "start_", "kept_", "end_", "out_", "grad_", "part_", "size_", "BLOCK_", "heads_",
    "HAS_", "o_",
    "in_", "tile_", "tiles_", "carry_", "share_", "block_", "lane_", "strip_",
)  # fmt: skip
_BEHIND = (
    "_ptr", "_ptrs", "_seq", "_rows", "_head", "_heads", "_tile", "_32", "_at", "_re", "_im",
    "_left", "_right",
)  # fmt: skip

# Names of the module itself, which its functions and classes must not take.
_MODULE_OWN = frozenset(
    {
        "Any",
        "Callable",
        "NamedTuple",
        "Sequence",
        "Tensor",
        "get_close_matches",
        "nullcontext",
        "os",
        "pairwise",
        "warnings",
        "triton",
        "tl",
    }
)
_TABLES_OWN = frozenset(
    {
        "_CHECKPOINT",
        "_HELPERS",
        "_KERNELS",
        "_LOOP_TILE",
        "_DEEP_TILE",
        "_VARYING",
        "_VARYING_OF",
        "_BY_RULE",
        "_UNTUNED",
    }
)

_LONGEST = 20


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
    return name + "_" if taken or name.startswith("_") else name


def inner_names(wishes: Iterable[str], taken: Iterable[str] = PRIVATE_LOCALS) -> dict[str, str]:
    """Names inside private functions: `d_x`, `kept_x` and the like are free beside them."""
    used = set(taken)
    out: dict[str, str] = {}
    for wish in wishes:
        name = argument_name(wish)
        while name in used or name.startswith(_BEFORE) or name.endswith(_BEHIND):
            name = f"x_{name}" if name.startswith(_BEFORE) else f"{name}_"
        used.add(name)
        out[wish] = name
    return out


def function_name(text: str) -> str:
    """The name of a public function."""
    name = identifier(text)
    return name + "_" if keyword.iskeyword(name) or name in MODULE_NAMES else name


class PublicNames:
    """The names that a module defines for its scans; no two are the same."""

    def __init__(self, scans: Iterable[str] = ()) -> None:
        self._scans = {function_name(s) for s in scans}
        self._taken: set[str] = set(_MODULE_OWN)

    def function(self, name: str) -> str:
        """The function of a scan, which has `_step` and `_reference` beside it."""
        found = function_name(name)
        others = {f"{s}{end}" for s in self._scans for end in ("_step", "_reference")}
        while found in others or found in self._taken:
            found += "_"
        self._taken |= {found, f"{found}_step", f"{found}_reference"}
        return found

    def type(self, name: str) -> str:
        """The class of a scan, which has the one of its state beside it."""
        found = camel(name)
        taken = self._taken | self._scans
        while found in taken or f"{found}State" in taken:
            found += "_"
        self._taken |= {found, f"{found}State"}
        return found

    def stem(self, public: str) -> str:
        """What its private functions begin with."""
        inner = public.strip("_") or "scan"
        if len(inner) > 40:
            inner = f"{inner[:32]}_{hashlib.sha256(inner.encode()).hexdigest()[:6]}"
        found = f"_{inner}"
        while found in self._taken:
            found += "_"
        self._taken.add(found)
        return found

    def table(self, stem: str) -> str:
        """The constant that holds its declarations."""
        found = stem.upper()
        while found in self._taken or found in _TABLES_OWN:
            found += "_"
        self._taken |= {found, f"{found}_OPERATOR"}
        return found


def camel(text: str) -> str:
    """`gated_delta_rule` as `GatedDeltaRule`."""
    parts = [p for p in re.split(r"_+", identifier(text)) if p]
    name = "".join(p[:1].upper() + p[1:] for p in parts)
    return name if name.isidentifier() and not keyword.iskeyword(name) else "Scan" + name


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
        unclear = base in ("l", "I", "O")  # linters take them for digits
        if keyword.iskeyword(base) or base in MODULE_NAMES or base.startswith("_") or unclear:
            base += "_" * (not base.endswith("_"))
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
