"""Renders whole modules: header, what all scans share, and one section per scan.

In: analysed programs and the source they come from.  Out: the text of a Python module that imports
torch only, the same bytes for the same input.
"""

from __future__ import annotations

import hashlib
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import PurePath

from scandsl import __version__
from scandsl.analysis.program import Form
from scandsl.diagnostics import Source
from scandsl.ir.nodes import Recurrence, Value
from scandsl.plan import Plan
from scandsl.plan.launches import digest as launches_digest
from scandsl.render.form import RenderedForm, Site
from scandsl.render.forms import chunk_runtime, forms_of
from scandsl.render.functions import FunctionPrinter, Order, Sized
from scandsl.render.layout import (
    bracketed,
    commented,
    docstring,
    indented,
    signature,
    tuple_assigned,
)
from scandsl.render.lowering import initial_values, lower, whole_step
from scandsl.render.names import Names, PublicNames, argument_name, ascii_name
from scandsl.render.scan import ScanNames, base_names, scan_names
from scandsl.render.shake import shaken
from scandsl.render.tables import scan_table, slices_table, state_lines, state_shape
from scandsl.render.template import fill
from scandsl.render.tidy import tidied
from scandsl.render.torch_printer import Scope, Text, TorchPrinter

_OWNED = "This file belongs to you: generated code carries no licence of the compiler's."

_MODULE_METHODS = frozenset(
    {
        "T_destination", "add_module", "apply", "bfloat16", "buffers", "call_super_init",
        "children",
        "compile", "cpu", "cuda", "double", "dump_patches", "eval", "extra_repr", "float",
        "forward",
        "get_buffer", "get_extra_state", "get_parameter", "get_submodule", "half", "ipu",
        "load_state_dict", "modules", "mtia", "named_buffers", "named_children", "named_modules",
        "named_parameters", "parameters", "register_buffer", "register_module",
        "register_parameter",
        "requires_grad_", "set_extra_state", "set_submodule", "share_memory", "state_dict", "step",
        "to", "to_empty", "train", "training", "type", "xpu", "zero_grad",
    }
)  # fmt: skip


def render_module(plans: Sequence[Plan], source: Source) -> str:
    """The module of a file."""
    public = PublicNames(plan.program.recurrence.name for plan in plans)
    sections = [_Section(plan, source, public) for plan in plans]
    chunked = frozenset(
        f.backend for s in sections for f in s.forms if s.chunked or f.backend == "triton"
    )
    extra_runtime = chunk_runtime(chunked)
    digest = _digest(sections, source, extra_runtime)
    parts = [section.render(digest) for section in sections]
    helpers = frozenset(h for section in sections for h in section.printer.helpers)
    operations = fill("operations", {"helpers": sorted(helpers)}).strip("\n")
    exported = [name for section in sections for name in section.exported()]
    backends = [
        b for b in ("triton", "torch", "reference") if any(b in s.backends for s in sections)
    ]
    text = fill(
        "module",
        {
            "docstring": "\n".join(
                _heading(sections, source, digest, _launch_lines(plans, sections))
            ),
            "header": "\n".join(_header(source)),
            "exported": sorted(exported),
            "backends": ", ".join(f'"{b}"' for b in backends),
            "runtime": _runtime(),
            "operations": operations,
            "extra_runtime": extra_runtime,
            "public": [p.public for p in parts],
            "scans": [p.computed for p in parts],
            "tables": [p.tables for p in parts],
        },
    )
    return tidied(shaken(text)).rstrip("\n") + "\n"


def sites_of(plan: Plan, source: Source) -> tuple[Site, ...]:
    """What can be measured of the launches of one plan of a file."""
    section = _Section(plan, source, PublicNames([plan.program.recurrence.name]))
    return tuple(site for form in section.forms for site in form.sites)


def _runtime() -> str:
    """What every scan uses."""
    return "\n\n\n".join(
        fill(name, {}).strip("\n") for name in ("runtime", "invariant", "ranks", "segments")
    )


def _digest(sections: Sequence[_Section], source: Source, extra_runtime: str) -> str:
    """A hash of the spec, the options and everything that is printed for it."""
    words = [source.text, __version__, extra_runtime, _runtime()]
    words += [
        block for section in sections for f in section.forms for block in (f.source, *f.tables)
    ]
    words += [repr(section.recurrence) for section in sections]
    return hashlib.sha256("\0".join(words).encode()).hexdigest()[:16]


