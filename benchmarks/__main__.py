"""The papers' tables and the speed of models and kernels on this machine, as a table of each and a report."""

import argparse
import math
import re
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from lifter import _library
from lifter.info import environment

from . import (
    bounds,
    comparison,
    contradictions,
    diffusion,
    headlines,
    huggingface,
    inputs,
    kernels,
    memory,
    models,
    published,
    report,
    runner,
    scaling,
    stream,
    tables,
    zoo,
)  # fmt: skip

# Part -> its section, an example, and what it is.
PARTS = {
    "tables": (tables, "tables --only sasmamba", "parameters and operations of the models beside those that the papers print"),
    "contradictions": (
        contradictions,
        "contradictions",
        "where the papers' tables contradict each other, with the arithmetic",
    ),
    "models": (models, "models --only sasmamba,mixste", "the papers' architectures: ours, frozen, bfloat16, plain PyTorch"),
    "kernels": (kernels, "kernels --only '^retention'", "every op beside its reference and the bound of this machine"),
    "zoo": (zoo, "zoo --only motionagformer", "every model on our kernels and in plain PyTorch"),
    "diffusion": (diffusion, "diffusion", "whole samplers: D3DP, HTP, KTPFormer"),
    "memory": (memory, "memory", "peak memory of a scan and of training steps"),
    "threads": (scaling, "threads", "one thread against all"),
    "stream": (stream, "stream --only poseretnet", "how long a live user waits for a pose"),
    "official": (comparison, "official --only motionbert", "beside the official code (first: make peers)"),
    "huggingface": (huggingface, "huggingface", "transformers' Mamba before and after lifter.optimize"),
}
USUAL = ("tables", "models", "kernels")
EVERYTHING = tuple(PARTS)[:-2]  # but what needs the code of others
# Seconds that the sections of a run may take, of a run that is not --full; other sections take as long as they take.
SHARES = {"quick": {"tables": 10, "models": 6, "kernels": 8}, "default": {"tables": 12, "models": 42, "kernels": 38}}
SECONDS = {"quick": 0.1, "default": 0.6, "full": 2.0}
PATIENCE = {"quick": 2, "default": 20, "full": math.inf}
DEFAULT_FOLDER = "build/benchmarks"


@dataclass
class Setup:
    """Settings of a run that the cases need."""

    device: str
    clips: inputs.Clips
    mode: str  # quick, default or full
    seconds: float  # budget of one candidate
    patience: float  # longest call of what we compare with

    @property
    def quick(self) -> bool:
        return self.mode == "quick"

    @property
    def everything(self) -> bool:
        """Return whether all sizes are run: on a GPU, where a round takes the parts one by one, by default."""
        return self.mode == "full" or self.mode == "default" and self.device != "cpu"


