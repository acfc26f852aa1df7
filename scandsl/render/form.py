"""What a form (sequential, chunked; torch, Triton) hands to the module's skeleton."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RenderedForm:
    """Two functions of a generated module, with one calling convention for every form.

    `forward(*tensors, *scalars, *starts, cu_seqlens, save, allow_tf32) -> (outputs, finals, saved)`
    and `backward(*tensors, *scalars, *starts, cu_seqlens, *saved, *d_outputs, *d_finals,
    allow_tf32) -> (d_tensors, d_starts)`.  `starts` are the state's parts (`None` for a zero
    start), the position last if it is carried.  `saved` names the tensors that the forward keeps
    for the backward. `saved_shapes` is a function `(sizes: _Sizes, save: bool)` of the module that
    gives their shapes and dtypes in order, as pairs; it must agree with what forward returns, also
    without `save`.
    """

    backend: str
    source: str
    forward: str
    backward: str
    saved: tuple[str, ...]
    saved_shapes: str
