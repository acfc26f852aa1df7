"""Numbers under stress: errors of the chunked form in float32 beside those of the loop.

    python benchmarks/stress.py [--most 65536] [--out benchmarks/results]

Truth is the loop over tokens in float64, forward and backward (the generated sequential form, which
tests hold against the reference interpreter).  An error is the root mean square of the difference
over that of the truth; of gradients the largest counts.  Writes stress-float32.json, from which
`python benchmarks/stress.py --render` makes docs/numerics.md and its plot.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import Tensor

from benchmarks.common import ROOT, environment, write_json
from scandsl.driver import check
from scandsl.ir.nodes import Recurrence
from scandsl.loader import load, read_source
from scandsl.testing.data import Layout, draw

SIZE, HEADS, TIME = 16, 2, 2048
RESULT, PAGE, PLOT = "stress-float32.json", "docs/numerics.md", "docs/numerics.svg"

Tensors = dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class Subject:
    """A scan of one structure: its gates (logarithms), values, a delta rule's key and strength."""

    scan: str
    structure: str
    gates: tuple[str, ...] = ()
    value: str = "v"
    key: str = ""
    strength: str = ""


SUBJECTS = (
    Subject("linear_attention", "no decay"),
    Subject("simple_gla", "one decay a token", ("g",)),
    Subject("gla", "decay by key channel", ("g",)),
    Subject("delta_net", "delta rule", key="k", strength="beta"),
    Subject("gated_delta_rule", "delta rule, one decay", ("g",), key="k", strength="beta"),
    Subject("kimi_delta_attention", "delta rule, decay by key", ("g",), key="k", strength="beta"),
    Subject("rwkv7", "diagonal plus low rank", ("w",)),
    Subject("s5", "complex state by entry", value="u"),
    Subject("rwkv4", "log-sum-exp", value="v"),
)


@dataclass(frozen=True, slots=True)
class Stress:
    """A way to spoil arguments; `None` where a scan does not have what it spoils."""

    name: str
    spoil: Callable[[Subject, Tensors, torch.Generator], bool]


def _gates(low: float, high: float, resets: float = 0.0) -> Callable[..., bool]:
    def spoil(one: Subject, tensors: Tensors, generator: torch.Generator) -> bool:
        for name in one.gates:
            shape = tensors[name].shape
            logs = torch.rand(shape, generator=generator) * (high - low) + low
            cut = torch.rand(shape, generator=generator) < resets
            tensors[name] = torch.where(cut, -math.inf, logs)
        return bool(one.gates)

    return spoil


def _strength(value: float) -> Callable[..., bool]:
    def spoil(one: Subject, tensors: Tensors, generator: torch.Generator) -> bool:
        del generator
        if one.strength:
            tensors[one.strength] = torch.full_like(tensors[one.strength], value)
        return bool(one.strength)

    return spoil


def _keys(same: bool) -> Callable[..., bool]:
    def spoil(one: Subject, tensors: Tensors, generator: torch.Generator) -> bool:
        del generator
        if one.key:
            key = tensors[one.key]
            tensors[one.key] = key[:, :1].expand_as(key).clone() if same else torch.zeros_like(key)
        return bool(one.key)

    return spoil


def _values(factor: float) -> Callable[..., bool]:
    def spoil(one: Subject, tensors: Tensors, generator: torch.Generator) -> bool:
        del generator
        tensors[one.value] = tensors[one.value] * factor
        return True

    return spoil


STRESSES = (
    Stress("as drawn", _values(1.0)),
    Stress("gates 0", _gates(0.0, 0.0)),
    Stress("gates [-0.001, 0]", _gates(-1e-3, 0.0)),
    Stress("gates [-1, 0]", _gates(-1.0, 0.0)),
    Stress("gates [-50, 0]", _gates(-50.0, 0.0)),
    Stress("gates [-10000, -100]", _gates(-1e4, -100.0)),
    Stress("gates [-5, 0], 2 % resets", _gates(-5.0, 0.0, 0.02)),
    Stress("growth: gates [0, 0.002]", _gates(0.0, 0.002)),
    Stress("strength 0", _strength(0.0)),
    Stress("strength 1", _strength(1.0)),
    Stress("strength 2", _strength(2.0)),
    Stress("equal keys", _keys(True)),
    Stress("zero keys", _keys(False)),
    Stress("values × 1e15", _values(1e15)),
    Stress("values × 1e-15", _values(1e-15)),
    Stress("values × 1e-39 (subnormal)", _values(1e-39)),
)


