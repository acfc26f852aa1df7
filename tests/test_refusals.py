"""Which steps have no parallel form of a kind, and what `explain` names as the reason."""

from __future__ import annotations

import re

import pytest

from scandsl.analysis.program import Program
from scandsl.diagnostics import Source
from scandsl.driver import OptionError, Options, plan

INPUTS = {
    "q": "q[K]", "k": "k[K]", "c": "c[K] in (-inf, 0]", "v": "v[V]", "d": "d[V]",
    "g": "g in (-inf, 0]", "x": "x", "y": "y", "z": "z: complex", "a": "a[A]", "b": "b[B]",
    "small": "small[K] in [-0.5, 0]", "steep": "steep[K] in [-40, 0]", "X": "X[K, V]",
    "M": "M[K, J]", "r": "r[D, D']", "e": "e[D]", "i": "i[D]",
}  # fmt: skip


def program(step: str) -> Program:
    """A step's statements between semicolons; a state's declaration comes first."""
    names = set(re.findall(r"\w+", step))
    head = "input " + ", ".join(text for n, text in INPUTS.items() if n in names)
    lines = [head, *(x.strip() for x in step.split(";"))]
    text = "scan s:\n" + "".join(f"    {line}\n" for line in lines)
    return plan(Source("s.scan", text), Options())[1][0].program


def reasons(found: Program) -> list[str]:
    """All that is said of why a form was not taken."""
    out = [found.reason]
    for component in found.components:
        out += [component.reason, *(x.reason for x in component.refused)]
    return out


