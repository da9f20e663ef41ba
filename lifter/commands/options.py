"""Options of all commands except `train`. This module does not import the code that runs the commands, so `--help` does not
wait for torch. tests/commands/test_options.py checks that the choices match the library's."""

import argparse

from . import COMMANDS


def parse(argv):
    """Parse the arguments of a command line; `command` is the name of the command."""
    parser = argparse.ArgumentParser(prog="lifter", description="3D human pose lifting.")
    commands = parser.add_subparsers(metavar="COMMAND", dest="command", required=True)
    for name, help in COMMANDS.items():
        subparser = commands.add_parser(name, help=help)
        OPTIONS.get(name, lambda _: None)(subparser)
    return parser.parse_args(argv)


# ---- options that several commands share -----------------------------------------------------------------------------


def add_reading_options(parser):
    """Add the options that `open_data` needs for some formats; see `reading_options`."""
    parser.add_argument("--format", help="format of the file, one that `lifter data inspect` names (default: detected)")
    parser.add_argument("--size", type=parse_size, metavar="WxH", help="image size in pixels, if the file does not give it")
    parser.add_argument("--fps", type=float, help="frames per second, if the file does not give them")
    parser.add_argument(
        "--layout", help="joint order of the detector: coco, halpe, body25, body25b, coco18, mediapipe or h36m"
    )
    parser.add_argument("--variant", help="conversion to Human3.6M's joints: mmpose, mhformer or motionbert")
    parser.add_argument("--keypoints", help="keypoints of Human3.6M to read: gt, cpn_ft_h36m_dbb, ...")
    parser.add_argument("--cameras", help="Human3.6M's camera-parameters.json (default: the one next to the data)")
    parser.add_argument(
        "--body-model", metavar="FILE", help="body model for AMASS's motions: an npz of the SMPL family, or its folder"
    )
    parser.add_argument("--unit", type=float, help="length unit of a BVH file, in metres")


def reading_options(args) -> dict:
    names = ("format", "size", "fps", "layout", "variant", "keypoints", "cameras", "unit", "body_model")
    return {name: getattr(args, name) for name in names}


def add_writing_options(parser):
    """Add the options for output files; see `lifter.commands._writing`."""
    parser.add_argument("--rig", metavar="h36m|mixamo", help="joint names and order in .bvh and .glb files (default: h36m)")


def add_model_options(parser, positional=False):
    """Add the options for the model and the device. With `positional`, the checkpoint is a positional argument."""
    how = {"nargs": "?"} if positional else {}
    parser.add_argument(
        "checkpoint" if positional else "--checkpoint", metavar="CHECKPOINT", **how,
        help="weights: a file written by `save_pretrained`, or with --model any checkpoint that fits "
        "(default: base; for `lifter stream` small)",
    )  # fmt: skip
    parser.add_argument("--model", metavar="NAME", help="name from `lifter models`, if the checkpoint does not give it")
    parser.add_argument("--num-frames", type=int, metavar="T", help="frames the model sees at once (default: the model's own)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, ... (default: cpu)")
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16"), default="float32", help="dtype of the model (default: float32)"
    )


def add_lifting_options(parser):
    """Add the options for the model and for splitting a sequence into windows."""
    add_model_options(parser)
    flip = argparse.BooleanOptionalAction
    parser.add_argument(
        "--flip", action=flip, default=True, help="average with the poses of the mirrored input (default: yes)"
    )
    parser.add_argument("--batch", type=int, default=8, help="windows per model call (default: %(default)s)")


def add_detector_options(parser):
    """Add the options for the 2D keypoint detector."""
    parser.add_argument(
        "--detector", choices=("auto", "mediapipe", "rtmlib"), default="auto",
        help="2D keypoint detector for videos (default: an installed one)",
    )  # fmt: skip
    parser.add_argument("--weights", metavar="PATH", help="weights of the detector: MediaPipe's .task file or rtmlib's folder")
    parser.add_argument(
        "--mode", choices=("lightweight", "balanced", "performance"), default="balanced", help="model size of rtmlib"
    )
    parser.add_argument(
        "--backend", choices=("onnxruntime", "opencv", "openvino"), default="onnxruntime", help="inference backend of rtmlib"
    )


