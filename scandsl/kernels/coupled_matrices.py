"""The chunk formula of matrix states that feed each other.

It is that of one state (`kernels.matrix_state`) with tables for its decays: a term `b_j y_j` that
step j adds to the states in the proportion `c_j` is seen in state a by an observer `q_i` as

    T_a[i, j] (q_i · b_j) y_j,    T_a = W_a at the start of the step,  Σ_b A_ab W_b + c_a behind it,

and what the chunk started with as  Σ_b X_ab[i] (q_i · S_b0).  `kernels.couplings` tells W and X.
Terms may hold results of probes, which see states at the start of the step: then they are the
unknowns of a unit lower triangular system, as for one state.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from scandsl.analysis.program import Couple, Decay, Event, Probe, Read, Update, Write
from scandsl.ir.builder import Builder
from scandsl.ir.nodes import Binary, Cast, Dims, Ref, State, Unary
from scandsl.kernels.couplings import Couplings, Each
from scandsl.kernels.elimination import Tables
from scandsl.kernels.matrix_state import separated
from scandsl.kernels.program import COLUMN, ROW


@dataclass(frozen=True, slots=True)
class Term:
    """What is added along one vector, in the proportion `into` of the states.

    `known` is a value, `unknown` maps a probe's result to the factor with which it enters.
    """

    base: Ref
    into: Each
    known: Ref | None
    unknown: tuple[tuple[Ref, Ref], ...]


@dataclass(frozen=True, slots=True)
class Affine:
    """`known + Σ_b w_b · S_b0`, per row; parts that are absent are zero."""

    known: Ref | None
    w: Each


class CoupledMatrices:
    """The reads, probes and final values of the states of a component."""

    def __init__(
        self,
        builder: Builder,
        states: Sequence[State],
        contracted: Dims,
        events: Sequence[Event],
        lift: Callable[[Ref], Ref],
        row: Ref,
        late: bool = False,
        started: Mapping[str, Ref] | None = None,
    ) -> None:
        self.b = builder
        self.states = states
        self.contracted = contracted
        self.events = events
        self.lift = lift
        self.row = row
        self.late = late
        self.started = started or {}
        self.place = {s.name: i for i, s in enumerate(states)}
        self.tables = Tables(builder, row)
        self._couplings: Couplings | None = None
        self._terms: list[Term] | None = None
        self._solved: dict[Term, Affine] | None = None

    # ------------------------------------------------------------ small pieces

    def rows(self, ref: Ref) -> Ref:
        """A value of the step with one row per token."""
        return self.b.expand(self.lift(ref), (ROW,))

    def couplings(self) -> Couplings:
        """How the states move without what is added."""
        if self._couplings is None:
            self._couplings = Couplings(self.b, list(self.place), self.events, self.rows, self.row)
        return self._couplings

    def carried(self, place: int) -> Ref:
        """What the chunk is handed of one state, or what its first token makes of that."""
        state = self.states[place]
        if state.name in self.started:
            return self.b.expand(self.started[state.name], state.dims)
        return self.b.load(state.name, state.dims, state.kind)

    def _column(self, x: Ref) -> Ref:
        return self.b.rename(x, [(ROW, COLUMN)])

    # ------------------------------------------------------------ terms

    def terms(self) -> list[Term]:
        """What a step adds; along one vector in one proportion it is one term."""
        if self._terms is None:
            amounts: dict[tuple[Ref, Ref, bool], dict[int, Ref]] = {}
            for event in self.events:
                match event:
                    case Write(state, b, x):
                        assert b is not None
                        self._gather(amounts, state, b, self.rows(x), False)
                    case Update(state, p, probe):
                        self._gather(amounts, state, p, probe, True)
            self._terms = self._grouped(amounts)
        return self._terms

    def _gather(
        self,
        amounts: dict[tuple[Ref, Ref, bool], dict[int, Ref]],
        state: str,
        vector: Ref,
        value: Ref,
        unknown: bool,
    ) -> None:
        factor, base = separated(self.b, self.rows(vector))
        found = amounts.setdefault((base, value, unknown), {})
        place = self.place[state]
        found[place] = self.b.add(found[place], factor) if place in found else factor

    def _grouped(self, amounts: Mapping[tuple[Ref, Ref, bool], Mapping[int, Ref]]) -> list[Term]:
        b = self.b
        terms: dict[tuple[Ref, Each], Term] = {}
        for (base, value, unknown), shares in amounts.items():
            amount, into = self._proportion(shares)
            own = b.expand(amount, (ROW,))
            last = terms.get((base, into), Term(base, into, None, ()))
            if unknown:
                term = Term(base, into, last.known, (*last.unknown, (value, own)))
            else:
                known = self.tables.plus(last.known, b.mul(value, amount))
                term = Term(base, into, known, last.unknown)
            terms[base, into] = term
        return list(terms.values())

    def _proportion(self, shares: Mapping[int, Ref]) -> tuple[Ref, Each]:
        """The factors that the shares of all states hold, and what is left of each share."""
        found = {place: Counter(self._factors(x)) for place, x in shares.items()}
        first, *others = found.values()
        common = first.copy()
        for other in others:
            common &= other
        into: list[Ref | None] = [None] * len(self.states)
        for place, factors in found.items():
            into[place] = self._product((factors - common).elements())
        return self._product(common.elements()), tuple(into)

    def _factors(self, x: Ref) -> list[Ref]:
        b, op = self.b, self.b.values[x].op
        if isinstance(op, Unary) and op.fn == "neg":
            return [b.const(-1.0), *self._factors(op.x)]
        if isinstance(op, Binary) and op.fn == "mul":
            return [*self._factors(op.a), *self._factors(op.b)]
        return [] if b.constant_of(x) == 1 else [x]

    def _product(self, factors: Iterable[Ref]) -> Ref:
        total = self.b.const(1.0)
        for factor in factors:
            total = self.b.mul(total, factor)
        return total

    # ------------------------------------------------------------ observers

    def _table(self, place: int, term: Term, behind: bool) -> Ref | None:
        """`T_a`: what an observer of a state sees of 1 added by a term."""
        b, found = self.b, self.couplings().since(term.into)
        if not behind:
            return found[place]
        table, own = self.couplings().stepped(place, found), term.into[place]
        if own is None:
            return table
        same = b.binary("eq", b.iota(ROW), b.iota(COLUMN))
        return self.tables.plus(table, b.where(same, own, b.const(0.0)))

    def _seen(
        self, place: int, q: Ref, over: Dims, term: Term, value: Ref, behind: bool
    ) -> Ref | None:
        """What an observer sees of a term whose value is known."""
        b, table = self.b, self._table(place, term, behind)
        if table is None:
            return None
        vector, seen = term.base, value
        if set(over) != set(self.contracted):  # it sums over the free side
            vector, seen = value, term.base
        matrix = self._masked(b.contract(q, self._column(vector), over), table)
        return b.contract(matrix, self._column(seen), (COLUMN,))

    def _masked(self, scores: Ref, table: Ref) -> Ref:
        b, op = self.b, self.b.values[table].op
        if isinstance(op, Cast):  # nothing decays: the table is only a triangle
            return b.where(op.x, scores, b.const(0.0))
        return b.mul(scores, table)

    def _on_start(self, place: int, q: Ref, behind: bool) -> Each:
        """The vectors with which an observer of a state meets the starts."""
        kept = self.couplings()
        found: list[Ref | None] = []
        for start in kept.since_start():
            factor = kept.stepped(place, start) if behind else start[place]
            found.append(None if factor is None else self.b.mul(factor, q))
        return tuple(found)

    def _from_start(self, w: Each, over: Dims) -> Ref | None:
        """What vectors see of the starts."""
        parts = [
            None if x is None else self.b.contract(x, self.carried(place), over)
            for place, x in enumerate(w)
        ]
        return self.tables.plus(*parts)

    def _result(self, event: Read | Probe, q: Ref, behind: bool) -> Ref:
        place, over = self.place[event.state], event.over
        total = self._from_start(self._on_start(place, q, behind), over)
        for term in self.terms():
            value = self._value(term)
            if value is not None:
                seen = self._seen(place, q, over, term, value, behind)
                total = self.tables.plus(total, seen)
        dims = [d for d in self.states[place].dims if d not in over]
        return self.b.expand(self.b.const(0.0) if total is None else total, (ROW, *dims))

    def read(self, event: Read) -> Ref:
        """The result of a read, for all rows."""
        assert event.q is not None
        at = next(i for i, e in enumerate(self.events) if e is event)
        behind = any(isinstance(e, Decay | Couple | Update | Write) for e in self.events[:at])
        return self._result(event, self.rows(event.q), behind)

    def probe(self, result: Ref) -> Ref:
        """The result of a probe, for all rows."""
        event = self._probe(result)
        return self._result(event, self.rows(event.w), False)

    def _probe(self, result: Ref) -> Probe:
        return next(e for e in self.events if isinstance(e, Probe) and e.result == result)

    # ------------------------------------------------------------ probes

    def _value(self, term: Term) -> Ref | None:
        """A term's value, its probes solved."""
        if not term.unknown:
            return term.known
        if self._solved is None:
            self._solved = self._solve()
        found = self._solved[term]
        return self.tables.plus(found.known, self._from_start(found.w, self.contracted))

    def _solve(self) -> dict[Term, Affine]:
        terms = [t for t in self.terms() if t.unknown]
        m = [[self._coupling(r, s) for s in terms] for r in terms]
        right = [self._right_side(t) for t in terms]
        found = self.tables.eliminated(m, right, self._applied, self._sum)
        return dict(zip(terms, found, strict=True))

    def _right_side(self, term: Term) -> Affine:
        """What a term is made of beside the terms that hold probes."""
        b, over = self.b, self.contracted
        known = term.known
        w: Each = (None,) * len(self.states)
        for result, factor in term.unknown:
            event = self._probe(result)
            place, vector = self.place[event.state], self.rows(event.w)
            for other in self.terms():
                if other.known is not None and not other.unknown:
                    seen = self._seen(place, vector, over, other, other.known, False)
                    known = self.tables.plus(known, None if seen is None else b.mul(seen, factor))
            starts = self._on_start(place, vector, False)
            found = tuple(None if x is None else b.mul(x, factor) for x in starts)
            if self.late:
                known = self.tables.plus(known, self._from_start(found, over))
            else:
                w = self._both(w, found)
        return Affine(known, w)

    def _coupling(self, term: Term, other: Term) -> Ref | None:
        """How the values of `other` in all rows enter those of `term`."""
        b = self.b
        total: Ref | None = None
        for result, factor in term.unknown:
            event = self._probe(result)
            table = self._table(self.place[event.state], other, False)
            if table is None:
                continue
            scores = b.contract(self.rows(event.w), self._column(other.base), self.contracted)
            total = self.tables.plus(total, b.mul(self._masked(scores, table), factor))
        return total

    def _applied(self, table: Ref, to: Affine, _row: int, _column: int) -> Affine:
        def product(x: Ref | None) -> Ref | None:
            return None if x is None else self.b.contract(table, self._column(x), (COLUMN,))

        return Affine(product(to.known), tuple(product(x) for x in to.w))

    def _sum(self, a: Affine, c: Affine) -> Affine:
        return Affine(self.tables.plus(a.known, c.known), self._both(a.w, c.w))

    def _both(self, one: Each, two: Each) -> Each:
        return tuple(self.tables.plus(x, y) for x, y in zip(one, two, strict=True))

    # ------------------------------------------------------------ the carry

    def final(self, name: str) -> Ref:
        """A state at the end of the chunk."""
        b, place, kept = self.b, self.place[name], self.couplings()
        total: Ref | None = None
        for other in range(len(self.states)):
            factor = kept.whole(place, other)
            if factor is not None:
                total = self.tables.plus(total, b.mul(factor, self.carried(other)))
        for term in self.terms():
            value = self._value(term)
            if value is not None:
                weight = kept.left(place, term.into)
                added = b.contract(term.base, b.mul(value, weight), (ROW,))
                total = self.tables.plus(total, added)
        return b.expand(b.const(0.0) if total is None else total, self.states[place].dims)
