"""Generated code against the reference: values and gradients, per tensor, as relative RMS errors.

In: a `Recurrence`, the generated module, cases.  Out: `Run`s with a `Verdict` per tensor.  The
judge is the interpreter in float64 on the same (rounded) numbers; bounds come from `tolerances`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import ModuleType
from typing import Any, TypeAlias

import torch
from torch import Tensor

from scandsl.ir.nodes import Dims, Recurrence, memories, uses_time
from scandsl.reference import interpret
from scandsl.testing.data import Data, Layout, draw
from scandsl.testing.interpreter import interpreting, mend
from scandsl.testing.tolerances import ZERO, Role, tolerance

FEW = 64  # a mean over fewer numbers than this may be small by chance
DRAWS = 8
NEIGHBOURS = 7
STEP = "step"  # decoding token by token, beside the module's own backends
DTYPES: tuple[torch.dtype, ...] = (
    torch.float64,
    torch.float32,
    torch.bfloat16,
    torch.float16,
)
Key: TypeAlias = tuple[str, Role]
Found: TypeAlias = dict[Key, Tensor]


@dataclass(frozen=True, slots=True)
class Case:
    """One layout of data, with sizes, and whether a carried state is given."""

    label: str
    layout: Layout
    sizes: Mapping[str, int] = field(default_factory=dict)
    carried: bool = False

    def draw(self, recurrence: Recurrence, dtype: torch.dtype, seed: int) -> Data:
        """Its data in a dtype."""
        sizes, layout = self.sizes, self.layout
        return draw(recurrence, sizes, layout, dtype=dtype, seed=seed, carried=self.carried)


@dataclass(frozen=True, slots=True)
class Verdict:
    """The error of one tensor, relative to `scale`, and its bound; `count` numbers went in."""

    tensor: str
    role: Role
    error: float
    bound: float
    scale: float
    count: int

    @property
    def ok(self) -> bool:
        """Whether the error keeps within the bound; NaN does not."""
        return self.error <= self.bound


@dataclass(frozen=True, slots=True)
class Run:
    """One call of one backend, forward and backward, judged tensor by tensor."""

    scan: str
    case: str
    backend: str
    dtype: torch.dtype
    verdicts: tuple[Verdict, ...]
    failure: str | None = None

    @property
    def ok(self) -> bool:
        """Whether it ran and every tensor passed."""
        return self.failure is None and all(v.ok for v in self.verdicts)

    def worst(self, *roles: Role) -> Verdict | None:
        """The verdict nearest to its bound, or furthest beyond it."""
        found = [v for v in self.verdicts if v.role in roles]
        return max(found, key=_pressure, default=None)


def _pressure(verdict: Verdict) -> float:
    return math.inf if math.isnan(verdict.error) else verdict.error / verdict.bound


def standard_cases(recurrence: Recurrence, time: int = 67) -> tuple[Case, ...]:
    """A plain batch, and packed uneven sequences with shared heads and a carried state."""
    groups = (4, 1, 2)
    own = {name: groups[i % 3] for i, name in enumerate(recurrence.arguments)}
    packed = Layout(lengths=(1, time // 2, 0, 16), heads=4, own_heads=own)
    return (
        Case(f"B2 T{time} H2", Layout(batch=2, time=time, heads=2)),
        Case("packed", packed, carried=True),
    )


def backends(module: ModuleType, scan: str | None = None) -> tuple[str, ...]:
    """What the generated module, or one scan of it, says it can run on."""
    for table in vars(module).values():
        if type(table).__name__ == "_Scan" and table.name in (scan, f"{scan}_"):
            return tuple(table.backends)
    return tuple(getattr(module, "BACKENDS", ("torch", "reference")))


def runs(
    recurrence: Recurrence,
    module: ModuleType,
    cases: Sequence[Case],
    *,
    only: Sequence[str] = (),
    dtypes: Sequence[torch.dtype] = DTYPES,
    seed: int = 0,
    device: str = "cpu",
) -> Iterator[Run]:
    """All runs of a recurrence, one after the other, so that progress can be shown."""
    names = [*backends(module, recurrence.name), STEP]
    chosen = [n for n in names if n in only] if only else names
    for case in cases:
        for dtype in dtypes:
            todo = [b for b in chosen if _applies(b, case, dtype)]
            if todo:
                bench = Bench.prepare(recurrence, case, dtype, seed, device)
                for backend in todo:
                    yield bench.judged(module, case, backend)


def doubtful(run: Run) -> bool:
    """Whether it failed only on tensors of few numbers."""
    bad = [v for v in run.verdicts if not v.ok]
    return run.failure is None and bool(bad) and all(v.count < FEW for v in bad)


def pooled(runs: Sequence[Run]) -> Run:
    """Several draws of one case as one: of tensors of few numbers the mean, of others the worst."""
    for run in runs:
        if run.failure is not None:
            return run
    columns = zip(*(run.verdicts for run in runs), strict=True)
    return replace(runs[0], verdicts=tuple(map(_together, columns)))


def _together(verdicts: Sequence[Verdict]) -> Verdict:
    if verdicts[0].count >= FEW:
        return max(verdicts, key=_pressure)
    scale = math.hypot(*(v.scale for v in verdicts))
    return replace(
        verdicts[0],
        error=math.hypot(*(v.error * v.scale for v in verdicts)) / scale,
        bound=math.hypot(*(v.bound * v.scale for v in verdicts)) / scale,
        scale=scale / math.sqrt(len(verdicts)),
        count=sum(v.count for v in verdicts),
    )


def averaged(runs: Sequence[Run]) -> Run:
    """The same call on numbers that differ by rounding, as one: mean errors against mean bounds.

    What is all rounding has an error that is small by chance on some data, the reference's as well
    as ours, and by up to forty times; what is wrong is so next to it, too.
    """
    for run in runs:
        if run.failure is not None:
            return run
    columns = zip(*(run.verdicts for run in runs), strict=True)
    return replace(runs[0], verdicts=tuple(_mean(c) for c in columns))


def _mean(verdicts: Sequence[Verdict]) -> Verdict:
    root = math.sqrt(len(verdicts))
    error = math.hypot(*(v.error for v in verdicts)) / root
    return replace(verdicts[0], error=error, bound=math.hypot(*(v.bound for v in verdicts)) / root)


def _applies(backend: str, case: Case, dtype: torch.dtype) -> bool:
    if backend == "triton":
        return dtype is not torch.float64
    return backend != STEP or case.layout.lengths is None


# ---------------------------------------------------------------- one set of data


@dataclass(frozen=True, slots=True)
class Bench:
    """One set of data, with what the judge makes of it: modules are run on it."""

    recurrence: Recurrence
    seed: int
    data: Data
    dtype: torch.dtype
    device: str
    cotangents: dict[Key, Tensor]
    truth: Found
    own: dict[Key, float]

    @staticmethod
    def prepare(
        recurrence: Recurrence, case: Case, dtype: torch.dtype, seed: int, device: str
    ) -> Bench:
        """Draw, run the judge, and the reference in the dtype itself."""
        data = case.draw(recurrence, dtype, seed)
        leaves = _leaves(_widened(data))
        values = _reference_values(recurrence, leaves, torch.float64)
        generator = torch.Generator().manual_seed(seed + 1)
        cotangents = {
            key: _cotangent(x, generator, dtype if key[1] is Role.OUTPUT else torch.float32)
            for key, x in values.items()
            if x.is_floating_point() or x.is_complex()
        }
        truth = values | _gradients(recurrence, leaves, values, cotangents)
        own: dict[Key, float] = {}
        if dtype is torch.float32:
            mine = _reference(recurrence, data, cotangents, torch.float32)
            own = {key: relative_rms(mine[key], x) for key, x in truth.items()}
        return Bench(recurrence, seed, data, dtype, device, cotangents, truth, own)

    def judged(self, module: ModuleType, case: Case, backend: str) -> Run:
        """One backend; where that leaves a doubt, on more draws of the case."""
        if backend == "triton" and interpreting():
            mend(module)
        run = self.run(module, case, backend)
        if not run.ok and run.failure is None and self.dtype in (torch.float64, torch.float32):
            near = (self.with_own(case), *(self.next_to(case, seed) for seed in range(NEIGHBOURS)))
            run = averaged([b.run(module, case, backend) for b in near])
        if not doubtful(run):
            return run
        seeds = range(self.seed + 1, self.seed + DRAWS)
        others = (Bench.prepare(self.recurrence, case, self.dtype, s, self.device) for s in seeds)
        return pooled([run, *(b.run(module, case, backend) for b in others)])

    def with_own(self, case: Case) -> Bench:
        """The same with what the reference errs in float32, of these numbers rounded."""
        if self.dtype is torch.float32:
            return self
        place = (self.recurrence, case, torch.float32, self.seed, self.device)
        return replace(self, own=Bench.prepare(*place).own)

    def next_to(self, case: Case, seed: int) -> Bench:
        """The same with numbers that differ by a unit in the last place."""
        data = _nudged(self.recurrence, self.data, seed)
        truth = _reference(self.recurrence, _widened(data), self.cotangents, torch.float64)
        if self.dtype is not torch.float32:
            place = (self.recurrence, case, torch.float32, self.seed, self.device)
            own = Bench.prepare(*place).next_to(case, seed).own
            return replace(self, data=data, truth=truth, own=own)
        mine = _reference(self.recurrence, data, self.cotangents, self.dtype)
        own = {key: relative_rms(mine[key], truth[key]) for key in self.own}
        return replace(self, data=data, truth=truth, own=own)

    def run(self, module: ModuleType, case: Case, backend: str) -> Run:
        """One backend, forward and backward, judged."""
        label = (self.recurrence.name, case.label, backend, self.dtype)
        try:
            found = self._found(module, backend)
        except Exception as error:  # a crash of generated code is a finding, not ours to die of
            return Run(*label, (), f"{type(error).__name__}: {error}")
        verdicts = []
        for key, true in self.truth.items():
            if key in found:
                off = relative_rms(found[key].cpu(), true)
                bound = tolerance(self.dtype, key[1], self.own.get(key, 0.0))
                verdicts.append(Verdict(*key, off, bound, scale_of(true), true.numel()))
            elif backend != STEP:
                return Run(*label, (), f"no {key[1].value} `{key[0]}` came back")
        return Run(*label, tuple(verdicts))

    def _found(self, module: ModuleType, backend: str) -> Found:
        name = self.recurrence.name
        if not hasattr(module, f"{name}_step"):
            name += "_"  # taken in Python, or by the generated module itself
        if backend == STEP:
            with torch.no_grad():
                return _decoded(self.recurrence, getattr(module, f"{name}_step"), self.data)
        leaves = _leaves(self.data, self.device)
        values = _called(self.recurrence, getattr(module, name), leaves, backend)
        return values | _gradients(self.recurrence, leaves, values, self.cotangents)


def _cotangent(x: Tensor, generator: torch.Generator, dtype: torch.dtype) -> Tensor:
    """Random numbers that are exact in every dtype they are used in."""
    if x.is_complex():
        parts = [torch.randn(x.shape, generator=generator) for _ in range(2)]
        return torch.complex(*parts)
    narrow = torch.bfloat16 if dtype in (torch.float16, torch.bfloat16) else torch.float32
    return torch.randn(x.shape, generator=generator).to(narrow).to(torch.float32)


def _nudged(recurrence: Recurrence, data: Data, seed: int) -> Data:
    """Data whose real numbers are one unit in the last place larger or smaller, or as they were.

    Arguments of which something is promised stay, for they may lie at the edge of that.
    """
    generator = torch.Generator().manual_seed(seed)
    declared = (*recurrence.inputs, *recurrence.params)
    promised = {x.name for x in declared if x.range is not None or x.unit}

    def moved(x: Tensor) -> Tensor:
        if not x.is_floating_point():
            return x
        way = torch.randint(-1, 2, x.shape, generator=generator).to(x.dtype)
        return torch.where(way == 0, x, torch.nextafter(x, way * math.inf))

    state = data.initial_state
    return Data(
        {name: x if name in promised else moved(x) for name, x in data.tensors.items()},
        None if state is None else {name: moved(x) for name, x in state.items()},
        data.cu_seqlens,
    )


def _widened(data: Data) -> Data:
    """The same numbers in float64."""
    state = data.initial_state
    return Data(
        {name: _double(x) for name, x in data.tensors.items()},
        None if state is None else {name: _double(x) for name, x in state.items()},
        data.cu_seqlens,
    )


def _double(x: Tensor) -> Tensor:
    if x.is_complex():
        return x.to(torch.complex128)
    return x.to(torch.float64) if x.is_floating_point() else x


def _leaves(data: Data, device: str = "cpu") -> Data:
    """Copies that require gradients, where they can."""

    def leaf(x: Tensor) -> Tensor:
        x = x.detach().to(device, copy=True)
        return x.requires_grad_() if x.is_floating_point() or x.is_complex() else x

    state = data.initial_state
    return Data(
        {name: leaf(x) for name, x in data.tensors.items()},
        None if state is None else {name: leaf(x) for name, x in state.items()},
        None if data.cu_seqlens is None else data.cu_seqlens.to(device),
    )


# ---------------------------------------------------------------- running


def _reference_values(
    recurrence: Recurrence, data: Data, compute: torch.dtype | None = None
) -> Found:
    ran = interpret(
        recurrence,
        data.tensors,
        initial_state=data.initial_state,
        cu_seqlens=data.cu_seqlens,
        compute_dtype=compute,
    )
    return _named(recurrence, ran.outputs, [ran.state[n] for n in state_names(recurrence)])


def _reference(
    recurrence: Recurrence, data: Data, cotangents: Mapping[Key, Tensor], compute: torch.dtype
) -> Found:
    leaves = _leaves(data)
    values = _reference_values(recurrence, leaves, compute)
    return values | _gradients(recurrence, leaves, values, cotangents)


def state_names(recurrence: Recurrence) -> tuple[str, ...]:
    """The parts of the carried state, in the order of the state tuple."""
    names = [s.name for s in recurrence.states] + [m.name for m in memories(recurrence)]
    return (*names, "t") if uses_time(recurrence) else tuple(names)


def _called(
    recurrence: Recurrence, function: Callable[..., Any], data: Data, backend: str
) -> Found:
    state = data.initial_state
    given = None if state is None else _packed_state([state[n] for n in state_names(recurrence)])
    *outputs, final = function(
        *(data.tensors[name] for name in recurrence.arguments),
        initial_state=given,
        output_final_state=True,
        cu_seqlens=data.cu_seqlens,
        check=True,
        backend=backend,
    )
    return _named(recurrence, outputs, _parts(final))


def _decoded(recurrence: Recurrence, step: Callable[..., Any], data: Data) -> Found:
    """Token by token through the step function, the outputs laid side by side."""
    inputs = {x.name for x in recurrence.inputs}
    state = data.initial_state
    carried = None if state is None else _packed_state([state[n] for n in state_names(recurrence)])
    collected: list[list[Tensor]] = [[] for _ in recurrence.outputs]
    for t in range(data.tensors[recurrence.inputs[0].name].shape[1]):
        token = [
            data.tensors[n][:, t] if n in inputs else data.tensors[n] for n in recurrence.arguments
        ]
        *outputs, carried = step(*token, state=carried)
        for output, column in zip(outputs, collected, strict=True):
            column.append(output)
    return _named(recurrence, [torch.stack(c, 1) for c in collected], _parts(carried))


def _packed_state(parts: Sequence[Tensor]) -> Any:
    if not parts:
        return None
    return parts[0] if len(parts) == 1 else tuple(parts)


def _parts(state: Any) -> list[Tensor]:
    if state is None:
        return []
    return [state] if isinstance(state, Tensor) else list(state)


def _named(recurrence: Recurrence, outputs: Sequence[Tensor], state: Sequence[Tensor]) -> Found:
    found: Found = {}
    for output, x in zip(recurrence.outputs, outputs, strict=True):
        found[output.name, Role.OUTPUT] = x
    for name, x in zip(state_names(recurrence), state, strict=True):
        found[name, Role.STATE] = x
    return found


def _gradients(
    recurrence: Recurrence, leaves: Data, values: Found, cotangents: Mapping[Key, Tensor]
) -> Found:
    """Gradients of every argument and initial state; zero where nothing depends on them."""
    wanted: dict[str, tuple[Tensor, Dims]] = {}
    for x in (*recurrence.inputs, *recurrence.params):
        wanted[x.name] = (leaves.tensors[x.name], x.dims)
    dims = {s.name: s.dims for s in recurrence.states}
    dims |= {m.name: m.dims for m in memories(recurrence)}
    for name, tensor in (leaves.initial_state or {}).items():
        if tensor.requires_grad:
            wanted[f"initial {name}"] = (tensor, dims[name])
    ends = [key for key in cotangents if values[key].requires_grad]
    if not ends:
        return {}
    grads = torch.autograd.grad(
        [values[key] for key in ends],
        [tensor for tensor, _ in wanted.values()],
        [cotangents[key].to(values[key].device, values[key].dtype) for key in ends],
        allow_unused=True,
    )
    return {
        (name, Role.VECTOR if of else Role.GATE): torch.zeros_like(tensor) if g is None else g
        for (name, (tensor, of)), g in zip(wanted.items(), grads, strict=True)
    }


# ---------------------------------------------------------------- measuring


def relative_rms(got: Tensor, true: Tensor) -> float:
    """Root mean square of the difference over that of the truth.

    Where the truth is NaN nothing is promised; where it is infinite, the same infinity must come.
    """
    if got.shape != true.shape:
        return math.inf
    got, true = _double(got.detach()), _double(true.detach())
    if not (true.is_floating_point() or true.is_complex()):
        return 0.0 if torch.equal(got, true) else math.inf
    finite = true.isfinite()
    rest = ~finite & ~true.isnan()
    if not torch.equal(got[rest], true[rest]):
        return math.inf
    got, true = got[finite], true[finite]
    if true.numel() == 0:
        return 0.0
    if not bool(got.isfinite().all()):
        return math.inf
    return float((got - true).abs().square().mean().sqrt()) / scale_of(true)


def scale_of(true: Tensor) -> float:
    """What an error is relative to: the root mean square of the finite numbers of the truth."""
    true = _double(true.detach())
    if not (true.is_floating_point() or true.is_complex()):
        return 1.0  # counted, not measured
    finite = true[true.isfinite()].abs()
    size = float(finite.square().mean().sqrt()) if finite.numel() else 0.0
    return size if size > ZERO[0] else ZERO[1]