def _launch_lines(plans: Sequence[Plan], sections: Sequence[_Section]) -> list[str]:
    """Which measured launches were baked in, if there are any."""
    sites = {site.structure for s in sections for f in s.forms for site in f.sites}
    used = [x for x in plans[0].launches.entries if x.structure in sites]
    if not used:
        return []
    known = ", ".join(sorted({x.arch for x in used}))
    return [f"Launches measured on {known}; sha256 of their table: {launches_digest(used)}"]


def _heading(
    sections: Sequence[_Section], source: Source, digest: str, more: Sequence[str]
) -> list[str]:
    names = ", ".join(s.names.public for s in sections)
    title = PurePath(source.name).name
    lines = [f"Generated by scandsl {__version__} from {title}.", ""]
    lines += [*textwrap.wrap(f"Scans: {names}.", 96, break_long_words=False), "", _OWNED]
    lines += ["Change the spec and compile again, or change this file and keep it.", ""]
    lines += ["From top to bottom: the spec; what you call; how it is computed, with the"]
    lines += ["lines of the spec as comments; what all scans share; the scans as tables and"]
    lines += ["as operators of torch.", ""]
    lines += [f"sha256 of the spec and of what was made of it: {digest}", *more]
    return docstring("\n".join(lines), 0)


def _header(source: Source) -> list[str]:
    spec = "\n".join("    " + line for line in source.text.strip("\n").split("\n"))
    return ["# The spec:", "#", *commented(spec)]


@dataclass(frozen=True, slots=True)
class _Signature:
    """Names in the order in which functions take them."""

    tensors: tuple[str, ...]
    scalars: tuple[str, ...]

    def call(self) -> str:
        """The tensors as the inside of a tuple."""
        return _inside(self.tensors)


def _inside(items: Sequence[str]) -> str:
    return items[0] + "," if len(items) == 1 else ", ".join(items)


@dataclass(frozen=True, slots=True)
class _Parts:
    """The texts of a scan: what users call, how it is computed, its table and its operator."""

    public: str
    computed: str
    tables: str


