"""The parser: precedence, spans, all of the language page, errors, and texts made to break it."""

from __future__ import annotations

import dataclasses
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scandsl.diagnostics import ScanError, Source, Span, render_all
from scandsl.driver import check
from scandsl.syntax import ast, grammar_file, tokens
from scandsl.syntax.ast import (
    Assign,
    BinaryOp,
    Call,
    Compare,
    Declaration,
    Every,
    Expr,
    For,
    Function,
    Identifier,
    Interval,
    Item,
    Name,
    Number,
    Paren,
    Scan,
    Subscript,
    Target,
    UnaryOp,
    Unit,
)
from scandsl.syntax.parse import MAX_ERRORS, parse, parse_recovering, recover

HERE = Path(__file__).parent
LANGUAGE = (HERE / "specs" / "language.scan").read_text(encoding="utf-8")
ERRORS = sorted((HERE / "errors" / "syntax").glob("*.scan"))


def file(text: str) -> ast.File:
    return parse(Source("test.scan", text))


def expression(text: str) -> Expr:
    (function,) = file(f"fn f() = {text}\n").items
    assert isinstance(function, Function)
    return function.body


def body(*lines: str) -> tuple[ast.Statement, ...]:
    (scan,) = file("scan s:\n" + "".join(f"    {line}\n" for line in lines)).items
    assert isinstance(scan, Scan)
    return scan.body


def show(e: Expr) -> str:
    """An expression with every grouping written out."""
    match e:
        case Number(value):
            return repr(value)
        case Name(text):
            return text
        case Subscript(name, slots):
            return f"{name.text}[{','.join(slot(s) for s in slots)}]"
        case UnaryOp(op, x):
            return f"<{op} {show(x)}>"
        case BinaryOp(op, a, b, over):
            dims = "" if over is None else f"[{','.join(d.text for d in over)}]"
            return f"<{show(a)} {op}{dims} {show(b)}>"
        case Compare(parts, ops):
            rest = "".join(f" {o} {show(p)}" for o, p in zip(ops, parts[1:], strict=True))
            return f"<{show(parts[0])}{rest}>"
        case Call(function, dims, arguments):
            listed = "" if dims is None else f"[{','.join(d.text for d in dims)}]"
            return f"{function.text}{listed}({','.join(show(a) for a in arguments)})"
        case Paren(inner):
            return f"({show(inner)})"


def slot(s: ast.Slot) -> str:
    return str(s.value) if isinstance(s, Number) else s.text


# ---------------------------------------------------------------- expressions

PRECEDENCE = [
    ("a + b * c", "<a + <b * c>>"),
    ("a - b - c", "<<a - b> - c>"),
    ("a / b * c % d @ e", "<<<<a / b> * c> % d> @ e>"),
    ("a * b @ c", "<<a * b> @ c>"),
    ("-a ** 2", "<- <a ** 2>>"),
    ("a ** -b ** c", "<a ** <- <b ** c>>>"),
    ("a ** b ** c", "<a ** <b ** c>>"),
    ("-a * b", "<<- a> * b>"),
    ("- -a", "<- <- a>>"),
    ("a * -b", "<a * <- b>>"),
    ("a or b and not c", "<a or <b and <not c>>>"),
    ("not a < b", "<not <a < b>>"),
    ("not not a", "<not <not a>>"),
    ("a or b or c", "<<a or b> or c>"),
    ("0 < a <= b != c", "<0 < a <= b != c>"),
    ("(a < b) < c", "<(<a < b>) < c>"),
    ("a + b < c * d and e", "<<<a + b> < <c * d>> and e>"),
    ("a @[W] b", "<a @[W] b>"),
    ("a @[W, K'] -b @ c", "<<a @[W,K'] <- b>> @ c>"),
    ("a @[W](b)", "<a @[W] (b)>"),
    ("sum[K](e)", "sum[K](e)"),
    ("sum[K, V](e * 2)", "sum[K,V](<e * 2>)"),
    ("k[r, K']", "k[r,K']"),
    ("k[0] * f[D](x, 1.5)", "<k[0] * f[D](x,1.5)>"),
    ("f()", "f()"),
    ("max(a, b,)", "max(a,b)"),
    ("complex(a, b) * unit[D](x)", "<complex(a,b) * unit[D](x)>"),
    ("K' + 1", "<K' + 1>"),
    ("1e-6 + .5 + 2. + 1_000 + 3E2", "<<<<1e-06 + 0.5> + 2.0> + 1000> + 300.0>"),
    ("(\n  a\n  # why\n  + b\n)", "(<a + b>)"),
    ("in_x + format + scanner + forget + statex + notx + orb + android", None),
]


