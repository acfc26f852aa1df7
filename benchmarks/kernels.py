"""What the Triton kernels of the examples need of a GPU that need not be there.

    python benchmarks/kernels.py [--target sm_90] [--only gla] [--budget 1800]
    python benchmarks/kernels.py --render        # the page from what is there
    python benchmarks/kernels.py --freeze        # and keep it as the figures of this release

Compiles every kernel of every example, forward and backward, at sizes of 128 in bfloat16, reads
the binaries, and writes benchmarks/results/kernels-TARGET.json after each example, from which
docs/kernels.md is made, beside the figures of the latest release that was frozen.  What is as it
was, kernels, launches and the version of Triton, is not compiled again: a run that was interrupted,
or whose budget ended, goes on where it stopped.
"""

from __future__ import annotations

import argparse
import hashlib
import inspect
import json
import math
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import ROOT, environment, version, write_json
from scandsl.plan.limits import SHARED, TENSOR_COLUMNS

if TYPE_CHECKING:
    from scandsl.testing.aot import Launch

PAGE = ROOT / "docs" / "kernels.md"
RESULTS = ROOT / "benchmarks" / "results"
SIZE, LIMIT = 128, 900
SIZES = {"based": 16, "mamba": 16}
"""Sizes of those whose states are larger or smaller than K = V = 128 in models."""

TARGETS = {"sm_80": 164 << 10, "sm_90": 228 << 10, "sm_100": 228 << 10}
"""Shared memory of a multiprocessor, in bytes, of the targets whose binaries tell registers."""

REGISTERS, MOST_WARPS = 65536, 64
COPY, MATRIX, PLAIN = 3.35e12, 989e12, 67e12
"""H100 SXM by its data sheet: bytes, 16-bit products and float32 operations per second."""

ROWS = 4 * 2048 * 16
"""Tokens times heads of the shape that times are predicted for: B=4 T=2048 H=16."""


def main() -> int:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--target", default="sm_90", choices=sorted([*TARGETS, "gfx942"]))
    p.add_argument("--only", action="append", default=[], help="an example; repeatable")
    p.add_argument("--budget", type=float, default=7200, help="seconds after which none is begun")
    p.add_argument("--render", action="store_true", help="compile nothing")
    p.add_argument("--freeze", action="store_true", help="compile nothing; keep the figures")
    p.add_argument("--last", action="append", default=[], help="an example to be left to the end")
    p.add_argument("--one", help=argparse.SUPPRESS)
    p.add_argument("--stamp", help=argparse.SUPPRESS)
    options = p.parse_args()
    if options.one:
        print(json.dumps(_compiled(options.one, options.target, options.stamp)))
        return 0
    if options.freeze:
        print(f"written: {_freeze()}")
    elif not options.render:
        _compile(options)
    PAGE.write_text(page(), encoding="utf-8")
    print(f"written: {PAGE}")
    return 0


# ---------------------------------------------------------------- compiling


def _compile(options: argparse.Namespace) -> None:
    file = RESULTS / f"kernels-{options.target}.json"
    found = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {"scans": {}}
    end = time.monotonic() + options.budget
    for name in _names(options):
        if time.monotonic() > end:
            print(f"{name}: not begun, the budget is spent", flush=True)
            continue
        begin = time.monotonic()
        old = found["scans"].get(name, {})
        entry = _in_a_process(name, options.target, old.get("stamp", "-"))
        same = "kernels" not in entry
        entry = {**entry, "kernels": old["kernels"]} if same else entry
        if entry == old:
            print(f"{name}: as it was", flush=True)
            continue
        found = {
            **environment(),
            "target": options.target,
            "scans": {**found["scans"], name: entry},
        }
        write_json(file, found)
        words = entry.get("failure") or f"{len(entry['kernels'])} kernels"
        print(f"{name}: {words}, {time.monotonic() - begin:.0f} s", flush=True)


def _names(options: argparse.Namespace) -> list[str]:
    """Those asked for, in alphabetical order; those to be left to the end behind the others."""
    names = [path.stem for path in sorted((ROOT / "examples").glob("*.scan"))]
    names = [n for n in names if not options.only or n in options.only]
    return sorted(names, key=lambda n: n in options.last)


def _in_a_process(name: str, target: str, stamp: str) -> dict[str, Any]:
    """What crashes or does not end costs one example; no `kernels` if all are as they were."""
    command = [sys.executable, __file__, "--target", target, "--one", name, "--stamp", stamp]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT)
    except subprocess.TimeoutExpired:
        return {"failure": f"not compiled in {LIMIT} s", "kernels": []}
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
        return {"failure": lines[-1][:200], "kernels": []}
    out: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return out


