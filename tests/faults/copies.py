"""A copy of the compiler in which one file reads otherwise."""

from __future__ import annotations

import shutil
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("scandsl", "templates", "tests", "examples", "grammar", "benchmarks", "docs")
FILES = ("pyproject.toml", "README.md", "CHANGELOG.md", "Makefile")


def altered(folder: Path, changed: Path, text: str) -> Path:
    """Lay out a copy in `folder`, where `changed`, a path within the project, has another text."""
    folder.mkdir(parents=True, exist_ok=True)
    for part in PARTS:
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    for name in FILES:
        shutil.copy(ROOT / name, folder / name)
    (folder / changed).write_text(text, encoding="utf-8")
    return folder
