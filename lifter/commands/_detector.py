"""Choice of the detector that a command runs. Nothing here needs torch."""

from lifter.video import find_detector


def detector_of(args):
    """The detector that the options name, loaded."""
    return find_detector(args.detector, args.weights, mode=args.mode, backend=args.backend, device=args.device)
