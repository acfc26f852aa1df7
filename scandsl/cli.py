"""The command line: `scandsl check | compile | explain | doc | test | bench | tune | fmt | new`.

In: arguments.  Out: files, text, an exit status: 0 fine, 1 something is wrong with a spec (or a
module is stale, or a test failed), 2 wrong usage.  Findings go to stderr.  Each command imports
what it needs when it runs, so that those which need no torch start fast.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec

import click

from scandsl import __version__
from scandsl.diagnostics import Diagnostic, InternalError, ScanError, Severity, Source, render
from scandsl.driver import OptionError
from scandsl.loader import (
    MOST_BYTES,
    decode,
    load,
    read_launches,
    read_source,
    write_atomic,
)

if TYPE_CHECKING:
    from scandsl.analysis.program import Program
    from scandsl.driver import Front, Options
    from scandsl.plan import Plan
    from scandsl.testing.compare import Run

P = ParamSpec("P")
_COLOURS = {Severity.ERROR: "red", Severity.WARNING: "yellow"}


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="scandsl")
def main() -> None:
    """Compile recurrences: write the step, get the parallel form with its backward."""


# ---------------------------------------------------------------- shared


class _Failed(Exception):
    """Something was wrong with a spec; the findings have been shown."""


def _specs(function: Callable[P, None]) -> Callable[P, None]:
    """The argument that most commands take: spec files, or folders of them."""
    return click.argument(
        "paths", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path)
    )(function)


def _numbers(
    _context: click.Context, _parameter: click.Parameter, given: tuple[str, ...]
) -> dict[str, int]:
    """The values of an option of the form NAME=N."""
    return _parse_settings(given)


def _settings(function: Callable[P, None]) -> Callable[P, None]:
    return click.option(
        "--set",
        "settings",
        multiple=True,
        metavar="NAME=N",
        callback=_numbers,
        help="Give a static another value; may be repeated.",
    )(function)


def _plan_options(function: Callable[P, None]) -> Callable[P, None]:
    form = click.option("--form", default=None, help="Force a form, such as `sequential`.")
    chunk = click.option("--chunk", type=int, default=None, help="Force a chunk length.")
    schedule = click.option(
        "--schedule", default=None, help="Force the kernels on a GPU: `fused` or `split`."
    )
    return form(chunk(schedule(function)))


def _tuned(function: Callable[P, None]) -> Callable[P, None]:
    return click.option(
        "--tuned",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        default=None,
        metavar="FILE",
        help="Launches that `scandsl tune` measured.",
    )(function)


def _parse_settings(given: Iterable[str]) -> dict[str, int]:
    found: dict[str, int] = {}
    for item in given:
        name, equals, number = item.partition("=")
        if not equals or not number.strip().isdecimal():
            raise click.BadParameter(f"`{item}` is not of the form NAME=N with a whole number N")
        found[name.strip()] = int(number)
    return found


def _exit_status(function: Callable[P, None]) -> Callable[P, None]:
    """Turn our own failures into exit status 1, with no traceback for the user's faults."""

    @wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            function(*args, **kwargs)
        except ScanError as error:
            _show(error.source, error.diagnostics)
            sys.exit(1)
        except OptionError as error:
            raise click.UsageError(str(error)) from None
        except InternalError as error:
            click.echo(f"scandsl: internal error: {error}\nThis is a bug in scandsl.", err=True)
            sys.exit(1)
        except OSError as error:
            click.echo(f"scandsl: {_refused(error)}", err=True)
            sys.exit(1)
        except _Failed:
            sys.exit(1)

    return wrapped


def _refused(error: OSError) -> str:
    """What the system would not do, in one line."""
    name = error.filename2 or error.filename
    reason = error.strerror or type(error).__name__
    return reason if name is None else f"{os.fsdecode(name)}: {reason}"


