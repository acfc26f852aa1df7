"""The import contract: a stage imports lower ranks only, and a library has one home."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "scandsl"
PIPELINE = ("diagnostics", "ir", "syntax", "check", "analysis", "plan", "kernels", "render")
TOP = (
    "driver", "explain", "page", "loader", "hook", "testing", "bench", "tune", "cli", "__main__",
    "__init__"
)  # fmt: skip
ALLOWED = {stage: set(PIPELINE[:i]) for i, stage in enumerate(PIPELINE)}
ALLOWED |= {"reference": {"ir", "diagnostics"}}
ALLOWED |= {area: {*PIPELINE, "reference", *TOP} for area in TOP}
HOMES = {"lark": {"syntax"}, "sympy": {"analysis"}, "jinja2": {"render"}}


def imports(file: Path) -> set[str]:
    """Every module that a file imports, those under `TYPE_CHECKING` and in functions included."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def violations(area: str, imported: set[str]) -> list[str]:
    out = []
    for name in sorted(imported):
        first, _, rest = name.partition(".")
        target = rest.partition(".")[0]
        if first in HOMES and area not in HOMES[first]:
            out.append(f"{name} belongs to {HOMES[first]}")
        known = target in ALLOWED
        if first == "scandsl" and known and target != area and target not in ALLOWED[area]:
            out.append(f"{area} must not import {name}")
    return out


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(PACKAGE)))
def test_imports_keep_to_their_rank(file: Path) -> None:
    area = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
    assert area in ALLOWED, f"give scandsl/{area} a rank"
    assert violations(area, imports(file)) == []


def test_a_planted_fault_is_found() -> None:
    assert violations("check", {"scandsl.analysis.program.Program", "sympy"})
    assert violations("reference", {"scandsl.check.check_file"})
    assert not violations("plan", {"scandsl.analysis.program.Program", "dataclasses"})
