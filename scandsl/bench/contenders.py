"""The ways to compute one scan that are timed beside each other.

In: a `Job`.  Out: `Contender`s, each a callable of our arguments that gives the first output.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from scandsl.bench.inputs import all_sizes, realistic
from scandsl.bench.peers import Call, Setup, peers
from scandsl.driver import Options, check, plan
from scandsl.ir.nodes import Recurrence
from scandsl.loader import load, read_source
from scandsl.plan import Plan

LOOP = "loop"
COMPILED = " compiled"


@dataclass(frozen=True, slots=True)
class Shape:
    """Of one call; `lengths` of packed sequences add up to `time`, with a batch of one."""

    batch: int
    time: int
    heads: int
    sizes: Mapping[str, int] = field(default_factory=dict)
    lengths: tuple[int, ...] = ()

    @property
    def leading(self) -> tuple[int, int, int]:
        """Batch, time and heads."""
        return (self.batch, self.time, self.heads)

    @property
    def rows(self) -> int:
        """Tokens times heads."""
        return self.batch * self.time * self.heads

    def __str__(self) -> str:
        sizes = "".join(f" {name}={size}" for name, size in self.sizes.items())
        packed = f" in {len(self.lengths)} sequences" if self.lengths else ""
        return f"B={self.batch} T={self.time}{packed} H={self.heads}{sizes}"


@dataclass(frozen=True, slots=True)
class Job:
    """One scan of one file, on one device in one dtype; crosses to other processes as it is."""

    file: Path
    scan: str
    device: str
    dtype: torch.dtype
    options: Options = field(default_factory=Options)
    own_heads: Mapping[str, int] = field(default_factory=dict)

    def recurrence(self) -> Recurrence:
        """What is timed."""
        found = check(read_source(self.file), self.options.settings).recurrences
        return next(r for r in found if r.name == self.scan)

    def plan(self) -> Plan:
        """The plan of what is timed."""
        _, plans = plan(read_source(self.file), self.options)
        return next(p for p in plans if p.program.recurrence.name == self.scan)

    def module(self, form: str | None = None) -> ModuleType:
        """The generated module, in another form if one is given."""
        o = self.options
        return load(
            self.file, settings=o.settings, form=form or o.form, chunk=o.chunk, schedule=o.schedule
        )

    def tensors(
        self, shape: Shape, seed: int = 0, dtype: torch.dtype | None = None
    ) -> list[Tensor]:
        """Arguments in order; of another dtype they are the same numbers."""
        recurrence = self.recurrence()
        sizes = {d: s for d, s in shape.sizes.items() if d in {x.name for x in recurrence.dims}}
        found = realistic(
            recurrence, sizes, shape.leading, self.dtype,
            device=self.device, seed=seed, own_heads=self.own_heads,
        )  # fmt: skip
        wide = dtype is torch.float64
        return [_widened(x) if wide else x for x in found.values()]

    def cotangent(self, shape: Shape, seed: int = 0) -> Tensor:
        """The gradient of the first output."""
        recurrence = self.recurrence()
        output = recurrence.outputs[0]
        sizes = all_sizes(recurrence, shape.sizes)
        generator = torch.Generator(self.device).manual_seed(seed + 1)
        full = (*shape.leading, *(sizes[d] for d in output.dims))
        return torch.randn(full, generator=generator, device=self.device).to(self.dtype)

    def marks(self, shape: Shape) -> Tensor | None:
        """`cu_seqlens`, if sequences are packed."""
        if not shape.lengths:
            return None
        ends = torch.tensor((0, *shape.lengths)).cumsum(0)
        return ends.to(self.device, torch.int32)


def _widened(x: Tensor) -> Tensor:
    return x.to(torch.complex128 if x.is_complex() else torch.float64)


# ---------------------------------------------------------------- who is there


def contenders(job: Job, shape: Shape, *, compiled: bool, loop: bool) -> list[str]:
    """Names: our backends, the first of them the one that a call takes, then the others."""
    own = ["triton", "torch"] if job.device == "cuda" else ["torch"]
    own = [b for b in own if b in job.module().BACKENDS]
    out = own + [b + COMPILED for b in own if compiled]
    out += [p.name for p in peers(job.recurrence(), job.device, _setup(job, shape))]
    return out + [LOOP] * loop


def is_own(name: str) -> bool:
    """Whether it is generated code on one of its fast backends: what fails there is our fault."""
    return name.removesuffix(COMPILED) in ("triton", "torch")


def call_of(job: Job, shape: Shape, name: str) -> Call:
    """The callable of a contender."""
    if not is_own(name) and name != LOOP:
        found = peers(job.recurrence(), job.device, _setup(job, shape))
        return next(p for p in found if p.name == name).make(_setup(job, shape))
    backend = "reference" if name == LOOP else name.removesuffix(COMPILED)
    call = _generated(job.module(), job.scan, backend, job.marks(shape))
    return torch.compile(call, fullgraph=True) if name.endswith(COMPILED) else call


def truth_of(job: Job, shape: Shape) -> Call:
    """The loop over tokens on all heads at once; for very long sequences the planned form."""
    module = job.module("sequential" if shape.time <= LONGEST_LOOP else None)
    return _generated(module, job.scan, "torch", job.marks(shape))


LONGEST_LOOP = 4096
"""Tokens up to which results are judged by a loop."""


def _setup(job: Job, shape: Shape) -> Setup:
    return Setup(shape.heads, job.marks(shape))


def _generated(module: ModuleType, scan: str, backend: str, marks: Tensor | None) -> Call:
    function: Callable[..., Any] = getattr(module, scan)

    def call(arguments: Sequence[Tensor]) -> Tensor:
        found: Tensor = function(*arguments, cu_seqlens=marks, backend=backend)[0]
        return found

    return call
