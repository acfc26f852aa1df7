"""What a scan in the making has declared: dimensions, tensors, locals, statements.

Nothing is declared before it is used, so that a spec has no unused name, which would be an error.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from tests.fuzz.source import Source

ODD = (  # names that have a meaning in Python, torch or generated modules, and one that is Greek
    "β", "step", "chunk", "d_q", "H", "tokens", "lambda", "out", "parts", "start", "torch", "B",
    "length", "scale", "row",
)  # fmt: skip
FUNCTIONS = {
    "phi": "fn phi(x) = elu(x) + 1",
    "mish": "fn mish(x) = x * tanh(softplus(x))",
    "mix": "fn mix(a, b, s) = s * a + (1 - s) * b",
    "toned": "fn toned[D](x) = x * rsqrt(sum[D](x * x) + 0.1)",
}


@dataclass(frozen=True, slots=True)
class Name:
    """A declared name; `promise` is its range as written.  A `hidden` one is a local by now."""

    text: str
    dims: tuple[str, ...]
    promise: str = ""
    varies: bool = True
    hidden: bool = False


@dataclass
class Scope:
    """One scan in the making."""

    source: Source
    dims: tuple[str, ...]
    lags: bool
    statics: dict[str, int] = field(default_factory=dict)
    tensors: list[Name] = field(default_factory=list)
    locals: list[Name] = field(default_factory=list)
    functions: list[str] = field(default_factory=list)
    scalars: list[str] = field(default_factory=list)
    states: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    outputs: int = 0
    taken: set[str] = field(default_factory=set)

    # ------------------------------------------------------------ names

    def fresh(self, prefix: str) -> str:
        """A name that is not taken; now and then an odd one."""
        odd = [n for n in ODD if n not in self.taken]
        if odd and self.source.chance(7):
            name = self.source.pick(odd)
        else:
            name = next(n for i in range(99) if (n := f"{prefix}{i}") not in self.taken)
        self.taken.add(name)
        return name

    def static(self, name: str, least: int = 2) -> str:
        """A static dimension, declared when it is first used."""
        if name not in self.statics:
            self.statics[name] = self.source.number(least, 3)
        return name

    def ordered(self, dims: frozenset[str] | set[str]) -> tuple[str, ...]:
        """Dimensions in an order that does not depend on hashes."""
        return tuple(d for d in (*self.statics, *self.dims) if d in dims)

    def tensor(self, dims: tuple[str, ...], promise: str = "", param: bool = False) -> str:
        """An input or param with these dimensions and this range: one that is there, or a new."""
        there = [
            n.text
            for n in self.tensors
            if (n.dims, n.promise, n.varies, n.hidden) == (dims, promise, not param, False)
        ]
        if there and self.source.chance(65):
            return self.source.pick(there)
        name = self.fresh("w" if param else "x")
        self.tensors.append(Name(name, dims, promise, not param))
        return name

    def function(self, name: str) -> str:
        """A function of the file, defined when it is first called."""
        if name not in self.functions:
            self.functions.append(name)
        return name

    def scalar(self) -> str:
        """A Python number."""
        if self.scalars and self.source.chance(50):
            return self.source.pick(self.scalars).split(" = ")[0]
        name = self.fresh("c")
        default = self.source.pick(["0.5", "-0.3", f"{self.dims[0]} ** -0.5", "1 / 3"])
        self.scalars.append(f"{name} = {default}")
        return name

    # ------------------------------------------------------------ statements

    def state(self, dims: tuple[str, ...], start: str = "", kind: str = "") -> str:
        """Declare a state."""
        name = self.fresh("S")
        self.states.append(name + written(dims) + kind + (f" = {start}" if start else ""))
        return name

    def output(self, dims: frozenset[str] | set[str], text: str) -> None:
        """An output with these dimensions, in any order."""
        order = tuple(self.source.shuffled(self.ordered(dims)))
        self.lines.append(f"output y{self.outputs}{written(order)} = {text}")
        self.outputs += 1

    def local(self, dims: frozenset[str] | set[str], text: str) -> str:
        """Assign a local that later expressions may use."""
        name = self.fresh("e")
        self.lines.append(f"{name} = {text}")
        self.locals.append(Name(name, self.ordered(dims)))
        return name

    def hide(self, dims: tuple[str, ...], text: str) -> None:
        """Assign an input's name, so that a local hides it; `{}` in the text is the input."""
        name = self.tensor(dims)
        at = next(i for i, n in enumerate(self.tensors) if n.text == name)
        self.tensors[at] = replace(self.tensors[at], hidden=True)
        self.lines.append(f"{name} = {text.format(name)}")
        self.locals.append(Name(name, dims))

    # ------------------------------------------------------------ the text

    def text(self) -> str:
        """The whole file."""
        self._give_sizes()
        head = [f"static {n} = {size}" for n, size in self.statics.items()]
        for keyword, varies in (("input", True), ("param", False)):
            found = [declared(n) for n in self.tensors if n.varies is varies]
            head += [f"{keyword} {', '.join(found)}"] if found else []
        head += [f"scalar {text}" for text in self.scalars]
        head += [f"state {', '.join(self.states)}"] if self.states else []
        functions = [FUNCTIONS[name] for name in self.functions]
        body = ["    " + line for line in (*head, *self.lines)]
        return "\n".join([*functions, *([""] if functions else []), "scan drawn:", *body, ""])

    def _give_sizes(self) -> None:
        """Every dimension has to be that of an input or param; a scan has an input."""
        words = " ".join((*self.lines, *self.states, *self.scalars))
        known = {d for n in self.tensors for d in n.dims}
        for dim in self.dims:
            if dim in words and dim not in known:
                name = self.tensor((dim,))
                self.output(set(), f"sum[{dim}]({name})")
        if not any(n.varies for n in self.tensors):
            self.output(set(), self.tensor(()))
        if not self.outputs:
            self.output(set(), self.tensor(()))


def written(dims: tuple[str, ...]) -> str:
    """Dimensions as a suffix."""
    return f"[{', '.join(dims)}]" if dims else ""


def declared(name: Name) -> str:
    """A tensor as it is declared."""
    return f"{name.text}{written(name.dims)} {name.promise}".strip()
