"""What is said of a step: expressions as they were written, events, places."""

from __future__ import annotations

import pytest

from scandsl.analysis import analyse
from scandsl.analysis.report import describe, report
from scandsl.analysis.show import show
from scandsl.diagnostics import Source
from scandsl.driver import check

EXPRESSIONS = """
    x + y; x - y; x * y; x / y; x ** y; x % y; -x; x - (y - z); x - y - z; x + y + z; (x + y) * z
    x * y + z; x * (y + z); x / (y * z); x / y / z; x / (y / z)
    x ** (y ** z); (x ** y) ** z
    (x + y) ** z; -(x + y); -x * y; (-x) ** y; x ** (-y); x - -y; -(x * y)
    x % (y % z); (x + y) % z; exp(x); exp(-x - y); max(x, y); min(x + y, z); logaddexp(x, y)
    clamp(x, y, z); stopgrad(x); where(x > y, x, y); where(x >= y and y < z, x, y)
    where(x > y or y > z, x, y); where(not x > y, x, y); where(x > y and (y > z or z > x), x, y)
    where(x > y and y > z or z > x, x, y); where(not (x > y and y > z), x, y); where(x != y, x, y)
    where(x == y, x, y); where(x <= y, x, y); where(not x == y, x, y); where(not x != y, x, y)
    where(not x < y, x, y); where(not x <= y, x, y); where(not x >= y, x, y)
    where(x + y < z, x, y); lag(x, 2); lag(x + y, 1)
    q @ k; q @ (k * x); q @ k * x; (q + k) @ q; -q @ k; sum[K](q); mean[K](q + k); max[K](q)
    sum[K](l2norm[K](q)); sum[K](softmax[K](x * q)); m @ q; t * x
    x - 2; 2 * x; x * 0.5; x ** 0.5; -2.5 * x; sum[K](iota(K) * q); q @ k + x; x - q @ k
""".replace("\n", ";")
WRITTEN = [y for x in EXPRESSIONS.split(";") if (y := x.strip())]


def expressions(text: str) -> list[str]:
    source = Source("s.scan", text)
    (found,) = check(source).recurrences
    return [show(found.values, o.value, depth=9, inside=True) for o in found.outputs]


def dims_of(text: str) -> str:
    return "[J]" if text == "m @ q" else ""


@pytest.mark.parametrize("written", WRITTEN)
def test_expressions_are_shown_as_written(written: str) -> None:
    """All of these are in the notation that has no bracket too many."""
    names = [n for n in "xyz" if n in written.replace("exp", "").replace("max", "")]
    names += [f"{n}[K]" for n in "qk" if n in written] + ["m[J, K]"] * ("m @" in written)
    head = f"scan s:\n    input {', '.join(names)}\n"
    lines = head + f"    output o{dims_of(written)} = {written}\n"
    assert expressions(lines) == [written]


def test_long_expressions_are_cut() -> None:
    text = "scan s:\n    input x\n    output o = exp(exp(exp(exp(exp(exp(x))))))\n"
    (found,) = check(Source("s.scan", text)).recurrences
    assert show(found.values, found.outputs[0].value, inside=True) == "exp(exp(exp(exp(…))))"
    assert show(found.values, found.outputs[0].value, depth=1, inside=True) == "exp(…)"


STEP = """scan s:
    input q[K], k[K], v[V], a, g in (-inf, 0], beta in [0, 1]
    state S[K, V], m = -inf
    S *= exp(g)
    S += (beta + a) * k * (v - k @ S)
    m = max(m + g, a)
    output o[V] = (q - k) @ S + m
"""
TEXT = """
decay   S ← exp(g) ∘ S    (log: g)
probe   u = k @[K] S
update  S ← S + (-((beta + a) * k)) ∘ u
write   S ← S + ((beta + a) * k) ∘ v
read    r = (q - k) @[K] S
fold    m ← max(m + g, a)
""".strip().splitlines()


def test_events_as_assignments() -> None:
    (found,) = check(Source("s.scan", STEP)).recurrences
    lines = [line.removeprefix("  events").strip() for line in describe(analyse(found))]
    told = [x for x in lines if x.split()[:1] in [[t.split()[0]] for t in TEXT]]
    assert sorted(" ".join(x.split()) for x in told) == sorted(" ".join(x.split()) for x in TEXT)
    assert [x.split()[0] for x in told if "S" in x] == [x.split()[0] for x in TEXT if "S" in x]


SEQUENTIAL = """scan s:
    input x, y[D]
    state h, c[D]
    h = tanh(x + h)
    c = where(c > 0, y, y * c + x)
    output o[D] = c * h
"""


def test_places_are_those_of_the_terms() -> None:
    """Line and column of what makes a component sequential; none where nothing does."""
    source = Source("dir/s.scan", SEQUENTIAL)
    (found,) = check(source).recurrences
    parts = report(analyse(found), source)["components"]
    assert isinstance(parts, list)
    by = {c["states"][0]: c for c in parts}
    assert by["h"]["culprit"] == "h" and "`tanh(x + h)`" in by["h"]["reason"]
    assert by["h"]["place"] == "dir/s.scan:4:9"
    assert by["c"]["place"] == "dir/s.scan:5:9"
    without = report(analyse(found))["components"]
    assert isinstance(without, list) and all(c["place"] is None for c in without)
    source = Source("s.scan", STEP)
    (found,) = check(source).recurrences
    parts = report(analyse(found), source)["components"]
    assert isinstance(parts, list) and all(c["place"] is None for c in parts)
    source = Source("dir/s.scan", SEQUENTIAL)
    (found,) = check(source).recurrences
    assert "  place   dir/s.scan:4:9" in describe(analyse(found), source)


def test_roles_and_constancy() -> None:
    (found,) = check(Source("s.scan", STEP)).recurrences
    lines = describe(analyse(found))
    assert "  roles   contracted [K], free [V]" in lines
    leak = "scan s:\n    input x\n    param a in (0, 1)\n    state h\n    h = a * h + x\n"
    (found,) = check(Source("s.scan", leak + "    output o = h\n")).recurrences
    assert any(line.endswith(", constant in time") for line in describe(analyse(found)))
