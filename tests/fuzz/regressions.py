"""Specs that once showed a fault, as small as they could be made, each with how it was tried.

A file is a `.scan` whose first lines are comments: what was wrong, then the trial as JSON.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from tests.fuzz.trials import Trial

FOLDER = Path(__file__).resolve().parent.parent / "regressions"
_MARK = "# trial: "


def keep(folder: Path, text: str, trial: Trial, message: str) -> Path:
    """Write a regression; its name comes from its text, so that the same is kept once."""
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    words = [" ".join(line.split()) for line in message.splitlines() if line.strip()]
    head = [f"# {line[:96]}" for line in words[:3]]
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"found_{digest}.scan"
    file.write_text("\n".join([*head, _MARK + trial.line(), text]), "utf-8")
    return file


def read(file: Path) -> tuple[str, Trial]:
    """The text of a kept spec and how it is tried."""
    text = file.read_text("utf-8")
    line = next(x for x in text.splitlines() if x.startswith(_MARK))
    return text, Trial.read(line.removeprefix(_MARK))


def files() -> list[Path]:
    """All that are kept."""
    return sorted(FOLDER.glob("*.scan"))
