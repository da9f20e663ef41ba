"""Subcommands of `lifter`. `options` defines their arguments; each has a module whose `run(args)` returns the exit status.

`train` has its own parser and a function `main(argv)`.
"""

COMMANDS = {  # in the order of `lifter --help`, which prints the line beside each
    "info": "print versions and the kernels that run on this machine",
    "models": "list all models",
    "data": "inspect and convert files of keypoints and poses",
    "detect": "detect the 2D keypoints of people in a video",
    "lift": "lift videos or keypoint files to 3D poses",
    "stream": "lift live keypoints, as lines of JSON on standard input and output or on a socket",
    "render": "render poses as a video or as an interactive page",
    "eval": "measure the errors of a model on a data set",
    "export": "export a model to torch.export or ONNX and verify the file",
    "verify": "compare with results of the official code",
    "train": "train a model with its published recipe or your own",
}
