"""Renders what composes slices of time: the maps `S ↦ M S + N`, and how cotangents walk back.

In: the chunked form of a recurrence.  Out: a `RenderedSlices` for torch, and one for Triton.  The
maps are one more chunk program (`scandsl.kernels.state_map`), printed by the same printers; the
walk of the cotangents is the backward without the gradients of its tensors.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from string import ascii_lowercase

from scandsl.analysis.hoist import hoisted
from scandsl.ir.builder import Builder
from scandsl.ir.nodes import Dim, Dims, Recurrence
from scandsl.kernels.backward import Backward, cotangent
from scandsl.kernels.decay_maps import only_decays, with_maps
from scandsl.kernels.program import ChunkProgram
from scandsl.kernels.prune import prune
from scandsl.kernels.state_map import BY, Composition, StateMap, composition
from scandsl.plan import Plan
from scandsl.render.chain_form import hoisted_form
from scandsl.render.chunk_form import ChunkForm
from scandsl.render.chunk_torch import ChunkTorch
from scandsl.render.chunk_triton import ChunkTriton
from scandsl.render.form import RenderedForm, RenderedMove, RenderedSlices
from scandsl.render.functions import FunctionPrinter
from scandsl.render.lowering import lower
from scandsl.render.names import Names, inner_names
from scandsl.render.scan import ScanNames, base_names, state_parts
from scandsl.render.sequential_triton import render_steps_forward
from scandsl.render.triton_kernel import unprintable


def render_slices(form: ChunkTorch) -> tuple[RenderedSlices | None, frozenset[str]]:
    """The functions and tables, and the helpers they use; `None` where a state has no map."""
    found = composition(form.forward)
    if found is None:
        return None, frozenset()
    maps_form = _maps_form(form, found)
    ends_form = _ends_form(form)
    maps, ends = f"_{form.name}_slice_maps", f"_{form.name}_slice_ends"
    doc = "How the tokens move the states: what they leave of zero, then of the identity."
    sources = [maps_form.forward_function(maps, doc)]
    doc = "The cotangents of the initial states alone."
    sources.append(ends_form.backward_function(ends, doc))
    bases = base_names(form.recurrence.dims)
    moves = tuple(
        _move(m, s.dims, bases) for m, s in zip(found.maps, form.recurrence.states, strict=True)
    )
    helpers = frozenset(maps_form.helpers | ends_form.helpers)
    return RenderedSlices("\n\n\n".join(sources) + "\n", (maps,), ends, moves), helpers


def render_slices_triton(
    form: ChunkTriton, rendered: RenderedForm, torch: RenderedSlices
) -> RenderedSlices:
    """The same as kernels, those of the form itself where they are equal.

    What kernels cannot hold stays in tensor operations.  What neither function calls goes, as all
    that nothing in a module reads.
    """
    found = composition(form.forward)
    if found is None or unprintable(found.program) is not None:
        return replace(torch, source="", ends=None)
    recurrence, arg = _carrying(form, found)
    still = _still(found.program)
    tuned = form.tuned
    maps = ChunkTriton(
        recurrence, arg, f"{form.name}_maps", found.program, still, tuned=tuned
    ).render()
    ends = ChunkTriton(
        form.recurrence, form.arg, f"{form.name}_ends", form.forward, _light(form), tuned=tuned
    ).render()
    source = _without_twins(f"{maps.source.rstrip()}\n\n\n{ends.source}", rendered.source)
    return replace(torch, source=source, maps=(maps.forward,), ends=ends.backward, kernels=True)


def render_slices_steps(
    plan: Plan,
    forward: ChunkProgram,
    names: ScanNames,
    printer: FunctionPrinter,
    torch: RenderedSlices,
) -> RenderedSlices | None:
    """The same for the kernels over time: one that carries the maps, where states only decay."""
    program = plan.program
    found = composition(forward)
    if found is None or not only_decays(program):
        return None
    recurrence = with_maps(program, found.maps)
    declared = [*recurrence.arguments, *(s.name for s in recurrence.scalars)]
    declared += [s.name for s in recurrence.states]
    own = replace(
        names,
        recurrence=recurrence,
        private=f"{names.private}_maps",
        inner=inner_names(dict.fromkeys(declared)),
        state=state_parts(recurrence),
    )
    without = hoisted(replace(program, recurrence=recurrence))
    tables: tuple[str, ...] = ()
    if without is None:
        source, name = render_steps_forward(own, lower(recurrence))
    else:
        form = hoisted_form(replace(plan, program=without), own, printer, None)
        source, name, tables = form.source, form.forward, form.tables
    return RenderedSlices(source, (name,), None, torch.moves, True, True, tables)


_DEFINED = re.compile(r"^def (\w+)\(")


def _without_twins(source: str, known: str) -> str:
    """Functions of a source without those that are known under other names."""
    twins: dict[str, str] = {}
    for name, block in _functions(known):
        twins.setdefault(block.replace(name, "@"), name)
    kept: list[str] = []
    called: dict[str, str] = {}
    for name, block in _functions(source):
        twin = twins.get(block.replace(name, "@"))
        if twin is None:
            kept.append(block)
        else:
            called[name] = twin
    text = "\n\n\n".join(kept) + "\n"
    return re.sub(r"\w+", lambda m: called.get(m.group(), m.group()), text)


def _functions(source: str) -> Iterator[tuple[str, str]]:
    for block in source.strip().split("\n\n\n"):
        match = _DEFINED.match(block)
        yield match.group(1) if match else "", block.strip()


def _maps_form(form: ChunkTorch, found: Composition) -> ChunkTorch:
    """The torch text of the maps."""
    recurrence, arg = _carrying(form, found)
    return replace(
        form, recurrence=recurrence, arg=arg, forward=found.program, helpers=set(), once=[]
    )


def _carrying(form: ChunkForm, found: Composition) -> tuple[Recurrence, dict[str, str]]:
    """A recurrence that carries the maps beside its states, and its names."""
    recurrence = form.recurrence
    names = Names(form.arg.values())
    arg, states = dict(form.arg), list(recurrence.states)
    for state, move in zip(recurrence.states, found.maps, strict=True):
        if move.name is not None:
            arg[move.name] = names.fresh(f"map_{form.arg[state.name]}")
            states.append(replace(state, name=move.name, dims=move.dims))
    again = dict.fromkeys(d for m in found.maps for d in m.over)
    dims = (*recurrence.dims, *(_again(recurrence, d) for d in again))
    return replace(recurrence, dims=dims, states=tuple(states), outputs=()), arg


def _again(recurrence: Recurrence, name: str) -> Dim:
    """A dimension under a second name."""
    dim = next(d for d in recurrence.dims if d.name == name)
    return Dim(BY + name, size=dim.size, base=dim.base or name)


def _ends_form(form: ChunkTorch) -> ChunkTorch:
    """The torch text of the backward with nothing but its carries."""
    return replace(form, backward=_light(form), helpers=set(), once=[])


def _still(forward: ChunkProgram) -> Backward:
    """A backward that hands cotangents on as they are, where nobody asks for one."""
    b = Builder(forward.dims)
    carries = []
    for carry in forward.carries:
        name = cotangent(carry.name)
        carries.append(replace(carry, name=name, next=b.load(name, carry.dims, carry.kind)))
    program = replace(forward, values=tuple(b.values), carries=tuple(carries), reverse=True)
    return Backward(program, ())


def _light(form: ChunkForm) -> Backward:
    program = prune(replace(form.backward.program, stores=()))
    return Backward(program, tuple(t.name for t in form.tensors))


def _move(found: StateMap, dims: Dims, bases: dict[str, str]) -> RenderedMove:
    """One map as the runtime applies it."""
    if found.name is None:
        return RenderedMove(level=found.level)
    letter = dict(zip((*dims, *(BY + d for d in found.over)), ascii_lowercase, strict=False))
    own = "".join(letter[d] for d in found.dims)
    state = "".join(letter[d] for d in dims)
    other = "".join(letter[BY + d] if d in found.over else letter[d] for d in dims)
    return RenderedMove(
        tuple(bases[d.removeprefix(BY)] for d in found.dims),
        len(found.over),
        found.level,
        f"yz{own},yz{other}->yz{state}",
        f"yz{own},yz{state}->yz{other}",
    )
