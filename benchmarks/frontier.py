"""The figure of accuracy against cost: the error that papers print, all multiply-accumulates of a pose by our count, and its
time where it was measured.

    python -m benchmarks.frontier FIGURE.svg FOLDER...    of the results in the folders; of a section in several, the first
"""

import json
import sys
from pathlib import Path

from lifter._io import whole

COLORS = ("#1f6fb4", "#d95f02", "#1b9e77", "#7570b3", "#e7298a", "#66a61e")
KINDS = {"one pose of a window": COLORS[0], "all poses of a clip": COLORS[1], "diffusion, all its calls": COLORS[2]}
TIMED = ("comparison", "models", "zoo")  # sections that time models
# Places of a name beside its point: right or left, above or below, and farther from the middle of either.
PLACES = [(5, 0, "left"), (-5, 0, "right")]
PLACES += [(x, y, side) for y in (7, -7, 13, -13, 19, -19) for x, side in ((0, "center"), (5, "left"), (-5, "right"))]


def points(sections) -> list[tuple]:
    """(label, kind, error in mm, multiply-accumulates of a pose, seconds of a pose or None) of the tables' rows that have an
    error."""
    found, seconds = [], times(sections)
    for row in sections.get("tables", []):
        if row.get("mpjpe") and row.get("macs_of_pose"):
            calls = round(row["macs_of_pose"] * row["poses"] / row["macs"])
            kind = list(KINDS)[2 if calls > 1 else row["poses"] > 1]
            label = row["name"] + (f", {calls} calls" if calls > 1 else "")
            clip = None if row["kwargs"] else seconds.get((row["model"], row["frames"]))
            found.append((label, kind, row["mpjpe"], row["macs_of_pose"], clip and clip * calls / row["poses"]))
    return found


def times(sections) -> dict:
    """Seconds of a call with one clip, in float32 and not frozen, by (model, frames)."""
    rows = [row for name in TIMED for row in sections.get(name, []) if row.get("time") and row.get("batch") == 1]
    return {
        (row["model"], row["frames"]): row["time"]["median"] if isinstance(row["time"], dict) else row["time"].median
        for row in rows
        if row.get("implementation", "lifter") == "lifter"
    }


def best(found) -> list[tuple]:
    """The points (label, kind, error, cost) that none beats in both, the cheapest first."""
    found = sorted(found, key=lambda point: (point[3], point[2]))
    return [point for i, point in enumerate(found) if all(point[2] < other[2] for other in found[:i])]


def draw(path, sections) -> bool:
    """Draw the figure, if there are rows of it and matplotlib."""
    if not (found := points(sections)):
        return False
    try:
        import matplotlib
    except ImportError:
        return False
    with whole(Path(path), ".svg") as partly, matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "lifter"}):
        figure_of(found).savefig(partly, metadata={"Date": None})
    return True


def figure_of(found):
    """A panel of the operations, and one of the seconds if there are any; a line joins the models that none beats in both."""
    from matplotlib.figure import Figure

    panels = {
        "multiply-accumulates of a pose, all products counted": [point[:4] for point in found],
        "seconds of a pose, measured": [(*point[:3], point[4]) for point in found if point[4]],
    }
    panels = {cost: of_panel for cost, of_panel in panels.items() if of_panel}
    figure = Figure(figsize=(12, 9 * len(panels)), layout="constrained")
    every = list(figure.subplots(len(panels), squeeze=False).flat)
    for axes, (cost, of_panel) in zip(every, panels.items(), strict=True):
        _plot(axes, of_panel)
        axes.set(xscale="log", xlabel=cost, ylabel="MPJPE as printed, mm")
    figure.draw_without_rendering()
    for axes, of_panel in zip(every, panels.values(), strict=True):
        _label(axes, of_panel)
    return figure


def _plot(axes, found):
    for kind, color in KINDS.items():
        of_kind = [(cost, error) for _, which, error, cost in found if which == kind]
        if of_kind:
            axes.plot(*zip(*of_kind), "o", color=color, markersize=5, label=kind)
    line = [(cost, error) for _, _, error, cost in best(found)]
    axes.plot(*zip(*line), color="0.75", zorder=0, drawstyle="steps-post")
    axes.margins(0.08)
    axes.grid(color="0.93")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)


def _label(axes, found):
    """Write each name where it covers no point and no other name, if there is such a place around its point."""
    points, boxes = axes.transData.transform([(cost, error) for _, _, error, cost in found]), []
    for label, kind, error, cost in sorted(found, key=lambda point: point[3]):
        texts = [
            axes.annotate(
                label, (cost, error), (x, y), textcoords="offset points", ha=side, va="center", fontsize=7.5,
                color=KINDS[kind],
            )
            for x, y, side in PLACES
        ]  # fmt: skip
        extents = [text.get_window_extent().padded(1) for text in texts]
        covered = [box.count_contains(points) + box.count_overlaps(boxes) for box in extents]
        chosen = covered.index(min(covered))
        boxes.append(extents[chosen])
        for i, text in enumerate(texts):
            if i != chosen:
                text.remove()


def main(argv) -> int:
    if len(argv) < 2:
        print(__doc__)
        return 2
    sections = {}
    for folder in argv[1:]:
        sections = json.loads((Path(folder) / "results.json").read_text()) | sections
    return int(not draw(argv[0], sections))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