class _Section:
    """One scan of the module."""

    def __init__(self, plan: Plan, source: Source, public: PublicNames) -> None:
        self.program = plan.program
        self.recurrence: Recurrence = plan.program.recurrence
        self.names: ScanNames = scan_names(self.recurrence, public)
        self.source = source
        self.lowered = lower(self.recurrence)
        self.printer = FunctionPrinter(self.recurrence.dims, self.names.inner_scalars, self._note())
        self.forms: tuple[RenderedForm, ...] = forms_of(
            plan, self.names, self.lowered, self.printer
        )
        stages = [s.form for s in plan.program.stages] if plan.form is Form.CHAIN else []
        self.chunked = not {Form.CHUNK, Form.SCAN, Form.BLOCKS}.isdisjoint((plan.form, *stages))
        self.backends = (*dict.fromkeys(f.backend for f in self.forms), "reference")
        self.signature = _Signature(
            tuple(self.names.arguments[n] for n in self.recurrence.arguments),
            tuple(self.names.scalars.values()),
        )

    def _note(self) -> Callable[[Value], str | None]:
        """The line of the spec that a value was written in."""
        text = self.source.text

        def note(value: Value) -> str | None:
            if value.span.end <= value.span.start:
                return None
            start = text.rfind("\n", 0, value.span.start) + 1
            end = text.find("\n", value.span.start)
            line = text[start : end if end >= 0 else len(text)].split("#")[0].strip()
            shown = "".join(c if c.isprintable() else " " for c in line)
            return shown if len(shown) <= 88 else shown[:85] + "..."

        return note

    def exported(self) -> list[str]:
        """Public names."""
        names = self.names
        out = [names.public, f"{names.public}_step", f"{names.public}_reference", names.camel]
        return [*out, *([self.state_class] if self.state_class else [])]

    @property
    def state_class(self) -> str | None:
        """The named tuple of the state, if it has several parts."""
        return f"{self.names.camel}State" if len(self.names.state) > 1 else None

    # ------------------------------------------------------------ the section

    def render(self, digest: str) -> _Parts:
        """The texts of the section."""
        names = self.names
        tables: dict[str, object] = {
            "table": "\n\n".join(self._table()),
            "operator": "\n".join(self._operator(digest)),
        }
        computed: dict[str, object] = {
            "public": names.public,
            "scalars": "\n".join(self._scalars()),
            "start": "\n".join(self._start()),
            "naive": "\n".join(self._naive()),
            "forms": [*(f.source.strip("\n") for f in self.forms), *self._slices()],
        }
        return _Parts(
            fill("scan_public", self._public()).strip("\n"),
            fill("scan", computed).strip("\n"),
            fill("scan_tables", tables).strip("\n"),
        )

    def _slices(self) -> list[str]:
        """The functions that compose slices of time."""
        found = [f.slices for f in self.forms if f.slices is not None]
        return [s.source.strip("\n") for s in found if s.source]

    def _table(self) -> list[str]:
        """The declarations of the scan, and those of its stages."""
        own = "\n".join(scan_table(self.names, self.backends, self.state_class))
        slices = (f.slices.tables for f in self.forms if f.slices is not None)
        return [own, *(t for f in self.forms for t in f.tables), *(t for x in slices for t in x)]

    def _public(self) -> dict[str, object]:
        """What the template of the public functions takes."""
        names = self.names
        return {
            "public": names.public,
            "derivation": "\n".join(self._derivation()),
            "state_class": self._state_class(),
            "scan_head": "\n".join(self._scan_head()),
            "scan_doc": "\n".join(indented(docstring(self._scan_doc()))),
            "step_head": "\n".join(self._step_head()),
            "step_doc": "\n".join(indented(docstring(self._step_doc()))),
            "reference_head": "\n".join(self._reference_head()),
            "reference_doc": "\n".join(
                indented(docstring("The naive loop, for torch's autograd."))
            ),
            "reference_call": "\n".join(self._reference_call()),
            "module_class": "\n".join(self._module_class()),
            "given_lines": self._given(),
            "checked_call": "\n".join(self._checked(False)),
            "checked_step": "\n".join(self._checked(True)),
            "table_name": names.table,
            "naive_call": "\n".join(self._naive_call("_naive", 8)),
            "run_call": "\n".join(self._run_call()),
            "step_call": "\n".join(self._naive_call("_one_step", 4)),
            "start_call": "\n".join(self._start_call()),
        }

    def _given(self) -> str:
        return "\n".join(indented(tuple_assigned("given", self.signature.tensors)))

    def _checked(self, step: bool) -> list[str]:
        arguments = [self.names.table, "given", self._scalar_tuple()]
        if step:
            arguments += ["state", "step=True"]
        else:
            arguments += ["initial_state", "cu_seqlens", "backend", "group", "check"]
        name = f"{self.names.public}_step" if step else self.names.public
        lines = bracketed("_refuse_unknown(", [name, "unknown"], ")", 4)
        return indented([*lines, *bracketed("call = _checked(", arguments, ")", 4)])

    def _scalar_tuple(self) -> str:
        return f"({_inside(self.signature.scalars)})" if self.signature.scalars else "()"

    def _naive_call(self, function: str, indent: int) -> list[str]:
        scalars = self._scalar_tuple()
        stem = self.names.private
        arguments = [
            self.names.table,
            f"{stem}_step_values",
            f"{stem}_scalars",
            "given",
            scalars,
            "call",
        ]
        lines = bracketed(f"results = {function}(", arguments, ")", indent)
        return indented(lines, indent // 4)

    def _run_call(self) -> list[str]:
        scalars = self._scalar_tuple()
        arguments = [f"{self.names.table}_OPERATOR", "given", scalars, "call"]
        arguments += ["allow_tf32", "output_final_state"]
        return indented(bracketed("results = _run(", arguments, ")", 8), 2)

    def _start_call(self) -> list[str]:
        """Where the parts of the state that were not given come from."""
        names = self.names
        if self._has_start():
            arguments = ["given", "call.sizes", *self.signature.scalars]
            lines = bracketed(f"values = {names.private}_start(", arguments, ")", 4)
            return indented([*lines, f"call = _started({names.table}, call, values)"])
        if any(p.of for p in names.state):
            return indented([f"call = _started({names.table}, call, {{}})"])
        return []

    def _has_start(self) -> bool:
        return bool(initial_values(self.lowered)[0])

    def _derivation(self) -> list[str]:
        out: list[str] = []
        for component in self.program.components:
            states = ", ".join((*component.states, *component.memories)) or "no state"
            line = f"{states}: {component.transition.value}; {component.form.value} form"
            out += commented(f"{line}: {component.reason}" if component.reason else line)
        return out

    def _state_class(self) -> str:
        if self.state_class is None:
            return ""
        return "\n".join(state_lines(self.names.state, self.state_class))

    # ------------------------------------------------------------ numbers and starts

    def _scalars(self) -> list[str]:
        """A function that fills in the defaults of the scalars."""
        names = self.names
        local = Names({"dim", *names.inner_scalars.values()})
        sized = Sized.of(self.recurrence.dims, local)
        bases = base_names(self.recurrence.dims)

        def leaf(ref: int, value: Value) -> Text | str | None:
            name = getattr(value.op, "name", None)
            if type(value.op).__name__ == "Scalar":
                return Text(names.inner_scalars[str(name)], number=True)
            return None

        body: list[str] = []
        for scalar in self.recurrence.scalars:
            python = names.inner_scalars[scalar.name]
            scope = Scope(leaf, sized.text, "torch.float64", '"cpu"', numeric=True)
            printer = TorchPrinter(self.recurrence.values, scope, local)
            (text,) = printer.emit([scalar.default])
            if not printer.is_number(scalar.default):
                text = f"({text}).item()"
            self.printer.helpers |= printer.helpers
            body.append(f"if {python} is None:")
            body += indented([*printer.lines, f"{python} = {text}"])
        words = "\n".join(body)
        sizes = {
            text: f'{text} = dim["{bases[d]}"]'
            for d, text in sized.text.items()
            if not text.isdigit() and _mentions(words, text)
        }
        parameters = ["dim: dict[str, int]"]
        parameters += [f"{s}: float | None" for s in names.inner_scalars.values()]
        head = signature(f"{names.private}_scalars", parameters, "tuple[float, ...]")
        doc = docstring("The scalars, their defaults filled in.")
        floats = [f"float({s})" for s in names.inner_scalars.values()]
        result = f"return ({_inside(floats)})" if len(floats) == 1 else f"return {_inside(floats)}"
        return [*head, *indented([*doc, *sizes.values(), *body, result if floats else "return ()"])]

    def _start(self) -> list[str]:
        """Functions for initial values that are not zero."""
        states, stage = initial_values(self.lowered)
        if not states:
            return []
        names, stem = self.names, self.names.private
        printed = self.printer.forward(
            f"{stem}_initial", "Initial values that are not zero.", stage, None, autograd=True
        )
        places = {n: i for i, n in enumerate(self.recurrence.arguments)}
        arguments = []
        for leaf in dict.fromkeys(n for n, _ in stage.leaves):
            index = places[leaf]
            arguments.append(f"_argument({names.table}.tensors[{index}], given[{index}], sizes)")
        inside = Sized.of(
            self.recurrence.dims, Names({*names.inner_scalars.values(), "t", "like"})
        ).text
        bases = base_names(self.recurrence.dims)
        sizes = {text: f'sizes.dim["{bases[d]}"]' for d, text in inside.items()}
        scalars = list(names.inner_scalars.values())
        for extra in printed.extras:
            if extra in scalars:
                arguments.append(f"numbers[{scalars.index(extra)}]")
            elif extra == "like":
                arguments.append("given[0].new_empty((), dtype=sizes.dtype)")
            else:
                arguments.append(sizes[extra])
        parameters = ["given: Sequence[Tensor]", "sizes: _Sizes"]
        parameters += [f"{s}: float | None" for s in scalars]
        head = signature(f"{stem}_start", parameters, "dict[str, Tensor]")
        body = [*docstring("Initial values that are not zero, by name.")]
        if any(extra in scalars for extra in printed.extras):
            call = ["sizes.dim", *scalars]
            body += bracketed(f"numbers = {stem}_scalars(", call, ")", 4)
        body += bracketed(f"values = {printed.name}(", arguments, ")", 4)
        keys = ", ".join(f'"{s}"' for s in states)
        comma = "," if len(states) == 1 else ""
        body.append(f"return dict(zip(({keys}{comma}), values, strict=True))")
        return [*printed.lines, "", "", *head, *indented(body)]

    def _naive(self) -> list[str]:
        """The whole step in one function."""
        stage = whole_step(self.lowered)
        parts = [p.name for p in self.lowered.parts]
        printed = self.printer.forward(
            f"{self.names.private}_step_values",
            "One step of the spec: outputs, then the carried parts.",
            stage,
            Order(late=frozenset(parts), forced=True),
            autograd=True,
            full={f"next {p}": p for p in parts},
        )
        return list(printed.lines)

    # ------------------------------------------------------------ the operator

    def _operator(self, digest: str) -> list[str]:
        names = self.names
        lines = [f"{names.table}_OPERATOR = _Operator("]
        lines.append(f"    scan={names.table},")
        lines.append(f"    scalars={names.private}_scalars,")
        lines.append("    forms={")
        for form in self.forms:
            head, tail = "_Form(", "),"
            if form.segmented:
                head, tail = "_Segmented(", ").form(),"
            lines.append(f'        "{form.backend}": {head}')
            table = [names.table] if form.segmented else []
            functions = (*table, form.forward, form.backward, form.saved_shapes)
            lines += [f"            {f}," for f in functions]
            if form.slices is not None:
                lines += indented(slices_table(form.slices), 3)
            lines.append(f"        {tail}")
        lines.append("    },")
        lines.append(f"    saved={max(f.saved_count for f in self.forms)},")
        lines.append(f'    name="{ascii_name(names.public, "scan")}_{digest}",')
        return [*lines, ")"]

    # ------------------------------------------------------------ public functions

    def _state_type(self) -> str:
        return self.state_class or "Tensor"

    def _result_type(self) -> str:
        outputs = ["Tensor"] * len(self.recurrence.outputs)
        return f"tuple[{', '.join([*outputs, f'{self._state_type()} | None'])}]"

    def _scan_head(self) -> list[str]:
        parameters = [f"{t}: Tensor" for t in self.signature.tensors]
        parameters += [f"{s}: float | None = None" for s in self.signature.scalars]
        parameters += [
            f"initial_state: {self._state_type()} | None = None",
            "output_final_state: bool = False",
            "cu_seqlens: Tensor | None = None",
            "backend: str | None = None",
            "group: Any = None",
            "check: bool = False",
            "allow_tf32: bool = False",
            "**unknown: Any",
        ]
        return signature(self.names.public, parameters, self._result_type())

    def _step_head(self) -> list[str]:
        parameters = [f"{t}: Tensor" for t in self.signature.tensors]
        parameters.append(f"state: {self._state_type()} | None = None")
        parameters += [f"{s}: float | None = None" for s in self.signature.scalars]
        parameters.append("**unknown: Any")
        outputs = ["Tensor"] * len(self.recurrence.outputs)
        result = f"tuple[{', '.join([*outputs, self._state_type()])}]"
        return signature(f"{self.names.public}_step", parameters, result)

    def _reference_head(self) -> list[str]:
        parameters = [f"{t}: Tensor" for t in self.signature.tensors]
        parameters += [f"{s}: float | None = None" for s in self.signature.scalars]
        parameters += [
            f"initial_state: {self._state_type()} | None = None",
            "output_final_state: bool = False",
            "cu_seqlens: Tensor | None = None",
            "check: bool = False",
            "**unknown: Any",
        ]
        return signature(f"{self.names.public}_reference", parameters, self._result_type())

    def _reference_call(self) -> list[str]:
        name = f"{self.names.public}_reference"
        lines = bracketed("_refuse_unknown(", [name, "unknown"], ")", 4)
        arguments = [*self.signature.tensors, *(f"{s}={s}" for s in self.signature.scalars)]
        arguments += [f"{n}={n}" for n in ("initial_state", "output_final_state", "cu_seqlens")]
        arguments += ['backend="reference"', "check=check"]
        lines += bracketed(f"return {self.names.public}(", arguments, ")", 4)
        return indented(lines)

    def _scan_doc(self) -> str:
        lines = [self.recurrence.doc.strip() or f"The scan `{self.recurrence.name}`.", "", "Args:"]
        for tensor in self.names.tensors:
            lead = "B, T, H" if self.names.is_input(tensor.name) else "H"
            dims = "".join(f", {d}" for d in tensor.dims)
            lines.append(f"    {self.names.arguments[tensor.name]}: [{lead}{dims}]")
        lines += [f"    {s}: a number, or None for its default" for s in self.signature.scalars]
        state = ", ".join(f"{p.name} {state_shape(p)}" for p in self.names.state) or "nothing"
        lines += [
            f"    initial_state: {state}; or None to start as declared",
            "    output_final_state: whether to return the state behind the last token",
            "    cu_seqlens: [N + 1] offsets of N sequences packed along T, with B = 1",
            f"    backend: one of {', '.join(self.backends)}",
            "    group: a group of torch.distributed; each rank passes its slice of time",
            "    check: verify the declared ranges and `cu_seqlens`; this looks at values",
            "    allow_tf32: let float32 products use tf32",
            "",
            "A tensor may have fewer heads than the largest one, if their number divides it.",
            "Autocast is switched off inside: mixed dtypes are taken as they come.",
            "",
            "Returns:",
        ]
        for output in self.recurrence.outputs:
            dims = "".join(f", {d}" for d in output.dims)
            lines.append(f"    {output.name}: [B, T, H{dims}]")
        renamed = [
            f"`{old}` is called `{new}`"
            for old, new in {**self.names.arguments, **self.names.scalars}.items()
            if old != new
        ]
        lines.append("    the final state, or None")
        if renamed:
            lines += ["", f"Renamed, because the name is taken in Python: {', '.join(renamed)}."]
        return "\n".join(lines)

    def _step_doc(self) -> str:
        return (
            f"One token of `{self.names.public}`, for decoding.\n\n"
            "Inputs are [B, H, ...]; the state is what the scan or the last step returned,\n"
            "or None to start. Returns the outputs, then the state behind this token."
        )

    # ------------------------------------------------------------ the module class

    def _module_class(self) -> list[str]:
        names = self.names
        inputs = [n for n in self.recurrence.arguments if names.is_input(n)]
        params = [n for n in self.recurrence.arguments if not names.is_input(n)]
        attribute = {p: self._attribute(names.arguments[p]) for p in params}
        local = [
            names.arguments[n] if n in inputs else f"self.{attribute[n]}"
            for n in self.recurrence.arguments
        ]
        lines = [f"class {names.camel}(torch.nn.Module):"]
        what = "and holds its params" if params else "it has no params"
        lines += indented(docstring(f"`{names.public}` as a module: {what}."))
        lines.append("")
        if params:
            lines += indented(self._init(params, attribute))
            lines.append("")
        parameters = ["self", *(f"{names.arguments[n]}: Tensor" for n in inputs), "**options: Any"]
        lines += indented(signature("forward", parameters, self._result_type(), 4))
        doc = docstring(f"All tokens; `options` are those of `{names.public}`.", 8)
        call = bracketed(f"return {names.public}(", [*local, "**options"], ")", 8)
        lines += indented([*doc, *call], 2)
        lines.append("")
        lines += indented(signature("step", parameters, "tuple[Any, ...]", 4))
        doc = docstring(f"One token; `options` are those of `{names.public}_step`.", 8)
        call = bracketed(f"return {names.public}_step(", [*local, "**options"], ")", 8)
        return [*lines, *indented([*doc, *call], 2)]

    def _attribute(self, name: str) -> str:
        return f"{name}_" if name in _MODULE_METHODS else name

    def _init(self, params: Sequence[str], attribute: dict[str, str]) -> list[str]:
        names = self.names
        bases = base_names(self.recurrence.dims)
        static = {d.name: d.size for d in self.recurrence.dims if d.size is not None}
        tensors = {t.name: t for t in names.tensors}
        used = dict.fromkeys(bases[d] for p in params for d in tensors[p].dims)
        local = Names({"self", "device", "dtype", *names.arguments.values()})
        heads, table = local.fresh("heads"), local.fresh("sizes")
        size_name = {d: local.fresh(argument_name(d)) for d in used if d not in static}
        parameters = ["self", f"{heads}: int", *(f"{n}: int" for n in size_name.values())]
        parameters += [f"{names.arguments[p]}: Any = None" for p in params]
        parameters += ["device: Any = None", "dtype: Any = None"]
        entries = [f'"{d}": {size_name.get(d, static.get(d))}' for d in used]
        body = ["super().__init__()", *bracketed(f"{table} = {{", entries, "}", 8)]
        places = {n: i for i, n in enumerate(self.recurrence.arguments)}
        for param in params:
            field = f"{names.table}.tensors[{places[param]}]"
            arguments = [field, names.arguments[param], heads, table, "device", "dtype"]
            body += bracketed(f"self.{attribute[param]} = _parameter(", arguments, ")", 8)
        return [*signature("__init__", parameters, "None", 4), *indented(body)]


def _mentions(text: str, name: str) -> bool:
    """Whether a name occurs as a word."""
    words = "".join(c if c.isalnum() or c == "_" else " " for c in text).split()
    return name in words
