"""Mutation testing: small changes of the compiler, drawn at random, and whether any check minds.

    make mutate [N=300]
    python -m tests.faults.mutate --report      # docs/mutation.md from the verdicts that are kept

Needs `cosmic-ray` (which makes the changes) and `coverage`: `pip install -e '.[dev,mutation]'`.  A
mutant changes one operator, number, condition or loop of a module of `analysis/`, `plan/` or
`kernels/`.  It is caught if the compiler raises or hangs, if one of the scans whose compilation
runs the changed line comes out otherwise and the judge finds its numbers wrong, or if a test whose
file runs the changed line fails.  Places are drawn evenly, of each place one change.  Every verdict
is a line of JSON in `results.jsonl`; a run that was stopped goes on there.

Each trial is a process of its own, forked from one that has imported torch, sympy and triton but
nothing of the project, within a copy of the project.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import os
import re
import select
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.faults import survey, trial
from tests.faults.copies import ROOT, altered
from tests.faults.mutants import FOLDERS, Mutant, drawn, mutated, reach, text_of

SPECS = ("chunk", "decays", "chains", "turning", "semiring", "coupled", "blocks", "elementwise",
    "coupled_matrices", "invariant", "bounded", "rules",
)  # fmt: skip
# Tests that look inside; and those, for `--again --slow`, whose numbers a changed plan may turn.
QUICK = ("analysis_ranges", "ranges_rules", "complex_rules", "cut", "costs", "refusals", "told",
    "page", "hoist", "separate", "analysis", "limits", "state_map", "carry_map", "prepared",
    "plans",
)  # fmt: skip
SLOW = ("chunk_program", "semiring", "chains", "blocks", "elementwise", "coupled",
    "coupled_matrices", "tiles", "invariant", "stacked", "slopes", "turning",
    "analysis_drawn", "memory",
)  # fmt: skip
IMPORTED = ("torch", "numpy", "sympy", "lark", "jinja2", "click", "rich", "triton", "coverage",
    "pytest", "hypothesis", "triton.language", "torch._dynamo",
)  # fmt: skip
SECONDS = 400  # after which a trial is ended whatever it does


# ---------------------------------------------------------------- processes


def apart(work: Callable[[], Any], folder: Path) -> Any:
    """The answer of `work` in a forked process that imports the project from `folder`."""
    read, write = os.pipe()
    process = os.fork()
    if process == 0:
        os.setsid()
        os.close(read)
        try:
            log = os.open(folder / "log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(log, 1)
            os.dup2(log, 2)
            trial.enter(folder)
            answer = work()
        except BaseException as error:
            answer = {"by": "compiler", "said": f"{type(error).__name__}: {error}"[:200]}
        try:
            with os.fdopen(write, "w") as out:
                json.dump(answer, out)
        finally:
            os._exit(0)
    os.close(write)
    try:
        said = _until(read, time.monotonic() + SECONDS)
    finally:
        os.close(read)
        with suppress(ProcessLookupError):
            os.killpg(process, signal.SIGKILL)  # whatever it started, too
        _, status, used = os.wait4(process, 0)
    if said:
        return json.loads(said) | {"cpu": round(used.ru_utime + used.ru_stime, 1)}
    if said is None:  # perhaps it only waits: that is no verdict
        return {"by": None, "said": f"not done after {SECONDS} s"}
    ended = signal.Signals(os.WTERMSIG(status)) if os.WIFSIGNALED(status) else None
    by = "hangs" if ended is signal.SIGPROF else "compiler"
    return {"by": by, "said": f"ended by {ended.name if ended else status}"}


def _until(read: int, end: float) -> bytes | None:
    parts: list[bytes] = []
    while select.select([read], [], [], max(0.0, end - time.monotonic()))[0]:
        part = os.read(read, 1 << 20)
        if not part:
            return b"".join(parts)
        parts.append(part)
    return None


# ---------------------------------------------------------------- what runs which line


def scans() -> Iterator[tuple[str, str, str | None]]:
    """The scans that judge: all examples, also as loops, and the structures of `tests/specs`."""
    examples = sorted((ROOT / "examples").glob("*.scan"))
    for path in examples:
        yield str(path.relative_to(ROOT)), path.stem, None
    for name in SPECS:
        path = ROOT / "tests" / "specs" / f"{name}.scan"
        for scan in re.findall(r"^scan (\w+)", path.read_text(encoding="utf-8"), re.MULTILINE):
            yield str(path.relative_to(ROOT)), scan, None
    for path in examples:
        yield str(path.relative_to(ROOT)), path.stem, "sequential"


class _Lines:
    """The lines of the compiler that run meanwhile."""

    def __enter__(self) -> _Lines:
        from coverage import Coverage

        here = Path.cwd()
        include = [str(here / "scandsl" / f / "*") for f in FOLDERS]
        self.cover = Coverage(data_file=None, include=include, config_file=False)
        self.cover.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.cover.stop()
        data, here = self.cover.get_data(), Path.cwd()
        self.found = {
            str(Path(f).relative_to(here)): sorted(data.lines(f) or ())
            for f in data.measured_files()
        }


def _compilations(asked: Sequence[Sequence[str | None]]) -> dict[str, Any]:
    """Scans with the lines their compilation runs, the hash and size of their modules."""
    from scandsl.diagnostics import ScanError
    from tests.faults.judge import compiled

    found = []
    for file, name, form in asked:
        begin = time.perf_counter()
        with _Lines() as lines:
            try:
                text = compiled(Path(file), name, form).module
            except ScanError:
                continue
        digest = hashlib.sha256(text.encode()).hexdigest()
        known = {"file": file, "name": name, "form": form, "digest": digest, "size": len(text)}
        took = time.perf_counter() - begin
        found.append({**known, "seconds": took, "lines": lines.found})
    return {"scans": found}


def _run_of(file: str) -> dict[str, Any]:
    """A file of tests with the lines it runs, and the seconds of its tests."""
    with _Lines() as lines:
        took = trial.durations(file)
    return {"file": file, "lines": lines.found, "took": took}


def known(out: Path, folder: Path, files: Sequence[str]) -> tuple[list[Any], list[Any]]:
    """Scans and tests with the lines they run; kept in `out` for the next time."""
    first = out / "scans.json"
    judges = json.loads(first.read_text(encoding="utf-8")) if first.exists() else []
    there = {(x["file"], x["name"], x["form"]) for x in judges}
    missing = [x for x in scans() if x not in there]
    if missing:
        judges += apart(lambda: _compilations(missing), folder)["scans"]
        first.write_text(json.dumps(judges), encoding="utf-8")
    tests = []
    for name in files:
        file, kept = f"tests/test_{name}.py", out / f"test_{name}.json"
        if not kept.exists():
            found = apart(lambda file=file: _run_of(file), folder)
            if "took" not in found:
                raise RuntimeError(found["said"])
            kept.write_text(json.dumps(found), encoding="utf-8")
        tests.append(json.loads(kept.read_text(encoding="utf-8")))
    return _mixed(judges), tests


def _mixed(judges: Sequence[Any]) -> list[Any]:
    """The quickest first, but every fourth only, then those between; loops last."""
    found = sorted(judges, key=lambda x: x["seconds"])
    chosen = [[x for x in found if (x["form"] is None) == planned] for planned in (True, False)]
    return [x for part in chosen for n in range(4) for x in part[n::4]]


def _covers(found: Mapping[str, Any], mutant: Mutant) -> bool:
    lines = reach(mutant.file, mutant.line)
    return not lines or not lines.isdisjoint(found["lines"].get(mutant.file, ()))


# ---------------------------------------------------------------- verdicts


def verdict(
    mutant: Mutant, judges: Sequence[Any], tests: Sequence[Any], folder: Path, before: Any = None
) -> Any:
    """What caught a mutant, if anything did; one that the judge passed `before` goes to tests."""
    text = mutated(mutant)
    assert text is not None
    place, begin = folder / mutant.file, time.monotonic()
    kept, stat = place.read_bytes(), place.stat()
    covering = [{**x, "lines": ()} for x in judges if _covers(x, mutant)]
    running = [x for x in tests if _covers(x, mutant)]
    files = [x["file"] for x in running]
    order = {node: took for x in running for node, took in x["took"].items()}
    place.write_text(text, encoding="utf-8")
    try:
        found = before or apart(lambda: _altered(lambda: trial.judged(covering)), folder)
        if found["by"] is None and files:
            found |= apart(lambda: _altered(lambda: trial.tested(files, order)), folder)
    finally:
        place.write_bytes(kept)
        os.utime(place, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    both = {"text": text_of(mutant.file), "became": text}
    both = {k: x.splitlines()[mutant.line - 1].strip() for k, x in both.items()}
    seconds = round(time.monotonic() - begin, 1)
    return {**found, **asdict(mutant), **both, "covering": len(covering), "seconds": seconds}


def _altered(work: Callable[[], Any]) -> Any:
    """`work` with a compiler that may raise at its import, and of which no bytecode is kept."""
    sys.dont_write_bytecode = True
    importlib.import_module("scandsl.render")
    return work()


def judge_all(
    mutants: Sequence[tuple[Mutant, Any]],
    known: tuple[list[Any], list[Any]],
    folder: Path,
    results: Path,
) -> None:
    """Judge one after the other; every verdict is written at once."""
    tree = survey.tree()
    for number, (mutant, before) in enumerate(mutants):
        line = {**verdict(mutant, *known, folder, before), "tree": tree}
        with results.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
        what = f"{mutant.file}:{mutant.line} {line['by']} {line['seconds']}"
        print(f"{number + 1}/{len(mutants)} {what}", flush=True)


def kept_draw(out: Path, number: int, seed: int) -> list[Mutant]:
    """`drawn`, which takes half a minute, once for each state of the compiler."""
    files = [p for f in FOLDERS for p in sorted((ROOT / "scandsl" / f).glob("*.py"))]
    digest = hashlib.sha256(b"".join(p.read_bytes() for p in files)).hexdigest()[:12]
    kept = out / f"drawn-{number}-{seed}-{digest}.json"
    if not kept.exists():
        kept.write_text(json.dumps([asdict(m) for m in drawn(number, seed)]), encoding="utf-8")
    return [Mutant(**x) for x in json.loads(kept.read_text(encoding="utf-8"))]


def main() -> None:
    """Draw, judge, report."""
    p = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    p.add_argument("--number", type=int, default=300)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--workers", type=int, default=1)
    p.add_argument(
        "--again", action="store_true", help="try survivors without a reason by all tests"
    )
    p.add_argument("--slow", action="store_true", help="by the slower tests")
    p.add_argument("--report", action="store_true", help="write docs/mutation.md and end")
    p.add_argument("--out", type=Path, default=ROOT / "build" / "mutants")
    p.add_argument("--results", type=Path, default=survey.RESULTS)
    args = p.parse_args()
    if args.report:
        survey.write(args.results)
        return
    os.environ.update(TRITON_INTERPRET="1", OMP_NUM_THREADS="1", SCANDSL_CHECK="")
    for name in IMPORTED:
        importlib.import_module(name)
    args.out.mkdir(parents=True, exist_ok=True)
    before = {(x["file"], x["operator"], x["occurrence"]): x for x in survey.read(args.results)}
    mutants = kept_draw(args.out, args.number, args.seed)
    if args.again:
        survivors = [(m, before[m.key]) for m in mutants if m.key in before]
        told = survey.reasons()
        told_of = {k: (x["file"], x["text"], x["became"]) in told for k, x in before.items()}
        left = [(m, x) for m, x in survivors if x["by"] is None and not told_of[m.key]]
    else:
        left = [(m, None) for m in mutants if m.key not in before]
    with tempfile.TemporaryDirectory() as scratch:
        workers = []
        for n in range(args.workers):
            folder = altered(Path(scratch) / str(n), Path("log"), "")
            if n == 0:
                found = known(args.out, folder, SLOW if args.slow else QUICK)
            if n + 1 < args.workers and (process := os.fork()):
                workers.append(process)
                continue
            mine = left[n :: args.workers]
            judge_all(mine, found, folder, args.results)
            if n + 1 < args.workers:
                os._exit(0)
        for process in workers:
            os.waitpid(process, 0)
    print(survey.scores(survey.read(args.results)))


if __name__ == "__main__":
    main()
