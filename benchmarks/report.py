"""Rows on the screen, as JSON, as Markdown, as a figure. A section is a module with TITLE, COLUMNS, SCREEN (the titles of the
columns that the screen has room for) and NOTES, of which the screen has the first."""

import itertools
import json
import math
import re
import textwrap
from dataclasses import dataclass, field
from pathlib import Path

from lifter._io import whole

from . import frontier
from .frontier import COLORS
from .timing import Timing

WIDTH = 100  # of the screen
LINES = 2  # of a cell there


@dataclass
class Report:
    """Everything that one run measured."""

    environment: dict
    device: str
    input: str
    mode: str
    ceilings: dict = field(default_factory=dict)
    sections: dict = field(default_factory=dict)  # module -> rows
    progress: str = "nothing measured yet"
    remarks: list = field(default_factory=list)

    @property
    def facts(self) -> dict:
        dtype = "float32 unless the row says otherwise"
        facts = {"device": self.device, "dtype": dtype, "input": self.input, "mode": self.mode, "measured": self.progress}
        return self.environment | facts | ({"remarks": "; ".join(self.remarks)} if self.remarks else {})

    @property
    def rows(self) -> list[dict]:
        return [row for rows in self.sections.values() for row in rows]


def table(section, rows, wanted=None) -> tuple[list[str], list[list[str]]]:
    """Titles and cells of the columns that have something in them, or of the `wanted` ones among these. A column is (title,
    key, template or function)."""

    def cell(value, template):
        return "" if value is None else template(value) if callable(template) else template.format(value)

    columns = [
        [title, *(cell(row.get(key), template) for row in rows)]
        for title, key, template in section.COLUMNS
        if wanted is None or title in wanted
    ]
    columns = [column for column in columns if any(column[1:])]
    titles, *lines = zip(*columns) if columns else [[]]
    return titles, lines


def show(section, rows):
    """On the screen: plain text of WIDTH columns, whatever the screen is."""
    print(f"\n{text(section, rows)}\n", flush=True)


def text(section, rows) -> str:
    """The columns that the screen has room for, the note of a row below it, and the first note of the section."""
    titles, cells = table(section, rows, getattr(section, "SCREEN", None))
    columns = list(zip(titles, *cells))
    widths, least = [max(map(len, column)) for column in columns], [_least(column) for column in columns]
    numbers = [all(text[:1] in "+-0123456789" for text in column[1:]) for column in columns]
    while sum(widths) + 2 * (len(widths) - 1) > WIDTH:
        widest = [n if n > needed else 0 for n, needed in zip(widths, least)]
        widest = widest if any(widest) else widths  # some cells are cut
        widths[widest.index(max(widest))] -= 1

    def lines(texts):
        wrapped = [textwrap.wrap(text, n, max_lines=LINES, placeholder="...") for text, n in zip(texts, widths)]
        for parts in itertools.zip_longest(*wrapped, fillvalue=""):
            padded = [part.rjust(n) if right else part.ljust(n) for part, n, right in zip(parts, widths, numbers)]
            yield "  ".join(padded).rstrip()

    found = [section.TITLE, "", *lines(titles), "  ".join("-" * width for width in widths)]
    for row, texts in zip(rows, cells):
        found += lines(texts)
        found += textwrap.wrap(row.get("note") or "", WIDTH, initial_indent="    ", subsequent_indent="    ")
    return "\n".join([*found, "", *textwrap.wrap(section.NOTES[0], WIDTH)])


def _least(column) -> int:
    """The width at which no word of a column is broken and no cell has more than LINES lines."""
    width = max(len(word) for text in column for word in text.split() or [""])
    while any(len(textwrap.wrap(text, width)) > LINES for text in column):
        width += 1
    return width


def write_json(path, report: Report):
    """A list of rows, each with its section and where it was measured."""
    rows = [
        {"section": name_of(section), **row, "run": report.facts} for section, rows in report.sections.items() for row in rows
    ]
    _dump(path, rows)


def write(folder, report: Report):
    """results.json, report.md and, with matplotlib, speed.png and accuracy.svg."""
    sections = write_results(folder, report)
    drawing = {"speed.png": draw, "accuracy.svg": frontier.draw}
    write_report(folder, report, [name for name, draw_it in drawing.items() if draw_it(Path(folder) / name, sections)])


def write_report(folder, report: Report, figures=()):
    """report.md alone."""
    lines = ["# lifter benchmarks", "", *(f"- {key}: {value}" for key, value in report.facts.items() if value)]
    lines += [f"- {key}: {value:.4g}" for key, value in report.ceilings.items() if value]
    lines += [line for name in figures for line in ("", f"![{name.partition('.')[0]}]({name})")]
    for section, rows in report.sections.items():
        lines += ["", _markdown(section, rows)] if rows else []
    with whole(Path(folder) / "report.md") as partly:
        partly.write_text("\n".join(lines) + "\n")


