"""The Triton kernels of the first family, compiled for GPUs that need not be there.

What a kernel needs must fit its target; forward kernels keep everything in registers and use the
matrix units.  And what varies from call to call compiles nothing anew.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from typing import Any

import pytest

from scandsl.plan.limits import TENSOR_COLUMNS
from tests.generated import ROOT

TRITON = tuple(map(int, pytest.importorskip("triton").__version__.split(".")[:2]))

Target = tuple[str, Any]
SM80, SM90, SM100, GFX942 = ("cuda", 80), ("cuda", 90), ("cuda", 100), ("hip", "gfx942")
SHARED: Mapping[Target, int] = {
    SM80: 163 * 1024,
    SM90: 227 * 1024,
    SM100: 227 * 1024,
    GFX942: 64 * 1024,
}
FAMILY = ("linear_attention", "retnet", "mamba2", "simple_gla")
STRUCTURES = ("linear_attention", "simple_gla")  # with a normaliser, with a decay
DTYPES = ("bfloat16", "float16", "float32")
SIZES = (64, 128, 256)


def ask(requests: Iterable[Mapping[str, Any]]) -> list[Any]:
    """The answers of `tests.aot_kernels`, from a process without the interpreter."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.aot_kernels"],
        input="".join(json.dumps(r) + "\n" for r in requests),
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def request(scan: str, size: int, dtype: str, target: Target, **more: Any) -> dict[str, Any]:
    file = f"examples/{scan}.scan"
    if "/" in scan:
        file, scan = "tests/specs/chunk.scan", scan.split("/")[1]
    return {
        "do": "compile", "file": file, "scan": scan, "size": size, "dtype": dtype,
        "target": target, **more,
    }  # fmt: skip


def faults(
    size: int, dtype: str, target: Target, kernels: Sequence[Mapping[str, Any]]
) -> list[str]:
    """What is wrong with the kernels of one scan."""
    found = []
    for kernel in kernels:
        name = kernel["name"]
        if "failure" in kernel:
            found.append(f"{name}: {kernel['failure'][-400:]}")
            continue
        if kernel["shared_bytes"] > SHARED[target]:
            found.append(f"{name}: {kernel['shared_bytes']} bytes of shared memory")
        if kernel["tensor_columns"] > TENSOR_COLUMNS:
            found.append(f"{name}: {kernel['tensor_columns']} columns of tensor memory")
        if target == SM90 and dtype == "bfloat16" and "_forward_" in name:
            units = kernel["matrix_instructions"]
            if not units.get("HGMMA", 0) and not units.get("HMMA", 0):
                found.append(f"{name}: no matrix instructions, {units}")
    return found


def spills(size: int, dtype: str, target: Target, kernels: Sequence[Mapping[str, Any]]) -> int:
    """Bytes that forward kernels for Hopper spill to memory."""
    if target != SM90 or dtype != "bfloat16" or size > 128:
        return 0
    return sum(k.get("spilled_bytes") or 0 for k in kernels if "_forward_" in k["name"])


def check(scan: str, wanted: Sequence[tuple[int, str, Target]]) -> None:
    answers = ask(request(scan, *point) for point in wanted)
    assert len(answers) == len(wanted)
    bad = {}
    for point, kernels in zip(wanted, answers, strict=True):
        names = {k["name"].rsplit("_", 2)[-2] for k in kernels}
        assert names == {"forward", "backward"}, names
        if found := faults(*point, kernels):
            bad[point] = found
        if spilled := spills(*point, kernels):
            bad[point] = [*bad.get(point, []), f"spills {spilled} bytes"]
    assert not bad, bad


@pytest.mark.parametrize("scan", FAMILY)
def test_kernels_compile_for_hopper(scan: str) -> None:
    check(scan, [(64, "bfloat16", SM90), (128, "bfloat16", SM90)])


