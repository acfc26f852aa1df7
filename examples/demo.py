"""The whole path in one run: compile every example, check it, train with it, decode with it.

    python examples/demo.py [--out demo_out] [--quick]

In: the `.scan` files beside this script.  Out, in the folder given: a module per spec, trained
weights, `loss.png`.  Runs on a CPU; the same seed gives the same numbers.  Exit status 1 when a
check fails or a model does not learn what it should.  `--quick` trains for a few steps and judges
no accuracy.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from queue import Empty
from types import ModuleType
from typing import Any

import torch
from models import DeltaNet, LinearAttention, Mamba2, SequenceModel, decode
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table
from tasks import IGNORE, Recipe, Task, accuracy, digits, recall, train
from torch import Tensor

EXAMPLES = Path(__file__).resolve().parent
DECODE_BOUND = 1e-4  # float32: the same sums in another order


# ---------------------------------------------------------------- what is trained


@dataclass(frozen=True)
class Job:
    """A model, the task it learns, and the accuracies between which it must end."""

    task: str
    label: str
    spec: str
    layers: int
    heads: int
    recipe: Recipe
    at_least: float = 0.0
    at_most: float = 1.0

    @property
    def name(self) -> str:
        """Unique among the jobs."""
        return f"{self.task}_{self.spec}"


LAYERS = {"mamba2": Mamba2, "linear_attention": LinearAttention, "delta_net": DeltaNet}
TASKS: dict[str, Callable[[], Task]] = {"digits": digits, "recall": recall}
SIZE, WIDTH = 16, 64  # K = V of a head, and the width of the models
DIGITS = Recipe(steps=600, rate=2e-3, decay=0.1)
RECALL = Recipe(steps=300, rate=3e-3)
JOBS = (
    Job("digits", "Mamba-2", "mamba2", 2, 4, DIGITS, at_least=0.9),
    Job("digits", "linear attention", "linear_attention", 2, 4, DIGITS, at_least=0.7),
    Job("recall", "delta rule", "delta_net", 1, 1, RECALL, at_least=0.98),
    Job("recall", "linear attention", "linear_attention", 1, 1, RECALL, at_most=0.6),
)


@dataclass(frozen=True)
class Trained:
    """What comes out of a job; its weights lie in a file."""

    job: Job
    losses: list[float]
    accuracy: float
    params: int
    seconds: float


def generated(out: Path, spec: str) -> ModuleType:
    """Import a compiled module the way any script would."""
    if str(out) not in sys.path:
        sys.path.insert(0, str(out))
    return importlib.import_module(spec)


def build(job: Job, task: Task, out: Path) -> SequenceModel:
    """The model of a job with its first weights."""
    torch.manual_seed(job.recipe.seed)
    scans = generated(out, job.spec)
    mixers = [LAYERS[job.spec](scans, WIDTH, job.heads, SIZE) for _ in range(job.layers)]
    pooled = job.task == "digits"
    return SequenceModel(mixers, task.vocabularies, WIDTH, task.classes, pooled)


def weights(job: Job, out: Path) -> Path:
    """Where the trained weights are kept."""
    return out / f"{job.name}.pt"


_told: Any = None  # in a worker: the queue on which it tells of its progress


def _start_worker(queue: Any) -> None:
    global _told
    _told = queue
    torch.set_num_threads(1)


def work(job: Job, out: Path) -> Trained:
    """Train one model in this process, telling of every step."""
    begun = time.perf_counter()
    task = TASKS[job.task]()
    model = build(job, task, out).train()
    losses = train(model, task, job.recipe, lambda loss: _told.put((job.name, loss)))
    model.eval()
    torch.save(model.state_dict(), weights(job, out))
    params = sum(p.numel() for p in model.parameters())
    seconds = time.perf_counter() - begun
    return Trained(job, losses, accuracy(model, task), params, seconds)


# ---------------------------------------------------------------- compile and check


@dataclass(frozen=True)
class Checked:
    """A compiled spec: its form, and its worst errors against the reference."""

    name: str
    form: str
    backends: str
    values: float
    gradients: float
    failures: list[str]


def compile_one(spec: Path, out: Path) -> str:
    """Write the module of a spec; the form it took."""
    from scandsl.driver import Options, compile_source
    from scandsl.loader import read_source, write_atomic

    compilation = compile_source(read_source(spec), Options())
    write_atomic(out / f"{spec.stem}.py", compilation.module)
    return ", ".join(plan.form.value for plan in compilation.plans)


def _interpretable() -> bool:
    """Whether kernels run under Triton's interpreter here: triton is there, and no GPU."""
    return importlib.util.find_spec("triton") is not None and not torch.cuda.is_available()


