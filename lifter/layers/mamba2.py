"""Mamba-2 layer as in mamba-ssm: input projection, short convolution, scan of heads, gated norm, output projection.

Source: Dao & Gu, "Transformers are SSMs" (2024), section 7 and figure 6; parameter names, arguments and caches of mamba-ssm's
`Mamba2`, so that weights and calling code are compatible.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lifter.kernels import causal_conv1d_fn, causal_conv1d_update, linear, mamba_chunk_scan_combined, selective_state_update
from lifter.kernels._checks import check_shape

from .linear import Linear
from .mamba import cached_states, negative_exp


class Mamba2(nn.Module):
    """Mamba-2 layer: (B, L, d_model) -> (B, L, d_model).

    Args:
        d_state: N, states per channel. d_conv: width of the convolution, 2 to 4. conv_init: bound of its initial weights.
        expand: inner channels per channel. headdim: channels per head. ngroups: groups of heads that share B and C.
        d_ssm: inner channels that are scanned; the others form a gated linear unit. None: all.
        A_init_range: range of the initial -A of the heads (uniform). D_has_hdim: use one D per channel instead of per head.
        rmsnorm: use a gated RMSNorm of every group; norm_before_gate: apply the gate after the norm.
        dt_min, dt_max, dt_init_floor: initial time steps are log-uniform in [dt_min, dt_max] and at least dt_init_floor.
        dt_limit: (min, max) to which time steps are clamped.
        conv_bias, bias: use a bias in the convolution, and in the outer projections.
        chunk_size, use_mem_eff_path, sequence_parallel: accepted for compatibility.
        layer_idx: key of the layer's states in `inference_params`.

    Raises:
        ValueError for invalid arguments and shapes.
    """

    def __init__(
        self,
        d_model: int,
        d_state: int = 128,
        d_conv: int = 4,
        conv_init: float | None = None,
        expand: int = 2,
        headdim: int = 64,
        d_ssm: int | None = None,
        ngroups: int = 1,
        A_init_range: tuple[float, float] = (1, 16),
        D_has_hdim: bool = False,
        rmsnorm: bool = True,
        norm_before_gate: bool = False,
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        dt_init_floor: float = 1e-4,
        dt_limit: tuple[float, float] = (0.0, math.inf),
        bias: bool = False,
        conv_bias: bool = True,
        chunk_size: int = 256,
        use_mem_eff_path: bool = True,
        layer_idx: int | None = None,
        process_group: Any = None,
        sequence_parallel: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        if not 2 <= d_conv <= 4:
            raise ValueError(f"Mamba2: d_conv is {d_conv}, expected 2 to 4")
        if process_group is not None:
            raise ValueError(f"Mamba2: process_group is {process_group!r}, expected None: the layer is not split")
        self.d_model, self.d_state, self.d_conv, self.expand, self.headdim = d_model, d_state, d_conv, expand, headdim
        self.d_inner = int(expand * d_model)
        self.d_ssm = self.d_inner if d_ssm is None else d_ssm
        if not 0 < self.d_ssm <= self.d_inner or self.d_ssm % headdim:
            raise ValueError(
                f"Mamba2: {self.d_ssm} scanned channels, expected a multiple of headdim {headdim} up to {self.d_inner}"
            )
        self.nheads = self.d_ssm // headdim
        if self.nheads % ngroups:
            raise ValueError(f"Mamba2: ngroups is {ngroups}, expected a divisor of the {self.nheads} heads")
        self.ngroups, self.D_has_hdim, self.rmsnorm, self.norm_before_gate = ngroups, D_has_hdim, rmsnorm, norm_before_gate
        self.dt_limit, self.chunk_size, self.layer_idx = dt_limit, chunk_size, layer_idx
        kind = {"device": device, "dtype": dtype}
        conv_dim = self.d_ssm + 2 * ngroups * d_state
        self.in_proj = Linear(d_model, 2 * self.d_inner + 2 * ngroups * d_state + self.nheads, bias=bias, **kind)
        self.conv1d = nn.Conv1d(conv_dim, conv_dim, d_conv, groups=conv_dim, padding=d_conv - 1, bias=conv_bias, **kind)
        self.dt_bias = nn.Parameter(torch.empty(self.nheads, **kind))
        # Always float32: rounding A would change the memory length exp(A * dt).
        self.A_log = nn.Parameter(torch.empty(self.nheads, device=device, dtype=torch.float32))
        self.D = nn.Parameter(torch.empty(self.d_ssm if D_has_hdim else self.nheads, device=device, dtype=torch.float32))
        if rmsnorm:
            self.norm = RMSNormGated(self.d_ssm, 1e-5, self.d_ssm // ngroups, norm_before_gate, **kind)
        self.out_proj = Linear(self.d_inner, d_model, bias=bias, **kind)
        for p in (self.dt_bias, self.A_log, self.D):  # read by some optimizers, as in mamba-ssm
            p._no_weight_decay = True  # pyright: ignore[reportAttributeAccessIssue]
        self._start(dt_min, dt_max, dt_init_floor, A_init_range, conv_init)

    @torch.no_grad()
    def _start(self, dt_min, dt_max, dt_init_floor, A_init_range, conv_init):
        if self.D.is_meta:  # no values
            return
        if conv_init is not None:
            self.conv1d.weight.uniform_(-conv_init, conv_init)
        dt = torch.empty_like(self.A_log).uniform_(math.log(dt_min), math.log(dt_max)).exp().clamp(min=dt_init_floor)
        self.dt_bias.copy_(dt + torch.log(-torch.expm1(-dt)))  # inverse of softplus
        self.A_log.uniform_(*A_init_range).log_()
        self.D.fill_(1.0)

    def forward(
        self,
        u: Tensor,
        seqlen: int | None = None,
        seq_idx: Tensor | None = None,
        cu_seqlens: Tensor | None = None,
        inference_params: Any = None,
    ) -> Tensor:
        """Apply the layer to (B, L, d_model) or (B * seqlen, d_model). seq_idx: see `mamba_chunk_scan_combined`; cu_seqlens:
        accepted for compatibility.

        mamba-ssm's `inference_params` (key_value_memory_dict, seqlen_offset) store the states: a call at offset 0 starts a
        sequence, later calls continue it by any number of steps.
        """
        shape = u.shape
        u = u if seqlen is None else u.unflatten(0, (-1, seqlen))
        check_shape("Mamba2", "u", u, ("B", "L", self.d_model))
        if inference_params is None:
            return self._mix(self.in_proj(u), seq_idx).reshape(shape)  # pyright: ignore[reportAttributeAccessIssue]
        conv_state, ssm_state = cached_states(self, inference_params, len(u))
        if inference_params.seqlen_offset == 0:
            conv_state.zero_()
            ssm_state.zero_()
        return self._advance(u, conv_state, ssm_state, seq_idx).reshape(shape)

    def step(self, hidden_states: Tensor, conv_state: Tensor, ssm_state: Tensor):
        """Compute the next steps (B, L, d_model); return the output and both states, which are updated in place. If a gradient
        is needed, the states keep the graph of all steps, so stream under `torch.no_grad()`."""
        check_shape("Mamba2.step", "hidden_states", hidden_states, ("B", "L", self.d_model))
        return self._advance(hidden_states, conv_state, ssm_state), conv_state, ssm_state

    def _advance(self, u, conv_state, ssm_state, seq_idx=None):
        zxbcdt = self.in_proj(u)
        if u.shape[1] == 1 and self.dt_limit == (0.0, math.inf) and not torch.is_grad_enabled():
            return self._one_step(zxbcdt, conv_state, ssm_state)
        if u.shape[1] == 1 and self.dt_limit == (0.0, math.inf) and not torch.is_grad_enabled():
            return self._one_step(zxbcdt[:, 0], conv_state, ssm_state)[:, None]
        before = (conv_state[..., 1:], ssm_state)
        if torch.is_grad_enabled():  # autograd keeps them
            before = [state.clone() for state in before]
        out, last_state = self._mix(zxbcdt, seq_idx, *before)
        _, _, inputs, _ = _parts(zxbcdt, self.d_ssm, len(self.conv1d.weight), self.nheads)
        conv_state.copy_(torch.cat([conv_state, inputs.mT], -1)[..., -self.d_conv :])
        ssm_state.copy_(last_state)
        return out

    def _one_step(self, zxbcdt, conv_state, ssm_state):
        """`_mix` of a single step, which updates the states where they lie."""
        unit, z, xBC, dt = _parts(zxbcdt, self.d_ssm, len(self.conv1d.weight), self.nheads)
        xBC = causal_conv1d_update(xBC[:, 0], conv_state, self.conv1d.weight[:, 0], self.conv1d.bias, "silu")
        states = self.ngroups * self.d_state
        x, B, C = xBC.split([self.d_ssm, states, states], -1)
        x = x.unflatten(-1, (self.nheads, -1))
        B, C = (y.unflatten(-1, (self.ngroups, -1)) for y in (B, C))
        D = self.D.view(self.nheads, -1).expand(-1, self.headdim)
        gate = None if self.rmsnorm else z.view_as(x)
        A = negative_exp(self.A_log)
        y = selective_state_update(ssm_state, x, dt[:, 0], A, B, C, D, gate, self.dt_bias, dt_softplus=True)
        weight = self.norm.weight if self.rmsnorm else None
        return _project_out(
            y.flatten(1)[:, None], unit, z, weight, 1e-5, self.d_ssm // self.ngroups, self.norm_before_gate,
            self.out_proj.weight, self.out_proj.bias,
        )  # fmt: skip

    def _mix(self, zxbcdt, seq_idx, conv_states=None, initial_states=None):
        """Return the output and, if states are given, the final state."""
        return mamba_split_conv1d_scan_combined(
            zxbcdt, self.conv1d.weight[:, 0], self.conv1d.bias, self.dt_bias, negative_exp(self.A_log),
            self.D.view(-1, self.headdim) if self.D_has_hdim else self.D, self.chunk_size, initial_states, seq_idx,
            self.dt_limit, initial_states is not None, "silu", self.norm.weight if self.rmsnorm else None, 1e-5,
            self.out_proj.weight, self.out_proj.bias, self.headdim, self.ngroups, self.norm_before_gate,
            conv_states=conv_states,
        )  # fmt: skip

    def allocate_inference_cache(self, batch_size: int, max_seqlen: int, dtype: torch.dtype | None = None, **kwargs):
        """Return zero states (conv_state (B, channels, d_conv), ssm_state (B, heads, headdim, N)). Their size does not depend
        on `max_seqlen`. The default dtype is that of the weights; float32 for ssm_state keeps streams exact."""
        make = lambda *shape: torch.zeros(shape, device=self.D.device, dtype=dtype or self.conv1d.weight.dtype)
        return (
            make(batch_size, len(self.conv1d.weight), self.d_conv),
            make(batch_size, self.nheads, self.headdim, self.d_state),
        )


class RMSNormGated(nn.Module):
    """Gated RMSNorm of groups of channels, see `rms_norm_gated`."""

    def __init__(
        self,
        hidden_size: int,
        eps: float = 1e-5,
        group_size: int | None = None,
        norm_before_gate: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(hidden_size, device=device, dtype=dtype))
        self.eps, self.group_size, self.norm_before_gate = eps, group_size, norm_before_gate

    def forward(self, x: Tensor, z: Tensor | None = None) -> Tensor:
        return rms_norm_gated(x, self.weight, z, self.eps, self.group_size, self.norm_before_gate)


def rms_norm_gated(
    x: Tensor,
    weight: Tensor,
    z: Tensor | None = None,
    eps: float = 1e-5,
    group_size: int | None = None,
    norm_before_gate: bool = True,
) -> Tensor:
    """Compute norm(x) * silu(z) or norm(x * silu(z)), where norm is an RMSNorm of every `group_size` channels in at least
    float32."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    y, gate = x.to(dtype), 1 if z is None else F.silu(z.to(dtype))
    y = y if norm_before_gate else y * gate
    y = y.unflatten(-1, (-1, group_size or x.shape[-1]))
    y = F.rms_norm(y, y.shape[-1:], None, eps).flatten(-2) * weight.to(dtype)
    return (y * gate if norm_before_gate else y).to(x.dtype)


