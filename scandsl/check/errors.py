"""The wording of every finding of the checker.

In: meaning (names, dimensions, places).  Out: `Diagnostic`s.  Nothing is decided here except how to
say it: what is wrong in the reader's terms first, then the mend.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Sequence

from scandsl.check.shapes import base_of, shape_text
from scandsl.diagnostics import Diagnostic, Note, Severity, Span
from scandsl.ir.nodes import Dims
from scandsl.syntax import ast

MAX_EXCERPT = 48


# ---------------------------------------------------------------- pieces of sentences


def excerpt(text: str, span: Span) -> str:
    """What stands at a place, on one line; the middle of a long one is left out."""
    words = " ".join(text[span.start : span.end].split())
    if len(words) <= MAX_EXCERPT:
        return words
    half = (MAX_EXCERPT - 3) // 2
    return f"{words[:half].rstrip()} … {words[-half:].lstrip()}"


def _near(word: str, options: Iterable[str]) -> str | None:
    """The nearest spelling, letter case aside."""
    table = {option.lower(): option for option in options}
    if word.lower() in table:
        return table[word.lower()]
    close = difflib.get_close_matches(word.lower(), table, 1, 0.6)
    return table[close[0]] if close else None


def _did_you_mean(word: str, options: Iterable[str]) -> tuple[str, ...]:
    near = _near(word, options)
    return () if near is None or near == word else (f"did you mean `{near}`?",)


def _listing(names: Iterable[str], limit: int = 8) -> str:
    shown = [f"`{name}`" for name in names]
    more = ", …" if len(shown) > limit else ""
    return ", ".join(shown[:limit]) + more


def _shape(dims: Sequence[str]) -> str:
    """`[K, V]`, or words for a value without dimensions."""
    return shape_text(dims) if dims else "a number"


def _is(text: str, dims: Sequence[str]) -> str:
    return f"`{text}` is {_shape(dims)}"


def _article(word: str) -> str:
    return f"an {word}" if word[0] in "aeiou" else f"a {word}"


def _bare(text: str) -> str:
    """An expression without parentheses around all of it."""
    if not (text.startswith("(") and text.endswith(")")):
        return text
    inner = text[1:-1]
    depth = 0
    for char in inner:
        depth += {"(": 1, ")": -1}.get(char, 0)
        if depth < 0:
            return text
    return inner


def _operand(text: str) -> str:
    """An expression as an operand: in parentheses where it is a sum or the like."""
    plain = text.replace("_", "a")
    whole = _bare(text) != text
    return text if plain.isalnum() or whole or text.endswith("]") else f"({text})"


# ---------------------------------------------------------------- files and settings


def no_scan() -> Diagnostic:
    """A file without a recurrence."""
    mend = "start one with `scan name:` and indent its declarations and statements below"
    return Diagnostic("this file defines no scan", Span(0, 1), (mend,))


def setting_unknown(span: Span, name: str, statics: Sequence[str]) -> Diagnostic:
    """`--set Q=3` without `static Q`."""
    known = f"the statics of this file are {_listing(statics)}" if statics else "there are none"
    help_ = (*_did_you_mean(name, statics), known)
    return Diagnostic(f"the setting `{name}` names no `static` of this file", span, help_)


def setting_value(span: Span, name: str, value: object) -> Diagnostic:
    """`--set R=0`."""
    return Diagnostic(f"the setting `{name}={value}` is not a positive integer", span)


# ---------------------------------------------------------------- names


def reserved(span: Span, name: str) -> Diagnostic:
    """A word of the language used as a name."""
    meaning = {"t": "the position in the sequence", "inf": "infinity", "pi": "the number π"}.get(
        name
    )
    what = f"`{name}` is reserved" + (f": it is {meaning}" if meaning else " and cannot be a name")
    return Diagnostic(what, span, (f"choose another name, such as `{name}_`",))


def duplicate_name(span: Span, name: str, first: Span) -> Diagnostic:
    """One name for two things."""
    note = Note(f"`{name}` is first declared here", first)
    mend = "dimensions and values share one namespace; choose another name"
    return Diagnostic(f"the name `{name}` is declared twice", span, (mend,), (note,))


def duplicate_definition(span: Span, name: str, first: Span) -> Diagnostic:
    """Two scans or functions of one name."""
    note = Note(f"`{name}` is first defined here", first)
    mend = "scans and functions of a file share one namespace; choose another name"
    return Diagnostic(f"the name `{name}` is defined twice", span, (mend,), (note,))


def duplicate_parameter(span: Span, name: str) -> Diagnostic:
    """`fn f(x, x) = …`."""
    return Diagnostic(f"the parameter `{name}` occurs twice", span, ("choose another name",))


def dim_as_value(span: Span, name: str, dim: Span | None) -> Diagnostic:
    """A dimension's name given to a value."""
    notes = (Note(f"`{name}` is a dimension here", dim),) if dim is not None else ()
    mend = "dimensions and values share one namespace; choose another name for one of them"
    return Diagnostic(f"`{name}` is a dimension, so it cannot name a value", span, (mend,), notes)


