"""The canonical text: what it looks like, that it says the same, that it is a fixed point."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scandsl.diagnostics import ScanError, Source
from scandsl.syntax import ast
from scandsl.syntax.format import COLUMNS, format_source
from scandsl.syntax.parse import parse

HERE = Path(__file__).parent
LANGUAGE = (HERE / "specs" / "language.scan").read_text(encoding="utf-8")
EXAMPLES = sorted((HERE.parent / "examples").glob("*.scan"))


def file(text: str) -> ast.File:
    return parse(Source("test.scan", text))


def canonical(text: str) -> str:
    return format_source(Source("test.scan", text))


def comments(text: str) -> list[str]:
    return [re.sub(r"^#+\s*", "", c).rstrip() for c in re.findall(r"#[^\r\n]*", text)]


def check(text: str) -> str:
    """Same meaning, same comments, fixed point."""
    out = canonical(text)
    assert file(out) == file(text)
    assert comments(out) == comments(text)
    assert canonical(out) == out
    return out


LINES = [
    ("x=1", "x = 1"),
    ("x  +=-1", "x += -1"),
    ("x = - ( a+b )*c", "x = -(a + b) * c"),
    ("x = a**-b", "x = a ** -b"),
    ("x = a@b@[ W,V ]c", "x = a @ b @[W, V] c"),
    ("x = a@[W](b)", "x = a @[W] (b)"),
    ("x = a @[W]-b", "x = a @[W] -b"),
    ("x = a - -b + +c", "x = a - -b + +c"),
    ("x = not(a)or not b and 0<a<=b", "x = not (a) or not b and 0 < a <= b"),
    ("x = sum[K,V]( e,2, )", "x = sum[K, V](e, 2)"),
    ("x [ 0,K' ]=k[r , ]", "x[0, K'] = k[r]"),
    (
        "input x[ K ] :complex in( -inf,0 ]=1,y in unit",
        "input x[K]: complex in (-inf, 0] = 1, y in unit",
    ),
    ("state  S[K, V] ,n", "state S[K, V], n"),
    ("x = 1_000 + .5 + 2. + 1E-6", "x = 1_000 + .5 + 2. + 1E-6"),
    ("x = f( )", "x = f()"),
    ("for  r  in  R : x=1", "for r in R:\n        x = 1"),
    ("every 16 :\n      x=1", "every 16:\n        x = 1"),
    ("x = \ufb01 + e\u0301", "x = fi + \u00e9"),
    ("x = (\n  a\n  +b)", "x = (a + b)"),
    ("x=1 #why  ", "x = 1  # why"),
    ("x=1 #!keep", "x = 1  #!keep"),
]


@pytest.mark.parametrize(("before", "after"), LINES, ids=[b for b, _ in LINES])
def test_lines(before: str, after: str) -> None:
    assert check(f"scan s:\n    {before}\n") == f"scan s:\n    {after}\n"


def test_functions() -> None:
    assert (
        check("fn  phi (x)=elu( x )+1\nfn unit [D]( x,y, )=x\n")
        == "fn phi(x) = elu(x) + 1\nfn unit[D](x, y) = x\n"
    )


def test_blank_lines() -> None:
    text = (
        "\n\n# top\n\n\n\nfn f(x) = x\nfn g(x) = x\n\n\n\nfn h(x) = x\nscan a:\n\n"
        "  input x\n\n\n  y = x\n# of b\nscan b:\n  input x\n\n\n"
    )
    assert check(text) == (
        "# top\n\nfn f(x) = x\nfn g(x) = x\n\nfn h(x) = x\n\nscan a:\n    input x\n\n    y = x\n\n"
        "# of b\nscan b:\n    input x\n"
    )


def test_comments_stay_in_their_block() -> None:
    text = (
        "scan a:\n  # under the header\n  input x  # one\n  long = x # two\n"
        "  for i in 3:\n     x = 1\n     # in the loop\n"
        "  # in the scan\n\n# of b\nscan b: # head\n  input x\n    # odd place\n"
        "  y = x\n  # end of b\n# end\n"
    )
    assert check(text) == (
        "scan a:\n    # under the header\n    input x   # one\n    long = x  # two\n"
        "    for i in 3:\n        x = 1\n"
        "        # in the loop\n    # in the scan\n\n# of b\nscan b:  # head\n"
        "    input x\n    # odd place\n    y = x\n"
        "    # end of b\n\n# end\n"
    )


def test_comments_inside_a_statement() -> None:
    text = (
        "scan a:\n  input q[K],  # query\n     # both\n     k[K]   # key\n"
        "  x = max(q, #first\n   k)\n"
    )
    assert check(text) == (
        "scan a:\n    input q[K],  # query\n        # both\n        k[K]  # key\n"
        "    x = max(q,  # first\n        k)\n"
    )


def test_documentation_stays_as_it_is() -> None:
    doc = '"""One  \\alpha.\n\n  two\t\n three # no comment\n\'\'\' """'
    out = canonical(f"scan a:\n  {doc}\n  input x\n")
    assert out == f"scan a:\n    {doc}\n    input x\n"