S, T = "state S[K, V]; ", "state S[K, V]: complex; "
RING = "; ".join(f"A{n} = 0.5 * A{n} + 0.1 * A{(n + 1) % 5} + k * v" for n in range(5))
RINGED = ", ".join(f"A{n}[K, V]" for n in range(5))
DELTA = "; S += k * (v - k @ S); output o[V] = q @ S"
PLAIN = "; S += k * v; output o[V] = q @ S"
# The step, the forms of its components, and words that one of the reasons has.
TABLE: list[tuple[str, list[str], str]] = [
    ("state S[K, A, B, V]; S += k * a * b * v; output o[A, B, V] = q @ S", ["scan"],
     "`S` has 4 dimensions; chunks take up to 3"),
    ("state S[K, A, V]; S += k * a * v; output o[A, V] = q @ S", ["chunk"], "in chunks"),
    (S + "; ".join(f"S += {n} * k * (v - k @ S)" for n in range(2, 11)) + "; output o[V] = q @ S",
     ["chunk"], "in chunks"),
    (S + "; ".join(f"S += {n} * k * (v - k @ S)" for n in range(2, 12)) + "; output o[V] = q @ S",
     ["sequential"], "20 terms enter the state in one step and 11 look at it"),
    (S + "every 4: S *= exp(g); S += k * (v - k @ S); output o[V] = q @ S", ["blocks"],
     "chunks of 4 tokens, from one start of an `every` block to the next"),
    (S + "S += k * (v - k @ S); every 4: S += k * v; output o[V] = q @ S", ["sequential"],
     "depends on an `every` block"),
    (S + "p = k; every 4: p = 2 * k; S += k * (v - p @ S); output o[V] = q @ S", ["sequential"],
     "the probe `p` depends on an `every` block"),
    (S + "p = k; every 4: p = 2 * k; S += p * (v - k @ S); output o[V] = q @ S", ["sequential"],
     "the update `-p` is no vector along the contracted dimension"),
    (S + "S -= k * (k @ S); S -= d * (S @ d); output o[V] = q @ S", ["sequential"],
     "probes along [V], not as the others"),
    (S + "S = 0.5 * S + X; output o[V] = q @ S", ["scan"],
     "the term `X` is no product of a key and a value"),
    (S + "S = 0.5 * S + k * v; output o[J, V] = M @ S", ["scan"],
     "`o` reads with a matrix, not with one query"),
    (S + "S -= k * (k @ S); S += k * v; output o[K, V] = tanh(S)", ["sequential"],
     "the state is read as a whole in"),
    (S + "S -= k * (k @ S); S += k * v; output o = (q * d) @ S", ["sequential"],
     "reads along [K, V], not as the others"),
    (S + "S -= tanh(d) * k * (k @ S); S += k * v; output o[V] = q @ S", ["sequential"],
     "has a strength along [V]"),
    (S + "S -= k * (k @ S); S += k * v; output o[V] = q @ lag(S, 2)", ["sequential"],
     "`lag(S, 2)` looks back at the state"),
    ("state S[K, V]; p[V] = k @ S; S *= exp(-d * d); S -= k * (p - v); output o[V] = q @ S",
     ["sequential"], "differs along [V] and stands between a probe and its update"),
    (S + "p[V] = k @ S; S *= exp(-k * k); S -= k * (p - v); output o[V] = q @ S", ["chunk"],
     "in chunks"),
    (S + "S *= exp(c * d * d); S += k * (v - k @ S); output o[V] = q @ S", ["sequential"],
     "differs along [K, V]"),
    ("state A[K, V], B[K, V]; A = 0.5 * A + d * B + k * v; B = 0.5 * B - A; output o[V] = q @ A",
     ["sequential"], "the coupling `d` with `B` differs along [V]"),
    ("state A[K, V], B[K, V]; A = exp(c) * A + x * B + k * v; B = 0.5 * B - A; "
     "output o[V] = q @ A", ["sequential"],
     "the decay `exp(c)` differs along [K]; states that feed each other take one number"),
    ("state A[K, V], B[K, V]; A = exp(g) * A + x * B + k * v; B = 0.5 * B - A; "
     "output o[V] = q @ A", ["chunk"], "in chunks"),
    (f"state {RINGED}; {RING}; output o[V] = q @ A0", ["sequential"],
     "5 states feed each other; chunks take 4"),
    ("state s; s = where(s > x, 0, s + x); output o = s", ["sequential"],
     "chooses by a condition that depends on the state"),
    ("state s; s = 0.5 * s + x * (s > 1); output o = s", ["sequential"],
     "`s > 1` is not linear in the state"),
    ("state s; s = s * s + x; output o = s", ["sequential"],
     "`s * s` is a product of two values that both depend on the state"),
    ("state s; s = x / (1 + s); output o = s", ["sequential"],
     "is a quotient that holds the state nonlinearly"),
    ("state s; s = tanh(s) + x; output o = s", ["sequential"], "`tanh(s)` is the tanh of a value"),
    ("state h[D]; h = r @ h[D'] + e; output o[D] = h", ["sequential"],
     "dense matrix per token (`r @ h[D']`)"),
    ("state h[D]; param R[D, D']; h = R @ h[D'] + e; output o[D] = h", ["convolution"],
     "constant dense matrix: it mixes all entries"),
    ("state h[D]; param R[D, D']; h = tanh(R @ h[D'] + e); output o[D] = h", ["sequential"],
     "is the tanh of a value that depends on the state"),
    ("state u, w: complex; u = 0.5 * u + re(w) + x; w = 0.5 * w + u; output o = u",
     ["sequential"], "`re(w)` is the re of a value that depends on the state"),
    ("state s: complex; s = z * s + x; output o = re(s)", ["scan"],
     "state `s` is complex, and no matrix"),
    (T + "S = exp(complex(0, q * d)) * S + k * v; output o[V] = re(q @ S)", ["scan"],
     "the angle `q * d` differs along [K, V]"),
    (T + "S *= exp(g); S += k * v; S *= exp(complex(0, q * d)); output o[V] = re(q @ S)", ["scan"],
     "the angle `q * d` differs along [K, V]"),
    (T + "S = (z * z + 1) * S + k * v; output o[V] = re(q @ S)", ["scan"],
     "modulus and angle of `z * z + 1` are not written apart"),
    (T + "S = exp(complex(g, x)) * S + k * v; output o[V] = re(q @ S)", ["chunk"],
     "rotations go to the vectors, by angles summed within a chunk"),
    (T + "p[V] = k @ S; S *= exp(complex(0, d)); S -= k * (p - v); output o[V] = re(q @ S)",
     ["sequential"], "differs along [V]"),
    ("state s; every 4: s = s + x; output o = s", ["scan"],
     "the term `where(every 4, x, 0)` depends on an `every` block"),
    ("state f[D], s[D]; every 4: f = s; s += tanh(lag(e, 1)) - f * e; output o[D] = s",
     ["convolution", "sequential"], "`lag(e, 1)` remembers earlier tokens"),
    ("state f[K, V]: complex, S[K, V]; every 4: f = complex(S, S); S += k * (v - re(k @ f)); "
     "output o[V] = q @ S", ["sequential"], "`f` is complex"),
    ("state m; m = max(m, x); output o = m", ["scan"], "there are no matrix products in"),
    ("state S[K]; S = exp(c) * S + k; output o = q @ S", ["scan"],
     "the decay `exp(c)` is no product of one along each dimension"),
    ("state S[K]; S = exp(g) * S + k; output o = q @ S", ["chunk"], "in chunks"),
    ("state S[K], Z[K, V]; S = exp(g) * S + k; Z = exp(g) * Z + k * v; "
     "output o[V] = (q @ Z) / (1 + (q @ S) ** 2)", ["chunk", "chunk"], "in chunks"),
    ("state A[K, V], B[K, V], P[K, V], S[K, V]; A = tanh(d) * A + k * v; B = exp(g) * B + A; "
     "P = 0.5 * P + k * v; S = exp(g) * S + P; output o[V] = q @ S + q @ B",
     ["scan", "scan", "chunk"], "states that feed each other: tokens in chunks"),
    ("state S[D], T[A]; S = exp(g) * S + 0.1 * sum[A](T) + e; T = 0.5 * T + a * sum[D](S); "
     "output o[D] = S", ["sequential"], "`T` and `S` have different dimensions"),
    ("state u[D], w[D]; u = exp(g) * u + x * w + e; w = 0.5 * w - u; output o[D] = u", ["scan"],
     "each entry by itself"),
    ("state S[K, A, V]; S = exp(-a * a) * S + k * (a * v - k @ S); output o[A, V] = q @ S",
     ["sequential"], "the decay `exp(-a * a)` differs along [A]; this is to come"),
    ("state h[D]: complex; param R[D, D']: complex; h = R @ h[D'] + e; output o[D]: complex = h",
     ["sequential"], "`h` is a complex output"),
    ("state h[D]: complex; param R[D, D']: complex; h = R @ h[D'] + e; output o[D] = re(h)",
     ["convolution"], "powers of its matrix, computed once per call"),
    (S + "S *= exp(g)" + DELTA, ["chunk"],
     "low-rank updates and a decay (scalar): tokens in chunks, by matrix products; decays as sums"),
    (S + "S *= exp(c)" + DELTA, ["chunk"],
     "low-rank updates and a decay (vector along the contracted dimension)"),
    (S + "S *= exp(-d * d)" + DELTA, ["chunk"],
     "low-rank updates and a decay (vector along the free dimension)"),
    (S + "S *= exp(c); S *= exp(-d * d)" + DELTA, ["chunk"],
     "low-rank updates and a decay (vectors along both dimensions)"),
    (S + "S *= 1" + DELTA, ["chunk"], "affine with low-rank updates and no decay: tokens"),
    (S + "S *= exp(c)" + PLAIN, ["chunk"],
     "affine with a decay (vector along the contracted dimension): tokens in chunks"),
    (S + "S *= x" + PLAIN, ["chunk"],
     "(time-varying scalar): tokens in chunks, by matrix products; decays that may be zero or neg"),
    (S + "S *= exp(small)" + PLAIN, ["chunk"],
     "rows are taken to one reference: the logarithms of a step are within 0.5"),
    (S + "S *= exp(steep)" + PLAIN, ["chunk"],
     "along K by halving the chunk: the logarithms of a step reach 40"),
    (S + "S *= exp(c)" + PLAIN, ["chunk"], "no range bounds the logarithms"),
    ("state n; n = exp(g) * n + x; output o = n", ["scan"],
     "with `exp(g)`, each entry of `n` needs a matrix of its own"),
    ("state n, Z[K, V]; n = exp(g) * n + x; Z = exp(g) * Z + k * v; output o[V] = (q @ Z) * n",
     ["chunk", "chunk"], "in chunks"),
]  # fmt: skip


