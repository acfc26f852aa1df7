"""`scandsl bench`: what it calls right, what it counts, what it prints and writes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from benchmarks.page import page
from scandsl.bench import candidates, run
from scandsl.bench.candidates import Candidate, Comparison, agreement
from scandsl.bench.contenders import LOOP, Job, Shape, call_of, contenders, truth_of
from scandsl.bench.floor import needs
from scandsl.bench.inputs import realistic, sizes_for
from scandsl.bench.machine import Rates
from scandsl.bench.peers import PEERS
from scandsl.bench.run import Choice, Entry, Result, Times
from scandsl.bench.show import plot, troubles
from scandsl.bench.worker import Trouble, Verdict, _Bench, _cpu_counts, _truth
from scandsl.cli import main
from scandsl.driver import check
from scandsl.kernels.predict import Speeds
from scandsl.loader import read_source

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def job(name: str, dtype: torch.dtype = torch.float64, **own_heads: int) -> Job:
    return Job(EXAMPLES / f"{name}.scan", name, "cpu", dtype, own_heads=own_heads)


def shape(name: str, time: int, heads: int = 2) -> Shape:
    (recurrence,) = check(read_source(EXAMPLES / f"{name}.scan")).recurrences
    return Shape(1, time, heads, sizes_for(recurrence, 8, 6))


@pytest.mark.parametrize("peer", [p for p in PEERS if not p.gpu], ids=lambda p: p.name)
def test_peers_on_a_cpu_compute_the_same(peer):
    of = job(peer.scan)
    at = shape(peer.scan, 21, 1 if peer.one_head else 2)
    assert peer.name in contenders(of, at, compiled=False, loop=True)
    tensors = of.tensors(at)
    torch.testing.assert_close(call_of(of, at, peer.name)(tensors), truth_of(of, at)(tensors))


def test_peers_name_the_arguments_of_examples():
    for peer in PEERS:
        (recurrence,) = check(read_source(EXAMPLES / f"{peer.scan}.scan")).recurrences
        assert peer.arguments == recurrence.arguments, peer


def test_judged_before_timed(tmp_path):
    of, at = job("simple_gla"), shape("simple_gla", 40)
    _truth(of, at, tmp_path / "truth.pt")
    for name in ("torch", LOOP):
        verdicts = _Bench(of, at, name).judge(tmp_path / "truth.pt")
        assert [v.tensor for v in verdicts] == ["o", "dq", "dk", "dv", "dg"]
        assert all(v.ok for v in verdicts)
    wrong = _Bench(of, at, "torch")
    call = wrong.call
    wrong.call = lambda a: call(a) * 1.001
    assert not any(v.ok for v in wrong.judge(tmp_path / "truth.pt"))


@pytest.mark.parametrize("spoilt", [[Verdict("o", 1.0, 0.1)], Trouble("out of memory")])
def test_a_contender_that_is_wrong_is_not_timed(monkeypatch, spoilt):
    """Requests are answered in this process; the loop's are answered wrongly, in two ways."""
    asked: list[tuple[str, str]] = []

    class Here:
        def __init__(self, of: Job, _threads: int) -> None:
            self.job, self.bench = of, None

        def ask(self, request: str, *arguments):
            if request == "truth":
                return _truth(self.job, *arguments)
            if request == "prepare":
                self.bench = _Bench(self.job, *arguments)
                return None
            asked.append((self.bench.name, request))
            if self.bench.name == LOOP and request == "judge":
                return spoilt
            return getattr(self.bench, request)(*arguments)

        def close(self) -> None:
            pass

    monkeypatch.setattr(run, "Worker", Here)
    (result,) = run.measure(
        job("simple_gla"), [shape("simple_gla", 9)], Choice(repeats=2), Rates(1e9, 1e9), str
    )
    own, loop = result.entries
    assert own.trouble is None and set(own.times) == {"forward", "backward", "both", "decode"}
    assert loop.trouble and not loop.times and not result.wrong
    assert {request for name, request in asked if name == LOOP} == {"judge"}
    (line,) = troubles([result])
    assert line.startswith("not timed: simple_gla B=1 T=9 H=2 K=8 V=6: loop")