def write_results(folder, report: Report) -> dict:
    """results.json alone; its sections."""
    sections = {name_of(section): rows for section, rows in report.sections.items()}
    _dump(Path(folder) / "results.json", {**report.facts, "ceilings": report.ceilings, **sections})
    return sections


def name_of(section) -> str:
    return section.__name__.rpartition(".")[2]


def _markdown(section, rows) -> str:
    titles, lines = table(section, rows)
    lines = [titles, ["---"] * len(titles), *lines]
    text = [f"## {section.TITLE}", "", *("| " + " | ".join(line) + " |" for line in lines)]
    return "\n".join([*text, "", *(f"- {note}" for note in section.NOTES)])


def _dump(path, content):
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as partly:
        partly.write_text(json.dumps(_plain(content), indent=1, allow_nan=False) + "\n")


def _plain(value):
    if isinstance(value, Timing):
        value = {"median": value.median, "spread": value.spread, "n": len(value.seconds)}
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def draw(path, sections) -> bool:
    """Draw the models' speedups, the kernels' time beside their bound, and the waiting time of a live user."""
    times = {}
    for row in sections.get("models", []):
        if row.get("speedup"):
            times.setdefault(row["case"], {})[row["implementation"]] = row["time"].median
    compared = {case: found for case, found in times.items() if {"lifter", "reference"} <= found.keys()}
    drawn = re.compile(r"\w+ [LT]=\d+ forward")  # the float32 rows of the ops that have a length
    kernels = [row for row in sections.get("kernels", []) if row.get("bound") and drawn.fullmatch(row["case"])]
    streams = [row for row in sections.get("stream", []) if "time" in row]  # not what failed
    found = ((_draw_models, compared), (_draw_kernels, kernels), (_draw_streams, streams))
    panels = [(panel, data) for panel, data in found if data]
    if not panels:
        return False
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    figure = Figure(figsize=(6 * len(panels), 4), layout="constrained")
    for (panel, data), axes in zip(panels, figure.subplots(1, len(panels), squeeze=False)[0]):
        panel(axes, data)
        axes.legend(fontsize=8, frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
    with whole(path, ".png") as partly:
        figure.savefig(partly, dpi=150)
    return True


BASELINES = {"reference": "over the reference ops", "reference + torch.compile": "over torch.compile of them"}


def _draw_models(axes, times):
    for i, (baseline, label) in enumerate(BASELINES.items()):
        speedups = [found.get(baseline, 0) / found["lifter"] for found in times.values()]
        places = [place + 0.4 * (i - 0.5) for place in range(len(times))]
        bars = axes.bar(places, speedups, 0.38, label=label, color=COLORS[i])
        axes.bar_label(bars, [f"{speedup:.0f}x" if speedup else "" for speedup in speedups], fontsize=8, padding=1)
    axes.set_ylabel("speedup of lifter, float32")
    axes.set_xticks(range(len(times)), [case.replace(" T=", "\nT=").replace(" batch", ", batch") for case in times])
    axes.tick_params("x", labelsize=8)
    axes.margins(y=0.2)


def _draw_kernels(axes, rows):
    series = {}
    for row in rows:
        op, size, _ = row["case"].split()
        series.setdefault(op, []).append((int(size.split("=")[1]), row["lifter"].median, row["bound"]["seconds"]))
    for color, (op, points) in zip(itertools.cycle(COLORS), series.items()):
        sizes, times, bounds = zip(*points)
        axes.plot(sizes, [seconds * 1e3 for seconds in times], "o-", color=color, label=op, markersize=4)
        axes.plot(sizes, [seconds * 1e3 for seconds in bounds], ":", color=color)
    axes.plot([], [], ":", color="black", label="bound, measured in the same run")
    axes.set(xscale="log", yscale="log", xlabel="steps L, or frames T", ylabel="forward, ms")


def _draw_streams(axes, rows):
    series = {}
    for row in rows:
        series.setdefault(row["implementation"].replace("lifter", row["model"]), []).append(row)
    for i, (label, rows) in enumerate(series.items()):
        chunks, latencies = [row["chunk_size"] for row in rows], [row["latency"] for row in rows]
        style = {"color": COLORS[i % len(COLORS)], "linestyle": "-" if i < len(COLORS) else "--"}
        axes.plot(chunks, latencies, label=label, **style)
        for row in rows:
            face = style["color"] if row["live"] else "white"
            axes.plot(row["chunk_size"], row["latency"], "o", color=style["color"], markerfacecolor=face, markersize=4)
    axes.plot(chunks, [row["waited"] or None for row in rows], ":", color="black", label="waiting alone")
    axes.plot([], [], "o", color="black", markerfacecolor="white", markersize=4, label="too slow to keep up")
    axes.set(xscale="log", yscale="log", xlabel="chunk size, frames", ylabel="first frame of a chunk to its pose, seconds")
    axes.set_xticks(chunks, chunks, minor=False)
    axes.set_xticks([], minor=True)
