"""Well-typed expressions of given dimensions, over the whole language.

Values stay of the order of one.  Functions that jump (`floor`, `sign`, comparisons) are applied to
arguments of the scan alone: there every backend has the same bits, so that all fall on one side.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from tests.fuzz.scope import Scope
from tests.fuzz.source import Source

Dims = frozenset[str]
NONE: Dims = frozenset()
LOG_DECAY, LOG_RESET = "in (-inf, 0]", "in [-inf, 0]"

UNARY = (
    "tanh({})", "sigmoid({})", "(-{})", "(0.5 * {})", "silu({})", "sin({})", "cos({})", "relu({})",
    "gelu({})", "elu({})", "erf({})", "softplus({})", "logsigmoid({})", "abs({})",
    "exp(-abs({}))", "exp(min({}, 0.5))", "log1p(abs({}))", "log(abs({}) + 0.3)",
    "sqrt(abs({}) + 0.1)", "expm1(clamp({}, -1, 0.7))", "clamp({}, -0.4, 0.6)", "({} ** 2)",
    "stopgrad({})", "max({}, 0.1)", "min(0.2, {})",
)  # fmt: skip
SMOOTH_TWO = (
    "({} + {})", "({} - {})", "max({}, {})", "min({}, {})", "logaddexp({}, {})", "{} * sigmoid({})",
    "({} / (abs({}) + 0.5))", "re(complex({}, {}) * complex(0.6, 0.8))",
    "im(exp(complex(0, {}))) * {}",
    "({} * rsqrt({} ** 2 + 0.5))", "abs(complex({}, {} + 1.5))", "where({} > 2, 0, {})",
)  # fmt: skip
JUMPS = ("floor({})", "sign({})", "({} > 0.3)", "(0.5 * ({} % 0.7))", "(not ({} < 0))")
CONDITIONS = (
    "{x} > 0", "{x} < 0.5", "t % 4 == 1", "{x} > -0.5 and t > 2", "not ({x} >= 0)",
    "-0.5 < {x} <= 0.5", "t < 7 or {x} > 0",
)  # fmt: skip
GATES = (
    "exp({decay})", "sigmoid({real})", "{part}", "exp(-softplus({real}))", "{learned}",
    "exp({decay} - abs({leaf}))", "(1 / (1 + exp(-{real})))", "exp(max({decay}, -3))",
    "({part} * exp({decay}))", "exp(-exp({leaf}) * softplus({number}))",
)  # fmt: skip
FREE_GATES = (
    "exp({reset})", "{share}", "{signed}", "where({if}, 0, {part})", "tanh({real})", "(-{part})",
    "(1 - 0.9 * {share})",
)  # fmt: skip
NUMBERS = (
    "0.5",
    "1 / (t + 1)",
    "0.2 * (t % 5)",
    "0.1 * t / (t + 3)",
    "-1",
    "cos(0.3 * t)",
    "pi / 4",
)


@dataclass(frozen=True, slots=True)
class Expressions:
    """Draws expressions for a scope."""

    scope: Scope

    @property
    def source(self) -> Source:
        """Where choices come from."""
        return self.scope.source

    # ------------------------------------------------------------ leaves

    def leaf(self, dims: Dims) -> str:
        """A name or number that has these dimensions."""
        scope = self.scope
        order = scope.ordered(dims)
        there = [n.text for n in scope.locals if frozenset(n.dims) == dims]
        if there and self.source.chance(35):
            return self.source.pick(there)
        if not dims and self.source.chance(25):
            return self.source.say([*NUMBERS, f"{scope.dims[0]} ** -0.5", scope.scalar])
        if len(dims) == 1 and self.source.chance(8):
            return self.source.pick(
                [f"(0.5 * (iota({order[0]}) < 2))", f"(0.1 * iota({order[0]}))"]
            )
        if self.source.chance(10):
            return self.selected(dims)
        return scope.tensor(order, param=self.source.chance(20))

    def selected(self, dims: Dims) -> str:
        """An entry of a tensor with a static dimension."""
        static = self.scope.static("R")
        if static in dims:
            return self.scope.tensor(self.scope.ordered(dims))
        order = (static, *self.scope.ordered(dims))
        return f"{self.scope.tensor(order)}[{self.source.number(0, 1)}]"

    def argument(self, dims: Dims) -> str:
        """An input, whose bits all backends share."""
        return self.scope.tensor(self.scope.ordered(dims))

    def unit(self, dim: str) -> str:
        """A vector of length at most one."""
        kind = self.source.number(0, 3)
        if kind == 0:
            return self.scope.tensor((dim,), "in unit")
        if kind == 1:
            return f"l2norm[{dim}]({self.real(frozenset({dim}), 1)})"
        name = self.scope.tensor((dim,), "in unit")
        return f"({self.scope.tensor((), 'in [0, 1]')} * {name})" if kind == 2 else f"(-{name})"

    # ------------------------------------------------------------ real values

    def real(self, dims: Dims, depth: int = 2) -> str:
        """An expression with exactly these dimensions."""
        if depth <= 0 or self.source.chance(30):
            return self.leaf(dims)
        makers: list[Callable[[Dims, int], str]] = [self._one, self._two, self._chosen]
        makers += [self._contracted, self._reduced, self._special]
        if dims:
            makers += [self._product, self._product, self._normalised]
        if self.scope.lags:
            makers += [self._lagged, self._lagged]
        return self.source.pick(makers)(dims, depth - 1)

    def _one(self, dims: Dims, depth: int) -> str:
        if self.source.chance(20):
            jump = self.source.pick(JUMPS).format(self.argument(dims))
            return f"({jump} * {self.real(dims, depth)})"
        return self.source.pick(UNARY).format(self.real(dims, depth))

    def _two(self, dims: Dims, depth: int) -> str:
        text = self.source.pick(SMOOTH_TWO)
        if text.startswith("where"):
            return text.format(self.argument(dims), self.real(dims, depth))
        return "(" + text.format(self.real(dims, depth), self.real(dims, depth)) + ")"

    def _product(self, dims: Dims, depth: int) -> str:
        left = frozenset(self.source.some(self.scope.ordered(dims)))
        right = (dims - left) | frozenset(self.source.some(self.scope.ordered(left)))
        return f"({self.real(left, depth)} * {self.real(right, depth)})"

    def _chosen(self, dims: Dims, depth: int) -> str:
        return f"where({self.condition(dims)}, {self.real(dims, depth)}, {self.real(dims, depth)})"

    def condition(self, dims: Dims) -> str:
        """A bool with some of the dimensions."""
        part = frozenset(self.source.some(self.scope.ordered(dims)))
        text = self.source.pick(CONDITIONS)
        return text.format(x=self.argument(part)) if "{x}" in text else text

    def _contracted(self, dims: Dims, depth: int) -> str:
        others = [d for d in self.scope.dims if d not in dims]
        if not others:
            return self._mixed(dims, depth)
        over = self.source.pick(others)
        left = frozenset(self.source.some(self.scope.ordered(dims)))
        right = dims - left
        return f"({self.real(left | {over}, depth)} @ {self.real(right | {over}, depth)})"

    def _mixed(self, dims: Dims, depth: int) -> str:
        """A square matrix times a value whose dimension is renamed."""
        free = [d for d in self.scope.ordered(dims) if d in self.scope.dims]
        if not free:
            return self.leaf(dims)
        dim = self.source.pick(free)
        matrix = self.scope.tensor((dim, f"{dim}'"), param=True)
        order = self.scope.ordered(dims)
        name = self.scope.tensor(order)
        renamed = ", ".join(f"{d}'" if d == dim else d for d in order)
        return f"({matrix} @[{dim}'] {name}[{renamed}])"

    def _reduced(self, dims: Dims, depth: int) -> str:
        others = [d for d in self.scope.dims if d not in dims]
        if not others:
            return self._one(dims, depth)
        over = self.source.pick(others)
        name = self.source.pick(["sum", "mean", "max", "min", "logsumexp"])
        return f"{name}[{over}]({self.real(dims | {over}, depth)})"

    def _normalised(self, dims: Dims, depth: int) -> str:
        dim = self.source.pick(self.scope.ordered(dims))
        name = self.source.pick(["l2norm", "softmax", "rmsnorm", "layernorm"])
        constant = ", 0.1" if name != "softmax" and self.source.chance(60) else ""
        return f"{name}[{dim}]({self.real(dims, depth)}{constant})"

    def _special(self, dims: Dims, depth: int) -> str:
        kind = self.source.number(0, 4)
        if kind == 0 and len(dims & frozenset(self.scope.dims)) > 0:
            dim = self.source.pick([d for d in self.scope.ordered(dims) if d in self.scope.dims])
            return f"{self.scope.function('toned')}[{dim}]({self.real(dims, depth)})"
        if kind == 1:
            return f"{self.scope.function('phi')}({self.real(dims, depth)})"
        if kind == 2:
            parts = [self.real(dims, depth), self.real(dims, depth), self.gate(NONE)]
            return f"{self.scope.function('mix')}({', '.join(parts)})"
        if kind == 3:
            static = self.scope.static("R")
            if static not in dims:
                order = (static, *self.scope.ordered(dims))
                weights = self.scope.tensor((static,), param=True)
                return f"({weights} @[{static}] {self.scope.tensor(order)})"
        return f"{self.scope.function('mish')}({self.real(dims, depth)})"

    def _lagged(self, dims: Dims, depth: int) -> str:
        if "W" in dims or self.source.chance(60):
            return f"lag({self.real(dims, depth)}, {self.source.number(1, 3)})"
        width = self.scope.static("W")
        taps = self.scope.tensor((width,), param=True)
        return f"({taps} @[{width}] window[{width}]({self.real(dims, depth)}))"

    # ------------------------------------------------------------ decays

    def gate(self, dims: Dims, free: bool = True) -> str:
        """A factor whose size is at most one; `free` ones may be zero or negative."""
        order = self.scope.ordered(dims)
        made = {
            "decay": partial(self.scope.tensor, order, LOG_DECAY),
            "reset": partial(self.scope.tensor, order, LOG_RESET),
            "part": partial(self.scope.tensor, order, "in (0, 1]"),
            "share": partial(self.scope.tensor, order, "in [0, 1]"),
            "signed": partial(self.scope.tensor, order, "in [-1, 1]"),
            "learned": partial(self.scope.tensor, order, "in (0, 1]", param=True),
            "real": partial(self.real, dims, 1),
            "leaf": partial(self.leaf, dims),
            "number": partial(self.leaf, NONE),
            "if": partial(self.condition, dims),
        }
        text = self.source.pick((*GATES, *FREE_GATES) if free else GATES)
        return text.format(**{key: make() for key, make in made.items() if f"{{{key}}}" in text})

    def constant(self) -> str:
        """A decay that does not vary."""
        learned = partial(self.scope.tensor, (), "in (0, 1]", param=True)
        return self.source.say(["0.9", learned, "-0.7", "0.8 ** 0.5"])