def test_floor_counts_what_moves_and_what_is_multiplied():
    of, at = job("simple_gla"), Shape(1, 128, 2, {"K": 64, "V": 32})
    found = needs(of.plan(), at.sizes, at.rows, 4)
    row = 4 * (64 + 64 + 32) + 4
    assert found["forward"].bytes == at.rows * (row + 4 * 32)
    assert found["backward"].bytes == at.rows * (2 * row + 4 * 32)
    assert found["both"].operations > found["forward"].operations > 128 * 2 * 2 * 64 * 32
    assert found["both"].milliseconds(Rates(1e9, 1e30)) == pytest.approx(found["both"].bytes / 1e6)


@pytest.mark.parametrize("name", ["lstm", "mamba", "s5", "hgrn", "log_sum_exp", "mlstm"])
def test_every_kind_of_scan_has_a_floor_and_finite_data(name):
    of, at = job(name), shape(name, 12)
    found = needs(of.plan(), at.sizes, at.rows, 4)["both"]
    assert found.bytes > 0 and found.operations > 0
    assert bool(truth_of(of, at)(of.tensors(at)).isfinite().all())


def test_realistic_data_have_the_heads_asked_for():
    (recurrence,) = check(read_source(EXAMPLES / "mamba.scan")).recurrences
    found = realistic(recurrence, {"N": 4}, (1, 5, 6), torch.float32, own_heads={"B": 1})
    assert found["B"].shape == (1, 5, 1, 4) and found["C"].shape == (1, 5, 6, 4)


def test_calls_and_memory_are_counted():
    x = torch.randn(1000, requires_grad=True)
    found = _cpu_counts(lambda: (x.detach() + 1).exp())
    assert found.calls is not None and found.calls >= 2
    assert found.peak is not None and 8000 <= found.peak < 20000


def test_quartiles():
    found = Times.of([4.0, 1.0, 2.0, 3.0, 100.0])
    assert (found.low, found.median, found.high) == (2.0, 3.0, 4.0)


def _result(time: int) -> Result:
    times = {"both": Times.of([time / 100.0] * 3), "forward": Times.of([time / 300.0])}
    entry = Entry("torch", times, [Verdict("o", 1e-9, 1e-5)])
    floor = {"forward": 0.1, "backward": 0.2, "both": time / 1000.0}
    return Result("some_scan", "chunk", Shape(1, time, 4, {"K": 64}), floor, (entry,))


def test_page_of_results(tmp_path):
    content = {
        "time": "2026-01-02T03:04:05Z", "command": "a command", "cpu": "a processor", "cores": 2,
        "python": "3", "versions": {"torch": "2"}, "copy_bytes_per_second": 1e9,
        "matrix_operations_per_second": 1e12, "results": [_result(t).plain() for t in (512, 1024)],
    }  # fmt: skip
    (tmp_path / "suite-cpu.json").write_text(json.dumps(content))
    text = page(tmp_path)
    assert "| some_scan | 5.12 ± 0 | 10.2 ± 0 | 1.00 | 10 |" in text
    assert "`a command`" in text and "No result of a GPU" in text


