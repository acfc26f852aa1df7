"""A page about scans: `scandsl doc`.

In: compiled front ends and their programs.  Out: Markdown that shows of each scan its equations as
mathematics (as GitHub and most renderers set it), its spec, the classes found, the forms chosen.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from scandsl.analysis.program import Component, Program
from scandsl.driver import Front
from scandsl.syntax import typeset
from scandsl.syntax.ast import Function, Scan

Entry = tuple[Front, tuple[Program, ...]]

HEAD = """\
# {title}

Made by `{command}`: do not edit. In the equations a product is elementwise by the names of
dimensions, `·` sums over the dimensions that both sides have (or over those named under it), and
`←` gives a name its next value.
"""


def page(entries: Sequence[Entry], title: str, command: str) -> str:
    """The whole page, scans in the order given."""
    parts = [HEAD.format(title=title, command=command), _table(entries)]
    for front, programs in entries:
        parts += _file(front, programs)
    return "\n".join(parts).rstrip("\n") + "\n"


def _table(entries: Iterable[Entry]) -> str:
    rows = ["| scan | state | class | form |", "| --- | --- | --- | --- |"]
    for _, programs in entries:
        for program in programs:
            name = program.recurrence.name
            rows += [f"| [{name}](#{name}) | {' | '.join(_cells(c))} |" for c in program.components]
    return "\n".join(rows) + "\n"


def _cells(component: Component) -> tuple[str, str, str]:
    constant = ", constant in time" if component.invariant else ""
    return (_names(component), component.transition.value + constant, component.form.value)


def _names(component: Component) -> str:
    return ", ".join(f"`{n}`" for n in (*component.states, *component.memories))


def _file(front: Front, programs: Sequence[Program]) -> Iterator[str]:
    functions = [i for i in front.file.items if isinstance(i, Function)]
    scans = [i for i in front.file.items if isinstance(i, Scan)]
    for scan, program in zip(scans, programs, strict=True):
        yield f"## {scan.name.text}\n"
        if scan.doc:
            yield _paragraphs(scan.doc)
        for function in functions:
            yield _display(typeset.definition(function))
        yield _display(typeset.aligned(typeset.step(scan)))
        yield _chosen(program)
    text = front.source.text.strip("\n")
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    yield f"{fence}\n{text}\n{fence}\n"


def _display(formula: str) -> str:
    return f"$$\n{formula}\n$$\n"


def _paragraphs(doc: str) -> str:
    """Documentation as text: what Markdown would read as signs is set apart."""
    blocks = [" ".join(b.split()) for b in doc.strip().split("\n\n")]
    return "\n\n".join(_plain(b) for b in blocks) + "\n"


def _plain(text: str) -> str:
    return re.sub(r"[\\*_<$`\[#|]", r"\\\g<0>", text)


def _chosen(program: Program) -> str:
    """One line for each component: what it is, the form it takes and why."""
    lines = []
    for component in program.components:
        names, found, form = _cells(component)
        lines.append(f"* {names}: {found}. Form **{form}**: {component.reason}.")
    return "\n".join(lines) + "\n"
