"""Live lifting: keypoints come frame by frame, poses leave chunk by chunk, at bounded latency and in constant memory."""

import inspect
import time
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from lifter.skeleton import SKELETONS, Skeleton

from .windows import centred, margins_of

MISSING = ("hold", "mask", "error")
FARTHEST = 1e6  # keypoints are of order 1; beyond this no detection is meant, and a norm would overflow


class Lifted(NamedTuple):
    """The M poses that became ready, in the order of their frames.

    What a live user waits for a pose is latency + compute.
    """

    poses: torch.Tensor  # (M, J, 3) float32, where the model is
    frames: torch.Tensor  # (M,) int64, numbers since the start of the stream
    latency: torch.Tensor  # (M,) seconds: the frames waited for after this one, by fps
    compute: torch.Tensor  # (M,) seconds that the model call took, of all streams in it


class StreamBatch:
    """Many live streams on one model: those whose chunk is full are lifted together, in one call.

    A stream is named by a dict key, joins with its first push and goes at its own pace. A model with a state (PoseRetNet)
    gets each frame once, and the poses are those of one call for the whole stream with this `chunk_size`. Any other
    model of lifter, and one that was trained on centred clips, gets the last `num_frames` frames again for every chunk. At the
    start of a stream there are fewer; for a model that does not take so few (`clip_multiple`) the first is repeated in front.
    A model with `margins` (see `lift_sequence`) waits for the frames that it sees after a chunk; what it sees before the first
    frame of a stream, and after the last one at `flush`, is that frame again.
    Whatever error a method raises, the streams are as they were before.

    Args:
        model: in eval mode, on any device, in any dtype. As it is: later changes to its weights or mode show.
        chunk_size: frames that are lifted together, which is what a pose waits for: the first of a chunk waits for the
            other `chunk_size - 1`. None: as many as the model sees at once, which is the most; of a model with `margins` 1.
        fps: frames per second, for the latency.
        look_ahead: frames after the chunk that are waited for too, so that its last frames see some future. Only for
            models without a state. With `margins` it is the model's.
        missing: what becomes of keypoints that are not finite or beyond +-1e6, and of frames that were dropped (None).
            "hold": the model gets what the joint was last seen at, and before it was ever seen, the nearest joint along the
            skeleton that was; with confidence 0 where it reads confidences. "mask": the same, and the pose of that joint is
            NaN. "error": ValueError.
    """

    def __init__(
        self, model: nn.Module, chunk_size: int | None = None, fps: float = 50.0, look_ahead: int = 0, missing: str = "hold"
    ):
        if model.training:
            raise ValueError("Stream: model is in training mode, expected model.eval()")
        original = getattr(model, "_orig_mod", model)  # of torch.compile, which hides the signature
        stateful = "state" in inspect.signature(original.forward).parameters
        self.stateful = stateful and not getattr(original, "centred", False)  # a state is of clips that share a centre
        self._model, self._original = model, original
        self._most, *self._joint_shape = _takes(original)
        self._margins = margins_of(original)
        self._nearest = torch.tensor(_skeleton(self._joint_shape[0]).nearest)
        self._all_seen = torch.zeros(1, self._joint_shape[0], dtype=torch.bool)
        if missing not in MISSING:
            raise ValueError(f"Stream: missing is {missing!r}, expected one of {MISSING}")
        if not fps > 0:
            raise ValueError(f"Stream: fps is {fps!r}, expected a positive number")
        known = any(self._margins)
        if not isinstance(look_ahead, int) or not 0 <= look_ahead < (1 if self.stateful or known else self._most):
            expected = f"0 to {self._most - 1}"
            expected = "0, for the model tells what it sees" if known else expected
            expected = "0, for the model has a state" if self.stateful else expected
            raise ValueError(f"Stream: look_ahead is {look_ahead!r}, expected {expected}")
        look_ahead = self._margins[1] if known else look_ahead
        most = self._most if known else self._most - look_ahead
        chunk_size = (1 if known else most) if chunk_size is None else chunk_size
        if not isinstance(chunk_size, int) or not 1 <= chunk_size <= most:
            raise ValueError(f"Stream: chunk_size is {chunk_size!r}, expected 1 to {most}, what the model sees at once")
        self.chunk_size, self.fps, self.look_ahead, self.missing = chunk_size, float(fps), look_ahead, missing
        self._largest = chunk_size if self.stateful else most
        self.reset()

    def push(self, frames: dict, together: int | None = None) -> dict:
        """The next frames of some streams, {name: keypoints} -> {name: Lifted}, what became ready of each.

        Keypoints are one frame (J, C), many (N, J, C), tensor or array of any floating-point dtype, or None for one frame
        that was dropped. Any value that is not finite, or beyond +-1e6, makes its joint a missing one.

        Where more than `chunk_size` frames wait, up to `together` of them are one chunk, for who is late and wants to catch
        up: but no more than the model sees at once, and no more than `chunk_size` for a model with a state.
        """
        members, given = {}, {}
        for name, keypoints in frames.items():
            before = self._members.get(name) or self._new()
            members[name] = self._accept(name, before, keypoints)
            given[name] = self._absent(before.absent, members[name].absent)
        most = max(self.chunk_size, min(together or 0, self._largest))

        def ready(member):
            count = min(member.waiting - self.look_ahead, most)
            return (count, member.lifted + count + self.look_ahead) if count >= self.chunk_size else None

        return self._advance(members, given, ready)

    def flush(self, names: Iterable | None = None) -> dict:
        """The poses of all frames that still wait, a short last chunk: {name: Lifted}, of these streams; None: of all. The
        streams may go on."""
        return self._flush(self._members if names is None else names)

    def leave(self, name: Any) -> Lifted:
        """Ends one stream; its last poses, as `flush` gives them."""
        if name not in self._members:
            known = ", ".join(map(repr, self._members)) or "none"
            raise KeyError(f"StreamBatch: no stream is named {name!r}; there are: {known}")
        lifted = self._flush([name])[name]
        self.reset([name])
        return lifted

    def reset(self, names: Iterable | None = None) -> None:
        """Forgets these streams and what waits in them; None: all."""
        if names is None:
            self._members, self._states = {}, {}
            return
        for name in names:
            if self._members.pop(name, None) is not None:
                _take(self._states, (name,))

    def state_dict(self) -> dict:
        """Return the state of all streams as tensors on the CPU, numbers and strings; `torch.save` it (names being strings or
        numbers) and read it with `weights_only=True`."""
        states = dict(self._states)
        _split(states, self._members)
        streams = {}
        for name, member in self._members.items():
            state = states.get((name,))
            keypoints, missing = member.joined().parts[0]
            saved = {"keypoints": keypoints, "missing": missing} | {key: getattr(member, key) for key in _Member._fields[1:]}
            streams[name] = saved | {"state": state and [x.to("cpu", copy=True) for x in state]}
        return self._settings() | {"streams": streams}

    def load_state_dict(self, state: dict) -> None:
        """Go on where the StreamBatch stood that gave `state`. ValueError if it had other settings or states of other
        shapes, or is no such dict; that the model has the same weights is yours to see to."""
        for name, value in self._settings().items():
            if state.get(name) != value:
                raise ValueError(f"load_state_dict: {name} is {state.get(name)!r}, expected {value!r} as here")
        members, states = {}, {}
        shapes = self._state_shapes()
        for name, saved in state["streams"].items():
            saved = dict(saved)
            tensors = saved.pop("state", None)
            if saved.keys() != {"keypoints", "missing", *_Member._fields[1:]}:
                raise ValueError(f"load_state_dict: the stream{_of(name)} holds {sorted(saved)}, not what state_dict() gave")
            part = saved.pop("keypoints"), saved.pop("missing")
            members[name] = member = _Member((part,), **saved)
            kept = len(part[0])
            if not member.waiting <= kept <= member.next or len(part[1]) != kept or member.waiting < 0:
                raise ValueError(f"load_state_dict: the stream{_of(name)} keeps {kept} frames, at least {member.waiting} wait")
            if self.stateful and (tensors is None) != (member.lifted == member.absent):
                raise ValueError(f"load_state_dict: the stream{_of(name)} has no state after {member.lifted} frames")
            if tensors is not None:
                if (found := [tuple(x.shape) for x in tensors]) != shapes:
                    raise ValueError(f"load_state_dict: the state{_of(name)} has shapes {found}, expected {shapes}")
                states[name,] = [x.to(self._device, copy=True) for x in tensors]
        self._members, self._states = members, states

    def wrong(self, frames: dict) -> dict:
        """{name: error} of the frames that `push` would refuse."""
        errors = {}
        for name, keypoints in frames.items():
            try:
                self._accept(name, self._members.get(name) or self._new(), keypoints)
            except (ValueError, TypeError) as error:
                errors[name] = error
        return errors

    # ---- one push, on copies of `members` and `states` ---------------------------------------------------------------

    def _flush(self, names):
        members = {name: self._members[name] for name in names if name in self._members}
        return self._advance(members, {name: [] for name in names}, lambda m: (m.waiting, m.next) if m.waiting else None)

    def _advance(self, members, lifted, ready):
        """Lifts what is ready of these streams, {name: _Member}, and makes them what the streams of these names are; {name:
        Lifted}. `lifted`: {name: parts that are}.

        `ready(member)`: how many poses are to be lifted next, and the frame before which their window ends, or None.
        """
        names, done = list(members), set()
        if self.stateful:  # always the same order, so that batches stay together
            names = [name for name in self._members | members if name in members]
        states = dict(self._states)
        while chunks := {name: chunk for name in names if (chunk := ready(members[name]))}:
            members |= {name: members[name].joined() for name in chunks}
            self._lift(members, states, lifted, chunks)
            done |= chunks.keys()
        for name in done:
            waiting = members[name].waiting
            kept = waiting + self._margins[0] if any(self._margins) else self._most
            members[name] = members[name].compact(waiting if self.stateful else kept)
        self._members |= members
        self._states = states
        nothing = None if all(lifted.values()) else self._nothing()
        return {name: Lifted(*map(torch.cat, zip(*parts))) if parts else nothing for name, parts in lifted.items()}

    def _accept(self, name, member, keypoints):
        """`member` with these frames, of which nothing is lifted yet."""
        frames = self._frames(name, keypoints)
        if not len(frames):
            return member
        if np.abs(frames.numpy()).max() <= FARTHEST:  # nothing is missing: NaN would be the largest
            missing, held = self._all_seen.expand(len(frames), -1), frames[-1].clone()
        else:
            missing = ~(frames.abs() <= FARTHEST).all(-1)
            if self.missing != "error" and member.absent == member.next:  # nobody was seen yet
                absent = int(missing.all(-1).cumprod(0).sum())
                number = member.absent + absent
                member = member._replace(absent=number, next=number, lifted=number)
                frames, missing = frames[absent:], missing[absent:]
                if not len(frames):
                    return member
            if self.missing == "error":
                frame, joint = missing.nonzero()[0].tolist()
                raise ValueError(f"Stream{_of(name)}: frame {member.next + frame} has no keypoint of joint {joint}")
            frames, held = self._held(member.held, frames, missing)
        return member._replace(parts=(*member.parts, (frames, missing)), held=held, next=member.next + len(frames))

    def _held(self, held, frames, missing):
        """`frames` with what is missing held, and what the last one leaves to be held."""
        seen = torch.cat([held[None], frames])
        last = torch.arange(1, len(seen))[:, None].where(~missing, 0).cummax(0).values  # frame of `seen` to repeat
        frames = seen.gather(0, last[..., None].expand_as(frames))
        held = frames[-1].clone()
        if (never := frames[..., 0].isnan()).any():
            nearest = self._nearest.gather(1, (~never)[:, self._nearest].byte().argmax(-1).T).T
            frames = frames.gather(1, nearest[..., None].expand_as(frames))
        if frames.shape[-1] == 3:
            frames[..., 2].masked_fill_(missing, 0.0)
        return frames, held

    def _frames(self, name, keypoints):
        """(N, J, C) float32 on the CPU, nobody else's."""
        if keypoints is None:
            return torch.full((1, *self._joint_shape), torch.nan)
        if not isinstance(keypoints, torch.Tensor):
            keypoints = torch.from_numpy(np.array(keypoints))
        if not keypoints.is_floating_point():
            raise TypeError(f"Stream{_of(name)}: keypoints have dtype {keypoints.dtype}, expected a floating-point dtype")
        J, C = self._joint_shape
        if keypoints.dim() not in (2, 3) or keypoints.shape[-2:] != (J, C):
            shape = tuple(keypoints.shape)
            raise ValueError(f"Stream{_of(name)}: keypoints have shape {shape}, expected ({J}, {C}) or (N, {J}, {C})")
        return keypoints.detach().to("cpu", torch.float32, copy=True).reshape(-1, J, C)

    def _lift(self, members, states, lifted, chunks):
        """Appends to `lifted` the next poses of each stream in `chunks`, {name: (how many, where the window ends)}.

        Windows of one length are one call: all of a model with a state, and all of another but at the start of a stream.
        """
        calls = {}
        for name, (_, end) in chunks.items():
            begin = members[name].lifted if self.stateful else max(members[name].absent, end - self._most)
            if any(self._margins):
                begin = members[name].lifted - self._margins[0]
                end = members[name].lifted + chunks[name][0] + self._margins[1]
            calls.setdefault(end - begin, {})[name] = begin
        for length, begins in calls.items():
            windows, missing = zip(*(members[name].window(begin, length) for name, begin in begins.items()))
            batch, seconds = self._call(tuple(begins), states, torch.stack(windows), _placed(~torch.stack(missing)))
            for poses, (name, begin) in zip(batch, begins.items()):
                member, (count, end) = members[name], chunks[name]
                poses = poses.narrow(0, member.lifted - begin - self._margins[0], count)
                if self.missing == "mask":
                    _, missing = member.window(member.lifted, count)
                    poses = poses.masked_fill(missing[..., None].to(poses.device), torch.nan)
                frames = member.lifted + torch.arange(count)
                latency = (end - 1 - frames) / self.fps
                lifted[name].append((poses, frames, latency, torch.full_like(latency, seconds)))
                members[name] = member._replace(lifted=member.lifted + count)

    def _call(self, names, states, keypoints, seen):
        """The poses of windows (B, T, J, C) and the seconds that they took; `states` go on. `seen`: see `centre`."""
        start = time.perf_counter()
        with torch.inference_mode():
            keypoints = keypoints.to(self._device)
            if self.stateful:
                poses, states[names] = self._model(keypoints, _take(states, names), return_state=True)
            else:
                short = -keypoints.shape[1] % getattr(self._model, "clip_multiple", 1)
                repeated = torch.arange(-short, keypoints.shape[1]).clamp(min=0)  # the first, in front
                clips = centred(self._original, keypoints[:, repeated], seen[:, repeated].to(keypoints.device))
                poses = self._model(clips)[:, short:]
        if poses.is_cuda:
            torch.cuda.synchronize(poses.device)
        return poses, time.perf_counter() - start

    def _absent(self, begin, end):
        """The parts of frames before anybody was seen."""
        if begin == end:
            return []
        nothing = torch.zeros(end - begin)
        poses = torch.full((end - begin, self._joint_shape[0], 3), torch.nan, device=self._device)
        return [(poses, torch.arange(begin, end), nothing, nothing)]

    def _nothing(self):
        nothing = torch.empty(0)
        poses = torch.empty(0, self._joint_shape[0], 3, device=self._device)
        return Lifted(poses, torch.empty(0, dtype=torch.int64), nothing, nothing)

    # ---- what the streams are ----------------------------------------------------------------------------------------

    def _new(self):
        J, C = self._joint_shape
        return _Member(((torch.empty(0, J, C), self._all_seen[:0]),), torch.full((J, C), torch.nan))

    def _settings(self):
        joints, channels = self._joint_shape
        return {
            "chunk_size": self.chunk_size, "fps": self.fps, "look_ahead": self.look_ahead, "missing": self.missing,
            "num_joints": joints, "in_channels": channels, "window": None if self.stateful else self._most,
        }  # fmt: skip

    def _state_shapes(self):
        """The shapes of the state of one stream, found out by lifting a frame."""
        if not self.stateful:
            return None
        states = {}
        self._call((), states, torch.zeros(1, 1, *self._joint_shape), torch.ones(1, 1, dtype=torch.bool))
        return [tuple(x.shape) for x in states[()]]

    @property
    def _device(self):
        return next(self._model.parameters(), torch.empty(0)).device  # frozen, a model may have none