# ---------------------------------------------------------------- measuring


@dataclass(frozen=True, slots=True)
class Pair:
    """Errors of outputs and of the worst gradient: chunked, and by the loop."""

    output: float
    gradient: float
    loop_output: float
    loop_gradient: float


def recurrence_of(one: Subject) -> Recurrence:
    """The scan of a subject."""
    return check(read_source(ROOT / "examples" / f"{one.scan}.scan")).recurrences[0]


def arguments(one: Subject, time: int) -> Tensors:
    """Arguments as they are drawn for tests."""
    recurrence = recurrence_of(one)
    sizes = {d.name: SIZE for d in recurrence.dims if d.size is None and d.base is None}
    layout = Layout(batch=1, time=time, heads=HEADS)
    return dict(draw(recurrence, sizes, layout, dtype=torch.float32).tensors)


def compared(one: Subject, tensors: Mapping[str, Tensor]) -> Pair:
    """The errors on these arguments."""
    file = ROOT / "examples" / f"{one.scan}.scan"
    chunked, loop = load(file), load(file, form="sequential")
    recurrence = recurrence_of(one)
    true = _results(recurrence, tensors, torch.float64, getattr(loop, one.scan))
    mine = _results(recurrence, tensors, torch.float32, getattr(chunked, one.scan))
    its = _results(recurrence, tensors, torch.float32, getattr(loop, one.scan))
    return Pair(*_worst(mine, true), *_worst(its, true))


def _results(
    recurrence: Recurrence, tensors: Mapping[str, Tensor], dtype: torch.dtype, function: Any
) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
    """Outputs, and gradients of all arguments."""
    leaves = []
    for name in recurrence.arguments:
        x = tensors[name]
        leaves.append(x.to(dtype.to_complex() if x.is_complex() else dtype, copy=True))
    given = [x.requires_grad_() for x in leaves]
    outputs = function(*given, backend="torch")[:-1]
    generator = torch.Generator().manual_seed(1)
    seeds = [torch.randn(o.shape, generator=generator).to(o.dtype) for o in outputs]
    return outputs, torch.autograd.grad(outputs, given, seeds)


def _worst(
    found: tuple[Sequence[Tensor], Sequence[Tensor]],
    true: tuple[Sequence[Tensor], Sequence[Tensor]],
) -> tuple[float, float]:
    def one(xs: Sequence[Tensor], ys: Sequence[Tensor]) -> float:
        return max(_error(x.detach(), y.detach()) for x, y in zip(xs, ys, strict=True))

    return one(found[0], true[0]), one(found[1], true[1])


def _error(found: Tensor, true: Tensor) -> float:
    """Relative error; infinite where a number is not finite or stands where there is none."""
    wide = torch.complex128 if true.is_complex() else torch.float64
    found, true = found.to(wide), true.to(wide)
    off, size = ((x.abs() ** 2).mean().sqrt().item() for x in (found - true, true))
    if off == 0:
        return 0.0
    return off / size if size > 0 and math.isfinite(off) else math.inf


def measure(most: int) -> dict[str, Any]:
    """All stresses at one length, and all lengths as drawn."""
    table, lengths = [], []
    for one in SUBJECTS:
        for stress in STRESSES:
            tensors = arguments(one, TIME)
            if stress.spoil(one, tensors, torch.Generator().manual_seed(2)):
                pair = compared(one, tensors)
                table.append(_row(one, pair, stress=stress.name))
                print(table[-1], flush=True)
        time = 512
        while time <= most:
            tensors = arguments(one, time)
            _gates(-0.5, 0.0)(one, tensors, torch.Generator().manual_seed(2))
            lengths.append(_row(one, compared(one, tensors), time=time))
            print(lengths[-1], flush=True)
            time *= 2 if time < 4096 else 4
    shape = {"B": 1, "T": TIME, "H": HEADS, "sizes": SIZE}
    return {**environment(), **shape, "table": table, "lengths": lengths}


