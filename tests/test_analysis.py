"""What analysis finds, for every example and for specs made to try it, judged by numbers."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from scandsl.analysis import analyse
from scandsl.analysis.forms import CHUNKS
from scandsl.analysis.graph import dependency_graph
from scandsl.analysis.program import Decay, Form, Program, Transition, Write
from scandsl.analysis.report import describe, report
from scandsl.diagnostics import Source
from scandsl.driver import check
from scandsl.ir.nodes import (
    Contract,
    Grad,
    Input,
    Insert,
    Iota,
    LagState,
    Normalize,
    Param,
    Prev,
    Recurrence,
    Reduce,
    Rename,
    Scalar,
    Select,
    Size,
    Stack,
)
from scandsl.ir.verify import verify
from tests.analysis_tools import agree, replayed

ROOT = Path(__file__).parents[1]
FILES = (
    *sorted((ROOT / "examples").glob("*.scan")),
    ROOT / "tests/specs/language.scan",
    ROOT / "tests/specs/analysis.scan",
)


@cache
def recurrences() -> dict[str, Recurrence]:
    found = {}
    for path in FILES:
        for r in check(Source(path.name, path.read_text(encoding="utf-8"))).recurrences:
            found[f"{path.stem}:{r.name}"] = r
    return found


@cache
def program(name: str) -> Program:
    return analyse(recurrences()[name])


NAMES = tuple(recurrences())
TTT = tuple(n for n in NAMES if "ttt" in n)


@pytest.mark.parametrize("name", NAMES)
def test_normal_form_computes_the_same_numbers_and_gradients(name: str) -> None:
    found = program(name).recurrence
    assert not any(isinstance(v.op, Grad) for v in found.values)
    verify(found)
    agree(recurrences()[name], found)


@pytest.mark.parametrize("name", NAMES)
def test_replaying_the_events_gives_the_same_numbers_and_gradients(name: str) -> None:
    agree(recurrences()[name], replayed(program(name)))


def test_a_wrong_event_is_noticed() -> None:
    found = program("gated_delta_rule:gated_delta_rule")
    component = found.components[0]
    late = tuple(e for e in component.events if not isinstance(e, Decay))
    late += tuple(e for e in component.events if isinstance(e, Decay))
    wrong = replace(found, components=(replace(component, events=late),))
    with pytest.raises(AssertionError):
        agree(recurrences()["gated_delta_rule:gated_delta_rule"], replayed(wrong))


CLASSES = {
    "analysis:static_entries": [("s", Transition.ELEMENTWISE)],
    "analysis:shift_register": [("s", Transition.SHIFT)],
    "analysis:last_value": [("p", Transition.SHIFT), ("h", Transition.SCALAR)],
    "analysis:momentum": [("M S", Transition.BLOCK)],
    "analysis:both_gates": [("S", Transition.BOTH)],
    "analysis:full_gate": [("S", Transition.ELEMENTWISE)],
    "analysis:transposed": [("S", Transition.DENSE_CONSTANT)],
    "analysis:per_column": [("S", Transition.LOW_RANK)],
    "analysis:filter": [("", Transition.WINDOW), ("", Transition.DENSE_CONSTANT)],
    "decayed_max:decayed_max": [("m", Transition.MAX_PLUS)],
    "gated_slot_attention:gated_slot_attention": [
        ("Ks", Transition.VALUE), ("Vs", Transition.KEY),
    ],
    "gla:gla": [("S", Transition.KEY)],
    "gru:gru": [("h", Transition.NONLINEAR)],
    "hippo_legs:hippo_legs": [("c", Transition.DENSE_SCALED)],
    "kalman_filter:kalman_filter": [("P", Transition.NONLINEAR), ("x", Transition.DENSE)],
    "linear_attention:linear_attention": [("S", Transition.NONE), ("z", Transition.NONE)],
    "linear_state_space:linear_state_space": [("x", Transition.DENSE_CONSTANT)],
    "log_sum_exp:log_sum_exp": [("l", Transition.LOG_SUM_EXP)],
    "lru:lru": [("h", Transition.ROTATION)],
    "mamba:mamba": [("h", Transition.ELEMENTWISE)],
    "mamba2:mamba2": [("S", Transition.SCALAR)],
    "mlstm:mlstm": [
        ("m", Transition.MAX_PLUS), ("C", Transition.SCALAR), ("n", Transition.SCALAR),
    ],
    "retnet:retnet": [("S", Transition.SCALAR_CONSTANT)],
    "rwkv7:rwkv7": [("S", Transition.LOW_RANK)],
    "slstm:slstm": [("c n h m", Transition.NONLINEAR)],
    "titans:titans": [("S M", Transition.BLOCK)],
    "ttt_linear:ttt_linear": [("W F", Transition.BLOCKWISE)],
}  # fmt: skip


@pytest.mark.parametrize("name", CLASSES)
def test_class_of_each_component(name: str) -> None:
    found = [(" ".join(c.states), c.transition) for c in program(name).components]
    assert found == CLASSES[name]


CHUNKED = (
    "titans:titans", "analysis:momentum",
    "linear_attention:linear_attention", "retnet:retnet", "mamba2:mamba2", "simple_gla:simple_gla",
    "analysis:mimo", "analysis:mimo_sum", "analysis:leaky", "analysis:difference",
    "analysis:bonus", "analysis:two_decays", "analysis:reset", "analysis:masked_decay",
    "analysis:gate_from_state", "analysis:mean_read", "analysis:pure_map",
    "analysis:both_gates", "analysis:free_gate", "analysis:oja_read", "analysis:static_entries",
    "exponential_moving_average:exponential_moving_average", "gated_oja_rule:gated_oja_rule",
    "analysis:whole", "analysis:late_query", "analysis:full_gate",
    "analysis:everywhere", "gated_delta_net:gated_delta_net", "mlstm_sigmoid:mlstm_sigmoid",
    "xpos_retention:xpos_retention", "hgrn:hgrn", "lru:lru", "mamba:mamba", "s4d:s4d", "s5:s5",
    "based:based", "min_lstm:min_lstm", "mega_moving_average:mega_moving_average",
    "gated_slot_attention:gated_slot_attention", "hgrn2:hgrn2", "min_gru:min_gru", "rg_lru:rg_lru",
    "delta_net:delta_net", "delta_product:delta_product", "gated_delta_rule:gated_delta_rule",
    "gated_delta_net:gated_delta_net", "mlstm_sigmoid:mlstm_sigmoid",
    "xpos_retention:xpos_retention",
    "gla:gla", "kimi_delta_attention:kimi_delta_attention", "rwkv6:rwkv6", "rwkv7:rwkv7",
)  # fmt: skip


def test_which_programs_are_chunked() -> None:
    found = {n for n in NAMES if program(n).form is Form.CHUNK}
    names = ("linear_attention", "delta_product", "gated_delta_rule", "rwkv7", "mamba", "lru")
    again = {f"language:{n}" for n in names}
    assert found == {*CHUNKED, *again}


@pytest.mark.parametrize("name", NAMES)
def test_whatever_is_sequential_says_why(name: str) -> None:
    found = program(name)
    for component in found.components:
        assert component.reason
        if found.form is not Form.CHAIN:
            assert (component.form in CHUNKS) == (found.form in CHUNKS)
        if component.form is Form.SEQUENTIAL:
            assert component.refused and component.refused[0].form is Form.CHUNK
    json.dumps(report(found))
    assert describe(found)


REASONS = {
    "gru:gru": "`(1 - z) * h` is a product of two values that both depend on the state",
    "analysis:per_column": "the update `k` has a strength along [V]: with an inverse for each "
    "column, chunks would make more passes over memory than the loop over tokens",
    "analysis:lagged": "earlier tokens of what is known beforehand: all tokens at once",
    "elman_rnn:elman_rnn": "`tanh(R @ … + x)` is the tanh of a value that depends on the state",
}


@pytest.mark.parametrize("name", REASONS)
def test_reason_names_the_term(name: str) -> None:
    assert program(name).components[0].reason == REASONS[name]


REFUSALS = {
    "analysis:whole": "the state is read as a whole in `S`, not by a query",
    "analysis:everywhere": "the decay `where(every 2, 0.5, 1)` depends on an `every` block",
    "analysis:full_gate": "the decay `a` is no product of one along each dimension",
    "lru:lru": "state `h` is complex, and no matrix",
}


@pytest.mark.parametrize("name", REFUSALS)
def test_states_that_move_entry_by_entry_say_why_not_by_matrix_products(name: str) -> None:
    component = program(name).components[0]
    assert component.form is Form.SCAN
    assert component.refused[0].reason == REFUSALS[name]


def test_events_of_rwkv7_keep_their_moments() -> None:
    kinds = [type(e).__name__ for e in program("rwkv7:rwkv7").components[0].events]
    assert kinds == ["Probe", "Decay", "Update", "Write", "Read"]


def test_events_of_rwkv6_distribute_the_bonus() -> None:
    component = program("rwkv6:rwkv6").components[0]
    assert [type(e).__name__ for e in component.events] == ["Read", "Decay", "Write"]


def test_a_normaliser_writes_one() -> None:
    found = program("linear_attention:linear_attention")
    write = next(e for e in found.components[1].events if isinstance(e, Write))
    assert write.b is not None
    assert found.recurrence.values[write.x].dims == ()


def test_collinear_vectors_of_the_delta_rule() -> None:
    text = report(program("gated_delta_rule:gated_delta_rule"))["components"][0]["merged"]
    assert text == [["k", "-(beta * k)"], ["k", "beta * k"]]
    assert program("rwkv7:rwkv7").components[0].merged == ()


def test_components_come_in_topological_order() -> None:
    names = [g.states for g in dependency_graph(recurrences()["mlstm:mlstm"]).groups]
    assert names == [("m",), ("C",), ("n",)]


# ---------------------------------------------------------------- names and hash seeds


class Renamer:
    """Every identifier of a recurrence replaced, in an order unlike that of the alphabet."""

    def __init__(self) -> None:
        self.table: dict[str, str] = {}

    def __call__(self, name: str) -> str:
        if name.endswith("'"):
            return self(name[:-1]) + "'"
        if name not in self.table:
            self.table[name] = f"zz{900 - len(self.table)}"
        return self.table[name]

    def all(self, names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(self(n) for n in names)

    def op(self, op: object) -> object:
        match op:
            case Input(n) | Param(n) | Scalar(n):
                return type(op)(self(n))
            case Size(d) | Iota(d):
                return type(op)(self(d))
            case Prev(s):
                return Prev(self(s))
            case LagState(s, n):
                return LagState(self(s), n)
            case Contract() | Reduce() | Normalize():
                return replace(op, over=self.all(op.over))
            case Rename(x, pairs):
                return Rename(x, tuple((self(a), self(b)) for a, b in pairs))
            case Select() | Insert() | Stack():
                return replace(op, dim=self(op.dim))
            case _:
                return op

    def recurrence(self, r: Recurrence) -> Recurrence:
        def named(items):
            return tuple(replace(x, name=self(x.name), dims=self.all(x.dims)) for x in items)

        dims = tuple(replace(d, name=self(d.name), base=d.base and self(d.base)) for d in r.dims)
        values = tuple(
            replace(v, op=self.op(v.op), dims=self.all(v.dims), name=v.name and self(v.name))
            for v in r.values
        )
        return replace(
            r, name=self(r.name), dims=dims, values=values, inputs=named(r.inputs),
            params=named(r.params), states=named(r.states), outputs=named(r.outputs),
            scalars=tuple(replace(s, name=self(s.name)) for s in r.scalars),
            arguments=self.all(r.arguments),
        )  # fmt: skip

    def back(self, text: str) -> str:
        names = {new: old for old, new in self.table.items()}
        return re.sub(r"zz\d+", lambda m: names[m.group()], text)


@pytest.mark.parametrize("name", NAMES)
def test_renaming_everything_changes_only_names(name: str) -> None:
    renamer = Renamer()
    renamed = report(analyse(renamer.recurrence(recurrences()[name])))
    original = json.dumps(report(program(name)), ensure_ascii=False)
    assert renamer.back(json.dumps(renamed, ensure_ascii=False)) == original


SCRIPT = """
from pathlib import Path
from scandsl.analysis import analyse
from scandsl.diagnostics import Source
from scandsl.driver import check
for name in {paths!r}:
    for r in check(Source(name, Path(name).read_text(encoding="utf-8"))).recurrences:
        print(analyse(r))
"""


def test_the_same_under_any_hash_seed() -> None:
    script = SCRIPT.format(paths=[str(p) for p in FILES[-2:]])
    texts = [
        subprocess.run(
            [sys.executable, "-c", script], capture_output=True, check=True, cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)},
        ).stdout
        for seed in ("0", "1", "2", "3")
    ]  # fmt: skip
    assert texts[0] and len(set(texts)) == 1