def unknown_name(span: Span, name: str, known: Sequence[str], is_function: bool) -> Diagnostic:
    """A name that nothing declares."""
    if is_function:
        return Diagnostic(
            f"`{name}` is a function and has no value by itself", span, (f"call it: `{name}(…)`",)
        )
    if name.endswith("'"):
        mend = f"primes name dimensions; a value of the step before is `lag({base_of(name)}, 1)`"
        return Diagnostic(f"there is no dimension or value `{name}`", span, (mend,))
    help_ = _did_you_mean(name, known) or (
        f"assign it above this line, or declare it: `input {name}`, `param {name}`",
    )
    return Diagnostic(f"unknown name `{name}`", span, help_)


def unknown_in_function(span: Span, name: str, function: str, values: Sequence[str]) -> Diagnostic:
    """A function body that looks outside."""
    known = f"its parameters are {_listing(values)}" if values else "it has none"
    mend = f"a function sees only its parameters: pass `{name}` as one; {known}"
    help_ = (*_did_you_mean(name, values), mend)
    return Diagnostic(f"unknown name `{name}` in the function `{function}`", span, help_)


def use_before_assignment(span: Span, name: str, is_output: bool) -> Diagnostic:
    """A local that is assigned further down."""
    mend = (
        f"assign `{name}` above this line, or read the value of the step before: `lag({name}, 1)`"
    )
    what = "output" if is_output else "local"
    return Diagnostic(f"the {what} `{name}` is used before it is assigned", span, (mend,))


def local_to_block(span: Span, name: str) -> Diagnostic:
    """A local of an `every` block read outside."""
    mends = (
        f"assign `{name}` before the block, so that it has a value at the other steps too",
        f"or declare `state {name}` to keep its value from the last time the block ran",
    )
    return Diagnostic(
        f"`{name}` is first assigned inside an `every` block and ends with it", span, mends
    )


def not_allowed_here(span: Span, name: str, what: str, place: str) -> Diagnostic:
    """Something that varies in time where nothing may."""
    if "scalar" in place:
        mend = "it may use numbers, sizes of dimensions and scalars declared before it"
    else:
        mend = "it may use params, scalars, sizes of dimensions and numbers"
    return Diagnostic(f"{what} `{name}` cannot be used in {place}", span, (mend,))


# ---------------------------------------------------------------- dimensions


def unknown_dim(identifier: ast.Identifier, known: Sequence[str], role: str | None) -> Diagnostic:
    """A name in brackets that is no dimension."""
    name = identifier.text
    if role is not None:
        mend = f"dimensions here are {_listing(known)}" if known else "this scan has no dimensions"
        return Diagnostic(
            f"`{name}` is {_article(role)}, not a dimension", identifier.span, (mend,)
        )
    help_ = _did_you_mean(base_of(name), known)
    help_ = help_ or ((f"dimensions here are {_listing(known)}",) if known else ())
    return Diagnostic(f"unknown dimension `{name}`", identifier.span, help_)


def unknown_dim_in_function(function: str, identifier: ast.Identifier) -> Diagnostic:
    """A function body with a dimension that is no parameter of it."""
    base = base_of(identifier.text)
    mend = f"make it a parameter: `fn {function}[{base}](…)`, called as `{function}[K](…)`"
    return Diagnostic(
        f"unknown dimension `{identifier.text}` in the function `{function}`",
        identifier.span,
        (mend,),
    )


def dim_without_size(span: Span, name: str, sized: Sequence[str]) -> Diagnostic:
    """A dimension that no tensor gives a size."""
    near = _near(name, sized) if len(name) > 1 else None
    help_ = (f"did you mean `{near}`?",) if near else ()
    mend = f"give it to an input or a param, or declare `static {name} = 4`"
    return Diagnostic(
        f"the dimension `{name}` has no size: no input or param has it", span, (*help_, mend)
    )


