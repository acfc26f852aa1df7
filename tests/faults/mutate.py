"""Mutation testing: small changes of the compiler, drawn at random, and whether any check minds.

    make mutate [N=300]

Needs `cosmic-ray` (which makes the changes) and `coverage`: `pip install -e '.[dev,mutation]'`.  A
mutant changes one operator, number, condition or loop of a module of `analysis/`, `plan/` or
`kernels/`.  It is caught if the compiler raises or hangs, if the judge finds fault with one of up
to `TRIED` scans whose compilation runs the changed line and whose module comes out otherwise, or if
a test of the analysis, the schedules or the limits fails.  Places are drawn evenly, of each place
one change.  Every verdict is a line of JSON in `--out`; a run that was stopped goes on there.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import os
import random
import re
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeAlias

from tests.faults.copies import ROOT, altered
from tests.faults.judge import compiled

FOLDERS = ("analysis", "plan", "kernels")
SPECS = ("chunk", "decays", "chains", "turning", "semiring", "coupled", "blocks", "elementwise",
    "coupled_matrices",
)  # fmt: skip
UNIT = ("analysis", "chunk_program", "schedules", "limits", "memory", "page")
SKIPPED = ("Decorator", "Exception", "Variable")  # operators that need arguments or change no value
COMPILED, TRIED = 40, 4  # scans that are compiled with a mutant at most, and judged
SECONDS = 400  # after which a mutant is said to hang

Scan: TypeAlias = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Mutant:
    """The change that an operator makes to a file for the n-th time, and the line it stands on."""

    file: str
    operator: str
    occurrence: int
    line: int


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a scan: the lines its compilation runs, the hash and size of its module."""

    scan: Scan
    lines: Mapping[str, Sequence[int]]
    digest: str
    size: int


# ---------------------------------------------------------------- what runs which line


def scans() -> Iterator[Scan]:
    """The scans that judge: all examples, and the structures of `tests/specs`."""
    for path in sorted((ROOT / "examples").glob("*.scan")):
        yield str(path.relative_to(ROOT)), path.stem
    for name in SPECS:
        path = ROOT / "tests" / "specs" / f"{name}.scan"
        for scan in re.findall(r"^scan (\w+)", path.read_text(encoding="utf-8"), re.MULTILINE):
            yield str(path.relative_to(ROOT)), scan


def traced(scan: Scan) -> Known | None:
    """Compile a scan and write down what ran; `None` if its file says that it does not compile."""
    from coverage import Coverage

    from scandsl.diagnostics import ScanError

    cover = Coverage(data_file=None, include=[str(ROOT / "scandsl" / f / "*") for f in FOLDERS])
    cover.start()
    try:
        text = compiled(ROOT / scan[0], scan[1]).module
    except ScanError:
        return None
    finally:
        cover.stop()
    data = cover.get_data()
    lines = {
        str(Path(file).relative_to(ROOT)): sorted(data.lines(file) or ())
        for file in data.measured_files()
    }
    return Known(scan, lines, hashlib.sha256(text.encode()).hexdigest(), len(text))


def known(folder: Path) -> list[Known]:
    """All scans, smallest modules first; kept in `folder` for the next time."""
    kept = folder / "known.json"
    if not kept.exists():
        found = [x for scan in scans() if (x := traced(scan)) is not None]
        kept.write_text(json.dumps([asdict(x) for x in found]), encoding="utf-8")
    read = json.loads(kept.read_text(encoding="utf-8"))
    made = [Known(**{**x, "scan": tuple(x["scan"])}) for x in read]
    return sorted(made, key=lambda x: x.size)


# ---------------------------------------------------------------- mutants


def places(file: str) -> dict[tuple[int, int], list[Mutant]]:
    """The changes that can be made to a file, by the place where they stand."""
    from cosmic_ray.ast import ast_nodes, get_ast
    from cosmic_ray.plugins import get_operator, operator_names

    tree = get_ast((ROOT / file).read_text(encoding="utf-8"))
    found: defaultdict[tuple[int, int], list[Mutant]] = defaultdict(list)
    for name in operator_names():
        if any(word in name for word in SKIPPED):
            continue
        operator = get_operator(name)()
        occurrence = 0
        for node in ast_nodes(tree):
            for start, _ in operator.mutation_positions(node):
                found[start].append(Mutant(file, name, occurrence, start[0]))
                occurrence += 1
    return found


def mutated(mutant: Mutant) -> str | None:
    """The text of the changed file; `None` if only annotations changed, or it does not parse."""
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator

    text = (ROOT / mutant.file).read_text(encoding="utf-8")
    changed: str | None = mutate_code(text, get_operator(mutant.operator)(), mutant.occurrence)
    try:
        same = changed is None or _meaning(changed) == _meaning(text)
    except SyntaxError:
        return None
    return None if same else changed