def arguments(argv):
    examples = [f"  {what}\n    python -m benchmarks {example}" for _, example, what in PARTS.values()]
    epilog = "\n".join(["parts, with an example of each:", *examples])
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)}; default: {', '.join(USUAL)}")
    only = "cases whose name has one of these regular expressions, divided by commas, in it"
    parser.add_argument("--only", metavar="PATTERNS", help=only)
    effort = parser.add_mutually_exclusive_group()
    effort.add_argument(
        "--quick", action="store_true", help="run in under a minute: short clips, few samples, part of the tables"
    )
    effort.add_argument(
        "--full", action="store_true", help="run for an hour: all sizes, all models, torch.compile, slow references"
    )
    parser.add_argument("--input", metavar="FILE.npz", help="2D keypoints for the models (default: a synthetic gait)")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument(
        "--seconds", type=float, metavar="S", help="time per candidate, without a limit on the whole run; 0: one call each"
    )
    parser.add_argument("--threads", type=int, help="number of threads (default: PyTorch's choice)")
    parser.add_argument("--json", metavar="FILE", help="write the rows to this file as a list of objects")
    parser.add_argument(
        "--out", metavar="FOLDER",
        help=f"folder for results.json, report.md, speed.png and accuracy.svg (default: {DEFAULT_FOLDER}; none with --json)",
    )  # fmt: skip
    parser.add_argument("--list", action="store_true", help="print the names of the cases and exit")
    return parser, parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    parser, args = arguments(argv)
    mode = "quick" if args.quick else "full" if args.full else "default"
    parts = args.parts or (EVERYTHING if args.full else USUAL)
    try:
        if unknown := [part for part in parts if part not in PARTS]:
            raise ValueError(f"part {unknown[0]!r}, expected some of {', '.join(PARTS)}")
        only = re.compile((args.only or "").replace(",", "|"), re.IGNORECASE)
        clips = inputs.load(args.input) if args.input else inputs.synthetic_gait()
        if set(parts) - {"tables", "kernels", "memory", "threads", "huggingface"}:
            clips.batch(1, max(models.FRAMES))
        if args.threads is not None and args.threads < 1:
            raise ValueError(f"--threads: got {args.threads}, expected at least 1")
        if args.device == "cuda" and not torch.cuda.is_available():
            raise ValueError("--device cuda: PyTorch sees no GPU here")
        if args.threads:
            torch.set_num_threads(args.threads)
        for folder in filter(None, (args.out, args.json and Path(args.json).parent)):
            Path(folder).mkdir(parents=True, exist_ok=True)  # hours later would be too late to say that it cannot be
        seconds = SECONDS[mode] if args.seconds is None else args.seconds
        setup = Setup(args.device, clips, mode, seconds, PATIENCE[mode])
        plan = {PARTS[part][0]: runner.planned(PARTS[part][0], setup) for part in parts}
    except (re.error, ValueError, OSError) as error:
        parser.error(str(error))
    except KeyError as error:
        parser.error(error.args[0])

    plan = {section: [case for case in cases if only.search(case[0])] for section, cases in plan.items()}
    plan = {section: cases for section, cases in plan.items() if cases}
    if not plan:
        more = "" if args.full else "; with --full there are more"
        where = ", ".join(parts)
        which = f"matches {args.only!r}; --list prints them all{more}" if args.only else "can be run on this machine"
        print(f"no case of {where} {which}", file=sys.stderr)
        return 2
    if args.list:
        print("\n".join(name for cases in plan.values() for name, _ in cases))
        return 0
    return run(plan, setup, args)


def run(plan, setup, args) -> int:
    start = time.perf_counter()
    result = report.Report(environment(), setup.device, setup.clips.description, setup.mode)
    if not _library.loaded and setup.device == "cpu":
        print(f"NO C++ KERNELS HERE: lifter is its own reference in this run ({_library.reason})", file=sys.stderr)
    folder = args.out or (None if args.json else DEFAULT_FOLDER)
    shares = SHARES.get(setup.mode, {}) if setup.device == "cpu" and args.seconds is None else {}
    print(announced(plan, setup, shares), flush=True)
    if setup.device != "cpu":
        torch.backends.cudnn.conv.fp32_precision = "ieee"  # as that of matrix products is

    def write_results():
        if args.json:
            report.write_json(args.json, result)
        if folder:
            report.write_results(folder, result)

    def write_report():
        if folder:
            report.write(folder, result)

    if plan.keys() - {tables}:
        result.ceilings = bounds.ceilings(setup.device)
    try:
        runner.run(plan, setup, shares, result, write_results, write_report)
    except KeyboardInterrupt:
        interrupted = True
        result.remarks.append("interrupted")
        write_report()
    else:
        interrupted = False
    where = [args.json] * bool(args.json) + [f"{folder}/report.md (all columns and notes), results.json"] * bool(folder)
    print(headlines.headlines(result, where, time.perf_counter() - start))
    return 130 if interrupted else int(any(headlines.wrong(row) or row.get("slower") for row in result.rows))


def announced(plan, setup, shares) -> str:
    """Say how long a run will take."""
    counts = ", ".join(f"{len(cases)} of {report.name_of(section)}" for section, cases in plan.items())
    known = [shares.get(report.name_of(section)) for section in plan]
    if None in known:
        return f"{setup.mode} run: cases: {counts}. It has no limit of time: as long as all samples take."
    others = "; --quick takes less than a minute, --full an hour" if setup.mode == "default" else ""
    if setup.quick and tables in plan:
        others = f". Of the {len(published.ROWS)} rows of the tables only the five architectures' are counted"
    return (
        f"{setup.mode} run: cases: {counts}. It takes at most about {sum(known) + 10} s, twice that on a busy machine{others}."
    )


if __name__ == "__main__":
    sys.exit(main())
