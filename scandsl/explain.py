"""What `scandsl explain` says: the analysis, and beside it what the plan's kernels cost.

In: a `Plan`.  Out: plain data, or lines of text.
"""

from __future__ import annotations

from scandsl.analysis.program import Form
from scandsl.analysis.report import Json, describe, report
from scandsl.kernels.backward import backward_program, cotangent_stores
from scandsl.kernels.chunk import chunk_program
from scandsl.kernels.cost import Setting, compulsory_bytes, kernel_cost, setting
from scandsl.kernels.schedule import Kernel, schedule
from scandsl.plan import Plan

SIZE, ITEM = 128, 2
"""The call that costs are shown for: every free dimension 128, bfloat16."""


def explanation(plan: Plan) -> Json:
    """The report of the analysis, with launches, bytes and operations of its kernels."""
    data = report(plan.program)
    data["form"] = plan.form.value
    data["reason"] = plan.reason
    data["kernels"] = _kernels(plan) if plan.form is Form.CHUNK else None
    return data


def lines(plan: Plan) -> list[str]:
    """The same for a reader."""
    out = list(describe(plan.program))
    if plan.form is not Form.CHUNK:
        return [*out, "kernels: none yet for this form; the loop over tokens runs in torch"]
    recurrence = plan.program.recurrence
    at = setting(recurrence, SIZE, ITEM)
    out.append(f"kernels (bytes and operations per token and head; sizes {SIZE}, bfloat16):")
    for direction, kernels in _both(plan).items():
        out += _direction(plan, direction, kernels, at)
    return out


def _both(plan: Plan) -> dict[str, tuple[Kernel, ...]]:
    recurrence = plan.program.recurrence
    forward = chunk_program(plan.program)
    backward = backward_program(forward, recurrence.inputs, recurrence.params).program
    return {"forward": schedule(forward), "backward": schedule(backward, cotangent_stores(forward))}


def _direction(plan: Plan, direction: str, kernels: tuple[Kernel, ...], at: Setting) -> list[str]:
    recurrence = plan.program.recurrence
    costs = [kernel_cost(recurrence, k, at) for k in kernels]
    floor = compulsory_bytes(recurrence, at, direction == "backward")
    total = sum(c.read + c.written for c in costs)
    head = f"  {direction}: {len(kernels)} launches, {total:,.0f} bytes, compulsory {floor:,.0f}"
    out = [f"{head} ({total / floor:.2f} times)"]
    for kernel, cost in zip(kernels, costs, strict=True):
        grid = "sequences x heads" if kernel.loop else "chunks x heads"
        cut = f", cut along {', '.join(kernel.tiled)}" if kernel.tiled else ""
        walk = "walks over time" if kernel.loop else "all chunks at once"
        out.append(
            f"    {kernel.name}: {walk}, grid {grid}{cut}; reads {cost.read:,.0f}, "
            f"writes {cost.written:,.0f}, {cost.operations:,.0f} operations"
        )
    return out


def _kernels(plan: Plan) -> Json:
    recurrence = plan.program.recurrence
    at = setting(recurrence, SIZE, ITEM)
    data: Json = {"size": SIZE, "dtype": "bfloat16", "chunk": at.chunk}
    for direction, kernels in _both(plan).items():
        costs = [kernel_cost(recurrence, k, at) for k in kernels]
        data[direction] = {
            "launches": len(kernels),
            "bytes": sum(c.read + c.written for c in costs),
            "compulsory": compulsory_bytes(recurrence, at, direction == "backward"),
            "operations": sum(c.operations for c in costs),
        }
    return data