def dim_twice(span: Span, name: str) -> Diagnostic:
    """`S[K, K]`."""
    mend = f"`{name}'` is another dimension of the same size"
    return Diagnostic(f"the dimension `{name}` occurs twice", span, (mend,))


def dim_twice_in_view(span: Span, text: str, dim: str, result: Sequence[str]) -> Diagnostic:
    """`A[K']` of a declared `A[K, K']`."""
    mend = f"name all of its dimensions, each once, or use `{dim}'`"
    return Diagnostic(f"`{text}` would be {shape_text(result)}, with `{dim}` twice", span, (mend,))


def no_dims_here(span: Span, kind: str, name: str) -> Diagnostic:
    """`scalar c[K]`."""
    what = {"scalar": "a scalar is one number", "static": "a static is one integer"}[kind]
    mend = f"write `{kind} {name} = …`" + (
        f", or declare `param {name}[…]`" if kind == "scalar" else ""
    )
    return Diagnostic(f"{what} and has no dimensions", span, (mend,))


# ---------------------------------------------------------------- declarations


def no_complex_here(span: Span, kind: str, name: str) -> Diagnostic:
    """`scalar c: complex`."""
    return Diagnostic(
        f"the {kind} `{name}` cannot be complex",
        span,
        ("pass its two parts, and write `complex(re, im)`",),
    )


def static_value(span: Span, name: str, missing: bool, value: object) -> Diagnostic:
    """A static without a positive integer."""
    if missing:
        return Diagnostic(
            f"the static `{name}` has no value", span, (f"write `static {name} = 4`",)
        )
    found = "" if value is None else f", not {value}"
    return Diagnostic(
        f"the size `{name}` has to be a positive integer known at compile time{found}", span
    )


def scalar_without_default(span: Span, name: str) -> Diagnostic:
    """`scalar c`."""
    return Diagnostic(
        f"the scalar `{name}` has no default", span, (f"write `scalar {name} = 1.0`",)
    )


def tensor_with_value(span: Span, kind: str, name: str) -> Diagnostic:
    """`input x = 3`."""
    mend = f"the caller passes it; a number with a default is `scalar {name} = …`"
    return Diagnostic(f"{_article(kind)} has no value in the file", span, (mend,))


def output_without_value(span: Span, name: str, dims: Dims) -> Diagnostic:
    """`output o[V]` alone."""
    shape = shape_text(dims) if dims else ""
    mend = f"write `output {name}{shape} = …` at the place in the step where it is read"
    return Diagnostic(f"the output `{name}` has no value", span, (mend,))


def output_twice(span: Span, name: str, first: Span | None) -> Diagnostic:
    """An output that gets a second value."""
    notes = (Note(f"`{name}` is declared here", first),) if first is not None else ()
    mend = f"each output is assigned once, where it is declared: `output {name} = …`"
    return Diagnostic(f"the output `{name}` is assigned twice", span, (mend,), notes)


def output_is_local(span: Span, name: str, output: Span) -> Diagnostic:
    """`y = …` and then `output y = …`."""
    mends = (
        f"write `output {name} = …` here (it may be used afterwards)",
        "or give the local another name",
    )
    note = Note(f"`{name}` is declared here", output)
    return Diagnostic(f"`{name}` is an output, assigned where it is declared", span, mends, (note,))


def declaration_in_block(span: Span, kind: str, block: str) -> Diagnostic:
    """`output` inside a loop or an `every` block."""
    where = "an `every` block" if block == "every" else "a loop"
    if kind == "output":
        mend = "assign a local inside the block, and write `output` after it"
    else:
        mend = "move it to the top of the scan"
    return Diagnostic(f"{_article(kind)} cannot be declared inside {where}", span, (mend,))


def no_input(span: Span, name: str) -> Diagnostic:
    """A scan that nothing drives."""
    mend = "its length is that of its inputs; declare at least one: `input x`"
    return Diagnostic(f"the scan `{name}` has no input", span, (mend,))


def no_output(span: Span, name: str) -> Diagnostic:
    """A scan that returns nothing."""
    mend = "say what it returns at each step: `output y = …`"
    return Diagnostic(f"the scan `{name}` has no output", span, (mend,))


def state_never_updated(span: Span, name: str) -> Diagnostic:
    """A state that keeps its initial value for ever."""
    mend = f"assign it in the step (`{name} = …`), or declare it as a `param` if it is constant"
    return Diagnostic(f"the state `{name}` is never updated", span, (mend,))