def _spec_files(paths: Sequence[Path]) -> list[Path]:
    """The files named, and all `.scan` files under the folders named, each once, in order."""
    found: dict[Path, None] = {}
    for path in paths:
        inside = sorted(f for f in path.rglob("*.scan") if f.is_file()) if path.is_dir() else [path]
        found.update(dict.fromkeys(inside))
    if not found:
        raise click.UsageError("no .scan file there: " + ", ".join(map(str, paths)))
    return list(found)


def _show(source: Source, diagnostics: Sequence[Diagnostic]) -> None:
    """Findings on stderr, the first line of each in colour on a terminal."""
    for diagnostic in diagnostics:
        head, _, rest = render(source, diagnostic).partition("\n")
        click.echo(click.style(head, fg=_COLOURS[diagnostic.severity], bold=True), err=True)
        click.echo(rest + "\n", err=True)


def _each(files: Sequence[Path], work: Callable[[Path], None]) -> None:
    """Do it for every file, showing what is wrong with each; fail at the end if one failed."""
    failed = False
    for file in files:
        try:
            work(file)
        except ScanError as error:
            _show(error.source, error.diagnostics)
            failed = True
        except OSError as error:
            click.echo(f"scandsl: {file}: {_refused(error)}", err=True)
            failed = True
    if failed:
        raise _Failed


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + "s" * (number != 1)


# ---------------------------------------------------------------- check, compile


@main.command()
@_specs
@_settings
@_exit_status
def check(paths: tuple[Path, ...], settings: dict[str, int]) -> None:
    """Report everything that is wrong with specs; write nothing."""
    from scandsl import driver

    def work(file: Path) -> None:
        front = driver.check(read_source(file), settings)
        _show(front.source, front.warnings)
        click.echo(f"{file}: {_count(len(front.recurrences), 'scan')}, {_warned(front)}")

    _each(_spec_files(paths), work)


def _warned(front: Front) -> str:
    return _count(len(front.warnings), "warning") if front.warnings else "nothing wrong"


@main.command(name="compile")
@_specs
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=None,
    metavar="DIR",
    help="Where the modules go; beside each spec if not given.",
)
@_settings
@_plan_options
@_tuned
@click.option("--check", "stale_only", is_flag=True, help="Write nothing; fail if one is stale.")
@_exit_status
def compile_(
    paths: tuple[Path, ...],
    out: Path | None,
    settings: dict[str, int],
    form: str | None,
    chunk: int | None,
    schedule: str | None,
    tuned: Path | None,
    stale_only: bool,
) -> None:
    """Compile x.scan to DIR/x.py: the same bytes every time, whole or not at all."""
    from scandsl.driver import Options

    launches = None if tuned is None else read_launches(tuned)
    options = Options(settings, form, chunk, schedule, launches)
    targets = _targets(_spec_files(paths), out)
    stale: list[Path] = []

    def work(file: Path) -> None:
        if not _compile_one(file, targets[file], options, stale_only):
            stale.append(targets[file])

    _each(list(targets), work)
    if stale:
        for target in stale:
            click.echo(f"{target} is stale: compile it again", err=True)
        raise _Failed


def _targets(files: Sequence[Path], out: Path | None) -> dict[Path, Path]:
    targets = {file: (out or file.parent) / f"{file.stem}.py" for file in files}
    taken: dict[Path, Path] = {}
    for file, target in targets.items():
        if target in taken:
            raise click.UsageError(f"{taken[target]} and {file} would both become {target}")
        taken[target] = file
    return targets


def _compile_one(file: Path, target: Path, options: Options, stale_only: bool) -> bool:
    """Whether the target is up to date afterwards."""
    from scandsl.driver import compile_source

    compilation = compile_source(read_source(file), options)
    _show(compilation.front.source, compilation.front.warnings)
    module = compilation.module.encode()
    fresh = target.is_file() and target.read_bytes() == module
    if stale_only:
        return fresh
    if not fresh:
        write_atomic(target, compilation.module)
    click.echo(f"{file} -> {target}")
    return True