def check_one(spec: Path, form: str, out: Path) -> Checked:
    """A module against the reference: values, gradients, packed sequences, decoding."""
    from scandsl import driver
    from scandsl.loader import read_source
    from scandsl.testing.compare import Case, Layout, Run, runs, standard_cases
    from scandsl.testing.table import failures
    from scandsl.testing.tolerances import Role

    module = generated(out, spec.stem)
    found: list[Run] = []
    kernels: list[Run] = []
    for recurrence in driver.check(read_source(spec)).recurrences:
        cases = standard_cases(recurrence)
        found += runs(recurrence, module, cases, only=("torch", "step"), dtypes=[torch.float64])
        if "triton" in module.BACKENDS and _interpretable():
            small = [Case("B1 T20 H2", Layout(batch=1, time=20, heads=2))]
            kernels += runs(recurrence, module, small, only=("triton",), dtypes=[torch.float32])
    worst = {
        roles: max((v.error for run in found for v in run.verdicts if v.role in roles), default=0.0)
        for roles in ((Role.OUTPUT, Role.STATE), (Role.VECTOR, Role.GATE))
    }
    names = dict.fromkeys(run.backend for run in (*found, *kernels))
    return Checked(
        spec.stem, form, ", ".join(names), *worst.values(), list(failures([*found, *kernels]))
    )


def compile_and_check(out: Path, console: Console) -> list[Checked]:
    """All examples, with a bar for each of the two."""
    specs = sorted(EXAMPLES.glob("*.scan"))
    with bars(console) as progress:
        forms = {spec: compile_one(spec, out) for spec in followed(progress, "compile", specs)}
        return [check_one(s, forms[s], out) for s in followed(progress, "check", specs)]


def show_checks(found: list[Checked], console: Console) -> None:
    """A row per example."""
    table = Table(title="relative RMS errors against the float64 reference", title_justify="left")
    for heading in ("example", "form", "checked", "values", "gradients"):
        table.add_column(heading, justify="right" if heading in ("values", "gradients") else "left")
    for row in found:
        colour = "red" if row.failures else "green"
        errors = (f"[{colour}]{e:.0e}[/]" for e in (row.values, row.gradients))
        table.add_row(row.name, row.form, row.backends, *errors)
    console.print(table)
    for line in (line for row in found for line in row.failures):
        console.print(line, style="red", markup=False, soft_wrap=True)
    failed = sum(bool(row.failures) for row in found)
    console.print(f"{len(found) - failed} examples passed, {failed} failed\n")


# ---------------------------------------------------------------- progress


