"""How kernels are launched: by rules, or as measured on a machine.

In: the text of a file of measured launches.  Out: a `Table` of them.  What holds where nothing was
measured is a kernel's `Rule`, which `scandsl.kernels.rules` finds; `explain` and the generated
functions that launch read both from here.  A launch is known by the structure of what it computes,
never by a name.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scandsl.plan.limits import CHUNK_TILE, DEEP_TILE, LOOP_TILE

FORMAT = "scandsl launches 1"
"""The first entry of a file of measured launches."""

SHIPPED = Path(__file__).with_name("launches.json")
"""What holds for everyone; a file of the user's comes before it.

Its entries so far were not timed: with chunks as long as the rule has them the compiler for the
architecture gives up on a kernel (delta rules of 256 x 256: 32 registers, 27 to 44 KB spilled), or
sums of products need more tensor memory than there is (sm_100: HGRN2).
"""

TILES = {"walk": LOOP_TILE, "chunk": CHUNK_TILE, "deep": DEEP_TILE}
"""The largest tile of a dimension that is cut over the grid, by what is cut."""

DTYPES = ("bfloat16", "float32")
"""What kernels keep of states, which tells apart the products that they make."""


@dataclass(frozen=True, slots=True)
class Rule:
    """How a kernel is launched where nothing was measured.

    `tile` is a key of `TILES`; a program has eight warps if its largest tile holds `least` numbers,
    else four; `stages` are the chunks whose tiles are loaded at a time.  `apart` is `least` on GPUs
    that keep sums of products in a memory of their own (sm_100 to sm_110): to be worked with they
    come back into registers, all at once where the compiler likes it so.  A walk over time that is
    `full` there makes so many products that their sums leave room for tiles half as wide only, as
    those of any walk with states in float32 do.
    """

    tile: str
    least: int
    stages: int
    apart: int
    full: bool


@dataclass(frozen=True, slots=True)
class Config:
    """How a kernel was launched best; `None` is by rule.

    `numbers` has a kernel over time instead of a tile: those of its largest value in one program.
    """

    tile: int | None = None
    warps: int | None = None
    stages: int | None = None
    numbers: int | None = None


FIELDS = ("tile", "warps", "stages", "numbers")
"""What a `Config` has, as files call it."""


def described(config: Config) -> str:
    """A configuration in words."""
    pairs = ((name, getattr(config, name)) for name in FIELDS)
    return " ".join(f"{name} {x}" for name, x in pairs if x is not None) or "by rule"


@dataclass(frozen=True, slots=True)
class Measured:
    """The best launches of one structure on one architecture, at one type and size.

    `sizes` are those of the dimensions of its vectors in the order of declaration; `chunk` tokens
    are in a chunk, or as many as the rule says; kernels that `kernels` lacks go by rule.
    """

    arch: str
    structure: str
    dtype: str
    sizes: tuple[int, ...]
    chunk: int | None = None
    kernels: Mapping[str, Config] = field(default_factory=dict)

    @property
    def key(self) -> tuple[object, ...]:
        """What it is known by."""
        return (self.structure, self.arch, self.dtype, self.sizes)


@dataclass(frozen=True, slots=True)
class Table:
    """Measured launches.  An `open` one is looked into at run time even where it is empty."""

    entries: tuple[Measured, ...] = ()
    open: bool = False


class TableError(ValueError):
    """A file of measured launches that is none, or holds what cannot be."""


def entries_of(table: Table, structure: str) -> tuple[Measured, ...]:
    """What was measured of a structure, in order."""
    found = (x for x in table.entries if x.structure == structure)
    return tuple(sorted(found, key=lambda x: (x.arch, x.dtype, x.sizes)))


def joined(*tables: Table) -> Table:
    """All entries; of two for the same the one of the first table."""
    found: dict[tuple[object, ...], Measured] = {}
    for table in tables:
        for entry in table.entries:
            found.setdefault(entry.key, entry)
    return Table(tuple(found.values()), any(t.open for t in tables))


def digest(entries: Iterable[Measured]) -> str:
    """A hash of entries, whatever their order."""
    lines = sorted(json.dumps(as_data(x), sort_keys=True) for x in entries)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


# ---------------------------------------------------------------- files


def shipped() -> Table:
    """The launches that come with the compiler."""
    return parse(SHIPPED.read_text(encoding="utf-8"), SHIPPED.name)


def as_data(entry: Measured) -> dict[str, Any]:
    """An entry as it stands in a file."""
    kernels = {
        name: {k: v for k in FIELDS if (v := getattr(config, k)) is not None}
        for name, config in sorted(entry.kernels.items())
    }
    out = {"arch": entry.arch, "structure": entry.structure, "dtype": entry.dtype}
    return {**out, "sizes": [*entry.sizes], "chunk": entry.chunk, "kernels": kernels}


def parse(text: str, name: str) -> Table:
    """The launches of a file; whatever is wrong with it is a `TableError` that says where."""
    try:
        data = json.loads(text)
    except ValueError as error:
        raise TableError(f"{name}: no file of `scandsl tune`: {error}") from None
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise TableError(f'{name}: no file of `scandsl tune`: it does not say "{FORMAT}"')
    found = data.get("launches")
    if not isinstance(found, list):
        raise TableError(f"{name}: `launches` must be a list")
    entries = [_entry(x, f"{name}: launches[{i}]") for i, x in enumerate(found)]
    keys = [x.key for x in entries]
    for i, key in enumerate(keys):
        if key in keys[:i]:
            raise TableError(f"{name}: launches[{i}] is for the same as an earlier one")
    return Table(tuple(entries))


def _entry(data: Any, place: str) -> Measured:
    known = {"arch", "structure", "dtype", "sizes", "chunk", "kernels"}
    _keys(data, known, known | {"milliseconds"}, place)
    for key in ("arch", "structure", "dtype"):
        if not isinstance(data[key], str) or not data[key]:
            raise TableError(f"{place}.{key}: expected a word, got {data[key]!r}")
    if data["dtype"] not in DTYPES:
        raise TableError(f"{place}.dtype: expected one of {', '.join(DTYPES)}")
    sizes = data["sizes"]
    if not isinstance(sizes, list) or not all(_is_count(x) for x in sizes):
        raise TableError(f"{place}.sizes: expected whole numbers, got {sizes!r}")
    chunk = _power(data, "chunk", 16, 256, place)
    kernels = data["kernels"]
    if not isinstance(kernels, dict):
        raise TableError(f"{place}.kernels: expected a table of kernels")
    configs = {name: _config(x, f"{place}.kernels.{name}") for name, x in kernels.items()}
    names = (data["arch"], data["structure"], data["dtype"])
    return Measured(*names, tuple(sizes), chunk, configs)


def _config(data: Any, place: str) -> Config:
    _keys(data, set(), {*FIELDS}, place)
    stages = data.get("stages")
    if stages is not None and not (_is_count(stages) and stages <= 8):
        raise TableError(f"{place}.stages: expected 1 to 8, got {stages!r}")
    tile, warps = _power(data, "tile", 16, 256, place), _power(data, "warps", 1, 32, place)
    return Config(tile, warps, stages, _power(data, "numbers", 1, 1 << 16, place))


def _keys(data: Any, needed: set[str], known: set[str], place: str) -> None:
    if not isinstance(data, dict):
        raise TableError(f"{place}: expected a table, got {data!r}")
    if missing := sorted(needed - {*data}):
        raise TableError(f"{place}: `{missing[0]}` is missing")
    if unknown := sorted({*data} - known):
        raise TableError(
            f"{place}: unknown key `{unknown[0]}`; known are {', '.join(sorted(known))}"
        )


def _power(data: Mapping[str, Any], key: str, least: int, most: int, place: str) -> int | None:
    value = data.get(key)
    if value is None:
        return None
    if not _is_count(value) or value & (value - 1) or not least <= value <= most:
        raise TableError(
            f"{place}.{key}: expected a power of two from {least} to {most}, got {value!r}"
        )
    return int(value)


def _is_count(x: Any) -> bool:
    return isinstance(x, int) and not isinstance(x, bool) and x > 0