# ---------------------------------------------------------------- explain


@main.command()
@_specs
@_settings
@click.option("--json", "as_json", is_flag=True, help="One JSON document instead of words.")
@click.option("--target", default=None, help="Compile the kernels for it, such as `sm_90`.")
@_tuned
@_exit_status
def explain(
    paths: tuple[Path, ...],
    settings: dict[str, int],
    as_json: bool,
    target: str | None,
    tuned: Path | None,
) -> None:
    """Say what was found in specs and why each takes the form it takes."""
    from scandsl import driver
    from scandsl.explain import explanation, lines

    launches = None if tuned is None else read_launches(tuned)
    options = driver.Options(settings, launches=launches)
    found: list[dict[str, object]] = []

    def work(file: Path) -> None:
        front, plans = driver.plan(read_source(file), options)
        _show(front.source, front.warnings)
        for plan in plans:
            data, words = _binaries(file, settings, plan, target) if target else ({}, [])
            if as_json:
                found.append({"file": str(file), **explanation(plan, front.source), **data})
            else:
                click.echo(click.style(f"{file}: {plan.program.recurrence.name}", bold=True))
                click.echo("\n".join([*lines(plan, front.source), *words]) + "\n")

    _each(_spec_files(paths), work)
    if as_json:
        click.echo(json.dumps(found, indent=2, ensure_ascii=False))


def _binaries(
    file: Path, settings: dict[str, int], plan: Plan, target: str
) -> tuple[dict[str, object], list[str]]:
    """What the kernels of a plan need of a GPU that need not be there, as data and in words."""
    from dataclasses import asdict

    from scandsl.explain import SIZE
    from scandsl.testing.aot import described, kernels_for

    module = load(file, settings=settings)
    kernels = kernels_for(plan.program.recurrence, module, target, SIZE)
    words = [f"compiled for {target} (sizes {SIZE}, bfloat16), read from the binary:"]
    words += described(kernels) or ["    no Triton kernels"]
    return {"target": target, "binaries": [asdict(k) for k in kernels]}, words


# ---------------------------------------------------------------- doc


@main.command()
@_specs
@_settings
@click.option("--title", default="Scans", show_default=True, help="The heading of the page.")
@click.option("--out", type=click.Path(path_type=Path), help="Write there, not to the terminal.")
@_exit_status
def doc(paths: tuple[Path, ...], settings: dict[str, int], title: str, out: Path | None) -> None:
    """Write a page (Markdown) that shows specs as mathematics, with the forms they take."""
    from scandsl import driver
    from scandsl.page import page

    options = driver.Options(settings)
    entries: list[tuple[driver.Front, tuple[Program, ...]]] = []

    def work(file: Path) -> None:
        front, plans = driver.plan(read_source(file), options)
        _show(front.source, front.warnings)
        entries.append((front, tuple(p.program for p in plans)))

    _each(_spec_files(paths), work)
    command = f"scandsl doc {' '.join(map(str, paths))}"
    text = page(entries, title, command)
    if out is None:
        click.echo(text, nl=False)
    else:
        write_atomic(out, text)
        click.echo(str(out))


# ---------------------------------------------------------------- test


