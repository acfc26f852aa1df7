"""What the judge says of the compiler in the folder it is run in, which may hold a fault.

    python -m tests.faults.judge '[["examples/gla.scan", "gla"], ...]' [torch|triton ...]

In: scans, as file and name, and backends.  Out: the first thing wrong, if any, on one line, and an
exit code of 1; a compiler that raises is wrong, too.  Needs no Triton unless it is asked for.
"""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

TIME = 37  # tokens; chunks have 16 where their length can be forced


def text_of(path: Path, name: str) -> str:
    """The text of one scan of a file."""
    text = path.read_text(encoding="utf-8")
    head, *scans = re.split(r"^(?=scan )", text, flags=re.MULTILINE)
    found = next(x for x in scans if re.match(rf"scan {re.escape(name)}\b", x))
    return head + found


def first_fault(scans: Sequence[tuple[str, str]], backends: Sequence[str]) -> str | None:
    """What is wrong first: scan, backend and tensor."""
    import torch

    from scandsl.diagnostics import Source
    from scandsl.driver import OptionError, Options, compile_source
    from scandsl.testing.compare import runs, standard_cases
    from tests.generated import imported

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        for number, (file, name) in enumerate(scans):
            source = Source(f"{name}.scan", text_of(Path(file), name))
            try:
                found = compile_source(source, Options(chunk=16))
            except OptionError:
                found = compile_source(source, Options())
            module = imported(found.module, Path(folder), f"spec{number}")
            (recurrence,) = found.front.recurrences
            cases = standard_cases(recurrence, TIME)
            for run in runs(recurrence, module, cases, only=backends, dtypes=[torch.float32]):
                if not run.ok:
                    bad = [v.tensor for v in run.verdicts if not v.ok]
                    return f"{name}, {run.backend}, {run.case}: {run.failure or bad}"
    return None


def main() -> int:
    scans = [(file, name) for file, name in json.loads(sys.argv[1])]
    try:
        found = first_fault(scans, sys.argv[2:])
    except Exception as error:  # whatever a fault makes of the compiler is found
        found = f"{type(error).__name__}: {error}".splitlines()[0]
    print(found or "nothing")
    return 1 if found else 0


if __name__ == "__main__":
    os.environ["TRITON_INTERPRET"] = "1"
    sys.exit(main())
