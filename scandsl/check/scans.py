"""One scan: from its syntax to a `Recurrence`.

In: a scan, the functions of its file, sizes set from outside.  Out: the recurrence, or `None` with
the reasons among the findings.  A scan in which a lag reads a local ahead of its assignment is
checked in several passes, until the assumed types of such locals are those that come out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from scandsl.check import errors, statements
from scandsl.check.builder import Builder, TooLarge
from scandsl.check.context import Context, Declared, ForwardType, Place
from scandsl.check.declarations import declare
from scandsl.check.expressions import evaluate
from scandsl.check.finish import finish
from scandsl.check.shapes import DimTable
from scandsl.check.walk import differentiated, expressions, values_of
from scandsl.check.walk import statements as all_statements
from scandsl.diagnostics import Diagnostic, Findings, InternalError, Severity, Source
from scandsl.ir.nodes import Dims, Kind, Output, Recurrence, Ref, ScalarArg, State
from scandsl.syntax import ast

MAX_PASSES = 8


@dataclass(slots=True)
class _Pass:
    """What one pass over a scan leaves behind."""

    ctx: Context
    scalars: dict[str, Ref | None]
    inits: dict[str, Ref | None]
    complete: bool


@dataclass(frozen=True, slots=True)
class _Scan:
    """What all passes over a scan share."""

    syntax: ast.Scan
    source: Source
    functions: Mapping[str, ast.Function]
    declared: Declared
    dims: DimTable


def check_scan(
    syntax: ast.Scan,
    source: Source,
    functions: Mapping[str, ast.Function],
    settings: Mapping[str, int],
    findings: Findings,
    whole: bool = True,
) -> Recurrence | None:
    """The recurrence of a scan; what is wrong with it goes to the findings.

    If the syntax is not the whole scan, nothing is said about what it lacks.
    """
    declared, dims = declare(syntax, settings, findings.add, whole)
    scan = _Scan(syntax, source, functions, declared, dims)
    last = _passes(scan, findings)
    if whole:
        _check_use(scan, last, findings)
    for diagnostic in last.ctx.findings.items:
        findings.add(diagnostic)
    # an error in a function may be the only one, and leaves values missing here
    if not whole or _failed(findings):
        return None
    return _assemble(scan, last)


def _failed(findings: Findings) -> bool:
    return any(d.severity is Severity.ERROR for d in findings.items)


# ---------------------------------------------------------------- passes


def _passes(scan: _Scan, known: Findings) -> _Pass:
    """Passes until the types that forward lags assume are right; most scans need one.

    What was found before is not found again.
    """
    last = _run(scan, {}, known)
    if not last.ctx.wanted or not last.complete:
        return last
    expected = _forward_types(_run(scan, None, known), {})
    for _ in range(MAX_PASSES):
        last = _run(scan, expected, known)
        found = _forward_types(last, expected)
        if found == expected:
            return last
        expected = found
    name, span = next(iter(last.ctx.wanted.items()))
    last.ctx.report(errors.forward_type(span, name))
    return last


def _forward_types(done: _Pass, before: Mapping[str, ForwardType]) -> dict[str, ForwardType]:
    """The type that each local read ahead of time had at the end of the step."""
    out: dict[str, ForwardType] = {}
    for name in done.ctx.wanted:
        ref = done.ctx.env.get(name)
        if ref is not None:
            builder = done.ctx.builder
            out[name] = ForwardType(builder.dims_of(ref), builder.kind_of(ref))
        else:
            dims = done.ctx.declared.dims(name) or done.ctx.written.get(name, ())
            out[name] = before.get(name, ForwardType(done.ctx.dims.sort(dims), Kind.REAL))
    return out


def _run(scan: _Scan, expected: Mapping[str, ForwardType] | None, known: Findings) -> _Pass:
    """One pass over scalars, initial values and the step."""
    assigned, block_local = _assigned(scan.syntax.body)
    ctx = Context(
        source=scan.source,
        declared=scan.declared,
        dims=scan.dims,
        functions=scan.functions,
        builder=Builder(scan.dims),
        findings=Findings(scan.source),
        assigned=assigned,
        block_local=block_local,
        watched=differentiated(scan.syntax.body),
        written=_written(scan),
        expected=expected,
        seen={(d.severity, d.span.start, d.span.end) for d in known.items},
    )
    out = _Pass(ctx, {}, {}, True)
    try:
        _defaults(out)
        ctx.place = Place.STEP
        out.complete = statements.run_step(ctx, scan.syntax.body)
    except TooLarge as limit:
        ctx.frames.clear()
        ctx.report(limit.diagnostic(scan.syntax.name.span))
        out.complete = False
    return out


def _defaults(out: _Pass) -> None:
    """Defaults of scalars, each of which may use earlier ones, and initial values of states."""
    ctx = out.ctx
    ctx.place = Place.SCALAR
    for name, item in ctx.declared.scalars.items():
        out.scalars[name] = None
        if item.value is not None:
            ref = evaluate(ctx, item.value)
            out.scalars[name] = statements.fit(ctx, ref, (), Kind.REAL, item.value.span, name)
        ctx.ready_scalars.add(name)
    ctx.place = Place.INIT
    for name, state in ctx.declared.states.items():
        if state.item.value is None:
            span = state.item.span
            zero = ctx.builder.cast(ctx.builder.constant(0, Kind.REAL, span), state.kind, span)
            out.inits[name] = ctx.builder.expand(zero, state.dims, span)
        else:
            value = state.item.value
            ref = evaluate(ctx, value)
            out.inits[name] = statements.fit(ctx, ref, state.dims, state.kind, value.span, name)


def _assigned(body: Iterable[ast.Statement]) -> tuple[frozenset[str], frozenset[str]]:
    """Names that the step gives a value outside `every` blocks, and inside such blocks only."""
    outside: set[str] = set()
    inside: set[str] = set()
    stack = [(statement, False) for statement in body]
    while stack:
        node, in_block = stack.pop()
        match node:
            case ast.Assign(target):
                (inside if in_block else outside).add(target.name.text)
            case ast.Declaration("output", items):
                outside.update(item.name.text for item in items)
            case ast.For(_, _, inner):
                stack.extend((s, in_block) for s in inner)
            case ast.Every(_, inner):
                stack.extend((s, True) for s in inner)
    return frozenset(outside), frozenset(inside - outside)


def _written(scan: _Scan) -> dict[str, Dims]:
    """Dimensions in the targets `A[K, K'] = …`, the first ones of each name."""
    out: dict[str, Dims] = {}
    for statement in all_statements(scan.syntax.body):
        if not isinstance(statement, ast.Assign) or statement.target.slots is None:
            continue
        slots = [s.text for s in statement.target.slots if isinstance(s, ast.Identifier)]
        if len(slots) == len(statement.target.slots) and all(scan.dims.knows(s) for s in slots):
            out.setdefault(statement.target.name.text, tuple(slots))
    return out


# ---------------------------------------------------------------- use


def _mentioned(body: Iterable[ast.Statement]) -> set[str]:
    """All names that stand in expressions, bracket lists and block headers."""
    out: set[str] = set()
    for statement in all_statements(body):
        if isinstance(statement, ast.For | ast.Every):
            over = statement.over if isinstance(statement, ast.For) else statement.period
            out |= {over.text} if isinstance(over, ast.Identifier) else set()
        for value in values_of(statement):
            for node in expressions(value):
                match node:
                    case ast.Name(text):
                        out.add(text)
                    case ast.Subscript(name):
                        out.add(name.text)
                    case _:
                        pass
    return out


def _check_use(scan: _Scan, last: _Pass, findings: Findings) -> None:
    """Everything declared must serve for something."""
    declared, body = scan.declared, scan.syntax.body
    mentioned = _mentioned(body)
    clean = last.complete and not _failed(findings) and not _failed(last.ctx.findings)

    def idle(name: str) -> bool:
        return name not in mentioned or (clean and name not in last.ctx.used)

    assigned = {s.target.name.text for s in all_statements(body) if isinstance(s, ast.Assign)}
    report: list[Diagnostic] = []
    for name in declared.inputs:
        if idle(name):
            hidden = name in assigned and name in mentioned
            report.append(errors.unused_input(declared.spans[name], name, hidden))
    for role, table in (("param", declared.params), ("scalar", declared.scalars)):
        report += [errors.unused(declared.spans[name], role, name) for name in table if idle(name)]
    for name in declared.states:
        if name not in assigned:
            report.append(errors.state_never_updated(declared.spans[name], name))
    for diagnostic in report:
        findings.add(diagnostic)


# ---------------------------------------------------------------- assembly


def _assemble(scan: _Scan, done: _Pass) -> Recurrence:
    """The recurrence of a pass without errors."""
    ctx, declared, syntax = done.ctx, scan.declared, scan.syntax
    nexts = {name: _known(ctx.env.get(name)) for name in declared.states}
    inits = {name: _known(ref) for name, ref in done.inits.items()}
    scalars = {name: _known(ref) for name, ref in done.scalars.items()}
    outputs = {name: _known(ctx.outputs.get(name)) for name in declared.outputs}
    forwards = {ref: _known(ctx.env.get(name)) for name, ref in ctx.builder.forwards.items()}
    roots = [*scalars.values(), *inits.values(), *nexts.values(), *outputs.values()]
    values, place = finish(ctx.builder.values, roots, forwards)
    states = tuple(
        State(s.name, s.dims, s.kind, place[inits[s.name]], place[nexts[s.name]], s.item.span)
        for s in declared.states.values()
    )
    results = tuple(
        Output(
            o.name, o.dims, values[place[outputs[o.name]]].kind, place[outputs[o.name]], o.item.span
        )
        for o in declared.outputs.values()
    )
    return Recurrence(
        name=syntax.name.text,
        doc=syntax.doc or "",
        dims=scan.dims.listing(),
        inputs=tuple(declared.inputs.values()),
        params=tuple(declared.params.values()),
        scalars=tuple(
            ScalarArg(name, place[ref], declared.scalars[name].span)
            for name, ref in scalars.items()
        ),
        states=states,
        outputs=results,
        values=values,
        arguments=declared.arguments,
        span=syntax.span,
    )


def _known(ref: Ref | None) -> Ref:
    """A value that must exist where no error was found."""
    if ref is None:
        raise InternalError("a value is missing although the scan has no error")
    return ref
