"""Complex matrix states in chunks: their rotations are moved into the vectors that meet them.

In `specs/turning.scan` each scan has a structure of its own.  Here they run packed and plain, with
a carried state, against the judge.
"""

from __future__ import annotations

from functools import cache
from types import ModuleType

import pytest
import torch

from scandsl.analysis import analyse
from scandsl.analysis.program import Decay
from scandsl.diagnostics import Source
from scandsl.driver import check
from scandsl.ir.nodes import Recurrence
from scandsl.loader import load, read_source
from scandsl.reference import interpret
from scandsl.testing.compare import Case, backends, relative_rms, runs
from scandsl.testing.data import Layout, draw
from tests.generated import ROOT

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy in the interpreter

FILE = ROOT / "tests" / "specs" / "turning.scan"
SIZES = {"K": 3, "V": 5}
DTYPES = (torch.float64, torch.float32)
TRITON = ("turned_delta", "turned_tensors")


@cache
def recurrences() -> dict[str, Recurrence]:
    return {r.name: r for r in check(read_source(FILE)).recurrences}


@cache
def module() -> ModuleType:
    return load(FILE, chunk=16)


def cases(recurrence: Recurrence) -> list[Case]:
    own = {name: (4, 1, 2)[i % 3] for i, name in enumerate(recurrence.arguments)}
    packed = Layout(lengths=(0, 1, 37, 0, 2), heads=4, own_heads=own)
    return [
        Case("packed", packed, SIZES, carried=True),
        Case("plain", Layout(batch=2, time=17, heads=2), SIZES),
    ]


@pytest.mark.parametrize("name", recurrences())
def test_chunks_agree_with_the_judge(name: str) -> None:
    recurrence = recurrences()[name]
    for run in runs(recurrence, module(), cases(recurrence), only=("torch",), dtypes=DTYPES):
        assert run.ok, (run.case, run.dtype, run.failure, [v for v in run.verdicts if not v.ok])


@pytest.mark.parametrize("name", TRITON)
def test_triton_agrees_with_the_judge(name: str) -> None:
    recurrence = recurrences()[name]
    assert "triton" in backends(module(), name)
    packed = cases(recurrence)[:1]
    for run in runs(recurrence, module(), packed, only=("triton",), dtypes=(torch.float32,)):
        assert run.ok, (run.failure, [v for v in run.verdicts if not v.ok])


@pytest.mark.parametrize("name", recurrences())
def test_they_take_chunks(name: str) -> None:
    found = analyse(recurrences()[name])
    forms = [found.form.value, *(s.form.value for s in found.stages)]
    assert "chunk" in forms and "sequential" not in forms


def decays(step: str) -> list[tuple[str, bool, bool]]:
    """Of each decay its dimensions, whether it has a logarithm, and whether it turns."""
    lines = ["input q[K], v[V], x[K], y[K], g in (-inf, 0], z: complex", "state S[K, V]: complex"]
    lines += [step, "output o[V] = re(q @ S)", "output u = sum[K](x * y) * g * re(z)"]
    text = "scan s:\n" + "".join(f"    {line}\n" for line in lines)
    found = analyse(check(Source("s.scan", text)).recurrences[0]).components[0]
    events = [e for e in found.events if isinstance(e, Decay)]
    return [(", ".join(e.dims), e.log is not None, e.angle is not None) for e in events]


@pytest.mark.parametrize(
    ("factor", "expected"),
    [
        ("exp(complex(g, 2))", ("", True, True)),
        ("exp(g * complex(exp(x), y))", ("K", True, True)),
        ("exp(complex(-exp(x), 0))", ("K", True, False)),
        ("conj(exp(complex(g, y))) * 0.5", ("", True, True)),
        ("complex(exp(g) * cos(x), exp(g) * sin(x))", ("", True, True)),
        ("(-exp(complex(0, x)) / exp(complex(exp(y), 1)))", ("K", False, True)),
        ("where(g < -1, exp(complex(g, x)), complex(1, 0))", ("", True, True)),
        ("exp(g * z)", ("", True, True)),
        ("complex(0, x)", ("K", False, True)),
        ("complex(-0.3, 0.4)", ("", True, True)),
        ("(exp(g) * z)", ("", False, False)),
    ],
)
def test_moduli_and_angles(factor: str, expected: tuple[str, bool, bool]) -> None:
    assert decays(f"S = {factor} * S + q * v") == [expected]


def test_angles_are_summed_within_chunks() -> None:
    """Over many tokens, and to large angles, no digits are lost."""
    recurrence = recurrences()["turned_scalar"]
    layout = Layout(batch=1, time=1000, heads=1)
    tensors = draw(recurrence, {"K": 4, "V": 4}, layout, dtype=torch.float32, seed=3).tensors
    tensors["g"] = -0.01 * torch.rand(1, 1000, 1, generator=torch.Generator().manual_seed(1))
    tensors["a"] = 3.0 + 40 * tensors["a"]
    arguments = [tensors[n] for n in recurrence.arguments]
    found, _ = module().turned_scalar(*arguments, backend="torch")
    loop, _ = module().turned_scalar(*arguments, backend="reference")
    wide = {n: t.double() for n, t in tensors.items()}
    (truth,) = interpret(recurrence, wide).outputs
    assert relative_rms(found, truth) < 3 * relative_rms(loop, truth)
