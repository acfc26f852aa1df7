"""What `scandsl test` does with one file: every scan, every case, every backend.

In: a source, its generated module, a choice.  Out: `Run`s, one after the other.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import ModuleType

import torch

from scandsl.diagnostics import Source
from scandsl.driver import check
from scandsl.testing.compare import DTYPES, Run, runs, standard_cases


@dataclass(frozen=True, slots=True)
class Choice:
    """What to run: backends and dtypes by name (all if empty), length and seed."""

    backends: tuple[str, ...] = ()
    dtypes: tuple[str, ...] = ()
    time: int = 67
    seed: int = 0


def judge(
    source: Source, settings: Mapping[str, int], module: ModuleType, choice: Choice
) -> Iterator[Run]:
    """All runs of all scans of a file.  Without a GPU, Triton is interpreted."""
    gpu = torch.cuda.is_available()
    if not gpu:
        os.environ.setdefault("TRITON_INTERPRET", "1")
    known = {str(dtype).removeprefix("torch."): dtype for dtype in DTYPES}
    dtypes = [known[name] for name in choice.dtypes] or list(DTYPES)
    for recurrence in check(source, settings).recurrences:
        yield from runs(
            recurrence,
            module,
            standard_cases(recurrence, choice.time),
            only=choice.backends,
            dtypes=dtypes,
            seed=choice.seed,
            device="cuda" if gpu else "cpu",
        )