FIRST = ("gated_delta_rule", "kimi_delta_attention", "gla", "hgrn2", "rwkv6")
REST = (
    "delta_net", "conv_gated_delta_rule", "gated_delta_net", "mlstm", "mlstm_sigmoid", "rwkv7",
    "delta_product", "xpos_retention", "delta_net_block", "gated_slot_attention", "mamba3",
    "gated_oja_rule", "based",
)  # fmt: skip
SIZED = {"based": {"sizes": {"K": 16, "V": 128}}}  # a state of K x K x V: as in its paper
WIDE_PRODUCTS = {
    "delta_net", "conv_gated_delta_rule", "gated_delta_net", "xpos_retention", "rwkv7",
    "delta_product",
}  # fmt: skip


def forward(scan: str) -> list[dict[str, Any]]:
    """The forward kernels of an example for Hopper, at the size of real models."""
    (kernels,) = ask(
        [request(scan, 128, "bfloat16", SM90, only="_forward_", **SIZED.get(scan, {}))]
    )
    assert kernels and not faults(128, "bfloat16", SM90, kernels), kernels
    return list(kernels)


@pytest.mark.parametrize("scan", [*FIRST, *REST])
def test_forward_kernels_spill_nothing(scan: str) -> None:
    for kernel in forward(scan):
        known = 8 if kernel["name"] == "_rwkv7_forward_scan" and TRITON == (3, 6) else 0
        assert kernel["spilled_bytes"] <= known, kernel
        wide = scan in (*FIRST, *WIDE_PRODUCTS)
        assert kernel["matrix_instructions"].get("HGMMA", 0) > 0 or not wide, kernel


@pytest.mark.parametrize("scan", ["linear_attention", "mlstm"])
def test_wide_heads_fit(scan: str) -> None:
    """A normaliser's adjoint, which looks at all of a row, leaves the state cut as any other."""
    (kernels,) = ask([request(scan, 256, "bfloat16", SM90)])
    assert kernels and not faults(256, "bfloat16", SM90, kernels)


def test_several_updates_in_a_step_fit() -> None:
    (kernels,) = ask([request("delta_product", 128, "bfloat16", SM90, only="_backward_")])
    assert len(kernels) == 3 and not faults(128, "bfloat16", SM90, kernels)


SLOW = [pytest.param(x, marks=pytest.mark.slow) for x in ("delta_net", "conv_gated_delta_rule")]


@pytest.mark.parametrize("scan", ["gated_delta_rule", *SLOW])
def test_shipped_launches_are_found(scan: str) -> None:
    """Without them the compiler gives up on registers: `launches.json` knows these structures."""
    (kernels,) = ask([request(scan, 256, "bfloat16", SM90)])
    assert kernels and not faults(256, "bfloat16", SM90, kernels)
    for kernel in kernels:
        assert kernel["registers"] > 32 and kernel["spilled_bytes"] < 4096, kernel
        assert kernel["matrix_instructions"].get("HGMMA", 0) > 0, kernel


@pytest.mark.parametrize("scan", ["hgrn2", pytest.param("delta_product", marks=pytest.mark.slow)])
def test_shipped_launches_fit_tensor_memory(scan: str) -> None:
    """Without them kernels are compiled to a stop, as Triton does with what does not fit."""
    (kernels,) = ask([request(scan, 128, "bfloat16", SM100, only="_backward_")])
    assert kernels and not faults(128, "bfloat16", SM100, kernels)
    assert all(k["matrix_instructions"].get("UTCHMMA", 0) > 0 for k in kernels), kernels


@pytest.mark.parametrize("scan", STRUCTURES)
def test_one_of_each_structure_compiles_elsewhere(scan: str) -> None:
    check(scan, [(64, "bfloat16", target) for target in (SM80, SM100, GFX942)])


def test_sums_of_sums_compile_for_blackwell() -> None:
    """A gradient per token, a sum over its entries, is summed again for the heads' params."""
    check("mamba2", [(64, "bfloat16", SM100)])


