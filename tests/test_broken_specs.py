"""What a spec may do to the compiler: nothing.  Errors with a place, in seconds, and no file."""

from __future__ import annotations

import ast
import random
from pathlib import Path

import pytest
from click.testing import CliRunner

from scandsl.cli import main
from scandsl.diagnostics import ScanError, Source
from scandsl.driver import Options, check, compile_source
from scandsl.loader import MOST_BYTES, read_source
from tests.broken_specs import broken_bytes, broken_words, judge

HEAD = "scan s:\n    input x[D]\n    state h[D]\n"
TAIL = "    output y[D] = h\n"


def step(body: str, head: str = HEAD) -> str:
    """A scan with one statement."""
    return f"{head}    {body}\n{TAIL}"


def listed(kind: str, count: int) -> str:
    """A scan with many declarations of a kind."""
    names = ", ".join(f"a{i}" for i in range(count))
    return f"scan s:\n    input x\n    {kind} {names}\n    output y = x\n"


STATIC = "scan s:\n    static R = {}\n    input x[D]\n    state h[D]\n"
MONSTERS = {
    "ten megabytes": ("x" * 10_000_000, "characters"),
    "ten megabytes of lines": (HEAD + "    h = h + x\n" * 700_000 + TAIL, "characters"),
    "ten megabytes of documentation": ('scan s:\n    """' + "a" * 10_000_000, "characters"),
    "brackets": (step(f"h = {'(' * 10_000}h{')' * 10_000}"), "brackets are open"),
    "square brackets": (step(f"h = {'h[' * 10_000}"), "brackets are open"),
    "signs": (step(f"h = {'-' * 10_000}h"), "nested more than"),
    "sum": (step(f"h = h{' + x' * 20_000}"), "nested more than"),
    "powers": (step(f"h = h * {'9 ** ' * 3_000}9"), "nested more than"),
    "name": (step(f"h = h + {'a' * 200_000}"), "at most 200 characters"),
    "a megabyte of name": (step(f"h = h + {'a' * 1_000_000}"), "characters"),
    "number": (step(f"h = h * {'9' * 5_000}"), "at most 100 characters"),
    "exponent": (step("h = h * 1e999999999"), "beyond the range"),
    "loop": (step("for i in 1000000:\n        h = h + x"), "too large"),
    "static loop": (step("for i in R:\n        h = h + x", STATIC.format(10**6)), "too large"),
    "nested loops": (
        step("for i in 99:\n        for j in 99:\n            h = h + x"),
        "too large",
    ),
    "static": (step("h = h + x", STATIC.format(10**30)), "64 bits"),
    "window": (step("h = h + sum[R](window[R](x))", STATIC.format(10**9)), "too large"),
    "lag": (step("h = h + lag(x, 1000000000)"), "too long"),
    "inputs": (listed("input", 1_000), "may declare 64 inputs"),
    "states": (listed("state", 1_000), "may declare 64 states"),
    "dimensions": (
        f"scan s:\n    input z[{', '.join(f'D{i}' for i in range(60))}]\n"
        "    output y = sum[D1](z)\n",
        "a value may have 8 dimensions",
    ),
    "functions": (
        "fn f0(x) = x + 1\n"
        + "".join(f"fn f{i}(x) = f{i - 1}(x) * f{i - 1}(x + 1)\n" for i in range(1, 40))
        + step("h = h + f39(x)"),
        "too large",
    ),
}


@pytest.mark.parametrize("name", MONSTERS)
def test_monsters_get_an_error_with_a_place(name: str) -> None:
    text, words = MONSTERS[name]
    with pytest.raises(ScanError, match=words) as caught:
        check(Source("monster.scan", text))
    assert str(caught.value).startswith("monster.scan:")
    assert len(str(caught.value)) < 60_000


@pytest.mark.parametrize(
    "body",
    [
        f"h = where({'x < ' * 330}h, h, x)",
        "for i in 600:\n        h = max(h, x)",
        "for i in 300:\n        h = h * (h + x)",
    ],
    ids=["comparisons", "maxima", "products"],
)
def test_deep_steps_compile_or_are_told(body: str) -> None:
    try:
        ast.parse(compile_source(Source("deep.scan", step(body)), Options()).module)
    except ScanError as error:
        assert "through too many others" in str(error)


