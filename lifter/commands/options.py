"""The options of all commands but `train`. They are described without what runs the commands, so that nobody waits for torch
to be told about them; choices are those of the library, which tests/commands/test_options.py holds."""

import argparse

from . import COMMANDS


def parse(argv):
    """The arguments of a command line; `command` is which command it is."""
    parser = argparse.ArgumentParser(prog="lifter", description="3D human pose lifting.")
    commands = parser.add_subparsers(metavar="COMMAND", dest="command", required=True)
    for name, help in COMMANDS.items():
        subparser = commands.add_parser(name, help=help)
        OPTIONS.get(name, lambda _: None)(subparser)
    return parser.parse_args(argv)


# ---- options that several commands share -----------------------------------------------------------------------------


def add_reading_options(parser):
    """Add the options that `open_data` needs for some formats; see `reading_options`."""
    parser.add_argument("--format", help="as `lifter data inspect` names it; default: found out")
    parser.add_argument("--size", type=parse_size, metavar="WxH", help="of the image, where the file does not tell it")
    parser.add_argument("--fps", type=float, help="frames per second, where the file does not tell it")
    parser.add_argument("--layout", help="of a detector's joints: coco, halpe, body25, body25b, coco18, mediapipe, h36m")
    parser.add_argument("--variant", help="of the conversion to Human3.6M: mmpose, mhformer, motionbert")
    parser.add_argument("--keypoints", help="of Human3.6M: gt, cpn_ft_h36m_dbb, ...")
    parser.add_argument("--cameras", help="of Human3.6M: its camera-parameters.json; default: the one beside the data")
    parser.add_argument(
        "--body-model", metavar="FILE", help="of AMASS's motions: a model of the SMPL family (npz), or its folder"
    )
    parser.add_argument("--unit", type=float, help="of a BVH file, in metres")


def reading_options(args) -> dict:
    names = ("format", "size", "fps", "layout", "variant", "keypoints", "cameras", "unit", "body_model")
    return {name: getattr(args, name) for name in names}


def add_writing_options(parser):
    """Add the options of the files that are written; see `lifter.commands._writing`."""
    parser.add_argument("--rig", metavar="h36m|mixamo", help="names and joints of .bvh and .glb; default: h36m")


def add_model_options(parser, positional=False):
    """Add the options of the model and of how it runs. `positional`: the checkpoint is an argument, not an option."""
    how = {"nargs": "?"} if positional else {}
    parser.add_argument(
        "checkpoint" if positional else "--checkpoint", metavar="CHECKPOINT", **how,
        help="weights: a file of `save_pretrained`, or with --model any that fits; default: those that ship with lifter",
    )  # fmt: skip
    parser.add_argument("--model", metavar="NAME", help="of `lifter models`, where the checkpoint does not tell it")
    parser.add_argument("--num-frames", type=int, metavar="T", help="of that model; default: its own")
    parser.add_argument("--device", default="cpu", help="cpu (default), cuda, cuda:1, ...")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="default: float32")


def add_lifting_options(parser):
    """Add the options of the model and of how it sees a sequence."""
    add_model_options(parser)
    flip = argparse.BooleanOptionalAction
    parser.add_argument("--flip", action=flip, default=True, help="the mean with the mirror image's poses (default: yes)")
    parser.add_argument("--batch", type=int, default=8, help="windows in one call (default: %(default)s)")


def add_detector_options(parser):
    """Options for the detector of people in a video."""
    parser.add_argument(
        "--detector", choices=("auto", "mediapipe", "rtmlib"), default="auto",
        help="of people in a video; default: what is installed",
    )  # fmt: skip
    parser.add_argument("--weights", metavar="PATH", help="of the detector: MediaPipe's .task file, or rtmlib's folder")
    parser.add_argument("--mode", choices=("lightweight", "balanced", "performance"), default="balanced", help="of rtmlib")
    parser.add_argument("--backend", choices=("onnxruntime", "opencv", "openvino"), default="onnxruntime", help="of rtmlib")


