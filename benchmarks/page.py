"""Render docs/performance.md from what lies in benchmarks/results: `python benchmarks/page.py`.

Every figure of the page comes from a result file, with the machine, the versions and the command
that made it; nothing is typed by hand.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import ROOT, number

PAGE = ROOT / "docs" / "performance.md"
LOOPS, SUITE, GPU = "cpu-float32-T4096.json", "suite-cpu.json", "suite-gpu.json"
COMPILED, LAUNCH = "compiled-cpu.json", "launch.json"

HEAD = """\
# Performance

Made by `python benchmarks/page.py` from the files in `benchmarks/results/`; `make bench` makes
those of a CPU anew. [benchmarks/README.md](../benchmarks/README.md) says how each is measured.
"""


def main() -> int:
    """Write the page, or with --check say whether it is stale."""
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    p.add_argument("--out", type=Path, default=PAGE)
    p.add_argument("--check", action="store_true", help="write nothing; fail if it would change")
    options = p.parse_args()
    text = page(options.results)
    if options.check:
        return int(not options.out.is_file() or options.out.read_text(encoding="utf-8") != text)
    options.out.write_text(text, encoding="utf-8")
    print(f"written: {options.out}")
    return 0


def page(results: Path) -> str:
    """The whole page; a part for each result file that is there."""
    parts = [HEAD]
    written = ((LOOPS, _loops), (SUITE, _suite), (COMPILED, _compiled), (LAUNCH, _launch))
    for name, part in (*written, (GPU, _gpu)):
        file = results / name
        if file.is_file():
            parts.append("\n".join(part(json.loads(file.read_text(encoding="utf-8")))))
        elif name == GPU:
            parts.append("## On a GPU\n\nNo result of a GPU has been recorded yet.")
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _made(found: Mapping[str, Any]) -> str:
    """Where, when and how."""
    versions = ", ".join(f"{n} {v}" for n, v in found["versions"].items() if v)
    threads = f", {found['threads']} threads" if "threads" in found else ""
    where = found.get("device", found["cpu"])
    return (
        f"{where}, {found['cores']} cores{threads}; Python {found['python']}, {versions}; "
        f"{found['time'][:10]}; `{found['command']}`"
    )


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield "| " + " | ".join(columns) + " |"
    yield "| --- |" + " ---: |" * (len(columns) - 1)
    yield from ("| " + " | ".join(row) + " |" for row in rows)


# ---------------------------------------------------------------- beside code by hand


def _loops(found: Mapping[str, Any]) -> Iterator[str]:
    one = found["results"][0]
    sizes = " ".join(f"{n}={s}" for n, s in one["sizes"].items())
    yield "## Beside code written by hand, on a CPU"
    yield ""
    yield (
        f"Forward and backward, {one['dtype']}, B={one['B']} T={one['T']} H={one['H']} {sizes}"
        " but where another shape is named, milliseconds (and times the generated code's): a plain"
        " loop over tokens, a loop tuned by hand, a chunked form written by hand from the paper's"
        " equations."
    )
    yield ""
    kinds = ("plain loop", "tuned loop", "chunked by hand")
    rows = []
    for r in found["results"]:
        shape = "" if r["H"] == one["H"] else f" ({_own_shape(r)})"
        cells = [_ratio(r, kind) for kind in kinds]
        rows.append((r["scan"] + shape, r["form"], number(r["median"]["generated"]), *cells))
    yield from _table(("scan", "form", "generated", *kinds), rows)
    yield ""
    yield _made(found)


def _own_shape(r: Mapping[str, Any]) -> str:
    return " ".join([f"H={r['H']}", *(f"{n}={s}" for n, s in r["sizes"].items())])


def _ratio(r: Mapping[str, Any], kind: str) -> str:
    if kind not in r["median"]:
        return ""
    return f"{number(r['median'][kind])} ({r['ratios'][kind]:.1f})"


# ---------------------------------------------------------------- by length


def _suite(found: Mapping[str, Any]) -> Iterator[str]:
    yield "## Against length, on a CPU"
    yield ""
    copy, matrix = (found[n] for n in ("copy_bytes_per_second", "matrix_operations_per_second"))
    yield (
        "Forward and backward by the generated code, milliseconds; the last columns are the"
        " exponent of T (1 is linear; least squares) and, at the longest, the time over the floor:"
        f" the larger of the compulsory bytes at the speed of a copy ({copy / 1e9:.0f} GB/s) and"
        f" the planned operations at that of a large product ({matrix / 1e12:.2f} Tflop/s), both"
        " measured in the same run."
    )
    yield ""
    lengths = sorted({r["time"] for r in found["results"]})
    rows = []
    for scan in dict.fromkeys(r["scan"] for r in found["results"]):
        own = {r["time"]: r for r in found["results"] if r["scan"] == scan}
        times = {t: _own_time(own[t]) for t in lengths if t in own}
        cells = [_spread(own[t]) if t in own else "" for t in lengths]
        last = max(times)
        over = times[last] / own[last]["floor"]["both"]
        rows.append((scan, *cells, f"{_exponent(times):.2f}", number(over)))
    yield from _table(("scan", *(f"T={t}" for t in lengths), "exponent", "floor"), rows)
    yield ""
    yield _made(found)


def _own(r: Mapping[str, Any]) -> Mapping[str, Any]:
    """The times of our first contender."""
    found: Mapping[str, Any] = r["contenders"][0]["times"]
    return found


def _own_time(r: Mapping[str, Any]) -> float:
    return float(_own(r)["both"]["median"])


def _spread(r: Mapping[str, Any]) -> str:
    """The median and half the distance between the quartiles."""
    t = _own(r)["both"]
    return f"{number(t['median'])} ± {number((t['high'] - t['low']) / 2, 1)}"


def _exponent(times: Mapping[int, float]) -> float:
    """The slope of log time against log length, by least squares."""
    if len(times) < 2:
        return math.nan
    x = [math.log(t) for t in times]
    return statistics.linear_regression(x, [math.log(v) for v in times.values()]).slope


# ---------------------------------------------------------------- torch.compile, launches


def _compiled(found: Mapping[str, Any]) -> Iterator[str]:
    yield "## Under torch.compile, on a CPU"
    yield ""
    yield (
        "The generated code called as it is, and inside a function that `torch.compile` has taken"
        " in one graph; milliseconds. A scan is one operator to it: what it can make faster lies"
        " around the scan."
    )
    yield ""
    yield from _contenders(found)


def _launch(found: Mapping[str, Any]) -> Iterator[str]:
    yield "## What a call costs before it computes"
    yield ""
    batch, time, heads = found["shape"]
    yield (
        f"Python of the Triton backend at B={batch} T={time} H={heads}, sizes {found['size']}, with"
        " kernels that do nothing, microseconds: the checks of arguments, torch's dispatcher and"
        " autograd, the allocation of memory, all else. Then the number of launches, and what"
        " Triton adds for them, which is not in the sum; nor is what a driver adds. A step is"
        " computed in tensor operations, which stand under *else*."
    )
    yield ""
    old = {(r["scan"], r["call"]): r["total"] for r in found.get("before", {}).get("rows", ())}
    before = f" ({found['before']['time'][:10]})" if old else ""
    rows = []
    for r in found["rows"]:
        parts = [r["parts"].get(x, 0.0) for x in ("checks", "operators", "allocation")]
        cells = [f"{x:.0f}" for x in (r["total"], *parts, r["total"] - sum(parts))]
        was = old.get((r["scan"], r["call"]))
        cells.insert(0, "-" if was is None else f"{was:.0f}")
        added = "-" if r.get("triton") is None else f"{r['triton']:.0f}"
        rows.append((f"{r['scan']}, {r['call']}", *cells, str(r["launches"]), added))
    names = ("checks", "operators", "allocation", "else", "launches", "Triton")
    yield from _table(("call", f"before{before}", "all", *names), rows)
    yield ""
    yield _made(found)


# ---------------------------------------------------------------- on a GPU


def _gpu(found: Mapping[str, Any]) -> Iterator[str]:
    yield "## On a GPU"
    yield ""
    yield from _contenders(found)


def _contenders(found: Mapping[str, Any]) -> Iterator[str]:
    rows = [
        (r["scan"], f"{_shape(r)}", c["name"], *(_median(c, m) for m in ("forward", "both")))
        for r in found["results"]
        for c in r["contenders"]
    ]
    yield from _table(("scan", "shape", "by", "forward, ms", "forward and backward, ms"), rows)
    yield ""
    yield _made(found)


def _shape(r: Mapping[str, Any]) -> str:
    sizes = " ".join(f"{n}={s}" for n, s in r["sizes"].items())
    return f"B={r['batch']} T={r['time']} H={r['heads']} {sizes}"


def _median(contender: Mapping[str, Any], mode: str) -> str:
    times = contender["times"].get(mode)
    return number(times["median"]) if times else "-"


if __name__ == "__main__":
    sys.exit(main())