class Stream:
    """One live stream: `push` what the camera sees, get the poses that are ready.

        stream = lifter.Stream(model, chunk_size=9, fps=50)
        poses, frames, latency, compute = stream.push(keypoints)

    Arguments and `push` are those of `StreamBatch`, without the dict.
    """

    def __init__(
        self, model: nn.Module, chunk_size: int | None = None, fps: float = 50.0, look_ahead: int = 0, missing: str = "hold"
    ):
        self._batch = StreamBatch(model, chunk_size, fps, look_ahead, missing)

    def push(self, keypoints: Tensor | np.ndarray | None) -> Lifted:
        """The next frames: (J, C), (N, J, C), or None for one that was dropped -> Lifted, what became ready."""
        return self._batch.push({None: keypoints})[None]

    def flush(self) -> Lifted:
        """The poses of the frames that still wait, a short last chunk. The stream may go on."""
        return self._batch.flush().get(None) or self._batch._nothing()

    def reset(self) -> None:
        """Back to frame 0, with nothing seen."""
        self._batch.reset()

    def state_dict(self) -> dict:
        """Return the state of the stream, see `StreamBatch.state_dict`."""
        return self._batch.state_dict()

    def load_state_dict(self, state: dict) -> None:
        """Go on where the Stream stood that gave `state`. ValueError if it had other settings or another model."""
        if others := state.get("streams", {}).keys() - {None}:
            raise ValueError(f"load_state_dict: state has the streams {sorted(map(str, others))} of a StreamBatch")
        self._batch.load_state_dict(state)