def _meaning(text: str) -> str:
    """A module without its annotations."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            node.returns = None
        if isinstance(node, ast.arg):
            node.annotation = None
        if isinstance(node, ast.AnnAssign):
            node.annotation = ast.Constant(None)
    return ast.dump(tree)


def drawn(number: int, seed: int) -> list[Mutant]:
    """Mutants, at places drawn evenly over all modules."""
    files = [
        str(path.relative_to(ROOT))
        for folder in FOLDERS
        for path in sorted((ROOT / "scandsl" / folder).glob("*.py"))
    ]
    chance = random.Random(seed)
    everywhere = [changes for file in files for changes in places(file).values()]
    chance.shuffle(everywhere)
    chosen: list[Mutant] = []
    for changes in everywhere:
        mutant = chance.choice(changes)
        if len(chosen) < number and mutated(mutant) is not None:
            chosen.append(mutant)
    return chosen


# ---------------------------------------------------------------- verdicts


def verdict(mutant: Mutant, judges: Sequence[Known], folder: Path) -> dict[str, Any]:
    """What caught a mutant, if anything did."""
    text = mutated(mutant)
    assert text is not None
    original = (ROOT / mutant.file).read_text(encoding="utf-8")
    (folder / mutant.file).write_text(text, encoding="utf-8")
    covering = [x for x in judges if mutant.line in x.lines.get(mutant.file, ())]
    try:
        by, said = _caught(covering, folder)
    finally:
        (folder / mutant.file).write_text(original, encoding="utf-8")
    return {**asdict(mutant), "by": by, "said": said, "covering": len(covering)}


def _caught(covering: Sequence[Known], folder: Path) -> tuple[str | None, str]:
    if covering:
        tried = json.dumps([[*x.scan, x.digest] for x in covering[:COMPILED]])
        judge = ["-m", "tests.faults.judge", tried, "--most", str(TRIED)]
        status, said = _run([*judge, "torch", "triton"], folder)
        if status not in (0, 1):
            raise RuntimeError(said)
        if status:
            return "judge", said
    tests = [f"tests/test_{name}.py" for name in UNIT]
    status, said = _run(["-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests], folder)
    return ("tests", said) if status else (None, "")


def _run(command: Sequence[str], folder: Path) -> tuple[int, str]:
    environment = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    environment |= {"PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(
            [sys.executable, *command], cwd=folder, env=environment, text=True, check=False,
            capture_output=True, timeout=SECONDS,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return 1, "hangs"
    return done.returncode, (done.stdout.strip() or done.stderr.strip())[-300:]


def report(lines: Sequence[Mapping[str, Any]]) -> str:
    """The score by folder, and the survivors."""
    total, caught = Counter[str](), Counter[str]()
    out = ["folder     mutants  caught  score"]
    for line in lines:
        for folder in (str(line["file"]).split("/")[1], "all"):
            total[folder] += 1
            caught[folder] += line["by"] is not None
    for folder in (*FOLDERS, "all"):
        if total[folder]:
            share = caught[folder] / total[folder]
            out.append(f"{folder:10} {total[folder]:7} {caught[folder]:7} {share:6.1%}")
    for line in lines:
        if line["by"] is None:
            lines_ = (ROOT / line["file"]).read_text(encoding="utf-8").splitlines()
            what = f"{line['file']}:{line['line']} {line['operator'].split('/')[-1]}"
            out.append(f"survived: {what}: {lines_[line['line'] - 1].strip()}")
    return "\n".join(out)


def main() -> None:
    """Draw, judge, report."""
    from rich.progress import track

    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--number", type=int, default=300)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    p.add_argument("--out", type=Path, default=ROOT / "build" / "mutants")
    args = p.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    results = args.out / f"seed{args.seed}.jsonl"
    done = results.read_text(encoding="utf-8").splitlines() if results.exists() else []
    lines = [json.loads(x) for x in done]
    seen = {tuple(x[k] for k in ("file", "operator", "occurrence")) for x in lines}
    mutants = drawn(args.number, args.seed)
    left = [m for m in mutants if (m.file, m.operator, m.occurrence) not in seen]
    judges = known(args.out)
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(args.workers) as pool:
        folders: SimpleQueue[Path] = SimpleQueue()
        for number in range(args.workers):
            first = "scandsl/__init__.py"
            text = (ROOT / first).read_text(encoding="utf-8")
            folders.put(altered(Path(scratch) / str(number), Path(first), text))
        one = partial(_in_turn, judges=judges, folders=folders)
        with results.open("a", encoding="utf-8") as file:
            for line in track(pool.map(one, left), "mutants", len(left)):
                file.write(json.dumps(line) + "\n")
                file.flush()
                lines.append(line)
    print(report(lines))


def _in_turn(mutant: Mutant, judges: Sequence[Known], folders: SimpleQueue[Path]) -> dict[str, Any]:
    """One mutant in a copy that no other uses now."""
    folder = folders.get()
    try:
        return verdict(mutant, judges, folder)
    finally:
        folders.put(folder)


if __name__ == "__main__":
    main()
