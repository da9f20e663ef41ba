"""mamba_chunk_scan_combined at the size of Mamba2-130M: 24 heads of 64 channels, 128 states, one group."""

from functools import partial

import torch
import torch.nn.functional as F

from lifter.kernels import mamba_chunk_scan_combined

from . import Case, sizes

HEADS, CHANNELS, STATES = 24, 64, 128
CHUNK = 64
LENGTHS = (1, 2, 3, 17, 27, 81, 129, 243, 1024, 4131)


def inputs(length, batch, device, dtype):
    def randn(*shape):
        return torch.randn(*shape, device=device, dtype=dtype)

    return {
        "x": randn(batch, length, HEADS, CHANNELS),
        "dt": randn(batch, length, HEADS) - 2,  # softplus: time steps of about 0.1
        "A": -torch.arange(1, HEADS + 1, device=device, dtype=torch.float32),
        "B": randn(batch, length, 1, STATES),
        "C": randn(batch, length, 1, STATES),
        "D": torch.ones(HEADS, device=device),
    }


def ours(x, dt, A, B, C, D):
    return mamba_chunk_scan_combined(x, dt, A, B, C, CHUNK, D, dt_softplus=True)


def chunked(x, dt, A, B, C, D):
    """The same by products of whole chunks, as one writes it in PyTorch: section 6 of the paper."""
    length, out_dtype = x.shape[1], x.dtype
    x, dt, B, C = (y.float() for y in (x, F.softplus(dt.float()), B, C))
    u, a, B, C = (
        F.pad(y, (0, 0) * (y.dim() - 2) + (0, -length % CHUNK)).unflatten(1, (-1, CHUNK))
        for y in (dt[..., None] * x, dt * A, B, C)
    )
    sums = a.movedim(-1, 1).cumsum(-1)  # (batch, heads, chunks, steps)
    decay = (sums[..., None] - sums[..., None, :]).tril().exp().tril()
    pairs = torch.einsum("bclgn,bcmgn->bclm", C, B)
    y = torch.einsum("bclm,bhclm,bcmhp->bclhp", pairs, decay, u)
    states = torch.einsum("bhcl,bclgn,bclhp->bchpn", decay[..., -1, :], B, u)
    whole, before, h = sums[..., -1].exp(), [], torch.zeros_like(states[:, 0])
    for n, state in enumerate(states.unbind(1)):
        before.append(h)
        h = whole[:, :, n, None, None] * h + state
    y = y + torch.einsum("bclgn,bchpn,bhcl->bclhp", C, torch.stack(before, 1), sums.exp())
    return (y.flatten(1, 2)[:, :length] + D[:, None] * x).to(out_dtype)


def cases(setup):
    return [
        Case(f"mamba_chunk_scan {label}", partial(inputs, length, batch), ours, peers(setup.device), unrolls=True)
        for label, length, batch in sizes(setup, LENGTHS, "L")
    ]


def peers(device) -> dict:
    """The scan of mamba-ssm, where it is installed: CUDA only."""
    found = {"chunked": chunked}
    if str(device).startswith("cuda"):
        try:
            from mamba_ssm.ops.triton.ssd_combined import mamba_chunk_scan_combined as theirs
        except ImportError:
            return found
        found["mamba-ssm"] = lambda x, dt, A, B, C, D: theirs(x, dt, A, B, C, 256, D, dt_softplus=True)
    return found
