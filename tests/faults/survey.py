"""The verdicts on mutants as a table, and the survivors with a reason each."""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.faults.copies import ROOT
from tests.faults.mutants import FOLDERS

RESULTS = ROOT / "tests" / "faults" / "results.jsonl"
REASONS = ROOT / "tests" / "faults" / "survivors.toml"
PAGE = ROOT / "docs" / "mutation.md"
KINDS = {
    "equivalent": "No check can tell it from the compiler: nothing that it computes is different.",
    "speed": "All numbers are right; code is slower or larger, or a form is not taken.",
    "rounding": "Numbers differ by rounding alone, within the bounds of the judge.",
    "words": "A sentence of `explain`, a message or a name in generated code is different.",
    "gap": "A check is missing.",
}


def tree() -> str:
    """The commit that is judged; with a plus if something is not committed."""

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no", "scandsl", "templates")
    return git("rev-parse", "--short=10", "HEAD") + ("+" if changed else "")


def read(results: Path) -> list[dict[str, Any]]:
    """The verdicts, of each mutant the last."""
    if not results.exists():
        return []
    lines = [json.loads(x) for x in results.read_text(encoding="utf-8").splitlines()]
    return list({(x["file"], x["operator"], x["occurrence"]): x for x in lines}.values())


def scores(lines: Sequence[dict[str, Any]]) -> str:
    """The score by folder, and what caught."""
    kinds = ("compiler", "hangs", "judge", "tests")
    head = ("folder", "mutants", *kinds, "caught", "score")
    rows = ["| " + " | ".join(head) + " |", "| --- |" + " ---: |" * (len(head) - 1)]
    for folder in (*FOLDERS, "all"):
        mine = [x for x in lines if folder in (x["file"].split("/")[1], "all")]
        by = Counter(x["by"] for x in mine)
        caught = len(mine) - by[None]
        if mine:
            cells = [folder, len(mine), *(by[k] for k in kinds), caught]
            rows.append("| " + " | ".join(map(str, cells)) + f" | {caught / len(mine):.1%} |")
    return "\n".join(rows)


def reasons() -> dict[tuple[str, str, str], dict[str, str]]:
    """Kind and reason of survivors, by file, line and changed line."""
    import tomllib  # of Python 3.11

    found = tomllib.loads(REASONS.read_text(encoding="utf-8")).get("survivor", ())
    return {(x["file"], x["text"], x["became"]): x for x in found}


def page(lines: Sequence[dict[str, Any]]) -> str:
    """`docs/mutation.md`: the scores, and every survivor with its reason."""
    known = reasons()
    survivors = [x for x in lines if x["by"] is None]
    trees = list(dict.fromkeys(x["tree"] for x in lines))
    out = [HEAD.format(count=len(lines), first=trees[0], last=trees[-1]), scores(lines), ""]
    unknown = {"kind": "gap", "reason": "not looked at"}
    told = [(x, known.get((x["file"], x["text"], x["became"]), unknown)) for x in survivors]
    for kind, meaning in KINDS.items():
        mine = [(x, r["reason"]) for x, r in told if r["kind"] == kind]
        if mine:
            out += [f"## {kind.capitalize()}: {len(mine)}", "", meaning, ""]
            for x, reason in sorted(mine, key=lambda p: (p[0]["file"], p[0]["line"])):
                where = x["file"].removeprefix("scandsl/")
                out += [f"* `{where}`: `{x['text']}` → `{x['became']}`. {reason}"]
            out.append("")
    return "\n".join(out)


HEAD = """# Mutation testing

Written by `python -m tests.faults.mutate --report` from `tests/faults/results.jsonl` and
`tests/faults/survivors.toml`. {count} small changes of `analysis/`, `plan/` and `kernels/` were
drawn at random and judged, at commits from `{first}` to `{last}`. `make mutate` does it anew;
`tests/faults/mutate.py` tells how.

By what they were caught: the compiler raised or hung, the judge found wrong numbers, a test failed.
"""


def write(results: Path) -> None:
    """Write the page."""
    PAGE.write_text(page(read(results)), encoding="utf-8")
