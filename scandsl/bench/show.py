"""Results for the terminal and as a plot.

In: `Result`s.  Out: a rich table; a figure of matplotlib (extra `bench`) in a file.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.table import Table

from scandsl.bench.candidates import Comparison
from scandsl.bench.run import Entry, Result, Times


def table(results: Sequence[Result], title: str) -> Table:
    """A row for each contender: times with their quartiles, and beside whom they stand."""
    out = Table(title=title, title_justify="left")
    for i, name in enumerate(
        ("scan", "shape", "by", "forward ms", "backward ms", "both ms", "×ours", "×floor",
         "decode µs", "peak MiB", "calls")
    ):  # fmt: skip
        out.add_column(name, justify="right" if i > 2 else "left", no_wrap=i > 2)
    for result in results:
        out.add_section()
        for i, entry in enumerate(result.entries):
            head = (result.scan, str(result.shape)) if i == 0 else ("", "")
            out.add_row(*head, entry.name, *_cells(result, entry))
    return out


def forms_table(found: Sequence[Comparison], title: str) -> Table:
    """Predicted and measured times of candidate forms, and what the model's choice loses."""
    out = Table(title=title, title_justify="left")
    for i, name in enumerate(("scan", "shape", "form", "predicted ms", "measured ms", "lost")):
        out.add_column(name, justify="right" if i > 2 else "left", no_wrap=True)
    for one in found:
        out.add_section()
        chosen = min(one.candidates, key=lambda c: c.predicted)
        for i, c in enumerate(one.candidates):
            head = (one.scan, str(one.shape)) if i == 0 else ("", "")
            lost = f"{one.lost - 1:.0%}" if c is chosen else ""
            out.add_row(*head, c.name, f"{c.predicted:.4g}", f"{c.measured:.4g}", lost)
    return out


def _cells(result: Result, entry: Entry) -> Iterator[str]:
    if entry.trouble is not None:
        yield "[red]failed[/]" if entry.wrong else "-"
        return
    for mode in ("forward", "backward", "both"):
        yield _spread(entry.times.get(mode))
    own, both = result.entries[0].times.get("both"), entry.times["both"].median
    yield "" if own is None or entry is result.entries[0] else f"{both / own.median:.2f}"
    yield f"{both / result.floor['both']:.1f}" if result.floor["both"] else ""
    decode = entry.times.get("decode")
    yield "" if decode is None else f"{1e3 * decode.median:.0f}"
    peak = entry.counts.peak if entry.counts else None
    yield "" if peak is None else f"{peak / 2**20:.0f}"
    calls = entry.counts.calls if entry.counts else None
    yield "" if calls is None else str(calls)


def _spread(times: Times | None) -> str:
    """The median, then half the distance of the quartiles in percent."""
    if times is None:
        return ""
    share = 50 * (times.high - times.low) / times.median if times.median else 0.0
    return f"{times.median:.4g} ±{share:.0f}%"


def troubles(results: Sequence[Result]) -> Iterator[str]:
    """A line for whatever was not timed."""
    for result in results:
        where = f"{result.scan} {result.shape}"
        if result.trouble is not None:
            yield f"failed: {where}: {result.trouble}"
        for entry in result.entries:
            if entry.trouble is not None:
                word = "failed" if entry.wrong else "not timed"
                yield f"{word}: {where}: {entry.name}: {entry.trouble}"


def plot(results: Sequence[Result], file: Path, title: str) -> None:
    """Forward and backward against length, both axes logarithmic, with the floor; one panel a scan.

    Raises ImportError without matplotlib.
    """
    from matplotlib.figure import Figure  # noqa: PLC0415  (an extra)

    scans = list(dict.fromkeys(r.scan for r in results))
    figure = Figure(figsize=(1 + 4 * len(scans), 4.5), layout="constrained")
    panels = figure.subplots(1, len(scans), squeeze=False, sharey=True)[0]
    for panel, scan in zip(panels, scans, strict=True):
        own = [r for r in results if r.scan == scan]
        for name in dict.fromkeys(e.name for r in own for e in r.entries):
            points = [
                (r.shape.time, e.times["both"].median)
                for r in own
                for e in r.entries
                if e.name == name and "both" in e.times
            ]
            if points:
                panel.plot(*zip(*sorted(points), strict=True), marker="o", label=name)
        floor = sorted((r.shape.time, r.floor["both"]) for r in own)
        panel.plot(*zip(*floor, strict=True), "k--", label="floor")
        panel.set(title=scan, xlabel="tokens", xscale="log", yscale="log")
        panel.legend()
    panels[0].set_ylabel("forward and backward, ms")
    figure.suptitle(title)
    figure.savefig(file)
