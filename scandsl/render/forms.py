"""Which forms of a scan are rendered, per backend.

In: a plan and the names of its scan.  Out: at most one `RenderedForm` per backend, torch first.
The sequential form exists for any scan on both; the chunked form where the plan has it, on torch
and, as far as its values fit into tiles, on Triton (where they do not, Triton runs sequentially).
A chain runs on Triton where a stage does.
"""

from __future__ import annotations

from dataclasses import replace

from scandsl.analysis.hoist import hoisted
from scandsl.analysis.program import Form
from scandsl.kernels.backward import backward_program
from scandsl.kernels.chunk import chunk_program
from scandsl.kernels.chunk_pairs import by_tables, real_chunks, runs, runs_complex
from scandsl.kernels.coupled_state import ROWS
from scandsl.kernels.rules import structure
from scandsl.kernels.tangents import without_tangents
from scandsl.plan import Plan
from scandsl.render.chain_form import chain_forms, hoisted_form
from scandsl.render.chunk_form import ChunkForm
from scandsl.render.chunk_torch import ChunkTorch
from scandsl.render.chunk_triton import ChunkTriton
from scandsl.render.form import Handed, RenderedForm
from scandsl.render.functions import FunctionPrinter
from scandsl.render.invariant_form import render_invariant
from scandsl.render.lowering import Lowered
from scandsl.render.paired_form import Paired, complex_results, has_pairs, paired_names
from scandsl.render.scan import ScanNames
from scandsl.render.sequential import render_sequential
from scandsl.render.sequential_triton import render_sequential_triton
from scandsl.render.slices import render_slices, render_slices_steps, render_slices_triton
from scandsl.render.tables import tuned_of
from scandsl.render.template import fill
from scandsl.render.triton_expressions import HELPERS
from scandsl.render.triton_kernel import unprintable


def forms_of(
    plan: Plan,
    names: ScanNames,
    lowered: Lowered,
    printer: FunctionPrinter,
    handed: Handed | None = None,
) -> tuple[RenderedForm, ...]:
    """The forms of one scan, or of a stage of a chain with what goes between it and others."""
    if plan.form is Form.CHAIN:
        chain = chain_forms(plan, names, printer, forms_of)
        if all(form.backend == "torch" for form in chain):  # no stage has a state
            return (*chain, _steps(plan, names, lowered, printer, None))
        return chain
    if plan.form is Form.BLOCKS or (plan.program.coupled and plan.form is Form.SCAN):
        return _of_given_rows(plan, names, lowered, printer)
    if plan.form is Form.INVARIANT and handed is not None:
        return (render_invariant(names, lowered, printer, handed.passed),)
    if plan.form not in (Form.CHUNK, Form.SCAN):
        passed = None if handed is None else handed.passed
        sequential = render_sequential(names, lowered, printer, passed)
        return (sequential, _steps(plan, names, lowered, printer, handed))
    return tuple(_chunked(plan, names, lowered, printer, handed))


def _of_given_rows(
    plan: Plan, names: ScanNames, lowered: Lowered, printer: FunctionPrinter
) -> tuple[RenderedForm, ...]:
    """The forms of a scan whose chunks have a length of their own: from one start of its `every`
    blocks to the next, or as many rows as are composed in pairs.
    """
    recurrence, block = plan.program.recurrence, plan.program.block
    forward = chunk_program(plan.program)
    backward = backward_program(forward, recurrence.inputs, recurrence.params)
    name = names.private.strip("_")
    apart, rows = (None, ROWS) if block is None else (block.tokens, None)
    arguments = (recurrence, names.inner, name, without_tangents(forward), backward, rows)
    torch = ChunkTorch(*arguments, apart=apart)
    rendered = torch.render()
    printer.helpers.update(torch.helpers)
    return (rendered, _steps(plan, names, lowered, printer, None))


def _steps(
    plan: Plan,
    names: ScanNames,
    lowered: Lowered,
    printer: FunctionPrinter,
    handed: Handed | None,
) -> RenderedForm:
    """The kernels over time, products with constant matrices taken out of the loop."""
    program = hoisted(plan.program)
    if program is not None:
        return hoisted_form(replace(plan, program=program), names, printer, handed)
    passed = None if handed is None else handed.passed
    return render_sequential_triton(names, lowered, passed, plan.launches)


def _chunked(
    plan: Plan,
    names: ScanNames,
    lowered: Lowered,
    printer: FunctionPrinter,
    handed: Handed | None,
) -> list[RenderedForm]:
    """The forms of a scan, or of a stage, that is carried out in chunks."""
    whole = plan.program.recurrence
    recurrence, forward = real_chunks(plan.program)
    backward = backward_program(forward, recurrence.inputs, recurrence.params)
    forward = without_tangents(forward)
    name = names.private.strip("_")
    arguments = paired_names(whole, names.inner)
    wide = complex_results(whole)
    torch = ChunkTorch(
        recurrence, arguments, name, forward, backward, plan.chunk, handed=handed, wide=wide
    )
    paired = has_pairs(whole) and not runs_complex(forward)
    tables = by_tables(plan.program)
    slices, helpers = (None, frozenset[str]()) if paired or tables else render_slices(torch)
    forms, sequential = [replace(torch.render(), slices=slices)], ""
    printer.helpers.update(torch.helpers, helpers)
    kernels = not runs(forward) and not tables and unprintable(forward) is None
    if kernels and unprintable(backward.program) is None:
        _, late = real_chunks(plan.program, late=True)
        adjoint = backward_program(late, recurrence.inputs, recurrence.params)
        tuned, table = tuned_of(plan.launches, structure(late, adjoint.program), name)
        triton = ChunkTriton(
            recurrence, arguments, name, late, adjoint,
            handed=handed, schedule=plan.schedule, tuned=tuned, wide=wide,
        )  # fmt: skip
        rendered = replace(triton.render(), tables=table, sites=(triton.site(),))
        if slices is not None and handed is None:
            same = None if tuned is None else replace(tuned, chunk_only=True)
            maps = ChunkTriton(recurrence, arguments, name, forward, backward, tuned=same)
            rendered = replace(rendered, slices=render_slices_triton(maps, rendered, slices))
        forms.append(rendered)
    elif handed is None or plan.form is Form.SCAN:
        # of a stage of matrix states the events tell the step, not its values
        steps = _steps(plan, names, lowered, printer, handed)
        if slices is not None and handed is None:
            own = render_slices_steps(plan, forward, names, printer, slices)
            steps = replace(steps, slices=own)
        forms.append(steps)
        sequential = forms[-1].forward
    if not paired:
        return forms
    stage = handed is not None
    return [
        f if f.forward == sequential else Paired(whole, names.inner, f, stage).render()
        for f in forms
    ]


def chunk_runtime(backends: frozenset[str]) -> str:
    """What the chunked forms of a module share; empty if there are none."""
    if not backends:
        return ""
    triton = "triton" in backends
    context = {"torch": "torch" in backends, "triton": triton, "helpers": HELPERS}
    texts = [fill("chunk_runtime", context).strip("\n")]
    if "torch" in backends:
        texts.append(fill("fold_runtime", {}).strip("\n"))
    if triton:
        texts.append(fill("step_runtime", {}).strip("\n"))
    return "\n\n\n".join(texts)


__all__ = ["ChunkForm", "chunk_runtime", "forms_of"]
