"""The figure of accuracy against cost: the error that papers print, and all multiply-accumulates of a pose by our count."""

from pathlib import Path

from lifter._io import whole

COLORS = ("#1f6fb4", "#d95f02", "#1b9e77", "#7570b3", "#e7298a", "#66a61e")
KINDS = {"one pose of a window": COLORS[0], "all poses of a clip": COLORS[1], "diffusion, all its calls": COLORS[2]}
# Places of a name beside its point: right or left, above or below, and farther from the middle of either.
PLACES = [(5, 0, "left"), (-5, 0, "right")]
PLACES += [(x, y, side) for y in (7, -7, 13, -13, 19, -19) for x, side in ((0, "center"), (5, "left"), (-5, "right"))]


def points(sections) -> list[tuple]:
    """(label, kind, multiply-accumulates of a pose, error in mm) of the tables' rows that have an error."""
    found = []
    for row in sections.get("tables", []):
        if row.get("mpjpe") and row.get("macs_of_pose"):
            calls = round(row["macs_of_pose"] * row["poses"] / row["macs"])
            kind = list(KINDS)[2 if calls > 1 else row["poses"] > 1]
            label = row["name"] + (f", {calls} calls" if calls > 1 else "")
            found.append((label, kind, row["macs_of_pose"], row["mpjpe"]))
    return sorted(found, key=lambda point: point[2:])


def draw(path, sections) -> bool:
    """Draw the figure, if there are rows of it and matplotlib; the line joins the models that none beats in both."""
    if not (found := points(sections)):
        return False
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError:
        return False
    figure = Figure(figsize=(12, 9), layout="constrained")
    axes = figure.subplots()
    for kind, color in KINDS.items():
        of_kind = [(macs, error) for _, which, macs, error in found if which == kind]
        if of_kind:
            axes.plot(*zip(*of_kind), "o", color=color, markersize=5, label=kind)
    best = [point for i, point in enumerate(found) if all(point[3] < other[3] for other in found[:i])]
    axes.plot([point[2] for point in best], [point[3] for point in best], color="0.75", zorder=0, drawstyle="steps-post")
    axes.set(xscale="log", xlabel="multiply-accumulates of a pose, all products counted", ylabel="MPJPE as printed, mm")
    axes.margins(0.08)
    axes.grid(color="0.93")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.draw_without_rendering()
    _label(axes, found)
    with whole(Path(path), ".svg") as partly, matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "lifter"}):
        figure.savefig(partly, metadata={"Date": None})
    return True


def _label(axes, found):
    """Write each name where it covers no point and no other name, if there is such a place around its point."""
    points, boxes = axes.transData.transform([point[2:] for point in found]), []
    for label, kind, *place in found:
        texts = [
            axes.annotate(
                label, place, (x, y), textcoords="offset points", ha=side, va="center", fontsize=7.5, color=KINDS[kind]
            )
            for x, y, side in PLACES
        ]
        extents = [text.get_window_extent().padded(1) for text in texts]
        covered = [box.count_contains(points) + box.count_overlaps(boxes) for box in extents]
        chosen = covered.index(min(covered))
        boxes.append(extents[chosen])
        for i, text in enumerate(texts):
            if i != chosen:
                text.remove()
