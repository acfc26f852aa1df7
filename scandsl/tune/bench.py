"""A scan whose launches can be set: what it gives, whether that is right, how long it takes.

In: a spec, sizes, a type.  Out: verdicts and milliseconds.  Results are compared with the loop in
float64, and the bounds are those of `scandsl test`.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from scandsl.bench.inputs import realistic
from scandsl.bench.machine import lap
from scandsl.ir.nodes import Recurrence
from scandsl.plan.launches import Config
from scandsl.testing.aot import Launch, record
from scandsl.testing.compare import relative_rms
from scandsl.testing.tolerances import Role, tolerance


@dataclass(frozen=True, slots=True)
class Shape:
    """Batch, tokens and heads that are timed, tokens that are judged, how often it is timed."""

    batch: int
    time: int
    heads: int
    judged: int = 150
    rounds: int = 20


class Bench:
    """One scan at one shape and type."""

    def __init__(
        self,
        recurrence: Recurrence,
        module: ModuleType,
        sizes: Mapping[str, int],
        shape: Shape,
        dtype: torch.dtype,
        device: str,
    ) -> None:
        self.recurrence, self.module = recurrence, module
        self.shape, self.dtype, self.device = shape, dtype, device
        self.scan = getattr(module, recurrence.name)
        self.timed = self._tensors(sizes, (shape.batch, shape.time, shape.heads), dtype)
        self.small = self._tensors(sizes, (1, shape.judged, 2), dtype)
        self.truth = self._truth()

    def _tensors(
        self, sizes: Mapping[str, int], shape: tuple[int, int, int], dtype: torch.dtype
    ) -> list[Tensor]:
        made = realistic(self.recurrence, sizes, shape, dtype, device=self.device)
        return [x.requires_grad_() for x in made.values()]

    # ------------------------------------------------------------ results

    def _results(self, tensors: list[Tensor], backend: str) -> list[Tensor]:
        """Outputs, the final state, and the gradients of all tensors."""
        *outputs, state = self.scan(*tensors, output_final_state=True, backend=backend)
        parts = [state] if isinstance(state, Tensor) else [*state]
        ends = [x for x in (*outputs, *parts) if x.requires_grad]
        ones = [torch.linspace(-1, 1, x.numel(), device=x.device) for x in ends]
        pairs = zip(ones, ends, strict=True)
        loss = [one.reshape(x.shape).to(x.dtype) for one, x in pairs]
        grads = torch.autograd.grad(ends, tensors, loss, allow_unused=True)
        zeros = zip(grads, tensors, strict=True)
        return [*(x.detach() for x in ends), *(g if g is not None else x * 0 for g, x in zeros)]

    def _truth(self) -> list[tuple[Tensor, float]]:
        """The results in float64, and the error of each in the type of the call."""
        wide = [
            x.detach().to(torch.complex128 if x.is_complex() else torch.float64).requires_grad_()
            for x in self.small
        ]
        true = self._results(wide, "reference")
        own = self._results(self.small, "torch")
        return [(t, relative_rms(o, t)) for o, t in zip(own, true, strict=True)]

    def fault(self) -> str | None:
        """What is wrong with the results of the launches as they are set, if anything is."""
        with _nan_in_new_memory():
            found = self._results(self.small, "triton")
        inputs = len(self.small)
        for place, (x, (true, own)) in enumerate(zip(found, self.truth, strict=True)):
            gradient = place >= len(found) - inputs
            role = Role.GATE if gradient else Role.OUTPUT
            error, bound = relative_rms(x, true), tolerance(self.dtype, role, own)
            if not error <= bound:
                what = f"gradient {place - len(found) + inputs + 1}" if gradient else "a result"
                return f"{what} is wrong by {error:.2g}, allowed is {bound:.2g}"
        return None

    # ------------------------------------------------------------ time

    def milliseconds(self) -> float:
        """Of forward and backward, the median of some rounds behind one that compiles."""
        self._both()
        return statistics.median(lap(self._both, self.device) for _ in range(self.shape.rounds))

    def _both(self) -> None:
        *outputs, _ = self.scan(*self.timed, backend="triton")
        ends = [x for x in outputs if x.requires_grad]
        torch.autograd.grad(ends, self.timed, [torch.ones_like(x) for x in ends], allow_unused=True)

    # ------------------------------------------------------------ launches

    def launches(self) -> list[Launch]:
        """Those of one forward and backward at the timed shape; nothing runs."""
        return record(self.module, self._both)

    @contextmanager
    def lookups(self) -> Iterator[list[tuple[int, tuple[Any, ...]]]]:
        """Which entries of which tables are looked up meanwhile."""
        seen: list[tuple[int, tuple[Any, ...]]] = []
        original: Callable[..., Any] = self.module._tuned

        def tuned(table: Any, device: Any, dtype: torch.dtype, *sizes: int) -> Any:
            name = "bfloat16" if dtype == torch.bfloat16 else "float32"
            seen.append((id(table), (self.module._architecture(device), name, *sizes)))
            return original(table, device, dtype, *sizes)

        self.module._tuned = tuned  # type: ignore[attr-defined]
        try:
            yield seen
        finally:
            self.module._tuned = original  # type: ignore[attr-defined]

    def set(
        self, table: str, key: tuple[Any, ...], chunk: int | None, configs: Mapping[str, Config]
    ) -> None:
        """Set the launches of one form."""
        made = {
            n: self.module._Launch(c.tile or 0, c.warps or 0, c.stages or 0, c.numbers or 0)
            for n, c in configs.items()
        }
        getattr(self.module, table)[key] = self.module._Tuned(chunk or 0, made)


@contextmanager
def _nan_in_new_memory() -> Iterator[None]:
    """New tensors hold NaN: what a launch leaves out may not be found there from an earlier one."""
    strict = torch.are_deterministic_algorithms_enabled()
    warns = torch.is_deterministic_algorithms_warn_only_enabled()
    memory: Any = torch.utils.deterministic
    fills = memory.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    memory.fill_uninitialized_memory = True
    try:
        yield
    finally:
        memory.fill_uninitialized_memory = fills
        torch.use_deterministic_algorithms(strict, warn_only=warns)