def add_clip_options(parser):
    """Options for the people of a clip, and for the steps before and after they are lifted."""
    parser.add_argument(
        "--person", type=parse_person, default="all", metavar="main|all|N", help="of a video; 1 is the main one (default: all)"
    )
    parser.add_argument("--finish", action="store_true", help="treat files of keypoints as videos are: mend, place and finish")
    parser.add_argument(
        "--skip", nargs="+", default=(), choices=("swaps", "outliers", "unsure", "bones", "place", "floor", "feet"),
        help="what is not to be done with a clip",
    )  # fmt: skip
    parser.add_argument("--raw", action="store_true", help="nothing of that")
    parser.add_argument("--smooth", choices=("one-euro", "butterworth"), help="also filter the keypoints in time")
    lens = parser.add_mutually_exclusive_group()
    lens.add_argument("--focal", type=float, metavar="PIXELS", help="of the camera; default: what a file tells, else a guess")
    lens.add_argument(
        "--camera",
        metavar="FILE",
        help="JSON of width, height, fx, fy, cx, cy, perhaps R, t and distortion; or Calib.toml, of several Calib.toml:NAME",
    )
    lens.add_argument("--fov", type=float, metavar="DEGREES", help="the same as an angle, that of the image's width")


def parse_size(text):
    width, _, height = text.partition("x")
    if not (width.isdigit() and height.isdigit() and int(width) and int(height)):
        raise argparse.ArgumentTypeError(f"{text!r}, expected WIDTHxHEIGHT")
    return int(width), int(height)


def parse_person(text):
    if text in ("main", "all"):
        return text
    if not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r}, expected main, all or a number from 1 on")
    return int(text)


# ---- the commands ----------------------------------------------------------------------------------------------------


def add_data(parser):
    commands = parser.add_subparsers(metavar="COMMAND", dest="action", required=True)
    inspector = commands.add_parser("inspect", help="say what a file or folder is, and whether it is sound")
    inspector.add_argument("paths", nargs="+", metavar="PATH")
    converter = commands.add_parser("convert", help="write it as npz, JSON, CSV, TRC, C3D, BVH or glTF")
    converter.add_argument("path", metavar="IN")
    converter.add_argument(
        "out", metavar="OUT", help="NAME.npz, .json, .glb; of one sequence .csv, .angles.csv, .trc, .c3d, .bvh; or a folder"
    )
    converter.add_argument("--to", metavar="FORMAT", default="bvh", help="in that folder; default: bvh")
    converter.add_argument("--select", nargs="+", default=(), metavar="PATTERN", help='names to take, as "S9/*"')
    converter.add_argument("--skeleton", help="reorder the joints, as h36m")
    converter.add_argument("--virtual-cameras", action="store_true", help="what four cameras around each motion see")
    converter.add_argument("--noise", type=int, metavar="SEED", help="as a detector would find the keypoints")
    add_writing_options(converter)
    for command in (inspector, converter):
        add_reading_options(command)


def add_detect(parser):
    parser.add_argument("video", metavar="VIDEO")
    parser.add_argument("-o", "--out", required=True, metavar="OUT", help="NAME.npz, .json; a file for each person: .csv")
    add_detector_options(parser)
    parser.add_argument("--device", default="cpu", help="of rtmlib: cpu, cuda, mps")
    parser.add_argument("--variant", choices=("mmpose", "mhformer"), help="of the conversion to Human3.6M")


def add_lift(parser):
    parser.add_argument(
        "inputs", nargs="+", metavar="INPUT", help="videos, files of keypoints, and folders with all in them that are either"
    )
    parser.add_argument(
        "-o", "--out", required=True, action="append", metavar="OUT",
        help="a folder, or for one input a file: to look at .html, .mp4, .gif, .rrd; poses as .npz, .json, .csv, .trc, .c3d, "
        ".bvh, .glb; joint angles as .angles.csv; may be given several times",
    )  # fmt: skip
    parser.add_argument("--to", metavar="FORMAT", help="in a folder, one of these; default: npz")
    add_detector_options(parser)
    add_clip_options(parser)
    add_lifting_options(parser)
    parser.add_argument(
        "--stride", type=int, help="frames from window to window; default: half of what the model sees, for twice the time"
    )
    parser.add_argument("--place", action="store_true", help="put the root where the camera, which the file tells, sees it")
    parser.add_argument("--overwrite", action="store_true", help="lift again what is in OUT already")
    add_writing_options(parser)
    parser.add_argument("--engine", choices=("local", "ray"), default="local", help="ray: on all machines of a Ray cluster")
    add_reading_options(parser)


