"""Steps of one matrix state put together at random, of what has the form of chunks.

In: a random generator.  Out: the text of one scan, real or complex.  Decays of every kind,
updates, writes and reads stand in any order.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, field

INPUTS = (
    "q[K]", "k[K] in unit", "n[K] in unit", "p[K]", "r[K]", "j[K]", "v[V]", "x[V]", "y[V]", "i[V]",
    "g[K] in (-inf, 0]", "h[V] in (-inf, 0]", "f[K] in [-1, 1]", "e[V] in [-1, 1]",
    "a in (-inf, 0]", "d in [-1, 1]", "s in [-inf, 0]", "b in [0, 1]", "w[K] in [0, 1]",
    "z[V] in [0, 1]", "l",
)  # fmt: skip
DECAYS = (
    "exp(g)", "exp(h)", "f", "e", "exp(a)", "d", "exp(s)", "sigmoid(l)", "exp(a) * exp(g)",
    "exp(g + h)", "0.9", "where(l > 0.7, 0, exp(a))", "exp(-softplus(j))",
)  # fmt: skip
TURNS = (
    "exp(complex(a, l))", "exp(complex(0, j))", "exp(complex(g, j))", "complex(0, 1)",
    "exp(complex(0, 3 * l)) * exp(g)", "exp(complex(0, i))", "exp(complex(h, i))",
)  # fmt: skip
VECTORS = ("k", "n", "(0.3 * p)", "(b * k)", "(-k)", "(w * n)", "l2norm[K](r)", "(0.5 * k)")
KEYS = ("k", "n", "p", "(b * k)", "(w * k)", "j", "(r * l)")
VALUES = ("v", "x", "(z * v)", "(y * b)", "(-v)", "tanh(x)")


@dataclass
class _Step:
    """A step in the making."""

    rng: random.Random
    turning: bool
    lines: list[str] = field(default_factory=list)
    reads: int = 0

    def decay(self) -> None:
        pool = (*DECAYS, *TURNS) if self.turning else DECAYS
        self.lines.append(f"S *= {self.rng.choice(pool)}")

    def update(self) -> None:
        one, other, value = (self.rng.choice(x) for x in (VECTORS, VECTORS, VALUES))
        self.lines.append(
            self.rng.choice(
                [
                    f"S += b * {one} * ({value} - {one} @ S)",
                    f"S -= 0.5 * {other} * ({one} @ S)",
                    f"S += 0.4 * {other} * ({value} + ({one} @ S))",
                ]
            )
        )

    def write(self) -> None:
        key, value, other = (self.rng.choice(x) for x in (KEYS, VALUES, VALUES))
        if self.turning and self.rng.random() < 0.3:
            value = f"complex({value}, {other})"
        self.lines.append(f"S += {key} * {value}")

    def read(self) -> None:
        self.reads += 1
        along, query = "V", self.rng.choice([f"{self.rng.choice(KEYS)} @ S", "q @ S"])
        if self.rng.random() < 0.25:
            along, query = "K", f"S @ {self.rng.choice(VALUES)}"
        if self.turning:
            query = f"{self.rng.choice(['re', 'im'])}({query})"
        self.lines.append(f"output o{self.reads}[{along}] = {query}")

    def text(self) -> str:
        steps = [self.decay, self.decay, self.update, self.update, self.write, self.read]
        for _ in range(self.rng.randint(2, 6)):
            self.rng.choice(steps)()
        self.write()
        self.rng.shuffle(self.lines)
        self.read()
        self.lines.append("output u = sum[K](q) + sum[V](v)")  # both sizes are known
        words = set(re.findall(r"\b\w+\b", " ".join(self.lines)))
        inputs = [x for x in INPUTS if x.split("[")[0].split()[0] in words]
        self.rng.shuffle(inputs)
        state = "state S[K, V]" + (": complex" if self.turning else "")
        lines = [f"input {', '.join(inputs)}", state, *self.lines]
        return "scan drawn:\n" + "".join(f"    {line}\n" for line in lines)


def drawn_state(rng: random.Random) -> str:
    """A spec of one matrix state, complex in two of five."""
    return _Step(rng, rng.random() < 0.4).text()
