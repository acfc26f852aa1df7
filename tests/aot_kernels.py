"""Compiles kernels of generated modules ahead of time, in a process without the interpreter.

Run as `python -m tests.aot_kernels` with requests as JSON lines on standard input; answers come the
same way: `compile` gives what the compiler says of each kernel of a scan, `keys` the keys under
which launches would be compiled.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parent.parent


def _arguments(recurrence: Any, request: Mapping[str, Any]) -> tuple[list[torch.Tensor], Any]:
    """Tensors of the shapes asked for, and the boundaries of packed sequences."""
    everything = tuple(d.name for d in recurrence.dims if d.size is None)
    wide = next((s.dims for s in recurrence.states if len(s.dims) == 2), everything)
    sizes = {d.name: d.size or 8 for d in recurrence.dims} | dict.fromkeys(wide, request["size"])
    sizes |= request.get("sizes", {})
    lengths = request.get("lengths")
    lead = (request.get("batch", 1), request.get("time", 130))
    lead = lead if lengths is None else (1, sum(lengths))
    heads = request.get("heads", 2)
    own = dict.fromkeys(recurrence.arguments[1::2], request.get("own", heads))
    own |= dict.fromkeys(request.get("single", ()), 1)
    inputs = {x.name for x in recurrence.inputs}
    tensors = []
    for name in recurrence.arguments:
        x = next(x for x in (*recurrence.inputs, *recurrence.params) if x.name == name)
        before = lead if name in inputs else ()
        shape = (*before, own.get(name, heads), *(sizes[d] for d in x.dims))
        tensors.append(
            torch.zeros(shape, dtype=getattr(torch, request["dtype"]), requires_grad=True)
        )
    marks = None
    if lengths is not None:
        marks = torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)
    return tensors, marks


def _launches(request: Mapping[str, Any]) -> list[Any]:
    from scandsl.diagnostics import Source
    from scandsl.driver import check
    from scandsl.loader import load
    from scandsl.testing.aot import record

    path = ROOT / request["file"]
    found = check(Source(path.name, path.read_text(encoding="utf-8"))).recurrences
    recurrence = next(r for r in found if r.name == request["scan"])
    arguments, marks = _arguments(recurrence, request)
    module = load(path, form=request.get("form"))

    def call() -> None:
        *outputs, final = getattr(module, request["scan"])(
            *arguments, output_final_state=True, cu_seqlens=marks, backend="triton"
        )
        parts = [final] if isinstance(final, torch.Tensor) else list(final)
        ends = [x for x in (*outputs, *parts) if x.requires_grad]
        torch.autograd.backward(ends, [torch.zeros_like(x) for x in ends])

    backend, arch = request["target"]
    return record(module, call, f"sm_{arch}" if backend == "cuda" else str(arch))


def compiled(request: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What the compiler says of every kernel of a scan, or what went wrong."""
    from scandsl.testing.aot import compile_launch

    backend, arch = request["target"]
    torch.version.hip = "6" if backend == "hip" else None  # modules choose by it
    out = []
    for launch in _launches(request):
        if request.get("only", "") not in launch.function.__name__:
            continue
        try:
            out.append(asdict(compile_launch(launch, backend, arch)))
        except Exception as error:
            out.append(
                {"name": launch.function.__name__, "failure": f"{type(error).__name__}: {error}"}
            )
    return out


def keys(request: Mapping[str, Any]) -> list[str]:
    """For each launch all that Triton compiles a kernel anew for, as text."""
    return [_key(launch) for launch in _launches(request)]


def _key(launch: Any) -> str:
    module = sys.modules[launch.function.__module__]
    kernel = module._kernel(launch.function)
    assert {p.name for p in kernel.params} == set(launch.arguments)
    parts = [f"{p.name}={_part(launch.arguments[p.name], p)}" for p in kernel.params]
    return " ".join([launch.function.__name__, str(launch.warps), str(launch.stages), *parts])


def _part(value: Any, parameter: Any) -> str:
    """As Triton's launcher does: types and alignment, and values of constants and of 1."""
    if parameter.is_constexpr or value is None:
        return repr(value)
    if isinstance(value, torch.Tensor):
        return f"{value.dtype} aligned {value.data_ptr() % 16 == 0}"
    if isinstance(value, float):
        return "float"
    width = "i32" if -(2**31) <= value < 2**31 else "i64"
    if parameter.do_not_specialize:
        return width
    return f"{width} one" if value == 1 else f"{width} aligned {value % 16 == 0}"


def main() -> None:
    """Answer requests."""
    os.environ.pop("TRITON_INTERPRET", None)
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # Triton's passes write to the standard output now and then
    for line in sys.stdin:
        request = json.loads(line)
        answer = {"compile": compiled, "keys": keys}[request["do"]](request)
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
