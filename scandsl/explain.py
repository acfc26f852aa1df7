"""What `scandsl explain` says: the analysis, and beside it what the plan's kernels cost.

In: a `Plan`.  Out: plain data, or lines of text.
"""

from __future__ import annotations

from dataclasses import asdict, replace

from scandsl.analysis.forms import is_fold
from scandsl.analysis.hoist import hoisted
from scandsl.analysis.program import Form, Stage
from scandsl.analysis.report import Json, describe, report
from scandsl.analysis.show import show
from scandsl.diagnostics import Source
from scandsl.ir.nodes import Recurrence
from scandsl.kernels.backward import backward_program, cotangent_stores
from scandsl.kernels.chunk_pairs import by_tables, real_chunks, real_declarations, runs
from scandsl.kernels.cost import (
    KernelCost,
    Setting,
    compulsory_bytes,
    kept_bytes,
    kernel_cost,
    setting,
)
from scandsl.kernels.decay_maps import only_decays
from scandsl.kernels.memory import Memory, rows_memory, torch_memory
from scandsl.kernels.rules import rule, structure
from scandsl.kernels.schedule import Kernel, schedule
from scandsl.kernels.step import StepProgram, step_program
from scandsl.kernels.step_cost import TOKENS, step_costs
from scandsl.kernels.step_tiles import LIMITS, crowding
from scandsl.kernels.tangents import without_tangents
from scandsl.plan import Plan
from scandsl.plan.launches import TILES, Measured, Rule, as_data, described, entries_of
from scandsl.render.lowering import lower
from scandsl.render.sequential_triton import step_of
from scandsl.render.triton_kernel import unprintable

SIZE, ITEM = 128, 2
"""The call that costs are shown for: every free dimension 128, bfloat16."""

LENGTH = 65536
"""The tokens that memory is shown for."""

SPLIT = "forward where few sequences and heads leave the machine idle"


_LOOP = (
    "kernels: one over time in each direction, on Triton; on torch a loop over tokens",
    "  backward  the carried parts are kept at about √T steps (16 to 256 apart) and those between",
    "            computed again; all gradients by the derived adjoint of the step",
)
_ON_TRITON = ("kernels: one over time in each direction, on Triton", *_LOOP[1:])


_BLOCKS = (
    "kernels: one over time in each direction, on Triton; on torch chunks between block starts",
    "  forward   what a block does at its start, once in each chunk; then all its tokens at once;",
    "            the states are kept at the start of every chunk",
    "  backward  the chunks against time; all gradients by the derived adjoint of the chunk",
)
_PAIRS = (
    "kernels: one over time in each direction, on Triton; on torch chunks of 16 tokens",
    "  forward   steps composed in pairs, pairs in pairs: what every row is handed, from the state",
    "            at the start of the chunk, which is kept",
    "  backward  the chunks against time; all gradients by the derived adjoint of the chunk",
)
_ENTRIES = (
    "kernels: one over time in each direction, on Triton; on torch chunks of 64 tokens",
    "  forward   each row moves all entries of the state, of many chunks at once if they are few;",
    "            the state is kept at the start of every chunk",
    "  backward  the chunks against time: the rows are run through again, then their cotangents",
)
_TABLES = (
    "kernels: one over time in each direction, on Triton; on torch chunks",
    "  forward   what each state keeps of what was added, in tables of rows and columns; states",
    "            are kept at the start of every chunk",
    "  backward  the chunks against time; all gradients by the derived adjoint of the chunk",
)
_SEGMENTS = (
    "  segments  where programs of 512 numbers of the state each leave most of a GPU idle, long",
    "            sequences are cut: one launch more in each direction finds what each segment",
    "            leaves of zero and the product of its decays, then all run at once",
)


def explanation(plan: Plan, source: Source | None = None) -> Json:
    """The report of the analysis, with launches, bytes and operations of its kernels."""
    data = report(plan.program, source)
    data["form"] = plan.form.value
    data["reason"] = plan.reason
    data["kernels"] = _kernels(plan) if _in_kernels(plan) else None
    data["stages"] = [_stage(plan, s) for s in _stages(plan)]
    if _over_time(plan):
        data["kernels"] = _steps(plan)
    data["memory"] = _memory(plan)
    return data