def test_many_products_in_one_step_go_token_by_token() -> None:
    text = (
        "scan s:\n    static R = 16\n    input k[R, K], v[R, V], q[K]\n    state S[K, V]\n"
        "    for r in R:\n        S += k[r] * (v[r] - k[r] @ S)\n    output y[V] = q @ S\n"
    )
    (plan,) = compile_source(Source("rank.scan", text), Options()).plans
    assert plan.form.value == "sequential"
    assert "32 terms enter the state" in plan.program.components[0].reason


def test_a_file_without_end_is_read_in_part() -> None:
    endless = Path("/dev/zero")
    if not endless.exists():
        pytest.skip("no endless file here")
    assert len(read_source(endless).text) == MOST_BYTES
    with pytest.raises(ScanError, match="characters"):
        check(read_source(endless))


# ---------------------------------------------------------------- broken at random


@pytest.mark.parametrize("make", [broken_bytes, broken_words])
def test_broken_specs_get_errors(make) -> None:
    _broken(make, range(40))


@pytest.mark.slow
@pytest.mark.parametrize("make", [broken_bytes, broken_words])
def test_many_broken_specs_get_errors(make) -> None:
    _broken(make, range(1_000, 5_000))


@pytest.mark.slow
def test_broken_specs_that_are_valid_compile() -> None:
    for seed in range(300):
        data = broken_words(random.Random(seed))
        if judge(data) is None:
            source = Source("odd.scan", data.decode("utf-8-sig"))
            ast.parse(compile_source(source, Options()).module)


def _broken(make, seeds: range) -> None:
    refused = 0
    for seed in seeds:
        data = make(random.Random(seed))
        try:
            refused += judge(data) is not None
        except Exception as error:
            raise AssertionError(f"seed {seed}: {data!r}") from error
    assert len(seeds) / 3 < refused


# ---------------------------------------------------------------- data stays data

HOSTILE_TEXT = (
    "'''", "\\", 'a "quoted" \\" word', "ends with \\", "{{ 7 * 7 }}", "{% raw %}", "{# no #}",
    '{%- include "x" -%}', "%(x)s {x} {0}", "\\x41\\N{BELL}", "a\u2028raise SystemExit(1)",
    "\u202e", "#" + "x" * 200, "\\N", "a\rimport os",
)  # fmt: skip


def test_documentation_and_comments_are_data() -> None:
    lines = "".join(f"    # {text}\n" for text in HOSTILE_TEXT if "\r" not in text)
    spec = 'scan odd:\n    """{}"""\n    input x\n{}    state s\n    s += x\n    output y = s\n'
    plain = _code(compiled(spec.format("Plain.", "")))
    for end in ("", *HOSTILE_TEXT[1:4:2]):  # each at an end too
        text = "\n    ".join((end, *HOSTILE_TEXT, end))
        assert _code(compiled(spec.format(text, lines))) == plain


def compiled(spec: str, name: str = "odd.scan") -> str:
    """The module of a spec."""
    return compile_source(Source(name, spec), Options(form="sequential")).module


def test_the_name_of_a_file_is_data() -> None:
    spec = step("h = h + x")
    plain = _code(compiled(spec))
    for name in ('a"""\nimport os\n"""{{ 1 }}', "../../a\u2028b\\"):
        assert _code(compiled(spec, name)) == plain


def _code(module: str) -> list[str]:
    """What a module consists of, without its texts and the hashes of them."""
    tree = ast.parse(module)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            node.value = ""
    return [type(n).__name__ for n in ast.walk(tree)]


def test_nothing_is_written_but_the_module(tmp_path: Path) -> None:
    """Not through a link that stands in its place, and not for a folder with the name of a spec."""
    (tmp_path / "out").mkdir()
    (tmp_path / "in").mkdir()
    other = tmp_path / "other.py"
    other.write_text("precious")
    (tmp_path / "in" / "odd.scan").write_text(step("h = h + x"))
    (tmp_path / "in" / "folder.scan").mkdir()
    (tmp_path / "out" / "odd.py").symlink_to(other)
    arguments = ["compile", str(tmp_path / "in"), "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert other.read_text() == "precious"
    assert not (tmp_path / "out" / "odd.py").is_symlink()
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["odd.py"]
