"""What analysis finds: a `Program` of components, each with its class, events and possible form.

The recurrence inside a program is in *normal form*: `Grad` is expanded, and every value that looks
at an affine state does so through the result of an event (a read or a probe), never through a sum
that holds the state.  All `Ref`s point into `Program.recurrence.values`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

from scandsl.ir.nodes import Dims, Recurrence, Ref, SumFn


@dataclass(frozen=True, slots=True)
class Decay:
    """`S ← factor ∘ S`.  `log` is a value equal to the logarithm of the factor, if one is proved.

    `log` is `None` where the factor may be negative or zero, so that no logarithm exists.  With an
    `angle` it is `S ← factor exp(i angle) ∘ S`; `dims` are those of the factor.
    """

    state: str
    factor: Ref
    log: Ref | None
    dims: Dims
    angle: Ref | None = None


@dataclass(frozen=True, slots=True)
class Probe:
    """`u = Σ_over w ∘ S` at this moment, whose result goes back into the state by an `Update`."""

    state: str
    w: Ref
    over: Dims
    result: Ref


@dataclass(frozen=True, slots=True)
class Update:
    """`S ← S + p ∘ u`, with `u` a function of the result of an earlier probe of the same step.

    Linear: `u` is the probe's result itself, all factors are in `p` (or in `x`, on its own side).
    """

    state: str
    p: Ref
    probe: Ref
    strength: Ref | None  # factor with the dimensions of the probe's result, e.g. beta[V]


@dataclass(frozen=True, slots=True)
class Write:
    """`S ← S + b ∘ x` with `b` over the contracted dimensions and `x` over the free ones.

    For a state without contracted dimension `b` is `None`.  When the term is no product of this
    kind, `b` is `None` and `x` has all dimensions of the state.
    """

    state: str
    b: Ref | None
    x: Ref


@dataclass(frozen=True, slots=True)
class Read:
    """`r = Σ_over q ∘ S` at this moment, used by outputs or by other components.

    `q` is `None` and `over` empty when the whole state is read.  `result` is the value that the
    rest of the step uses.
    """

    state: str
    q: Ref | None
    over: Dims
    result: Ref


@dataclass(frozen=True, slots=True)
class Fold:
    """`S ← max(S + shift, term)`, or with the `min` or `logaddexp` of the algebra.

    The whole step of a state that is affine in another algebra.  Values look at such a state as
    they are written: its reads are no events.
    """

    state: str
    shift: Ref
    term: Ref
    algebra: SumFn


@dataclass(frozen=True, slots=True)
class Couple:
    """`S ← S + factor · T`, with `T` another state of the component as the step finds it.

    All decays and couplings of a step happen at once, behind its probes and before what is added.
    """

    state: str
    other: str
    factor: Ref


Event: TypeAlias = Decay | Couple | Probe | Update | Write | Read | Fold


class Transition(Enum):
    """Structure of the map that takes the old state of a component to the new one."""

    NONE = "none (cumulative sum)"
    SCALAR_CONSTANT = "constant scalar"
    SCALAR = "time-varying scalar"
    KEY = "vector along the contracted dimension"
    VALUE = "vector along the free dimension"
    BOTH = "vectors along both dimensions"
    ELEMENTWISE = "elementwise over the whole state"
    LOW_RANK = "decay plus low-rank updates"
    ROTATION = "rotation (complex)"
    DENSE_CONSTANT = "constant dense matrix"
    DENSE_SCALED = "time-scaled constant matrix"
    DENSE = "dense matrix per token"
    SHIFT = "shift (nilpotent)"
    BLOCK = "block of several states"
    MAX_PLUS = "affine in (max, +)"
    LOG_SUM_EXP = "affine in (log-sum-exp)"
    BLOCKWISE = "constant within mini-batches"
    WINDOW = "window of earlier tokens"
    NONLINEAR = "nonlinear"


class Form(Enum):
    """How a component is carried out."""

    CHUNK = "chunk"
    SCAN = "scan"  # entry by entry, within chunks
    CONVOLUTION = "convolution"
    BLOCKS = "blocks"
    SEQUENTIAL = "sequential"
    MAP = "map"  # of a stage: every token by itself
    INVARIANT = "invariant"  # of a stage: a time-invariant system, by matrix products
    CHAIN = "chain"  # of a whole: stages of different forms


@dataclass(frozen=True, slots=True)
class Refusal:
    """A form that was considered and not taken: why, and the value that is the reason."""

    form: Form
    reason: str
    culprit: Ref | None = None


@dataclass(frozen=True, slots=True)
class Component:
    """A strongly connected set of states, with what was proved about it.

    `contracted` and `free` are the roles of the state's dimensions, found from its reads, probes
    and writes.  `events` holds those of one step in order.  `merged` lists pairs of values proved
    to be collinear along the contracted dimension.
    """

    states: tuple[str, ...]
    transition: Transition
    events: tuple[Event, ...]
    contracted: Dims
    free: Dims
    merged: tuple[tuple[Ref, Ref], ...]
    form: Form
    reason: str
    refused: tuple[Refusal, ...] = ()
    culprit: Ref | None = None  # the value that `reason` is about
    invariant: bool = False  # all coefficients of the transition are constant in time
    memories: tuple[str, ...] = ()  # lags that are part of the recurrence


@dataclass(frozen=True, slots=True)
class Program:
    """The whole recurrence, its components in topological order.

    `form` is that of the whole: CHUNK if every component is carried out so, CHAIN if it is cut into
    `stages`, BLOCKS if it runs from one start of `block` to the next.
    """

    recurrence: Recurrence
    components: tuple[Component, ...]
    form: Form = Form.SEQUENTIAL
    reason: str = ""
    stages: tuple[Stage, ...] = ()
    block: Block | None = None
    coupled: tuple[Coupled, ...] = ()


@dataclass(frozen=True, slots=True)
class Coupled:
    """States that move entry by entry, as `s_a ← Σ_b matrix_ab s_b + rest_a`; `None` is zero."""

    states: tuple[str, ...]
    matrix: tuple[tuple[Ref | None, ...], ...]
    rest: tuple[Ref | None, ...]


@dataclass(frozen=True, slots=True)
class Block:
    """A step with `every` blocks as chunks that begin where blocks start.

    A chunk has `tokens` tokens.  At its start a state becomes the value of `starts`, of the step
    `whole`; what `whole` masks with a block there depends on the chunk's first position.  The
    tokens are then carried out by `between`, whose inputs are the `held` states too.
    """

    tokens: int
    whole: Recurrence
    starts: tuple[tuple[str, Ref], ...]
    held: tuple[str, ...]
    between: Program


@dataclass(frozen=True, slots=True)
class Stage:
    """A link of a chain: a recurrence of its own, carried out in one form.

    Its inputs are inputs of the scan and values that earlier stages `passed` on, one per token; its
    outputs are what it passes on itself, then outputs of the scan.  `memories` names what its lags
    remember, in the order of its own memories, as the scan names it.  In a stage of chunks the
    events tell how its states move, not the values; in one of states that move entry by entry both.
    """

    form: Form
    program: Program
    passed: tuple[str, ...]
    memories: tuple[str, ...]