@pytest.mark.parametrize(("text", "shown"), PRECEDENCE, ids=[t for t, _ in PRECEDENCE])
def test_precedence(text: str, shown: str | None) -> None:
    found = show(expression(text))
    if shown is None:
        assert found.replace("<", "").replace(">", "") == text
    else:
        assert found == shown


def test_numbers_keep_their_kind() -> None:
    assert expression("2") == Number(2)
    assert isinstance(expression("2").value, int)  # type: ignore[union-attr]
    assert isinstance(expression("2.0").value, float)  # type: ignore[union-attr]


def test_names_are_normalised() -> None:
    # fi ligature, full-width K, decomposed and composed é
    assert expression("\ufb01 + \uff2b + e\u0301 + \u00e9") == expression(
        "fi + K + \u00e9 + \u00e9"
    )
    assert show(expression("\u03b2 * \u03b1_1")) == "<\u03b2 * \u03b1_1>"
    # a keyword with a combining mark is a longer name
    assert expression("in\u0304") == Name("in\u0304")


# ---------------------------------------------------------------- declarations and statements


def item(text: str) -> Item:
    (declaration,) = body("input " + text)
    assert isinstance(declaration, Declaration)
    (only,) = declaration.items
    return only


X, D = Identifier("x"), Identifier("D")
ONE, TWO = Number(1), Number(2)
SUFFIXES: list[tuple[str, dict[str, Any]]] = [
    ("[D]", {"dims": (D,)}),
    (": complex", {"is_complex": True}),
    (" in (1, 2]", {"range": Interval(ONE, TWO, True, False)}),
    (" = 2", {"value": TWO}),
]


@pytest.mark.parametrize("chosen", range(16))
def test_suffixes_in_every_combination(chosen: int) -> None:
    taken = [s for i, s in enumerate(SUFFIXES) if chosen >> i & 1]
    fields: dict[str, Any] = {}
    for _, given_fields in taken:
        fields |= given_fields
    assert item("x" + "".join(text for text, _ in taken)) == Item(X, **fields)


@pytest.mark.parametrize("low_open", [False, True])
@pytest.mark.parametrize("high_open", [False, True])
def test_intervals(low_open: bool, high_open: bool) -> None:
    text = f"x in {'[('[low_open]}-inf, 0{'])'[high_open]}"
    assert item(text).range == Interval(UnaryOp("-", Name("inf")), Number(0), low_open, high_open)


def test_unit_and_complex_are_names_elsewhere() -> None:
    assert item("unit in unit") == Item(Identifier("unit"), range=Unit())
    assert item("complex: complex") == Item(Identifier("complex"), is_complex=True)
    assert body("unit = complex")[0] == Assign(Target(Identifier("unit")), "=", Name("complex"))


def test_a_suffix_belongs_to_its_own_item() -> None:
    (state,) = body("state C[K, V], n[K], m = -inf")
    k, v = Identifier("K"), Identifier("V")
    minus_inf = UnaryOp("-", Name("inf"))
    items = (
        Item(Identifier("C"), (k, v)),
        Item(Identifier("n"), (k,)),
        Item(Identifier("m"), value=minus_inf),
    )
    assert state == Declaration("state", items)


@pytest.mark.parametrize(
    "text", ["input a,\n  b,\n\n  # more\n        c\n", "input a, # first\n    b,c\n"]
)
def test_a_declaration_goes_on_after_a_comma(text: str) -> None:
    (scan,) = file(f"scan s:\n    {text}").items
    assert isinstance(scan, Scan)
    assert scan.body == body("input a, b, c")


@pytest.mark.parametrize("op", ["=", "+=", "-=", "*=", "/="])
def test_assignments(op: str) -> None:
    s, m, k = Identifier("s"), Identifier("m"), Identifier("K")
    found = body(f"s {op} 1", f"s[m] {op} 1", f"s[0, K, K'] {op} 1")
    targets = (Target(s), Target(s, (m,)), Target(s, (Number(0), k, Identifier("K'"))))
    assert found == tuple(Assign(t, op, ONE) for t in targets)  # type: ignore[arg-type]


