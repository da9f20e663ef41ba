"""One step of the selective scan on the GPU: one launch, the state updated where it lies."""

import torch
import triton
import triton.language as tl

from ._scan import launch, softplus, tile_sizes


def forward(state, x, dt, A, B, C, D, z, dt_bias, dt_softplus):
    batch, dim, n = state.shape
    width = dim // max(1, len(A))
    out = x.new_empty(batch, dim)
    sizes = tile_sizes(n, dim)
    sizes.pop("SUB")
    D, dt_bias = (None if y is None else y.contiguous() for y in (D, dt_bias))
    launch(
        update, batch * triton.cdiv(dim, sizes["BD"]), state, state.stride(), x, x.stride(), dt, dt.stride(), A,
        A.stride(), B, B.stride(), C, C.stride(), D, z, None if z is None else z.stride(), dt_bias, out, dim, n,
        width, dim // B.shape[1], dim // C.shape[1], SOFTPLUS=dt_softplus, **sizes,
    )  # fmt: skip
    return out


@triton.jit
def update(
    state, state_s, x, x_s, dt, dt_s, A, A_s, B, B_s, C, C_s, D, z, z_s, bias, out, dim, N, width, b_width, c_width,
    SOFTPLUS: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """The program of (batch, block of channels)."""
    blocks = tl.cdiv(dim, BD)
    b = tl.program_id(0).to(tl.int64) // blocks
    d = tl.program_id(0).to(tl.int64) % blocks * BD + tl.arange(0, BD)
    n = tl.arange(0, BN).to(tl.int64)
    inside = d < dim
    head = d // width
    mask = (n < N)[:, None] & inside[None, :]
    step = tl.load(dt + b * dt_s[0] + head * dt_s[1], mask=inside, other=0.0).to(tl.float32)
    if bias is not None:
        step += tl.load(bias + head, mask=inside, other=0.0)
    if SOFTPLUS:
        step = softplus(step)
    xs = tl.load(x + b * x_s[0] + d * x_s[1], mask=inside, other=0.0).to(tl.float32)
    decay = tl.load(A + head[None, :] * A_s[0] + n[:, None] * A_s[1], mask=mask, other=0.0)
    b_tile = B + b * B_s[0] + (d // b_width)[None, :] * B_s[1] + n[:, None] * B_s[2]
    c_tile = C + b * C_s[0] + (d // c_width)[None, :] * C_s[1] + n[:, None] * C_s[2]
    place = state + b * state_s[0] + d[None, :] * state_s[1] + n[:, None] * state_s[2]
    h = tl.load(place, mask=mask, other=0.0)
    drive = (step * xs)[None, :] * tl.load(b_tile, mask=mask, other=0.0).to(tl.float32)
    h = tl.exp(step[None, :] * decay) * h + drive
    tl.store(place, h, mask=mask)
    y = tl.sum(h * tl.load(c_tile, mask=mask, other=0.0).to(tl.float32), 0)
    if D is not None:
        y += tl.load(D + d, mask=inside, other=0.0) * xs
    if z is not None:
        zs = tl.load(z + b * z_s[0] + d * z_s[1], mask=inside, other=0.0).to(tl.float32)
        y *= zs * tl.sigmoid(zs)
    tl.store(out + b * dim + d, y, mask=inside)


def aot_cases():
    """See `_aot`."""
    from ._aot import recorded

    half, bf16, single = torch.float16, torch.bfloat16, torch.float32
    for n, dtype in ((1, single), (16, bf16), (16, single), (100, half), (256, single)):
        state, A, D = (torch.empty(shape, device="meta") for shape in ((2, 192, n), (192, n), (192,)))
        x, B = (torch.empty(shape, dtype=dtype, device="meta") for shape in ((2, 192), (2, 1, n)))
        yield from recorded(f"N={n} {str(dtype)[6:]}", forward, state, x, x, A, B, B, D, x, D, True)
