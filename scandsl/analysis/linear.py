"""Linear forms: values as `Σ coefficient ∘ atom + rest` in the moments of a state.

In: a builder and the versions of states (their values at the moments of a step).  Out: a `Form`
for a value, or `NotAffine` with the reason in words.  Structural, one rule per operation; no
formula is matched as a whole.

An *atom* is a version itself or a linear image of one: a contraction (what a probe or a read
gives), or a view with other dimensions.  Coefficients are free of the states in question.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from scandsl.analysis.factor import dot, entry, pull, static_size
from scandsl.analysis.show import show
from scandsl.ir.builder import Builder
from scandsl.ir.nodes import (
    Binary,
    Cast,
    Contract,
    Dims,
    Expand,
    Insert,
    Kind,
    Lag,
    MakeComplex,
    Normalize,
    Prev,
    Reduce,
    Ref,
    Rename,
    Select,
    Stack,
    StopGrad,
    Unary,
    Value,
    Where,
    operands,
)


@dataclass(frozen=True, slots=True)
class Term:
    """`coefficient ∘ atom`; a coefficient of `None` is 1."""

    coefficient: Ref | None
    atom: Ref


@dataclass(frozen=True, slots=True)
class Form:
    """`Σ terms + rest`; a rest of `None` is 0."""

    terms: tuple[Term, ...]
    rest: Ref | None


@dataclass(frozen=True, slots=True)
class Image:
    """A contraction `Σ_over weight ∘ version`, the shape of a probe or a read."""

    version: Ref
    weight: Ref
    over: Dims


class NotAffine(Exception):
    """The value is not affine in the states; `culprit` is the value that is the reason."""

    def __init__(self, reason: str, culprit: Ref) -> None:
        self.reason = reason
        self.culprit = culprit
        super().__init__(reason)


_MOST_ROWS = 16
_WORDS = {
    "div": "quotient",
    "logaddexp": "log-sum-exp",
    "pow": "power",
    "mod": "remainder",
    "max": "maximum",
    "min": "minimum",
}


class Linear:
    """Forms of the values of a growing program, by `Ref`, remembered.

    `versions` are the values whose form is themselves; `looks(ref)` says whether a value depends on
    the states in question at all.
    """

    def __init__(self, builder: Builder, looks: Callable[[Ref], bool]) -> None:
        self.b = builder
        self.looks = looks
        self.versions: dict[Ref, int] = {}
        self.images: dict[Ref, Image] = {}
        self.views: set[Ref] = set()
        self._known: dict[Ref, Form] = {}

    # ------------------------------------------------------------ public

    def form(self, ref: Ref) -> Form:
        """The form of a value; that of a version or an image is itself."""
        if not self.looks(ref):
            return Form((), ref)
        if ref in self.versions or ref in self.images or ref in self.views:
            return Form((Term(None, ref),), None)
        if ref not in self._known:
            self._known[ref] = self.unfold(ref)
        return self._known[ref]

    def unfold(self, ref: Ref) -> Form:  # noqa: C901 - one rule per operation
        """The form of a value by its operation, even if it is a version."""
        b, value = self.b, self.b.values[ref]
        match value.op:
            case Binary("add", x, y):
                return self._sum(self.form(x), self.form(y))
            case Binary("sub", x, y):
                return self._sum(self.form(x), self._map(self.form(y), b.neg, self._minus))
            case Unary("neg", x):
                return self._map(self.form(x), b.neg, self._minus)
            case Binary("mul", x, y):
                return self._product(ref, x, y)
            case Binary("div", x, y):
                return self._quotient(ref, x, y)
            case Where(c, x, y):
                return self._choice(ref, c, x, y)
            case Contract(x, y, over):
                return self.contraction(x, y, over, ref)
            case Reduce("sum" | "mean" as fn, x, over):
                return self.reduction(fn, x, over)
            case Expand(x):
                missing = [d for d in value.dims if d not in b.dims_of(x)]
                return self.scaled(self.form(x), b.expand(b.const(1.0, value.kind), missing))
            case Rename(x, pairs):
                return self._view(self.form(x), lambda r: b.rename(r, pairs))
            case Select(x, dim, index):
                return self._view(self.form(x), lambda r: self._entry(r, dim, index))
            case Insert(x, dim, index, y):
                return self._insert(x, dim, index, y)
            case Stack(xs, dim):
                return self._stack(xs, dim)
            case Cast(x) if value.kind is Kind.COMPLEX:
                return self._view(self.form(x), lambda r: b.cast(r, Kind.COMPLEX))
            case _:
                raise NotAffine(self._reason(ref), ref)

    def value(self, form: Form, dims: Dims, kind: Kind) -> Ref:
        """The value that a form stands for."""
        b = self.b
        out: Ref | None = None
        for term in form.terms:
            part = term.atom if term.coefficient is None else b.mul(term.coefficient, term.atom)
            out = part if out is None else b.add(out, part)
        if form.rest is not None:
            out = form.rest if out is None else b.add(out, form.rest)
        return b.zeros(dims, kind) if out is None else b.expand(b.cast(out, kind), dims)

    def scaled(self, form: Form, by: Ref) -> Form:
        """The form multiplied by a value free of state."""
        b = self.b
        return self._map(
            form, lambda r: b.mul(by, r), lambda t: Term(self._times(t.coefficient, by), t.atom)
        )

    # ------------------------------------------------------------ parts

    def _times(self, coefficient: Ref | None, by: Ref) -> Ref | None:
        if coefficient is None:
            return None if self.b.constant_of(by) == 1 and not self.b.dims_of(by) else by
        if self.b.constant_of(coefficient) == -1 and not self.b.dims_of(coefficient):
            return self.b.neg(by)
        return self.b.mul(by, coefficient)

    def _minus(self, term: Term) -> Term:
        b = self.b
        kind = b.kind_of(term.atom)
        one = b.const(-1.0, kind)
        return Term(one if term.coefficient is None else b.neg(term.coefficient), term.atom)

    def _map(self, form: Form, rest: Callable[[Ref], Ref], term: Callable[[Term], Term]) -> Form:
        out = tuple(term(t) for t in form.terms)
        return Form(out, None if form.rest is None else rest(form.rest))

    def _sum(self, one: Form, two: Form) -> Form:
        b = self.b
        total: dict[Ref, Ref | None] = {}
        for term in (*one.terms, *two.terms):
            c = term.coefficient
            if term.atom in total:
                unit = b.const(1.0, b.kind_of(term.atom))
                before = total[term.atom]
                c = b.add(unit if before is None else before, unit if c is None else c)
            total[term.atom] = c
        rest = one.rest if two.rest is None else two.rest
        if one.rest is not None and two.rest is not None:
            rest = b.add(one.rest, two.rest)
        return Form(tuple(Term(c, atom) for atom, c in total.items()), rest)

    def _product(self, ref: Ref, x: Ref, y: Ref) -> Form:
        if self.looks(x) and self.looks(y):
            raise NotAffine(self._reason(ref), ref)
        return self.scaled(self.form(y), x) if self.looks(y) else self.scaled(self.form(x), y)

    def _quotient(self, ref: Ref, x: Ref, y: Ref) -> Form:
        b = self.b
        if self.looks(y):
            raise NotAffine(self._reason(ref), ref)

        def divided(term: Term) -> Term:
            one = b.const(1.0, b.kind_of(term.atom))
            return Term(b.div(one if term.coefficient is None else term.coefficient, y), term.atom)

        return self._map(self.form(x), lambda r: b.div(r, y), divided)

    def _choice(self, ref: Ref, c: Ref, x: Ref, y: Ref) -> Form:
        b = self.b
        if self.looks(c):
            raise NotAffine(self._reason(ref), ref)
        one, two = self.form(x), self.form(y)
        zero = b.const(0.0, b.kind_of(ref))

        def masked(term: Term, taken: bool) -> Term:
            unit = b.const(1.0, b.kind_of(term.atom))
            inner = unit if term.coefficient is None else term.coefficient
            return Term(b.where(c, inner, zero) if taken else b.where(c, zero, inner), term.atom)

        terms = self._sum(
            Form(tuple(masked(t, True) for t in one.terms), None),
            Form(tuple(masked(t, False) for t in two.terms), None),
        ).terms
        terms = tuple(self._joined(c, t, one, two) for t in terms)
        if one.rest is None and two.rest is None:
            return Form(terms, None)
        rest = b.where(
            c, zero if one.rest is None else one.rest, zero if two.rest is None else two.rest
        )
        return Form(terms, rest)

    def _joined(self, c: Ref, term: Term, one: Form, two: Form) -> Term:
        """`where(c, a, b)` as one coefficient when both branches hold the atom."""
        b = self.b
        unit = b.const(1.0, b.kind_of(term.atom))
        found = [
            [
                unit if t.coefficient is None else t.coefficient
                for t in f.terms
                if t.atom == term.atom
            ]
            for f in (one, two)
        ]
        if not found[0] or not found[1]:
            return term
        return Term(b.where(c, found[0][0], found[1][0]), term.atom)

    def contraction(self, x: Ref, y: Ref, over: Dims, ref: Ref | None = None) -> Form:
        """`Σ_over x ∘ y` of which one depends on the state, distributed over its terms."""
        if self.looks(x) and self.looks(y):
            ref = self.b.contract(x, y, over) if ref is None else ref
            raise NotAffine(self._reason(ref), ref)
        weight, x = (x, y) if self.looks(y) else (y, x)
        form = self.form(x)
        out = Form((), None)
        for term in form.terms:
            out = self._sum(out, self._contracted_term(term, weight, over))
        if form.rest is not None:
            rest = self._distributed(weight, form.rest, over)
            out = self._sum(out, Form((), rest))
        return out

    def _contracted_term(self, term: Term, weight: Ref, over: Dims) -> Form:
        b = self.b
        inside = tuple(d for d in over if d in b.dims_of(term.atom))
        outside = tuple(d for d in over if d not in inside)
        whole = weight if term.coefficient is None else None
        if term.coefficient is not None and not outside:
            whole = b.mul(weight, term.coefficient)
        if whole is None or outside:
            factor = b.const(1.0) if term.coefficient is None else term.coefficient
            whole = dot(b, weight, factor, outside)
        if not inside:
            return Form((Term(whole, term.atom),), None)
        outer, inner = pull(b, b.expand(whole, inside), inside)
        return Form((Term(outer, self._rows(inner, term.atom, inside)),), None)

    def _rows(self, weight: Ref, atom: Ref, over: Dims) -> Ref:
        """An image by several vectors along a static dimension is a stack of images."""
        b = self.b
        extra = [d for d in b.dims_of(weight) if d not in over]
        size = static_size(b, extra[0]) if len(extra) == 1 else None
        if size is None or size > _MOST_ROWS or len(b.dims_of(atom)) < 2:
            return self.image(weight, atom, over)
        if extra[0] in b.dims_of(atom):
            return self.image(weight, atom, over)
        rows = [self.image(entry(b, weight, extra[0], i), atom, over) for i in range(size)]
        out = b.stack(rows, extra[0])
        self.views.add(out)
        return out

    def image(self, weight: Ref, atom: Ref, over: Dims) -> Ref:
        """The atom `Σ_over weight ∘ atom`; looks through a renaming of a version if it can."""
        b = self.b
        op = b.values[atom].op
        if atom in self.views and isinstance(op, Rename) and op.x in self.versions:
            back = [(new, old) for old, new in op.pairs]
            moved = {old for old, new in op.pairs if new not in over}
            clash = set(b.dims_of(weight)) - set(over)
            names = {dict(back).get(d, d) for d in over}
            if not moved and not clash & names:
                renamed = tuple(dict(back).get(d, d) for d in over)
                return self.image(b.rename(weight, back), op.x, b.sort(renamed))
        out = b.contract(weight, atom, over)
        if atom in self.versions:
            self.images[out] = Image(atom, weight, over)
        else:
            self.views.add(out)
        return out

    def _distributed(self, weight: Ref, rest: Ref, over: Dims) -> Ref:
        """`Σ_over weight ∘ rest` without forming an outer product where a factor can stay out."""
        b = self.b
        op = b.values[rest].op
        match op:
            case Binary("add", x, y):
                return b.add(self._distributed(weight, x, over), self._distributed(weight, y, over))
            case Binary("sub", x, y):
                return b.sub(self._distributed(weight, x, over), self._distributed(weight, y, over))
            case Unary("neg", x):
                return b.neg(self._distributed(weight, x, over))
            case _:
                outer, inner = pull(b, rest, over)
                out = dot(b, weight, inner, over)
                return out if outer is None else b.mul(out, outer)

    def reduction(self, fn: str, x: Ref, over: Dims) -> Form:
        """The sum or mean of a value over dimensions, distributed over its terms."""
        b = self.b
        one = b.const(1.0, b.kind_of(x))
        weight = one if fn == "sum" else b.div(one, b.size(over))
        form = self.form(x)
        out = Form((), None)
        for term in form.terms:
            out = self._sum(out, self._contracted_term(term, one, over))
        if form.rest is not None:
            rest = b.sum(form.rest, set(over) & set(b.dims_of(form.rest)))
            missing = b.sort(set(over) - set(b.dims_of(form.rest)))
            out = self._sum(out, Form((), b.mul(rest, b.size(missing))))
        return out if fn == "sum" else self.scaled(out, weight)

    def _view(self, form: Form, change: Callable[[Ref], Ref]) -> Form:
        """A change of dimensions, applied to coefficients, atoms and rest."""
        out: list[Term] = []
        for term in form.terms:
            c = None if term.coefficient is None else change(term.coefficient)
            atom = change(term.atom)
            if atom != term.atom:
                self.views.add(atom)
            out.append(Term(c, atom))
        return Form(tuple(out), None if form.rest is None else change(form.rest))

    def _entry(self, ref: Ref, dim: str, index: int) -> Ref:
        return self.b.select(ref, dim, index) if dim in self.b.dims_of(ref) else ref

    def _mark(self, dim: str, index: int, kind: Kind) -> Ref:
        """1 at one entry of a dimension, else 0."""
        b = self.b
        hit = b.binary("eq", b.iota(dim), b.const(index, Kind.INT))
        return b.cast(b.cast(hit, Kind.REAL), kind)

    def _insert(self, x: Ref, dim: str, index: int, y: Ref) -> Form:
        b = self.b
        kind = b.kind_of(x)
        mark = self._mark(dim, index, kind)
        kept = self.scaled(self.form(x), b.sub(b.const(1.0, kind), mark))
        return self._sum(kept, self._placed(y, dim, index, mark))

    def _stack(self, xs: Sequence[Ref], dim: str) -> Form:
        out = Form((), None)
        for index, x in enumerate(xs):
            mark = self._mark(dim, index, self.b.kind_of(x))
            out = self._sum(out, self._placed(x, dim, index, mark))
        return out

    def _placed(self, y: Ref, dim: str, index: int, mark: Ref) -> Form:
        """`y` at one entry; an entry of a version put back into its own place is elementwise."""
        b = self.b
        form = self.form(y)
        terms = []
        for term in form.terms:
            op, atom = b.values[term.atom].op, term.atom
            if (
                isinstance(op, Select)
                and op.x in self.versions
                and (op.dim, op.index) == (dim, index)
            ):
                atom = op.x
            terms.append(Term(self._times(term.coefficient, mark), atom))
        return Form(tuple(terms), None if form.rest is None else b.mul(mark, form.rest))

    # ------------------------------------------------------------ words

    def _reason(self, ref: Ref) -> str:
        b, op = self.b, self.b.values[ref].op
        text = show(b.values, ref, depth=3, inside=True)
        match op:
            case Binary("div" | "pow" | "mod" | "max" | "min" | "logaddexp" as fn, _, _):
                return f"`{text}` is a {_WORDS[fn]} that holds the state nonlinearly"
            case Contract() | Binary("mul", _, _):
                return f"`{text}` is a product of two values that both depend on the state"
            case Binary(fn, _, _):
                return f"`{text}` compares the state"
            case Where(c, _, _) if self.looks(c):
                return f"`{text}` chooses by a condition that depends on the state"
            case Unary(fn, _) | Normalize(fn, _) | Reduce(fn, _):
                return f"`{text}` is the {fn} of a value that depends on the state"
            case StopGrad() | MakeComplex():
                return f"`{text}` is not linear in the state (or its gradient is not)"
            case Prev():
                return f"`{text}` is a state of the same component"
            case _:
                return f"`{text}` is not linear in the state"


def looks_at(values: Sequence[Value], known: dict[Ref, bool]) -> Callable[[Ref], bool]:
    """Whether a value of a growing program is computed from one that is `known` to be looked for.

    Lags are leaves.  What is found is remembered in `known`.
    """

    def looks(ref: Ref) -> bool:
        todo = [ref]
        while todo:
            top = todo[-1]
            if top in known:
                todo.pop()
                continue
            op = values[top].op
            inner = () if isinstance(op, Lag) else operands(op)
            open_ = [r for r in inner if r not in known]
            if open_:
                todo += open_
            else:
                known[top] = any(known[r] for r in inner)
                todo.pop()
        return known[ref]

    return looks
