"""Nothing depends on names: renaming the identifiers of a spec renames, and nothing else."""

from __future__ import annotations

import json
import keyword
import random
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import torch

from scandsl.analysis.report import report
from scandsl.diagnostics import Source
from scandsl.driver import Compilation, Options, compile_source
from scandsl.kernels.backward import backward_program
from scandsl.kernels.chunk import chunk_program
from scandsl.render.names import MODULE_NAMES, SIGNATURE_NAMES
from scandsl.testing.compare import Case, runs
from scandsl.testing.data import Layout
from tests.generated import EXAMPLES, ROOT, imported
from tests.renaming import WORDS, differing, identifiers, neutral, renamed, short

CHUNK_SPECS = ROOT / "tests/specs/chunk.scan"


def _compiled(text: str) -> Compilation:
    return compile_source(Source("spec.scan", text), Options())


def _scans(path: Path) -> list[str]:
    """The scans of a file, each a text of its own with the file's functions."""
    parts = re.split(r"^(?=scan |fn )", path.read_text(encoding="utf-8"), flags=re.M)
    functions = "".join(p for p in parts if p.startswith("fn "))
    return [functions + p for p in parts if p.startswith("scan ")]


def _name(text: str) -> str:
    return re.findall(r"^scan (\w+)", text, re.M)[0]


TEXTS = [text for path in (*EXAMPLES, CHUNK_SPECS) for text in _scans(path)]


# ---------------------------------------------------------------- the same but for names


def _stages(found: Compilation) -> str:
    """Analysis, plan and chunk programs as text."""
    parts = []
    for plan in found.plans:
        recurrence = plan.program.recurrence
        parts += [json.dumps(report(plan.program)), f"{plan.form} {plan.chunk} {plan.reason}"]
        if plan.form.value == "chunk":
            forward = chunk_program(plan.program)
            backward = backward_program(forward, recurrence.inputs, recurrence.params)
            parts += [repr(forward), repr(backward)]
    return "\n".join(parts)


def _mapped(text: str, names: Mapping[str, str], to: Mapping[str, str]) -> str:
    """Neutral names exchanged for others of the same length, wherever they are part of a word."""
    pairs = {names[n]: to[n] for n in names} | {
        names[n].capitalize(): to[n].capitalize() for n in names
    }
    pairs |= {names[n].upper(): to[n].upper() for n in names}
    text = re.sub("|".join(pairs), lambda m: pairs[m[0]], text)
    return re.sub(r"_z[ab][0-9]?\b", "_z", text)  # long names are cut, in the middle of these


def _without_listing(module: str) -> str:
    """A module without its hash and the sorted list of its names."""
    module = re.sub(r"^__all__ = \[.*?^\]\n", "", module, flags=re.M | re.S)
    module = re.sub(r"^# .*\n", "", module, flags=re.M)  # the spec itself, cut at the width
    return re.sub(r"^sha256 .*$|_[0-9a-f]{16}", "", module, flags=re.M)


@pytest.mark.parametrize("text", TEXTS, ids=_name)
def test_renaming_changes_nothing_but_names(text: str) -> None:
    rising, falling = neutral(text, "a"), neutral(text, "b", falling=True)
    one, two = _compiled(renamed(text, rising)), _compiled(renamed(text, falling))
    assert _mapped(_stages(two), falling, rising) == _stages(one)
    module = _mapped(_without_listing(two.module), falling, rising)
    expected = _mapped(_without_listing(one.module), rising, rising)
    assert module.splitlines() == expected.splitlines()


@pytest.mark.parametrize("text", TEXTS, ids=_name)
def test_the_author_s_names_mean_nothing(text: str) -> None:
    """The module of the spec as written is that of neutral names, up to a one-to-one map."""
    plain = _compiled(renamed(text, {})).module
    assert differing(plain, _compiled(renamed(text, short(text))).module) is None


def test_a_difference_is_seen() -> None:
    one = "def f(a, b):\n    return a - b\n"
    assert differing(one, "def g(x, y):\n    return x - y\n") is None
    assert differing(one, "def g(x, y):\n    return y - x\n") is not None
    assert differing(one, "def g(x, y):\n    return x + y\n") is not None
    assert differing(one, "def g(x, y):\n    return x - x\n") is not None


# ---------------------------------------------------------------- hostile names