def unused_input(span: Span, name: str, hidden: bool) -> Diagnostic:
    """An input that nothing reads."""
    if hidden:
        mend = f"a local `{name}` hides it before it is read; give the local another name"
    else:
        mend = "use it in the step, or remove it"
    return Diagnostic(f"the input `{name}` is never used", span, (mend,))


def unused(span: Span, role: str, name: str) -> Diagnostic:
    """A param or scalar that nothing reads."""
    help_ = ("use it, or remove it",)
    return Diagnostic(f"the {role} `{name}` is never used", span, help_, severity=Severity.WARNING)


# ---------------------------------------------------------------- ranges


def range_not_here(span: Span, kind: str) -> Diagnostic:
    """A range on a state or an output."""
    mend = "ranges are what the caller promises, so they belong to inputs and params"
    return Diagnostic(f"{_article(kind)} has no range", span, (mend,))


def range_bound(span: Span) -> Diagnostic:
    """A bound that is not a number."""
    mend = "bounds are numbers, `inf`, `pi`, statics, and arithmetic of these"
    return Diagnostic("the bound of a range has to be a constant", span, (mend,))


def empty_range(span: Span, low: float, high: float, is_open: bool) -> Diagnostic:
    """`in [1, 0]`."""
    if low > high:
        return Diagnostic(
            "this range is empty", span, (f"write the smaller bound first: `[{high:g}, {low:g}]`",)
        )
    if is_open:
        return Diagnostic(
            "this range is empty",
            span,
            (f"an end with a round bracket is left out; `[{low:g}, {high:g}]` holds {low:g}",),
        )
    return Diagnostic("this range holds no finite number", span)


def complex_range(span: Span, name: str) -> Diagnostic:
    """A range on a complex tensor."""
    mend = (
        f"complex numbers have no order; pass `{name}` as two real tensors with ranges of their own"
    )
    return Diagnostic(f"`{name}` is complex and cannot have a range", span, (mend,))


def unit_without_dims(span: Span, name: str) -> Diagnostic:
    """`input k in unit`."""
    mend = f"for a number write `{name} in [-1, 1]`"
    return Diagnostic(
        f"`unit` is a promise about vectors, and `{name}` has no dimensions", span, (mend,)
    )


# ---------------------------------------------------------------- assignment


def assign_reserved(span: Span, name: str) -> Diagnostic:
    """`t = 0`."""
    what = "the position in the sequence" if name == "t" else "a constant"
    return Diagnostic(
        f"`{name}` is {what} and cannot be assigned",
        span,
        (f"choose another name, such as `{name}_`",),
    )


def assign_to(span: Span, name: str, role: str, declared: Span | None) -> Diagnostic:
    """Assignment to something that stays as it is."""
    notes = (Note(f"`{name}` is declared here", declared),) if declared is not None else ()
    mend = (
        "what changes from step to step is a `state`"
        if role == "param"
        else "use another name for the new value"
    )
    return Diagnostic(f"`{name}` is a {role} and cannot be assigned", span, (mend,), notes)


def assign_to_dim(span: Span, name: str, static: bool) -> Diagnostic:
    """A dimension's name used for a value."""
    mend = (
        f"its value is set where it is declared, or by `--set {name}=…`"
        if static
        else "use another name for the value"
    )
    return Diagnostic(f"`{name}` is a dimension and cannot be assigned", span, (mend,))


def state_dims(span: Span, name: str, dims: Dims) -> Diagnostic:
    """`S[V, K] = …` for a declared `S[K, V]`."""
    mend = f"write `{name} = …`; dimensions are aligned by name"
    return Diagnostic(f"the state `{name}` was declared as {_shape(dims)}", span, (mend,))


def entry_of_nothing(span: Span, name: str) -> Diagnostic:
    """`s[0] = …` before `s` exists."""
    mend = f"give it its dimensions first: `{name}[R] = 0`"
    return Diagnostic(
        f"`{name}` has no value yet, so an entry of it cannot be assigned", span, (mend,)
    )


def rename_in_target(span: Span, name: str) -> Diagnostic:
    """`s[r, K'] = …` for a declared `s[R, K]`."""
    mend = (
        f"leave out the slots behind the index; rename on the right-hand side: `{name}[r] = x[K]`"
    )
    return Diagnostic("a target keeps the names of its dimensions", span, (mend,))


