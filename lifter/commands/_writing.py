"""Options of a command line for the writers of files."""

from lifter.data.bones import RIGS
from lifter.data.outputs import suffix_of
from lifter.data.registry import WRITERS


def writing_options(args, *outs) -> dict:
    """The options of `lifter.data.write` that a command line gives; `outs` are its outputs, or their formats."""
    if args.rig is None:
        return {}
    if args.rig not in RIGS:
        raise ValueError(f"--rig is {args.rig!r}, expected {' or '.join(RIGS)}")
    takes = [suffix for suffix, writer in WRITERS.items() if "rig" in writer.options]
    if not any(suffix_of(f".{out}", takes) for out in outs if out):
        raise ValueError(f"--rig is for .{' and .'.join(sorted(takes))} alone")
    return {"rig": args.rig}