def mamba_split_conv1d_scan_combined(
    zxbcdt: Tensor,
    conv1d_weight: Tensor,
    conv1d_bias: Tensor | None,
    dt_bias: Tensor,
    A: Tensor,
    D: Tensor,
    chunk_size: int,
    initial_states: Tensor | None = None,
    seq_idx: Tensor | None = None,
    dt_limit: tuple[float, float] = (0.0, math.inf),
    return_final_states: bool = False,
    activation: str = "silu",
    rmsnorm_weight: Tensor | None = None,
    rmsnorm_eps: float = 1e-6,
    outproj_weight: Tensor | None = None,
    outproj_bias: Tensor | None = None,
    headdim: int | None = None,
    ngroups: int = 1,
    norm_before_gate: bool = True,
    *,
    conv_states: Tensor | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Compute Mamba-2 after its input projection, with mamba-ssm's signature: convolution, scan, gated norm, output
    projection.

    Args:
        zxbcdt: (B, L, 2 M + 2 H P + 2 G N + H): two halves of a gated linear unit, the gate z, x, B, C, and dt of H heads.
        conv1d_weight: (H P + 2 G N, W), of x, B and C. conv1d_bias: (H P + 2 G N,), or None.
        dt_bias, A: (H,). D: (H,) with `headdim`, or (H, P).
        rmsnorm_weight: (H P,), weight of the norm, see `rms_norm_gated`; None: only the gate.
        outproj_weight: (E, M + H P); None: no output projection. outproj_bias: (E,).
        conv_states: (B, H P + 2 G N, W - 1), the steps of the convolution before the first one, or None. Not in mamba-ssm.
        Others: see `mamba_chunk_scan_combined`.

    Returns:
        (B, L, E), or (out, final_states).
    """
    op = "mamba_split_conv1d_scan_combined"
    (heads,) = dt_bias.shape
    width = headdim if D.dim() == 1 else D.shape[1]
    if width is None:
        raise ValueError(f"{op}: headdim is None, expected the channels of a head where D has {tuple(D.shape)}")
    inner = heads * width
    unit, z, xBC, dt = _parts(zxbcdt, inner, len(conv1d_weight), heads)
    xBC = causal_conv1d_fn(xBC.mT, conv1d_weight, conv1d_bias, seq_idx, conv_states, activation=activation).mT
    states = (len(conv1d_weight) - inner) // 2
    x, B, C = xBC.split([inner, states, states], -1)
    x, z_heads = (y.unflatten(-1, (heads, width)) for y in (x, z))
    B, C = (y.unflatten(-1, (ngroups, -1)) for y in (B, C))
    y = mamba_chunk_scan_combined(
        x, dt, A, B, C, chunk_size, D, z_heads if rmsnorm_weight is None else None, dt_bias, initial_states, seq_idx,
        None, True, dt_limit, return_final_states,
    )  # fmt: skip
    y, final_states = y if return_final_states else (y, None)
    out = _project_out(
        y.flatten(2), unit, z, rmsnorm_weight, rmsnorm_eps, inner // ngroups, norm_before_gate, outproj_weight, outproj_bias
    )
    return (out, final_states) if return_final_states else out  # pyright: ignore[reportReturnType]


def _project_out(y, unit, z, norm_weight, eps, group_size, norm_before_gate, weight, bias):
    """The mixer after its scan: norm and gate, the gated linear unit beside it, projection."""
    if norm_weight is not None:
        y = rms_norm_gated(y, norm_weight, z, eps, group_size, norm_before_gate)
    gate, values = unit
    if values.shape[-1]:
        y = torch.cat([F.silu(gate) * values, y], -1)
    return y if weight is None else linear(y, weight, bias)


def _parts(zxbcdt, inner, conv_dim, heads):
    """Split into ((z0, x0), z, xBC, dt); (z0, x0) belong to the gated linear unit."""
    unit = max(0, zxbcdt.shape[-1] - inner - conv_dim - heads) // 2
    check_shape("mamba_split_conv1d_scan_combined", "zxbcdt", zxbcdt, ("B", "L", 2 * unit + inner + conv_dim + heads))
    z0, x0, z, xBC, dt = zxbcdt.split([unit, unit, inner, conv_dim, heads], -1)
    return (z0, x0), z, xBC, dt
