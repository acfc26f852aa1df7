"""Renders what composes slices of time: the maps `S ↦ M S + N`, and how cotangents walk back.

In: the torch text of the chunked form of a recurrence.  Out: a `RenderedSlices`.  The maps are one
more chunk program (`scandsl.kernels.state_map`), printed by the same printer; the walk of the
cotangents is the backward without the gradients of its tensors.
"""

from __future__ import annotations

from dataclasses import replace
from string import ascii_lowercase

from scandsl.ir.nodes import Dim, Dims, Recurrence
from scandsl.kernels.backward import Backward
from scandsl.kernels.prune import prune
from scandsl.kernels.state_map import BY, Composition, StateMap, composition
from scandsl.render.chunk_torch import ChunkTorch
from scandsl.render.form import RenderedMove, RenderedSlices
from scandsl.render.names import Names
from scandsl.render.scan import base_names


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
    return RenderedSlices("\n\n\n".join(sources) + "\n", maps, ends, moves), helpers


def _maps_form(form: ChunkTorch, found: Composition) -> ChunkTorch:
    """The torch text of the maps, as of a recurrence that carries them beside its states."""
    recurrence = form.recurrence
    names = Names(form.arg.values())
    arg, states = dict(form.arg), list(recurrence.states)
    for state, move in zip(recurrence.states, found.maps, strict=True):
        if move.name is not None:
            arg[move.name] = names.fresh(f"map_{form.arg[state.name]}")
            states.append(replace(state, name=move.name, dims=move.dims))
    again = dict.fromkeys(d for m in found.maps for d in m.over)
    dims = (*recurrence.dims, *(_again(recurrence, d) for d in again))
    return replace(
        form,
        recurrence=replace(recurrence, dims=dims, states=tuple(states), outputs=()),
        arg=arg,
        forward=found.program,
        helpers=set(),
    )


def _again(recurrence: Recurrence, name: str) -> Dim:
    """A dimension under a second name."""
    dim = next(d for d in recurrence.dims if d.name == name)
    return Dim(BY + name, size=dim.size, base=dim.base or name)


def _ends_form(form: ChunkTorch) -> ChunkTorch:
    """The torch text of the backward with nothing but its carries."""
    light = prune(replace(form.backward.program, stores=()))
    unreached = tuple(t.name for t in form.tensors)
    return replace(form, backward=Backward(light, unreached), helpers=set())


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