def _row(one: Subject, pair: Pair, **more: Any) -> dict[str, Any]:
    names = ("output", "gradient", "loop_output", "loop_gradient")
    return {"scan": one.scan, **more, **{name: getattr(pair, name) for name in names}}


# ---------------------------------------------------------------- the page


def rendered(found: Mapping[str, Any]) -> str:
    """The page: a table for each structure, the plot, and how to make it."""
    out = [
        "# Numbers under stress", "",
        "Written by `python benchmarks/stress.py --render`; nothing here is typed by hand.", "",
        *_introduction(found), "",
    ]  # fmt: skip
    for one in SUBJECTS:
        rows = [r for r in found["table"] if r["scan"] == one.scan]
        out += [f"## {one.structure[0].upper()}{one.structure[1:]} (`{one.scan}`)", ""]
        out += [
            "| arguments | output | the loop's | gradient | the loop's |",
            "|---|---|---|---|---|",
        ]
        out += [f"| {r['stress']} | {_cells(r)} |" for r in rows] + [""]
    out += ["## Error against length", "", "Gates, where there are any, in [-0.5, 0].", ""]
    out += ["![Error against length](numerics.svg)", ""]
    out += [
        "| scan | T | output | the loop's | gradient | the loop's |",
        "|---|---|---|---|---|---|",
    ]
    out += [f"| `{r['scan']}` | {r['time']} | {_cells(r)} |" for r in found["lengths"]]
    return "\n".join(out) + "\n"


def _introduction(found: Mapping[str, Any]) -> list[str]:
    versions = ", ".join(f"{k} {v}" for k, v in found["versions"].items() if v)
    shape = f"B={found['B']} T={found['T']} H={found['H']}, other sizes {found['sizes']}"
    return [
        "Errors of the form that the compiler chooses, in float32 on torch, beside those of the",
        "loop over tokens in float32; truth is the loop in float64.  An error is the root mean",
        "square of the difference over that of the truth, however small; of several gradients the",
        "largest is shown.  About one or more where the truth is less than float32 holds with all",
        "digits (1e-38): e^-100, by which the gradient of such a gate is multiplied, is 4e-44.",
        f"{shape}; {found['cpu']}; {versions}.",
    ]


def _cells(row: Mapping[str, Any]) -> str:
    names = ("output", "loop_output", "gradient", "loop_gradient")
    return " | ".join(f"{float(row[name]):.1e}" for name in names)


def plot(found: Mapping[str, Any], path: Path) -> None:
    """Error of the worst gradient against length, a line for each scan; dashed the loop's."""
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams["svg.hashsalt"] = "scandsl"
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 5), layout="constrained")
    for one in SUBJECTS:
        rows = [r for r in found["lengths"] if r["scan"] == one.scan]
        times = [r["time"] for r in rows]
        (line,) = axes.loglog(times, [float(r["gradient"]) for r in rows], label=one.scan)
        loop = [float(r["loop_gradient"]) for r in rows]
        axes.loglog(times, loop, linestyle="--", color=line.get_color())
    axes.set(xlabel="tokens", ylabel="relative error of the worst gradient")
    axes.set_title("float32, chunked (solid) and loop (dashed)")
    axes.legend(fontsize="small", ncols=2)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def main() -> None:
    """Measure, or render what was measured."""
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--most", type=int, default=65536, help="the longest sequence")
    p.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    p.add_argument("--render", action="store_true", help="write the page from kept results")
    args = p.parse_args()
    if not args.render:
        write_json(args.out / RESULT, measure(args.most))
    found = json.loads((args.out / RESULT).read_text(encoding="utf-8"))
    (ROOT / PAGE).write_text(rendered(found), encoding="utf-8")
    plot(found, ROOT / PLOT)


if __name__ == "__main__":
    main()