def lines(plan: Plan, source: Source | None = None) -> list[str]:
    """The same for a reader."""
    out = list(describe(plan.program, source))
    if plan.form is Form.CHAIN:
        for number, stage in enumerate(_stages(plan), 1):
            out += ["", *_stage_lines(plan, stage, number)]
        chunked = {Form.CHUNK, Form.SCAN} & {s.form for s in _stages(plan)}
        loop = _ENTRIES if chunked else _ON_TRITON
        return [*out, *(("", *loop, *_step_lines(plan)) if _over_time(plan) else ())]
    own = {Form.BLOCKS: _BLOCKS, **({} if _folds(plan) else {Form.SCAN: _PAIRS})}
    if plan.form in own:
        return [*out, *own[plan.form], *_step_lines(plan)]
    if plan.form not in (Form.CHUNK, Form.SCAN):
        return [*out, *_LOOP, *_step_lines(plan)]
    if by_tables(plan.program):
        return [*out, *_TABLES, *_step_lines(plan), *_memory_lines(plan)]
    if not _in_kernels(plan):
        segments = _SEGMENTS if only_decays(plan.program) else ()
        return [*out, *_ENTRIES, *segments, *_step_lines(plan), *_memory_lines(plan)]
    return [*out, *_kernel_lines(plan), *_memory_lines(plan)]


def _in_kernels(plan: Plan) -> bool:
    """Whether chunks are carried out by kernels on Triton."""
    if plan.form is not Form.CHUNK:
        return False
    _, forward = real_chunks(plan.program)
    return not runs(forward) and not by_tables(plan.program) and unprintable(forward) is None


# ---------------------------------------------------------------- chains


def _stages(plan: Plan) -> tuple[Stage, ...]:
    return plan.program.stages if plan.form is Form.CHAIN else ()


def _part(plan: Plan, stage: Stage) -> Plan:
    """The plan of a stage."""
    return replace(plan, program=stage.program, form=stage.form)


def _stage(plan: Plan, stage: Stage) -> Json:
    """What a stage carries, takes and gives, and its kernels if it has some."""
    recurrence = stage.program.recurrence
    dims = {o.name: list(o.dims) for o in recurrence.outputs}
    part = _part(plan, stage)
    kernels = _steps(part) if _runs_over_time(plan, stage) else None
    return {
        "form": stage.form.value,
        "states": [s.name for s in recurrence.states],
        "memories": list(stage.memories),
        "takes": list(recurrence.arguments),
        "hands_on": {name: dims[name] for name in stage.passed},
        "outputs": [name for name in dims if name not in stage.passed],
        "runs": _RUNS[stage.form],
        "kernels": _kernels(part) if _in_kernels(part) else kernels,
    }


def _folds(plan: Plan) -> bool:
    """Whether some state is affine in another algebra."""
    return any(map(is_fold, plan.program.components))


def _runs_over_time(plan: Plan, stage: Stage) -> bool:
    """Whether a stage has kernels over time of its own."""
    loops = stage.form is Form.SEQUENTIAL or stage.form is Form.SCAN
    return loops and not _over_time(plan)


_RUNS = {
    Form.CHUNK: "chunks, by kernels or in tensor operations",
    Form.SCAN: "kernels over time on Triton, chunks in tensor operations",
    Form.SEQUENTIAL: "the loop over tokens; what it hands on is kept for the backward",
    Form.CONVOLUTION: "tensor operations on all tokens at once, again in the backward",
    Form.MAP: "tensor operations on all tokens at once, again in the backward",
    Form.INVARIANT: "products with powers of its matrix and with its impulse response, in tensor "
    "operations (by matrix units on a GPU too); what it hands on is kept for the backward",
}


