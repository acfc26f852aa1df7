"""What one worker of `gpu.py` does: comparisons and timings, one task after the other.

In: tasks as JSON lines on standard input.  Out: results as lines that begin with `MARK` on standard
output.  A task that fails is a result too; only a crash of the process ends it, and then the parent
starts another.  With `SCANDSL_DRY=1` everything runs on the CPU, kernels in Triton's interpreter.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import Tensor

import scandsl
from benchmarks.common import ROOT, realistic, sizes_for
from scandsl.bench.machine import rotation
from scandsl.bench.peers import PEERS, Setup
from scandsl.driver import check
from scandsl.ir.nodes import Recurrence
from scandsl.loader import read_source
from scandsl.testing.compare import Case, relative_rms, runs, state_names
from scandsl.testing.data import Layout
from scandsl.testing.tolerances import Role, tolerance

MARK = "@result "
DRY = os.environ.get("SCANDSL_DRY") == "1"
DEVICE = "cpu" if DRY else "cuda"
Task = Mapping[str, Any]
Result = dict[str, Any]


def main() -> None:
    """Answer every task until the input ends."""
    warnings.filterwarnings("ignore", message=".*deterministic.*")
    for line in sys.stdin:
        task = json.loads(line)
        start = time.perf_counter()
        try:
            result = TASKS[task["kind"]](task)
        except Exception as error:  # every failure is a finding; the script goes on
            result = {"ok": False, "failure": _words(error)}
            print(traceback.format_exc(), file=sys.stderr, flush=True)
        finally:
            if not DRY:
                _free()
        result["seconds"] = time.perf_counter() - start
        result["broken"] = _broken()
        sys.stdout.write(f"{MARK}{json.dumps(result)}\n")
        sys.stdout.flush()


def _words(error: BaseException) -> str:
    """The first lines of an error, and those of what caused it."""
    cause = f" (from {_words(error.__cause__)})" if error.__cause__ is not None else ""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {' | '.join(lines[:6])[:600]}{cause}"


def _free() -> None:
    with contextlib.suppress(Exception):
        torch.cuda.empty_cache()


def _broken() -> bool:
    """Whether the device no longer answers this process, after an illegal access for example."""
    if DRY:
        return False
    try:
        torch.cuda.synchronize()
        float(torch.ones(1, device=DEVICE).sum())
    except Exception:
        return True
    return False


# ---------------------------------------------------------------- scans


@dataclass(frozen=True, slots=True)
class _Scan:
    recurrence: Recurrence
    module: ModuleType

    @property
    def function(self) -> Callable[..., Any]:
        return getattr(self.module, self.recurrence.name)


@cache
def _scan(file: str, name: str) -> _Scan:
    path = ROOT / file
    found = {r.name: r for r in check(read_source(path)).recurrences}
    return _Scan(found[name], scandsl.load(path))


def _of(task: Task) -> _Scan:
    return _scan(task["file"], task["scan"])


def _dtype(task: Task) -> torch.dtype:
    return getattr(torch, task["dtype"])


# ---------------------------------------------------------------- small shapes: the interpreter


def compare(task: Task) -> Result:
    """A Triton kernel against the reference interpreter in float64, and against itself."""
    scan, dtype = _of(task), _dtype(task)
    case = _case(scan.recurrence, task)
    with _poisoned():
        (run,) = runs(
            scan.recurrence, scan.module, [case], only=("triton",), dtypes=[dtype], device=DEVICE
        )
        differs = [] if run.failure else _differs(scan, case, dtype)
    verdicts = [
        {"tensor": v.tensor, "role": v.role.value, "error": v.error, "bound": v.bound}
        for v in run.verdicts
    ]
    ok = run.ok and not differs
    return {"ok": ok, "failure": run.failure, "verdicts": verdicts, "differs": differs}


def _case(recurrence: Recurrence, task: Task) -> Case:
    sizes = sizes_for(recurrence, task["K"], task["V"])
    groups = task.get("groups")
    own = {}
    if groups:
        own = {name: groups[i % len(groups)] for i, name in enumerate(recurrence.arguments)}
    heads = max(groups) if groups else task["H"]
    lengths = tuple(task["lengths"]) if task.get("lengths") else None
    layout = Layout(task.get("B", 1), task.get("T", 1), lengths, heads, own)
    return Case(task["label"], layout, sizes, carried=bool(task.get("carried")))


def _differs(scan: _Scan, case: Case, dtype: torch.dtype) -> list[str]:
    """The tensors that are not the same bits in a second call."""
    data = case.draw(scan.recurrence, dtype, 0)
    marks = None if data.cu_seqlens is None else data.cu_seqlens.to(DEVICE)
    start = data.initial_state
    parts = None if start is None else [start[n] for n in state_names(scan.recurrence)]
    first, second = (_results(scan, data.tensors, "triton", marks, parts) for _ in range(2))
    return [name for name, x in first.items() if not _same_bits(x, second[name])]


def _same_bits(a: Tensor, b: Tensor) -> bool:
    return torch.equal(a.contiguous().view(torch.uint8), b.contiguous().view(torch.uint8))


def _results(
    scan: _Scan,
    tensors: Mapping[str, Tensor],
    backend: str,
    marks: Tensor | None = None,
    start: Sequence[Tensor] | None = None,
    cotangents: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """Outputs, final states and gradients by name; the cotangents by default all the same."""
    leaves = {n: x.detach().to(DEVICE).requires_grad_() for n, x in tensors.items()}
    state = None
    if start is not None:
        state = [_leaf(x) for x in start]
        leaves |= {f"initial {i}": x for i, x in enumerate(state) if x.requires_grad}
        state = state[0] if len(state) == 1 else tuple(state)
    arguments = [leaves[name] for name in scan.recurrence.arguments]
    *outputs, final = scan.function(
        *arguments,
        initial_state=state,
        output_final_state=True,
        cu_seqlens=marks,
        backend=backend,
    )
    named = dict(zip((o.name for o in scan.recurrence.outputs), outputs, strict=True))
    finals = [final] if isinstance(final, Tensor) else list(final or ())
    named |= {f"final {n}": x for n, x in zip(state_names(scan.recurrence), finals, strict=False)}
    ends = {n: x for n, x in named.items() if x.requires_grad}
    given = cotangents or {n: torch.ones_like(x) for n, x in ends.items()}
    grads = torch.autograd.grad(
        list(ends.values()),
        list(leaves.values()),
        [given[n].to(x.dtype) for n, x in ends.items()],
        allow_unused=True,
    )
    found = {n: x.detach() for n, x in named.items()}
    for (name, x), g in zip(leaves.items(), grads, strict=True):
        found[f"d {name}"] = torch.zeros_like(x) if g is None else g
    return found


def _leaf(x: Tensor) -> Tensor:
    x = x.detach().to(DEVICE, copy=True)
    return x.requires_grad_() if x.is_floating_point() else x


@contextmanager
def _poisoned() -> Iterator[None]:
    """New memory holds NaN, so that what a kernel does not write shows."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


