"""Export of models to torch.export and ONNX files. Each file is run and compared with the model before it is kept.

A .pt2 file calls lifter's kernels and needs `import lifter.kernels` to load. An .onnx file has only standard ONNX operators;
ops are exported as their references.
"""

import contextlib
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from lifter._extras import needs
from lifter._io import StrPath, whole
from lifter.data.synthetic import open_gait
from lifter.kernels import backend

from .windows import centre, margins_of

FORMATS = (".pt2", ".onnx")


class Exported(NamedTuple):
    inputs: dict  # name: shape, of numbers and of the names of the dimensions that take any size
    difference: float  # the largest to what the model gives, by its largest output
    own: float  # where that is out of tolerance: the same between the model's own kernels and references


def export(
    path: StrPath,
    model: nn.Module,
    batch: int | None = None,
    frames: int | None = None,
    motion: Tensor | np.ndarray | None = None,
    tolerance: float | None = None,
) -> Exported:
    """Export `model` to `path` and verify that the file gives the same results, also with other batch sizes and lengths if
    they are free.

    A network that selects frames may select others if two are equal up to rounding. Its file may differ from it at most twice
    as much as its kernels differ from their references.

    Args:
        path: NAME.pt2 or NAME.onnx.
        model: in evaluation mode; (B, T, J, C) -> (B, T, J, 3), or a denoiser of `lifter.diffusion`: keypoints, poses, time.
        batch, frames: fixed B and T. None: any; if the operators do not allow any T, the model's own.
        motion: (N, J or more, C) keypoints to compare on, repeated as needed. Default: a synthetic gait.
        tolerance: largest difference allowed. Default: 1e-4, or 16 eps of the model's dtype.

    Raises:
        ValueError for wrong arguments; RuntimeError if the model cannot be exported or the file gives other results;
        ImportError if a package for ONNX is not installed. No file is written then.
    """
    path, name = Path(path), type(model).__name__
    if path.suffix not in FORMATS:
        raise ValueError(f"export: path is {path}, expected NAME{' or NAME'.join(FORMATS)}")
    if model.training:
        raise ValueError("export: model is in training mode, expected model.eval()")
    for what, number in (("batch", batch), ("frames", frames)):
        if number is not None and (not isinstance(number, int) or number < 1):
            raise ValueError(f"export: {what} is {number!r}, expected a positive integer")
    dtype = next(model.parameters()).dtype
    if path.suffix == ".onnx" and dtype != torch.float32:
        raise ValueError(f"export: model is in {dtype}, expected torch.float32 for ONNX")
    tolerance = max(1e-4, 16 * torch.finfo(dtype).eps) if tolerance is None else tolerance
    motion = _gait() if motion is None else torch.as_tensor(motion)
    length = frames or _frames(model)

    any_frames = frames is None and not any(margins_of(model))  # one window, of any batch
    while True:
        try:
            with whole(path, path.suffix) as partly:
                with _of_keypoints(model):
                    exported = _written(model, partly, batch, length, any_frames, motion, tolerance)
                if not exported.difference <= max(tolerance, 2 * exported.own):
                    got = f"differs by {exported.difference:.1e} of the largest output"
                    raise RuntimeError(f"{name}: the exported file {got}, expected at most {tolerance:.1e}")
            return exported
        except RuntimeError:
            if not any_frames:
                raise
            any_frames = False  # the operators may want to know T


@contextlib.contextmanager
def _of_keypoints(model):
    """Wrapper that centres the keypoints, so that the file accepts them as they are."""
    if not getattr(model, "centred", False):
        yield
        return
    handle = model.register_forward_pre_hook(lambda model, inputs: (centre(inputs[0]), *inputs[1:]))
    try:
        yield
    finally:
        handle.remove()


def _written(model, path, batch, frames, any_frames, motion, tolerance) -> Exported:
    onnx, name = path.suffix == ".onnx", type(model).__name__
    with torch.no_grad(), warnings.catch_warnings(), backend("reference") if onnx else contextlib.nullcontext():
        warnings.simplefilter("ignore")  # of PyTorch about itself
        program = _program(model, example(model, motion, batch or 2, frames), batch is None, any_frames)
        run = _save_onnx(name, program, path) if onnx else _save_program(program, path)
    inputs = _inputs(program)
    sizes = _sizes(model, next(iter(inputs.values())), batch or 2, frames)
    examples = [example(model, motion, *size) for size in sizes]
    difference = max(_difference(model, run, x) for x in examples)
    own = 0.0 if difference <= tolerance else max(_difference(model, _by_reference(model), x) for x in examples)
    return Exported(inputs, difference, own)