def test_page_of_compiled_calls_and_of_launches(tmp_path):
    made = {
        "time": "2026-01-02T03:04:05Z", "command": "a command", "cpu": "a processor", "cores": 2,
        "python": "3", "versions": {"torch": "2"},
    }  # fmt: skip
    one = _result(512).plain()
    one["contenders"] = [one["contenders"][0], {**one["contenders"][0], "name": "torch compiled"}]
    (tmp_path / "compiled-cpu.json").write_text(json.dumps({**made, "results": [one]}))
    row = {
        "scan": "some_scan", "call": "step", "total": 40.0, "launches": 3,
        "parts": {"checks": 10.0, "launches": 25.0, "rest": 5.0},
    }  # fmt: skip
    launch = {"shape": (1, 64, 2), "size": 32, "rows": [row]}
    before = {"time": "2025-01-02T03:04:05Z", "rows": [{**row, "total": 60.0}]}
    (tmp_path / "launch.json").write_text(json.dumps({**made, **launch, "before": before}))
    text = page(tmp_path)
    assert "| some_scan | B=1 T=512 H=4 K=64 | torch compiled | 1.71 | 5.12 |" in text
    assert "| some_scan, step | 60 | 40 | 10 | 0 | 0 | 30 | 3 | - |" in text


def test_plot(tmp_path):
    pytest.importorskip("matplotlib")
    plot([_result(512), _result(1024)], tmp_path / "plot.svg", "a machine")
    text = (tmp_path / "plot.svg").read_text()
    assert text.startswith("<?xml") and "</svg>" in text


@pytest.mark.slow
def test_command(tmp_path):
    file = tmp_path / "out.json"
    given = [
        "bench", str(EXAMPLES / "simple_gla.scan"), "-T", "64", "--size", "K=8", "--repeats", "2",
        "--json", str(file),
    ]  # fmt: skip
    done = CliRunner().invoke(main, given)
    assert done.exit_code == 0, done.output
    (result,) = json.loads(file.read_text())["results"]
    assert [c["name"] for c in result["contenders"]] == ["torch", LOOP]
    assert "simple_gla" in done.output and "K=8 V=64" in done.output


def test_wrong_usage():
    spec = str(EXAMPLES / "simple_gla.scan")
    for options, word in (
        (["--size", "Q=8"], "no scan has a dimension or an argument `Q`"),
        (["--heads-of", "z=1"], "`z`"),
        (["--batch", "0"], "--batch 0"),
        (["-T", "0"], "--time"),
    ):
        done = CliRunner().invoke(main, ["bench", spec, *options])
        assert done.exit_code == 2 and word in done.output, done.output


SPEEDS = Speeds(4e-6, 4e10, 1.5e11)


@pytest.mark.parametrize("name", ["simple_gla", "gla", "delta_product", "xpos_retention"])
def test_model_of_forms(name):
    """Chunks beat the loop over long sequences, by less over short ones; time is linear."""

    def predicted(time: int) -> dict[int | None, float]:
        at = Shape(1, time, 4, sizes_for(job(name).recurrence(), 64, 64))
        found = candidates._predicted(job(name).plan(), job(name), at, SPEEDS)
        return {chunk: seconds for _, chunk, seconds in found}

    short, long = predicted(64), predicted(8192)
    assert list(long) == [16, 32, 64, 128, 256, None]
    assert long[32] < long[256] < long[None]
    assert long[None] / long[32] > short[None] / short[32]
    assert 1.9 < predicted(16384)[64] / long[64] < 2.1


def test_forms_are_measured(monkeypatch):
    monkeypatch.setattr(candidates, "CHUNKS", (16,))
    found = candidates.compare(job("simple_gla"), shape("simple_gla", 40), SPEEDS, 2)
    assert [c.name for c in found.candidates] == ["chunk of 16", "sequential"]
    assert all(c.measured > 0 and c.predicted > 0 for c in found.candidates)


def test_agreement_leaves_out_what_the_clock_does_not_tell_apart():
    times = ((1.0, 10.0), (2.0, 11.0), (3.0, 30.0), (0.5, 40.0))
    each = tuple(Candidate("chunk", i, *t) for i, t in enumerate(times))
    found = Comparison("some_scan", Shape(1, 1, 1), each)
    assert agreement([found]) == (2, 5)  # the last is taken for the fastest
    assert found.lost == 4.0
