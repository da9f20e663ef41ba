"""Files of keypoints to files of poses: what `lifter lift` does.

An output that is there is whole, so that a run that was killed goes on where it was when it is started again. A record beside
the outputs tells what they were lifted from: what has changed is lifted again. Several runs into one folder share the work.
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

WINDOW = 243  # frames at once for a model that takes any number
OVERLAP = 2  # windows that see a frame, if nothing else is said
OVERLAPPING = "half a window"  # a stride that is not given, in the record; it was a whole window once
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Model:
    """Choice of a model and of how it runs."""

    checkpoint: str | None = None  # None: the one that ships with lifter
    name: str | None = None
    num_frames: int | None = None
    device: str = "cpu"
    dtype: str = "float32"

    def network(self):
        """The model in evaluation mode.

        Raises:
            ValueError, KeyError, FileNotFoundError, ImportError where it does not load, or there is no such device.
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
        """`network`, ready to lift keypoints: on the CPU frozen (`lifter.freeze`)."""
        model = self.network()
        if isinstance(model, (DeciWatch, MixSynthFormer, SmoothNet)):
            raise ValueError(f"{type(model).__name__} refines poses, expected a model that lifts keypoints")
        return freeze(model) if self.device == "cpu" else model


@dataclass(frozen=True)
class Lift:
    """Options of `lift_files`.

    Attributes:
        out: a folder. format: of `lifter.data.registry.WRITERS`; None: `out` is the file for the one sequence there is.
        flip, batch, stride: of `lifter.evaluation.lift_sequences`; a stride of None is that of `lift_smoothly`.
        place: put the root where the sequence's camera sees it (`lifter.diffusion.recover_root`), else at (0, 0, 0).
        overwrite: also what is there and has not changed.
        reading: options of `open_data`, each for the files whose format takes it. writing: the same of `lifter.data.write`.
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
        """The record of what these outputs were lifted from."""
        path = self.out / NAME if self.format else self.out.with_name(f".{self.out.name}{NAME}")
        model, stride = self.model, self.stride or OVERLAPPING
        options = [model.name, model.num_frames, model.dtype, self.flip, stride, self.place]
        told = [sorted(each.items()) for each in (self.reading, self.writing) if each]
        return Record(path, [options, *told], model.checkpoint, self.overwrite)


def lift_smoothly(model, sequences, flip=True, batch=8, stride=None, step=lambda frames: None, camera_of=lambda key: None):
    """`lift_sequences` with windows that overlap and fade into each other. A stride of None is half a window: two see each
    frame, which takes twice as long as one. With a stride of a whole window they do not overlap. A
    model that lifts one frame of a window gives each frame once."""
    window = getattr(model, "num_frames", None) or WINDOW
    if stride is None and not any(margins_of(model)):
        stride = max(1, window // OVERLAP)
    flip = H36M if flip else None
    return lift_sequences(model, sequences, window, stride, flip, batch, fade=True, step=step, camera_of=camera_of)


def lift_files(model, sources, lift: Lift, report: Callable[[str, str], None], step=lambda frames: None):
    """Lift the sequences of `sources`, several short ones in one call, and write each when it is lifted.

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
    """((output, sequence, fingerprint), keypoints) of what is to be lifted. What is wrong with a file concerns no other."""
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
            state = record.state(path, fingerprint)  # it may have been lifted elsewhere meanwhile
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
    """[(output, function that reads its sequence)]; the file is not even opened if it has one sequence and that is lifted."""
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
    """A sequence that has all that lifting needs, in Human3.6M's joints; ValueError if it has not."""
    where = f"{sequence.source}: {sequence.name}"
    if sequence.keypoints is None:
        raise ValueError(f"{where}: no keypoints to lift: these are 3D poses")
    if place and sequence.camera is None:
        raise ValueError(f"{where}: no camera that tells where the root is: lift it without --place")
    return sequence if sequence.skeleton is H36M else sequence.to(H36M)


def with_poses(sequence, poses, place=False):
    """A sequence with the poses (T, 17, 3) that a model gave, relative to the root or, with `place`, where its camera sees
    it."""
    poses[:, 0] = 0
    if place:
        keypoints = torch.from_numpy(sequence.keypoints[..., :2].astype(np.float64))
        camera = torch.from_numpy(sequence.camera.normalised)
        poses = poses + recover_root(poses.double()[None], keypoints[None], camera)[0, :, None]
    known = dict.fromkeys(("keypoints_true", "estimates", "image_poses", "factor"))
    return replace(sequence, poses=poses.numpy(), **known)