@contextmanager
def bars(console: Console) -> Iterator[Progress]:
    """Progress bars that end with a note."""
    columns = (
        TextColumn("{task.description:<36}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console) as progress:
        yield progress


def followed(progress: Progress, label: str, specs: Iterable[Path]) -> Iterator[Path]:
    """The specs, one after the other, with a bar that names the present one."""
    specs = list(specs)
    row = progress.add_task(label, total=len(specs), note="")
    for spec in specs:
        progress.update(row, note=spec.name)
        yield spec
        progress.advance(row)
    progress.update(row, note="")


def train_all(jobs: tuple[Job, ...], out: Path, console: Console) -> list[Trained]:
    """Train the models side by side, one process per core, with a bar for each."""
    context = get_context("spawn")
    queue = context.Queue()
    workers = min(len(jobs), max(1, os.cpu_count() or 1))
    with (
        bars(console) as progress,
        ProcessPoolExecutor(workers, context, _start_worker, (queue,)) as pool,
    ):
        rows = {
            job.name: progress.add_task(
                f"{job.task}: {job.label}", total=job.recipe.steps, note="", start=False
            )
            for job in jobs
        }
        futures = [pool.submit(work, job, out) for job in jobs]
        follow(queue, futures, rows, progress)
        return [future.result() for future in futures]


def follow(
    queue: Any, futures: list[Future[Trained]], rows: dict[str, TaskID], progress: Progress
) -> None:
    """Move the bars until all trainings are over; the note is the loss, smoothed."""
    smooth: dict[str, float] = {}
    while True:
        over = all(future.done() for future in futures)
        try:
            name, loss = queue.get(timeout=0.2)
        except Empty:
            if over:
                return
            continue
        if name not in smooth:
            progress.start_task(rows[name])
        smooth[name] = 0.9 * smooth.get(name, loss) + 0.1 * loss
        progress.update(rows[name], advance=1, note=f"loss {smooth[name]:.3f}")


# ---------------------------------------------------------------- decode


@dataclass(frozen=True)
class Decoded:
    """Token by token against all at once: the largest difference, and accuracy by token."""

    difference: float
    accuracy: float
    by_token: Tensor


@torch.no_grad()
def decode_one(job: Job, out: Path) -> Decoded:
    """Load the trained weights and read the test sequences through `_step`."""
    task = TASKS[job.task]()
    model = build(job, task, out).eval()
    model.load_state_dict(torch.load(weights(job, out), weights_only=True))
    parallel = model(task.test_tokens)
    stepped = decode(model, task.test_tokens)
    asked = task.test_targets != IGNORE
    right = stepped.argmax(-1) == task.test_targets.clamp(min=0)
    final = right[asked].double().mean().item()
    answer = task.test_targets[:, -1:]
    by_token = (stepped.argmax(-1) == answer).double().mean(0)
    return Decoded((parallel - stepped).abs().max().item(), final, by_token)


# ---------------------------------------------------------------- results


def show_results(
    trained: list[Trained], decoded: list[Decoded], forms: dict[str, str], console: Console
) -> None:
    """The final accuracies, and what decoding gave."""
    table = Table(title="trained on a CPU with generated layers", title_justify="left")
    for heading in ("task", "layer", "form"):
        table.add_column(heading)
    for heading in ("params", "time", "final loss", "test accuracy", "decoded", "max difference"):
        table.add_column(heading, justify="right")
    for last, run, steps in zip([None, *trained], trained, decoded, strict=False):
        if last is not None and last.job.task != run.job.task:
            table.add_section()
        table.add_row(
            run.job.task,
            run.job.label,
            forms[run.job.spec],
            f"{run.params:,}",
            f"{run.seconds:.0f} s",
            f"{sum(run.losses[-20:]) / len(run.losses[-20:]):.3f}",
            f"[bold]{run.accuracy:.1%}[/]",
            f"{steps.accuracy:.1%}",
            f"{steps.difference:.0e}",
        )
    console.print(table)
    console.print(
        "decoded: the test sequences token by token through the generated `_step`; max difference "
        "of its\nlogits from those of the parallel form, over all tokens.\n"
    )


COLOURS = {"mamba2": "#1f6fb4", "delta_net": "#c0392b", "linear_attention": "#808080"}


def draw(trained: list[Trained], decoded: list[Decoded], file: Path) -> None:
    """The loss curves of both tasks, and what is known of a digit after each pixel."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 4.2), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    panels = dict(zip(("digits", "recall", "decode"), figure.subplots(1, 3), strict=True))
    panels["digits"].set(title="Digits, pixel by pixel (T = 64)", ylabel="training loss")
    panels["recall"].set(title="Associative recall, keys written again", ylabel="training loss")
    panels["decode"].set(title="Digits decoded with the generated step", ylabel="test accuracy")
    for run, steps in zip(trained, decoded, strict=True):
        colour = COLOURS[run.job.spec]
        label = f"{run.job.label}: {run.accuracy:.1%} right"
        axes = panels[run.job.task]
        axes.plot(run.losses, color=colour, alpha=0.2, linewidth=0.7)
        axes.plot(smoothed(run.losses), color=colour, linewidth=1.8, label=label)
        axes.set(xlabel="step", yscale="log", xlim=(0, len(run.losses)))
        if run.job.task == "digits":
            read = range(1, len(steps.by_token) + 1)
            axes = panels["decode"]
            axes.plot(read, steps.by_token, color=colour, linewidth=1.8, label=run.job.label)
            axes.axvspan(1, len(read) // 2, color="#f3f3f3", zorder=0)
            axes.set(xlabel="pixels read", xlim=(1, len(read)), ylim=(0, 1))
    panels["decode"].text(16.5, 0.03, "not asked for in training", ha="center", color="#707070")
    for axes in panels.values():
        axes.grid(True, color="#e4e4e4", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        axes.title.set_fontsize(11)
        axes.legend(loc="upper left", bbox_to_anchor=(0.0, -0.17), frameon=False, fontsize=9)
    figure.savefig(file)


def smoothed(losses: list[float], keep: float = 0.85) -> list[float]:
    """A running geometric mean that starts without bias."""
    out, total, weight = [], 0.0, 0.0
    for loss in losses:
        total = keep * total + (1 - keep) * math.log(max(loss, 1e-12))
        weight = keep * weight + (1 - keep)
        out.append(math.exp(total / weight))
    return out


def complaints(trained: list[Trained], decoded: list[Decoded], quick: bool) -> list[str]:
    """What did not come out as it should."""
    found = []
    for run, steps in zip(trained, decoded, strict=True):
        low, high = run.job.at_least, run.job.at_most
        if not quick and not low <= run.accuracy <= high:
            found.append(f"{run.job.name}: {run.accuracy:.1%} right, not {low:.0%} to {high:.0%}")
        if not steps.difference <= DECODE_BOUND:
            found.append(f"{run.job.name}: decoding differs by {steps.difference:.1e}")
    return found


# ---------------------------------------------------------------- the run


def main(arguments: list[str] | None = None) -> int:
    """Compile, check, train, decode, draw; 0 if all came out as it should."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=EXAMPLES.parent / "demo_out")
    parser.add_argument("--quick", action="store_true", help="a few steps, no judgement")
    given = parser.parse_args(arguments)
    out = given.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("TRITON_INTERPRET", "1")  # kernels are checked without a GPU
    torch.set_num_threads(1)  # the same bits on any number of cores
    begun = time.perf_counter()
    console = Console() if sys.stdout.isatty() else Console(width=120)

    console.rule(f"1  compile every example to {given.out.name}/, check it against the reference")
    checked = compile_and_check(out, console)
    show_checks(checked, console)

    console.rule("2  train on a CPU: generated layer against plain linear attention")
    jobs = JOBS
    if given.quick:
        jobs = tuple(replace(job, recipe=replace(job.recipe, steps=3)) for job in JOBS)
    trained = train_all(jobs, out, console)

    console.rule("3  decode token by token with the generated step")
    decoded = [decode_one(job, out) for job in jobs]
    show_results(trained, decoded, {row.name: row.form for row in checked}, console)
    draw(trained, decoded, out / "loss.png")
    console.print(f"loss curves: {out / 'loss.png'}", soft_wrap=True)
    console.print(f"everything took {time.perf_counter() - begun:.0f} s")

    wrong = complaints(trained, decoded, given.quick)
    for line in wrong:
        console.print(line, style="bold red", markup=False)
    return 1 if wrong or any(row.failures for row in checked) else 0


if __name__ == "__main__":
    sys.exit(main())
