"""Everything that needs a GPU, in one command: `python benchmarks/gpu.py`.

Compiles the examples, compares every Triton kernel with the reference interpreter and, at large
shapes, with the torch backend in float64, each call twice for the same bits; then times forward and
forward with backward at the standard shapes beside flash-linear-attention (if it is there), the
torch backend and the loop.  Prints short tables, writes JSON after every result.  Exit status 1 if
anything is wrong; without a GPU it says so and ends with 0.

The work is done by other processes (`gpu_tasks.py`), so that a kernel that takes its process down
costs one result.  Needs torch, triton and the compiler's own dependencies sympy, jinja2 and lark.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

import scandsl
from benchmarks.common import ROOT, environment, number, show, version, write_json
from scandsl.bench.peers import PEERS
from scandsl.bench.suites import PACKED, SUITES
from scandsl.driver import check
from scandsl.loader import read_source

MARK = "@result "
WORKER = Path(__file__).with_name("gpu_tasks.py")
GRACE = 15.0  # seconds that a task in flight may go on behind the budget
LIMIT = 120.0  # seconds for a task that sets none
FOREIGN = ("fla", "compiled reference")  # not ours: what fails there is told, but is not wrong
Task = dict[str, Any]
Result = dict[str, Any]

# The standard shapes (B, T, H, D), bfloat16; one more is packed.
SHAPES = tuple((x.batch, x.time, x.heads, x.size) for x in SUITES["gpu"][1] if not x.lengths)

# What a stage may use: no task of it starts behind this part of the budget.  A stage that stands
# here twice goes on where it stopped.
SCHEDULE = (
    ("core", 0.33),
    ("large", 0.43),
    ("more", 0.50),
    ("time", 0.78),
    ("kernels", 0.82),
    ("peer", 0.90),
    ("torch", 0.93),
    ("large", 0.95),
    ("more", 0.99),
)
PARALLEL = ("core", "more")


def main() -> int:
    """Run all stages, print, write; the exit status."""
    options = _options()
    if not options.dry and not torch.cuda.is_available():
        print("no GPU here: nothing to measure (--dry runs the comparisons on the CPU)")
        return 0
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    session = _Session(options)
    try:
        session.compile()
        session.run(_stages(session.scans, options))
    except KeyboardInterrupt:
        print("interrupted: writing what there is")
    finally:
        session.close()
    return session.report()


def _options() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--budget", type=float, default=420.0, help="seconds for everything")
    p.add_argument("--out", type=Path, help="folder of the JSON; default $OUT, else results/")
    p.add_argument("--workers", type=int, help="processes that compare at the same time")
    p.add_argument("--only", action="append", default=[], help="an example's name; repeatable")
    p.add_argument("--stages", help=f"comma-separated, of {', '.join(_stage_names())}")
    p.add_argument("--dry", action="store_true", help="tiny shapes on the CPU, interpreted")
    options = p.parse_args()
    if options.out is None:
        given = os.environ.get("OUT")
        options.out = Path(given) if given else ROOT / "benchmarks" / "results"
    if options.workers is None:
        options.workers = 1 if options.dry else max(1, min(12, (os.cpu_count() or 2) * 3 // 4))
    return options


def _stage_names() -> list[str]:
    return list(dict.fromkeys(name for name, _ in SCHEDULE))


# ---------------------------------------------------------------- tasks


def _stages(scans: Sequence[Task], options: argparse.Namespace) -> dict[str, list[Task]]:
    """The tasks of every stage, the most telling first."""
    stages = _dry_stages(scans) if options.dry else _device_stages(scans)
    chosen = options.stages.split(",") if options.stages else _stage_names()
    return {name: tasks if name in chosen else [] for name, tasks in stages.items()}


def _device_stages(scans: Sequence[Task]) -> dict[str, list[Task]]:
    return {
        "core": list(_small(scans, CORE)),
        "more": list(_small(scans, MORE)),
        "large": list(_large(scans)),
        "time": list(_times(scans, "triton", "time")),
        "kernels": list(_kernels(scans)),
        "peer": list(_times(_with_peer(scans), "fla", "peer")),
        "torch": list(_torch(scans)),
    }


def _with_peer(scans: Sequence[Task]) -> list[Task]:
    """Those that flash-linear-attention computes too, if it is there."""
    known = {p.scan for p in PEERS if p.package == "fla"}
    there = importlib.util.find_spec("fla") is not None
    return [s for s in scans if there and s["scan"] in known]


CORE: tuple[Task, ...] = (
    {"label": "T130 128/128", "B": 2, "T": 130, "H": 2, "K": 128, "V": 128},
    {"label": "packed, groups, state, 128/128", "lengths": [1, 67, 0, 16, 128], "K": 128,
     "V": 128, "groups": [4, 1, 2], "carried": True},
    {"label": "T67 60/100", "B": 1, "T": 67, "H": 2, "K": 60, "V": 100},
)  # fmt: skip
MORE: tuple[Task, ...] = (
    {"label": "T100 256/256, state", "B": 1, "T": 100, "H": 1, "K": 256, "V": 256, "carried": True},
    {"label": "T130 64/64", "B": 2, "T": 130, "H": 2, "K": 64, "V": 64},
    {"label": "T15 1/3", "B": 2, "T": 15, "H": 2, "K": 1, "V": 3},
    {"label": "T1 16/16, state", "B": 2, "T": 1, "H": 1, "K": 16, "V": 16, "carried": True},
    {"label": "T257 128/64", "B": 1, "T": 257, "H": 1, "K": 128, "V": 64},
    {"label": "T64 64/256", "B": 1, "T": 64, "H": 3, "K": 64, "V": 256},
    {"label": "all share one head, 100/60", "B": 2, "T": 65, "K": 100, "V": 60,
     "groups": [1, 4, 1]},
    {"label": "packed 3/129", "lengths": [63, 0, 0, 65, 1], "H": 2, "K": 3, "V": 129},
)  # fmt: skip


def _small(scans: Sequence[Task], cases: Iterable[Task]) -> Iterator[Task]:
    for case in cases:
        for dtype in ("bfloat16", "float32", "float16"):
            for scan in scans:
                yield {"kind": "compare", "dtype": dtype, **scan, **case}


def _large(scans: Sequence[Task]) -> Iterator[Task]:
    wide = {"B": 2, "T": 8192, "H": 16, "K": 128, "V": 128}
    packed = {"B": 1, "T": sum(PACKED), "H": 8, "K": 128, "V": 128, "lengths": list(PACKED)}
    broad = {"B": 2, "T": 2048, "H": 16, "K": 256, "V": 256}
    # more than 2**31 elements in a tensor
    far = {"B": 5, "T": 65536, "H": 64, "K": 128, "V": 128, "gigabytes": 100}
    first, rest = list(scans[:1]), list(scans[1:])
    plans = [
        *((s, wide, "bfloat16") for s in scans),
        *((s, packed, "bfloat16") for s in first),
        *((s, wide, "float32") for s in first),
        *((s, far, "bfloat16") for s in first),
        *((s, broad, "bfloat16") for s in first),
        *((s, wide, "float16") for s in first),
        *((s, packed, "bfloat16") for s in rest),
        *((s, broad, "bfloat16") for s in rest),
        *((s, wide, "float32") for s in rest),
        *((s, wide, "float16") for s in rest),
    ]
    for scan, shape, dtype in plans:
        label = _label(shape, dtype)
        yield {"kind": "large", "dtype": dtype, "label": label, "limit": 90, **scan, **shape}


def _times(scans: Sequence[Task], what: str, stage: str) -> Iterator[Task]:
    """All shapes for the first scan, then the rest, the most telling shapes first."""
    if stage == "time":
        yield {"kind": "bandwidth", "bytes": 1 << 32, "label": "copy", "scan": "", "file": ""}
    shapes = [_shape(*s) for s in SHAPES]
    packed = {"B": 1, "T": sum(PACKED), "H": 16, "K": 128, "V": 128, "lengths": list(PACKED)}
    pairs = [(s, shape) for s in scans[:1] for shape in (*shapes, packed)]
    pairs += [(s, shape) for shape in (*shapes, packed) for s in scans[1:]]
    for scan, shape in pairs:
        yield _time(scan, shape, what)
    if stage == "time":
        for dtype in ("float16", "float32"):
            yield from (_time(scan, shapes[3], what, dtype) for scan in scans)


def _time(scan: Task, shape: Task, what: str, dtype: str = "bfloat16") -> Task:
    label = _label(shape, dtype)
    return {
        "kind": "time", "what": what, "dtype": dtype, "label": label, "limit": 60, **scan, **shape
    }  # fmt: skip


def _torch(scans: Sequence[Task]) -> Iterator[Task]:
    """Against what torch has: the chunks in tensor operations, and the loop, at short lengths."""
    for what, time_ in (("torch", 2048), ("reference", 256), ("triton", 256)):
        yield from (_time(scan, _shape(4, time_, 16, 128), what) for scan in scans[:1])
    for what in ("compiled reference", "triton"):
        yield from (_time(scan, _shape(4, 32, 16, 128), what) for scan in scans[:1])
    yield from (_time(scan, _shape(4, 2048, 16, 128), "torch") for scan in scans[1:])


def _kernels(scans: Sequence[Task]) -> Iterator[Task]:
    for scan in scans:
        shape = _shape(4, 4096, 64, 128)
        yield {"kind": "profile", "dtype": "bfloat16", "label": _label(shape), **scan, **shape}


def _dry_stages(scans: Sequence[Task]) -> dict[str, list[Task]]:
    """One of each kind, as small as they come; all scans at the first case."""
    tiny = {"B": 1, "T": 18, "H": 2, "K": 3, "V": 16}
    packed = {"B": 1, "T": 20, "H": 4, "K": 16, "V": 5, "lengths": [1, 0, 19]}
    case = {"label": "packed", "groups": [4, 1, 2], "carried": True, **packed}
    first = scans[:1]
    return {
        "core": [
            *({"kind": "compare", "dtype": "float32", "label": "tiny", **s, **tiny} for s in scans),
            *({"kind": "compare", "dtype": "bfloat16", **s, **case} for s in first),
        ],
        "large": [
            *({"kind": "large", "dtype": "float32", "label": "x", **s, **packed} for s in first),
            *({"kind": "large", "dtype": "bfloat16", "label": "y", **s, **tiny} for s in first),
        ],
        "more": [],
        "time": [
            {"kind": "bandwidth", "bytes": 1 << 20, "label": "copy", "scan": "", "file": ""},
            *(_time(s, tiny, "triton") for s in first),
        ],
        "kernels": [{"kind": "profile", "dtype": "float32", "label": "z", **s, **tiny}
                    for s in first],
        "peer": [_time(s, tiny, "fla") for s in first] if importlib.util.find_spec("fla") else [],
        "torch": [_time(s, tiny, what) for s in first for what in ("torch", "reference")],
    }  # fmt: skip


def _shape(batch: int, tokens: int, heads: int, size: int) -> Task:
    return {"B": batch, "T": tokens, "H": heads, "K": size, "V": size}


def _label(shape: Task, dtype: str = "bfloat16") -> str:
    words = "×".join(str(shape[k]) for k in "BTHK")
    words += f"/{shape['V']}" if shape["V"] != shape["K"] else ""
    words += " packed" if shape.get("lengths") else ""
    return words if dtype == "bfloat16" else f"{words} {dtype}"


# ---------------------------------------------------------------- running


@dataclass
class _Session:
    """What has been found so far, and the processes that find more."""

    options: argparse.Namespace
    start: float = field(default_factory=time.monotonic)
    scans: list[Task] = field(default_factory=list)
    results: list[Result] = field(default_factory=list)
    compiled: list[Result] = field(default_factory=list)
    workers: list[_Worker] = field(default_factory=list)
    left: dict[str, int] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def elapsed(self) -> float:
        return time.monotonic() - self.start

    def compile(self) -> None:
        """Compile every example; keep the scans that have Triton kernels."""
        for path in sorted((ROOT / "examples").glob("*.scan")):
            if self.options.only and path.stem not in self.options.only:
                continue
            file = str(path.relative_to(ROOT))
            begin = time.monotonic()
            try:
                module = scandsl.load(path)
                names = [r.name for r in check(read_source(path)).recurrences]
            except Exception as error:
                self.compiled.append({"file": file, "ok": False, "failure": repr(error)[:600]})
                continue
            self.compiled.append({"file": file, "ok": True, "seconds": time.monotonic() - begin})
            if "triton" in getattr(module, "BACKENDS", ()):
                self.scans += [{"file": file, "scan": name} for name in names]
        known = ("simple_gla", "linear_attention", "mamba2", "retnet")  # tried in this order
        self.scans.sort(key=lambda s: known.index(s["scan"]) if s["scan"] in known else len(known))
        words = ", ".join(s["scan"] for s in self.scans)
        self._say(f"compiled {len(self.compiled)} examples; with Triton kernels: {words}")

    def run(self, stages: Mapping[str, list[Task]]) -> None:
        """All stages in the order of the schedule, each within its part of the budget."""
        waiting = {name: deque(tasks) for name, tasks in stages.items()}
        for name, part in SCHEDULE:
            if not waiting[name]:
                continue
            deadline = part * self.options.budget
            if self.elapsed() < deadline:
                many = self.options.workers if name in PARALLEL else 1
                self._stage(name, waiting[name], deadline, min(many, len(waiting[name])))
            self.left[name] = len(waiting[name])
            rest = f", {self.left[name]} not started" if self.left[name] else ""
            done = sum(r["stage"] == name for r in self.results)
            wrong = sum(r.get("stage") == name for r in self.wrong())
            self._say(f"{name}: {done} done, {wrong} wrong{rest}")

    def _stage(self, name: str, tasks: deque[Task], deadline: float, count: int) -> None:
        while len(self.workers) > count:
            self.workers.pop().close()
        while len(self.workers) < count:
            self.workers.append(_Worker(self.options.dry))
        threads = [
            threading.Thread(target=self._serve, args=(w, name, tasks, deadline), daemon=True)
            for w in self.workers
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _serve(self, worker: _Worker, stage: str, tasks: deque[Task], deadline: float) -> None:
        while self.elapsed() < deadline:
            try:
                task = tasks.popleft()
            except IndexError:
                return
            own = task.get("limit", LIMIT)
            limit = min(own, self.options.budget + GRACE - self.elapsed())
            result = worker.ask(task, limit)
            if result.get("late") and limit < own:  # the budget's fault, not the task's
                result = {**result, "ok": True, "skipped": "the budget ended"}
            with self.lock:
                self.results.append({"stage": stage, **task, **result})
                if not result["ok"]:
                    found = self.results[-1]
                    head = "failed" if _foreign(found) else "WRONG"
                    self._say(f"{head}: {_where(found)}: {_what(found)[:300]}")
                self.write()

    def close(self) -> None:
        """End the processes and write."""
        for worker in self.workers:
            worker.close()
        with self.lock:
            self.write()

    def write(self) -> None:
        """All that is known, into one file."""
        name = "gpu-dry.json" if self.options.dry else "gpu.json"
        content = {
            **environment(), "fla": version("flash-linear-attention") or version("fla-core"),
            "driver": _driver(), "budget": self.options.budget, "seconds": self.elapsed(),
            "not_started": self.left, "wrong": [_where(r) for r in self.wrong()],
            "compiled": self.compiled, "results": self.results,
        }  # fmt: skip
        write_json(self.options.out / name, content)

    def wrong(self) -> list[Result]:
        """Whatever failed and is ours."""
        return [r for r in (*self.compiled, *self.results) if not r["ok"] and not _foreign(r)]

    def report(self) -> int:
        """Print the tables, what is wrong before anything else; the exit status."""
        wrong = self.wrong()
        if wrong:
            print(f"\nWRONG: {len(wrong)}")
            for r in wrong[:40]:
                print(f"  {_where(r)}: {_what(r)}")
        _show_errors(self.results)
        _show_times(self.results)
        _show_kernels(self.results)
        for r in self.results:
            if r.get("off", 0.0) > 0.02:
                print(f"{_where(r)}: its output is {r['off']:.1e} from ours")
            if r.get("skipped") or (not r["ok"] and _foreign(r)):
                print(f"not measured: {_where(r)}: {r.get('skipped') or _what(r)}")
        failed = f"{len(wrong)} wrong" if wrong else "nothing wrong"
        left = sum(self.left.values())
        print(f"\n{len(self.results)} results, {failed}, {left} tasks not started")
        print(f"written: {self.options.out}/gpu{'-dry' * self.options.dry}.json", flush=True)
        return 1 if wrong else 0

    def _say(self, words: str) -> None:
        print(f"[{self.elapsed():5.0f} s] {words}", flush=True)


def _driver() -> str | None:
    for path in ("/proc/driver/nvidia/version", "/sys/module/nvidia/version"):
        if Path(path).is_file():
            return Path(path).read_text().splitlines()[0].strip()
    return None


class _Worker:
    """A process that answers tasks; it is started again when it dies."""

    def __init__(self, dry: bool) -> None:
        self.dry = dry
        self.process: subprocess.Popen[str] | None = None
        self.errors = tempfile.TemporaryFile(  # noqa: SIM115 - open as long as the worker lives
            mode="w+", encoding="utf-8", errors="replace"
        )

    def ask(self, task: Task, limit: float) -> Result:
        """The answer to a task, or how the process ended instead."""
        process = self._started()
        assert process.stdin is not None
        timer = threading.Timer(max(limit, 1.0), process.kill)
        begin = time.monotonic()
        timer.start()
        try:
            process.stdin.write(json.dumps(task) + "\n")
            process.stdin.flush()
            answer = self._answer(process)
        except OSError:
            answer = None
        finally:
            timer.cancel()
        if answer is None:
            late = time.monotonic() - begin >= limit
            words = f"stopped after {limit:.0f} s" if late else f"the process died: {self._tail()}"
            self.close()
            return {"ok": False, "failure": words, "late": late, "seconds": limit}
        if answer.get("broken"):
            self.close()
        return answer

    def _started(self) -> subprocess.Popen[str]:
        if self.process is None or self.process.poll() is not None:
            extra = {"SCANDSL_DRY": "1", "TRITON_INTERPRET": "1"} if self.dry else {}
            self.process = subprocess.Popen(
                [sys.executable, str(WORKER)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors,
                text=True, env={**os.environ, "OMP_NUM_THREADS": "1", **extra},
            )  # fmt: skip
        return self.process

    def _answer(self, process: subprocess.Popen[str]) -> Result | None:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith(MARK):
                answer: Result = json.loads(line[len(MARK) :])
                return answer
        return None

    def _tail(self) -> str:
        self.errors.seek(0, os.SEEK_END)
        self.errors.seek(max(0, self.errors.tell() - 4000))
        lines = [line.strip() for line in self.errors.read().splitlines() if line.strip()]
        return " | ".join(lines[-4:])[:600]

    def close(self) -> None:
        """End the process."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            for stream in (self.process.stdin, self.process.stdout):
                if stream is not None:
                    try:
                        stream.close()
                    except OSError:
                        continue
            self.process = None


