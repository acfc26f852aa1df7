"""The process in which one contender lives.

A loop over tokens leaves gigabytes of small pieces in its heap, among which what is timed next in
the same process would find its memory scattered; and a kernel that takes its process down should
cost one result.  So each contender has a process, which answers one request at a time.

In: `Request`s through a pipe.  Out: answers, or `Trouble` where one could not be met.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scandsl.bench.contenders import LOOP, Job, Shape, call_of, is_own, truth_of
from scandsl.bench.machine import lap, rotation
from scandsl.bench.peers import Call
from scandsl.testing.compare import relative_rms
from scandsl.testing.tolerances import Role, tolerance

MODES = ("forward", "backward", "both", "decode")
LONG = 1000.0  # milliseconds from which on a call is not made once more in front of the timed one
STEPS = 16  # tokens of one timed round of decoding


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why a request was not met."""

    text: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """A result of a contender beside the truth."""

    tensor: str
    error: float
    bound: float

    @property
    def ok(self) -> bool:
        """Whether it is right."""
        return self.error <= self.bound


@dataclass(frozen=True, slots=True)
class Counts:
    """What one forward and backward takes besides time; `None` where it cannot be told."""

    peak: int | None
    calls: int | None


class Worker:
    """The parent's end: starts the process, asks, stops it."""

    def __init__(self, job: Job, threads: int) -> None:
        os.environ.setdefault("KINETO_LOG_LEVEL", "9")  # torch's profiler writes to the terminal
        context = get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, job, threads), daemon=True)
        self._process.start()
        theirs.close()

    def ask(self, request: str, *arguments: Any) -> Any:
        """The answer, or `Trouble`; a process that died is trouble too."""
        try:
            self._pipe.send((request, *arguments))
            return self._pipe.recv()
        except (EOFError, OSError):
            self._process.join(5)
            return Trouble(f"its process ended with status {self._process.exitcode}")

    def close(self) -> None:
        """Ask it to end; do not wait long."""
        with suppress(OSError):
            self._pipe.send(("stop",))
        self._process.join(5)
        if self._process.is_alive():
            self._process.kill()
        self._pipe.close()


def _serve(pipe: Connection, job: Job, threads: int) -> None:
    torch.set_num_threads(threads)
    bench: _Bench | None = None
    with suppress(EOFError, KeyboardInterrupt):
        while True:
            request, *arguments = pipe.recv()
            if request == "stop":
                return
            try:
                answer: Any = None
                if request == "truth":
                    _truth(job, *arguments)
                elif request == "prepare":
                    bench = None  # what the last shape took comes free before the next
                    bench = _Bench(job, *arguments)
                elif bench is None:
                    answer = Trouble("nothing is prepared")
                else:
                    answer = getattr(bench, request)(*arguments)
            except Exception as error:  # told to the parent, whatever it is
                head = str(error).strip().partition("\n")[0]
                answer = Trouble(f"{type(error).__name__}: {head[:200]}")
            pipe.send(answer)


# ---------------------------------------------------------------- results


def _results(call: Call, tensors: Sequence[Tensor], grad: Tensor) -> list[Tensor]:
    """The output, then the gradient of every argument that has one."""
    leaves = [x.detach().requires_grad_() for x in tensors]
    out = call(leaves)
    grads = torch.autograd.grad(out, leaves, grad.to(out.dtype), allow_unused=True)
    found = [torch.zeros_like(x) if g is None else g for x, g in zip(leaves, grads, strict=True)]
    return [out.detach(), *found]


def _truth(job: Job, shape: Shape, file: Path) -> None:
    """Write the results in float64, and the errors of the same in the dtype of the job."""
    call, grad = truth_of(job, shape), job.cotangent(shape)
    true = _results(call, job.tensors(shape, dtype=torch.float64), grad)
    plain = _results(call, job.tensors(shape), grad)
    own = [relative_rms(x, y) for x, y in zip(plain, true, strict=True)]
    if not all(bool(x.isfinite().all()) for x in true):
        raise ValueError("ordinary data do not stay finite in this scan at this length")
    torch.save({"true": [x.cpu() for x in true], "own": own}, file)