def _compiled(name: str, target: str, old_stamp: str) -> dict[str, Any]:
    from scandsl.bench.floor import needs
    from scandsl.driver import Options, plan
    from scandsl.explain import launch_costs
    from scandsl.loader import load, read_source
    from scandsl.testing.aot import compile_launch, launches_for, target_of

    path = ROOT / "examples" / f"{name}.scan"
    _, (one,) = plan(read_source(path), Options())
    recurrence = one.program.recurrence
    size = SIZES.get(name, SIZE)
    module = load(path)
    launches = launches_for(recurrence, module, target, size)
    stamp = _stamp(module, launches)
    sizes = {d.name: size for d in recurrence.dims if d.size is None and d.base is None}
    costs = launch_costs(one, size)
    entry = {
        "stamp": stamp,
        "form": one.form.value,
        "size": size,
        "needs": {direction: asdict(x) for direction, x in needs(one, sizes, 1, 2).items()},
        "costs": {direction: [asdict(x) for x in found] for direction, found in costs.items()},
    }
    if stamp == old_stamp:
        return entry
    return {**entry, "kernels": [asdict(compile_launch(x, *target_of(target))) for x in launches]}


def _stamp(module: ModuleType, launches: Sequence[Launch]) -> str:
    """Of what is compiled and by what: the kernels, what they call, how they are launched."""
    functions = {n: x for n, x in vars(module).items() if isinstance(x, FunctionType)}
    parts = [str(version("triton"))]
    for launch in launches:
        seen: dict[str, str] = {}
        queue = [launch.function]
        while queue:
            function = queue.pop()
            if function.__name__ not in seen:
                seen[function.__name__] = inspect.getsource(function)
                queue += [functions[n] for n in function.__code__.co_names if n in functions]
        given = {n: _signature(x) for n, x in launch.arguments.items()}
        parts.append(repr((sorted(seen.items()), given, launch.warps, launch.stages)))
    return hashlib.sha256("".join(parts).encode()).hexdigest()[:16]


def _signature(x: object) -> str:
    return f"{x.dtype}" if isinstance(x, Tensor) else repr(x)


# ---------------------------------------------------------------- releases


KEPT = ("registers", "spilled_bytes", "shared_bytes")
"""Figures of a kernel that are kept of a release."""


def _freeze() -> Path:
    """The figures of all targets as those of this release."""
    targets = {}
    for target in (*TARGETS, "gfx942"):
        file = RESULTS / f"kernels-{target}.json"
        if file.is_file():
            scans = json.loads(file.read_text(encoding="utf-8"))["scans"]
            targets[target] = {
                name: {k["name"]: {x: k[x] for x in KEPT} for k in entry["kernels"]}
                for name, entry in sorted(scans.items())
            }
    release = str(version("scandsl"))
    file = RESULTS / f"kernels-{release}.json"
    write_json(file, {**environment(), "release": release, "targets": targets})
    return file


def _released() -> dict[str, Any]:
    """The latest release that was frozen; empty if none was."""
    files = [f for f in RESULTS.glob("kernels-*.json") if f.stem.split("-")[1][0].isdigit()]
    if not files:
        return {"targets": {}}
    latest = max(files, key=lambda f: [int(x) for x in f.stem.split("-")[1].split(".")])
    found: dict[str, Any] = json.loads(latest.read_text(encoding="utf-8"))
    return found


# ---------------------------------------------------------------- the page


def page() -> str:
    """All targets of which there are results."""
    old = _released()
    parts = [HEAD]
    if "release" in old:
        parts.append(
            f"Where a figure was another in release {old['release']} ({old['time'][:10]}), that one"
            " stands in brackets."
        )
    for target in (*TARGETS, "gfx942"):
        file = RESULTS / f"kernels-{target}.json"
        if file.is_file():
            found = json.loads(file.read_text(encoding="utf-8"))
            parts.append("\n".join(_target(found, old["targets"].get(target, {}))))
    return "\n\n".join(parts) + "\n"


HEAD = f"""\
# Kernels

Made by `python benchmarks/kernels.py`: every Triton kernel of the examples, compiled ahead of time
for GPUs that need not be there, at sizes of {SIZE} (of 16 where models have such states) in
bfloat16.  No figure here was measured on a GPU.

*Occupancy* is how many of the {MOST_WARPS} warps that a multiprocessor can hold registers and
shared memory allow; *loads* how many instructions read global memory, by the bits that a thread
gets.  A kernel that needs more shared memory than a program may have, which does not run at this
size, is marked.

Beside a name stand times for B=4 T=2048 H=16 on an H100 by its data sheet.  The *floor* counts what
any implementation of the planned form has to do: compulsory bytes or its operations, whichever
takes longer.  *Predicted* is what the cost model says of the kernels as they are planned, one after
the other: each takes as long as the bytes that it moves or its operations do, products in chunks at
the speed of matrix units, steps of kernels over time at that of float32 units.  What it leaves out
(latency, launches, tensor operations between kernels) makes real times longer."""


