"""One mutant on trial: what is here runs in a process forked for it, within an altered copy.

The process it is forked from has imported torch, sympy, triton and pytest, and nothing of the
project, so that a trial begins with the compiler itself.
"""

from __future__ import annotations

import hashlib
import os
import signal
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

# Seconds of a core that the compilations, and the tests that run after them, may take in all.
COMPILING, TESTING = 5.0, 12.0
ON_TRITON = 3  # modules that come out otherwise and are judged on Triton, too
WIDE = 1  # and of those in several tiles
HANGS = 25  # seconds of a core after which a single compilation, run or test is said to hang


def _wind() -> None:
    """From now on the process has so much time, before it is ended by a signal."""
    signal.setitimer(signal.ITIMER_PROF, HANGS)


def judged(scans: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What a faulty compiler does with scans: raises, makes the same modules, or wrong numbers."""
    import torch

    torch.set_num_threads(1)
    begin, seen, differing = time.process_time(), 0, []
    with tempfile.TemporaryDirectory() as folder:
        for number, scan in enumerate(scans):
            if time.process_time() - begin > COMPILING:
                break
            _wind()
            try:
                found = _compiled(scan)
            except Exception as error:  # whatever a fault makes of the compiler is found
                return {"by": "compiler", "said": f"{scan['name']}: {_line(error)}"}
            seen += 1
            if hashlib.sha256(found.module.encode()).hexdigest() != scan["digest"]:
                differing.append((scan, found, number))
                said = _wrong(found, Path(folder), number, "torch", "step")
                if said:
                    return {"by": "judge", "said": said}
        differing.sort(key=lambda x: x[0]["size"])
        for place, (_, found, number) in enumerate(differing[:ON_TRITON]):
            said = _wrong(found, Path(folder), number, "triton")
            if not said and place < WIDE and "triton" in found.module:
                said = _wrong(found, Path(folder), number, "triton", wide=True)
            if said:
                return {"by": "judge", "said": said}
    return {"by": None, "compiled": seen, "differ": len(differing)}


def _compiled(scan: Mapping[str, Any]) -> Any:
    from tests.faults.judge import compiled

    return compiled(Path(scan["file"]), scan["name"], scan["form"])


def _wrong(found: Any, folder: Path, number: int, *backends: str, wide: bool = False) -> str | None:
    from tests.faults.judge import wrong

    _wind()
    try:
        return wrong(found, folder, number, backends, wide)
    except Exception as error:
        return _line(error)


def _line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]


class _Watch:
    """Chooses tests for pytest, tells it when one hangs, and remembers what failed first."""

    def __init__(self, order: Mapping[str, float]) -> None:
        self.order = order
        self.failed, self.durations = "", dict[str, float]()
        self.begin = 0.0

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        """The cheapest first, as many as there is time for."""
        if not self.order:
            return
        items.sort(key=lambda x: self.order.get(x.nodeid, 0.0))
        self.begin = time.process_time()
        costs = accumulate(self.order.get(x.nodeid, 0.0) for x in items)
        del items[sum(x <= TESTING for x in costs) :]

    def pytest_runtest_teardown(self, item: Any) -> None:
        late = time.process_time() - self.begin > TESTING
        item.session.shouldstop = bool(self.order) and late

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        _wind()

    def pytest_runtest_logreport(self, report: Any) -> None:
        node = report.nodeid
        self.durations[node] = round(self.durations.get(node, 0.0) + report.duration, 3)
        if report.failed and not self.failed:
            self.failed = node

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed and not self.failed:
            self.failed = report.nodeid


def tested(files: Sequence[str], order: Mapping[str, float]) -> dict[str, Any]:
    """Whether a test of these files fails; with `order`, the seconds of each, not all are run."""
    watch = _watched(files, order)
    by = "tests" if watch.failed else None
    return {"by": by, "said": watch.failed, "tests": len(watch.durations)}


def durations(file: str) -> dict[str, float]:
    """The seconds that the tests of a file take."""
    watch = _watched([file], {})
    if watch.failed:
        raise RuntimeError(f"{watch.failed} fails without any change")
    return watch.durations


def _watched(files: Sequence[str], order: Mapping[str, float]) -> _Watch:
    import pytest
    import torch

    torch.set_num_threads(1)
    watch = _Watch(order)
    with tempfile.TemporaryDirectory() as cache:
        os.environ["SCANDSL_CACHE_DIR"] = cache
        pytest.main(["-q", "-x", "-p", "no:cacheprovider", "--hypothesis-seed=0", *files], [watch])
    return watch


def enter(folder: Path) -> None:
    """Import the project from `folder` from now on."""
    for name in list(sys.modules):
        if name.split(".")[0] in ("scandsl", "tests"):
            del sys.modules[name]
    sys.path.insert(0, str(folder))
    os.environ["PYTHONPATH"] = str(folder)
    os.chdir(folder)
