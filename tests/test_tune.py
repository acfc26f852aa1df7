"""Measured launches: the file, what is baked into modules, and how candidates are tried."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from click.testing import CliRunner

import scandsl
from scandsl.bench.inputs import realistic, sizes_for
from scandsl.cli import main
from scandsl.driver import OptionError, Options, check, compile_source, plan
from scandsl.explain import explanation, lines
from scandsl.loader import cached_module, import_file, read_launches, read_source
from scandsl.plan.launches import (
    FORMAT,
    Config,
    Measured,
    Table,
    TableError,
    as_data,
    digest,
    entries_of,
    joined,
    parse,
    shipped,
)
from scandsl.render.form import Site
from scandsl.render.module import sites_of
from scandsl.testing.aot import Launch, record
from scandsl.tune import session as tune_session
from scandsl.tune.bench import Bench, Shape
from scandsl.tune.search import Trial, search
from scandsl.tune.space import DRY, FULL, Space, configs, count
from tests.generated import ROOT
from tests.renaming import neutral, renamed

pytest.importorskip("triton")
EXAMPLES = ROOT / "examples"
PATH = EXAMPLES / "gated_delta_rule.scan"
OPEN = Table(open=True)
CHOSEN = {
    "forward_scan": Config(16, 8, 3), "backward_carry": Config(16, None, 1),
    "backward_chunk": Config(32, 2, None),
}  # fmt: skip


def _sites(path: Path) -> tuple[Site, ...]:
    source = read_source(path)
    (one,) = compile_source(source, Options(launches=OPEN)).plans
    return sites_of(one, source)


def _entry(path: Path, arch: str = "interpreter", chunk: int | None = 16) -> Measured:
    """Launches that no rule would choose, at sizes of 32."""
    return Measured(arch, _sites(path)[0].structure, "bfloat16", (32, 32), chunk, CHOSEN)


def _file(folder: Path, *entries: Measured) -> Path:
    file = folder / "launches.json"
    data = {"format": FORMAT, "launches": [as_data(x) for x in entries]}
    file.write_text(json.dumps(data), encoding="utf-8")
    return file


def _given(size: int = 32, time: int = 40, dtype: torch.dtype = torch.bfloat16) -> list[Any]:
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, time, 2, size) for _ in range(3))
    k = torch.nn.functional.normalize(k, dim=-1)
    g, beta = -torch.rand(1, time, 2), torch.rand(1, time, 2)
    return [x.to(dtype).requires_grad_() for x in (q, k, v, g, beta)]


def _launched(module: ModuleType, given: list[Any], **options: Any) -> dict[str, Launch]:
    def call() -> None:
        out, _ = module.gated_delta_rule(*given, backend="triton", **options)
        out.backward(torch.ones_like(out))

    found = record(module, call)
    return {x.function.__name__.removeprefix("_gated_delta_rule_"): x for x in found}


# ---------------------------------------------------------------- structures


def test_a_structure_has_no_names_in_it(tmp_path: Path) -> None:
    text = PATH.read_text(encoding="utf-8")
    words = set()
    for letter, falling in (("a", False), ("b", True)):
        file = tmp_path / f"{letter}.scan"
        file.write_text(renamed(text, neutral(text, letter, falling)), encoding="utf-8")
        words.add(_sites(file)[0].structure)
    assert words == {_sites(PATH)[0].structure}


def test_structures_tell_scans_apart(tmp_path: Path) -> None:
    text = PATH.read_text(encoding="utf-8")
    other = tmp_path / "other.scan"
    other.write_text(text.replace("exp(g)", "sigmoid(g)"), encoding="utf-8")
    names = ("gated_delta_rule", "simple_gla", "gla", "kimi_delta_attention", "retnet", "hgrn2")
    found = [s.structure for n in names for s in _sites(EXAMPLES / f"{n}.scan")]
    found += [s.structure for s in _sites(other)]
    assert len({*found}) == len(found) == 7


def test_a_site_names_the_kernels_of_all_schedules() -> None:
    (site,) = _sites(PATH)
    assert {k.name: (k.cut, k.walks) for k in site.kernels} == {
        "forward_prepare": ((), False),
        "forward_scan": (("V",), True),
        "forward_carry": (("V",), True),
        "forward_chunk": (("V",), False),
        "backward_prepare": ((), False),
        "backward_carry": (("V",), True),
        "backward_chunk": (("V",), False),
    }


def test_the_stages_of_a_chain_have_sites() -> None:
    assert [s.table for s in _sites(EXAMPLES / "conv_gated_delta_rule.scan")] == [
        "_CONV_GATED_DELTA_RULE_STAGE2_TUNED"
    ]


# ---------------------------------------------------------------- files


def test_what_is_shipped_can_be_read() -> None:
    assert isinstance(shipped(), Table)


def test_a_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    entry = _entry(PATH)
    assert read_launches(_file(tmp_path, entry)).entries == (entry,)


def _broken() -> list[tuple[str, str, str]]:
    good = as_data(Measured("sm_90", "ab", "bfloat16", (64,), 32, {"scan": Config(64, 4, 2)}))

    def text(**changes: Any) -> str:
        return json.dumps({"format": FORMAT, "launches": [{**good, **changes}]})

    return [
        ("not JSON", "scan x:", "no file of `scandsl tune`"),
        ("empty", "", "no file of `scandsl tune`"),
        ("a list", "[]", f'it does not say "{FORMAT}"'),
        ("foreign", '{"launches": []}', f'it does not say "{FORMAT}"'),
        ("later", '{"format": "scandsl launches 2"}', f'it does not say "{FORMAT}"'),
        ("no launches", json.dumps({"format": FORMAT}), "`launches` must be a list"),
        ("no table", json.dumps({"format": FORMAT, "launches": [3]}), "launches[0]: expected a"),
        ("unknown", text(tile=3), "launches[0]: unknown key `tile`; known are arch, chunk"),
        ("dtype", text(dtype="float64"), "launches[0].dtype: expected one of bfloat16, float32"),
        ("arch", text(arch=90), "launches[0].arch: expected a word, got 90"),
        ("sizes", text(sizes=[0]), "launches[0].sizes: expected whole numbers, got [0]"),
        ("chunk", text(chunk=48), "launches[0].chunk: expected a power of two from 16 to 256"),
        ("kernels", text(kernels=[]), "launches[0].kernels: expected a table"),
        ("tile", text(kernels={"a": {"tile": 8}}), "kernels.a.tile: expected a power of two"),
        ("warps", text(kernels={"a": {"warps": True}}), "kernels.a.warps: expected a power"),
        ("stages", text(kernels={"a": {"stages": 99}}), "kernels.a.stages: expected 1 to 8"),
        ("key", text(kernels={"a": {"warp": 4}}), "kernels.a: unknown key `warp`"),
    ]


@pytest.mark.parametrize(("name", "text", "words"), _broken(), ids=[n for n, *_ in _broken()])
def test_a_broken_file_says_what_is_wrong(name: str, text: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(TableError) as found:
        parse(text, "x.json")
    assert str(found.value).startswith("x.json: ") or "x.json: launches" in str(found.value)
    assert words in str(found.value)
    file = tmp_path / "launches.json"
    file.write_text(text, encoding="utf-8")
    done = CliRunner().invoke(main, ["compile", str(PATH), "--tuned", str(file)])
    assert done.exit_code == 2
    assert words.split("[")[0] in " ".join(done.output.split())


def test_two_entries_for_the_same_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"launches\[1\] is for the same as an earlier one"):
        read_launches(_file(tmp_path, _entry(PATH), _entry(PATH)))


def test_the_users_entries_come_before_others() -> None:
    mine, theirs = _entry(PATH), replace(_entry(PATH), chunk=64)
    other = replace(theirs, arch="sm_90")
    found = joined(Table((mine,)), Table((theirs, other)))
    assert entries_of(found, mine.structure) == (mine, other)
    assert digest([mine, other]) == digest([other, mine]) != digest([theirs, other])


# ---------------------------------------------------------------- modules


def test_modules_launch_as_measured(tmp_path: Path) -> None:
    module = scandsl.load(PATH, tuned=_file(tmp_path, _entry(PATH)))
    found = _launched(module, _given())
    scan, carry, chunk = (found[n] for n in CHOSEN)
    assert (scan.warps, scan.stages, scan.arguments["BLOCK_V"]) == (8, 3, 16)
    assert (carry.warps, carry.stages, carry.arguments["BLOCK_V"]) == (4, 1, 16)
    assert (chunk.warps, chunk.stages, chunk.arguments["BLOCK_V"]) == (2, 1, 32)
    assert {x.arguments["CHUNK"] for x in found.values()} == {16}
    assert scan.grid == (1, 2, 2)


@pytest.mark.parametrize("change", [{"size": 16}, {"dtype": torch.float32}])
def test_other_calls_go_by_rule(change: dict[str, Any], tmp_path: Path) -> None:
    module = scandsl.load(PATH, tuned=_file(tmp_path, _entry(PATH), _entry(PATH, "sm_90")))
    plain = scandsl.load(PATH)
    given = _given(**change)
    for name, launch in _launched(module, given).items():
        other = _launched(plain, given)[name]
        assert (launch.grid, launch.warps, launch.stages) == (
            other.grid, other.warps, other.stages,
        )  # fmt: skip
        assert launch.arguments["CHUNK"] == other.arguments["CHUNK"]


@pytest.mark.parametrize("segments", [None, 16])
@pytest.mark.parametrize("packed", [False, True])
def test_measured_launches_give_the_same_results(
    packed: bool, segments: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also packed, and with long sequences cut, whose kernels are others."""
    module = scandsl.load(PATH, tuned=_file(tmp_path, replace(_entry(PATH), dtype="float32")))
    monkeypatch.setattr(module, "_SEGMENT_TOKENS", segments)
    given = _given(dtype=torch.float32)
    cu = torch.tensor([0, 5, 5, 40]) if packed else None
    results = []
    for backend in ("triton", "torch"):
        out, end = module.gated_delta_rule(
            *given, backend=backend, cu_seqlens=cu, output_final_state=True
        )
        results.append((out, end, *torch.autograd.grad((out * out).sum() + end.sum(), given)))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, atol=2e-4, rtol=2e-3)


