"""Shared by the tests of generated modules: compile a text or a file, draw arguments."""

from __future__ import annotations

import importlib.util
import sys
from functools import cache
from pathlib import Path
from types import ModuleType

import torch

from scandsl.diagnostics import Source
from scandsl.driver import Options, compile_source
from scandsl.ir.nodes import Recurrence
from scandsl.testing.data import Data, Layout, draw

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = tuple(sorted((ROOT / "examples").glob("*.scan")))
SPECS = tuple(sorted((ROOT / "tests" / "specs").glob("*.scan")))


@cache
def text_of(path: Path, form: str | None = None) -> tuple[str, tuple[Recurrence, ...]]:
    """The generated module of a file, and its recurrences."""
    source = Source(path.name, path.read_text(encoding="utf-8"))
    found = compile_source(source, Options(form=form))
    return found.module, found.front.recurrences


def imported(text: str, folder: Path, name: str) -> ModuleType:
    """Write a module's text and import it."""
    file = folder / f"{name}.py"
    file.write_text(text, encoding="utf-8")
    spec = importlib.util.spec_from_file_location(f"generated_{name}", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[f"generated_{name}"] = module
    spec.loader.exec_module(module)
    return module


def built(
    text: str, folder: Path, name: str = "spec", form: str | None = None
) -> tuple[ModuleType, Recurrence]:
    """Compile a spec of one scan and import it."""
    found = compile_source(Source(f"{name}.scan", text), Options(form=form))
    return imported(found.module, folder, name), found.front.recurrences[0]


def example(name: str, folder: Path, form: str | None = None) -> tuple[ModuleType, Recurrence]:
    """The module of an example."""
    module, recurrences = text_of(ROOT / "examples" / f"{name}.scan", form)
    return imported(module, folder, name), recurrences[0]


def arguments(
    recurrence: Recurrence, layout: Layout, dtype: torch.dtype = torch.float64, seed: int = 0
) -> tuple[list[torch.Tensor], Data]:
    """Tensors that require gradients, in the order of the signature."""
    data = draw(recurrence, {}, layout, dtype=dtype, seed=seed)
    return [data.tensors[n].detach().clone().requires_grad_() for n in recurrence.arguments], data