def add_stream(parser):
    add_model_options(parser)
    parser.add_argument("--listen", metavar="ADDRESS", help="HOST:PORT, or the path of a Unix socket; default: standard input")
    parser.add_argument("--size", type=parse_size, metavar="WxH", help="of the image, for pixels; default: normalised")
    parser.add_argument("--layout", help="of a detector's joints; default: in pixels by their number, else h36m")
    parser.add_argument("--variant", help="of the conversion to Human3.6M: mmpose, mhformer, motionbert")
    parser.add_argument("--chunk-size", type=int, metavar="N", help="frames lifted together; default: 9, or the model's own")
    parser.add_argument("--look-ahead", type=int, default=0, metavar="N", help="frames that a chunk waits for besides")
    parser.add_argument("--missing", default="hold", help="hold, mask or error: see lifter.Stream")
    parser.add_argument("--fps", type=float, default=50.0, help="frames per second; default: 50")
    parser.add_argument(
        "--drop", action="store_true", help="overloaded, drop a client's oldest frames; default: answers are late"
    )
    parser.add_argument("--token", metavar="WORD", help='what clients must send first, {"token": "WORD"}')
    parser.add_argument("--threads", type=int, metavar="N", help="of the CPU; default: one for small models, else all")
    parser.add_argument("--strict", action="store_true", help="end at the first bad line, with exit status 1")
    parser.add_argument("--summary", metavar="FILE", help="write what is printed at the end as JSON")


def add_render(parser):
    parser.add_argument("poses", nargs="+", metavar="POSES", help="a file with poses for each model, as `lifter data` reads")
    parser.add_argument("-o", "--out", required=True, metavar="OUT", help="NAME.mp4, NAME.gif, NAME.html or NAME.rrd")
    parser.add_argument("--truth", metavar="FILE", help="true poses of the same frames")
    parser.add_argument("--keypoints", metavar="FILE", help="2D keypoints of the same frames; default: those beside the poses")
    parser.add_argument("--video", metavar="FILE", help="the clip's video, shown below its keypoints")
    parser.add_argument("--select", metavar="NAME", help="the sequence, where a file has several")
    parser.add_argument("--names", nargs="+", metavar="NAME", help="of the models; default: the files' names")
    parser.add_argument("--fps", type=float, help="frames per second to play; default: what the files tell, else 30")
    parser.add_argument("--size", type=parse_size, default=(1280, 640), metavar="WxH", help="of a film; default: 1280x640")
    parser.add_argument("--root-relative", action="store_true", help="the root stays at one place")


def add_eval(parser):
    parser.add_argument("data", metavar="DATA", help="a file or folder with keypoints and poses")
    parser.add_argument("--protocol", nargs="+", default=("vp3d",), metavar="NAME", help="default: vp3d; several side by side")
    parser.add_argument("--select", nargs="+", default=(), metavar="PATTERN", help='sequences to take, as "S9/*"')
    parser.add_argument("--actions", action="store_true", help="also action by action")
    parser.add_argument("--json", metavar="FILE", help="write the figures there, too")
    add_lifting_options(parser)
    add_reading_options(parser)


def add_export(parser):
    add_model_options(parser, positional=True)
    parser.add_argument("-o", "--out", required=True, metavar="OUT", help="NAME.pt2 or NAME.onnx")
    parser.add_argument("--batch", type=int, metavar="B", help="clips of every call; default: any number")
    parser.add_argument("--frames", type=int, metavar="T", help="of every clip; default: any number where the model allows it")
    parser.add_argument("--input", metavar="PATH", help="data whose keypoints to compare on; default: a synthetic gait")


def add_verify(parser):
    parser.add_argument("files", nargs="+", metavar="FILE", help="npz of official weights, inputs and outputs")
    parser.add_argument(
        "--backend", choices=("reference", "cpu", "triton", "cuda"), help="default: what a call on the CPU takes"
    )
    parser.add_argument(
        "--dtype", choices=("float32", "float64", "bfloat16", "float16"), default="float32",
        help="of weights and inputs; float64 runs on the reference. In 16 bit models are judged by 99 of 100 outputs",
    )  # fmt: skip
    parser.add_argument(
        "--tol", type=float,
        help="largest absolute difference (default: 1e-4 or 1e-5 for models, 1e-5 for units; 16-bit dtypes: at least "
        "16 eps, units 4 eps, times the largest output)",
    )  # fmt: skip


OPTIONS = {
    "data": add_data, "detect": add_detect, "lift": add_lift, "stream": add_stream, "render": add_render, "eval": add_eval,
    "export": add_export, "verify": add_verify,
}  # fmt: skip