def test_a_stage_of_a_chain_launches_as_measured(tmp_path: Path) -> None:
    path = EXAMPLES / "mlstm.scan"
    (site,) = (s for s in _sites(path) if s.chunked)
    entry = Measured("interpreter", site.structure, "float32", (16, 16), 16, {})
    module = scandsl.load(path, tuned=_file(tmp_path, entry))
    q, k, v = (torch.randn(1, 40, 1, 16, requires_grad=True) for _ in range(3))
    i, f = (torch.randn(1, 40, 1, requires_grad=True) for _ in range(2))
    out, _ = module.mlstm(q, k, v, i, f, backend="triton")
    true, _ = module.mlstm(q, k, v, i, f, backend="torch")
    torch.testing.assert_close(out, true, atol=1e-4, rtol=1e-3)
    kept = record(module, lambda: module.mlstm(q, k, v, i, f, backend="triton"))
    assert {x.arguments["CHUNK"] for x in kept if "CHUNK" in x.arguments} == {16}


@pytest.mark.parametrize("name", ["mamba", "lru", "hgrn"])
def test_kernels_over_time_launch_as_measured(name: str, tmp_path: Path) -> None:
    """Whatever is computed in front of them: with another tile, and the same results."""
    path = EXAMPLES / f"{name}.scan"
    (recurrence,) = check(read_source(path)).recurrences
    (site,) = _sites(path)
    assert [k.name for k in site.kernels] == ["steps_kernel", "steps_kernel_backward"]
    sizes = sizes_for(recurrence, 16, 16)
    configs = {"steps_kernel": Config(None, 1, None, 8), "steps_kernel_backward": Config(None, 2)}
    own = (16,) * len(site.dims)
    entry = Measured("interpreter", site.structure, "float32", own, None, configs)
    module = scandsl.load(path, tuned=_file(tmp_path, entry))
    made = realistic(recurrence, sizes, (1, 20, 2), torch.float32)
    given = [x.requires_grad_() for x in made.values()]

    def call(backend: str) -> list[torch.Tensor]:
        *outputs, _ = getattr(module, name)(*given, backend=backend)
        total = sum(x.real.sum() for x in outputs)
        grads = torch.autograd.grad(total, given, allow_unused=True)
        return [*outputs, *(g for g in grads if g is not None)]

    found = record(module, lambda: call("triton"))
    assert [x.warps for x in found] == [1, 2]
    for a, b in zip(call("triton"), call("torch"), strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-3)