@pytest.mark.parametrize(("step", "forms", "words"), TABLE)
def test_the_form_and_the_reason(step: str, forms: list[str], words: str) -> None:
    found = program(step)
    assert sorted(c.form.value for c in found.components) == sorted(forms), reasons(found)
    assert any(words in reason for reason in reasons(found)), reasons(found)


def test_each_way_to_move_states_together_has_a_reason() -> None:
    """By matrices of rows and columns, and entry by entry."""
    step = "state S[D], T[A]; S = exp(g) * S + 0.1 * sum[A](T) + e; T = 0.5 * T + a * sum[D](S); "
    found = reasons(program(step + "output o[D] = S"))
    assert "`T` and `S` have different dimensions" in found
    assert "block of several states: `T` and `S` have different dimensions" in found


# The form of the whole step, and of the stages of a chain.
STAGES = [
    ("state s: complex, S[K, V]: complex; s = z * s + g; S = exp(complex(g, x)) * S + k * v; "
     "output o[V] = re(q @ S); output p = re(s)", "chain", ["scan", "chunk"]),
    ("state h[D]: complex; param R[D, D']: complex; h = R @ h[D'] + e; output o[D] = re(h)",
     "chain", ["invariant"]),
    ("state h[D]: complex; param R[D, D']: complex; h = R @ h[D'] + e; output o[D]: complex = h",
     "sequential", []),
    ("state h; h = tanh(h + x); output o: complex = z * h", "sequential", []),
    (S + "S = S + k * v; output o[V] = q @ S; output p: complex = z * x", "chain",
     ["map", "chunk"]),
    (S + "S = S + k * v; output o[V] = q @ S; output p = x * x", "chunk", []),
    ("state h; h = tanh(h + x); output o = h; output p: complex = z * x",
     "sequential", []),
    ("state n, h; n = exp(g) * n + x; h = tanh(h + n); output o = h", "chain",
     ["scan", "sequential"]),
    (S + "S = exp(g) * S + k * v; output o[V] = silu(q @ lag(S, 0 + 1))", "chunk", []),
    ("state n, Z[K, V]; n = exp(g) * n + x; Z = exp(n) * Z + k * v; output o[V] = q @ Z",
     "chunk", []),
    ("output o = x * lag(x, 2)", "chain", ["convolution"]),
    ("state u[D], w[D]; u = exp(g) * u + x * w + e; w = 0.5 * w - u; output o[D] = u", "scan", []),
]  # fmt: skip


@pytest.mark.parametrize(("step", "form", "stages"), STAGES)
def test_the_form_of_the_whole(step: str, form: str, stages: list[str]) -> None:
    found = program(step)
    assert found.form.value == form, found.reason
    assert [s.form.value for s in found.stages] == stages


@pytest.mark.parametrize("chunk", [1, 8, 48, 512])
def test_chunks_have_a_power_of_two_of_tokens(chunk: int) -> None:
    with pytest.raises(OptionError, match=f"chunk length {chunk}: expected a power of two from 16"):
        plan(SIMPLE, Options(chunk=chunk))


@pytest.mark.parametrize("chunk", [16, 128, 256])
def test_chunks_of_these_lengths_are_planned(chunk: int) -> None:
    (found,) = plan(SIMPLE, Options(chunk=chunk))[1]
    assert found.chunk == chunk


SIMPLE = Source(
    "s.scan", "scan s:\n    input x\n    state h\n    h = 0.5 * h + x\n    output y = h\n"
)