@main.command()
@_specs
@_settings
@_plan_options
@click.option("--backend", "only", multiple=True, help="Only this backend; may be repeated.")
@click.option(
    "--dtype",
    "dtypes",
    multiple=True,
    type=click.Choice(["float64", "float32", "bfloat16", "float16"]),
    help="Only this dtype; may be repeated.",
)
@click.option("--time", default=67, show_default=True, help="Length of the longest sequence.")
@click.option("--seed", default=0, show_default=True, help="Seed of the data.")
@_exit_status
def test(
    paths: tuple[Path, ...],
    settings: dict[str, int],
    form: str | None,
    chunk: int | None,
    schedule: str | None,
    only: tuple[str, ...],
    dtypes: tuple[str, ...],
    time: int,
    seed: int,
) -> None:
    """Compare every backend with the reference, values and gradients, on drawn data."""
    from scandsl.testing.session import Choice, judge

    choice = Choice(only, dtypes, time, seed)

    def judged(report: Callable[[Run], None], note: Callable[[str], None]) -> None:
        def work(file: Path) -> None:
            note(str(file))
            source = read_source(file)
            module = load(file, settings=settings, form=form, chunk=chunk, schedule=schedule)
            for run in judge(source, settings, module, choice):
                report(run)

        _each(_spec_files(paths), work)

    _show_runs(judged)


def _show_runs(
    judged: Callable[[Callable[[Run], None], Callable[[str], None]], None],
) -> None:
    """Progress on stderr while runs come in, then the table, then what failed."""
    from rich.console import Console

    from scandsl.testing.table import failures, summary, table

    found: list[Run] = []
    console, progress = Console(), Console(stderr=True)
    if not console.is_terminal:
        console = Console(width=120)
    with progress.status("compiling") as status:

        def report(run: Run) -> None:
            found.append(run)
            status.update(f"{run.scan}: {summary(found)}")

        judged(report, lambda text: status.update(f"compiling {text}"))
    console.print(table(found))
    for line in failures(found):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    console.print(summary(found))
    if not all(run.ok for run in found):
        raise _Failed


# ---------------------------------------------------------------- bench


@main.command()
@_specs
@_settings
@_plan_options
@click.option(
    "--suite",
    type=click.Choice(["cpu", "gpu"]),
    help="Several standard shapes; `gpu` where there is one if neither this nor -T is given.",
)
@click.option("--time", "-T", "times", type=int, multiple=True, help="Tokens; may be repeated.")
@click.option("--batch", "-B", type=int, default=1, show_default=True)
@click.option("--heads", "-H", type=int, default=4, show_default=True)
@click.option(
    "--size",
    "sizes",
    multiple=True,
    metavar="NAME=N",
    callback=_numbers,
    help="Of a dimension, else 64; may be repeated.",
)
@click.option(
    "--heads-of",
    multiple=True,
    metavar="NAME=N",
    callback=_numbers,
    help="Of an argument that has fewer; may be repeated.",
)
@click.option("--dtype", type=click.Choice(["float64", "float32", "bfloat16", "float16"]))
@click.option("--device", type=click.Choice(["cpu", "cuda"]), help="A GPU where there is one.")
@click.option("--threads", type=int, default=os.cpu_count() or 1, show_default=True)
@click.option("--repeats", type=int, default=7, show_default=True, help="Timed rounds.")
@click.option("--compiled", is_flag=True, help="Also our backends under torch.compile.")
@click.option("--no-loop", is_flag=True, help="Leave the loop over tokens out.")
@click.option("--forms", is_flag=True, help="Instead: every form, predicted and measured.")
@click.option("--only", multiple=True, help="Only this contender; may be repeated.")
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--plot", "plot_file", type=click.Path(dir_okay=False, path_type=Path))
@_exit_status
def bench(paths: tuple[Path, ...], settings: dict[str, int], **options: Any) -> None:
    """Time scans beside a loop, installed peers, and the floor that the plan computes.

    Forward, backward, both, and decoding; results are judged before anything is timed.
    """
    from scandsl.bench.session import Wishes, session

    wishes = Wishes(files=tuple(_spec_files(paths)), settings=settings, **options)
    if not session(wishes):
        raise _Failed


# ---------------------------------------------------------------- tune