def test_compile_bakes_launches_in(tmp_path: Path) -> None:
    entries = (_entry(PATH), _entry(PATH, "sm_90", None), replace(_entry(PATH), structure="other"))
    own = entries_of(joined(Table(entries), shipped()), entries[0].structure)
    texts = []
    for number, order in enumerate((entries, entries[::-1])):
        folder = tmp_path / str(number)
        folder.mkdir()
        file = _file(folder, *order)
        command = ["compile", str(PATH), "--out", str(folder), "--tuned", str(file)]
        done = CliRunner().invoke(main, command)
        assert done.exit_code == 0, done.output
        texts.append((folder / "gated_delta_rule.py").read_text(encoding="utf-8"))
        assert CliRunner().invoke(main, [*command, "--check"]).exit_code == 0
    assert texts[0] == texts[1]
    head = "Launches measured on interpreter, sm_90; sha256 of their table: "
    assert head + digest(own) in texts[0]
    assert '("sm_90", "bfloat16", 32, 32): _Tuned(' in texts[0]
    for forbidden in ("import json", "open(", "autotune"):
        assert forbidden not in texts[0]


def test_a_module_without_measured_launches_looks_nothing_up() -> None:
    text = compile_source(read_source(EXAMPLES / "simple_gla.scan"), Options()).module
    assert "_tuned" not in text and "_Tuned" not in text and "Launches measured" not in text


