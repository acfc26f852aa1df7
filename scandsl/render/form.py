"""What a form (sequential, chunked; torch, Triton) hands to the module's skeleton."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RenderedMove:
    """How a slice of time moves one part of the state, as text of the module.

    `dims` are the sizes of `M`, the first `over` of which are summed over and come twice.  `moved`
    and `back` are the einsum of `M` with a state and with a cotangent, empty for the identity.  A
    `window` holds earlier tokens, which move on by as many as the slice has.
    """

    dims: tuple[str, ...] = ()
    over: int = 0
    level: int = 0
    moved: str = ""
    back: str = ""
    window: bool = False


@dataclass(frozen=True, slots=True)
class RenderedSlices:
    """What the composition of slices of time needs beside a form.

    `maps(*tensors, *scalars, *starts, *map_starts, cu_seqlens, save, allow_tf32)` gives `((), ends,
    ())`: the ends of the states, then of the maps.  There is one for each level, or one for all; it
    has to be right for the parts of its level.  `ends` is the form's backward without the
    gradients of its tensors (`None`: the backward itself serves).  There is one move for each part
    of the state that is no position.  `kernels`: all of it is Triton, worth cutting long sequences
    into segments for.  `steps`: these kernels go token by token, several heads in a program.
    `tables` are constants of the module that they read.
    """

    source: str
    maps: tuple[str, ...]
    ends: str | None
    moves: tuple[RenderedMove, ...]
    kernels: bool = False
    steps: bool = False
    tables: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SiteKernel:
    """A kernel that can be measured: what is cut over its grid, whether it walks over chunks.

    One that goes token by token, `steps`, holds so many numbers instead of a tile.
    """

    name: str
    cut: tuple[str, ...]
    walks: bool
    steps: bool = False


@dataclass(frozen=True, slots=True)
class Site:
    """What can be measured of the launches of a form.

    `table` is the constant of an open module that they are looked up in, by the sizes of `dims`.
    """

    table: str
    structure: str
    dims: tuple[str, ...]
    kernels: tuple[SiteKernel, ...]

    @property
    def chunked(self) -> bool:
        """Whether its chunks may have several lengths."""
        return not any(k.steps for k in self.kernels)


@dataclass(frozen=True, slots=True)
class Tuned:
    """The constant of a module that holds measured launches; of another form only its chunks."""

    table: str
    chunk_only: bool = False


@dataclass(frozen=True, slots=True)
class RenderedForm:
    """Two functions of a generated module, with one calling convention for every form.

    `forward(*tensors, *scalars, *starts, cu_seqlens, save, allow_tf32) -> (outputs, finals, saved)`
    and `backward(*tensors, *scalars, *starts, cu_seqlens, *saved, *d_outputs, *d_finals,
    allow_tf32) -> (d_tensors, d_starts)`.  `starts` are the state's parts (`None` for a zero
    start), the position last if it is carried.  `saved` names the tensors that the forward keeps
    for the backward. `saved_shapes` is a function `(sizes: _Sizes, save: bool)` of the module that
    gives their shapes and dtypes in order, as pairs; it must agree with what forward returns, also
    without `save`.  `tables` are constants of the module that the functions read, `sites` what can
    be measured.

    A stage of a chain takes the sizes of the scan, `sizes`, behind `cu_seqlens`.
    """

    backend: str
    source: str
    forward: str
    backward: str
    saved: tuple[str, ...]
    saved_shapes: str
    slices: RenderedSlices | None = None
    tables: tuple[str, ...] = ()
    sites: tuple[Site, ...] = ()

    @property
    def segmented(self) -> bool:
        """Whether the module may cut long sequences into segments that run at once."""
        return self.slices is not None and self.slices.kernels

    @property
    def saved_count(self) -> int:
        """How many tensors are kept at most: those of the form, and the maps of segments."""
        if not self.segmented or self.slices is None:
            return len(self.saved)
        return len(self.saved) + sum(bool(m.moved) for m in self.slices.moves)


@dataclass(frozen=True, slots=True)
class Handed:
    """What a stage hands on, and which of its inputs earlier stages handed on to it.

    `wide` are those of the latter that are vectors and keep the compute dtype on every backend.
    """

    passed: frozenset[str]
    given: frozenset[str]
    wide: frozenset[str]