class _Member(NamedTuple):
    """A stream but for the model's state. Its tensors are never written to, so that an old one is a way back."""

    parts: tuple  # the last frames as they were pushed: (n, J, C), as the model gets them, and (n, J) bool, what is missing
    held: torch.Tensor  # (J, C), what each joint was last seen at, NaN before it was
    next: int = 0  # frames pushed, the number of the next
    lifted: int = 0  # frames whose poses were given
    absent: int = 0  # frames before anybody was seen

    @property
    def waiting(self):
        return self.next - self.lifted

    def joined(self):
        """With the frames in one part, which `window` and `compact` ask for."""
        return self if len(self.parts) == 1 else self._replace(parts=(tuple(map(torch.cat, zip(*self.parts))),))

    def window(self, begin, length):
        """`length` of the frames from number `begin` on, and what is missing of them. Where there are none the first, or the
        last, is repeated."""
        ((keypoints, missing),) = self.parts
        first = begin - self.next + len(keypoints)
        if 0 <= first <= len(keypoints) - length:
            return keypoints.narrow(0, first, length), missing.narrow(0, first, length)
        there = torch.arange(first, first + length).clamp(0, len(keypoints) - 1)
        return keypoints[there], missing[there]

    def compact(self, n):
        """With the last n frames only, in memory of their own."""
        ((keypoints, missing),) = self.parts
        first = max(0, len(keypoints) - n)
        if first == 0:
            return self
        return self._replace(parts=((keypoints[first:].clone(), missing[first:].clone()),))