def test_blocks() -> None:
    inline = body("for r in R: x = 1", "every 16: x = 1", "for i in 5: x = 1")
    below = body("for r in R:", "    x = 1", "every 16:", "  x = 1", "for i in 5:", "       x = 1")
    assign = (Assign(Target(X), "=", ONE),)
    r, i = Identifier("r"), Identifier("i")
    assert (
        inline
        == below
        == (For(r, Identifier("R"), assign), Every(Number(16), assign), For(i, Number(5), assign))
    )


def test_documentation_is_cleaned_and_has_no_escapes() -> None:
    text = 'scan s:\n    """One \\alpha.\n\n      two\n    three\n    """\n    input x\n'
    (scan,) = file(text).items
    assert isinstance(scan, Scan)
    assert scan.doc == "One \\alpha.\n\n  two\nthree"


@pytest.mark.parametrize("text", ["", "\n\n", "# only a comment", "\ufeff# byte order mark\n"])
def test_empty_files(text: str) -> None:
    assert file(text) == ast.File(())


@pytest.mark.parametrize("end", ["\r\n", "\r"])
def test_line_ends(end: str) -> None:
    assert file(LANGUAGE.replace("\n", end)) == file(LANGUAGE)


def test_tabs_alone_are_indentation() -> None:
    assert file(LANGUAGE.replace("    ", "\t")) == file(LANGUAGE)


def test_no_line_end_at_the_end() -> None:
    assert file(LANGUAGE.rstrip("\n")) == file(LANGUAGE)


def test_the_language_page() -> None:
    found = file(LANGUAGE)
    names = [i.name.text for i in found.items]
    assert names == [
        "gated_delta_rule", "phi", "linear_attention", "mamba", "rwkv7", "mlstm", "delta_product",
        "gru", "lru", "hippo_legs", "ttt_linear", "unit",
    ]  # fmt: skip
    gdn = found.items[0]
    assert isinstance(gdn, Scan)
    assert gdn.doc == "Gated delta rule, one state matrix per head."
    update = gdn.body[6]
    assert isinstance(update, Assign)
    assert (update.op, show(update.value)) == ("+=", "<<beta * k> * (<v - <k @ S>>)>")
    ttt = found.items[10]
    assert isinstance(ttt, Scan)
    assert isinstance(ttt.body[2], Every)


# ---------------------------------------------------------------- spans


def nodes(value: Any) -> Iterator[Any]:
    """Every dataclass under a value."""
    if isinstance(value, tuple):
        for part in value:
            yield from nodes(part)
    elif dataclasses.is_dataclass(value) and not isinstance(value, Span):
        yield value
        for f in dataclasses.fields(value):
            yield from nodes(getattr(value, f.name))


SPANS = [
    ("a + (b * c)", "BinaryOp", ["a + (b * c)", "b * c"]),
    ("a + (b * c)", "Paren", ["(b * c)"]),
    ("f[D](x, -y)", "Call", ["f[D](x, -y)"]),
    ("f[D](x, -y)", "UnaryOp", ["-y"]),
    ("k[0, K'] @[W, V] b", "Subscript", ["k[0, K']"]),
    ("(a) < b <= (c)", "Compare", ["(a) < b <= (c)"]),
    ("x + e\u0301\u0301 * y", "Name", ["x", "e\u0301\u0301", "y"]),
]


@pytest.mark.parametrize(("text", "kind", "expected"), SPANS)
def test_spans(text: str, kind: str, expected: list[str]) -> None:
    whole = f"fn f() = {text}  # end\n"
    found = [n for n in nodes(file(whole)) if type(n).__name__ == kind]
    assert [whole[n.span.start : n.span.end] for n in found] == expected


def test_spans_of_statements() -> None:
    text = "scan s:\n    input x[D] in (0, 1] = 2, y\n    for i in 3:\n        x += 1\n\n# end\n"
    cuts = {type(n).__name__: text[n.span.start : n.span.end] for n in nodes(file(text))}
    assert cuts["Scan"] == text[: text.index("\n\n#")]
    assert cuts["For"] == "for i in 3:\n        x += 1"
    assert cuts["Declaration"] == "input x[D] in (0, 1] = 2, y"
    assert cuts["Interval"] == "(0, 1]"
    assert cuts["Target"] == "x"