def shape_mismatch(
    span: Span,
    target: str,
    want: Dims,
    have: Dims,
    same_size: Callable[[str, str], bool],
) -> Diagnostic:
    """A value whose dimensions are not those of its target."""
    message = f"`{target}` is {_shape(want)}, but this value is {shape_text(have)}"
    extra = [d for d in have if d not in want]
    missing = [d for d in want if d not in have]
    if len(extra) == len(missing) == 1 and same_size(extra[0], missing[0]):
        mend = f"rename `{extra[0]}` to `{missing[0]}` where it is read, as in `h[{missing[0]}]`"
    elif extra and missing:
        mend = f"it lacks {_listing(missing)} and has {_listing(extra)} too much"
    elif missing:
        mend = f"it lacks {_listing(missing)}: only a number fills all dimensions of its target"
    else:
        mend = f"sum what is too much, `sum[{', '.join(extra)}](…)`"
        if "[" not in target:
            mend += f", or declare `{target}{shape_text([*want, *extra])}`"
    return Diagnostic(message, span, (mend,))


def wider_kind(span: Span, target: str, found: str, want: str) -> Diagnostic:
    """A complex value for a real target."""
    if found == "complex":
        mend = (
            f"take a part of it, `re(…)` or `abs(…)`, or declare the target as `{target}: complex`"
        )
        return Diagnostic(f"`{target}` is real, but this value is complex", span, (mend,))
    return Diagnostic(f"`{target}` is {want}, but this value is {found}", span)


# ---------------------------------------------------------------- brackets


def too_many_slots(span: Span, name: str, dims: Dims, given: int) -> Diagnostic:
    """`k[K, V]` of a declared `k[K]`."""
    has = f"was declared as {shape_text(dims)}" if dims else "has no dimensions"
    verb = "is" if given == 1 else "are"
    return Diagnostic(f"`{name}` {has}, but {given} {verb} given here", span)


def slot_size(span: Span, name: str, dim: str, new: str) -> Diagnostic:
    """`h[V]` of a declared `h[K]`."""
    mend = f"a slot takes a dimension of the same size, such as `{base_of(dim)}'`"
    return Diagnostic(
        f"`{name}` has `{dim}` here, and `{new}` is not of the same size", span, (mend,)
    )


def index_not_static(span: Span, name: str, dim: str) -> Diagnostic:
    """`k[0]` along a dimension whose size is not known."""
    mend = f"only a dimension declared as `static {dim} = …` can be indexed"
    return Diagnostic(
        f"the dimension `{dim}` of `{name}` is not static, so it has no numbered entries",
        span,
        (mend,),
    )


def index_out_of_range(
    span: Span, index: int, dim: str, size: int, variable: str | None
) -> Diagnostic:
    """`k[2]` with `static R = 2`."""
    shown = f"`{variable}` = {index}" if variable else f"{index}"
    mend = (
        f"`{dim}` has {size} entries: 0 to {size - 1}" if size > 1 else f"`{dim}` has one entry: 0"
    )
    return Diagnostic(f"the index {shown} is out of range", span, (mend,))


def brackets_on_local(span: Span, name: str, dims: Dims, local: bool) -> Diagnostic:
    """Brackets after a name without declared dimensions."""
    if not dims:
        return Diagnostic(
            f"`{name}` has no dimensions to put in brackets", span, (f"write `{name}`",)
        )
    if not local:
        mend = "rename or index what is passed to the function instead"
        return Diagnostic(f"`{name}` is a parameter, whose dimensions have no order", span, (mend,))
    mend = f"assign it with its dimensions: `{name}{shape_text(dims)} = …`"
    return Diagnostic(
        f"`{name}` was assigned without its dimensions, so they have no order", span, (mend,)
    )


# ---------------------------------------------------------------- operators


def nothing_shared(
    span: Span,
    texts: tuple[str, str],
    dims: tuple[Dims, Dims],
    partner: str | None,
    primed: str | None,
) -> Diagnostic:
    """`k @ v`."""
    a, b = texts
    short_a, short_b = _operand(a), _operand(b)
    message = (
        f"`{a}` and `{b}` share no dimension, so `{short_a} @ {short_b}` has nothing to sum over"
    )
    shapes = f"{a} is {_shape(dims[0])}, {b} is {_shape(dims[1])}"
    product = f"write `{short_a} * {short_b}`" + (
        " for the outer product" if dims[0] and dims[1] else ""
    )
    if primed is not None:
        mend = f"rename a dimension so that they share it, as in `x[{primed}]`"
    elif partner is not None and partner not in texts:
        mend = f"{product}, or contract with {partner}: `{short_a} @ {partner}`"
    else:
        mend = product
    return Diagnostic(message, span, (f"{shapes}; {mend}",))


