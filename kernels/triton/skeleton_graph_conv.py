"""Graph convolution along joints on the GPU.

A program has one joint of some frames, so that its neighbours are scalars: only what they send is read. Programs of the same
frames follow each other, so that it is read from the cache. The way back asks every edge whether it starts at the joint;
to sort them would take launches.
"""

import torch
import triton
import triton.language as tl

from ._scan import launch

FRAMES = 16  # of a tile
MAX_COLUMNS = 128  # channels of a tile
WARPS = 8  # with fewer, rows that are not aligned spill registers


def forward(x, neighbours, weights, root, scale, shift, residual, relu):
    out = x.new_empty(x.shape)
    x, root, residual = map(_readable, (x, root, residual))
    programs, sizes = _plan(x)
    launch(
        outputs, programs, *_map(x), neighbours.contiguous(), weights.contiguous(), *_map(root), _packed(scale),
        _packed(shift), *_map(residual), out, *x.shape, neighbours.shape[1], RELU=relu, **sizes,
    )  # fmt: skip
    return out


def backward(dout, neighbours, weights, scale, out, x, root, passed_wanted, root_wanted, shift_wanted):
    wanted = True, passed_wanted, root_wanted
    dx, passed, droot = (dout.new_empty(dout.shape) if w else None for w in wanted)
    dout, out, x, root = map(_readable, (dout, out, x, root))
    programs, sizes = _plan(dout)
    J = dout.shape[2]
    sums = [weights.new_empty(programs // J, J) if w else None for w in (x is not None, shift_wanted)]
    launch(
        gradients, programs, *_map(dout), neighbours.contiguous(), weights.contiguous(), _packed(scale), *_map(out),
        *_map(x), *_map(root), dx, passed, droot, *sums, *dout.shape, neighbours.shape[1], **sizes,
    )  # fmt: skip
    dscale, dshift = (None if y is None else y.sum(0) for y in sums)
    return tuple(weights.new_empty(0) if y is None else y for y in (dx, passed, droot, dscale, dshift))


def _packed(x):
    return None if x is None else x.contiguous()


def _readable(x):
    return x if x is None or x.stride(3) == 1 else x.contiguous()


def _map(x):
    return (None, (0, 0, 0)) if x is None else (x, x.stride()[:3])


def _plan(x):
    """Programs, and the sizes of their tiles."""
    B, T, J, C = x.shape
    columns = min(triton.next_power_of_2(C), MAX_COLUMNS)
    return triton.cdiv(B * T, FRAMES) * triton.cdiv(C, columns) * J, {"FRAMES": FRAMES, "COLUMNS": columns, "num_warps": WARPS}


@triton.jit
def _tile(B, T, J, C, FRAMES: tl.constexpr, COLUMNS: tl.constexpr):
    """Return the joint of a program, what comes before the joint's number in the order of all, its frames as clips and frames
    of these, its channels, and which of all are there. Divisions are of int32: int64 would be calls."""
    tile, joint = tl.program_id(0) // J, tl.program_id(0) % J
    blocks = tl.cdiv(C, COLUMNS)
    n = tile // blocks * FRAMES + tl.arange(0, FRAMES)
    b, t = (n // T).to(tl.int64), (n % T).to(tl.int64)
    c = tile % blocks * COLUMNS + tl.arange(0, COLUMNS)
    return joint.to(tl.int64), tile.to(tl.int64), b, t, c, (b < B)[:, None] & (c < C)[None, :]


@triton.jit
def _rows(x, x_s, b, t, joint, c, inside):
    at = x + (b * x_s[0] + t * x_s[1] + joint * x_s[2])[:, None] + c[None, :]
    return tl.load(at, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def _sums(x, x_s, neighbours, weights, root, root_s, J, D, b, t, joint, c, inside):
    """Compute what the joint receives, and its rows of the root."""
    y = tl.zeros(inside.shape, tl.float32)
    for d in range(D):
        sender = tl.load(neighbours + joint * D + d).to(tl.int64)
        if (sender >= 0) & (sender < J):
            y += tl.load(weights + joint * D + d) * _rows(x, x_s, b, t, sender, c, inside)
    if root is not None:
        y += _rows(root, root_s, b, t, joint, c, inside)
    return y


@triton.jit
def outputs(
    x, x_s, neighbours, weights, root, root_s, scale, shift, residual, residual_s, out, B, T, J, C, D,
    RELU: tl.constexpr, FRAMES: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    joint, _, b, t, c, inside = _tile(B, T, J, C, FRAMES, COLUMNS)
    y = _sums(x, x_s, neighbours, weights, root, root_s, J, D, b, t, joint, c, inside)
    if scale is not None:
        y *= tl.load(scale + joint)
    if shift is not None:
        y += tl.load(shift + joint)
    if residual is not None:
        y += _rows(residual, residual_s, b, t, joint, c, inside)
    if RELU:
        y = tl.where(y < 0, 0.0, y)  # NaN stays
    tl.store(out + (((b * T + t) * J + joint) * C)[:, None] + c[None, :], y, mask=inside)


@triton.jit
def _passed(dout, dout_s, out, out_s, b, t, joint, c, inside):
    """dout where relu let it pass."""
    d = _rows(dout, dout_s, b, t, joint, c, inside)
    if out is not None:
        d = tl.where(_rows(out, out_s, b, t, joint, c, inside) <= 0, 0.0, d)
    return d


@triton.jit
def gradients(
    dout, dout_s, neighbours, weights, scale, out, out_s, x, x_s, root, root_s, dx, passed, droot, dscale, dshift,
    B, T, J, C, D, FRAMES: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """dscale and dshift: sums of this tile."""
    joint, tile, b, t, c, inside = _tile(B, T, J, C, FRAMES, COLUMNS)
    place = (((b * T + t) * J + joint) * C)[:, None] + c[None, :]
    d = _passed(dout, dout_s, out, out_s, b, t, joint, c, inside)
    if passed is not None:
        tl.store(passed + place, d, mask=inside)
    if droot is not None:
        tl.store(droot + place, d * tl.load(scale + joint), mask=inside)
    if dshift is not None:
        tl.store(dshift + tile * J + joint, tl.sum(d))
    if dscale is not None:
        y = _sums(x, x_s, neighbours, weights, root, root_s, J, D, b, t, joint, c, inside)
        tl.store(dscale + tile * J + joint, tl.sum(d * y))
    total = tl.zeros(inside.shape, tl.float32)
    for receiver in range(J):
        for e in range(D):
            if tl.load(neighbours + receiver * D + e) == joint:
                weight = tl.load(weights + receiver * D + e)
                if scale is not None:
                    weight *= tl.load(scale + receiver)
                total += weight * _passed(dout, dout_s, out, out_s, b, t, receiver, c, inside)
    tl.store(dx + place, total, mask=inside)


def aot_cases():
    """See `_aot`."""
    from ._aot import recorded

    def tensor(*shape, dtype=torch.float32):
        return torch.empty(shape, dtype=dtype, device="meta")

    for C, dtype in ((128, torch.float32), (512, torch.bfloat16), (100, torch.float16)):
        x, p = tensor(8, 243, 17, C, dtype=dtype), tensor(17)
        graph = tensor(17, 3, dtype=torch.int32), tensor(17, 3)
        label = f"C={C} {str(dtype)[6:]}"
        yield from recorded(label, forward, x, *graph, x, p, p, x, True)
        yield from recorded(label, backward, x, *graph, p, x, x, x, True, True, True)
        yield from recorded(f"{label} alone", forward, x, *graph, None, None, None, None, False)
        yield from recorded(f"{label} alone", backward, x, *graph, None, None, None, None, False, False, False)
    # Sizes of 1, which Triton makes constants
    x, graph = tensor(1, 1, 1, 1), (tensor(1, 1, dtype=torch.int32), tensor(1, 1))
    yield from recorded("all 1", forward, x, *graph, x, x[0, 0, 0], x[0, 0, 0], x, True)
    yield from recorded("all 1", backward, x, *graph, x[0, 0, 0], x, x, x, True, True, True)