def test_crowded_kernels_find_registers_on_blackwell() -> None:
    """With four warps ptxas gives up on it: the rule has eight for this target alone."""
    here, there = ask(
        request("gated_delta_net", 64, "bfloat16", target, only="_backward_chunk")
        for target in (SM90, SM100)
    )
    assert [k["warps"] for k in (*here, *there)] == [4, 8]
    assert not faults(64, "bfloat16", SM100, there)


def test_hopper_s_matrix_units_are_used() -> None:
    (kernels,) = ask([request("simple_gla", 128, "bfloat16", SM90)])
    for kernel in kernels:
        assert kernel["matrix_instructions"].get("HGMMA", 0) > 0, kernel


# Sizes of real models: what is carried stays in registers on the way forward.
STEPS = (("gated_delta_rule", 128), ("rwkv7", 128), ("mlstm", 128), ("lstm", 128))
STRIPPED = ("lstm", "hippo_legs")  # whose matrices are read in strips
LARGE = [pytest.param(*x, marks=pytest.mark.slow) for x in (("lstm", 512), ("hippo_legs", 256))]


@pytest.mark.parametrize(("scan", "size"), [*STEPS, *LARGE])
def test_kernels_over_time_keep_what_is_carried_in_registers(scan: str, size: int) -> None:
    ((forward, backward),) = ask([request(scan, size, "bfloat16", SM90, form="sequential")])
    assert "failure" not in forward and "failure" not in backward, (forward, backward)
    assert forward["spilled_bytes"] == 0, forward
    assert scan not in STRIPPED or backward["spilled_bytes"] == 0, backward


# States that move entry by entry: channels are heads, or a dimension.
ENTRIES = (
    ("mamba", 16, {"heads": 1536, "single": ("B", "C")}),
    ("rg_lru", 2560, {"heads": 1}),
    ("min_lstm", 1024, {"heads": 1}),
)


@pytest.mark.parametrize(
    "target",
    [t if t == SM90 else pytest.param(t, marks=pytest.mark.slow) for t in SHARED],
    ids=lambda t: str(t[1]),
)
def test_states_entry_by_entry_stay_on_chip_at_the_sizes_of_models(target: Target) -> None:
    calls = [request(scan, size, "bfloat16", target, **how) for scan, size, how in ENTRIES]
    for forward, backward in ask(calls):
        assert "failure" not in forward and "failure" not in backward, (forward, backward)
        assert target != SM90 or forward["spilled_bytes"] == 0, forward


# All other examples whose kernels go token by token, at sizes of models.
ROWS = {"heads": 1}
STATES = {"sizes": {"D": 512, "N": 64}, "heads": 1}
OTHERS: dict[str, tuple[int, dict[str, Any]]] = {
    "min_gru": (1024, ROWS), "exponential_moving_average": (1024, ROWS), "hgrn": (1024, ROWS),
    "decayed_max": (1024, ROWS), "holt": (1024, ROWS), "rwkv4": (1024, ROWS),
    "short_convolution": (1024, ROWS), "log_sum_exp": (8, {"heads": 64}),
    "mega_moving_average": (16, {"sizes": {"D": 1024, "N": 16}, "heads": 1}),
    "s4d": (64, STATES), "h3": (64, STATES), "s4": (64, STATES),
    "s5": (64, {"sizes": {"M": 512, "N": 256}, "heads": 1}),
    "lru": (64, {"sizes": {"P": 512, "N": 512}, "heads": 1}),
    "linoss": (64, {"sizes": {"P": 128, "N": 128}, "heads": 1}),
    "elman_rnn": (128, {"heads": 8}), "gru": (128, {"heads": 8}), "lstm": (128, {"heads": 8}),
    "slstm": (128, {"heads": 8}), "kalman_filter": (16, {}), "hippo_legs": (64, {}),
    "linear_state_space": (64, {}), "rational_transfer_function": (8, {"heads": 64}),
    "seasonal_autoregression": (8, {"heads": 64}), "titans": (64, {}), "ttt_linear": (64, {}),
    "ttt_mlp": (64, {"sizes": {"K": 64, "V": 64, "M": 256}}),
}  # fmt: skip


