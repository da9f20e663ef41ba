"""Mamba layers as in mamba-ssm, for machines on which mamba-ssm does not install, and the bidirectional form.

Source: Gu & Dao, "Mamba" (2023), section 3.4 and figure 3; parameter names, arguments and caches of mamba-ssm's `Mamba`
(version 1), so that weights and calling code are compatible. Vision Mamba (arXiv 2401.09417, "v2" of its code) for both
directions.
"""

import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lifter.kernels import (
    causal_conv1d_fn,
    causal_conv1d_update,
    linear,
    selective_scan_fn,
    selective_state_update,
    skeleton_scan,
)
from lifter.kernels._checks import check_shape

from .linear import Linear


class Mamba(nn.Module):
    """Mamba layer: out_proj(scan(silu(conv(x))) * silu(z)) with x, z = in_proj(input). (B, L, d_model) -> (B, L, d_model).

    Args:
        d_state: N, states per channel. d_conv: width of the convolution, 2 to 4. expand: inner channels per channel.
        dt_rank: rank of the time step's projection; "auto" is ceil(d_model / 16).
        dt_min, dt_max, dt_init_floor: initial time steps are log-uniform in [dt_min, dt_max] and at least dt_init_floor.
        dt_init, dt_scale: the projection is initialized "random" (uniform) or "constant", with size dt_scale / sqrt(dt_rank).
        conv_bias, bias: use a bias in the convolution, and in the outer projections.
        use_fast_path: accepted for compatibility.
        layer_idx: key of the layer's states in `inference_params`.

    Raises:
        ValueError for invalid arguments and shapes.
    """

    def __init__(
        self,
        d_model: int,
        d_state: int = 16,
        d_conv: int = 4,
        expand: int = 2,
        dt_rank: int | Literal["auto"] = "auto",
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        dt_init: str = "random",
        dt_scale: float = 1.0,
        dt_init_floor: float = 1e-4,
        conv_bias: bool = True,
        bias: bool = False,
        use_fast_path: bool = True,
        layer_idx: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        if not 2 <= d_conv <= 4:
            raise ValueError(f"Mamba: d_conv is {d_conv}, expected 2 to 4")
        if dt_init not in ("random", "constant"):
            raise ValueError(f"Mamba: dt_init is {dt_init!r}, expected 'random' or 'constant'")
        self.d_model, self.d_state, self.d_conv, self.expand = d_model, d_state, d_conv, expand
        self.d_inner = inner = int(expand * d_model)
        self.dt_rank = math.ceil(d_model / 16) if dt_rank == "auto" else dt_rank
        self.use_fast_path, self.layer_idx = use_fast_path, layer_idx
        kind = {"device": device, "dtype": dtype}
        self.in_proj = Linear(d_model, 2 * inner, bias=bias, **kind)
        self.conv1d = nn.Conv1d(inner, inner, d_conv, groups=inner, padding=d_conv - 1, bias=conv_bias, **kind)
        self.x_proj = Linear(inner, self.dt_rank + 2 * d_state, bias=False, **kind)
        self.dt_proj = Linear(self.dt_rank, inner, **kind)
        # Always float32: rounding A would change the memory length exp(A * delta).
        self.A_log = nn.Parameter(torch.empty(inner, d_state, device=device, dtype=torch.float32))
        self.D = nn.Parameter(torch.empty(inner, device=device, dtype=torch.float32))
        self.out_proj = Linear(inner, d_model, bias=bias, **kind)
        for p in (self.A_log, self.D):  # read by some optimizers, as in mamba-ssm
            p._no_weight_decay = True  # pyright: ignore[reportAttributeAccessIssue]
        self.dt_proj.bias._no_reinit = True  # pyright: ignore[reportAttributeAccessIssue]
        self._start(dt_min, dt_max, dt_init, dt_scale, dt_init_floor)

    @torch.no_grad()
    def _start(self, dt_min, dt_max, dt_init, dt_scale, dt_init_floor):
        """Initialize A = -(1..N) (S4D-real), D = 1, and the time steps."""
        if self.D.is_meta:  # no values
            return
        bound, weight, bias = self.dt_rank**-0.5 * dt_scale, self.dt_proj.weight, self.dt_proj.bias
        weight.fill_(bound) if dt_init == "constant" else weight.uniform_(-bound, bound)
        dt = torch.empty_like(bias).uniform_(math.log(dt_min), math.log(dt_max)).exp().clamp(min=dt_init_floor)
        bias.copy_(dt + torch.log(-torch.expm1(-dt)))  # inverse of softplus
        self.A_log.copy_(torch.arange(1, self.d_state + 1).log())
        self.D.fill_(1.0)

    def forward(self, hidden_states: Tensor, inference_params: Any = None) -> Tensor:
        """Apply the layer to (B, L, d_model). mamba-ssm's `inference_params` (key_value_memory_dict, seqlen_offset) store the
        states: a call at offset 0 starts a sequence, later calls continue it with any number of steps."""
        check_shape("Mamba", "hidden_states", hidden_states, ("B", "L", self.d_model))
        if inference_params is None:
            return self._mix(hidden_states)[0]
        conv_state, ssm_state = cached_states(self, inference_params, len(hidden_states))
        if inference_params.seqlen_offset == 0:
            conv_state.zero_()
            ssm_state.zero_()
        elif hidden_states.shape[1] == 1:
            return self.step(hidden_states, conv_state, ssm_state)[0]
        before = conv_state[..., 1:], ssm_state
        if torch.is_grad_enabled():  # autograd keeps them
            before = tuple(state.clone() for state in before)
        out, inputs, last_state = self._mix(hidden_states, *before)
        conv_state.copy_(torch.cat((conv_state, inputs), -1)[..., -self.d_conv :])
        ssm_state.copy_(last_state)
        return out

    def _mix(self, hidden_states, conv_states=None, initial_state=None):
        """Return the output, the inputs of the convolution and, with an initial state, the final one."""
        # Channels stay contiguous from end to end: the kernels accept (B, D, L) along its channels, so nothing is transposed.
        inputs, z = self.in_proj(hidden_states).transpose(1, 2).chunk(2, dim=1)
        x = causal_conv1d_fn(inputs, self.conv1d.weight[:, 0], self.conv1d.bias, initial_states=conv_states, activation="silu")
        dt, B, C = self._projected(x.transpose(1, 2))
        y = selective_scan_fn(
            x, dt.transpose(1, 2), self._A(), B.transpose(1, 2), C.transpose(1, 2), self.D, z, self.dt_proj.bias,
            delta_softplus=True, return_last_state=initial_state is not None, initial_state=initial_state,
        )  # fmt: skip
        y, last_state = (y, None) if initial_state is None else y
        return self.out_proj(y.transpose(1, 2)), inputs, last_state

    def step(self, hidden_states: Tensor, conv_state: Tensor, ssm_state: Tensor):
        """Compute one step (B, 1, d_model); return the output and both states, which are updated in place. If a gradient is
        needed, the slow references run and the states keep the graph of all steps, so stream under `torch.no_grad()`."""
        check_shape("Mamba.step", "hidden_states", hidden_states, ("B", 1, self.d_model))
        x, z = self.in_proj(hidden_states[:, 0]).chunk(2, dim=-1)
        x = causal_conv1d_update(x, conv_state, self.conv1d.weight[:, 0], self.conv1d.bias, "silu")
        dt, B, C = self._projected(x)
        y = selective_state_update(ssm_state, x, dt, self._A(), B, C, self.D, z, self.dt_proj.bias, dt_softplus=True)
        return self.out_proj(y)[:, None], conv_state, ssm_state

    def _projected(self, x):
        """Project (..., d_inner) to time steps before bias and softplus (..., d_inner), B and C (..., N)."""
        dt, B, C = self.x_proj(x).split([self.dt_rank, self.d_state, self.d_state], dim=-1)
        return linear(dt, self.dt_proj.weight), B, C

    def _A(self):
        return negative_exp(self.A_log)

    def allocate_inference_cache(self, batch_size: int, max_seqlen: int, dtype: torch.dtype | None = None, **kwargs):
        """Return zero states (conv_state (B, d_inner, d_conv), ssm_state (B, d_inner, N)). Their size does not depend on
        `max_seqlen`. The default dtype is that of the weights; float32 for ssm_state keeps streams exact."""
        like = self.conv1d.weight, self.dt_proj.weight
        return tuple(
            torch.zeros(batch_size, self.d_inner, n, device=weight.device, dtype=dtype or weight.dtype)
            for weight, n in zip(like, (self.d_conv, self.d_state))
        )


class BidirectionalMamba(Mamba):
    """Mamba with a second scan that runs backwards, with its own convolution: (B, L, d_model) -> (B, L, d_model).

    Both directions share the input and output projections. Their outputs are added, or averaged with `divide_out`. `mamba`:
    other arguments of `Mamba`. Stepping with states is not supported.
    """

    def __init__(self, d_model: int, divide_out: bool = False, **mamba):
        super().__init__(d_model, **mamba)
        backward = Mamba(d_model, **mamba)
        self.conv1d_b, self.x_proj_b, self.dt_proj_b = backward.conv1d, backward.x_proj, backward.dt_proj
        self.A_b_log, self.D_b = backward.A_log, backward.D  # the official names
        self.divide_out = divide_out

    def forward(self, hidden_states: Tensor) -> Tensor:
        check_shape("BidirectionalMamba", "hidden_states", hidden_states, ("B", "L", self.d_model))
        x, z = self.in_proj(hidden_states).chunk(2, dim=-1)
        after = causal_conv1d_fn(x.mT, self.conv1d.weight[:, 0], self.conv1d.bias, activation="silu")
        # Backwards, every step sees the later ones: a causal convolution with the flipped filter over a shifted sequence.
        later, filter = F.pad(x, (0, 0, 0, self.d_conv - 1)), self.conv1d_b.weight[:, 0].flip(1)
        before = causal_conv1d_fn(later.mT, filter, self.conv1d_b.bias, activation="silu")[..., self.d_conv - 1 :]
        y = _scan(after, "T-f", self.x_proj, self.dt_proj, self.A_log, self.D)
        y = y + _scan(before, "T-b", self.x_proj_b, self.dt_proj_b, self.A_b_log, self.D_b)
        y = y * F.silu(z)
        return self.out_proj(y / 2 if self.divide_out else y)

    def step(self, *args):
        raise NotImplementedError("BidirectionalMamba: a step needs the later ones")


def _scan(x, direction, x_proj, dt_proj, A_log, D):
    """Scan a sequence (B, D, L) in one direction, as a clip with one joint; return (B, L, D)."""
    weights = (x_proj.weight, dt_proj.weight, dt_proj.bias, negative_exp(A_log), D)
    return skeleton_scan(x.mT.unsqueeze(2), *(p[None] for p in weights), directions=(direction,)).squeeze(2)


def cached_states(layer, inference_params, batch):
    """Return a layer's states in mamba-ssm's `inference_params`, creating them if needed."""
    if layer.layer_idx is None:
        raise ValueError(f"{type(layer).__name__}: layer_idx is None, expected a number with inference_params")
    states = inference_params.key_value_memory_dict
    if layer.layer_idx not in states:
        states[layer.layer_idx] = layer.allocate_inference_cache(batch, None)
    return states[layer.layer_idx]


def negative_exp(A_log):
    return -torch.exp(A_log.float() if A_log.dtype != torch.float64 else A_log)