def _stage_lines(plan: Plan, stage: Stage, number: int) -> list[str]:
    recurrence = stage.program.recurrence
    carried = ", ".join((*(s.name for s in recurrence.states), *stage.memories))
    out = [f"stage {number}: {stage.form.value}" + (f" of {carried}" if carried else "")]
    out.append(f"  runs    {_RUNS[stage.form]}")
    out.append(f"  takes   {', '.join(recurrence.arguments)}")
    handed = [o for o in recurrence.outputs if o.name in stage.passed]
    for output in handed:
        dims = f"[{', '.join(output.dims)}]" if output.dims else ""
        text = show(recurrence.values, output.value, inside=True)
        out.append(f"  hands on {output.name}{dims} = {text}")
    part = _part(plan, stage)
    if _in_kernels(part):
        out += _kernel_lines(part)
    elif _runs_over_time(plan, stage):
        out += _step_lines(part)
    return out


# ---------------------------------------------------------------- kernels


def _kernel_lines(plan: Plan) -> list[str]:
    at = _setting(plan)
    out = []
    out.append(f"kernels (bytes and operations per token and head; sizes {SIZE}, bfloat16):")
    for direction, kernels in _schedules(plan).items():
        out += _direction(plan, direction, kernels, at)
    return out + _measured_lines(plan)


def _setting(plan: Plan, size: int = SIZE) -> Setting:
    """The call that the costs of chunks are shown for."""
    recurrence, forward = real_chunks(plan.program, late=True)
    return setting(recurrence, size, ITEM, forward)


def _schedules(plan: Plan) -> dict[str, tuple[Kernel, ...]]:
    """The kernels of both directions; of the forward's two schedules those that the plan allows."""
    recurrence, forward = real_chunks(plan.program, late=True)
    backward = backward_program(forward, recurrence.inputs, recurrence.params).program
    out = {
        name: schedule(forward, fused=wanted == "fused")
        for name, wanted in (("forward", "fused"), (SPLIT, "split"))
        if plan.schedule in (None, wanted)
    }
    return {**out, "backward": schedule(backward, cotangent_stores(forward))}


def _direction(plan: Plan, direction: str, kernels: tuple[Kernel, ...], at: Setting) -> list[str]:
    recurrence = real_declarations(plan.program.recurrence)
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
        if cost.kept:
            out[-1] += f"; keeps {cost.kept:,.0f} for a backward"
        out.append(f"      launched with {_rule_words(_rule(plan, kernel), kernel)}")
    return out


def _rule(plan: Plan, kernel: Kernel) -> Rule:
    return rule(kernel, any(len(s.dims) > 2 for s in plan.program.recurrence.states))


def _rule_words(found: Rule, kernel: Kernel) -> str:
    """How a kernel is launched where nothing was measured."""
    tiles = f"tiles of {TILES[found.tile]}{_half(found)}, " if kernel.tiled else ""
    apart = f"; {found.apart:,} on sm_100 to sm_110" if found.apart != found.least else ""
    eight = f" (8 from {found.least:,} numbers of a tile on{apart})" if found.least else ""
    warps = "4 warps" + eight if found.least else "8 warps"
    return f"{tiles}{warps}, {found.stages} stage{'s' if found.stages > 1 else ''}"


def _half(found: Rule) -> str:
    """Where the sums of products do not leave room for the whole tile."""
    if found.tile != "walk":
        return ""
    return f" ({TILES['walk'] // 2} {'' if found.full else 'in float32 '}on sm_100 to sm_110)"


def _measured(plan: Plan) -> tuple[Measured, ...]:
    """The measured launches of a plan's kernels."""
    if not _in_kernels(plan):
        return entries_of(plan.launches, structure(_kernel_over_time(plan)[1]))
    recurrence, late = real_chunks(plan.program, late=True)
    backward = backward_program(late, recurrence.inputs, recurrence.params).program
    return entries_of(plan.launches, structure(late, backward))


def _measured_lines(plan: Plan) -> list[str]:
    """The same for a reader."""
    out = []
    for entry in _measured(plan):
        chunk = "" if entry.chunk is None else f"; chunks of {entry.chunk}"
        sizes = " x ".join(map(str, entry.sizes))
        out.append(f"  measured on {entry.arch}, {entry.dtype}, {sizes}{chunk}:")
        out += [f"    {name}: {described(c)}" for name, c in sorted(entry.kernels.items())]
    return out


