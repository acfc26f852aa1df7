"""What the compiler makes of each example, as `explain` tells it, kept in `tests/plans`.

Events, forms, launches, bytes, operations and memory of an example change only on purpose: then
`python -m tests.test_plans` writes them anew, and the change is read with all others.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from scandsl.diagnostics import Source
from scandsl.driver import Options, plan
from scandsl.explain import lines
from tests.generated import ROOT

FOLDER = ROOT / "tests" / "plans"
EXAMPLES = sorted((ROOT / "examples").glob("*.scan"))


def told(path: Path) -> str:
    """What `explain` says of all scans of a file."""
    source = Source(path.name, path.read_text(encoding="utf-8"))
    _, plans = plan(source, Options())
    return "".join(f"{line.rstrip()}\n" for one in plans for line in lines(one, source))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_the_plan_is_as_it_was(path: Path) -> None:
    assert told(path) == (FOLDER / f"{path.stem}.txt").read_text(encoding="utf-8")


def test_no_plan_is_left_of_an_example_that_went() -> None:
    assert [p.stem for p in sorted(FOLDER.glob("*.txt"))] == [p.stem for p in EXAMPLES]


def main() -> None:
    """Write all plans."""
    FOLDER.mkdir(exist_ok=True)
    for path in EXAMPLES:
        (FOLDER / f"{path.stem}.txt").write_text(told(path), encoding="utf-8")


if __name__ == "__main__":
    main()
