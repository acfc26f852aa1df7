"""From syntax to typed recurrences: names, dimensions, kinds, and every error of the user.

In: `ast.File`.  Out: `Checked`, or `ScanError` with all that is wrong in the file.  Past this stage
a failure is a bug of the compiler.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from scandsl.check import errors, functions
from scandsl.check.scans import check_scan
from scandsl.check.walk import statements
from scandsl.diagnostics import Diagnostic, Findings, Severity, Source, Span
from scandsl.ir.nodes import Recurrence
from scandsl.syntax import ast

NO_SETTINGS: Mapping[str, int] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Checked:
    """The recurrences of a file, in order, and what deserves a warning."""

    recurrences: tuple[Recurrence, ...]
    warnings: tuple[Diagnostic, ...]


def check_file(
    file: ast.File,
    source: Source,
    settings: Mapping[str, int] = NO_SETTINGS,
    lost: frozenset[str] | None = None,
) -> Checked:
    """Resolve and type all scans of a file; `settings` override the values of statics by name.

    `lost` is given when the file could be read in part only: names that the rest holds.  Nothing
    that may come from the missing part is then reported.
    """
    findings = Findings(source)
    table = functions.collect(file.items, findings.add)
    scans = [item for item in file.items if isinstance(item, ast.Scan)]
    if not scans and lost is None:
        findings.add(errors.no_scan())
    _check_settings(scans, settings, findings)
    whole = lost is None
    found = [check_scan(scan, source, table, settings, findings, whole) for scan in scans]
    if lost is not None:
        findings.items[:] = [d for d in findings.items if not _mentions(d, lost)]
    findings.raise_if_errors()
    return Checked(
        tuple(recurrence for recurrence in found if recurrence is not None),
        tuple(d for d in findings.items if d.severity is Severity.WARNING),
    )


def _mentions(diagnostic: Diagnostic, names: frozenset[str]) -> bool:
    """Whether a finding is about one of the names."""
    quoted = diagnostic.message.split("`")[1::2]
    return any(word in names for text in quoted for word in re.findall(r"\w+", text))


def _check_settings(scans: list[ast.Scan], settings: Mapping[str, int], findings: Findings) -> None:
    statics = [
        item.name.text
        for scan in scans
        for statement in statements(scan.body)
        if isinstance(statement, ast.Declaration) and statement.kind == "static"
        for item in statement.items
    ]
    place = scans[0].name.span if scans else Span(0, 1)
    for name, value in settings.items():
        if name not in statics:
            findings.add(errors.setting_unknown(place, name, list(dict.fromkeys(statics))))
        elif value < 1:
            findings.add(errors.setting_value(place, name, value))