def other_faults(scans: Iterable[str], target: Target) -> list[str]:
    """What is wrong with the kernels of these examples for a target."""
    names = list(scans)
    sized = {name: OTHERS[name] for name in names}
    calls = [request(n, size, "bfloat16", target, **how) for n, (size, how) in sized.items()]
    found = []
    for name, kernels in zip(names, ask(calls), strict=True):
        ways = [k["name"].endswith("backward") for k in kernels]
        if ways != [False, True]:
            found.append(f"{name}: kernels {[k['name'] for k in kernels]}")
        found += [f"{name}: {text}" for text in faults(0, "", target, kernels)]
        local = sum(k.get("spilled_bytes") or 0 for k in kernels[:1])
        if target == SM90 and local:
            found.append(f"{name}: {local} bytes spilled")
    return found


# All kernels of all examples, of small vectors: seconds each.  At the sizes of models the forward
# ones are tested above, the others by the slow tests.
SMALL = 16
PARTS = 4


@pytest.mark.parametrize("part", range(PARTS))
def test_every_backward_in_chunks_compiles_for_hopper(part: int) -> None:
    scans = (*FAMILY, *FIRST, *REST)[part::PARTS]
    answers = ask(request(x, SMALL, "bfloat16", SM90, only="_backward_") for x in scans)
    for scan, kernels in zip(scans, answers, strict=True):
        assert len(kernels) >= 2, scan
        assert not faults(SMALL, "bfloat16", SM90, kernels), scan


@pytest.mark.parametrize("part", range(PARTS))
def test_every_kernel_over_time_compiles_for_hopper(part: int) -> None:
    scans = (*OTHERS, *(e[0] for e in ENTRIES), "ttt_muon")[part::PARTS]
    for scan, kernels in zip(
        scans, ask(request(x, SMALL, "bfloat16", SM90) for x in scans), strict=True
    ):
        assert [k["name"].endswith("backward") for k in kernels] == [False, True], scan
        assert not [k for k in kernels if "failure" in k], scan


def test_a_projected_state_keeps_its_tiles() -> None:
    assert not other_faults(["lru"], SM90)


@pytest.mark.slow
@pytest.mark.parametrize("target", SHARED, ids=lambda t: str(t[1]))
def test_every_kernel_over_time_compiles_at_the_sizes_of_models(target: Target) -> None:
    assert not other_faults(OTHERS, target)


def test_every_example_has_a_test_here() -> None:
    families = {*FAMILY, *FIRST, *REST, *(e[0] for e in ENTRIES), *OTHERS, "ttt_muon"}
    assert families == {p.stem for p in (ROOT / "examples").glob("*.scan")}


@pytest.mark.parametrize("target", [SM80, SM100, GFX942], ids=lambda t: str(t[1]))
def test_kernels_over_time_compile_elsewhere(target: Target) -> None:
    scans = (("gated_delta_rule", 64), ("hgrn", 64), ("kalman_filter", 16))
    for kernels in ask(request(*s, "float32", target, form="sequential") for s in scans):
        assert len(kernels) == 2
        assert not [k for k in kernels if "failure" in k]


@pytest.mark.slow
@pytest.mark.parametrize("target", SHARED, ids=lambda t: f"{t[0]}-{t[1]}")
def test_many_products_of_matrices_fit_on_chip(target: Target) -> None:
    (kernels,) = ask([request("ttt_muon", 64, "float32", target, form="sequential")])
    assert len(kernels) == 2
    for kernel in kernels:
        assert "failure" not in kernel, kernel
        assert kernel["shared_bytes"] <= SHARED[target], kernel


ALL = (*FAMILY, "chunk/reads_everywhere", "chunk/gated_by_matrix", "chunk/resets", "chunk/bonus")


@pytest.mark.slow
@pytest.mark.parametrize("target", SHARED, ids=lambda t: f"{t[0]}-{t[1]}")
@pytest.mark.parametrize("scan", ALL)
def test_all_kernels_fit_every_target(scan: str, target: Target) -> None:
    check(scan, [(size, dtype, target) for size, dtype in product(SIZES, DTYPES)])


