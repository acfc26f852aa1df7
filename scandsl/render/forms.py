"""Which forms of a scan are rendered, per backend.

In: an analysed program and its names.  Out: at most one `RenderedForm` per backend, the best one that
its components allow.  The sequential form is always there for torch.
"""

from __future__ import annotations

from scandsl.analysis.program import Program
from scandsl.render.form import RenderedForm
from scandsl.render.functions import FunctionPrinter
from scandsl.render.lowering import Lowered
from scandsl.render.scan import ScanNames
from scandsl.render.sequential import render_sequential


def forms_of(
    program: Program,
    names: ScanNames,
    lowered: Lowered,
    printer: FunctionPrinter,
    form: str | None,
    chunk: int | None,
) -> tuple[RenderedForm, ...]:
    """The forms of one scan, torch first."""
    del program, form, chunk
    return (render_sequential(names, lowered, printer),)