def add_clip_options(parser):
    """Add the options that select people and the steps before and after lifting."""
    parser.add_argument(
        "--person",
        type=parse_person,
        default="all",
        metavar="main|all|N",
        help="people to lift; 1 is the main person (default: all)",
    )
    parser.add_argument(
        "--finish", action="store_true", help="process keypoint files like videos: clean, place and finish them"
    )
    parser.add_argument(
        "--skip", nargs="+", default=(), choices=("swaps", "outliers", "unsure", "bones", "place", "floor", "feet"),
        help="processing steps to skip",
    )  # fmt: skip
    parser.add_argument("--raw", action="store_true", help="skip all processing steps")
    parser.add_argument(
        "--smooth", choices=("one-euro", "butterworth"), help="smooth the keypoints over time with this filter"
    )
    lens = parser.add_mutually_exclusive_group()
    lens.add_argument(
        "--focal", type=float, metavar="PIXELS", help="focal length (default: from the file, otherwise estimated)"
    )
    lens.add_argument(
        "--camera",
        metavar="FILE",
        help="camera file: JSON with width, height, fx, fy, cx, cy and optionally R, t, distortion; or Calib.toml[:NAME]",
    )
    lens.add_argument("--fov", type=float, metavar="DEGREES", help="horizontal field of view, instead of --focal")


def parse_size(text):
    width, _, height = text.partition("x")
    if not (width.isdigit() and height.isdigit() and int(width) and int(height)):
        raise argparse.ArgumentTypeError(f"{text!r}, expected WIDTHxHEIGHT")
    return int(width), int(height)


def parse_person(text):
    if text in ("main", "all"):
        return text
    if not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r}, expected main, all or a positive number")
    return int(text)


# ---- the commands ----------------------------------------------------------------------------------------------------


def add_data(parser):
    commands = parser.add_subparsers(metavar="COMMAND", dest="action", required=True)
    inspector = commands.add_parser("inspect", help="describe a file or folder and check it for damage")
    inspector.add_argument("paths", nargs="+", metavar="PATH")
    converter = commands.add_parser("convert", help="convert to npz, JSON, CSV, TRC, C3D, BVH or glTF")
    converter.add_argument("path", metavar="IN")
    converter.add_argument(
        "out",
        metavar="OUT",
        help="NAME.npz, .json or .glb; for a single sequence also .csv, .angles.csv, .trc, .c3d or .bvh; or a folder",
    )
    converter.add_argument("--to", metavar="FORMAT", default="bvh", help="format of the files in that folder (default: bvh)")
    converter.add_argument("--select", nargs="+", default=(), metavar="PATTERN", help='sequences to convert, e.g. "S9/*"')
    converter.add_argument("--skeleton", help="skeleton whose joint order to use, e.g. h36m")
    converter.add_argument("--virtual-cameras", action="store_true", help="project each motion into four cameras around it")
    converter.add_argument(
        "--noise", type=int, metavar="SEED", help="add the noise of a detector to the keypoints, with this seed"
    )
    add_writing_options(converter)
    for command in (inspector, converter):
        add_reading_options(command)


def add_detect(parser):
    parser.add_argument("video", metavar="VIDEO")
    parser.add_argument(
        "-o", "--out", required=True, metavar="OUT", help="NAME.npz or .json; NAME.csv writes one file per person"
    )
    add_detector_options(parser)
    parser.add_argument("--device", default="cpu", help="device of rtmlib: cpu, cuda or mps (default: cpu)")
    parser.add_argument("--variant", choices=("mmpose", "mhformer"), help="conversion to Human3.6M's joints")


def add_lift(parser):
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="videos, keypoint files, or folders of them")
    parser.add_argument(
        "-o", "--out", required=True, action="append", metavar="OUT",
        help="folder, or for a single input a file: .html, .mp4, .gif, .rrd to view; .npz, .json, .csv, .trc, .c3d, .bvh, "
        ".glb for poses; .angles.csv for joint angles; may be repeated",
    )  # fmt: skip
    parser.add_argument("--to", metavar="FORMAT", help="format of the files in an output folder (default: npz)")
    add_detector_options(parser)
    add_clip_options(parser)
    add_lifting_options(parser)
    parser.add_argument(
        "--stride",
        type=int,
        help="frames between the starts of two windows (default: half a window, which takes twice as long as a whole one)",
    )
    parser.add_argument("--place", action="store_true", help="place the root in the camera's space; needs the file's camera")
    parser.add_argument("--overwrite", action="store_true", help="lift again even if OUT is up to date")
    add_writing_options(parser)
    parser.add_argument(
        "--engine",
        choices=("local", "ray"),
        default="local",
        help="ray runs on all machines of a Ray cluster (default: local)",
    )
    add_reading_options(parser)


