"""What a call needs at least: the bytes that must move, the operations of the planned form.

In: a plan and a shape.  Out: bytes and operations of each direction.  Divided by what the machine
gives, the larger is the time below which no implementation of that form can come.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from scandsl.analysis.forms import is_fold
from scandsl.analysis.program import Form
from scandsl.bench.inputs import all_sizes
from scandsl.bench.machine import Rates
from scandsl.kernels.backward import backward_program, cotangent_stores
from scandsl.kernels.chunk_pairs import real_chunks, real_declarations, runs
from scandsl.kernels.cost import Setting, compulsory_bytes, kernel_cost, setting
from scandsl.kernels.schedule import schedule
from scandsl.kernels.step import step_program
from scandsl.kernels.step_cost import step_costs
from scandsl.plan import Plan
from scandsl.render.lowering import lower
from scandsl.render.sequential_triton import step_of


@dataclass(frozen=True, slots=True)
class Needs:
    """Of one direction of one call."""

    bytes: float
    operations: float

    def milliseconds(self, rates: Rates) -> float:
        """The floor on a machine of these rates."""
        return 1e3 * max(self.bytes / rates.copy, self.operations / rates.matrix)


def needs(plan: Plan, sizes: Mapping[str, int], rows: int, item: int) -> dict[str, Needs]:
    """Forward, backward and both; `rows` are tokens times heads, `item` bytes of a number."""
    at = _setting(plan, sizes, item)
    recurrence = plan.program.recurrence
    operations = _operations(plan, at)
    out = {
        direction: Needs(
            rows * compulsory_bytes(recurrence, at, direction == "backward"),
            rows * operations.get(direction, 0.0),
        )
        for direction in ("forward", "backward")
    }
    both = [out["forward"], out["backward"]]
    out["both"] = Needs(sum(x.bytes for x in both), sum(x.operations for x in both))
    return out


def _setting(plan: Plan, sizes: Mapping[str, int], item: int) -> Setting:
    recurrence = plan.program.recurrence
    full = all_sizes(recurrence, sizes)
    at = setting(recurrence, max(full.values(), default=1), item)
    return replace(at, sizes=full, chunk=plan.chunk or at.chunk)


def _operations(plan: Plan, at: Setting) -> dict[str, float]:
    """Of the sums over products in chunks; of whatever a step does in a loop."""
    whole = plan.form is Form.CHUNK and not any(map(is_fold, plan.program.components))
    if whole:
        recurrence, forward = real_chunks(plan.program, late=True)
        if not runs(forward):
            backward = backward_program(forward, recurrence.inputs, recurrence.params).program
            return {
                "forward": sum(
                    kernel_cost(real_declarations(recurrence), k, at).operations
                    for k in schedule(forward)
                ),
                "backward": sum(
                    kernel_cost(real_declarations(recurrence), k, at).operations
                    for k in schedule(backward, cotangent_stores(forward))
                ),
            }
    recurrence = plan.program.recurrence
    costs = step_costs(recurrence, step_program(step_of(lower(recurrence))), at)
    return {direction: cost.operations for direction, cost in costs.items()}