def over_missing(span: Span, dim: str, text: str, dims: Dims) -> Diagnostic:
    """`a @[W] b` where one side lacks `W`."""
    help_ = (f"{_is(text, dims)}; both sides of `@[{dim}]` need `{dim}`",)
    return Diagnostic(f"`{text}` has no dimension `{dim}` to sum over", span, help_)


def ambiguous_product(
    span: Span, text: str, first: tuple[str, Dims], second: tuple[str, Dims]
) -> Diagnostic:
    """`x * y @ z` whose groupings differ."""
    help_ = (
        f"`{first[0]}` is {_shape(first[1])}, `{second[0]}` is {_shape(second[1])}",
        "put parentheses around the one that is meant",
    )
    return Diagnostic(f"`{text}` can be read in two ways", span, help_)


def sum_of_shapes(
    span: Span, op: str, texts: tuple[str, str], dims: tuple[Dims, Dims], result: Dims
) -> Diagnostic:
    """`k + v`."""
    verb = "adding" if op == "+" else "subtracting"
    message = f"{verb} {shape_text(dims[0])} and {shape_text(dims[1])} gives {shape_text(result)}"
    help_ = (f"{_is(texts[0], dims[0])}, {_is(texts[1], dims[1])}",)
    return Diagnostic(message, span, help_, severity=Severity.WARNING)


# ---------------------------------------------------------------- kinds


def bool_in_arithmetic(span: Span, text: str) -> Diagnostic:
    """`(a > b) + 1`."""
    mends = (
        f"write `where({_bare(text)}, 1, 0)`",
        "a condition may be a factor, `(a > b) * x`, and stand in `and`, `or`, `not`, `where`",
    )
    return Diagnostic(f"`{text}` is true or false, and a number is needed here", span, mends)


def needs_bool(span: Span, text: str, user: str) -> Diagnostic:
    """`x and y` for numbers."""
    return Diagnostic(
        f"{user} needs a condition, and `{text}` is a number",
        span,
        (f"compare it: `{_operand(text)} != 0`",),
    )


def complex_not_real(span: Span, text: str, user: str) -> Diagnostic:
    """`max(c, 0)` for a complex `c`."""
    inner = _bare(text)
    mend = f"take a part of it first: `re({inner})`, `im({inner})` or `abs({inner})`"
    return Diagnostic(f"`{text}` is complex, and {user} needs a real value", span, (mend,))


def im_of_real(span: Span, text: str) -> Diagnostic:
    """`im(x)` of a real value."""
    return Diagnostic(f"`{text}` is real and has no imaginary part", span)


# ---------------------------------------------------------------- calls


def unknown_function(name: ast.Identifier, known: Sequence[str], is_value: bool) -> Diagnostic:
    """A function that does not exist."""
    if is_value:
        mend = f"for a product write `{name.text} * (…)`"
        return Diagnostic(f"`{name.text}` is a value, not a function", name.span, (mend,))
    help_ = _did_you_mean(name.text, known)
    help_ = help_ or (f"define it at the top level: `fn {name.text}(x) = …`",)
    return Diagnostic(f"unknown function `{name.text}`", name.span, help_)


def function_usage(function: ast.Function) -> str:
    """How a function of the file is called."""
    dims = "[" + ", ".join(d.text for d in function.dims) + "]" if function.dims else ""
    return f"{function.name.text}{dims}({', '.join(p.text for p in function.parameters)})"


def argument_count(
    span: Span, name: str, counts: tuple[int, int], given: int, usage: str
) -> Diagnostic:
    """Too few or too many arguments."""
    least, most = counts
    if most == least + 1:
        wanted = f"{least} or {most} arguments"
    elif least == most:
        wanted = f"{least} argument" + ("" if least == 1 else "s")
    else:
        wanted = f"{least} to {most} arguments"
    return Diagnostic(
        f"`{name}` takes {wanted}, not {given}", span, (f"it is called as `{usage}`",)
    )