def example(model, motion, batch, frames):
    """Make clips for `model` from keypoints (N, J, C). They begin at different frames; confidences are 1."""
    like = next(model.parameters())
    joints = torch.arange(model.num_joints) % motion.shape[1]
    start = torch.arange(batch)[:, None] * 7 + torch.arange(frames)
    keypoints = motion[start % len(motion)][:, :, joints].to(like)
    keypoints = torch.cat((keypoints[..., :2], torch.ones_like(keypoints[..., :1]), keypoints, keypoints), -1)
    keypoints = keypoints[..., : model.in_channels].contiguous()
    if not hasattr(model, "denoise"):
        return (keypoints,)
    poses = torch.cat((keypoints[..., :2], keypoints[..., :1]), -1)
    return keypoints, poses, torch.linspace(0, model.timesteps - 1, batch).to(like)


def _gait():
    return torch.from_numpy(next(iter(open_gait(1, 1000, fps=10))).keypoints)


def _frames(model):
    """Return the T of one call that the model is made for."""
    for attribute in ("span", "chunk_size", "num_frames"):
        if (frames := getattr(model, attribute, None)) is not None:
            return frames
    raise ValueError(f"{type(model).__name__}: no number of frames in the model, expected `frames`")


def _program(model, example, any_batch, any_frames):
    """Return torch.export's graph; free sizes are fixed if the operators require it."""
    batch = {0: torch.export.Dim.AUTO} if any_batch else {}
    clip = batch | ({1: torch.export.Dim.AUTO} if any_frames else {})
    try:
        return torch.export.export(model, example, dynamic_shapes=tuple(clip if x.dim() > 1 else batch for x in example))
    except Exception as error:  # whatever the model, or the tracer has against it
        raise RuntimeError(f"{type(model).__name__}: torch.export cannot follow it: {_reason(error)}") from error


def _reason(error):
    """The line that says why."""
    while error.__cause__ is not None:
        error = error.__cause__
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _inputs(program):
    """Return {name: shape}, with "batch" and "frames" for free sizes."""
    labels = ("batch", "frames", "", "")
    known = lambda size: size if isinstance(size, int) else size.node.maybe_as_int()
    names = program.graph_signature.user_inputs
    nodes = (node for node in program.graph.nodes if node.op == "placeholder" and node.name in names)
    return {node.name: tuple(known(size) or label for size, label in zip(node.meta["val"].shape, labels)) for node in nodes}


def _save_program(program, path):
    torch.export.save(program, path)
    return torch.export.load(path).module()


def _save_onnx(name, program, path):
    with needs("export", "ONNX"):
        import onnxruntime
        import onnxscript  # noqa: F401

    from ._onnx import TRANSLATIONS

    shapes = tuple({i: size for i, size in enumerate(shape) if isinstance(size, str)} for shape in _inputs(program).values())
    try:
        converted = torch.onnx.export(
            program, dynamo=True, verbose=False, dynamic_shapes=shapes, output_names=["pose3d"],
            custom_translation_table=TRANSLATIONS,
        )  # fmt: skip
        converted.save(path, external_data=False)
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    except Exception as error:  # whatever the exporter or onnxruntime have against it
        raise RuntimeError(f"{name}: no ONNX of it: {_reason(error)}") from error
    names = [x.name for x in session.get_inputs()]
    return lambda *inputs: torch.from_numpy(session.run(None, dict(zip(names, (x.cpu().numpy() for x in inputs))))[0])


def _sizes(model, shape, batch, frames):
    """Return the sizes (B, T) to compare at: the exported one and, if sizes are free, others."""
    multiple = getattr(model, "clip_multiple", 1)
    fewer = max(min(2 * multiple, frames), frames // 2 // multiple * multiple) if shape[1] == "frames" else frames
    return [(batch, frames), *([(1, frames), (3, fewer)] if shape[0] == "batch" else [(batch, fewer)])]


def _by_reference(model):
    def run(*inputs):
        with backend("reference"):
            return model(*inputs)

    return run


@torch.no_grad()
def _difference(model, run, inputs):
    try:
        expected = model(*inputs).cpu()
    except ValueError as error:  # it takes certain lengths alone
        raise RuntimeError(f"{type(model).__name__}: {error}") from error
    try:
        got = run(*inputs).cpu()
    except Exception as error:  # whatever torch.export's guards or onnxruntime have against it
        shape = tuple(inputs[0].shape)
        raise RuntimeError(f"{type(model).__name__}: the exported file does not take {shape}: {_reason(error)}") from error
    if got.shape != expected.shape:
        return torch.inf
    return float((got - expected).abs().max() / expected.abs().max())
