"""Functions of the CUDA extensions of mamba-ssm and VMamba, on `lifter.kernels.selective_scan_fn`.

Same positional arguments, same results in the same order, on every device and backend of lifter. Two differences: `x`,
the scan's intermediate states, holds the last state alone, (B, D, 1, 2N) with the state at the odd places as in the
originals, and the gradient does not read it but runs the scan again; and whatever strides come are taken.
"""

import torch
import torch.nn.functional as F

from lifter.kernels import selective_scan_fn
from lifter.kernels._op import no_autocast


def mamba_fwd(u, delta, A, B, C, D, z, delta_bias, delta_softplus):
    """`selective_scan_cuda.fwd`: [out, x], with a gate z [out, x, out * silu(z)]."""
    out, x = _fwd(u, delta, A, B, C, D, delta_bias, delta_softplus)
    return [out, x] if z is None else [out, x, _gated(out, z)]


def mamba_bwd(u, delta, A, B, C, D, z, delta_bias, dout, x, out, dz, delta_softplus, recompute_out_z):
    """`selective_scan_cuda.bwd`: [du, ddelta, dA, dB, dC, dD, ddelta_bias, (dz), (out_z)]; `dz` is written if given."""
    *grads, dz_new, out_z = _bwd(u, delta, A, B, C, D, delta_bias, delta_softplus, dout, z)
    if z is not None:
        grads.append(dz_new if dz is None else dz.copy_(dz_new))
    return [*grads, out_z] if recompute_out_z else grads


def core_fwd(u, delta, A, B, C, D, delta_bias, delta_softplus, nrows):
    """`selective_scan_cuda_core.fwd`: [out, x]. Here and below `nrows`, a launch parameter, is not used."""
    return _fwd(u, delta, A, B, C, D, delta_bias, delta_softplus)


def oflex_fwd(u, delta, A, B, C, D, delta_bias, delta_softplus, nrows, out_float):
    """`selective_scan_cuda_oflex.fwd`: [out, x], `out` in float32 if `out_float`."""
    if out_float:
        u, delta, B, C = (t.float() for t in (u, delta, B, C))
    return _fwd(u, delta, A, B, C, D, delta_bias, delta_softplus)


def core_bwd(u, delta, A, B, C, D, delta_bias, dout, x, delta_softplus, nrows):
    """`bwd` of `selective_scan_cuda_core` and `selective_scan_cuda_oflex`: [du, ddelta, dA, dB, dC, dD, ddelta_bias]."""
    return _bwd(u, delta, A, B, C, D, delta_bias, delta_softplus, dout)[:7]


def _fwd(u, delta, A, B, C, D, delta_bias, delta_softplus):
    with torch.no_grad(), no_autocast(u):
        out, last_state = _scan(u, delta, A, B, C, D, delta_bias, delta_softplus, return_last_state=True)
    x = last_state.new_zeros(*last_state.shape[:2], 1, 2 * last_state.shape[2])
    x[:, :, 0, 1::2] = last_state
    return [out, x]


def _bwd(u, delta, A, B, C, D, delta_bias, delta_softplus, dout, z=None):
    """Gradients of the tensors, None for those that are None, z the last of them; then the output."""
    tensors = [None if t is None else t.detach().requires_grad_() for t in (u, delta, A, B, C, D, delta_bias, z)]
    with torch.enable_grad(), no_autocast(u):
        *scanned, gate = tensors
        out = _scan(*scanned, delta_softplus, gate)
        grads = iter(torch.autograd.grad(out, [t for t in tensors if t is not None], dout.to(out.dtype)))
    return [*(None if t is None else next(grads) for t in tensors), out.detach()]


def _scan(u, delta, A, B, C, D, delta_bias, delta_softplus, z=None, return_last_state=False):
    repeats = u.shape[1] // delta.shape[1]  # VMamba's kernels take a time step that channels share
    if repeats > 1:
        delta = delta.repeat_interleave(repeats, dim=1)
        delta_bias = None if delta_bias is None else delta_bias.repeat_interleave(repeats)
    return selective_scan_fn(u, delta, A, B, C, D, z, delta_bias, delta_softplus, return_last_state)


def _gated(out, z):
    return (out.float() * F.silu(z.float())).to(out.dtype)