@pytest.mark.parametrize("name", ["gated_delta_rule", "mlstm", "lru"])
def test_generated_text_with_launches_is_clean(name: str, tmp_path: Path) -> None:
    pytest.importorskip("ruff")
    path = EXAMPLES / f"{name}.scan"
    entries = tuple(replace(_entry(PATH), structure=s.structure) for s in _sites(path))
    file = tmp_path / f"{name}.py"
    text = compile_source(read_source(path), Options(launches=Table(entries))).module
    file.write_text(text, encoding="utf-8")
    for command in (["check", "--select", "E,F,W,I,UP", "--ignore", "E501"], ["format", "--check"]):
        run = [sys.executable, "-m", "ruff", *command, "--line-length", "88", str(file)]
        done = subprocess.run(run, capture_output=True, text=True, check=False, cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr


def test_explain_shows_measured_launches() -> None:
    source = read_source(PATH)
    _, (one,) = plan(source, Options(launches=Table((_entry(PATH),))))
    text = "\n".join(lines(one, source))
    assert "measured on interpreter, bfloat16, 32 x 32; chunks of 16:" in text
    assert "forward_scan: tile 16 warps 8 stages 3" in text
    half = "32 in float32 on sm_100 to sm_110"
    warps = "4 warps (8 from 4,096 numbers of a tile on)"
    assert f"launched with tiles of 64 ({half}), {warps}" in text
    kernels = explanation(one, source)["kernels"]
    assert as_data(_entry(PATH)) in kernels["measured"]
    assert kernels["forward"]["launched"]["scan"] == {
        "tile": "walk", "least": 4096, "stages": 2, "apart": 4096, "full": False,
    }  # fmt: skip


# ---------------------------------------------------------------- the search


@pytest.fixture(scope="module")
def bench() -> Bench:
    (recurrence,) = compile_source(read_source(PATH), Options()).front.recurrences
    file = cached_module(PATH, Options(launches=OPEN))
    module = import_file(file, f"scandsl_cache.{file.stem}")
    shape = Shape(1, 20, 1, judged=20, rounds=1)
    return Bench(recurrence, module, {"K": 32, "V": 32}, shape, torch.float32, "cpu")


SMALL = Space(chunks=(None, 16), tiles=(16, 32), warps=(4,), stages=(1,))
SIZES = {"K": 32, "V": 32}


def test_candidates_are_enumerated() -> None:
    (site,) = _sites(PATH)
    scan = next(k for k in site.kernels if k.name == "forward_scan")
    prepare = next(k for k in site.kernels if k.name == "forward_prepare")
    found = [*configs(scan, SIZES, FULL)]
    assert {x.tile for x in found} == {16, 32}  # a tile of 64 would be the same as of 32
    assert {x.warps for x in found} == {2, 4, 8}
    assert {x.stages for x in found} == {1, 2, 3}
    assert len(found) == len({*found}) == 18
    assert [*configs(prepare, SIZES, DRY)] == [Config(None, 4, None)]
    assert count(site, SIZES, DRY) == sum(len([*configs(k, SIZES, DRY)]) for k in site.kernels)


def test_a_search_tries_all_and_keeps_the_fastest(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    (site,) = _sites(PATH)
    table = getattr(bench.module, site.table)

    def milliseconds() -> float:
        (tuned,) = (x for key, x in table.items() if key[0] == "interpreter")
        scan = tuned.launches.get("forward_scan")
        return 10.0 - (tuned.chunk == 16) - 2 * (scan is not None and scan.tile == 16)

    monkeypatch.setattr(bench, "milliseconds", milliseconds)
    trials: list[Trial] = []
    found = search(bench, site, SIZES, SMALL, lambda launch: None, trials.append)
    assert found is not None and found.trials == tuple(trials)
    assert (found.rule, found.tuned) == (10.0, 7.0)
    assert found.best == Measured(
        "interpreter", site.structure, "float32", (32, 32), 16,
        {"forward_scan": Config(16, 4, 1)},
    )  # fmt: skip
    assert all(t.milliseconds is not None for t in trials)


def test_wrong_candidates_are_refused(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a launch that leaves tiles out, by a planted fault, no time is taken."""
    (site,) = _sites(PATH)
    monkeypatch.setattr(bench.module, "_tiles", lambda *sizes: 1)
    timed: list[int] = []
    monkeypatch.setattr(bench, "milliseconds", lambda: timed.append(1) or float(len(timed)))
    space = replace(SMALL, chunks=(None,))
    found = search(bench, site, SIZES, space, lambda launch: None, lambda trial: None)
    assert found is not None
    narrow = [t for t in found.trials if t.config.tile == 16]
    assert len(narrow) == 3 and len(timed) == 1 + len(found.trials) - 3
    assert all("is wrong by" in (t.reason or "") and t.milliseconds is None for t in narrow)
    assert all(t.reason is None for t in found.trials if t.config.tile != 16)


def test_launches_that_do_not_fit_are_not_tried(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    (site,) = _sites(PATH)
    asked: list[str] = []

    def fits(launch: Launch) -> str | None:
        asked.append(launch.function.__name__)
        wide = launch.arguments.get("BLOCK_V") == 32
        return "needs 1 byte of shared memory, there are 0" if wide else None

    set_to: list[Any] = []
    monkeypatch.setattr(bench, "milliseconds", lambda: 1.0)
    original = bench.fault
    (table,) = {id(x): x for n, x in vars(bench.module).items() if n == site.table}.values()
    monkeypatch.setattr(bench, "fault", lambda: set_to.append(dict(table)) or original())
    space = replace(SMALL, chunks=(None,))
    found = search(bench, site, SIZES, space, fits, lambda trial: None)
    assert found is not None and asked
    wide = [t for t in found.trials if t.config.tile == 32]
    assert wide and all("shared memory" in (t.reason or "") for t in wide)
    assert len(set_to) == 1 + len(found.trials) - len(wide)


def test_candidates_that_raise_are_none(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    (site,) = _sites(PATH)
    monkeypatch.setattr(bench, "milliseconds", lambda: 1.0)

    def fits(launch: Launch) -> str | None:
        raise RuntimeError("out of resources\nmore")

    found = search(bench, site, SIZES, replace(SMALL, chunks=(None,)), fits, lambda trial: None)
    assert found is not None and not found.best.kernels
    assert {t.reason for t in found.trials} == {"RuntimeError: out of resources"}


def test_a_search_of_kernels_over_time(monkeypatch: pytest.MonkeyPatch) -> None:
    path = EXAMPLES / "mamba.scan"
    (site,) = _sites(path)
    (recurrence,) = check(read_source(path)).recurrences
    file = cached_module(path, Options(launches=OPEN))
    module = import_file(file, f"scandsl_cache.{file.stem}")
    shape = Shape(1, 12, 1, judged=12, rounds=1)
    sizes = sizes_for(recurrence, 16, 16)
    own = Bench(recurrence, module, sizes, shape, torch.float32, "cpu")
    times = iter([5.0, 4.0, 6.0, 3.0, 7.0])
    monkeypatch.setattr(own, "milliseconds", lambda: next(times))
    space = replace(SMALL, numbers=(8, 16), step_warps=(4,))
    found = search(own, site, sizes, space, lambda launch: None, lambda trial: None)
    assert found is not None and (found.rule, found.tuned) == (5.0, 3.0)
    assert found.best.kernels == {
        "steps_kernel": Config(None, 4, None, 8),
        "steps_kernel_backward": Config(None, 4, None, 8),
    }


AOT = """
from scandsl.driver import Options, plan
from scandsl.loader import load, read_source
from scandsl.testing.aot import SHARED, launches_for, misfit
_, (one,) = plan(read_source("examples/simple_gla.scan"), Options())
module = load("examples/simple_gla.scan")
scan, *_ = launches_for(one.program.recurrence, module, "sm_90", 128)
print([misfit(scan, target) for target in ("sm_90", "sm_12345")])
SHARED["sm_90"] = 100 << 10  # of what the kernel takes a little less than there is
print(misfit(scan, "sm_90"))
"""


def test_the_compiler_tells_what_does_not_fit() -> None:
    env = {**os.environ, "TRITON_INTERPRET": "0", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", AOT], cwd=ROOT, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    fits, not_there = done.stdout.strip().split("\n")
    assert fits == "[None, None]"
    assert not_there.startswith("needs 106,")
    assert not_there.endswith(" bytes of shared memory, there are 102,400")


# ---------------------------------------------------------------- the command


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_tune_without_a_gpu_says_so() -> None:
    done = CliRunner().invoke(main, ["tune", str(PATH)])
    assert done.exit_code == 2
    assert "torch finds none here; --dry goes through all" in " ".join(done.output.split())


def test_dry_has_no_target() -> None:
    done = CliRunner().invoke(main, ["tune", str(PATH), "--dry", "--target", "sm_90"])
    assert done.exit_code == 2


def test_tune_dry_writes_a_file_that_compile_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = EXAMPLES / "simple_gla.scan"
    monkeypatch.setattr(tune_session, "DRY", replace(SMALL, chunks=(None,)))
    kept = _entry(PATH, "sm_90")
    file = _file(tmp_path, kept)
    done = CliRunner().invoke(main, ["tune", str(path), "--dry", "--out", str(file)])
    assert done.exit_code == 0, done.output
    assert "simple_gla, bfloat16, K=32 V=32 on interpreter:" in done.output
    entries = read_launches(file).entries
    assert kept in entries and len(entries) == 2
    (own,) = (x for x in entries if x != kept)
    assert (own.arch, own.sizes) == ("interpreter", (32, 32))
    data = json.loads(file.read_text(encoding="utf-8"))
    assert data["made"]["versions"]["torch"] == torch.__version__
    assert [*tmp_path.iterdir()] == [file]
    out = tmp_path / "out"
    done = CliRunner().invoke(main, ["compile", str(path), "--out", str(out), "--tuned", str(file)])
    assert done.exit_code == 0, done.output
    assert digest([own]) in (out / "simple_gla.py").read_text(encoding="utf-8")


def test_a_broken_file_is_not_written_over(tmp_path: Path) -> None:
    file = tmp_path / "launches.json"
    file.write_text("{}", encoding="utf-8")
    done = CliRunner().invoke(main, ["tune", str(PATH), "--dry", "--out", str(file)])
    assert done.exit_code == 2 and file.read_text(encoding="utf-8") == "{}"
