"""What the Python of a generated module costs before its kernels run, in microseconds.

    python benchmarks/launch.py [--only gla] [--rounds 2000] [--out FILE] [--before FILE]

Calls the Triton backend on tiny CPU tensors with kernels that do nothing, so that what is left is
the work of the processor: checks, torch's operators and autograd, allocation, the preparation of
launches.  Beside it stands what Triton adds, which looks the arguments of each launch over; what a
driver adds is not in it.  A decoding step runs in tensor operations, which stand under launches.
`--before` names a result of an earlier version, whose totals are shown beside these and kept.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import ROOT, environment, realistic, show, sizes_for, write_json

NAMES = ("simple_gla", "gated_delta_rule", "kimi_delta_attention", "mlstm", "gru")
PARTS = ("checks", "operators", "around", "allocation", "launches", "rest")
OUT = ROOT / "benchmarks" / "results" / "launch.json"
BEFORE = OUT.with_name("launch-before.json")
SHAPE, SIZE = (1, 64, 2), 32
_EMPTY = {torch.ops.aten.empty.memory_format, torch.ops.aten.new_empty.default}
_ZEROS = {torch.ops.aten.zeros.default, torch.ops.aten.new_zeros.default}


def main() -> int:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--only", action="append", default=[], help="an example; repeatable")
    p.add_argument("--rounds", type=int, default=2000)
    p.add_argument("--out", type=Path, default=OUT)
    p.add_argument("--before", type=Path, default=BEFORE, help="a result of an earlier version")
    options = p.parse_args()
    torch.set_num_threads(1)
    rows = []
    for name in options.only or NAMES:
        rows += measured(name, options.rounds)
    found = {**environment(), "shape": SHAPE, "size": SIZE, "rounds": options.rounds, "rows": rows}
    old: dict[str, Any] = {"rows": []}
    if options.before.is_file():
        old = json.loads(options.before.read_text(encoding="utf-8"))
        found["before"] = {key: old[key] for key in ("time", "versions", "rows")}
    write_json(options.out, found)
    totals = {(r["scan"], r["call"]): r["total"] for r in old["rows"]}
    show(
        f"Python of a call, B={SHAPE[0]} T={SHAPE[1]} H={SHAPE[2]}, sizes {SIZE}, bfloat16",
        ("call", "before", "µs", *PARTS, "launched", "triton"),
        [cells(r, totals.get((r["scan"], r["call"]))) for r in rows],
    )
    return 0


def cells(row: dict[str, Any], before: float | None) -> list[str]:
    """One row of the table."""
    old = "-" if before is None else f"{before:.1f}"
    parts = [f"{row['parts'].get(x, 0.0):.1f}" for x in PARTS]
    name = f"{row['scan']}, {row['call']}"
    triton = "-" if row["triton"] is None else f"{row['triton']:.1f}"
    return [name, old, f"{row['total']:.1f}", *parts, str(row["launches"]), triton]


def measured(name: str, rounds: int) -> list[dict[str, Any]]:
    """Forward without gradients, forward and backward, and a step, each by part."""
    from scandsl.driver import check
    from scandsl.loader import load, read_source

    path = ROOT / "examples" / f"{name}.scan"
    (recurrence,) = check(read_source(path)).recurrences
    module = load(path)
    sizes = sizes_for(recurrence, SIZE, SIZE)
    tensors = list(realistic(recurrence, sizes, SHAPE, torch.bfloat16).values())
    inputs = {t.name for t in recurrence.inputs}
    tokens = [
        x[:, 0].contiguous() if n in inputs else x
        for n, x in zip(recurrence.arguments, tensors, strict=True)
    ]
    with _idle(module) as launches:
        calls = Calls(module, recurrence.name, tensors, rounds, launches)
        return [calls.forward(), calls.both(), calls.step(tokens)]


class _Idle:
    """A kernel that does nothing."""

    def __init__(self) -> None:
        self.count = 0

    def __getitem__(self, grid: object) -> _Idle:
        return self

    def __call__(self, **arguments: object) -> None:
        self.count += 1


@contextmanager
def _idle(module: ModuleType) -> Iterator[_Idle]:
    """The module with idle kernels."""
    module._load_triton()
    idle, original = _Idle(), module._kernel
    module._kernel, module._original_kernel = lambda function: idle, original
    try:
        yield idle
    finally:
        module._kernel = original


class _Driver:
    """A GPU that is not there, as far as a launch asks for one."""

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


class _Binary(dict):
    """A cache in which every kernel is found, compiled to nothing."""

    function = packed_metadata = None

    def get(self, key: object, default: object = None) -> _Binary:
        return self

    def launch_metadata(self, *arguments: object) -> None:
        return None

    def run(self, *arguments: object) -> None:
        pass


@contextmanager
def _prepared(module: ModuleType) -> Iterator[None]:
    """The module with kernels that Triton launches up to where the driver would be called."""
    from triton.runtime import driver

    idle, made = module._kernel, {}
    active = driver.__dict__.get("_active")

    def kernel(function: Any) -> Any:
        if function.__name__ not in made:
            jit = original(function)
            _, *rest = jit.device_caches[0]
            jit.device_caches[0] = (_Binary(), *rest)
            made[function.__name__] = jit
        return made[function.__name__]

    original = module._original_kernel
    driver.set_active(_Driver())
    module._kernel = kernel
    try:
        yield
    finally:
        module._kernel = idle
        driver._active = active


class Calls:
    """The calls of one scan."""

    def __init__(
        self, module: ModuleType, name: str, tensors: list[torch.Tensor], rounds: int, idle: _Idle
    ) -> None:
        self.module, self.name, self.rounds, self.idle = module, name, rounds, idle
        self.scan = getattr(module, f"_{name.upper()}")
        self.operator = getattr(module, f"_{name.upper()}_OPERATOR")
        self.function = getattr(module, name)
        self.fixed = [x.detach() for x in tensors]
        self.given = [x.detach().requires_grad_() for x in tensors]
        self.none = [None] * len(self.scan.scalars)
        self.tail = [*self.none, *([None] * len(self.scan.state)), None]

    # ------------------------------------------------------------ clocks

    def time(self, call: Callable[[], object]) -> float:
        """Median microseconds."""
        for _ in range(min(50, self.rounds)):
            call()
        times = []
        for _ in range(self.rounds):
            begin = time.perf_counter_ns()
            call()
            times.append(time.perf_counter_ns() - begin)
        return statistics.median(times) / 1e3

    def allocation(self, call: Callable[[], object]) -> float:
        """The same allocations without what is around them."""
        with _Allocations() as found:
            call()
        made = [
            (torch.zeros if zero else torch.empty, shape, dtype)
            for shape, dtype, zero in found.made
        ]

        def again() -> None:
            for make, shape, dtype in made:
                make(shape, dtype=dtype)

        return self.time(again)

    def launched(self, call: Callable[[], object]) -> int:
        """Kernels of one call."""
        before = self.idle.count
        call()
        return self.idle.count - before

    def row(self, call: str, run: Callable[[], object], **parts: float) -> dict[str, Any]:
        """The measurements of one call; `parts` are those that are known."""
        total = self.time(run)
        parts["rest"] = total - sum(parts.values())
        rounded = {n: round(x, 2) for n, x in parts.items()}
        return {
            "scan": self.name, "call": call, "total": round(total, 2), "parts": rounded,
            "launches": self.launched(run), "triton": self.triton(run, total),
        }  # fmt: skip

    def triton(self, run: Callable[[], object], total: float) -> float | None:
        """What Triton adds, if this version of it can be asked."""
        if os.environ.get("TRITON_INTERPRET") == "1":
            return None
        try:
            with _prepared(self.module):
                return round(self.time(run) - total, 2)
        except (AttributeError, TypeError, ValueError):
            return None

    # ------------------------------------------------------------ calls

    def checks(self, given: list[torch.Tensor]) -> float:
        """The checks of a call of all tokens."""
        check = self.module._checked
        arguments = (self.scan, tuple(given), tuple(self.none), None, None, "triton", None, False)
        return self.time(lambda: check(*arguments))

    def forward(self) -> dict[str, Any]:
        """A call that keeps nothing for a backward."""
        operator, arguments = self.operator, [*self.fixed, *self.tail, "triton", False, False]
        with torch.no_grad():
            seen = self.seen(lambda: operator.forward(*arguments))
            form = lambda: seen.form.forward(*seen.forward)  # noqa: E731
            inside, around = self.time(form), self.time(lambda: operator.forward(*arguments))
            made = self.allocation(form)
            return self.row(
                "forward",
                lambda: self.function(*self.fixed, backend="triton"),
                checks=self.checks(self.fixed),
                operators=self.time(lambda: operator.run(*arguments)) - around,
                around=around - inside,
                allocation=made,
                launches=inside - made,
            )

    def both(self) -> dict[str, Any]:
        """Forward and backward."""
        operator, arguments = self.operator, [*self.given, *self.tail, "triton", False, True]
        places = operator.smooth_outputs
        ones = [torch.ones_like(x) for x in operator.run(*arguments)[: len(self.scan.outputs)]]
        ones = [ones[i] for i in places]

        def through(run: Callable[[], Any]) -> None:
            found = run()
            torch.autograd.backward([found[i] for i in places], ones)
            for x in self.given:
                x.grad = None

        seen = self.seen(lambda: through(lambda: operator.run(*arguments)))
        with torch.no_grad():
            forms = lambda: (  # noqa: E731
                seen.form.forward(*seen.forward),
                seen.form.backward(*seen.backward),
            )
            sides = lambda: (  # noqa: E731
                operator.forward(*arguments),
                operator.backward(*seen.call),
            )
            inside, around, made = self.time(forms), self.time(sides), self.allocation(forms)
        whole = self.time(lambda: through(lambda: operator.run(*arguments)))
        return self.row(
            "forward and backward",
            lambda: through(lambda: self.function(*self.given, backend="triton")),
            checks=self.checks(self.given),
            operators=whole - around,
            around=around - inside,
            allocation=made,
            launches=inside - made,
        )

    def step(self, tokens: list[torch.Tensor]) -> dict[str, Any]:
        """One token from a state."""
        step = getattr(self.module, f"{self.name}_step")
        values = getattr(self.module, f"_{self.name}_step_values")
        with torch.no_grad():
            _, state = step(*tokens)
            parts = (state,) if isinstance(state, torch.Tensor) else state
            seen = self.spied(f"_{self.name}_step_values", lambda: step(*tokens, state=state))
            check = self.module._checked
            arguments = (self.scan, tuple(tokens), tuple(self.none), parts)
            return self.row(
                "step",
                lambda: step(*tokens, state=state),
                checks=self.time(lambda: check(*arguments, step=True)),
                launches=self.time(lambda: values(*seen)),
            )

    # ------------------------------------------------------------ what goes between them

    def seen(self, call: Callable[[], object]) -> SimpleNamespace:
        """The form of the Triton backend, and the arguments of both directions."""
        operator = self.operator
        form = operator.forms["triton"]
        out = SimpleNamespace(form=form)

        def forward(*args: object) -> Any:
            out.forward = args
            return form.forward(*args)

        def backward(*args: object) -> Any:
            out.backward = args
            return form.backward(*args)

        def run_backward(*args: object) -> Any:
            out.call = args
            return original(*args)

        original = operator.run_backward
        operator.forms["triton"] = form._replace(forward=forward, backward=backward)
        operator.run_backward = run_backward
        try:
            call()
        finally:
            operator.forms["triton"], operator.run_backward = form, original
        return out

    def spied(self, name: str, call: Callable[[], object]) -> tuple[Any, ...]:
        """The arguments that a function of the module is called with."""
        original, out = getattr(self.module, name), []

        def spy(*args: object) -> Any:
            out.append(args)
            return original(*args)

        setattr(self.module, name, spy)
        try:
            call()
        finally:
            setattr(self.module, name, original)
        return out[0]


class _Allocations(TorchDispatchMode):
    """Takes down the memory that is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[tuple[tuple[int, ...], torch.dtype, bool]] = []

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        out = function(*args, **(kwargs or {}))
        if function in _EMPTY | _ZEROS:
            self.made.append((tuple(out.shape), out.dtype, function in _ZEROS))
        return out


if __name__ == "__main__":
    sys.exit(main())