def add_stream(parser):
    add_model_options(parser)
    parser.add_argument(
        "--listen", metavar="ADDRESS", help="HOST:PORT or the path of a Unix socket (default: read standard input)"
    )
    parser.add_argument(
        "--size", type=parse_size, metavar="WxH", help="image size, if keypoints are in pixels (default: they are normalised)"
    )
    parser.add_argument(
        "--layout", help="joint order (default: detected from the number of joints if in pixels, otherwise h36m)"
    )
    parser.add_argument("--variant", help="conversion to Human3.6M's joints: mmpose, mhformer or motionbert")
    parser.add_argument("--chunk-size", type=int, metavar="N", help="frames lifted together (default: 9, or the model's own)")
    parser.add_argument(
        "--look-ahead", type=int, default=0, metavar="N", help="future frames that each chunk waits for (default: 0)"
    )
    parser.add_argument(
        "--missing", default="hold", help="handling of missing joints: hold, mask or error; see lifter.Stream (default: hold)"
    )
    parser.add_argument("--fps", type=float, default=50.0, help="frames per second (default: 50)")
    parser.add_argument(
        "--drop", action="store_true", help="drop a client's oldest frames when overloaded (default: answer late)"
    )
    parser.add_argument("--token", metavar="WORD", help='token that clients must send first, as {"token": "WORD"}')
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: one for small models, otherwise all)")
    parser.add_argument("--strict", action="store_true", help="exit with status 1 at the first bad line")
    parser.add_argument("--summary", metavar="FILE", help="write the final statistics to this file as JSON")


def add_render(parser):
    parser.add_argument(
        "poses", nargs="+", metavar="POSES", help="one file of poses per model, in any format that `lifter data` reads"
    )
    parser.add_argument("-o", "--out", required=True, metavar="OUT", help="NAME.mp4, NAME.gif, NAME.html or NAME.rrd")
    parser.add_argument("--truth", metavar="FILE", help="true poses of the same frames")
    parser.add_argument(
        "--keypoints", metavar="FILE", help="2D keypoints of the same frames (default: those stored with the poses)"
    )
    parser.add_argument("--video", metavar="FILE", help="video of the clip, shown below its keypoints")
    parser.add_argument("--select", metavar="NAME", help="sequence to render, if a file has several")
    parser.add_argument("--names", nargs="+", metavar="NAME", help="names of the models (default: the file names)")
    parser.add_argument("--fps", type=float, help="playback frames per second (default: from the files, otherwise 30)")
    parser.add_argument(
        "--size", type=parse_size, default=(1280, 640), metavar="WxH", help="size of an mp4 or gif (default: 1280x640)"
    )
    parser.add_argument("--root-relative", action="store_true", help="keep the root in one place")


def add_eval(parser):
    parser.add_argument("data", metavar="DATA", help="file or folder with keypoints and poses")
    parser.add_argument(
        "--protocol",
        nargs="+",
        default=("vp3d",),
        metavar="NAME",
        help="evaluation protocols, compared side by side if several (default: vp3d)",
    )
    parser.add_argument("--select", nargs="+", default=(), metavar="PATTERN", help='sequences to evaluate, e.g. "S9/*"')
    parser.add_argument("--actions", action="store_true", help="also print the figures of each action")
    parser.add_argument("--json", metavar="FILE", help="also write the figures to this file")
    add_lifting_options(parser)
    add_reading_options(parser)


def add_export(parser):
    add_model_options(parser, positional=True)
    parser.add_argument("-o", "--out", required=True, metavar="OUT", help="NAME.pt2 or NAME.onnx")
    parser.add_argument("--batch", type=int, metavar="B", help="fixed batch size (default: any)")
    parser.add_argument(
        "--frames", type=int, metavar="T", help="fixed number of frames (default: any, if the model allows it)"
    )
    parser.add_argument(
        "--input", metavar="PATH", help="keypoints to compare the exported model on (default: a synthetic gait)"
    )


def add_verify(parser):
    parser.add_argument("files", nargs="+", metavar="FILE", help="npz file of official weights, inputs and outputs")
    parser.add_argument(
        "--backend",
        choices=("reference", "cpu", "triton", "cuda"),
        help="backend to verify (default: the one a call on the CPU uses)",
    )
    parser.add_argument(
        "--dtype", choices=("float32", "float64", "bfloat16", "float16"), default="float32",
        help="dtype of weights and inputs; float64 runs on the reference. 16-bit models pass if 99 of 100 outputs do",
    )  # fmt: skip
    parser.add_argument(
        "--tol", type=float,
        help="largest absolute difference allowed (default: 1e-4 or 1e-5 for models, 1e-5 for units; at least 16 eps, for "
        "units 4 eps, times the largest output in 16-bit dtypes)",
    )  # fmt: skip


OPTIONS = {
    "data": add_data, "detect": add_detect, "lift": add_lift, "stream": add_stream, "render": add_render, "eval": add_eval,
    "export": add_export, "verify": add_verify,
}  # fmt: skip
