"""Summary of a round on a GPU: `python -m benchmarks.summary FOLDER` reads every results.json in FOLDER, prints what failed or
misses its goal, and writes it to FOLDER/summary.md."""

import json
import re
import sys
from pathlib import Path

SHARE = 0.6  # of the bound, of many clips at once
COPIES = 3.0  # times faster than VMamba's copies + scan
OFFICIAL, OFFICIAL_HALF = 2.0, 4.0  # times faster than the official float32: float32; bfloat16 in a graph, single clips


def read(folder) -> dict[str, list[dict]]:
    """Section -> rows, of all results.json below `folder`."""
    sections = {}
    for path in sorted(Path(folder).rglob("results.json")):
        for name, rows in json.loads(path.read_text()).items():
            if isinstance(rows, list):
                sections.setdefault(name, []).extend(rows)
    return sections


def summary(sections) -> dict[str, list[str]]:
    """Title -> lines; no lines: nothing to say."""
    kernels, zoo = sections.get("kernels", []), sections.get("zoo", [])
    everything = [row for rows in sections.values() for row in rows]
    return {
        "Failed": [_noted(row) for row in everything if row.get("matches") is False],
        "Slower than the reference ops": [_noted(row) for row in everything if row.get("slower")],
        "No graph, or wrong in one": _matching(everything, "no graph|IN A GRAPH"),
        "Peers that fail": _matching(everything, "fails: |official: "),
        "Slower than the best peer": [line for row in kernels for line in _slower(row)],
        f"Less than {COPIES:.0f} times faster than copies + scan": [line for row in kernels for line in _copies(row)],
        f"Under {SHARE:.0%} of the bound, 64 clips": [
            f"{row['case']}: {row['share_of_bound']:.0%} of {row['bound_kind']}"
            for row in kernels
            if " B=64" in row["case"] and (row.get("share_of_bound") or SHARE) < SHARE
        ],
        f"Less than {OFFICIAL:.0f} times faster than the official code, float32": _official(zoo, "time", OFFICIAL),
        f"Less than {OFFICIAL_HALF:.0f} times, bfloat16 in a graph, single clips": _official(
            [row for row in zoo if row.get("batch") == 1], "bfloat16_graph", OFFICIAL_HALF
        ),
    }


def _matching(rows, pattern) -> list[str]:
    return [_noted(row) for row in rows if re.search(pattern, row.get("note") or "")]


def _noted(row) -> str:
    return f"{row['case']}: {row.get('note') or 'wrong output'}"


def _slower(row):
    """Return the speedups by the clock, and by the device alone."""
    for name, peer in row.get("peers", {}).items():
        if not peer.get("speedup"):
            continue  # wrong
        ratios = {"": peer["speedup"]}
        for kind in ("device", "graph"):
            if peer.get(kind) and row.get(kind):
                ratios[f" ({kind})"] = peer[kind] / row[kind]
        slow = [f"{ratio:.2f}x{kind}" for kind, ratio in ratios.items() if ratio < 1]
        if slow:
            yield f"{row['case']}: {', '.join(slow)} of {name}"


def _copies(row):
    for name, peer in row.get("peers", {}).items():
        if name.startswith("copies + ") and peer.get("device") and peer["device"] < COPIES * row["device"]:
            yield f"{row['case']}: {peer['device'] / row['device']:.2f}x of {name} (device)"


def _official(rows, ours, goal) -> list[str]:
    seconds = lambda time: time["median"] if isinstance(time, dict) else time
    compared = [row for row in rows if row.get("official") and row.get(ours)]
    ratios = {row["case"]: row["official"]["median"] / seconds(row[ours]) for row in compared}
    return [f"{case}: {ratio:.2f}x" for case, ratio in ratios.items() if ratio < goal]


def main(folder) -> int:
    found = read(folder)
    if not found:
        print(f"no results.json in {folder}", file=sys.stderr)
        return 1
    counts = ", ".join(f"{name} {len(rows)}" for name, rows in found.items())
    lines = ["# Summary of the round", "", f"Rows: {counts}."]
    parts = summary(found)
    for title, items in parts.items():
        lines += ["", f"## {title}: {len(items)}", *(f"- {item}" for item in items)]
    text = "\n".join(lines) + "\n"
    (Path(folder) / "summary.md").write_text(text)
    print(text)
    return 1 if parts["Failed"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]) if len(sys.argv) == 2 else __doc__)
