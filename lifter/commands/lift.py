import sys
from collections import Counter

from lifter._errors import message
from lifter._weights import weights_path

from ._clips import lift_clips
from ._plan import are_clips, sources_of
from ._writing import writing_options


def run(args) -> int:
    told, problems = Counter(), []
    try:
        sources = sources_of(args)
        writing_options(args, *args.out, args.to)
        weights_path(args.checkpoint)
        if are_clips(args, sources):
            lift_clips(args, sources, problems)
        else:
            from ._keypoints import lift_keypoints  # and torch, once all is known to be right

            lift_keypoints(args, sources, told, problems)
    except KeyboardInterrupt:
        print("lifter lift: stopped; the same command goes on from here", file=sys.stderr)
        return 130
    except (ValueError, KeyError, OSError, ImportError, RuntimeError) as error:
        problems.append(f"lifter lift: {message(error)}")
    print(*problems, sep="\n", end="\n" if problems else "", file=sys.stderr)
    if told:
        there = f" ({told['changed']} again: other input, model or options)" if told["changed"] and not args.overwrite else ""
        there += f", {told['there']} were there (--overwrite lifts them again)" if told["there"] else ""
        there += f", {told['elsewhere']} are in the hands of another process" if told["elsewhere"] else ""
        print(f"{args.out[0]}: {told['lifted']} sequences lifted{there}, {told['failed']} failed")
    return 1 if problems else 0
