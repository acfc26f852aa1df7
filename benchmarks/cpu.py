"""Generated code against hand-written code on the CPU: `python benchmarks/cpu.py`.

Forward and backward of the generated torch backend, of the frozen loops in `baselines.py` (plain
and tuned) and of the chunked form in `chunked.py`, each in a process of its own, one after the
other in turn, the median of each, and their ratios.  Before anything is timed, outputs and
gradients of the generated code are judged against the loop in float64.  Exit status 1 if they are
wrong.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnContext
from pathlib import Path
from types import ModuleType
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import Tensor

import scandsl
from benchmarks.baselines import LOOPS, PLAIN
from benchmarks.chunked import CHUNK, CHUNKED
from benchmarks.common import ROOT, environment, number, realistic, show, sizes_for, write_json
from scandsl.driver import check
from scandsl.loader import read_source
from scandsl.testing.compare import relative_rms
from scandsl.testing.tolerances import Role, tolerance

Results = dict[str, Tensor]
OWN: dict[str, tuple[int, int, tuple[str, ...]]] = {
    "mamba": (256, 16, ("B", "C")),
    "lru": (1, 64, ()),
}
"""Scans whose states are no matrices: heads, size of their dimensions, tensors with one head."""
KINDS = ("plain loop", "tuned loop", "chunked by hand")
BOUNDED = {"kimi_delta_attention_bounded": "kimi_delta_attention"}
"""Scans of `benchmarks/` whose gates have a declared bound; the loop knows of none."""


def main() -> int:
    options = _options()
    torch.set_num_threads(options.threads)
    found = []
    for name in options.spec or [*LOOPS, *BOUNDED]:
        found.append(_one(name, options))
        print(f"{name}: {found[-1]['ratios']['plain loop']:.1f} times faster", flush=True)
    o = options
    shape = f"B={o.batch} T={o.time} H={o.heads} K={o.key} V={o.value}"
    show(
        f"forward and backward, ms (times the generated), {shape}, {o.dtype}, {o.threads} threads",
        ("scan", "form", "torch ms", *KINDS, "error/bound"),
        [_row(result) for result in found],
    )
    wrong = [f"{r['scan']}: {e['tensor']} {e['error']:.2e}" for r in found for e in _wrong(r)]
    print(*(f"wrong: {line}" for line in wrong), sep="\n")
    out = options.out / f"cpu-{options.dtype}-T{options.time}.json"
    write_json(out, {**environment(), "threads": options.threads, "results": found})
    print(f"written: {out}")
    return 1 if wrong else 0


def _options() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--spec", action="append", choices=sorted([*LOOPS, *BOUNDED]), help="repeatable")
    p.add_argument("--batch", "-B", type=int, default=1)
    p.add_argument("--time", "-T", type=int, default=4096)
    p.add_argument("--heads", "-H", type=int, default=4)
    p.add_argument("--key", "-K", type=int, default=64)
    p.add_argument("--value", "-V", type=int, default=64)
    p.add_argument("--dtype", default="float32", choices=("float32", "float64"))
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--repeats", type=int, default=5)
    p.add_argument("--chunk", type=int, help="force the chunk length")
    p.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    return p.parse_args()


@dataclass(frozen=True, slots=True)
class _Task:
    """One scan at one size: its functions by kind, the generated one first, and their arguments."""

    runs: Mapping[str, Callable[..., Results]]
    tensors: Mapping[str, Tensor]
    about: Mapping[str, Any]


def _task(name: str, options: argparse.Namespace) -> _Task:
    path = ROOT / ("benchmarks" if name in BOUNDED else "examples") / f"{name}.scan"
    by_hand = BOUNDED.get(name, name)
    module = scandsl.load(path, chunk=options.chunk)
    (recurrence,) = check(read_source(path)).recurrences
    dtype = getattr(torch, options.dtype)
    heads, size, shared = OWN.get(name, (options.heads, 0, ()))
    sizes = sizes_for(recurrence, size or options.key, size or options.value)
    shape = (options.batch, options.time, heads)
    tensors = realistic(recurrence, sizes, shape, dtype, own_heads=dict.fromkeys(shared, 1))
    (output,) = recurrence.outputs
    cotangent = torch.randn(*shape, *(sizes[d] for d in output.dims), dtype=dtype)

    def generated(given: Mapping[str, Tensor]) -> Results:
        return _ran(lambda *xs: getattr(module, name)(*xs, backend="torch")[0], given, cotangent)

    others = {"plain loop": PLAIN, "tuned loop": LOOPS, "chunked by hand": CHUNKED}
    if options.time % CHUNK:
        del others["chunked by hand"]  # it takes whole chunks
    runs: dict[str, Callable[..., Results]] = {"generated": generated}
    for kind, table in others.items():
        if by_hand in table:
            runs[kind] = partial(_by_hand, table[by_hand], cotangent)
    about = {
        "scan": name, "form": _form(module, name), "B": options.batch, "T": options.time,
        "H": heads, "sizes": sizes, "dtype": options.dtype,
    }  # fmt: skip
    return _Task(runs, tensors, about)


def _one(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Judge one example, then time it."""
    task = _task(name, options)
    generated, loop = task.runs["generated"], task.runs["tuned loop"]
    verdicts = _judged(generated, loop, task.tensors, getattr(torch, options.dtype))
    times = _timed(name, list(task.runs), options)
    medians = {kind: statistics.median(values) for kind, values in times.items()}
    ratios = {k: x / medians["generated"] for k, x in medians.items() if k != "generated"}
    found = {"verdicts": verdicts, "milliseconds": times, "median": medians, "ratios": ratios}
    return {**task.about, **found}


