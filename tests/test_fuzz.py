"""Random specs against the judge: a short run, and that the generator and its shrinking work.

`make fuzz N=2000` is the long run.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import pytest

from scandsl.analysis import analyse
from scandsl.diagnostics import Source
from scandsl.driver import check
from scandsl.syntax.format import format_source
from tests.fuzz.__main__ import _versions, _written
from tests.fuzz.hunt import Record, draw, hunt
from tests.fuzz.judge import Tried, Untame, Wrong, judge
from tests.fuzz.regressions import files, keep, read
from tests.fuzz.report import summary, table
from tests.fuzz.specs import CLASSES, NO_STATE
from tests.fuzz.trials import Trial

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy in the interpreter

WORDS = (
    "every ", "for ", "lag(", "window[", "where(", "stopgrad", "@[R]", "K'", "scalar", "param ",
    "grad(",
    "complex(", "argmax", "logsumexp", "iota", "fn ", "in unit", "[-inf, 0]", "[-1, 1]", "floor",
    " % ", " / ", "log(", "max(", "%", "layernorm", "softmax", "mean[", "static", "**", "t + 1",
)  # fmt: skip


@pytest.mark.parametrize("number", range(len(CLASSES)))
def test_drawn_specs_agree_with_the_judge(number: int) -> None:
    record = hunt(number, shrink=False, triton=number % 7 == 0)
    assert not record.fault, f"{record.fault}: {record.message}\n{record.trial}\n{record.text}"


@pytest.mark.parametrize("file", files(), ids=lambda file: file.stem)
def test_what_once_was_wrong_is_right(file: Path) -> None:
    judge(*read(file))


def test_drawn_specs_are_well_typed_and_hold_the_whole_language() -> None:
    texts = [draw(number)[0] for number in range(160)]
    assert len(set(texts)) == len(texts)
    for text in texts:
        check(Source("drawn.scan", text))
    for word in WORDS:
        assert sum(word in text for text in texts) >= 3, word


def test_every_class_is_drawn() -> None:
    """By the word of the compiler, and every spec has a class."""
    found: Counter[str] = Counter()
    for number in range(2 * len(CLASSES)):
        program = analyse(check(Source("drawn.scan", draw(number)[0])).recurrences[0])
        found.update({c.transition.value for c in program.components} or {NO_STATE})
    assert set(found) <= set(CLASSES)
    assert len(found) >= len(CLASSES) - 3, set(CLASSES) - set(found)


def test_drawn_specs_survive_formatting() -> None:
    for number in range(0, 160, 8):
        once = format_source(Source("drawn.scan", draw(number)[0]))
        assert format_source(Source("drawn.scan", once)) == once
        check(Source("drawn.scan", once))


def test_the_same_number_is_the_same_spec() -> None:
    assert draw(7) == draw(7)
    assert draw(7) != draw(27)


def test_specs_without_data_that_stay_bounded_are_counted_as_such() -> None:
    def planted(text: str, trial: Trial) -> Tried:
        raise Untame

    record = hunt(3, planted)
    assert (record.classes, record.fault) == ((), "")
    assert "1 have no data" in summary([record])[0]


def test_faults_are_made_small_and_kept(tmp_path: Path) -> None:
    def planted(text: str, trial: Trial) -> Tried:
        check(Source("drawn.scan", text))
        if "tanh(" in text and trial.length > 15:
            raise Wrong("planted")
        return Tried((NO_STATE,), "map", ("torch",))

    number = next(n for n in range(99) if "tanh(" in draw(n)[0] and draw(n)[1].length > 15)
    record = hunt(number, planted)
    assert record.fault == "Wrong"
    assert "tanh(" in record.text
    assert len(record.text.splitlines()) <= min(8, len(draw(number)[0].splitlines()))
    trial = Trial.read(record.trial)
    assert (trial.length, trial.heads, trial.seed) == (16, (1,), 0)
    file = keep(tmp_path, record.text, trial, record.message)
    text, again = read(file)
    assert again == trial
    assert text.endswith(record.text)
    assert check(Source("kept.scan", text)).recurrences[0].name == "drawn"


def test_the_report_counts_classes_and_faults() -> None:
    good = Record(0, 1.0, ("nonlinear", "block of several states"), "sequential", ("torch",))
    bad = Record(3, 2.0, ("nonlinear",), "sequential", ("torch", "triton"), "Wrong", "off\nmore")
    rows = {row[0]: row for row in zip(*(c.cells for c in table([good, bad]).columns), strict=True)}
    assert rows["nonlinear"][1:] == ("2", "1", "0", "0", "0", "0", "2", "1")
    assert rows["block of several states"][1:] == ("1", "0", "0", "0", "0", "0", "1", "0")
    assert rows["shift (nilpotent)"][1] == "0"
    first, fault = summary([good, bad])
    assert first.startswith("1 agree in every form, 1 do not, 0 have")
    assert fault == "number 3: Wrong: off"


def test_what_agreed_under_another_compiler_counts_if_asked(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    rows = [
        {**_versions(), **asdict(Record(0, 1.0, ("nonlinear",)))},
        {**_versions(), "judging": "older", **asdict(Record(1, 1.0, ("nonlinear",)))},
        {**_versions(), "judging": "older", **asdict(Record(2, 1.0, fault="Wrong"))},
        {**_versions(), "drawing": "older", **asdict(Record(3, 1.0))},
    ]
    log.write_text("\n".join([*map(json.dumps, rows), '{"cut', ""]), "utf-8")
    assert [r.number for r in _written(log, older=False)] == [0]
    assert [r.number for r in _written(log, older=True)] == [0, 1]
