"""Choice of the model that a command runs."""

from lifter.inference.files import Model


def model_of(args):
    """The model that `options.add_model_options` name, not yet loaded."""
    return Model(args.checkpoint, args.model, args.num_frames, args.device, args.dtype)