def _kernels(plan: Plan) -> Json:
    recurrence = real_declarations(plan.program.recurrence)
    at = _setting(plan)
    data: Json = {"size": SIZE, "dtype": "bfloat16", "chunk": at.chunk}
    for direction, kernels in _schedules(plan).items():
        costs = [kernel_cost(recurrence, k, at) for k in kernels]
        name = "forward_split" if direction == SPLIT else direction
        data[name] = {
            "launches": len(kernels),
            "bytes": sum(c.read + c.written for c in costs),
            "kept": sum(c.kept for c in costs),
            "compulsory": compulsory_bytes(recurrence, at, direction == "backward"),
            "operations": sum(c.operations for c in costs),
            "launched": {k.name: asdict(_rule(plan, k)) for k in kernels},
        }
    data["measured"] = [as_data(x) for x in _measured(plan)]
    return data


def launch_costs(plan: Plan, size: int) -> dict[str, list[KernelCost]]:
    """What each launch on Triton moves and computes, by direction; the fused walk if it may be.

    Tensor operations between the kernels of a chain are left out.
    """
    stages = () if _over_time(plan) else _stages(plan)
    out: dict[str, list[KernelCost]] = {"forward": [], "backward": []}
    for part in [_part(plan, s) for s in stages] or [plan]:
        for direction, costs in _part_costs(part, size).items():
            out[direction] += costs
    return out


def _part_costs(plan: Plan, size: int) -> dict[str, list[KernelCost]]:
    if _in_kernels(plan):
        recurrence, at = real_declarations(plan.program.recurrence), _setting(plan, size)
        schedules = _schedules(plan)
        forward = schedules.get("forward", schedules.get(SPLIT, ()))
        pairs = (("forward", forward), ("backward", schedules["backward"]))
        return {n: [kernel_cost(recurrence, k, at) for k in ks] for n, ks in pairs}
    if plan.form not in (Form.MAP, Form.CONVOLUTION, Form.INVARIANT):
        _, steps = _step_costs(plan, size)
        return {direction: [cost] for direction, cost in steps.items()}
    return {}


# ---------------------------------------------------------------- memory


def memory(plan: Plan, size: int, tokens: int) -> Memory | None:
    """What chunks of tensor operations take, every free dimension of one size."""
    if plan.form not in (Form.CHUNK, Form.SCAN):
        return None
    recurrence, forward = real_chunks(plan.program)
    if runs(forward) and any(c.form is not Form.SCAN for c in plan.program.components):
        return None
    backward = backward_program(forward, recurrence.inputs, recurrence.params).program
    forward = without_tangents(forward)
    sizes = setting(recurrence, size, ITEM).sizes
    count = rows_memory if runs(forward) else torch_memory
    return count(forward, backward, sizes, tokens, plan.chunk)


def _on_triton(plan: Plan) -> int | None:
    """Bytes that the kernels keep for a backward."""
    if not _in_kernels(plan):
        return None
    at = _setting(plan)
    return round(LENGTH * kept_bytes(real_chunks(plan.program, late=True)[1].carries, at))


def _memory(plan: Plan) -> Json | None:
    found = memory(plan, SIZE, LENGTH)
    if found is None:
        return None
    return {
        "tokens": found.tokens,
        "size": SIZE,
        "torch": {"chunk": found.chunk, "kept": found.kept, "working": found.working},
        "triton": {"kept": _on_triton(plan)},
    }


def _memory_lines(plan: Plan) -> list[str]:
    found = memory(plan, SIZE, LENGTH)
    if found is None:
        return []
    kept, working = found.kept / 2**20, found.working / 2**20
    lines = [
        f"memory beside arguments and results ({LENGTH:,} tokens of one sequence and head):",
        f"  torch   float32, on a CPU: {kept:,.1f} MiB for a backward, the states at the starts of "
        f"chunks of {found.chunk}; at most {working:,.1f} MiB while it computes",
    ]
    triton = _on_triton(plan)
    if triton is not None:
        lines.append(f"  triton  bfloat16: {triton / 2**20:,.1f} MiB for a backward")
    return lines