# States are {names: [tensors of batch len(names)]}: while the same streams are lifted together, theirs stay together, and
# nothing is copied.


def _take(states, names):
    """The states of `names` out of `states`, as one batch; of new streams zeros, None if all are new."""
    if names in states:
        return states.pop(names)
    _split(states, names)
    found = [states.pop((name,), None) for name in names]
    known = next((state for state in found if state is not None), None)
    if known is None:
        return None
    zeros = [torch.zeros_like(x) for x in known]
    return [torch.cat(rows) for rows in zip(*(state or zeros for state in found))]


def _split(states, names):
    """Makes single streams of every batch that has one of `names`, in memory of their own."""
    for batch in [batch for batch in states if len(batch) > 1 and not set(names).isdisjoint(batch)]:
        state = states.pop(batch)
        for row, name in enumerate(batch):
            states[name,] = [x[row : row + 1].clone() for x in state]


def _placed(seen):
    """(B, T), the frames of windows that tell where a person is, of (B, T, J), the joints that are seen: the frames with the
    root, or if there are none those with any joint."""
    root = seen[..., 0]
    return root | seen.any(-1) & ~root.any(-1, keepdim=True)


def _skeleton(num_joints):
    """The skeleton of so many joints, Human3.6M's of 17; where none is known a row of joints."""
    row = Skeleton("row", ("",) * num_joints, tuple(range(-1, num_joints - 1)), (), ())
    return next((skeleton for skeleton in SKELETONS.values() if skeleton.num_joints == num_joints), row)


def _takes(model):
    """(frames at once, joints, channels) that a model of lifter takes."""
    parameters = inspect.signature(model.forward).parameters.values()
    needed = [p.name for p in parameters if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
    if len(needed) > 1:
        raise TypeError(f"Stream: {type(model).__name__} takes {', '.join(needed)}, expected a model of keypoints alone")
    try:
        return getattr(model, "chunk_size", None) or model.num_frames, model.num_joints, model.in_channels
    except AttributeError:
        raise TypeError(f"Stream: model is {type(model).__name__}, expected a model of lifter that lifts clips") from None


def _of(name):
    return "" if name is None else f" {name!r}"
