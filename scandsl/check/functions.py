"""The functions of a file: their names, their parameters, and that none calls itself.

In: all functions.  Out: the usable ones by name, with reports for the others.  Bodies are typed
where they are inlined; here only what does not depend on a call is judged.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from scandsl.check import errors
from scandsl.check.builtins import PAIRWISE, SIGNATURES
from scandsl.check.constants import CONSTANTS
from scandsl.check.declarations import RESERVED
from scandsl.check.walk import expressions
from scandsl.diagnostics import Diagnostic, Span
from scandsl.syntax import ast

Report = Callable[[Diagnostic], None]


def collect(items: tuple[ast.Function | ast.Scan, ...], report: Report) -> dict[str, ast.Function]:
    """The functions of a file by name; scans and functions share their names."""
    out: dict[str, ast.Function] = {}
    first: dict[str, Span] = {}
    for item in items:
        name = item.name.text
        if name in RESERVED:
            report(errors.reserved(item.name.span, name))
        elif name in first:
            report(errors.duplicate_definition(item.name.span, name, first[name]))
        elif isinstance(item, ast.Function) and name in SIGNATURES:
            report(errors.shadows_builtin(item.name.span, name))
        else:
            first[name] = item.name.span
            if isinstance(item, ast.Function):
                out[name] = item
    for function in out.values():
        _parameters(function, report)
        _body(function, out, report)
    _recursion(out, report)
    return out


def _parameters(function: ast.Function, report: Report) -> None:
    seen: dict[str, Span] = {}
    for name in (*function.dims, *function.parameters):
        if name.text in RESERVED:
            report(errors.reserved(name.span, name.text))
        elif name.text in seen:
            report(errors.duplicate_parameter(name.span, name.text))
        elif name.text.endswith("'"):
            report(errors.primed_parameter(name.span, name.text))
        seen.setdefault(name.text, name.span)


def _body(function: ast.Function, functions: Mapping[str, ast.Function], report: Report) -> None:
    """Names and functions that a body uses, also when no scan calls it."""
    values = [p.text for p in function.parameters]
    dims = {d.text for d in function.dims}
    called = [*SIGNATURES, *PAIRWISE, *functions]
    for node in expressions(function.body):
        match node:
            case ast.Name(text, span):
                known = text in values or text in CONSTANTS or text == "t"
                if not known and text.rstrip("'") not in dims:
                    report(errors.unknown_in_function(span, text, function.name.text, values))
            case ast.Call(name, _, _) if name.text not in called:
                report(errors.unknown_function(name, called, name.text in values))
            case _:
                pass


def _recursion(functions: Mapping[str, ast.Function], report: Report) -> None:
    """A report for each function that reaches itself, at the call that closes the circle."""
    calls = {
        name: [
            node.function
            for node in expressions(function.body)
            if isinstance(node, ast.Call) and node.function.text in functions
        ]
        for name, function in functions.items()
    }
    state: dict[str, int] = {}  # 1 while on the path, 2 when done
    for start in functions:
        if start in state:
            continue
        path = [(start, iter(calls[start]))]
        state[start] = 1
        while path:
            name, rest = path[-1]
            callee = next(rest, None)
            if callee is None:
                state[name] = 2
                path.pop()
            elif state.get(callee.text) == 1:
                names = [n for n, _ in path]
                report(errors.recursion(callee.span, names[names.index(callee.text) :]))
            elif callee.text not in state:
                state[callee.text] = 1
                path.append((callee.text, iter(calls[callee.text])))