@pytest.mark.slow
@pytest.mark.parametrize("target", SHARED, ids=lambda t: f"{t[0]}-{t[1]}")
@pytest.mark.parametrize("scan", [*FIRST, *REST])
def test_kernels_of_chunked_examples_fit_every_target(scan: str, target: Target) -> None:
    (kernels,) = ask([request(scan, 64, "bfloat16", target, **SIZED.get(scan, {}))])
    assert kernels and not faults(64, "bfloat16", target, kernels), kernels


# ---------------------------------------------------------------- what compiles a kernel anew


SHAPES = [
    {"time": t, "batch": b, "heads": h}
    for t, b, h in ((1, 1, 1), (16, 1, 2), (64, 2, 3), (65, 3, 1), (257, 1, 16), (1000, 2, 1))
]
PACKINGS = [{"lengths": x} for x in ((1,), (64, 0, 17), (5, 5, 5, 5, 5, 300))]
# Gradients of shared heads are kept in float32 until they are summed: kernels of their own.
GROUPS = [{"time": t, "heads": h, "own": o} for t, h, o in ((64, 4, 1), (33, 4, 2), (7, 2, 1))]
CALLS = (("simple_gla", "bfloat16"), ("mamba2", "float32"), ("linear_attention", "float16"))


@pytest.mark.parametrize("size", [3, 128])
def test_a_change_of_t_b_or_h_compiles_nothing(size: int) -> None:
    series = [(*call, group) for call in CALLS for group in (SHAPES, PACKINGS, GROUPS)]
    answers = iter(
        ask(
            request(scan, size, dtype, SM90, **shape) | {"do": "keys"}
            for scan, dtype, group in series
            for shape in group
        )
    )
    for scan, _, group in series:
        found = [next(answers) for _ in group]
        count = 4 if scan == "linear_attention" else 3  # the normaliser's numbers are prepared
        assert all(len(keys) == count for keys in found)
        different = {key for keys in found for key in keys}
        assert len(different) == count, _first_difference(found)


def _first_difference(found: Sequence[Sequence[str]]) -> str:
    for keys in found[1:]:
        for one, two in zip(found[0], keys, strict=True):
            words = [(a, b) for a, b in zip(one.split(), two.split(), strict=False) if a != b]
            if words:
                return f"{one.split()[0]}: {words}"
    return "none"


def test_another_size_is_another_kernel() -> None:
    """The keys are not blind: sizes and dtypes are part of them."""
    found = ask(
        request("simple_gla", size, dtype, SM90) | {"do": "keys"}
        for size, dtype in ((64, "bfloat16"), (65, "bfloat16"), (64, "float32"))
    )
    assert len({key for keys in found for key in keys}) == sum(map(len, found))


# ---------------------------------------------------------------- explain


def explained(*options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    return subprocess.run(
        [sys.executable, "-m", "scandsl", "explain", "examples/simple_gla.scan", *options],
        capture_output=True, text=True, cwd=ROOT, env={**kept, **environment}, timeout=300,
    )  # fmt: skip


def test_explain_reads_the_binaries() -> None:
    (found,) = json.loads(explained("--json", "--target", "sm_90").stdout)
    forward = next(k for k in found["binaries"] if k["name"].endswith("forward_scan"))
    assert forward["spilled_bytes"] == 0 and 0 < forward["registers"] <= 255
    assert forward["matrix_instructions"]["HGMMA"] > 0 and forward["shared_bytes"] > 0
    assert len(found["binaries"]) == 3


def test_explain_says_why_there_are_no_binaries() -> None:
    wrong = explained("--target", "sm_fast")
    assert wrong.returncode == 2 and "unknown target 'sm_fast'" in wrong.stderr
    off = explained("--target", "sm_90", TRITON_INTERPRET="1")
    assert off.returncode == 2 and "TRITON_INTERPRET" in off.stderr