def test_long_lines() -> None:
    name = "quite_a_long_name"
    text = (
        f"scan a:\n    input {', '.join(f'{name}_{i}[K, V]' for i in range(9))}\n"
        f"    y = ({' + '.join([name] * 12)})\n"
    )
    out = check(text)
    assert max(map(len, out.splitlines())) <= COLUMNS
    assert len(out.splitlines()) == 7
    unbreakable = f"scan a:\n    y = {' + '.join([name] * 12)}\n"
    assert check(unbreakable) == unbreakable


def test_breaks_prefer_the_outer_brackets() -> None:
    part = "f(alpha_alpha_alpha, beta_beta_beta * gamma)"
    out = check(f"scan a:\n    y = max({part}, {part}, {part})\n")
    assert out == f"scan a:\n    y = max({part},\n        {part}, {part})\n"


def test_line_ends_and_byte_order_mark() -> None:
    assert canonical("\ufeffscan a:\r\n\tinput x # c\r\n") == "scan a:\n    input x  # c\n"


@pytest.mark.parametrize(("text", "out"), [("", ""), ("\n\n", ""), ("#only", "# only\n")])
def test_empty_files(text: str, out: str) -> None:
    assert check(text) == out


def test_a_file_that_does_not_parse_is_refused() -> None:
    with pytest.raises(ScanError):
        canonical("scan a:\n    x = \n")


def test_the_language_page() -> None:
    out = check(LANGUAGE)
    assert "input g in (-inf, 0]  # log decay" in out


@pytest.mark.parametrize("path", EXAMPLES, ids=[p.stem for p in EXAMPLES])
def test_examples(path: Path) -> None:
    check(path.read_text(encoding="utf-8"))


# ---------------------------------------------------------------- drawn files

NAMES = st.sampled_from(
    [
        "x",
        "S",
        "beta",
        "in_x",
        "unit",
        "complex",
        "\u03b2",
        "forget",
        "a_rather_long_name_for_a_value",
    ]
)
DIMS = st.sampled_from(["K", "V", "K'", "W''"])
NUMBERS = st.sampled_from(["0", "1", "2.5", "1e-6", ".5", "3.", "1_0"])
SPACE = st.sampled_from(["", " ", "  "])
INNER = st.sampled_from(["", " ", "  ", "\n", " # note\n   ", "\n# own\n"])  # inside brackets


@st.composite
def spread(draw: st.DrawFn, *parts: str) -> str:
    """Parts joined by white space of any kind; only inside brackets."""
    return parts[0] + "".join(draw(INNER) + p for p in parts[1:])


