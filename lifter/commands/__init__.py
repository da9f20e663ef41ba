"""The subcommands of `lifter`: `options` describes their arguments; a module each runs them, `run(args)`, the exit status.

`train` has a parser of its own and `main(argv)`.
"""

COMMANDS = {  # in the order of `lifter --help`, which prints the line beside each
    "info": "versions, and which kernels run here",
    "models": "the models that create_model knows",
    "data": "what keypoints and poses a file holds, and other formats of them",
    "detect": "2D keypoints of the people in a video",
    "lift": "3D poses for videos, and for files and folders of keypoints",
    "stream": "live: keypoints in, poses out, as lines of JSON on standard input and output or on a socket",
    "render": "poses as a film, or as a page to turn and compare them in",
    "eval": "how far a model's poses are from those of a data set",
    "export": "a model as a file of torch.export or ONNX, run and compared before it appears",
    "verify": "compare with what the official code computed",
    "train": "train a model by its published recipe, or by yours",
}