def dim_count(span: Span, name: str, counts: tuple[int, int], usage: str) -> Diagnostic:
    """A function of the file with the wrong number of dimensions."""
    wanted, given = counts
    plural = "" if wanted == 1 else "s"
    what = f"takes {wanted} dimension{plural}" if wanted else "takes no dimensions"
    return Diagnostic(f"`{name}` {what}, not {given}", span, (f"it is called as `{usage}`",))


def max_of_one(span: Span, name: str, argument: str) -> Diagnostic:
    """`max(x)`."""
    mend = f"over a dimension: `{name}[K]({argument})`; of two values: `{name}({argument}, …)`"
    return Diagnostic(f"`{name}` of one value needs the dimension to act over", span, (mend,))


def dims_needed(span: Span, name: str, usage: str) -> Diagnostic:
    """`sum(x)`."""
    return Diagnostic(
        f"`{name}` needs the dimension to act over", span, (f"it is called as `{usage}`",)
    )


def no_dims_taken(span: Span, name: str, usage: str) -> Diagnostic:
    """`exp[K](x)`."""
    return Diagnostic(f"`{name}` takes no dimensions", span, (f"it is called as `{usage}`",))


def one_dim_only(span: Span, name: str, usage: str) -> Diagnostic:
    """`window[W, V](x)`."""
    return Diagnostic(f"`{name}` takes one dimension", span, (f"it is called as `{usage}`",))


def dim_not_there(span: Span, name: str, dim: str, argument: str, have: Dims) -> Diagnostic:
    """`sum[V](k)` for `k[K]`."""
    message = f"`{argument}` has no dimension `{dim}` for `{name}` to act over"
    others = f"; did you mean `{name}[{', '.join(have)}]`?" if have else ""
    return Diagnostic(message, span, (f"{_is(argument, have)}{others}",))


def epsilon(span: Span, name: str) -> Diagnostic:
    """`l2norm[K](x, y)`."""
    mend = "it is the constant added under the root, such as `1e-6`"
    return Diagnostic(
        f"the second argument of `{name}` has to be a number that is not negative", span, (mend,)
    )


def iota_argument(span: Span) -> Diagnostic:
    """`iota(3)`."""
    mend = "`iota(K)` is the vector 0, 1, … of the dimension `K`; a fixed length is a `static`"
    return Diagnostic("`iota` takes the name of a dimension", span, (mend,))


def shadows_builtin(span: Span, name: str) -> Diagnostic:
    """`fn exp(x) = …`."""
    return Diagnostic(
        f"`{name}` is a function of the language and cannot be defined again",
        span,
        (f"choose another name, such as `{name}_`",),
    )


def primed_parameter(span: Span, name: str) -> Diagnostic:
    """`fn f[K'](x) = …`."""
    return Diagnostic(f"a parameter has no primes: `{name}`", span, (f"write `{base_of(name)}`",))


def recursion(span: Span, circle: Sequence[str]) -> Diagnostic:
    """A function that reaches itself."""
    names = [f"`{name}`" for name in (*circle, circle[0])]
    if len(circle) == 1:
        message = f"the function {names[0]} calls itself"
    else:
        message = "these functions call each other in a circle: " + " → ".join(names)
    mend = "functions are inlined; repeat a fixed number of times with `for`"
    return Diagnostic(message, span, (mend,))


# ---------------------------------------------------------------- time and derivatives


def lag_distance(span: Span) -> Diagnostic:
    """`lag(x, y)`."""
    mend = "it is a number, a static or a loop variable"
    return Diagnostic(
        "the distance of a lag has to be an integer known at compile time", span, (mend,)
    )


def lag_too_short(span: Span, text: str, n: int) -> Diagnostic:
    """`lag(x, 0)`."""
    shown = f"`{text}` = {n}" if text != str(n) else f"{n}"
    help_ = (
        ("the present value is the expression itself",)
        if n == 0
        else ("a later step is not known yet",)
    )
    return Diagnostic(f"a lag looks back at least 1 step, not {shown}", span, help_)


def lag_too_long(span: Span, n: int, limit: int) -> Diagnostic:
    """`lag(x, 1000000)`."""
    return Diagnostic(f"a lag of {n:,} steps is too long; the limit is {limit:,}", span)


def window_not_static(span: Span, dim: str) -> Diagnostic:
    """`window[K](x)`."""
    mend = f"the length of a window is a dimension declared as `static {dim} = …`"
    return Diagnostic(f"the dimension `{dim}` is not static", span, (mend,))


