"""The examples: complete, checked without warnings, canonical, documented, finite."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from scandsl import load
from scandsl.analysis import analyse
from scandsl.analysis.report import report
from scandsl.driver import check
from scandsl.loader import read_source
from scandsl.reference import interpret
from scandsl.syntax.format import format_source
from scandsl.testing.compare import standard_cases
from scandsl.testing.session import Choice, judge
from scandsl.testing.table import failures

FILES = sorted((Path(__file__).resolve().parent.parent / "examples").glob("*.scan"))
NAMED = """
    linear_attention retnet mamba mamba2 mamba3 simple_gla gla rwkv4 rwkv6 rwkv7 delta_net
    gated_delta_rule kimi_delta_attention delta_product gated_oja_rule gated_slot_attention mlstm
    slstm lstm gru min_gru hgrn hgrn2 lru s4d s5 h3 hippo_legs ttt_linear ttt_mlp ttt_muon titans
    holt linoss
    rational_transfer_function short_convolution exponential_moving_average log_sum_exp
    xpos_retention mlstm_sigmoid gated_delta_net delta_net_block min_lstm mega_moving_average
    s4 seasonal_autoregression
""".split()

each = pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)


def test_every_named_recurrence_is_there() -> None:
    assert set(NAMED) <= {f.stem for f in FILES}


@each
def test_it_checks_without_warnings_under_its_own_name(file: Path) -> None:
    front = check(read_source(file))
    assert front.warnings == ()
    assert [r.name for r in front.recurrences] == [file.stem]


@each
def test_it_is_in_canonical_form(file: Path) -> None:
    source = read_source(file)
    assert format_source(source) == source.text


@each
def test_its_docstring_gives_a_year_and_an_equation(file: Path) -> None:
    (recurrence,) = check(read_source(file)).recurrences
    assert re.search(r"\b(19|20)\d\d\b", recurrence.doc)
    assert "=" in recurrence.doc


@each
def test_it_names_the_term_that_makes_it_sequential_and_its_place(file: Path) -> None:
    source = read_source(file)
    (recurrence,) = check(source).recurrences
    found = report(analyse(recurrence), source)["components"]
    assert isinstance(found, list)
    for component in found:
        if component["form"] != "sequential":
            assert component["place"] is None
            continue
        assert "`" in component["reason"]
        name, line, column = component["place"].rsplit(":", 2)
        assert name == source.name
        rest = source.text.splitlines()[int(line) - 1][int(column) - 1 :]
        assert re.match(r"[\w(-]", rest) and not rest.startswith(("state", "input", "param"))


@each
def test_the_reference_is_finite_with_gradients_to_all_inputs(file: Path) -> None:
    (recurrence,) = check(read_source(file)).recurrences
    for case in standard_cases(recurrence, time=20):
        data = case.draw(recurrence, torch.float64, 0)
        leaves = {n: x.clone().requires_grad_() for n, x in data.tensors.items()}
        start, marks = data.initial_state, data.cu_seqlens
        ran = interpret(recurrence, leaves, initial_state=start, cu_seqlens=marks)
        total = sum(x.abs().sum() for x in ran.outputs)
        assert isinstance(total, torch.Tensor)
        total.backward()
        assert bool(total.isfinite())
        for declared in recurrence.inputs:
            grad = leaves[declared.name].grad
            assert grad is not None
            assert bool(
                torch.view_as_real(grad).isfinite().all()
                if grad.is_complex()
                else grad.isfinite().all()
            )
            assert bool((grad != 0).any()), declared.name


@pytest.mark.slow
@each
def test_every_backend_passes_scandsl_test(file: Path) -> None:
    found = list(judge(read_source(file), {}, load(file), Choice()))
    assert {run.backend for run in found} >= {"torch", "reference", "step"}
    assert list(failures(found)) == []