# ---------------------------------------------------------------- large shapes: the torch backend


def large(task: Task) -> Result:
    """A Triton kernel against the torch backend in float64, on three heads of a large shape."""
    scan, dtype = _of(task), _dtype(task)
    need = task.get("gigabytes", 0)
    if not DRY and need > torch.cuda.mem_get_info()[0] / 2**30:
        return {"ok": True, "skipped": f"needs {need} GiB of free memory"}
    shape = (task["B"], task["T"], task["H"])
    sizes = sizes_for(scan.recurrence, task["K"], task["V"])
    tensors = realistic(scan.recurrence, sizes, shape, dtype, device=DEVICE, seed=1)
    marks = _boundaries(task)
    sequences = shape[0] if marks is None else marks.numel() - 1
    cotangents = _cotangents(scan.recurrence, sizes, shape, sequences, dtype)
    heads = sorted({0, shape[2] // 2, shape[2] - 1})
    with _poisoned():
        found = _results(scan, tensors, "triton", marks, cotangents=cotangents)
        differs = []
        if not need:  # where there is room for a second one
            again = _results(scan, tensors, "triton", marks, cotangents=cotangents)
            differs = [name for name, x in found.items() if not _same_bits(x, again[name])]
            del again
        got = {name: _heads(x, name, heads, scan.recurrence) for name, x in found.items()}
        del found
        part = {n: _heads(x, n, heads, scan.recurrence) for n, x in tensors.items()}
        dual = {n: _heads(x, n, heads, scan.recurrence) for n, x in cotangents.items()}
    del tensors, cotangents
    wide = {n: x.double() for n, x in part.items()}
    truth = _results(scan, wide, "torch", marks, cotangents=dual)
    own: dict[str, float] = {}
    if dtype is torch.float32:
        mine = _results(scan, part, "torch", marks, cotangents=dual)
        own = {name: relative_rms(mine[name], x) for name, x in truth.items()}
    verdicts = [_verdict(n, got[n], x, dtype, own.get(n, 0.0), scan) for n, x in truth.items()]
    ok = all(v["error"] <= v["bound"] for v in verdicts) and not differs
    return {"ok": ok, "verdicts": verdicts, "differs": differs}


def _boundaries(task: Task) -> Tensor | None:
    if not task.get("lengths"):
        return None
    sums = [0]
    for length in task["lengths"]:
        sums.append(sums[-1] + length)
    return torch.tensor(sums, dtype=torch.int32, device=DEVICE)


def _cotangents(
    recurrence: Recurrence,
    sizes: Mapping[str, int],
    shape: tuple[int, int, int],
    sequences: int,
    dtype: torch.dtype,
) -> dict[str, Tensor]:
    generator = torch.Generator(DEVICE).manual_seed(2)

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=generator, device=DEVICE).to(dtype)

    out = {o.name: normal(*shape, *(sizes[d] for d in o.dims)) for o in recurrence.outputs}
    for s in recurrence.states:
        out[f"final {s.name}"] = normal(sequences, shape[2], *(sizes[d] for d in s.dims))
    return out


def _heads(x: Tensor, name: str, heads: Sequence[int], recurrence: Recurrence) -> Tensor:
    """Some heads of a result, an argument or a cotangent."""
    bare = name.removeprefix("d ")
    timed = {o.name for o in recurrence.outputs} | {i.name for i in recurrence.inputs}
    axis = 1 if bare.startswith(("final ", "initial ")) else 2 if bare in timed else 0
    return x.index_select(axis, torch.tensor(heads, device=x.device)).clone()


def _verdict(
    name: str, got: Tensor, true: Tensor, dtype: torch.dtype, own: float, scan: _Scan
) -> Result:
    dims = {x.name: x.dims for x in (*scan.recurrence.inputs, *scan.recurrence.params)}
    if not name.startswith("d "):
        role = Role.STATE if name.startswith("final ") else Role.OUTPUT
    else:
        role = Role.VECTOR if dims.get(name.removeprefix("d "), ("?",)) else Role.GATE
    bound = tolerance(dtype, role, own)
    return {
        "tensor": name, "role": role.value, "error": relative_rms(got, true), "bound": bound,
    }  # fmt: skip


# ---------------------------------------------------------------- time


def bandwidth(task: Task) -> Result:
    """What the device says of itself, and bytes per second of a large copy, read plus written."""
    count = task["bytes"]
    source = torch.empty(count, dtype=torch.uint8, device=DEVICE).random_(0, 255)
    target = torch.empty_like(source)
    found = _measured([lambda: target.copy_(source)])
    out = {"ok": True, "bytes_per_ms": 2 * count / found["median"], "copy_ms": found["median"]}
    if not DRY:
        p = torch.cuda.get_device_properties(0)
        out |= {
            "device": p.name, "capability": [p.major, p.minor], "memory": p.total_memory,
            "multiprocessors": p.multi_processor_count, "l2": p.L2_cache_size,
            "cuda": torch.version.cuda, "hip": torch.version.hip,
        }  # fmt: skip
    return out


def timing(task: Task) -> Result:
    """Forward, and forward with backward, of one implementation at one shape."""
    scan, dtype = _of(task), _dtype(task)
    shape = (task["B"], task["T"], task["H"])
    sizes = sizes_for(scan.recurrence, task["K"], task["V"])
    marks = _boundaries(task)
    call = _implementation(scan, task, marks)
    first = _set(scan, sizes, shape, dtype, 0)
    moved = _traffic(first)
    sets = [first, *(_set(scan, sizes, shape, dtype, i) for i in range(1, _rotation(moved[0])))]
    forward = [lambda s=s: _quietly(call, s[0]) for s in sets]
    both = [lambda s=s: _backward(call, *s) for s in sets]
    out: Result = {"ok": True, "bytes": moved, "sets": len(sets)}
    if task["what"] == "fla":
        ours = _implementation(scan, {**task, "what": "triton"}, marks)
        out["off"] = relative_rms(_quietly(call, first[0]), _quietly(ours, first[0]))
    out["fwd"] = _measured(forward)
    out["both"] = _measured(both)
    return out


_Set = tuple[list[Tensor], Tensor]


def _set(
    scan: _Scan, sizes: dict[str, int], shape: tuple[int, int, int], dtype: torch.dtype, seed: int
) -> _Set:
    """Arguments and the gradient of the first output."""
    tensors = realistic(scan.recurrence, sizes, shape, dtype, device=DEVICE, seed=seed)
    output = scan.recurrence.outputs[0]
    grad = torch.randn((*shape, *(sizes[d] for d in output.dims)), device=DEVICE).to(dtype)
    return [tensors[n].requires_grad_() for n in scan.recurrence.arguments], grad


def _traffic(given: _Set) -> tuple[int, int]:
    """Compulsory bytes: every argument read and every result written once, in each direction."""
    arguments = sum(x.numel() * x.element_size() for x in given[0])
    output = given[1].numel() * given[1].element_size()
    return arguments + output, 3 * arguments + 2 * output


def _rotation(count: int) -> int:
    """How many sets of arguments it takes that none is in the cache when its turn comes."""
    return 1 if DRY else rotation(count, DEVICE)


def _implementation(
    scan: _Scan, task: Task, marks: Tensor | None
) -> Callable[[Sequence[Tensor]], Tensor]:
    what = task["what"]
    if what == "fla":
        return _fla(scan.recurrence, marks)
    compiled = what.startswith("compiled ")
    backend = what.removeprefix("compiled ")

    def call(arguments: Sequence[Tensor]) -> Tensor:
        return scan.function(*arguments, cu_seqlens=marks, backend=backend)[0]

    return torch.compile(call, fullgraph=True, dynamic=False) if compiled else call


def _quietly(call: Callable[[Sequence[Tensor]], Tensor], arguments: Sequence[Tensor]) -> Tensor:
    with torch.no_grad():
        return call(arguments)


def _backward(
    call: Callable[[Sequence[Tensor]], Tensor], arguments: Sequence[Tensor], grad: Tensor
) -> tuple[Tensor | None, ...]:
    return torch.autograd.grad(call(arguments), arguments, grad, allow_unused=True)


def _measured(functions: Sequence[Callable[[], object]]) -> dict[str, float]:
    """Milliseconds: median, least and most; `host` is what the processor needs to start a call."""
    for function in functions:
        function()
    functions[0]()
    single = statistics.median(_laps(functions[:1], 3)[0])
    count = 2 if DRY else max(7, min(50, int(250 / max(single, 1e-3))))
    times, host = _laps(functions, count)
    return {
        "median": statistics.median(times), "least": min(times), "most": max(times),
        "host": host, "count": count,
    }  # fmt: skip


def _laps(functions: Sequence[Callable[[], object]], count: int) -> tuple[list[float], float]:
    if DRY:
        times = []
        for i in range(count):
            start = time.perf_counter()
            functions[i % len(functions)]()
            times.append((time.perf_counter() - start) * 1e3)
        return times, statistics.mean(times)
    events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(count)]
    torch.cuda.synchronize()
    start = time.perf_counter()
    for i, (begin, end) in enumerate(events):
        begin.record()
        functions[i % len(functions)]()
        end.record()
    host = (time.perf_counter() - start) * 1e3 / count
    torch.cuda.synchronize()
    return [begin.elapsed_time(end) for begin, end in events], host