# ---------------------------------------------------------------- printing


def _where(r: Mapping[str, Any]) -> str:
    words = (r.get("scan") or r.get("file", ""), r.get("what", ""), r.get("label", ""))
    return " ".join(w for w in (*words, r.get("dtype", "")) if w)


def _foreign(r: Mapping[str, Any]) -> bool:
    return r.get("what") in FOREIGN


def _what(r: Mapping[str, Any]) -> str:
    if r.get("failure"):
        return str(r["failure"])
    off = [
        f"{v['role']} `{v['tensor']}` {float(v['error']):.1e} > {v['bound']:.1e}"
        for v in r.get("verdicts", ())
        if not v["error"] <= v["bound"]
    ]
    if r.get("differs"):
        off.append("other bits in a second call: " + ", ".join(r["differs"]))
    return "; ".join(off)


def _show_errors(results: Sequence[Result]) -> None:
    """Of each scan and dtype how many comparisons passed, and the worst part of a bound used."""
    groups: dict[tuple[str, str, str], list[Result]] = {}
    for r in results:
        if r["kind"] in ("compare", "large"):
            groups.setdefault((r["scan"], r["dtype"], r["kind"]), []).append(r)
    rows = []
    for (scan, dtype, kind), found in groups.items():
        passed = [r for r in found if r["ok"] and not r.get("skipped")]
        cells = []
        for gradient in (False, True):
            used = [
                (float(v["error"]) / v["bound"], v)
                for r in found
                for v in r.get("verdicts", ())
                if ("gradient" in v["role"]) is gradient
            ]
            worst = max(used, key=lambda pair: pair[0], default=None)
            cells.append(
                "-" if worst is None
                else f"{float(worst[1]['error']):.1e} {worst[1]['tensor']} {worst[0]:.0%}"
            )  # fmt: skip
        against = "interpreter" if kind == "compare" else "torch float64"
        rows.append([scan, dtype, against, f"{len(passed)}/{len(found)}", *cells])
    if rows:
        columns = ("scan", "dtype", "against", "passed", "values: worst", "gradients: worst")
        show("relative RMS errors (and part of what is allowed)", columns, rows)


