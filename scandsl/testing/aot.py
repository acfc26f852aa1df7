"""Compiles the Triton kernels of a generated module for a GPU that need not be there.

In: a generated module and one of its Triton functions with arguments on the CPU.  Out: for every
launch what the compiler says of it.  The module's launches are recorded, not run.  Triton's
interpreter must be off in the process that calls this.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from scandsl.driver import OptionError
from scandsl.ir.nodes import Recurrence
from scandsl.plan.limits import SHARED, TENSOR_COLUMNS
from scandsl.testing.compare import backends

_TYPES = {
    torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.float16: "*fp16",
    torch.float64: "*fp64", torch.int64: "*i64", torch.int32: "*i32", torch.bool: "*i1",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Launch:
    """One recorded launch: a kernel function, its arguments and its options."""

    function: Callable[..., None]
    grid: tuple[int, ...]
    arguments: Mapping[str, Any]
    warps: int
    stages: int


@dataclass(frozen=True, slots=True)
class Compiled:
    """What a compiled kernel needs of a multiprocessor; `None` where the target does not tell.

    `loads` counts the instructions that read global memory, by the bits that each thread gets;
    `tensor_columns` are those of the memory for sums of products, where there is one.  A kernel
    that needs more than there are is compiled to one that does nothing but stop.
    """

    name: str
    target: str
    registers: int | None
    spilled_bytes: int | None
    shared_bytes: int
    matrix_instructions: Mapping[str, int]
    loads: Mapping[str, int]
    warps: int
    tensor_columns: int = 0


class _Recorder:
    def __init__(self, function: Callable[..., None], launches: list[Launch]) -> None:
        self.function = function
        self.launches = launches

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        def launch(*, num_warps: int = 4, num_stages: int = 2, **arguments: Any) -> None:
            self.launches.append(Launch(self.function, grid, arguments, num_warps, num_stages))

        return launch


def record(module: ModuleType, call: Callable[[], object], target: str = "") -> list[Launch]:
    """The launches that `call` makes through a generated module's `_kernel`.

    With a `target` they are those that were chosen for it.
    """
    launches: list[Launch] = []
    original, known = module._kernel, getattr(module, "_ARCHITECTURES", {})
    before = dict(known)
    module._kernel = lambda function: _Recorder(function, launches)  # type: ignore[attr-defined]
    if target:
        known[torch.device("cpu")] = target
    try:
        call()
    finally:
        module._kernel = original  # type: ignore[attr-defined]
        known.clear()
        known.update(before)
    return launches


def compile_launch(launch: Launch, backend: str, arch: int | str) -> Compiled:
    """Compile one launch for a target such as ("cuda", 90) or ("hip", "gfx942")."""
    compiled = _compiled(launch, backend, arch)
    registers: int | None = None
    spilled: int | None = None
    counts: dict[str, int] = {}
    loads: dict[str, int] = {}
    if backend == "cuda":
        binary = _read_binary(compiled.asm["cubin"], compiled.asm["ptx"])
        registers, spilled, counts, loads = binary
    return Compiled(
        launch.function.__name__, f"{backend}:{arch}", registers, spilled,
        compiled.metadata.shared, counts, loads, launch.warps, _columns(compiled),
    )  # fmt: skip


def misfit(launch: Launch, target: str) -> str | None:
    """Why a launch does not fit a target's memories, if these are known and it does not."""
    room = SHARED.get(target)
    if room is None:
        return None
    compiled = _compiled(launch, *target_of(target))
    taken, columns = compiled.metadata.shared, _columns(compiled)
    if taken > room:
        return f"needs {taken:,} bytes of shared memory, there are {room:,}"
    if columns > TENSOR_COLUMNS:
        return f"needs {columns} columns of tensor memory, there are {TENSOR_COLUMNS}"
    return None


def _columns(compiled: Any) -> int:
    return int(getattr(compiled.metadata, "tmem_size", None) or 0)


def _compiled(launch: Launch, backend: str, arch: int | str) -> Any:
    import triton  # noqa: PLC0415 - only where kernels are compiled
    from triton.backends.compiler import GPUTarget  # noqa: PLC0415
    from triton.compiler import ASTSource  # noqa: PLC0415

    signature: dict[str, str] = {}
    constants: dict[tuple[int, ...], Any] = {}
    attributes: dict[tuple[int, ...], list[list[object]]] = {}
    kernel = triton.jit(launch.function)
    for place, parameter in enumerate(kernel.params):
        value = launch.arguments[parameter.name]
        if parameter.is_constexpr or value is None:
            signature[parameter.name] = "constexpr"
            constants[(place,)] = value
        elif isinstance(value, torch.Tensor):
            signature[parameter.name] = _TYPES[value.dtype]
            attributes[(place,)] = [["tt.divisibility", 16]]
        else:
            signature[parameter.name] = "fp32" if isinstance(value, float) else "i32"
    source = ASTSource(kernel, signature, constexprs=constants, attrs=attributes)
    target = GPUTarget(backend, arch, 32 if backend == "cuda" else 64)
    options = {"num_warps": launch.warps, "num_stages": launch.stages}
    return triton.compile(source, target=target, options=options)


