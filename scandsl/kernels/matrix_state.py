"""The chunk formula of one state whose dimensions are contracted (`K`) or free (`V`).

Let `d_i` be all that step `i` multiplies the state by: a number, or one for each entry of K, or of
V, or both.  A term `b_j y_j` (a write, an update, or both along one vector) may be followed in its
own step by decays `after_j`; an observer `q_i` (a read or a probe) may be preceded in its step by
decays `before_i`.  With the state `S_0` at the start of the chunk it
sees

    r_i = before_i Π_{m<i} d_m (q_i · S_0)
        + Σ_{j<i} before_i Π_{j<m<i} d_m after_j (q_i · b_j) y_j
        + the terms that come before it in step i itself,

and the chunk leaves  S_C = Π d_m S_0 + Σ_j after_j Π_{m>j} d_m b_j y_j.

A term may hold results of probes: `y_j = x_j + Σ c_j u_j`.  Then such values are the unknowns of a
unit lower triangular system, `y = F + M y`, solved by block elimination, one block for each term of
a step.  Its right side is affine in `S_0`: kept apart in two, everything but one product is known
before the states are; added up (`late`), one product with the inverse is enough.

A decay with one number per entry of the dimension that an observer sums over stands inside the sum
`q_i · b_j` (`Scores`); one along the other dimension weighs what it sees of each row (`Spread`). In
both, decays that belong to one row alone go to the vectors.  A read may sum over either dimension;
probes have to sum over the same.  The inverse is that without the decays along the free dimension:
each of its entries is weighed with what they leave between its rows.  How stretches of decays are
computed, `kernels.decays` says; that rotations of a complex state are moved into the vectors,
`kernels.turns`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce

from scandsl.analysis.program import Decay, Event, Probe, Read, Update, Write
from scandsl.analysis.stretches import block_rows, sides
from scandsl.ir.builder import Builder
from scandsl.ir.nodes import Binary, Cast, Dims, Range, Ref, State, Unary
from scandsl.kernels.decays import Decays
from scandsl.kernels.elimination import Tables
from scandsl.kernels.program import COLUMN, ROW
from scandsl.kernels.turns import Turns
from scandsl.kernels.turns import turns as turns_of


@dataclass(frozen=True, slots=True)
class Term:
    """What is added along one vector at one moment of the step, per row.

    `base` is the vector (`None` for a state without contracted dimension).  `known` is a value,
    `unknown` maps a probe's result to the scalar factor with which it enters.
    """

    place: int
    base: Ref | None
    known: Ref | None
    unknown: tuple[tuple[Ref, Ref], ...]


@dataclass(frozen=True, slots=True)
class Affine:
    """`known + w · S_0`, per row; parts that are absent are zero."""

    known: Ref | None
    w: Ref | None


class MatrixState:
    """One state's reads, probes and final value as values of a chunk program."""

    def __init__(
        self,
        builder: Builder,
        state: State,
        contracted: Dims,
        events: Sequence[Event],
        lift: Callable[[Ref], Ref],
        row: Ref,
        ranges: Sequence[Range],
        late: bool = False,
        start: Ref | None = None,
    ) -> None:
        self.late = late
        self.start = start
        self.ranges = ranges
        self.b = builder
        self.state = state
        self.contracted = contracted
        self.events = events
        self.lift = lift
        self.row = row
        self.key_decays, self.value_decays, self.plain = self._decays()
        self._terms: list[Term] | None = None
        self._solved: dict[Term, Affine] | None = None
        self._turns: tuple[Turns, Turns] | None = None
        self._unturned: dict[Ref, Ref] = {}

    # ------------------------------------------------------------ small pieces

    def rows(self, ref: Ref) -> Ref:
        """A value of the step with one row per token."""
        return self.b.expand(self.lift(ref), (ROW,))

    def carried(self) -> Ref:
        """`S_0`: what the chunk is handed, or what its first token makes of that beforehand."""
        if self.start is not None:
            return self.b.expand(self.start, self.state.dims)
        return self.b.load(self.state.name, self.state.dims, self.state.kind)

    def _column(self, x: Ref) -> Ref:
        return self.b.rename(x, [(ROW, COLUMN)])

    def _plus(self, *xs: Ref | None) -> Ref | None:
        total: Ref | None = None
        for x in xs:
            if x is not None:
                total = x if total is None else self.b.add(total, x)
        return total

    def _decays(self) -> tuple[Decays | None, Decays | None, Decays]:
        """The decays along the contracted dimension, the free one, and along none."""
        found = sides(self.events, self.contracted)

        def made(own: Sequence[Decay]) -> Decays:
            along = next((d for e in own for d in e.dims), None)
            block = block_rows(own, self.ranges) if along is not None else 0
            return Decays(self.b, self.events, own, along, self.rows, self.row, block)

        key = made(found.key) if found.key else None
        value = made(found.value) if found.value else None
        return key, value, made(found.plain)

    def _columns(self) -> Decays | None:
        """The decays along the free side, which weigh what probes see of each row."""
        return self._sides(self.contracted)[1] if self.contracted else None

    # ------------------------------------------------------------ rotations

    def turns(self) -> tuple[Turns, Turns]:
        """The rotations along the contracted side and along the free one."""
        if self._turns is None:
            found = turns_of(self.b, self.events, self.contracted, self.rows, self.row)
            self._turns = found
        return self._turns

    def _observing(self, place: int, q: Ref | None, over: Dims) -> Ref | None:
        """A query as it meets the state in the turning frame."""
        key, free = self.turns()
        if q is None:
            return None
        if set(over) != set(self.contracted):
            return free.observing(q, place)
        return self._noted(q, key.observing(q, place))

    def _noted(self, x: Ref, turned: Ref) -> Ref:
        if turned != x:
            self._unturned[turned] = x
        return turned

    def _alone(self, q: Ref, vector: Ref, between: Sequence[Event]) -> tuple[Ref, Ref]:
        """An observer and a term of one row, turned by the angles between them alone.

        The others cancel; left in, they would have gradients that cancel, of any size.
        """
        plain, written = self._unturned.get(q), self._unturned.get(vector)
        if plain is None or written is None:
            return q, vector
        return self.turns()[0].ahead(plain, between), written

    def _observed_turned(self, place: int, result: Ref, over: Dims) -> Ref:
        """What a query saw, out of the turning frame."""
        key, free = self.turns()
        side = free if set(over) == set(self.contracted) else key
        return side.observing(result, place)

    # ------------------------------------------------------------ terms

    def terms(self) -> list[Term]:
        """The writes and updates of a step, those along one vector at one moment together."""
        if self._terms is None:
            self._terms = []
            for place, event in enumerate(self.events):
                match event:
                    case Write(_, b, x):
                        self._add(place, b, self.turns()[1].written(self.rows(x), place), None)
                    case Update(_, p, probe):
                        self._add(place, p, None, probe)
                    case _:
                        pass
        return self._terms

    def _add(self, place: int, vector: Ref | None, value: Ref | None, probe: Ref | None) -> None:
        b = self.b
        factor: Ref = b.const(1.0)
        base: Ref | None = None
        if vector is not None:
            factor, base = separated(b, self.rows(vector))
            base = self._noted(base, self.turns()[0].written(base, place))
        known = None if value is None else b.mul(value, factor)
        row_factor = b.expand(factor, (ROW,))
        unknown = () if probe is None else ((probe, row_factor),)
        terms = self._terms
        assert terms is not None
        if terms and terms[-1].base == base and base is not None and self._adjacent(place):
            last = terms.pop()
            terms.append(
                Term(last.place, base, self._plus(last.known, known), (*last.unknown, *unknown))
            )
        else:
            terms.append(Term(place, base, known, unknown))

    def _adjacent(self, place: int) -> bool:
        """Whether only writes and updates stand between the last term and this place."""
        assert self._terms is not None
        between = self.events[self._terms[-1].place : place]
        return all(isinstance(e, Write | Update) for e in between)

    # ------------------------------------------------------------ observers

    def _sides(self, over: Dims) -> tuple[Decays | None, Decays | None]:
        """The decays along the dimension that an observer sums over, and along the other."""
        if not over:  # the whole of a state of one dimension
            return None, self.key_decays or self.value_decays
        if set(over) != set(self.contracted):
            return self.value_decays, self.key_decays
        return self.key_decays, self.value_decays

    def _response(
        self, place: int, q: Ref | None, over: Dims, vector: Ref | None, other: int
    ) -> tuple[Ref, Ref | None]:
        """Coefficients `[i, j]` of the terms of other rows, and `[i]` of the row's own.

        `vector` is the terms' vector on the side of `q`.  The second is `None` where the first
        holds the diagonal already, or the term comes later.
        """
        b = self.b
        early, between = other < place, self.events[other:place]
        along, across = self._sides(over)
        plain, turned = self.plain, False
        scores = own = None
        if q is not None and vector is not None:
            mine, written = self._alone(q, vector, between)
            if along is not None:
                matrix = along.scores(q, vector, place, other)
                near = along.scaled(mine, along.among(between))
                return self._also_plain(
                    place, other, matrix, b.contract(near, written, over) if early else None
                )
            turned = written != vector
            scores = b.contract(q, self._column(vector), over)
            own = b.contract(mine, written, over)
        one = b.expand(b.const(1.0), (ROW,)) if own is None else own
        if across is not None:
            wide = b.expand(b.const(1.0), (ROW, COLUMN)) if scores is None else scores
            return self._also_plain(place, other, wide, one if early else None)
        whole = plain.covers(place, other) and not turned
        weights = plain.weights(place, other, diagonal=whole)
        matrix = weights if scores is None else self._masked(scores, weights)
        if whole or not early:
            return matrix, None
        return matrix, plain.scaled(one, plain.among(between))

    def _with_own(self, matrix: Ref, own: Ref) -> Ref:
        """Coefficients `[i, j]` with those of the row's own terms on the diagonal."""
        same = self.b.binary("eq", self.b.iota(ROW), self.b.iota(COLUMN))
        return self.b.add(matrix, self.b.where(same, own, self.b.const(0.0)))

    def _also_plain(
        self, place: int, other: int, matrix: Ref, own: Ref | None
    ) -> tuple[Ref, Ref | None]:
        """Coefficients weighted with the decays along none too, if they stand apart."""
        plain = self.plain
        if plain.own:
            matrix = self.b.mul(matrix, plain.weights(place, other, diagonal=False))
        if own is not None:
            own = plain.scaled(own, plain.among(self.events[other:place]))
        return matrix, own

    def _masked(self, scores: Ref, weights: Ref) -> Ref:
        b = self.b
        op = b.values[weights].op
        if isinstance(op, Cast):  # no decay: the weights are only a triangle
            return b.where(op.x, scores, b.const(0.0))
        return b.mul(scores, weights)

    def _seen(self, place: int, q: Ref | None, over: Dims, term: Term, value: Ref) -> Ref:
        """What an observer sees of a term whose value is known."""
        b = self.b
        one = b.expand(b.const(1.0), (ROW,))
        base = one if term.base is None else term.base
        vector, seen = term.base, value
        if q is None:
            vector, seen = None, b.mul(base, value)
        elif set(over) != set(self.contracted):  # it sums over the free side
            vector, seen = value, base
        matrix, own = self._response(place, q, over, vector, term.place)
        across = self._sides(over)[1]
        if across is None and own is not None and self.late:
            matrix, own = self._with_own(matrix, own), None
        if across is None:
            total = b.contract(matrix, self._column(seen), (COLUMN,))
        else:
            total = across.spread(matrix, seen, place, term.place)
            seen = across.scaled(seen, across.among(self.events[term.place : place]))
        return total if own is None else b.add(total, b.mul(own, seen))

    def _on_start(self, place: int, q: Ref | None, over: Dims) -> Ref:
        """The vector (or factor) with which an observer meets `S_0`."""
        b = self.b
        whole = b.expand(b.const(1.0), (ROW,)) if q is None else q
        along = self._sides(over)[0]
        if along is not None:
            whole = along.scaled(whole, along.since_start(place))
        return self.plain.scaled(whole, self.plain.since_start(place))

    def read(self, event: Read) -> Ref:
        """The result of a read, for all rows."""
        q = None if event.q is None else self.rows(event.q)
        return self._result(self._place(event), q, event.over)

    def probe(self, result: Ref) -> Ref:
        """The result of a probe, for all rows."""
        event = self._probe(result)
        return self._result(self._place(event), self.rows(event.w), event.over)

    def _result(self, place: int, q: Ref | None, over: Dims) -> Ref:
        """What the step knows as the result of a read or a probe."""
        seen = self._observed(place, self._observing(place, q, over), over)
        return self._observed_turned(place, seen, over)

    def _observed(self, place: int, q: Ref | None, over: Dims) -> Ref:
        b = self.b
        total = b.contract(self._on_start(place, q, over), self.carried(), over)
        across = self._sides(over)[1]
        if across is not None:
            total = across.scaled(total, across.since_start(place))
        for term in self.terms():
            value = self._value(term)
            if value is not None:
                total = b.add(total, self._seen(place, q, over, term, value))
        return total

    def _place(self, event: Event) -> int:
        return next(i for i, e in enumerate(self.events) if e is event)

    def _probe(self, result: Ref) -> Probe:
        return next(e for e in self.events if isinstance(e, Probe) and e.result == result)

    def _value(self, term: Term) -> Ref | None:
        """A term's value, its probes solved."""
        if not term.unknown:
            return term.known
        if self._solved is None:
            self._solved = self._solve()
        found = self._solved[term]
        if found.w is None:
            return found.known
        over = self._probe(term.unknown[0][0]).over
        return self._plus(found.known, self._from_start(found.w, over, term.place))

    def _from_start(self, w: Ref, over: Dims, place: int) -> Ref:
        """What `w` sees of `S_0` at a moment of each row."""
        seen, columns = self.b.contract(w, self.carried(), over), self._columns()
        return seen if columns is None else columns.scaled(seen, columns.since_start(place))

    # ------------------------------------------------------------ probes

    def _solve(self) -> dict[Term, Affine]:
        """Block elimination on `y_r = F_r + Σ_s M_rs y_s`, terms r, s of a step in order."""
        terms = [t for t in self.terms() if t.unknown]
        right = [self._right_side(t) for t in terms]
        m = [[self._coupling(r, s) for s in terms] for r in terms]

        def applied(table: Ref, to: Affine, row: int, column: int) -> Affine:
            return self._apply(table, to, terms[row], terms[column])

        found = Tables(self.b, self.row).eliminated(m, right, applied, self._sum)
        return dict(zip(terms, found, strict=True))

    def _met(self, event: Probe) -> Ref:
        """A probe's vector in the turning frame."""
        found = self._observing(self._place(event), self.rows(event.w), event.over)
        assert found is not None
        return found

    def _right_side(self, term: Term) -> Affine:
        """`F`: what a term is made of beside the terms that hold probes."""
        b = self.b
        known, w = term.known, None
        for result, factor in term.unknown:
            event = self._probe(result)
            place = self._place(event)
            vector = self._met(event)
            for other in self.terms():
                if other.known is not None and not other.unknown:
                    seen = self._seen(place, vector, event.over, other, other.known)
                    known = self._plus(known, b.mul(seen, factor))
            start = b.mul(self._on_start(place, vector, event.over), factor)
            if self.late:
                known = self._plus(known, self._from_start(start, event.over, place))
            else:
                w = self._plus(w, start)
        return Affine(known, w)

    def _coupling(self, term: Term, other: Term) -> Ref | None:
        """`M`: how the values of `other` in all rows enter those of `term`."""
        b = self.b
        total: Ref | None = None
        for result, factor in term.unknown:
            event = self._probe(result)
            place, w = self._place(event), self._met(event)
            matrix, own = self._response(place, w, event.over, other.base, other.place)
            if self._columns() is not None:  # else it is a triangle already
                below = b.binary("gt", b.iota(ROW), b.iota(COLUMN))
                matrix = b.where(below, matrix, b.const(0.0))
            if own is not None:
                matrix = self._with_own(matrix, own)
            total = self._plus(total, b.mul(matrix, factor))
        return total

    def _apply(self, matrix: Ref, to: Affine, term: Term, other: Term) -> Affine:
        """A triangle of a matrix times the values of `other` in all rows, as `term` sees them."""
        product = self.b.contract
        known = to.known
        if known is not None and self._columns() is not None:
            known = self._weighed(matrix, known, term, other)
        elif known is not None:
            known = product(matrix, self._column(known), (COLUMN,))
        w = None if to.w is None else product(matrix, self._column(to.w), (COLUMN,))
        return Affine(known, w)

    def _weighed(self, matrix: Ref, x: Ref, term: Term, other: Term) -> Ref:
        """The same where columns decay on the way: products of stretches are stretches again.

        So the inverse for each column is that without these decays, its entries weighed with them.
        """
        b, columns = self.b, self._columns()
        assert columns is not None
        total = columns.spread(matrix, x, term.place, other.place)
        if other.place > term.place:
            return total
        same = b.binary("eq", b.iota(ROW), b.iota(COLUMN))
        own = b.sum(b.where(same, matrix, b.const(0.0)), (COLUMN,))
        near = columns.scaled(x, columns.among(self.events[other.place : term.place]))
        return b.add(total, b.mul(own, near))

    def _sum(self, a: Affine, c: Affine) -> Affine:
        return Affine(self._plus(a.known, c.known), self._plus(a.w, c.w))

    # ------------------------------------------------------------ the carry

    def final(self) -> Ref:
        """The state at the end of the chunk."""
        b = self.b
        sides = [d for d in (self.plain, self.key_decays, self.value_decays) if d is not None]
        total = self.carried()
        left = [w for w in (side.whole() for side in sides) if w is not None]
        if left:
            total = b.mul(reduce(b.mul, left), total)
        for term in self.terms():
            value = self._value(term)
            if value is None:
                continue
            base = term.base
            for side in sides:
                weight = side.to_end(term.place)
                if weight is not None and side is self.key_decays and base is not None:
                    base = b.mul(base, weight)
                elif weight is not None:
                    value = b.mul(value, weight)
            if not left:
                value = b.where(self.row, value, b.const(0.0))
            added = b.sum(value, (ROW,)) if base is None else b.contract(base, value, (ROW,))
            total = b.add(total, b.expand(added, self.state.dims))
        for turn in self.turns():
            total = turn.ended(total)
        return b.expand(total, self.state.dims)


def separated(b: Builder, vector: Ref) -> tuple[Ref, Ref]:
    """A vector as a factor per row times what is left of it."""
    factor = b.const(1.0)
    free = {ROW}
    while True:
        op = b.values[vector].op
        if isinstance(op, Cast):  # of a real vector, for a complex state
            vector = b.expand(op.x, b.dims_of(vector))
            continue
        if isinstance(op, Unary) and op.fn == "neg":
            factor, vector = b.neg(factor), op.x
            continue
        if isinstance(op, Binary) and op.fn in ("mul", "div"):
            pairs = [(op.b, op.a)] if op.fn == "div" else [(op.a, op.b), (op.b, op.a)]
            found = [
                (s, rest)
                for s, rest in pairs
                if set(b.dims_of(s)) <= free
                and set(b.dims_of(rest)) | {ROW} == set(b.dims_of(vector)) | {ROW}
            ]
            if found and len(b.dims_of(vector)) > 1:
                scalar, rest = found[0]
                factor = b.div(factor, scalar) if op.fn == "div" else b.mul(factor, scalar)
                vector = b.expand(rest, (ROW,))
                continue
        return factor, vector
