"""The demo's parts: tasks that ask what they say, models whose two forms agree, a picture.

The whole of it, with a few steps of training, is marked slow; `make demo` runs it in full.
"""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
OWN = ("demo", "models", "tasks", "mamba2", "linear_attention", "delta_net")

pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo_out")


@pytest.fixture(scope="module")
def demo(out: Path) -> Iterator[ModuleType]:
    """The script, imported, with the modules it trains compiled into a folder of this test."""
    before = list(sys.path)
    sys.path[:0] = [str(EXAMPLES), str(out)]
    demo = importlib.import_module("demo")
    for spec in demo.LAYERS:
        demo.compile_one(EXAMPLES / f"{spec}.scan", out)
    yield demo
    sys.path[:] = before
    for name in OWN:
        sys.modules.pop(name, None)


def test_the_answer_of_recall_is_the_newest_value_of_its_key(demo: ModuleType) -> None:
    task = demo.recall(pairs=12, keys=4, values=5, queries=6, batch=16)
    ((tokens, targets),) = task.batches(1, 3)
    assert tokens.shape == (16, 18, 2)
    assert bool((targets[:, :12] == demo.IGNORE).all())
    for row, answers in zip(tokens.tolist(), targets.tolist(), strict=True):
        newest = dict(row[:12])
        for (key, value), answer in zip(row[12:], answers[12:], strict=True):
            assert value == 5
            assert answer == newest[key]


def test_digits_are_held_back_and_asked_about_at_the_end(demo: ModuleType) -> None:
    task = demo.digits()
    assert task.test_tokens.shape == (359, 64, 2)
    asked = task.test_targets != demo.IGNORE
    assert bool(asked[:, -1].all())
    assert not bool(asked[:, :-1].any())
    seen = {str(x[:, 0].tolist()) for tokens, _ in task.batches(80, 0) for x in tokens}
    held = {str(x[:, 0].tolist()) for x in task.test_tokens}
    assert not seen & held


def test_batches_are_the_same_for_the_same_seed(demo: ModuleType) -> None:
    for task in (demo.digits(), demo.recall()):
        first, again, other = (next(task.batches(1, seed))[0] for seed in (5, 5, 6))
        assert torch.equal(first, again)
        assert not torch.equal(first, other)


@pytest.mark.parametrize("place", range(4))
def test_a_model_reads_a_sequence_as_it_reads_tokens(
    demo: ModuleType, out: Path, place: int
) -> None:
    job = demo.JOBS[place]
    task = demo.TASKS[job.task]()
    model = demo.build(job, task, out).double().eval()
    tokens = task.test_tokens[:3]
    with torch.no_grad():
        whole, stepped = model(tokens), demo.decode(model, tokens)
        other = model(tokens.flip(1))
    assert whole.shape == (3, tokens.shape[1], task.classes)
    torch.testing.assert_close(stepped, whole, rtol=1e-9, atol=1e-9)
    assert not torch.allclose(other[:, -1], whole[:, -1])


def test_training_lowers_the_loss_and_repeats_itself(demo: ModuleType, out: Path) -> None:
    job = demo.JOBS[2]
    task = demo.recall(pairs=6, keys=4, values=3, queries=2, batch=16)
    recipe = replace(job.recipe, steps=30, rate=1e-2)
    told: list[float] = []
    losses, again = (
        demo.train(demo.build(job, task, out), task, recipe, told.append) for _ in range(2)
    )
    assert losses == again
    assert told == [*losses, *again]
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


def test_the_check_sees_a_fault(demo: ModuleType, out: Path) -> None:
    spec = EXAMPLES / "delta_net.scan"
    good = demo.check_one(spec, "sequential", out)
    assert good.failures == []
    assert 0 < good.values < 1e-12
    assert 0 < good.gradients < 1e-12
    module = demo.generated(out, "delta_net")
    right = module.delta_net
    try:
        module.delta_net = lambda q, k, v, beta, **rest: right(q, k, v, 0.999 * beta, **rest)
        assert demo.check_one(spec, "sequential", out).failures
    finally:
        module.delta_net = right


def test_results_are_judged_and_drawn(demo: ModuleType, tmp_path: Path) -> None:
    losses = [2.0 / (1 + step) for step in range(30)]
    trained = [demo.Trained(job, losses, job.at_least, 1, 1.0) for job in demo.JOBS]
    decoded = [demo.Decoded(1e-6, 0.5, torch.linspace(0, 1, 64)) for _ in demo.JOBS]
    assert demo.complaints(trained, decoded, quick=False) == []
    worse = [replace(run, accuracy=run.job.at_least - 0.1) for run in trained[:1]]
    assert len(demo.complaints(worse, decoded[:1], quick=False)) == 1
    off = [demo.Decoded(float("nan"), 0.5, torch.zeros(64))]
    assert len(demo.complaints(trained[:1], off, quick=True)) == 1
    demo.draw(trained, decoded, tmp_path / "loss.png")
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_the_whole_demo_runs(tmp_path: Path) -> None:
    command = [sys.executable, str(EXAMPLES / "demo.py"), "--quick", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 0 failed" in done.stdout
    assert len(list(tmp_path.glob("*.py"))) == len(list(EXAMPLES.glob("*.scan")))
    assert (tmp_path / "loss.png").is_file()