def _show_times(results: Sequence[Result]) -> None:
    """Milliseconds, how many times the floor, and the peers' times over ours."""
    copy = next((r for r in results if "bytes_per_ms" in r), None)
    speed = float(copy["bytes_per_ms"]) if copy else None
    timed = [r for r in results if r["kind"] == "time" and "both" in r]
    ours = {(r["scan"], r["label"]): r for r in timed if r["what"] == "triton"}
    rows = []
    for r in timed:
        mine = ours.get((r["scan"], r["label"]))
        row = [r["scan"], r["label"], r["what"]]
        for i, way in enumerate(("fwd", "both")):
            now = r[way]["median"]
            floor = now / (r["bytes"][i] / speed) if speed else None
            ratio = now / mine[way]["median"] if mine and r is not mine else None
            row += [number(now), number(floor, 2), number(ratio, 2)]
        rows.append([*row, number(r["fwd"]["host"]), number(r["both"]["host"])])
    if speed:
        print(f"\ncopy: {speed / 1e9:.2f} TB/s")
    if rows:
        columns = (
            "scan", "B×T×H×D", "what", "fwd ms", "×floor", "×ours", "f+b ms", "×floor", "×ours",
            "host fwd", "host f+b",
        )  # fmt: skip
        rows.sort(key=lambda row: (row[0], row[1]))
        show("median times; floor: compulsory bytes at the speed of a copy", columns, rows)


def _show_kernels(results: Sequence[Result]) -> None:
    rows = [
        [
            r["scan"], k["kernel"][:48], number(k["ms"]), number(k["launches"]),
            *(str(k.get(key, "-")) for key in ("registers", "spills", "shared")),
        ]
        for r in results
        if r["kind"] == "profile" and "kernels" in r
        for k in r["kernels"][:8]
    ]  # fmt: skip
    if rows:
        columns = ("scan", "kernel", "ms", "launches", "registers", "spills", "shared")
        show("kernels of one forward and backward at 4×4096×64×128", columns, rows)


if __name__ == "__main__":
    sys.exit(main())
