"""What the judge says of the compiler in the folder it is run in, which may hold a fault.

    python -m tests.faults.judge '[["examples/gla.scan", "gla"], ...]' [torch|triton ...]

In: scans, as file, name and, if known, the hash of the module that a faultless compiler makes of
it; backends.  A module that has this hash needs no judging, and of the others the first `--most`
are judged.  Out: the first thing wrong, if any, on one line, and an exit code of 1; a compiler that
raises is wrong, too.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from scandsl.driver import Compilation

TIME = 37  # tokens; chunks have 16 where their length can be forced


def compiled(path: Path, name: str) -> Compilation:
    """One scan of a file."""
    from scandsl.diagnostics import Source
    from scandsl.driver import OptionError, Options, compile_source

    text = path.read_text(encoding="utf-8")
    head, *scans = re.split(r"^(?=scan )", text, flags=re.MULTILINE)
    found = next(x for x in scans if re.match(rf"scan {re.escape(name)}\b", x))
    source = Source(f"{name}.scan", head + found)
    try:
        return compile_source(source, Options(chunk=16))
    except OptionError:
        return compile_source(source, Options())


def first_fault(scans: Sequence[Sequence[str]], backends: Sequence[str], most: int) -> str | None:
    """What is wrong first: scan, backend and tensor."""
    import torch

    from scandsl.testing.compare import runs, standard_cases
    from tests.generated import imported

    torch.set_num_threads(1)
    judged = 0
    with tempfile.TemporaryDirectory() as folder:
        for number, (file, name, *digest) in enumerate(scans):
            if judged == most:
                break
            found = compiled(Path(file), name)
            if [hashlib.sha256(found.module.encode()).hexdigest()] == digest:
                continue
            judged += 1
            module = imported(found.module, Path(folder), f"spec{number}")
            (recurrence,) = found.front.recurrences
            cases = standard_cases(recurrence, TIME)
            for run in runs(recurrence, module, cases, only=backends, dtypes=[torch.float32]):
                if not run.ok:
                    bad = [v.tensor for v in run.verdicts if not v.ok]
                    return f"{name}, {run.backend}, {run.case}: {run.failure or bad}"
    return None


def main() -> int:
    """Judge what the command line says."""
    p = argparse.ArgumentParser()
    p.add_argument("scans", type=json.loads)
    p.add_argument("backends", nargs="*")
    p.add_argument("--most", type=int, default=-1)
    args = p.parse_intermixed_args()
    try:
        found = first_fault(args.scans, args.backends, args.most)
    except Exception as error:  # whatever a fault makes of the compiler is found
        found = f"{type(error).__name__}: {error}".splitlines()[0]
    print(found or "nothing")
    return 1 if found else 0


if __name__ == "__main__":
    os.environ["TRITON_INTERPRET"] = "1"
    sys.exit(main())
