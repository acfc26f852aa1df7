"""Prints a stage, or its adjoint, as one Python function.

In: a `Stage`.  Out: a `Printed` function with what it takes and gives, in order.  The arguments are
the stage's leaves, then whatever numbers the body needs and cannot read off a leaf.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from scandsl.ir.adjoint import vjp
from scandsl.ir.builder import Builder
from scandsl.ir.nodes import (
    Binary,
    Dim,
    Every,
    Kind,
    Ref,
    Scalar,
    Time,
    Value,
    made_of,
    operands,
)
from scandsl.render.layout import docstring, indented, returned, signature
from scandsl.render.lowering import Stage
from scandsl.render.names import Names
from scandsl.render.stacked import with_stacked_entries
from scandsl.render.torch_printer import COMPARE, Scope, Text, TorchPrinter

SMOOTH = (Kind.REAL, Kind.COMPLEX)


@dataclass(frozen=True, slots=True)
class Printed:
    """A function: its lines, and what it takes behind the leaves (sizes, scalars, `like`)."""

    name: str
    lines: tuple[str, ...]
    leaves: tuple[str, ...]
    extras: tuple[str, ...]
    results: tuple[str, ...]
    helpers: frozenset[str]


@dataclass(frozen=True, slots=True)
class Sized:
    """Python names of sizes: static ones are numbers, primes share the name of their base."""

    text: Mapping[str, str]

    @staticmethod
    def of(dims: Sequence[Dim], names: Names) -> Sized:
        """Choose a name for each dimension."""
        text: dict[str, str] = {}
        bases = {d.name: d for d in dims if d.base is None}
        for dim in dims:
            base = bases.get(dim.base or dim.name, dim)
            if base.size is not None:
                text[dim.name] = str(base.size)
            elif base.name in text:
                text[dim.name] = text[base.name]
            else:
                text[dim.name] = text.setdefault(base.name, names.fresh(base.name))
        return Sized(text)


class _Used(Mapping[str, str]):
    """A mapping that remembers which keys were asked for."""

    def __init__(self, inner: Mapping[str, str]) -> None:
        self.inner = inner
        self.asked: dict[str, None] = {}

    def __getitem__(self, key: str) -> str:
        self.asked[key] = None
        return self.inner[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.inner)

    def __len__(self) -> int:
        return len(self.inner)


@dataclass(frozen=True, slots=True)
class Order:
    """Which arguments come where: leaves, `middle`, extras, then the leaves in `late`.

    `forced` puts all scalars and the position in, used or not.
    """

    middle: tuple[str, ...] = ()
    late: frozenset[str] = frozenset()
    forced: bool = False


@dataclass(slots=True)
class FunctionPrinter:
    """Prints functions of one scan.  `scalars` maps spec names to the names used in the module.

    `note` gives the line of the spec that a value comes from.
    """

    dims: tuple[Dim, ...]
    scalars: Mapping[str, str]
    note: Callable[[Value], str | None]
    helpers: set[str] = field(default_factory=set)

    def forward(
        self,
        name: str,
        doc: str,
        stage: Stage,
        order: Order | None = None,
        autograd: bool = False,
        full: Mapping[str, str] | None = None,
    ) -> Printed:
        """The stage itself.

        `full` maps results that may lack lead axes to the leaf that has the shape they must have.
        """
        body = _Body(self, stage, autograd)
        texts = body.printer.emit([ref for _, ref in stage.results])
        results = []
        for (result, ref), text in zip(stage.results, texts, strict=True):
            whole = text
            if body.printer.is_number(ref):
                whole = body.printer.tensor_of(ref)
            pattern = (full or {}).get(result)
            if pattern is not None:
                whole = _spread_over(body, stage, ref, text, body.leaf_name[pattern])
            results.append(whole)
        return body.finish(name, doc, order or Order(), [r for r, _ in stage.results], results)

    def backward(
        self,
        name: str,
        doc: str,
        stage: Stage,
        wanted: Sequence[str],
        seeds: Sequence[str],
        order: Order | None = None,
        in_pairs: Collection[str] = (),
    ) -> Printed:
        """Gradients of the leaves `wanted` for gradients of the results `seeds`.

        Those of leaves `in_pairs` that are outer products are given as pairs of their vectors.
        """
        builder = Builder(stage.dims, stage.values)
        refs = dict(stage.results)
        leaf_refs = dict(stage.leaves)
        cotangents: dict[Ref, Ref] = {}
        incoming: dict[Ref, str] = {}
        for seed in seeds:
            value = stage.values[refs[seed]]
            load = builder.load(f"d {seed}", value.dims, value.kind)
            incoming[load] = seed
            ref = refs[seed]
            cotangents[ref] = builder.add(cotangents[ref], load) if ref in cotangents else load
        found = vjp(builder, cotangents, [leaf_refs[w] for w in wanted], stage.behind)
        roots = with_stacked_entries(builder, [found[leaf_refs[w]] for w in wanted])
        whole = Stage(
            tuple(builder.dims), tuple(builder.values), stage.leaves, stage.results, frozenset()
        )
        body = _Body(self, whole, False, incoming)
        late = order.late if order is not None else ()
        whole_leaves = {*incoming, *(leaf_refs[n] for n in late if n in leaf_refs)}
        pairs = [
            None if r is None or w not in in_pairs else _vectors(whole.values, r, whole_leaves)
            for w, r in zip(wanted, roots, strict=True)
        ]
        asked = [p or (r,) for p, r in zip(pairs, roots, strict=True) if r is not None]
        printed = body.printer.emit([r for refs in asked for r in refs])
        texts = iter(printed)
        results = []
        for leaf, root, pair in zip(wanted, roots, pairs, strict=True):
            pattern = body.leaf_name[leaf]
            if pair is not None:
                body.paired = True
                results.append(f"({next(texts)}, {next(texts)})")
            elif root is None:
                results.append(f"torch.zeros_like({pattern})")
            else:
                text = next(texts)
                number = body.printer.is_number(root)
                results.append(f"torch.full_like({pattern}, {text})" if number else text)
        return body.finish(name, doc, order or Order(), [f"d {w}" for w in wanted], results)


def _vectors(values: Sequence[Value], ref: Ref, whole: Collection[Ref]) -> tuple[Ref, Ref] | None:
    """The factors of an outer product, in the order of its dimensions, if both have all lead axes.

    They do where they are made of a value in `whole`.
    """
    op = values[ref].op
    if not isinstance(op, Binary) or op.fn != "mul" or values[ref].kind is not Kind.REAL:
        return None
    for pair in ((op.a, op.b), (op.b, op.a)):
        left, right = (values[r].dims for r in pair)
        if not left or not right or left + right != values[ref].dims:
            continue
        if all(not made_of(values, [r]).isdisjoint(whole) for r in pair):
            return pair
    return None


class _Body:
    """The statements of one function in the making."""

    def __init__(
        self,
        owner: FunctionPrinter,
        stage: Stage,
        autograd: bool,
        incoming: Mapping[Ref, str] | None = None,
    ) -> None:
        self.owner = owner
        self.stage = stage
        self.names = Names()
        self.incoming = dict(incoming or {})
        self.leaf_name: dict[str, str] = {}
        self.by_ref: dict[Ref, str] = {}
        reserved = set(owner.scalars.values()) | {"t", "like"}
        self.sized = Sized.of(stage.dims, Names(reserved))
        self.names.reserve({*reserved, *self.sized.text.values()})
        for name, ref in stage.leaves:
            if name not in self.leaf_name:
                self.leaf_name[name] = "t" if name == "t" else self.names.fresh(name)
            self.by_ref[ref] = self.leaf_name[name]
        self.incoming_name = {
            ref: self.names.fresh("d_" + name.split(" ")[-1]) for ref, name in self.incoming.items()
        }
        self.used = _Used(self.sized.text)
        self.used_scalars: dict[str, None] = {}
        self.paired = False
        self.like = self._like()
        scope = Scope(
            leaf=self._leaf,
            sizes=self.used,
            dtype=f"{self.like[0]}.dtype{self.like[1]}",
            device=f"{self.like[0]}.device",
            comment=None if self.incoming else owner.note,
            autograd=autograd,
            behind=stage.behind,
        )
        self.printer = TorchPrinter(stage.values, scope, self.names)

    def _like(self) -> tuple[str, str]:
        """A leaf of the compute dtype, or the argument `like`."""
        for kind, suffix in ((Kind.REAL, ""), (Kind.COMPLEX, ".to_real()")):
            for _, ref in self.stage.leaves:
                if self.stage.values[ref].kind is kind:
                    return self.by_ref[ref], suffix
        return "like", ""

    def _leaf(self, ref: Ref, value: Value) -> Text | str | None:
        if ref in self.by_ref:
            return self.by_ref[ref]
        if ref in self.incoming_name:
            return self.incoming_name[ref]
        match value.op:
            case Scalar(name):
                self.used_scalars[name] = None
                return Text(self.owner.scalars[name], number=True)
            case Time():
                return "t"
            case Every(period):
                return Text(f"t % {period} == 0", COMPARE)
            case _:
                return None

    def finish(
        self, name: str, doc: str, order: Order, names: Sequence[str], results: Sequence[str]
    ) -> Printed:
        """The function, now that its body is known."""
        lines, sizes = self._sizes()
        body = [*lines, *self.printer.lines, *returned(list(results))]
        scalars = self.owner.scalars
        numbers = [scalars[s] for s in scalars if order.forced or s in self.used_scalars]
        extras = [*numbers, *sizes]
        if self.like[0] == "like" and "like." in "\n".join(body):
            extras.append("like")
        leaves = dict.fromkeys(n for n, _ in self.stage.leaves)
        early = [self.leaf_name[n] for n in leaves if n not in order.late]
        late = [self.leaf_name[n] for n in leaves if n in order.late]
        parameters = [f"{n}: Tensor" for n in [*early, *order.middle]]
        for extra in extras:
            kind = "Tensor" if extra == "like" else "int" if extra in sizes else "float"
            parameters.append(f"{extra}: {kind}")
        if order.forced:
            parameters.append("t: Tensor")
        parameters += [f"{n}: Tensor" for n in [*late, *self.incoming_name.values()]]
        kind = "Any" if self.paired else "Tensor"
        head = signature(name, parameters, f"tuple[{kind}, ...]")
        self.owner.helpers |= self.printer.helpers
        return Printed(
            name,
            (*head, *indented([*docstring(doc), *body])),
            (*early, *late),
            tuple(extras),
            tuple(names),
            frozenset(self.printer.helpers),
        )

    def _sizes(self) -> tuple[list[str], list[str]]:
        """Statements for the sizes that are used, and those that have to be arguments."""
        lines: dict[str, None] = {}
        missing: dict[str, None] = {}
        for dim in self.used.asked:
            text = self.sized.text[dim]
            if text.isdigit():
                continue
            source = next(
                (
                    (self.leaf_name[n], v.dims.index(d) - len(v.dims))
                    for n, ref in self.stage.leaves
                    for v in (self.stage.values[ref],)
                    for d in v.dims
                    if self.sized.text[d] == text
                ),
                None,
            )
            if source is None:
                missing[text] = None
            else:
                lines[f"{text} = {source[0]}.shape[{source[1]}]"] = None
        return list(lines), list(missing)


def _spread_over(body: _Body, stage: Stage, ref: Ref, text: str, pattern: str) -> str:
    """A next part that surely has all of its axes."""
    if body.printer.is_number(ref):
        return f"torch.full_like({pattern}, {text})"
    if _whole(stage, ref):
        return text
    atom = text if text.isidentifier() else f"({text})"
    return f"{atom}.expand_as({pattern})"


def _whole(stage: Stage, ref: Ref) -> bool:
    """Whether a value has every batch element and head, because a leaf that it is made of has."""
    whole = {r for name, r in stage.leaves if name in stage.whole}
    seen: set[Ref] = set()
    stack = [ref]
    while stack:
        at = stack.pop()
        if at in whole:
            return True
        if at not in seen:
            seen.add(at)
            stack.extend(operands(stage.values[at].op))
    return False