# ---------------------------------------------------------------- kernels over time


def _over_time(plan: Plan) -> bool:
    """Whether Triton has one kernel over time in each direction for all of a plan.

    A chain without a stage that carries something on chip has them too.
    """
    parts = [_part(plan, stage) for stage in _stages(plan)]
    if any(_in_kernels(p) for p in parts):
        return False
    if parts:
        forms = {p.form for p in parts}
        over_time = any(_folds(p) for p in parts)
        return over_time or forms.isdisjoint((Form.SEQUENTIAL, Form.SCAN))
    return plan.form is Form.SEQUENTIAL or not _in_kernels(plan)


def _around(plan: Plan) -> tuple[Stage, ...]:
    """The kernel over time and what is computed in front and behind, if there is any."""
    found = hoisted(plan.program)
    return () if found is None else found.stages


def _kernel_over_time(plan: Plan) -> tuple[Recurrence, StepProgram]:
    """What the kernel over time carries out, without what is computed in front and behind."""
    recurrence = plan.program.recurrence
    for stage in _around(plan):
        if stage.form is Form.SEQUENTIAL:
            recurrence = stage.program.recurrence
    return recurrence, step_program(step_of(lower(recurrence)))


def _step_costs(plan: Plan, size: int = SIZE) -> tuple[Setting, dict[str, KernelCost]]:
    at = setting(plan.program.recurrence, size, ITEM)
    wide = frozenset(name for stage in _around(plan) for name in stage.passed)
    recurrence, program = _kernel_over_time(plan)
    return at, step_costs(recurrence, program, at, wide)


def _around_lines(plan: Plan) -> list[str]:
    """Which products with constant matrices the kernel over time does not do."""
    out = []
    for stage in _around(plan):
        if stage.form is Form.MAP:
            found = stage.program.recurrence
            texts = [
                f"{o.name} = {show(found.values, o.value, inside=True)}" for o in found.outputs
            ]
            place = "in front" if stage.passed else "behind"
            out += [f"  {place:<9} for all tokens at once: {text}" for text in texts]
    return out


def _step_lines(plan: Plan) -> list[str]:
    at, costs = _step_costs(plan)
    out = _around_lines(plan)
    out.append(f"  per token and head; sizes {SIZE}, bfloat16, {TOKENS} tokens:")
    for direction, cost in costs.items():
        floor = compulsory_bytes(plan.program.recurrence, at, direction == "backward")
        total = cost.read + cost.written
        out.append(
            f"  {direction}: 1 launch, {total:,.0f} bytes, compulsory {floor:,.0f} "
            f"({total / floor:.2f} times), {cost.operations:,.0f} operations"
        )
        if cost.kept:
            out[-1] += f"; keeps {cost.kept:,.0f} for a backward"
    numbers = crowding(_kernel_over_time(plan)[1])
    words = [f"{LIMITS[d] // numbers:,} {d}" for d in costs]
    out.append(f"  launched with at most {', '.join(words)} numbers of a value in a program")
    return out + _measured_lines(plan)


def _steps(plan: Plan) -> Json:
    at, costs = _step_costs(plan)
    data: Json = {"size": SIZE, "dtype": "bfloat16", "tokens": TOKENS}
    outer = [(s, [o.name for o in s.program.recurrence.outputs]) for s in _around(plan)]
    data["in_front"] = [n for s, names in outer for n in names if s.form is Form.MAP and s.passed]
    data["behind"] = [n for s, names in outer for n in names if s.form is Form.MAP and not s.passed]
    for direction, cost in costs.items():
        data[direction] = {
            "launches": 1,
            "bytes": cost.read + cost.written,
            "kept": cost.kept,
            "compulsory": compulsory_bytes(plan.program.recurrence, at, direction == "backward"),
            "operations": cost.operations,
        }
    data["measured"] = [as_data(x) for x in _measured(plan)]
    return data