def _read_binary(cubin: bytes, ptx: str) -> tuple[int, int, dict[str, int], dict[str, int]]:
    """Registers, bytes of spilled ones, matrix instructions and loads of a cubin.

    What the code itself keeps in local memory is no register: `sin` has a table there, of which it
    makes use for angles beyond 10^5.
    """
    from triton import knobs  # noqa: PLC0415

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        tool = knobs.nvidia.cuobjdump.path
        usage = subprocess.run(
            [tool, "-res-usage", path], capture_output=True, text=True, check=True
        )
        text = usage.stdout + usage.stderr
        sass = subprocess.run([tool, "-sass", path], capture_output=True, text=True, check=True)
    registers = int(re.findall(r"REG:(\d+)", text)[-1])
    local = int(re.findall(r"LOCAL:(\d+)", text)[-1]) + int(re.findall(r"STACK:(\d+)", text)[-1])
    tables = sum(int(n) for n in re.findall(r"__local_depot\d+\[(\d+)\]", ptx))
    local = max(0, local - (-(-tables // 8) * 8))
    counts: dict[str, int] = {}
    for name in re.findall(r"\b(HGMMA|HMMA|UTCHMMA|UTCMMA|LDL|STL)\b", sass.stdout):
        counts[name] = counts.get(name, 0) + 1
    return registers, local, counts, _loads(sass.stdout)


_WIDTHS = {"U8": 8, "S8": 8, "U16": 16, "S16": 16, "64": 64, "128": 128}


def _loads(sass: str) -> dict[str, int]:
    """How often a thread reads how many bits of global memory; what names no width reads 32."""
    out: dict[str, int] = {}
    for parts in re.findall(r"\bLDG(?:STS)?((?:\.\w+)+)", sass):
        bits = str(next((_WIDTHS[x] for x in parts.split(".") if x in _WIDTHS), 32))
        out[bits] = out.get(bits, 0) + 1
    return out


# ---------------------------------------------------------------- what a scan's kernels need


def target_of(text: str) -> tuple[str, int | str]:
    """`sm_90` as ("cuda", 90), `gfx942` as ("hip", "gfx942")."""
    if found := re.fullmatch(r"sm_(\d+)", text):
        return "cuda", int(found[1])
    if re.fullmatch(r"gfx[0-9a-f]+", text):
        return "hip", text
    raise OptionError(f"unknown target {text!r}: expected one such as sm_90 or gfx942")


def kernels_for(
    recurrence: Recurrence, module: ModuleType, target: str, size: int
) -> list[Compiled]:
    """The kernels of a scan, forward and backward, at one size in bfloat16; none without Triton."""
    backend, arch = target_of(target)
    return [
        compile_launch(x, backend, arch) for x in launches_for(recurrence, module, target, size)
    ]


def launches_for(
    recurrence: Recurrence, module: ModuleType, target: str, size: int
) -> list[Launch]:
    """What `kernels_for` compiles."""
    target_of(target)
    if importlib.util.find_spec("triton") is None:
        raise OptionError("--target compiles kernels, for which triton has to be installed")
    if os.environ.get("TRITON_INTERPRET") == "1":
        raise OptionError("--target compiles kernels, which TRITON_INTERPRET=1 prevents")
    if "triton" not in backends(module, recurrence.name):
        return []
    return _recorded(recurrence, module, target, size)


def _recorded(recurrence: Recurrence, module: ModuleType, target: str, size: int) -> list[Launch]:
    """The launches of one call and its backward, on tensors of zeros."""
    sizes = {d.name: d.size or size for d in recurrence.dims}
    inputs = {x.name for x in recurrence.inputs}
    declared = {x.name: x for x in (*recurrence.inputs, *recurrence.params)}
    tensors = []
    for name in recurrence.arguments:
        lead = (1, 2 * size, 2) if name in inputs else (2,)
        shape = (*lead, *(sizes[d] for d in declared[name].dims))
        tensors.append(torch.zeros(shape, dtype=torch.bfloat16, requires_grad=True))

    def call() -> None:
        *outputs, final = getattr(module, recurrence.name)(
            *tensors, output_final_state=True, backend="triton"
        )
        parts = [final] if isinstance(final, torch.Tensor) else list(final)
        ends = [x for x in (*outputs, *parts) if x.requires_grad]
        torch.autograd.backward(ends, [torch.zeros_like(x) for x in ends])

    hip = torch.version.hip
    torch.version.hip = "6" if target_of(target)[0] == "hip" else None  # modules choose by it
    try:
        return record(module, call, target)
    finally:
        torch.version.hip = hip


def described(kernels: list[Compiled]) -> list[str]:
    """A line for each kernel."""
    out = []
    for kernel in kernels:
        words = [f"{kernel.shared_bytes:,} bytes of shared memory"]
        if kernel.registers is not None:
            words.insert(
                0, f"{kernel.registers} registers, {kernel.spilled_bytes or 0} bytes spilled"
            )
        if kernel.tensor_columns > TENSOR_COLUMNS:
            words.append(f"{kernel.tensor_columns} columns of tensor memory: does not fit")
        units = {n: c for n, c in kernel.matrix_instructions.items() if "MMA" in n}
        words += [f"{count} {name}" for name, count in units.items()] or ["no matrix instructions"]
        out.append(f"    {kernel.name.strip('_')}: {', '.join(words)}")
    return out
