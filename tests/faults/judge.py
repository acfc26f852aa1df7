"""What the judge says of the compiler in the folder it is run in, which may hold a fault.

    python -m tests.faults.judge '[["examples/gla.scan", "gla"], ...]' [torch|triton ...]

In: scans, as file and name; backends.  Out: the first thing wrong, if any, on one line, and an exit
code of 1; a compiler that raises is wrong, too.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from scandsl.driver import Compilation

TIME = 37  # tokens; chunks have 16 where their length can be forced
WIDE = 24  # more than one of the smallest tiles of 16, and no power of two


def compiled(path: Path, name: str, form: str | None = None) -> Compilation:
    """One scan of a file."""
    from scandsl.diagnostics import Source
    from scandsl.driver import OptionError, Options, compile_source

    text = path.read_text(encoding="utf-8")
    head, *scans = re.split(r"^(?=scan )", text, flags=re.MULTILINE)
    found = next(x for x in scans if re.match(rf"scan {re.escape(name)}\b", x))
    source = Source(f"{name}.scan", head + found)
    try:
        return compile_source(source, Options(chunk=16, form=form))
    except OptionError:
        return compile_source(source, Options(form=form))


def wrong(
    found: Compilation, folder: Path, number: int, backends: Sequence[str], wide: bool = False
) -> str | None:
    """What is wrong first of a compiled scan: its name, the backend and the tensors.

    With `wide` kernels take every dimension in several parts.
    """
    import torch

    from scandsl.testing.compare import Case, runs, standard_cases
    from scandsl.testing.data import Layout
    from tests.generated import imported

    module = imported(found.module, folder, f"spec{number}")
    (recurrence,) = found.front.recurrences
    cases = standard_cases(recurrence, TIME)
    if wide:
        in_small_tiles(module)
        sizes = {d.name: WIDE for d in recurrence.dims if d.size is None and d.base is None}
        cases = (Case("wide", Layout(batch=1, time=19, heads=1), sizes),)
    for run in runs(recurrence, module, cases, only=backends, dtypes=[torch.float32]):
        if not run.ok:
            bad = [v.tensor for v in run.verdicts if not v.ok]
            return f"{recurrence.name}, {run.backend}, {run.case}: {run.failure or bad}"
    return None


def in_small_tiles(module: ModuleType) -> None:
    """Kernels of chunks cut dimensions into tiles of 16, the least that there are."""
    for name in ("_LOOP_TILE", "_DEEP_TILE", "_STRIP"):
        if hasattr(module, name):
            setattr(module, name, 16)
    if hasattr(module, "_chunk_tile"):
        module._chunk_tile = lambda _: 16


def first_fault(scans: Sequence[Sequence[str]], backends: Sequence[str]) -> str | None:
    """What is wrong first with any of the scans."""
    import torch

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        for number, (file, name) in enumerate(scans):
            said = wrong(compiled(Path(file), name), Path(folder), number, backends)
            if said:
                return said
    return None


def main() -> int:
    """Judge what the command line says."""
    p = argparse.ArgumentParser()
    p.add_argument("scans", type=json.loads)
    p.add_argument("backends", nargs="*")
    args = p.parse_args()
    try:
        found = first_fault(args.scans, args.backends)
    except Exception as error:  # whatever a fault makes of the compiler is found
        found = f"{type(error).__name__}: {error}".splitlines()[0]
    print(found or "nothing")
    return 1 if found else 0


if __name__ == "__main__":
    os.environ["TRITON_INTERPRET"] = "1"
    sys.exit(main())