def test_operators_have_their_own_span() -> None:
    text = "fn f() = a @[W] b + c\n"
    found = [
        text[n.op_span.start : n.op_span.end] for n in nodes(file(text)) if isinstance(n, BinaryOp)
    ]
    assert found == ["+", "@[W]"]


def test_a_child_lies_inside_its_parent() -> None:
    for node in nodes(file(LANGUAGE)):
        for f in dataclasses.fields(node):
            for child in nodes(getattr(node, f.name)):
                assert node.span.start <= child.span.start < child.span.end <= node.span.end


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize("path", ERRORS, ids=[p.stem for p in ERRORS])
def test_messages(path: Path) -> None:
    source = Source(path.name, path.read_text(encoding="utf-8"))
    _, found = parse_recovering(source)
    rendered = render_all(source, found) + "\n"
    expected = path.with_suffix(".txt")
    if os.environ.get("SCANDSL_UPDATE"):
        expected.write_text(rendered, encoding="utf-8")
    assert rendered == expected.read_text(encoding="utf-8")
    with pytest.raises(ScanError) as caught:
        parse(source)
    assert str(caught.value) + "\n" == rendered


def test_the_good_part_is_kept() -> None:
    path = HERE / "errors" / "syntax" / "two_bad_lines.scan"
    source = Source(path.name, path.read_text(encoding="utf-8"))
    kept, found = parse_recovering(source)
    assert len(found) == 2
    first, second = kept.items
    assert isinstance(first, Scan)
    assert isinstance(second, Scan)
    assert [type(s).__name__ for s in first.body] == ["Declaration", "Declaration"]
    assert len(second.body) == 2
    assert recover(source).lost == {"x", "y", "s"}


def test_syntax_and_meaning_are_reported_together() -> None:
    text = (
        "scan s:\n    input x, u\n    state h\n    h = 0.5 * h + x\n    y = h +\n"
        "    z = hh * x + u\n    output o = y + z\n"
    )
    with pytest.raises(ScanError) as caught:
        check(Source("x", text))
    messages = [d.message for d in caught.value.diagnostics]
    assert len(messages) == 2  # and none about `y`, whose line could not be read
    assert messages[0] == "an expression is missing after `+`"
    assert "`hh`" in messages[1]


def test_words_behind_an_endless_documentation_are_lost() -> None:
    text = (
        'scan s:\n    input x\n    output y = phi(x)\n\nscan t:\n    """ never\n\nfn phi(x) = x\n'
    )
    assert "phi" in recover(Source("x", text)).lost


def test_what_is_mended_is_kept() -> None:
    kept, found = parse_recovering(Source("x", "scan s\n    input x\n    output y = x \u00d7 2\n"))
    assert len(found) == 2
    assert kept == file("scan s:\n    input x\n    output y = x * 2\n")


def test_a_bad_header_takes_its_block_along() -> None:
    text = "scan s:\n    input x\n    for i on 3:\n        x = 1\n    output y = x\n"
    kept, found = parse_recovering(Source("x", text))
    assert len(found) == 1
    assert kept == file("scan s:\n    input x\n    output y = x\n")


def test_good_files_have_no_findings() -> None:
    kept, found = parse_recovering(Source("x", LANGUAGE))
    assert found == []
    assert kept == file(LANGUAGE)


HEAD = "scan s:\n    input x\n    y = "
TOO_MUCH = {
    "nesting": (HEAD + "(" * 10_000 + "x" + ")" * 10_000, "more than 200 brackets"),
    "name": (HEAD + "x" * 100_000, "a name has at most"),
    "huge name": ("x" * 1_000_000, "the file has 1,000,000 characters"),
    "huge file": (HEAD + "1 + " * 2_500_000, "the file has 10,000,028 characters"),
    "chain": (HEAD + " + ".join("x" * 20_000), "nested more than 200 levels"),
    "signs": (HEAD + "-" * 100_000 + "x", "nested more than 200 levels"),
    "negations": (HEAD + "not " * 50_000 + "x", "nested more than 200 levels"),
    "powers": (HEAD + "**".join("x" * 50_000), "nested more than 200 levels"),
    "number": (HEAD + "9" * 10_000, "a number is written with at most"),
    "blocks": (
        "scan s:\n" + "".join(" " * (i + 1) + "for i in 2:\n" for i in range(300)),
        "blocks are nested",
    ),
    "stray": (HEAD + "?!" * 100_000, "has no meaning here"),
    "bad lines": ("x\n" * 100_000, "keeps it nowhere"),
    "comma and nothing": (
        "scan s:\n    input x," + "\n" * 200_000,
        "a name is missing after the comma",
    ),
    "greek": (HEAD + "\u03bb" * 190 + " +", "an expression is missing"),
}