@main.command()
@_specs
@_settings
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("launches.json"),
    show_default=True,
    metavar="FILE",
    help="Where the launches go; what it holds of other forms and sizes stays.",
)
@click.option("--target", default=None, help="Refuse a GPU that is not this, such as `sm_90`.")
@click.option("--dry", is_flag=True, help="Tiny, on the CPU, under Triton's interpreter.")
@click.option("--time", "-T", type=int, default=4096, show_default=True, help="Tokens.")
@click.option("--batch", "-B", type=int, default=4, show_default=True)
@click.option("--heads", "-H", type=int, default=16, show_default=True)
@click.option(
    "--size",
    "sizes",
    type=int,
    multiple=True,
    default=(64, 128),
    show_default=True,
    help="Of all open dimensions; may be repeated.",
)
@click.option(
    "--dtype",
    "dtypes",
    multiple=True,
    type=click.Choice(["bfloat16", "float32", "float16"]),
    default=("bfloat16",),
    show_default=True,
    help="May be repeated.",
)
@_exit_status
def tune(paths: tuple[Path, ...], settings: dict[str, int], **options: Any) -> None:
    """Measure how kernels are best launched on this GPU; write it for `compile --tuned`.

    Candidates whose tiles do not fit are not tried, and those with wrong results not timed.
    """
    from scandsl.tune.session import Wishes, session

    session(Wishes(files=tuple(_spec_files(paths)), settings=settings, **options))


# ---------------------------------------------------------------- fmt, new


@main.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path, allow_dash=True))
@click.option(
    "--check", "only_check", is_flag=True, help="Write nothing; fail if one would change."
)
@_exit_status
def fmt(paths: tuple[Path, ...], only_check: bool) -> None:
    """Write specs in canonical form; `-` reads stdin and writes stdout."""
    if paths == (Path("-"),):
        _format_stdin(only_check)
        return
    missing = [p for p in paths if not p.exists()]
    if missing:
        raise click.UsageError("no such file: " + ", ".join(map(str, missing)))
    changed: list[Path] = []

    def work(file: Path) -> None:
        if not _format_one(file, only_check):
            changed.append(file)

    _each(_spec_files(paths), work)
    for file in changed:
        click.echo(
            f"would reformat {file}" if only_check else f"reformatted {file}", err=only_check
        )
    if changed and only_check:
        raise _Failed


def _format_stdin(only_check: bool) -> None:
    from scandsl.syntax.format import format_source

    source = decode("<stdin>", sys.stdin.buffer.read(MOST_BYTES))
    text = format_source(source)
    if not only_check:
        click.echo(text, nl=False)
    elif text != source.text:
        click.echo("would reformat <stdin>", err=True)
        raise _Failed


def _format_one(file: Path, only_check: bool) -> bool:
    """Whether the file was in canonical form."""
    from scandsl.syntax.format import format_source

    old = file.read_bytes()
    new = format_source(read_source(file))
    if old == new.encode():
        return True
    if not only_check:
        write_atomic(file.resolve(), new)
    return False


_STARTER = '''\
# The step of a recurrence; `scandsl explain {file}` tells what the compiler makes of it.
scan {name}:
    """Gated linear attention with one decay per head: S_t = exp(g_t) S_{{t-1}} + k_t v_t^T."""
    input q[K], k[K], v[V]
    input g in [-inf, 0]  # log decay: minus infinity forgets all
    scalar scale = K ** -0.5
    state S[K, V]
    S = exp(g) * S + k * v
    output o[V] = scale * (q @ S)
'''


@main.command()
@click.argument("name")
@_exit_status
def new(name: str) -> None:
    """Write NAME.scan, a small spec to start from."""
    file = Path(name if name.endswith(".scan") else f"{name}.scan")
    if not file.stem.isidentifier():
        raise click.UsageError(f"`{file.stem}` is not a name that Python could import")
    if file.exists():
        raise click.UsageError(f"{file} exists already")
    from scandsl import driver

    text = _STARTER.format(file=file.name, name=file.stem)
    driver.check(Source(os.fspath(file), text))
    write_atomic(file, text)
    click.echo(f"{file} written; next: scandsl compile {file}")
