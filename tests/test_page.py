"""Specs as mathematics, and the page of the examples."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from scandsl.cli import main
from scandsl.diagnostics import Source
from scandsl.syntax import typeset
from scandsl.syntax.ast import Function, Scan
from scandsl.syntax.parse import parse
from tests.generated import ROOT


def step(body: str) -> list[str]:
    text = "scan s:\n" + "".join(f"    {line}\n" for line in body.splitlines())
    (scan,) = parse(Source("s.scan", text)).items
    assert isinstance(scan, Scan)
    return typeset.step(scan)


LINES = [
    ("S *= exp(g)", r"S &\leftarrow e^{g} \, S"),
    ("S += beta * k * v", r"S &\leftarrow S + \beta \, k \, v"),
    ("S -= a + b", r"S &\leftarrow S - \left(a + b\right)"),
    ("S *= a - b", r"S &\leftarrow \left(a - b\right) \, S"),
    ("S /= a + b", r"S &\leftarrow \frac{S}{a + b}"),
    ("s[0] += x", r"s_{0} &\leftarrow s_{0} + x"),
    ("A[K, K'] = x", r"A_{K, K'} &\leftarrow x"),
    ("m1 = dt_bias", r"m_{1} &\leftarrow \mathrm{dt}_{\mathrm{bias}}"),
    ("y = sum[K](a + b)", r"y &\leftarrow \sum_{K} \left(a + b\right)"),
    ("y = q @[K, N] S", r"y &\leftarrow q \cdot_{K, N} S"),
    ("y = a / (b + 1) * c", r"y &\leftarrow \frac{a}{b + 1} \, c"),
    ("y = a * 2", r"y &\leftarrow a \times 2"),
    ("y = exp(a) ** 2", r"y &\leftarrow \left(e^{a}\right)^{2}"),
    ("y = a1 ** 2", r"y &\leftarrow \left(a_{1}\right)^{2}"),
    ("y = -K ** -0.5", r"y &\leftarrow -K^{-0.5}"),
    ("y = 1e-6 + 2.5e-10", r"y &\leftarrow 10^{-6} + 2.5 \times 10^{-10}"),
    ("y = where(a <= b < inf, a, b)",
     r"y &\leftarrow \begin{cases} a & a \le b < \infty \\ b & \text{else} \end{cases}"),
    ("y = where(not c and d or e, a, b)",
     r"y &\leftarrow \begin{cases} a & \lnot c \land d \lor e \\ b & \text{else} \end{cases}"),
    ("y = lag(x, 2)", r"y &\leftarrow {x}_{t - 2}"),
    ("y = lag(a * b, n)", r"y &\leftarrow \left(a \, b\right)_{t - n}"),
    ("y = complex(a, b + c)", r"y &\leftarrow \left(a + i\,\left(b + c\right)\right)"),
    ("y = grad(l * l, W)", r"y &\leftarrow \nabla_{W} \left(l \, l\right)"),
    ("y = abs(max(a, b))", r"y &\leftarrow \left|\max\left(a, b\right)\right|"),
    ("y = max[K](x)", r"y &\leftarrow \max_{K} x"),
    ("y = l2norm[K](x)", r"y &\leftarrow \operatorname{l2norm}_{K}\left(x\right)"),
    ("y = my_f(x) % 3", r"y &\leftarrow \operatorname{my\_f}\left(x\right) \bmod 3"),
    ("output o[V] = q @ S", r"o_{V} &= q \cdot S"),
]  # fmt: skip


@pytest.mark.parametrize(("spec", "wanted"), LINES, ids=lambda x: x[:30])
def test_a_line_as_mathematics(spec: str, wanted: str) -> None:
    assert step(spec) == [wanted]


def test_loops_and_blocks_are_set_off() -> None:
    assert step("for r in R:\n    S += k[r]\nevery 16:\n    F = W") == [
        r"\text{for } r &= 0, \dots, R - 1:",
        r"\quad S &\leftarrow S + k_{r}",
        r"\text{every } 16 &\text{ tokens:}",
        r"\quad F &\leftarrow W",
    ]


def test_functions_are_equations() -> None:
    (function,) = parse(Source("f.scan", "fn phi[D](x) = elu(x) + 1\n")).items
    assert isinstance(function, Function)
    wanted = r"\phi_{D}\left(x\right) = \operatorname{elu}\left(x\right) + 1"
    assert typeset.definition(function) == wanted


def faults(formula: str) -> list[str]:
    """Brackets that are not closed, and lines that cannot be aligned."""
    bare = formula.replace(r"\_", "")
    found = []
    if bare.count("{") != bare.count("}"):
        found.append("braces")
    if len(re.findall(r"\\left\b", bare)) != len(re.findall(r"\\right\b", bare)):
        found.append("left and right")
    if sorted(re.findall(r"\\begin{(\w+)}", bare)) != sorted(re.findall(r"\\end{(\w+)}", bare)):
        found.append("environments")
    lines = re.sub(r"\\begin{cases}.*?\\end{cases}", "", bare).splitlines()
    if "aligned" in bare and any(x.count("&") != 1 for x in lines[1:-1]):
        found.append("places to align")
    return found


def test_the_page_of_the_examples_is_what_they_give() -> None:
    page = (ROOT / "docs" / "examples.md").read_text(encoding="utf-8")
    formulas = re.findall(r"\$\$\n(.*?)\n\$\$", page, re.S)
    assert len(formulas) >= len(list((ROOT / "examples").glob("*.scan")))
    assert {f: found for f in formulas if (found := faults(f))} == {}
    assert faults(r"\left(x") and faults("{")
    made = CliRunner().invoke(main, ["doc", str(ROOT / "examples"), "--title", "Examples"])
    assert made.exit_code == 0, made.output
    own = made.output.replace(str(ROOT / "examples"), "examples")
    assert own == page, "make docs writes it anew"


def test_nothing_in_a_spec_becomes_markup(tmp_path: Path) -> None:
    text = (
        'scan s:\n    """A `*` $x$ <b> [l](u)\n\n    ```\n    # no heading\n    """\n    input x\n'
    )
    text += "    state m\n    m += x\n    output y = m\n"
    (tmp_path / "s.scan").write_text(text, encoding="utf-8")
    made = CliRunner().invoke(main, ["doc", str(tmp_path / "s.scan")])
    assert made.exit_code == 0, made.output
    assert r"A \`\*\` \$x\$ \<b> \[l](u)" in made.output and r"\# no heading" in made.output
    assert "````\nscan s:" in made.output
