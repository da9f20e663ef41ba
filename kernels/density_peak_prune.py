"""Selection of representative frames of a clip: density peaks of its tokens that are far from each other.

Sources: Rodriguez and Laio, "Clustering by fast search and find of density peaks" (2014); HoT (CVPR 2024, arXiv 2311.12028)
clusters frames this way; HTP's pruning adds the mask and its support. HoT breaks ties with noise drawn at every call; here the
lower index wins, and noise is an argument.
"""

import torch
from torch import Tensor

from ._checks import check_float, check_map, check_shape
from ._op import Cost, Op

__all__ = ["density_peak_prune", "density_peak_prune_ref"]

NOISE = 1e-6  # change of the density per unit of noise


def density_peak_prune(
    x: Tensor, kept: int, k: int = 2, mask: Tensor | None = None, noise: Tensor | None = None, valid: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Select the `kept` frames with the largest product of density and distance to a denser frame.

    The distance of two frames is |x_t - x_s| / sqrt(C). For masked pairs it is 1 plus the largest distance in the clip, masked
    or not. The density of a frame is exp(-d) + 1e-6 * noise, where d is the mean squared distance to its k nearest frames,
    including itself. With a mask it is multiplied by the softmax over the frames of log(1 + support), where support is the row
    sum of the mask. Invalid frames have density zero. The densest frame gets the largest distance. The lower index wins ties,
    both of density and of score.

    Without mask and valid this is HoT's clustering; `valid` is its token mask. HoT takes the largest distance over the whole
    batch; here clips are independent.

    Args:
        x: (B, T, C), one token per frame; float32, bfloat16 or float16 (float64 runs on the reference). Autocast has no
            effect.
        kept: number of frames to keep, 1 <= kept <= T.
        k: number of nearest frames that define the density, 1 <= k <= T.
        mask: (B, T, T), floating point in [0, 1] or bool: the mean of the joints' frame graphs. Pairs with value 0 are masked.
        noise: (B, T), floating point: the noise that HoT draws uniformly from [0, 1) to break ties.
        valid: (B, T), bool: False hides a frame from all others, for example the padding of a short clip. Such frames are kept
            only after all valid ones.

    Returns:
        (indices, scores): (B, kept) int64, ascending in time, and (B, T) float32 (float64 if x is). Neither has a gradient;
        x[batch, indices] does.

    Raises:
        ValueError for wrong shapes and values, TypeError for wrong dtypes; both name the argument.
    """
    op = "density_peak_prune"
    check_float(op, x=x)
    B, T, _ = check_map(op, "x", x, ("B", "T", "C"))
    for name, value in (("kept", kept), ("k", k)):
        if not isinstance(value, (int, torch.SymInt)):
            raise TypeError(f"{op}: {name} is {value!r}, expected an integer")
        if not 1 <= value <= T:
            raise ValueError(f"{op}: {name} is {value}, expected 1 <= {name} <= T={T}")
    for name, y, shape in (("mask", mask, (B, T, T)), ("noise", noise, (B, T)), ("valid", valid, (B, T))):
        _check_other(op, name, y, shape)
    mask, noise = (None if y is None else y.detach() for y in (mask, noise))
    return DENSITY_PEAK_PRUNE(x.detach(), kept, k, mask, noise, valid)


@torch.no_grad()
def density_peak_prune_ref(
    x: Tensor, kept: int, k: int = 2, mask: Tensor | None = None, noise: Tensor | None = None, valid: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Reference of `density_peak_prune`."""
    x = x if x.dtype == torch.float64 else x.float()
    distance = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist") / x.shape[-1] ** 0.5
    shown = torch.ones_like(distance, dtype=torch.bool) if mask is None else mask != 0
    if valid is not None:
        shown = shown & valid[:, None]
    distance = torch.where(shown, distance, distance.amax((1, 2), keepdim=True) + 1)

    density = torch.exp(-distance.topk(k, largest=False).values.square().mean(-1))
    if noise is not None:
        density = density + NOISE * noise.to(x.dtype)
    if mask is not None:
        density = density * torch.log1p(mask.to(x.dtype).sum(-1)).softmax(-1)
    if valid is not None:
        density = density * valid

    other, own = density[:, None], density[:, :, None]
    before = torch.ones_like(shown).tril(-1)  # (t, s): True where s < t
    denser = (other > own) | ((other == own) & before)
    largest = distance.amax((1, 2), keepdim=True)
    scores = density * torch.where(denser, distance, largest).amin(-1)
    indices = scores.argsort(dim=-1, descending=True, stable=True)[:, :kept].sort().values
    return indices, scores


def _check_other(op, name, y, shape):
    if y is None:
        return
    bools, floats = name != "noise", name != "valid"
    if not isinstance(y, torch.Tensor) or not (bools and y.dtype == torch.bool or floats and y.dtype.is_floating_point):
        kind = y.dtype if isinstance(y, torch.Tensor) else type(y).__name__
        expected = {"mask": "bool or floating point", "noise": "floating point", "valid": "bool"}[name]
        raise TypeError(f"{op}: {name} is {kind}, expected a tensor of {expected}")
    check_shape(op, name, y, shape)


# ---- registration ----------------------------------------------------------------------------------------------------


def _fake(x, kept, k, mask, noise, valid):
    B, T, _ = x.shape
    return x.new_empty(B, kept, dtype=torch.int64), x.new_empty(B, T, dtype=torch.float32)


def _cost(x, kept, k, mask, noise, valid):
    """Count the product of the tokens with themselves; half of it would be enough, as it is symmetric."""
    B, T, C = x.shape
    return Cost(flops=2 * B * T * T * C, products=[(B, T, C, (T + 1) // 2)])


DENSITY_PEAK_PRUNE = Op(
    density_peak_prune,
    density_peak_prune_ref,
    "density_peak_prune(Tensor x, int kept, int k, Tensor? mask, Tensor? noise, Tensor? valid) "
    "-> (Tensor indices, Tensor scores)",
    maps="x",
    parameters="mask noise",
    autocast=False,
    fake=_fake,
    cost=_cost,
    triton="density_peak_prune:forward",
)
