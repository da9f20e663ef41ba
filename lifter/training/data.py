"""Clips of sequences, and in which order they are seen."""

from collections.abc import Iterable

import numpy as np
import torch
from torch.utils import data as torch_data

from lifter._io import StrPath
from lifter.data import Dataset, open_data
from lifter.data.films import Bodies, Cameras, Detectors, Films
from lifter.data.mocap import film, middle
from lifter.geometry import mirror
from lifter.inference.windows import window_starts
from lifter.recipe import Recipe

KEPT = 1024  # sequences in memory


def open_for_training(
    path: StrPath, recipe: Recipe, virtual_cameras: bool = False, noise: int | None = None, **reading
) -> Dataset:
    """The sequences of a file or folder as a recipe wants them.

    A recipe with `film` takes motions as they are. `virtual_cameras`: those of `lifter.data.mocap.film` see the motions.
    `noise`: the seed of a detector's noise. `reading`: of `open_data`.
    """
    if recipe.film is not None:
        return open_data(path, **reading)
    if virtual_cameras:
        return film(open_data(path, **reading), noise)
    return open_data(path, noise=noise, **reading)


def split(data: Dataset, train: Iterable[str] = ("*",), validate: Iterable[str] = ()) -> tuple[Dataset, Dataset | None]:
    """The sequences whose names match, as "S1/*": to train on, and to validate on. What is validated on is never trained on.

    Raises:
        KeyError for patterns that no sequence matches; ValueError if nothing is left to train on.
    """
    held_out = data.select(*validate) if validate else None
    chosen = data.select(*train)
    items = {name: read for name, read in chosen.items.items() if held_out is None or name not in held_out.items}
    if not items:
        raise ValueError(f"{data.path}: nothing to train on, {' or '.join(validate)} is all that matches {' or '.join(train)}")
    return Dataset(data.format, data.path, items), held_out


def watched(motions: Dataset) -> Dataset:
    """Validation clips: five seconds from the middle of each motion, seen by one camera that looks down by 0, 20 or 40 degrees
    and is rolled by 0 or 20, with the noise of a detector."""
    items, motions = {}, middle(motions, 5.0)
    for number, (motion, read) in enumerate(motions.items.items()):
        name = f"{motion}/{number % 4}"
        one = Dataset(motions.format, motions.path, {motion: read})
        items[name] = film(one, 0, pitch=20 * (number % 3), roll=20 * (number // 3 % 2)).items[name]
    return Dataset(motions.format, motions.path, items)


def pair(sequence, inputs="keypoints"):
    """Return the inputs of a model, (T, J, C), and the poses (T, J, 3) that it should give, relative to the root."""
    seen = getattr(sequence, inputs)
    if seen is None or sequence.poses is None:
        missing = "poses" if sequence.poses is None else inputs
        raise ValueError(f"{sequence.source}: {sequence.name}: no {missing}, which training needs")
    if inputs == "estimates":
        root = sequence.skeleton.parents.index(-1)
        seen = seen - seen[:, root : root + 1]
    return seen, sequence.rooted()


class Clips(torch_data.Dataset):
    """Clips of `num_frames` frames, one every `stride` and one that ends with the sequence; a short sequence is continued with
    its last frame. Sequences are read when a clip of them is asked for, and the last ones kept.

    Clips with frames that are not valid are left out.

    `clips[i, mirrored]` is (inputs (T, J, C), poses (T, J, 3)) of clip i, seen in a mirror or not.
    """

    def __init__(self, data: Dataset, num_frames, stride=None, inputs="keypoints"):
        self.data, self.num_frames, self.inputs = data, num_frames, inputs
        self.clips = []  # (name, first frame)
        self.skeleton = self.channels = None
        self._kept = {}
        for name in data.names:
            sequence = data[name]
            seen, _ = self._keep(name, sequence)
            if self.skeleton is None:
                self.skeleton, self.channels = sequence.skeleton, seen.shape[2]
            if (sequence.skeleton, seen.shape[2]) != (self.skeleton, self.channels):
                got = f"joints of {sequence.skeleton.name}, {seen.shape[2]} channels"
                expected = f"{self.skeleton.name} and {self.channels} as in {data.names[0]}"
                raise ValueError(f"{sequence.source}: {name}: {got}, expected {expected}")
            for start in window_starts(len(sequence), num_frames, num_frames if stride is None else stride):
                if sequence.valid is None or sequence.valid[start : start + num_frames].all():
                    self.clips.append((name, start))

    def __len__(self):
        return len(self.clips)

    def __getitem__(self, item):
        index, mirrored = item
        name, start = self.clips[index]
        arrays = self._kept.get(name) or self._keep(name, self.data[name])
        frames = np.minimum(np.arange(start, start + self.num_frames), len(arrays[0]) - 1)
        clip = [torch.from_numpy(array[frames]) for array in arrays]
        return [mirror(x, self.skeleton) for x in clip] if mirrored else clip

    def pairs(self):
        """All clips, as they are."""
        return (self[i, False] for i in range(len(self)))

    def batches(self, recipe, seed, step, steps, share):
        """Arguments of a DataLoader that gives the batches from `step` to the end of its epoch, or to `steps`."""
        epoch, done = divmod(step, len(self) // recipe.batch_size)
        order = batches(len(self), recipe.batch_size, seed, epoch, recipe.flip)[done : done + steps - step]
        return {"dataset": self, "batch_sampler": [batch[share] for batch in order]}

    def _keep(self, name, sequence):
        if len(self._kept) >= KEPT:
            del self._kept[next(iter(self._kept))]
        self._kept[name] = pair(sequence, self.inputs)
        return self._kept[name]


def batches(clips, batch_size, seed, epoch, flip):
    """The batches of an epoch, lists of (index, mirrored): all clips in an order that seed and epoch decide, less what does
    not fill a batch."""
    rng = np.random.default_rng((seed, epoch))
    order, mirrored = rng.permutation(clips), rng.random(clips) < (0.5 if flip else 0)
    whole = clips // batch_size * batch_size
    items = [(int(i), bool(mirrored[i])) for i in order[:whole]]
    return [items[i : i + batch_size] for i in range(0, whole, batch_size)]


class FilmedClips(Films):
    """`lifter.data.films.Films` of a recipe: clips that no one has seen before."""

    def __init__(self, data, recipe, seeds, processes=1):
        parts = {"bodies": Bodies, "cameras": Cameras, "detectors": Detectors}
        options = {name: parts[name](**value) if name in parts else value for name, value in recipe.film.items()}
        options |= {"seeds": seeds, "centred": recipe.centred}
        super().__init__(data, recipe.num_frames, recipe.batch_size // processes, **options)
        self.whole = len(self.motions.poses) // recipe.num_frames

    def __len__(self):
        """Return the number of clips of an epoch, as many as the motions have."""
        return self.whole

    def pairs(self):
        """Clips to get a notion from."""
        return (pair for i in range(16) for pair in zip(*self[i]))

    def batches(self, recipe, seed, step, steps, share):
        """Arguments of a DataLoader that gives the batches from `step` to `steps`."""
        return {"dataset": self, "sampler": range(step, steps), "batch_size": None}