class _Bench:
    """One contender at one shape."""

    def __init__(self, job: Job, shape: Shape, name: str) -> None:
        self.job, self.shape, self.name = job, shape, name
        self.call = call_of(job, shape, name)
        self.sets = [self._set(0)]
        moved = sum(x.numel() * x.element_size() for x in (*self.sets[0][0], self.sets[0][1]))
        self.sets += [self._set(i) for i in range(1, rotation(moved, job.device))]
        self.turn = 0
        self.decoding: Callable[[], object] | None = None

    def _set(self, seed: int) -> tuple[list[Tensor], Tensor]:
        leaves = [x.requires_grad_() for x in self.job.tensors(self.shape, seed)]
        return leaves, self.job.cotangent(self.shape, seed)

    # ------------------------------------------------------------ judging

    def judge(self, file: Path) -> list[Verdict]:
        """Every result against the truth."""
        known = torch.load(file)
        found = _results(self.call, *self.sets[0])
        recurrence = self.job.recurrence()
        dims = {x.name: x.dims for x in (*recurrence.inputs, *recurrence.params)}
        names = (recurrence.outputs[0].name, *recurrence.arguments)
        out: list[Verdict] = []
        for name, got, true, own in zip(names, found, known["true"], known["own"], strict=True):
            if name == names[0] and not out:
                role, label = Role.OUTPUT, name
            else:
                role, label = Role.VECTOR if dims[name] else Role.GATE, f"d{name}"
            error = relative_rms(got.cpu(), true)
            out.append(Verdict(label, error, tolerance(self.job.dtype, role, own)))
        return out

    # ------------------------------------------------------------ time

    def modes(self) -> list[str]:
        """What can be timed: decoding is one function of a module, whatever the backend."""
        step = is_own(self.name) and " " not in self.name
        return [m for m in MODES if m != "decode" or step]

    def warm(self, mode: str) -> float:
        """Two calls; milliseconds of the second."""
        self._lap(mode)
        return self._lap(mode)

    def time(self, mode: str, expected: float) -> float:
        """Milliseconds of one call, made twice if that is not long, the second being timed."""
        if expected < LONG:
            self._lap(mode)
        return self._lap(mode)

    def _lap(self, mode: str) -> float:
        leaves, grad = self.sets[self.turn % len(self.sets)]
        self.turn += 1
        if mode == "decode":
            return lap(self._decode(), self.job.device) / STEPS
        if mode == "forward":
            with torch.no_grad():
                return lap(lambda: self.call(leaves), self.job.device)
        if mode == "both":
            return lap(lambda: _gradients(self.call(leaves), leaves, grad), self.job.device)
        out = self.call(leaves)
        return lap(lambda: _gradients(out, leaves, grad), self.job.device)

    def _decode(self) -> Callable[[], object]:
        """A round of tokens, each from the state that the last one left."""
        if self.decoding is None:
            inputs = {x.name for x in self.job.recurrence().inputs}
            names = self.job.recurrence().arguments
            given = zip(names, self.sets[0][0], strict=True)
            token = [x.detach()[:, 0] if n in inputs else x.detach() for n, x in given]
            step = getattr(self.job.module(), f"{self.job.scan}_step")

            def work() -> None:
                state = None
                with torch.no_grad():
                    for _ in range(STEPS):
                        state = step(*token, state=state)[-1]

            self.decoding = work
        return self.decoding

    # ------------------------------------------------------------ memory and calls

    def counts(self) -> Counts:
        """Of one forward and backward; of a loop's very many calls nothing is noted."""
        leaves, grad = self.sets[0]

        def work() -> None:
            _gradients(self.call(leaves), leaves, grad)

        if self.job.device == "cuda":
            return Counts(_gpu_peak(work), _launches(work))
        return Counts(None, None) if self.name == LOOP else _cpu_counts(work)


def _gradients(out: Tensor, leaves: Sequence[Tensor], grad: Tensor) -> object:
    return torch.autograd.grad(out, leaves, grad.to(out.dtype), allow_unused=True)


def _gpu_peak(work: Callable[[], object]) -> int:
    """Bytes that were taken at most beyond those held before."""
    torch.cuda.synchronize()
    before = int(torch.cuda.memory_allocated())
    torch.cuda.reset_peak_memory_stats()
    work()
    torch.cuda.synchronize()
    return int(torch.cuda.max_memory_allocated()) - before


def _launches(work: Callable[[], object]) -> int:
    """Kernels and copies on the device."""
    kinds = [torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=kinds) as seen:
        work()
        torch.cuda.synchronize()
    return sum(e.device_time_total > 0 for e in seen.events() or ())


def _cpu_counts(work: Callable[[], object]) -> Counts:
    """Peak bytes of tensors beyond those held before, and operators that call no other."""
    kinds = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=kinds, profile_memory=True) as seen:
        work()
    calls = sum(e.name.startswith("aten::") and not e.cpu_children for e in seen.events() or ())
    held = peak = 0
    raw = seen.profiler.kineto_results.events() if seen.profiler is not None else ()
    for event in sorted((e for e in raw if e.name() == "[memory]"), key=lambda e: e.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return Counts(peak, calls)