def window_has_dim(span: Span, dim: str, text: str) -> Diagnostic:
    """`window[W](window[W](x))`."""
    mend = f"use another static dimension, or `{dim}'`"
    return Diagnostic(f"`{text}` has the dimension `{dim}` already", span, (mend,))


def forward_type(span: Span, name: str) -> Diagnostic:
    """A lag of a later local whose dimensions cannot be found."""
    mend = f"assign it with its dimensions: `{name}[…] = …`"
    message = f"the dimensions of `{name}` cannot be found, because it depends on itself here"
    return Diagnostic(message, span, (mend,))


def grad_target(span: Span, text: str) -> Diagnostic:
    """`grad(e, 2 * W)`."""
    mend = f"assign a local first and differentiate by that: `w = {text}`"
    return Diagnostic("`grad` differentiates by a name", span, (mend,))


def grad_not_number(span: Span, text: str, dims: Dims) -> Diagnostic:
    """`grad` of a vector."""
    mend = f"sum it first: `sum[{', '.join(dims)}]({text})`"
    return Diagnostic(
        f"`grad` takes the derivative of a number, and this is {shape_text(dims)}", span, (mend,)
    )


def grad_kind(span: Span, text: str, kind: str) -> Diagnostic:
    """`grad` of or by something that is not real."""
    return Diagnostic(f"`grad` needs real values, and `{text}` is {kind}", span)


def grad_zero(span: Span, text: str, name: str) -> Diagnostic:
    """A derivative that is zero for sure."""
    message = f"`{text}` does not depend on `{name}`, so this derivative is zero"
    return Diagnostic(message, span, severity=Severity.WARNING)


# ---------------------------------------------------------------- blocks and limits


def loop_variable_taken(span: Span, name: str, role: str) -> Diagnostic:
    """A loop variable with a name that is in use."""
    if role == "loop variable":
        message = f"`{name}` is the variable of a loop around this one"
    else:
        message = f"`{name}` is {_article(role)} already and cannot be a loop variable"
    return Diagnostic(message, span, ("choose another name",))


def loop_over_unknown(over: ast.Identifier, statics: Sequence[str]) -> Diagnostic:
    """`for r in Q:` for an unknown `Q`."""
    help_ = _did_you_mean(over.text, statics)
    help_ = help_ or (f"declare `static {over.text} = 4`, or write a number: `for i in 4:`",)
    return Diagnostic(f"there is no static dimension `{over.text}`", over.span, help_)


def loop_not_static(span: Span, name: str) -> Diagnostic:
    """`for i in K:` for a dimension read off the tensors."""
    mend = f"loops are unrolled at compile time; declare `static {name} = …`"
    return Diagnostic(f"the dimension `{name}` is not static", span, (mend,))


def loop_count(span: Span) -> Diagnostic:
    """`for i in 0:`."""
    return Diagnostic("a loop runs a positive integer number of times", span)


def period_not_static(span: Span, name: str) -> Diagnostic:
    """`every n:` for an `n` that is no static."""
    mend = f"declare `static {name} = 16`, or write the number"
    return Diagnostic(f"the period `{name}` is not a static", span, (mend,))


def period_invalid(span: Span) -> Diagnostic:
    """`every 0:`."""
    return Diagnostic("the period of `every` is a positive integer", span)


def too_deep(span: Span) -> Diagnostic:
    """Nesting beyond the limit."""
    mend = "assign inner parts to locals"
    return Diagnostic("this expression is nested too deeply", span, (mend,))


def too_large(span: Span) -> Diagnostic:
    """A step that unrolls into too much."""
    mend = "loops, windows and functions are unrolled into the step; make the static sizes smaller"
    return Diagnostic("the step becomes too large here", span, (mend,))


def too_many_dims(span: Span, dims: Dims, limit: int) -> Diagnostic:
    """A value with more dimensions than can be computed with."""
    message = f"a value may have {limit} dimensions, and here one has {len(dims)}"
    mend = f"they are {_listing(dims)}; join some of them, or sum earlier"
    return Diagnostic(message, span, (mend,))


def too_many_declared(span: Span, role: str, limit: int) -> Diagnostic:
    """More inputs, states or the like than a step can have."""
    return Diagnostic(
        f"a scan may declare {limit} {role}s, and this is one more",
        span,
        ("stack them along a static dimension: `input x[R, D]`",),
    )


def integer_too_large(span: Span) -> Diagnostic:
    """A literal beyond 64 bits."""
    return Diagnostic(
        "this integer does not fit into 64 bits", span, ("write it with a decimal point",)
    )