# ---------------------------------------------------------------- kernels


def profile(task: Task) -> Result:
    """Time of each kernel in one forward and backward, and what the compiler says of it."""
    scan, dtype = _of(task), _dtype(task)
    shape = (task["B"], task["T"], task["H"])
    sizes = sizes_for(scan.recurrence, task["K"], task["V"])
    given = _set(scan, sizes, shape, dtype, 0)
    call = _implementation(scan, {**task, "what": "triton"}, _boundaries(task))
    for _ in range(3):
        _backward(call, *given)
    if DRY:
        return {"ok": True, "kernels": []}
    torch.cuda.synchronize()
    kinds = [torch.profiler.ProfilerActivity.CUDA, torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=kinds) as seen:
        for _ in range(5):
            _backward(call, *given)
        torch.cuda.synchronize()
    resources = _resources(scan.module)
    kernels = [
        {
            "kernel": event.key[:80], "ms": event.self_device_time_total / 5e3,
            "launches": event.count / 5, **resources.get(event.key, {}),
        }
        for event in seen.key_averages()
        if event.self_device_time_total > 0 and event.self_cpu_time_total == 0
    ]  # fmt: skip
    return {"ok": True, "kernels": sorted(kernels, key=lambda k: -k["ms"])}


def _resources(module: ModuleType) -> dict[str, dict[str, int]]:
    """Registers, spills and shared memory of the compiled kernels of this process, the worst."""
    out: dict[str, dict[str, int]] = {}
    for name, kernel in getattr(module, "_KERNELS", {}).items():
        for stores in getattr(kernel, "device_caches", {}).values():
            store = stores[0] if isinstance(stores, tuple) else stores
            for compiled in store.values():
                now = {
                    "registers": getattr(compiled, "n_regs", None) or 0,
                    "spills": getattr(compiled, "n_spills", None) or 0,
                    "shared": getattr(compiled.metadata, "shared", 0),
                }
                old = out.setdefault(name, now)
                out[name] = {key: max(old[key], value) for key, value in now.items()}
    return out


# ---------------------------------------------------------------- the peer


def _fla(recurrence: Recurrence, marks: Tensor | None) -> Callable[[Sequence[Tensor]], Tensor]:
    """The same recurrence from flash-linear-attention, in the order of our example's arguments."""
    wanted = ("fla", recurrence.name, recurrence.arguments)
    found = [p for p in PEERS if (p.package, p.scan, p.arguments) == wanted]
    return found[0].make(Setup(0, marks))


TASKS: dict[str, Callable[[Task], Result]] = {
    "compare": compare,
    "large": large,
    "bandwidth": bandwidth,
    "time": timing,
    "profile": profile,
}


if __name__ == "__main__":
    main()
