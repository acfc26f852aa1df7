"""Replaces every `grad(e, W)` by the values of the derivative.

In: a recurrence that may hold `Grad`.  Out: an equal one that holds none.  Inner derivatives come
first, since operands come before their users.
"""

from __future__ import annotations

from scandsl.analysis.rewrite import Copier
from scandsl.ir.adjoint import vjp
from scandsl.ir.nodes import Grad, Recurrence


def expand_grads(recurrence: Recurrence) -> Recurrence:
    """The recurrence with derivatives written out."""
    if not any(isinstance(v.op, Grad) for v in recurrence.values):
        return recurrence
    # equal values stay apart: a derivative with respect to one of them must not see the others
    copier = Copier(recurrence, share=False)
    builder = copier.builder
    for ref, value in enumerate(recurrence.values):
        if not isinstance(value.op, Grad):
            copier.copy(ref)
            continue
        e, wrt = copier.new[value.op.e], copier.new[value.op.wrt]
        found = vjp(builder, {e: builder.const(1.0)}, (wrt,))[wrt]
        if found is None:
            found = builder.zeros(value.dims, value.kind)
        copier.set(ref, builder.expand(found, value.dims))
    return copier.finish()
