"""Well-typed specs put together at random, over the whole language.

In: a random generator.  Out: the text of one scan.  Two kinds are drawn: those whose states take
scalar decays, and `hard` ones with anything a step may hold.  Values stay tame: decays are at most
one, and what grows is squashed.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

SCALAR_INPUTS = {"g": "in (-inf, 0]", "a": "in (0, 1]", "b": "in [0, 1]", "c": "", "x": ""}
VECTOR_INPUTS = {
    "h": "K",
    "q": "K",
    "k": "K",
    "w": "K",
    "v": "V",
    "u": "V",
    "r": "R, K",
    "s": "R, V",
}
PARAMS = {
    "gamma": ("", "in (0, 1]"),
    "bias": ("V", ""),
    "P": ("K, K'", ""),
    "W": ("R", ""),
    "e": ("K", ""),
}
GATES = [
    "exp({g})", "sigmoid({c})", "a", "0.9", "gamma", "0.8 ** 0.5", "a * exp({g})",
    "exp(-softplus({c}))",
    "where({c} > 0.8, 0, a)", "where(t % 5 == 3, 0.5, exp({g}))", "1 / (1 + exp(-{c}))",
    "exp(min(g, c))", "a ** 2", "exp(lag(g, 2))",
]  # fmt: skip
FREE_GATES = ["b", "tanh(c)", "-a", "where(c > 0, b, -0.5)", "cos(x)"]
NUMBERS = [
    "x", "b", "c * 0.5", "(q @ k)", "lag(x, 1)", "tanh(u @ v)", "sum[K](k * w)", "max[V](v)",
    "logsumexp[K](q)", "1 / (t + 1)", "mean[K](e * q)", "where(x > 0, sqrt(abs(x)), 0)",
    "(c > 0) * 0.5", "floor(c)", "f", "(K ** -0.5)", "where(c > 0, log(c), c)", "stopgrad(q @ w)",
]  # fmt: skip
EVENTS = [
    "{S} *= exp(h)", "{S} *= exp(h) * a", "{S} += 0.5 * k * (l2norm[K](w) @ {S})",
    "{S} -= b * l2norm[K](w) * (l2norm[K](w) @ {S} - v)",
    "{S} += b * l2norm[K](k) * (u - l2norm[K](k) @ (a * {S} - k * v))",
    "{S} = where(c > 1, 0, {S})", "{S} += (k + w) * (v * {n})", "{S} = {S} - b * 0.9 * {S}",
    "{S} -= 0.2 * grad(sum[V]((k @ {S} - v) ** 2), {S})",
]  # fmt: skip
KEYS = [
    "k", "w", "relu(k)", "l2norm[K](k)", "lag(k, 1)", "k * e", "(P @ w[K'])", "softmax[K](w)",
    "where(k > 0, k, 0.1 * w)", "r[0]", "(W @[R] r)", "stopgrad(w)", "(taps @[M] window[M](k))",
    "silu(k) * {n}", "max(k, w)", "clamp(w, -0.5, 0.5)", "(iota(K) < 3) * k",
]  # fmt: skip
VALUES = [
    "v", "u", "(v - u)", "v * {n}", "lag(v, 2)", "layernorm[V](u)", "s[1]", "v * bias", "tanh(v)",
    "rmsnorm[V](v)", "where(u > 0, v / (u + 0.5), u)", "logaddexp(u, v)", "(W @[R] s)",
]  # fmt: skip
QUERIES = ["q", "(w * {n})", "l2norm[K](q)", "r[1]", "lag(q, 1)", "(q * e)", "(exp(q) * 0.2)"]
LATE = [
    "{y}", "{y} * {n}", "{y} / max(abs({d}), 1)", "layernorm[V]({y})", "tanh({y}) + u",
    "gelu({y}) * v", "where({d} > 0, {y}, v)", "{y} / ({d} ** 2 + 1) + bias", "softmax[V]({y})",
    "sigmoid({d}) * {y}",
]  # fmt: skip
NAMES = [
    "S", "d_q", "kept", "sizes", "β", "step", "chunk", "parts", "H", "out_o", "start_S", "tokens",
    "C",
]  # fmt: skip


@dataclass
class _Spec:
    """A scan in the making."""

    rng: random.Random
    hard: bool
    lags: bool
    names: list[str] = field(default_factory=list)
    matrices: list[str] = field(default_factory=list)
    vectors: list[str] = field(default_factory=list)
    scalars: list[str] = field(default_factory=list)
    declared: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    outputs: int = 0

    def fits(self, text: str) -> bool:
        """Whether a text may occur: what a lag remembers keeps a scan from its chunked form."""
        return self.lags or not ("lag(" in text or "window[" in text)

    def one(self, *pools: list[str]) -> str:
        text = self.rng.choice([x for pool in pools for x in pool if self.fits(x)])
        while "{n}" in text or "{g}" in text or "{c}" in text:
            number = self.rng.choice([x for x in NUMBERS if self.fits(x)])
            text = text.replace("{n}", number, 1)
            text = text.replace("{g}", self.rng.choice(["g", "g / 2", "g - 0.1"]), 1)
            text = text.replace("{c}", self.rng.choice(["c", "(c + x)", "(c * u @ v)"]), 1)
        return text

    def gate(self) -> str:
        return self.one(GATES, FREE_GATES) if self.hard else self.one(GATES)

    def start(self, dims: str) -> str:
        choices = ["", "", " = 0.5", " = f"]
        choices += {"K, V": [" = e * bias"], "K": [" = e"], "": [" = gamma"]}[dims]
        return self.rng.choice(choices)

    def name(self) -> str:
        name = self.names.pop()
        return name

    def output(self, dims: str, text: str) -> None:
        where = f"[{dims}]" if dims else ""
        self.lines.append(f"output y{self.outputs}{where} = {text}")
        self.outputs += 1

    # ------------------------------------------------------------ steps of states

    def matrix(self) -> None:
        s = self.name()
        self.declared.append(f"{s}[K, V]{self.start('K, V')}")
        if self.rng.random() < 0.3:
            self.lines.append(f"{s} *= {self.gate()}")
        if self.rng.random() < 0.4:
            self.lines.append(self.one([text.replace("{S}", s) for text in EVENTS]))
        if self.hard and self.rng.random() < 0.4:
            self.lines.append(self.one([
                f"{s} = tanh({s})", f"{s} = sigmoid(v) * {s}", f"{s} = exp(-abs(k)) * {s}",
            ]))  # fmt: skip
        if self.rng.random() < 0.07:
            self.lines += [f"every {self.rng.choice([3, 16])}:", f"    {s} *= 0.5"]
        if self.rng.random() < 0.2:
            self.lines += ["for i in R:", f"    {s} += 0.3 * r[i] * s[i]"]
        self.lines.append(f"{s} = {self.gate()} * {s} + {self.one(KEYS)} * {self.one(VALUES)}")
        self.matrices.append(s)

    def vector(self) -> None:
        z = self.name()
        self.declared.append(f"{z}[K]{self.start('K')}")
        if self.hard and self.rng.random() < 0.4:
            self.lines.append(f"{z} = tanh(P @ {z}[K'] + k)")
        self.lines.append(f"{z} = {self.gate()} * {z} + {self.one(KEYS)}")
        self.vectors.append(z)

    def scalar(self) -> None:
        n = self.name()
        self.declared.append(f"{n}{self.start('')}")
        text = f"{n} = {self.gate()} * {n} + {self.one(NUMBERS)}"
        if self.hard:
            text = self.one(
                [text, f"{n} = max({n} + g, c)", f"{n} = sin({n}) + x", f"{n} = logaddexp({n}, c)"]
            )
        self.lines.append(text)
        self.scalars.append(n)

    # ------------------------------------------------------------ outputs

    def read(self) -> str:
        """A value `[V]` of the states so far."""
        if not self.matrices:
            return self.one(VALUES)
        s = self.rng.choice(self.matrices)
        text = f"({self.one(QUERIES)} @ {s})"
        if self.hard:
            text = self.one([text, f"mean[K]({s})", f"lag({s}, 2) @ q", f"(q @ tanh({s}))"])
        return text

    def number(self) -> str:
        choices = [self.one(NUMBERS)]
        choices += [f"({self.one(QUERIES)} @ {z})" for z in self.vectors] + self.scalars
        return self.rng.choice(choices)

    def late(self) -> None:
        kind = self.rng.randrange(6)
        if kind == 0:
            self.output("", self.number())
        elif kind == 1 and self.vectors:
            z = self.rng.choice(self.vectors)
            self.output("K", self.one([z, f"{z} * q", f"softmax[K]({z})", f"{z} > 0"]))
        elif kind == 2 and self.hard:
            self.output("", f"argmax[V]({self.read()})")
        else:
            text = self.rng.choice(LATE).replace("{y}", self.read()).replace("{d}", self.number())
            self.output("V", text.replace("{n}", self.one(NUMBERS)))

    def text(self) -> str:
        names = [n for n in NAMES]
        self.rng.shuffle(names)
        self.names = names
        steps = [self.matrix, self.vector, self.scalar]
        for _ in range(self.rng.randint(1, 3)):
            if self.rng.random() < 0.25:
                self.late()
            self.rng.choices(steps, [3, 2, 1])[0]()
        for _ in range(self.rng.randint(1, 2)):
            self.late()
        return "\n".join(
            ["scan drawn:", *("    " + line for line in [*self.head(), *self.lines]), ""]
        )

    def head(self) -> list[str]:
        """Declarations of what the step reads."""
        body = " ".join([*self.lines, *self.declared])
        words = set("".join(c if c.isalnum() or c == "_" else " " for c in body).split())
        if not words & ({*SCALAR_INPUTS} | {*VECTOR_INPUTS}) or "K" not in body or "V" not in body:
            self.output("V", "v * (q @ k)")
            words |= {"v", "q", "k"}
        inputs = [f"{n} {promise}".strip() for n, promise in SCALAR_INPUTS.items() if n in words]
        inputs += [
            f"{n}[{dims}]" + " in (-inf, 0]" * (n == "h")
            for n, dims in VECTOR_INPUTS.items()
            if n in words
        ]
        inputs += ["K0[K]"] if not words & {"h", "q", "k", "w", "r", "e", "P"} else []
        inputs += ["V0[V]"] if not words & {"v", "u", "s", "bias"} else []
        self.rng.shuffle(inputs)
        lines = []
        if "R" in words or words & {"r", "s", "W"}:
            lines.append("static R = 2")
        if "M" in words:
            lines.append("static M = 3")
        lines.append("input " + ", ".join(inputs))
        params = [
            f"{n}[{d}] {p}".strip() if d else f"{n} {p}"
            for n, (d, p) in PARAMS.items()
            if n in words
        ]
        params += ["taps[M]"] if "taps" in words else []
        lines += ["param " + ", ".join(params)] if params else []
        lines += ["scalar f = 0.5"] if "f" in words else []
        if "K0[K]" in inputs:
            self.output("", "sum[K](K0)")
        if "V0[V]" in inputs:
            self.output("", "sum[V](V0)")
        lines += ["state " + ", ".join(self.declared)] if self.declared else []
        return lines


def drawn(rng: random.Random, hard: bool) -> str:
    """A spec; `hard` ones hold what has no chunked form yet."""
    return _Spec(rng, hard, lags=rng.random() < 0.25).text()