def _by_hand(
    function: Callable[..., Tensor], cotangent: Tensor, given: Mapping[str, Tensor]
) -> Results:
    return _ran(function, given, cotangent)


def _form(module: ModuleType, name: str) -> str:
    return "chunk" if hasattr(module, f"_{name}_chunk_forward") else "sequential"


def _ran(
    function: Callable[..., Tensor], given: Mapping[str, Tensor], cotangent: Tensor
) -> Results:
    """The output and all gradients."""
    leaves = {name: x.detach().requires_grad_() for name, x in given.items()}
    out = function(*leaves.values())
    grads = torch.autograd.grad(out, list(leaves.values()), cotangent.to(out.dtype))
    return {"output": out.detach(), **dict(zip(leaves, grads, strict=True))}


def _judged(
    generated: Callable[..., Results],
    loop: Callable[..., Results],
    tensors: Mapping[str, Tensor],
    dtype: torch.dtype,
) -> list[dict[str, Any]]:
    """Relative RMS errors against the loop in float64, beside the loop's own."""
    truth = loop({name: x.double() for name, x in tensors.items()})
    mine, own = generated(tensors), loop(tensors)
    out = []
    for key, true in truth.items():
        role = Role.OUTPUT if key == "output" else Role.VECTOR
        bound = tolerance(dtype, role, relative_rms(own[key], true))
        error = relative_rms(mine[key], true)
        out.append({"tensor": key, "error": error, "bound": bound, "ok": error <= bound})
    return out


def _wrong(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [v for v in result["verdicts"] if not v["ok"]]


def _timed(name: str, kinds: Sequence[str], options: argparse.Namespace) -> dict[str, list[float]]:
    """Milliseconds, all kinds in turn, so that what the machine does meets them alike.

    Each has a process of its own: a loop leaves gigabytes of small pieces behind, among which what
    comes next would find its memory scattered.
    """
    times: dict[str, list[float]] = {kind: [] for kind in kinds}
    context = multiprocessing.get_context("spawn")
    with ExitStack() as stack:
        pipes = {kind: stack.enter_context(_worker(context, name, kind, options)) for kind in kinds}
        for _ in range(options.repeats):
            for kind, pipe in pipes.items():
                pipe.send("go")
                times[kind].append(pipe.recv())
    return times


@contextmanager
def _worker(
    context: SpawnContext, name: str, kind: str, options: argparse.Namespace
) -> Iterator[Connection]:
    """A pipe to a process that runs one kind whenever told to, and answers with milliseconds."""
    mine, its = context.Pipe()
    process = context.Process(target=_serve, args=(its, name, kind, options), daemon=True)
    process.start()
    its.close()
    assert mine.recv() == "ready"
    try:
        yield mine
    finally:
        mine.close()
        process.join()


def _serve(pipe: Connection, name: str, kind: str, options: argparse.Namespace) -> None:
    torch.set_num_threads(options.threads)
    task = _task(name, options)
    run = task.runs[kind]
    run(task.tensors)
    pipe.send("ready")
    with suppress(EOFError):
        while pipe.recv():
            run(task.tensors)  # warms up caches and threads
            start = time.perf_counter()
            run(task.tensors)
            pipe.send((time.perf_counter() - start) * 1e3)


def _row(result: Mapping[str, Any]) -> list[str]:
    worst = max(v["error"] / v["bound"] for v in result["verdicts"])
    median, ratios = result["median"], result["ratios"]
    cells = [
        f"{number(median[kind])} ({ratios[kind]:.1f})" if kind in ratios else "" for kind in KINDS
    ]
    return [result["scan"], result["form"], number(median["generated"]), *cells, number(worst)]


if __name__ == "__main__":
    sys.exit(main())
