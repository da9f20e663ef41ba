"""Lifting of keypoint files to pose files, as `lifter lift` does.

Outputs are written atomically, so a killed run can be resumed by starting it again. A record next to the outputs stores what
they were lifted from; changed inputs are lifted again. Several runs into one folder share the work.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from lifter._errors import located
from lifter.data import detect, open_data
from lifter.data.outputs import output_path, write
from lifter.data.registry import options_of
from lifter.geometry import recover_root
from lifter.models import DeciWatch, MixSynthFormer, SmoothNet
from lifter.pretrained import load_pretrained
from lifter.rewrite import freeze
from lifter.skeleton import H36M

from .record import NAME, Record
from .windows import lift_sequences, margins_of

WINDOW = 243  # frames per call for a model that accepts any number
OVERLAP = 2  # windows that see each frame by default
OVERLAPPING = "half a window"  # default stride in the record; it used to be a whole window
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Model:
    """Options of the model: which one, and how it runs."""

    checkpoint: str | None = None  # None: the one that ships with lifter
    name: str | None = None
    num_frames: int | None = None
    device: str = "cpu"
    dtype: str = "float32"

    def network(self):
        """The model in evaluation mode.

        Raises:
            ValueError, KeyError, FileNotFoundError or ImportError if the model does not load or the device does not exist.
        """
        if self.num_frames is not None and self.name is None:
            raise ValueError("--num-frames is for files that do not say their model: name it with --model")
        if self.name is not None and self.checkpoint is None:
            raise ValueError(f"--model {self.name}: expected a --checkpoint with it, weights of that model")
        known = {} if self.num_frames is None else {"num_frames": self.num_frames}
        try:
            model = load_pretrained(self.checkpoint, self.name, **known).model
        except TypeError as error:  # a model that has no such argument
            raise ValueError(f"--num-frames: {error}") from None
        try:
            return model.to(self.device, DTYPES[self.dtype])
        except (RuntimeError, AssertionError) as error:  # as torch says that there is no such device
            raise ValueError(f"--device {self.device}: {str(error).splitlines()[0]}") from None

    def load(self):
        """Load the network, frozen by `lifter.freeze` if it is on the CPU."""
        model = self.network()
        if isinstance(model, (DeciWatch, MixSynthFormer, SmoothNet)):
            raise ValueError(f"{type(model).__name__} refines poses, expected a model that lifts keypoints")
        return freeze(model) if self.device == "cpu" else model


@dataclass(frozen=True)
class Lift:
    """Options of `lift_files`.

    Attributes:
        out: a folder. format: a key of `lifter.data.registry.WRITERS`; None: `out` is the file for a single sequence.
        flip, batch, stride: see `lifter.evaluation.lift_sequences`; the default stride is that of `lift_smoothly`.
        place: place the root in the space of the sequence's camera (`lifter.diffusion.recover_root`) instead of at (0, 0, 0).
        overwrite: also lift what is up to date.
        reading: options of `open_data`, used for files whose format accepts them. writing: options of `lifter.data.write`.
    """

    out: Path
    format: str | None = "npz"
    model: Model = Model()
    flip: bool = True
    batch: int = 8
    stride: int | None = None
    place: bool = False
    overwrite: bool = False
    reading: dict = field(default_factory=dict)
    writing: dict = field(default_factory=dict)

    def record(self) -> Record:
        """Return the record of what these outputs were lifted from."""
        path = self.out / NAME if self.format else self.out.with_name(f".{self.out.name}{NAME}")
        model, stride = self.model, self.stride or OVERLAPPING
        options = [model.name, model.num_frames, model.dtype, self.flip, stride, self.place]
        told = [sorted(each.items()) for each in (self.reading, self.writing) if each]
        return Record(path, [options, *told], model.checkpoint, self.overwrite)


def lift_smoothly(model, sequences, flip=True, batch=8, stride=None, step=lambda frames: None, camera_of=lambda key: None):
    """Lift sequences with overlapping windows that fade into each other; arguments as for `lift_sequences`. The default stride
    is half a window, which takes twice as long as a whole one, without overlap. A model that lifts one frame per window lifts
    each frame once."""
    window = getattr(model, "num_frames", None) or WINDOW
    if stride is None and not any(margins_of(model)):
        stride = max(1, window // OVERLAP)
    flip = H36M if flip else None
    return lift_sequences(model, sequences, window, stride, flip, batch, fade=True, step=step, camera_of=camera_of)


def lift_files(model, sources, lift: Lift, report: Callable[[str, str], None], step=lambda frames: None):
    """Lift the sequences of `sources`, several short ones per call, and write each as soon as it is lifted.

    `report(what, text)` is told of every sequence that was "lifted" ("changed" before if it was there), is "there" already, or
    is "elsewhere", in the hands of another process; of what "failed", with a line that says why, and of every "source".
    `step` is that of `lift_sequences`.
    """
    record = lift.record()
    try:
        _lift_files(model, sources, lift, record, report, step)
    finally:
        record.close()


def _lift_files(model, sources, lift, record, report, step):
    sequences = _sequences(sources, lift, record, report)
    for (path, sequence, fingerprint), poses in lift_smoothly(model, sequences, lift.flip, lift.batch, lift.stride, step):
        try:
            write(path, with_poses(sequence, poses.float().cpu(), lift.place), **lift.writing)
            record.add(path, fingerprint)
        except Exception as error:
            report("failed", located(error, f"{sequence.source}: {sequence.name}"))
        else:
            report("lifted", str(path))
        record.release(path)


def _sequences(sources, lift, record, report):
    """Yield ((output, sequence, fingerprint), keypoints) of the sequences to lift. An error in one file does not affect the
    others."""
    for source in sources:
        try:
            fingerprint = record.fingerprint(source.path)
            outputs = _outputs(source, lift, partial(record.state, fingerprint=fingerprint))
        except Exception as error:
            report("failed", located(error, source.path))
            outputs = []
        for path, read in outputs:
            if record.state(path, fingerprint) == "there":
                report("there", str(path))
                continue
            if not record.claim(path):
                report("elsewhere", str(path))
                continue
            state = record.state(path, fingerprint)  # another process may have lifted it meanwhile
            try:
                sequence = None if state == "there" else liftable(read(), lift.place)
            except Exception as error:
                record.release(path)
                report("failed", located(error, source.path))
                continue
            if state != "new":
                report(state, str(path))
            if sequence is None:
                record.release(path)
            else:
                yield (path, sequence, fingerprint), sequence.keypoints
        report("source", str(source.path))


def _outputs(source, lift, state):
    """Return [(output, function that reads its sequence)]. A file with a single sequence that is up to date is not opened."""
    path = lift.out if lift.format is None else output_path(lift.out, source.place, None, lift.format)
    if state(path) == "there":
        return [(path, None)]
    format = lift.reading.get("format") or detect(source.path)
    known = {name: value for name, value in lift.reading.items() if name in options_of(format)}
    data = open_data(source.path, format, **known)
    if len(data) > 1 and lift.format is None:
        raise ValueError(f"{source.path}: {len(data)} sequences, expected one for {lift.out}: name a folder instead")
    if len(data) > 1:
        return [(output_path(lift.out, source.place, name, lift.format), read) for name, read in data.items.items()]
    return [(path, read) for read in data.items.values()]


def liftable(sequence, place=False):
    """Return the sequence in Human3.6M's joints; raise ValueError if it lacks anything that lifting needs."""
    where = f"{sequence.source}: {sequence.name}"
    if sequence.keypoints is None:
        raise ValueError(f"{where}: no keypoints to lift: these are 3D poses")
    if place and sequence.camera is None:
        raise ValueError(f"{where}: no camera that tells where the root is: lift it without --place")
    return sequence if sequence.skeleton is H36M else sequence.to(H36M)


def with_poses(sequence, poses, place=False):
    """Return the sequence with poses (T, 17, 3) of a model, relative to the root or, with `place`, in the space of its
    camera."""
    poses[:, 0] = 0
    if place:
        keypoints = torch.from_numpy(sequence.keypoints[..., :2].astype(np.float64))
        camera = torch.from_numpy(sequence.camera.normalised)
        poses = poses + recover_root(poses.double()[None], keypoints[None], camera)[0, :, None]
    known = dict.fromkeys(("keypoints_true", "estimates", "image_poses", "factor"))
    return replace(sequence, poses=poses.numpy(), **known)
