"""The command line: `python -m benchmarks [tables|models|kernels|stream|official|huggingface]`."""

import argparse
import contextlib
import math
import re
import sys
import time
from dataclasses import dataclass

import torch

from lifter import _library
from lifter.info import environment

from . import bounds, comparison, diffusion, huggingface, inputs, kernels, memory, models, report, scaling, stream, tables, zoo
from .accuracy import first_line

PARTS = {
    "tables": [tables], "models": [models, zoo, diffusion, memory], "kernels": [kernels, scaling], "stream": [stream],
    "official": [comparison], "huggingface": [huggingface],
}  # fmt: skip
DEFAULT_PARTS = ("tables", "models", "kernels")  # streams take minutes, the last two need the code of others
DEFAULT_FOLDER = "build/benchmarks"


@dataclass
class Setup:
    """What the cases need to know."""

    device: str
    clips: inputs.Clips
    quick: bool
    seconds: float  # budget of one candidate
    patience: float  # longest call of the reference models


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("part", nargs="?", choices=PARTS, help=f"default: {', '.join(DEFAULT_PARTS)}")
    only = "cases whose name has one of these regular expressions, divided by commas, in it"
    parser.add_argument("--only", metavar="PATTERNS", help=only)
    effort = parser.add_mutually_exclusive_group()
    effort.add_argument("--quick", action="store_true", help="about a minute: fewer lengths, no torch.compile")
    effort.add_argument("--full", action="store_true", help="also reference calls that take minutes")
    parser.add_argument("--input", metavar="FILE.npz", help="2D keypoints for the models (default: a synthetic gait)")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--seconds", type=float, metavar="S", help="budget of a candidate; 0: every call once, to compile it")
    parser.add_argument("--threads", type=int, help="default: PyTorch's choice")
    parser.add_argument("--json", metavar="FILE", help="write the rows here as a list of objects")
    parser.add_argument(
        "--out", metavar="FOLDER",
        help=f"write results.json, report.md, speed.png here (default: {DEFAULT_FOLDER}, nowhere with --json)",
    )  # fmt: skip
    parser.add_argument("--list", action="store_true", help="only print the names of the cases")
    args = parser.parse_args(argv)
    try:
        only = re.compile((args.only or "").replace(",", "|"), re.IGNORECASE)
        clips = inputs.load(args.input) if args.input else inputs.synthetic_gait()
        if args.part in (None, "models", "stream"):
            clips.batch(1, max(models.FRAMES))
        if args.threads is not None and args.threads < 1:
            raise ValueError(f"--threads: got {args.threads}, expected at least 1")
        if args.device == "cuda" and not torch.cuda.is_available():
            raise ValueError("--device cuda: PyTorch sees no GPU here")
    except (re.error, ValueError, OSError) as error:
        parser.error(str(error))
    except KeyError as error:
        parser.error(error.args[0])
    if args.threads:
        torch.set_num_threads(args.threads)

    setup = Setup(
        args.device,
        clips,
        args.quick,
        seconds=args.seconds if args.seconds is not None else 0.15 if args.quick else 2.0 if args.full else 1.0,
        patience=2 if args.quick else math.inf if args.full else 20,
    )
    sections = [section for part in ([args.part] if args.part else DEFAULT_PARTS) for section in PARTS[part]]
    try:
        plan = {section: section.cases(setup) for section in sections}
    except ValueError as error:
        parser.error(str(error))
    plan = {section: [case for case in cases if only.search(case[0])] for section, cases in plan.items()}
    names = [name for cases in plan.values() for name, _ in cases]
    if not names:
        print(f"no case matches {args.only!r}; --list prints them all", file=sys.stderr)
        return 2
    if args.list:
        print("\n".join(names))
        return 0
    return run({section: cases for section, cases in plan.items() if cases}, setup, args)


def run(plan, setup, args) -> int:
    mode = "quick" if args.quick else "full" if args.full else "default"
    result = report.Report(environment(), setup.device, setup.clips.description, mode)
    if not _library.loaded and setup.device == "cpu":
        print(f"NO C++ KERNELS HERE: lifter is its own reference in this run ({_library.reason})", file=sys.stderr)
    folder = args.out or (None if args.json else DEFAULT_FOLDER)
    start, done, total = time.perf_counter(), 0, sum(map(len, plan.values()))
    if setup.device != "cpu":
        torch.backends.cudnn.conv.fp32_precision = "ieee"  # as that of matrix products is
        # First, and after every case what there is: a round may be cut off
        result.ceilings = bounds.ceilings(setup.device)
    for section, cases in plan.items():
        rows = result.sections[section] = []
        for name, case in cases:
            done += 1
            _progress(f"[{done}/{total}] {time.perf_counter() - start:.0f} s  {name}")
            rows += case() if setup.device == "cpu" else survived(name, case)
            if folder and setup.device != "cpu":
                report.write_results(folder, result)
        _progress("")
        report.show(section, rows)
    if setup.device == "cpu" and plan.keys() - {tables}:
        result.ceilings = bounds.ceilings(setup.device)
    if args.json:
        report.write_json(args.json, result)
    if folder:
        report.write(folder, result)
    for key, value in {**result.facts, **result.ceilings}.items():
        if value is not None:
            print(f"{key}: {value if not isinstance(value, float) else format(value, '.4g')}")
    print(f"{time.perf_counter() - start:.0f} s; written: {', '.join(filter(None, (args.json, folder)))}")
    rows = [row for rows in result.sections.values() for row in rows]
    wrong = [row["case"] for row in rows if row.get("matches") is False]
    slower = [row["case"] for row in rows if row.get("slower")]
    for problem, failed in (("WRONG OUTPUT", wrong), ("SLOWER THAN THE REFERENCE OPS", slower)):
        if failed:
            print(f"{problem}: {', '.join(failed)}", file=sys.stderr)
    return 1 if wrong or slower else 0


def survived(name, case) -> list[dict]:
    """The rows of a case; one that fails is a wrong row, and the round goes on."""
    try:
        return case()
    except Exception as failure:
        with contextlib.suppress(RuntimeError):  # of a capture that is not over
            torch.cuda.empty_cache()
        return [{"case": name, "matches": False, "note": f"FAILS: {first_line(failure)}"}]


def _progress(line):
    """The current case: one changing line on a terminal, else one line each."""
    if sys.stderr.isatty():
        print(f"\r\033[K{line}", end="", file=sys.stderr, flush=True)
    elif line:
        print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