@pytest.mark.parametrize("name", TOO_MUCH)
def test_limits(name: str) -> None:
    text, message = TOO_MUCH[name]
    start = time.perf_counter()
    with pytest.raises(ScanError, match=message) as caught:
        file(text)
    assert time.perf_counter() - start < 20
    assert len(caught.value.diagnostics) <= MAX_ERRORS + 1
    assert len(str(caught.value)) < 100_000


def test_a_file_at_the_limit_parses() -> None:
    text = "scan s:\n    input x\n" + "    y = x + (x * 2) @ K[0]\n" * 2000
    (scan,) = file(text).items
    assert isinstance(scan, Scan)
    assert len(scan.body) == 2001
    assert show(expression("(" * 190 + "x" + ")" * 190)) == "(" * 190 + "x" + ")" * 190


# ---------------------------------------------------------------- texts made to break it

BITS = [
    "\n", "\n    ", "\t", "(", ")", "[", "]", "in", "scan", "fn", "for", "every", "input",
    "output", "state", "unit", "complex",
    "=", "==", "+=", "@", "*", "**", "-", "not", "and", "or", "K", "K'", "x", "3", "1.5",
    '"""', "'", '"', "#", ":", ",", ".",
    "\\", "\u00b2", "\u00d7", "\u00a0", "\u00e9", "e\u0301", "\x00", "\ud800", "\r", "\f", " ",
    "%", ">", "in\u0304", "1__0",
]  # fmt: skip


def only_findings(text: str) -> None:
    source = Source("fuzz.scan", text)
    kept, found = parse_recovering(source)
    for diagnostic in found:
        assert 0 <= diagnostic.span.start <= diagnostic.span.end <= len(text) + 1
    render_all(source, found)
    if not found:
        assert parse(source) == kept


@pytest.mark.parametrize("seed", range(8))
def test_mutated_texts(seed: int) -> None:
    rng = random.Random(seed)
    parts = LANGUAGE.split("\n\n") + [
        p.read_text(encoding="utf-8") for p in ERRORS if p.stat().st_size < 2000
    ]
    for _ in range(60):
        text = rng.choice(parts)
        for _ in range(rng.randint(1, 4)):
            start = rng.randrange(len(text) + 1)
            end = min(len(text), start + rng.choice([0, 0, 1, 2, 5, 20]))
            text = (
                text[:start]
                + rng.choice(["", rng.choice(BITS), f" {rng.choice(BITS)} "])
                + text[end:]
            )
        only_findings(text)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.sampled_from(BITS), max_size=40))
def test_token_soup(bits: list[str]) -> None:
    only_findings(" ".join(bits))


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes(raw: bytes) -> None:
    only_findings(raw.decode("utf-8", errors="surrogateescape"))
    only_findings(raw.decode("latin-1"))


# ---------------------------------------------------------------- where the grammar lies


def test_grammar_in_a_wheel_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "scandsl"
    (tmp_path / "grammar").mkdir()
    (tmp_path / "grammar" / "scan.lark").write_text("checkout")
    monkeypatch.setattr(grammar_file, "_PACKAGE", package)
    assert grammar_file.grammar_path() == tmp_path / "grammar" / "scan.lark"
    (package / "grammar").mkdir(parents=True)
    (package / "grammar" / "scan.lark").write_text("wheel")
    assert grammar_file.grammar_path() == package / "grammar" / "scan.lark"


def test_importing_the_parser_reads_no_grammar() -> None:
    code = "import scandsl.syntax.parse as p; assert p.parser.cache_info().currsize == 0"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=HERE.parent)


def test_limits_are_named_once() -> None:
    assert (tokens.MAX_FILE, tokens.MAX_NAME, tokens.MAX_BRACKETS) == (262_144, 200, 200)
