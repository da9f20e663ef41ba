"""Rows on the screen, as JSON, as Markdown, as a figure. A section is a module with TITLE, COLUMNS and NOTES."""

import json
import math
from dataclasses import dataclass, field
from pathlib import Path

from .timing import Timing


@dataclass
class Report:
    """Everything that one run measured."""

    environment: dict
    device: str
    input: str
    mode: str
    ceilings: dict = field(default_factory=dict)
    sections: dict = field(default_factory=dict)  # module -> rows

    @property
    def facts(self) -> dict:
        dtype = "float32 unless the row says otherwise"
        return {**self.environment, "device": self.device, "dtype": dtype, "input": self.input, "mode": self.mode}


def table(section, rows) -> tuple[list[str], list[list[str]]]:
    """Titles and cells of the columns that have something in them. A column is (title, key, template or function)."""

    def cell(value, template):
        return "" if value is None else template(value) if callable(template) else template.format(value)

    columns = [[title, *(cell(row.get(key), template) for row in rows)] for title, key, template in section.COLUMNS]
    titles, *lines = zip(*(column for column in columns if any(column[1:])))
    return titles, lines


def show(section, rows):
    """On the screen: rich's table, or Markdown without rich."""
    try:
        from rich.console import Console
        from rich.table import Table
    except ImportError:
        print(_markdown(section, rows), flush=True)
        return
    notes = {"caption": "\n".join(section.NOTES), "caption_justify": "left"}
    rich = Table(title=section.TITLE, title_justify="left", show_edge=False, **notes)
    titles, lines = table(section, rows)
    for title, *column in zip(titles, *lines):
        number = all(text[:1] in "+-0123456789" for text in column)
        rich.add_column(title, justify="right" if number else "left")
    for line in lines:
        rich.add_row(*line)
    Console(width=None if Console().is_terminal else 200).print(rich)


def write_json(path, report: Report):
    """A list of rows, each with its section and where it was measured."""
    rows = [
        {"section": _name(section), **row, "run": report.facts}
        for section, rows in report.sections.items()
        for row in rows
    ]
    _dump(path, rows)


def write(folder, report: Report):
    """results.json, report.md and, with matplotlib, speed.png."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    sections = {_name(section): rows for section, rows in report.sections.items()}
    _dump(folder / "results.json", {**report.facts, "ceilings": report.ceilings, **sections})
    figure = draw(folder / "speed.png", sections)
    lines = ["# lifter benchmarks", "", *(f"- {key}: {value}" for key, value in report.facts.items() if value)]
    lines += [f"- {key}: {value:.4g}" for key, value in report.ceilings.items() if value]
    lines += ["", "![speed](speed.png)"] if figure else []
    for section, rows in report.sections.items():
        lines += ["", _markdown(section, rows)]
    (folder / "report.md").write_text("\n".join(lines) + "\n")


def _name(section) -> str:
    return section.__name__.rpartition(".")[2]


def _markdown(section, rows) -> str:
    titles, lines = table(section, rows)
    lines = [titles, ["---"] * len(titles), *lines]
    text = [f"## {section.TITLE}", "", *("| " + " | ".join(line) + " |" for line in lines)]
    return "\n".join([*text, "", *(f"- {note}" for note in section.NOTES)])


def _dump(path, content):
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(_plain(content), indent=1, allow_nan=False) + "\n")


def _plain(value):
    if isinstance(value, Timing):
        value = {"median": value.median, "spread": value.spread, "n": len(value.seconds)}
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def draw(path, sections) -> bool:
    """Left: speedups of the models. Right: the kernels' time over their bound."""
    models = [row for row in sections.get("models", []) if row.get("speedup")]
    kernels = [row for row in sections.get("kernels", []) if row.get("bound") and row["case"].endswith(" forward")]
    panels = [panel for panel, rows in ((_draw_models, models), (_draw_kernels, kernels)) if rows]
    if not panels:
        return False
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    figure = Figure(figsize=(6.5 * len(panels), 4.2), layout="constrained")
    for panel, axes in zip(panels, figure.subplots(1, len(panels), squeeze=False)[0]):
        panel(axes, models if panel is _draw_models else kernels)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)
    return True


COLORS = {
    "lifter": "#1f6fb4",
    "lifter bfloat16": "#7fb3dd",
    "lifter + torch.compile": "#0b3c66",
    "reference": "#b0b0b0",
    "reference + torch.compile": "#707070",
}


def _draw_models(axes, rows):
    cases = list(dict.fromkeys(row["case"] for row in rows))
    found = [name for name in COLORS if any(row["implementation"] == name for row in rows)]
    width = 0.8 / len(found)
    for i, name in enumerate(found):
        own = [row for row in rows if row["implementation"] == name]
        places = [cases.index(row["case"]) + (i - (len(found) - 1) / 2) * width for row in own]
        bars = axes.bar(places, [row["speedup"] for row in own], width, label=name, color=COLORS[name])
        axes.bar_label(bars, fmt="%.3g", fontsize=7, padding=1)
    axes.set_yscale("log")
    axes.set_ylabel("speedup over the reference ops")
    axes.set_xticks(range(len(cases)), [case.replace(" batch", "\nbatch") for case in cases], fontsize=8)
    axes.legend(fontsize=7, frameon=False, loc="upper left", bbox_to_anchor=(0, 1.16), ncols=3)


def _draw_kernels(axes, rows):
    series = {}
    for row in rows:
        op, size, _ = row["case"].split()
        series.setdefault(op, []).append((int(size.split("=")[1]), row["lifter"].median, row["bound"]["seconds"]))
    for color, (op, points) in zip(("#1f6fb4", "#d95f02", "#1b9e77", "#7570b3", "#e7298a"), series.items()):
        sizes, times, bounds = zip(*points)
        axes.plot(sizes, [t * 1e3 for t in times], "o-", color=color, label=op, markersize=4)
        axes.plot(sizes, [t * 1e3 for t in bounds], ":", color=color, label=f"{op}: bound")
    axes.set(xscale="log", yscale="log", xlabel="steps L, or frames T", ylabel="forward, ms")
    axes.legend(fontsize=7, frameon=False)