def brackets(names: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.lists(names, min_size=1, max_size=3).flatmap(
        lambda ns: spread("[", ns[0], *(part for n in ns[1:] for part in (",", n)), "]")
    )


def extend(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    operators = st.sampled_from(["+", "-", "*", "/", "%", "**", "@", "and", "or", "<", "<=", "=="])
    guarded = inner.map(lambda e: f"({e})")
    return st.one_of(
        st.tuples(guarded, SPACE, operators, SPACE, guarded).map("".join),
        st.tuples(guarded, brackets(DIMS), guarded).map(lambda t: f"{t[0]}@{t[1]}{t[2]}"),
        st.tuples(st.sampled_from(["-", "+", "not "]), guarded).map("".join),
        st.tuples(st.sampled_from(["-", "+"]), inner.filter(lambda e: e[0] not in "n")).map(
            "".join
        ),
        inner.flatmap(lambda e: spread("(", e, ")")),
        st.tuples(
            NAMES, st.one_of(st.just(""), brackets(DIMS)), st.lists(inner, max_size=3)
        ).flatmap(lambda t: spread(t[0] + t[1] + "(", ",".join(t[2]), ")")),
    )


LEAVES = st.one_of(
    NAMES,
    DIMS,
    NUMBERS,
    st.tuples(NAMES, brackets(st.one_of(DIMS, st.just("0"), st.just("r")))).map("".join),
)
EXPRESSIONS = st.recursive(LEAVES, extend, max_leaves=8)


@st.composite
def items(draw: st.DrawFn) -> str:
    out = draw(NAMES)
    if draw(st.booleans()):
        out += draw(SPACE) + draw(brackets(DIMS))
    if draw(st.booleans()):
        out += draw(SPACE) + ":" + draw(SPACE) + "complex"
    kind = draw(st.integers(0, 2))
    if kind == 1:
        out += " in unit"
    elif kind == 2:
        out += (
            " in"
            + draw(SPACE)
            + draw(st.sampled_from("[("))
            + draw(EXPRESSIONS)
            + ","
            + draw(EXPRESSIONS)
        )
        out += draw(st.sampled_from("])"))
    if draw(st.booleans()):
        out += draw(SPACE) + "=" + draw(SPACE) + draw(EXPRESSIONS)
    return out


@st.composite
def simple(draw: st.DrawFn) -> str:
    if draw(st.booleans()):
        kind = draw(st.sampled_from(["input", "param", "scalar", "static", "state", "output"]))
        glue = draw(st.sampled_from([",", " , ", ",\n ", ", # note\n   ", ",\n\n# own\n  "]))
        return f"{kind}  " + glue.join(draw(st.lists(items(), min_size=1, max_size=3)))
    target = draw(NAMES) + draw(st.one_of(st.just(""), brackets(DIMS)))
    op = draw(st.sampled_from(["=", "+=", "-=", "*=", "/="]))
    return target + draw(SPACE) + op + draw(SPACE) + draw(EXPRESSIONS)


@st.composite
def blocks(draw: st.DrawFn, depth: int, unit: str) -> str:
    lead = unit * depth
    out = ""
    for _ in range(draw(st.integers(1, 3))):
        out += draw(
            st.sampled_from(
                ["", "\n", "\n\n", f"{lead}# own\n", "# margin\n", f"{lead}{unit}# deep\n"]
            )
        )
        kind = draw(st.integers(0, 5))
        header = draw(st.sampled_from(["for r in R:", "for  i in 5 :", "every 16:", "every W:"]))
        end = draw(st.sampled_from(["\n", "   # note\n", "  \n"]))
        if kind == 0 and depth < 3:
            out += f"{lead}{header}{end}{draw(blocks(depth + 1, unit))}"
        elif kind == 1:
            # a declaration behind a header does not go on over the line
            body = draw(
                simple().filter(
                    lambda s: not re.match(r"(input|param|scalar|static|state|output)", s)
                )
            )
            out += f"{lead}{header} {body}{end}"
        else:
            out += lead + draw(simple()) + end
    return out


@st.composite
def files(draw: st.DrawFn) -> str:
    out = ""
    for index in range(draw(st.integers(1, 3))):
        out += draw(st.sampled_from(["", "\n\n\n", "# before\n", "# far\n\n"]))
        if draw(st.booleans()):
            out += f"fn f{index}[K]( x ,y )={draw(EXPRESSIONS)}\n"
        else:
            doc = draw(st.sampled_from(["", ' """doc\n  more"""\n', "  '''x''' # note\n"]))
            unit = draw(st.sampled_from(["  ", "    ", " "]))
            out += f"scan s{index}:{draw(st.sampled_from(['', ' # head']))}\n"
            out += (unit + doc.strip(" ") if doc else "") + draw(blocks(1, unit))
    return out


@settings(
    max_examples=120,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
@given(files())
def test_drawn_files(text: str) -> None:
    check(text)


@pytest.mark.parametrize("seed", range(4))
def test_any_white_space_gives_the_same_text(seed: int) -> None:
    """Comments aside, only the tokens count."""
    rng = random.Random(seed)
    bare = re.sub(r"#[^\n]*", "", LANGUAGE)
    wide = re.sub(
        r"(?<=\S) (?=\S)", lambda _: " " * rng.randint(1, 4), re.sub(r'""".*?"""', '"""d"""', bare)
    )
    same = re.sub(r'""".*?"""', '"""d"""', bare)
    assert canonical(wide) == canonical(same)