# Names that generated code uses itself, with and without its prefixes; keywords; Greek and others.
HOSTILE = """
    chunks heads dtype torch triton tl i row token q_rows x0 x1 x2 S_at size_K BLOCK_K CHUNK
    CHUNKS kept_S d_q start_S out_o end_S d_end_S grad_q grad_k carry_S n h step carried kept
    ends saved device save seq tile first count chunk length begin first_chunk position rest
    part part_1 o_K in_K tile_K tiles_K PACKED DOT PRECISION TOKENS HEADS HAS_start_S heads_q
    S_seq start_S_ptr q_ptr part_q starts_ptr counts_ptr packed batch tokens total grid
    vectors dot kept_dtype precision chunk_size gradients q_heads rows d_o_rows math os Any
    NamedTuple Tensor size data shape self cls args kwargs state initial_state
    output_final_state cu_seqlens backend group check allow_tf32 None_ start_t class def
    lambda return if else while try pass None True False is import global yield async await β
    Δ λ α_rows Γ_t größe x x_ x__ d_ d_d_q q_ S_ S__ K_ float range len max_ zip print object
    scan_ reference forward backward triton_forward chunk_forward carry form sizes dim count_
    index
""".split()


def _allowed() -> list[str]:
    return [x for x in dict.fromkeys(HOSTILE) if x not in WORDS]


def hostile(text: str, seed: int) -> dict[str, str]:
    """New names for all of a spec, drawn from the hostile ones."""
    found = identifiers(text)
    return dict(zip(found, random.Random(seed).sample(_allowed(), len(found)), strict=True))


def _bad_runs(text: str, folder: Path, backends: Sequence[str]) -> list[str]:
    found = _compiled(text)
    module = imported(found.module, folder, "hostile")
    (recurrence,) = found.front.recurrences
    own = {name: (2, 1)[i % 2] for i, name in enumerate(recurrence.arguments)}
    case = Case("hostile", Layout(lengths=(3, 0, 17), heads=2, own_heads=own), carried=True)
    made = list(runs(recurrence, module, (case,), only=backends, dtypes=(torch.float32,)))
    assert {r.backend for r in made} == set(backends) & set(module.BACKENDS)
    return [f"{r.backend}: {r.failure or r.worst()}" for r in made if not r.ok]


CHUNKED = [t for t in TEXTS if _compiled(t).plans[0].form.value == "chunk"]
OTHERS = [t for t in TEXTS if t not in CHUNKED]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize(
    "seed", [0, 1, *(pytest.param(s, marks=pytest.mark.slow) for s in range(2, 8))]
)
@pytest.mark.parametrize("text", CHUNKED, ids=_name)
def test_hostile_names_in_chunks(text: str, seed: int, tmp_path: Path) -> None:
    names = hostile(text, seed)
    bad = _bad_runs(renamed(text, names), tmp_path, ("torch", "triton", "reference"))
    assert not bad, (names, bad)


@pytest.mark.parametrize("text", OTHERS, ids=_name)
def test_hostile_names_elsewhere(text: str, tmp_path: Path) -> None:
    names = hostile(text, 1)
    bad = _bad_runs(renamed(text, names), tmp_path, ("torch", "reference"))
    assert not bad, (names, bad)


# The names most likely to clash stand in every place of one spec in turn.
SPEC = """\
scan z:
    input q[K], k[K], v[V], g in (-inf, 0]
    param w[K]
    scalar scale = K ** -0.5
    state S[K, V], m[K]
    local = exp(g)
    S = local * S + k * v
    m += k * w
    output o[V] = scale * (q @ S)
    output p = q @ m
"""
PLACES = ("q", "K", "V", "g", "w", "scale", "S", "m", "local", "o", "z")


SWEEP = [(x, place) for x in _allowed() for place in PLACES if x not in identifiers(SPEC)]


@pytest.mark.parametrize("part", range(4))
def test_a_hostile_name_in_each_place_is_python(part: int) -> None:
    """A sample of all; `make test-all` also runs all of them."""
    for x, place in random.Random(part).sample(SWEEP, 60):
        compile(_compiled(renamed(SPEC, {place: x})).module, f"{x}_as_{place}.py", "exec")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize(("name", "place"), SWEEP)
def test_every_hostile_name_in_every_place(name: str, place: str, tmp_path: Path) -> None:
    bad = _bad_runs(renamed(SPEC, {place: name}), tmp_path, ("torch", "triton", "reference"))
    assert not bad, bad


@pytest.mark.parametrize("name", ["part", "size", "heads", "HAS", "BLOCK", "grid", "length"])
def test_a_scalar_called_like_the_start_of_a_kernel_s_argument(name: str) -> None:
    compile(_compiled(renamed(SPEC, {"scale": name})).module, "module.py", "exec")


def test_hostile_names_are_what_they_claim() -> None:
    used = set(re.findall(r"\w+", _compiled(SPEC).module))
    assert len(used & set(_allowed())) > 80
    assert any(keyword.iskeyword(x) for x in _allowed())
    assert set(_allowed()) & MODULE_NAMES
    assert set(_allowed()) & SIGNATURE_NAMES