def _target(found: Mapping[str, Any], old: Mapping[str, Any]) -> Iterator[str]:
    versions = ", ".join(f"{n} {v}" for n, v in found["versions"].items() if v)
    yield f"## {found['target']}\n\n{versions}; {found['time'][:10]}."
    missing = sorted({p.stem for p in (ROOT / "examples").glob("*.scan")} - {*found["scans"]})
    if missing:
        yield f"\nNot compiled yet: {', '.join(missing)}."
    for name, entry in sorted(found["scans"].items()):
        yield f"\n### {name}\n"
        if "failure" in entry:
            yield f"Failed: {entry['failure']}."
            continue
        yield f"Form `{entry['form']}`, size {entry['size']}; {_times(entry)}.\n"
        if not entry["kernels"]:
            yield "No Triton kernels."
            continue
        yield "| kernel | registers | spilled bytes | shared KiB | occupancy | products | loads |"
        yield "| --- | ---: | ---: | ---: | ---: | --- | --- |"
        for kernel in entry["kernels"]:
            yield _row(name, kernel, old.get(name, {}).get(kernel["name"]), found["target"])


def _times(entry: Mapping[str, Any]) -> str:
    """The floor and what the cost model predicts, in each direction."""
    words = []
    for direction in ("forward", "backward"):
        x = entry["needs"][direction]
        least = ROWS * max(x["bytes"] / COPY, x["operations"] / _rate(entry))
        words.append(f"{direction} floor {1e6 * least:.0f} µs")
        if costs := entry["costs"][direction]:
            words[-1] += f", predicted {1e6 * sum(_predicted(c, entry) for c in costs):.0f} µs"
    return "; ".join(words)


def _predicted(cost: Mapping[str, float], entry: Mapping[str, Any]) -> float:
    """Seconds of one launch; what it keeps for a backward is written too."""
    moved = cost["read"] + cost["written"] + cost["kept"]
    return ROWS * max(moved / COPY, cost["operations"] / _rate(entry))


def _rate(entry: Mapping[str, Any]) -> float:
    """Operations per second: kernels over time make no large products."""
    products = any("MMA" in n for k in entry["kernels"] for n in k["matrix_instructions"])
    return MATRIX if products or entry["form"] == "chunk" else PLAIN


def _row(scan: str, kernel: Mapping[str, Any], was: Mapping[str, Any] | None, target: str) -> str:
    units = kernel["matrix_instructions"]
    products = ", ".join(f"{n} {name}" for name, n in units.items() if "MMA" in name) or "-"
    loads = ", ".join(f"{n} of {bits}" for bits, n in sorted(_by_width(kernel))) or "-"
    warps = _warps(kernel, target)
    cells = [
        kernel["name"].strip("_").removeprefix(scan).strip("_"),
        _was(kernel, was, "registers"),
        _was(kernel, was, "spilled_bytes"),
        _was(kernel, was, "shared_bytes", 1024) + _misfit(kernel, target),
        "-" if warps is None else f"{warps} of {MOST_WARPS}",
        products,
        loads,
    ]
    return "| " + " | ".join(cells) + " |"


def _by_width(kernel: Mapping[str, Any]) -> Iterator[tuple[int, int]]:
    yield from ((int(bits), n) for bits, n in kernel["loads"].items())


def _was(kernel: Mapping[str, Any], was: Mapping[str, Any] | None, key: str, unit: int = 1) -> str:
    """A figure, and that of the release before where it was another."""
    now = kernel[key]
    text = "-" if now is None else f"{now / unit:,.0f}"
    if was is None or was[key] is None or was[key] == now:
        return text
    return f"{text} ({was[key] / unit:,.0f})"


def _misfit(kernel: Mapping[str, Any], target: str) -> str:
    """A mark at what is more than a program may have."""
    room = SHARED.get(target, math.inf)
    if kernel["shared_bytes"] > room:
        return f" **of {room // 1024}**"
    columns = kernel.get("tensor_columns", 0)
    return f" **and {columns} columns of {TENSOR_COLUMNS}**" if columns > TENSOR_COLUMNS else ""


def _warps(kernel: Mapping[str, Any], target: str) -> int | None:
    """How many warps a multiprocessor holds at most."""
    if kernel["registers"] is None or target not in TARGETS:
        return None
    threads = -(-kernel["registers"] // 8) * 8 * 32 * kernel["warps"]
    room = TARGETS[target] // (kernel["shared_bytes"] + 1024)
    blocks = min(REGISTERS // threads, room, MOST_WARPS // kernel["warps"])
    return int(blocks * kernel["warps"])


if __name__ == "__main__":
    sys.exit(main())
