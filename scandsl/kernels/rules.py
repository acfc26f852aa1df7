"""By what rule a kernel is launched, and what its structure is called.

In: a scheduled `Kernel`, or the programs of both directions.  Out: its `Rule`; a word for what the
programs compute that no name of a spec goes into.
"""

from __future__ import annotations

import hashlib
from dataclasses import fields, is_dataclass
from enum import Enum

from scandsl.kernels.program import ChunkProgram
from scandsl.kernels.schedule import Kernel
from scandsl.kernels.step import StepProgram
from scandsl.plan.launches import Rule

_MANY = 40  # products whose operands leave room for tiles half as wide (several updates in a step)
_FULL = 8  # products whose sums, of 64 columns each, fill the memory that sm_100 has for them
_APART = 4096  # numbers of a tile: 64 x 64, which every kernel of four warps has 32 registers for


def rule(kernel: Kernel, deep: bool) -> Rule:
    """How a kernel is launched where nothing was measured; `deep` states have three dimensions."""
    narrow = kernel.loop or kernel.products > _MANY
    tile = "deep" if deep else "walk" if narrow else "chunk"
    least = _least(kernel)
    apart = min(least, _APART) if _is_crowded(kernel) else least
    return Rule(tile, least, kernel.stages, apart, tile == "walk" and kernel.products > _FULL)


def _least(kernel: Kernel) -> int:
    """A fused walk does the work of two kernels; a walk over strips adds up matrices of rows."""
    if kernel.loop and kernel.stores:
        return 4096
    walked = () if kernel.strips is None else kernel.strips.sums
    matrices = sum(len(kernel.program.values[r].dims) > 1 for r in walked)
    return 0 if matrices > 2 else 8193


def _is_crowded(kernel: Kernel) -> bool:
    """Whether it makes several results of one chunk: the gradients of its inputs."""
    return not kernel.loop and len(kernel.stores) > 1


# ---------------------------------------------------------------- structure


def structure(*programs: ChunkProgram | StepProgram) -> str:
    """A word for what programs compute: equal where they differ in names alone."""
    words = [_word(program, {}) for program in programs]
    return hashlib.sha256("\n".join(words).encode()).hexdigest()[:16]


_CHOICES = ("fn", "of", "algebra")  # fields that hold a word of ours, not a name


def _word(x: object, names: dict[str, int]) -> str:
    """Text of plain data, each name of the spec as the number of its first appearance."""
    match x:
        case Enum():
            return str(x.value)
        case str():
            mark, colon, name = x.partition(":") if x.startswith("#") else ("", "", x)
            if mark and not colon:
                return mark
            return f"{mark}n{names.setdefault(name, len(names))}"
        case tuple() | list():
            return f"({','.join(_word(y, names) for y in x)})"
        case _ if is_dataclass(x):
            inner = [
                getattr(x, f.name) if f.name in _CHOICES else _word(getattr(x, f.name), names)
                for f in fields(x)
                if f.compare
            ]
            return f"{type(x).__name__}({','.join(map(str, inner))})"
        case _:
            return repr(x)
