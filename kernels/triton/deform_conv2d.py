"""Triton kernels of deform_conv2d: tiles of output pixels x channels that walk over the taps.

The gradient of the input is a scatter. Atomics would make it differ from run to run, so it is turned round: the samples
are sorted by the cell of the grid in which they fall (stable, so the order is always the same), and every input pixel
gathers from its four cells. The cost over the other passes is one sort of B * groups * Ho * Wo * kh * kw keys.
"""

import torch
import triton
import triton.language as tl

from ._scan import launch

BLOCK_P = 64  # pixels of a tile
MAX_BLOCK_C = 32  # channels of a tile
WARPS = 8


@triton.jit
def _split(pixel, height, width):
    """Flat index -> (image, row, column)."""
    return pixel // (height * width), pixel // width % height, pixel % width


@triton.jit
def _place(pixel, tap, group, valid, offset, mask, geometry, offset_strides, mask_strides, HAS_MASK: tl.constexpr):
    """Upper left neighbour of what a tap of an output pixel reads, the way from there, and the mask.

    A place that is outside, infinite or NaN becomes (-2, -2), which has no neighbours, before it becomes an integer.
    """
    height, width, out_height, out_width, taps, taps_x, stride_y, stride_x, pad_y, pad_x, step_y, step_x = geometry
    image, row, column = _split(pixel, out_height, out_width)
    channel = group * taps + tap
    at = offset + image * offset_strides[0] + row * offset_strides[2] + column * offset_strides[3]
    at += 2 * channel * offset_strides[1]
    y = (row * stride_y - pad_y + tap // taps_x * step_y).to(tl.float32) + tl.load(at, mask=valid, other=0)
    at += offset_strides[1]
    x = (column * stride_x - pad_x + tap % taps_x * step_x).to(tl.float32) + tl.load(at, mask=valid, other=0)
    factor = tl.full(y.shape, 1, tl.float32)
    if HAS_MASK:
        at = mask + image * mask_strides[0] + row * mask_strides[2] + column * mask_strides[3]
        factor = tl.load(at + channel * mask_strides[1], mask=valid, other=0)
    near = valid & (y >= -1) & (y < height) & (x >= -1) & (x < width)
    y = tl.where(near, y, -2.0)
    x = tl.where(near, x, -2.0)
    top = tl.floor(y)
    left = tl.floor(x)
    return top.to(tl.int64), left.to(tl.int64), y - top, x - left, factor


@triton.jit
def _neighbours(image, top, left, height, width, strides, channel, channel_valid):
    """The four [pixel, channel] tiles around the places, zero where there is no pixel."""
    at = image + (top * strides[1] + left * strides[2])[:, None] + channel
    upper = ((top >= 0) & (top < height))[:, None] & channel_valid
    lower = ((top >= -1) & (top < height - 1))[:, None] & channel_valid
    before = ((left >= 0) & (left < width))[:, None]
    after = ((left >= -1) & (left < width - 1))[:, None]
    a = tl.load(at, mask=upper & before, other=0).to(tl.float32)
    b = tl.load(at + strides[2], mask=upper & after, other=0).to(tl.float32)
    c = tl.load(at + strides[1], mask=lower & before, other=0).to(tl.float32)
    d = tl.load(at + strides[1] + strides[2], mask=lower & after, other=0).to(tl.float32)
    return a, b, c, d


@triton.jit
def _tile(pixels, channels, groups, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr):
    """This program's pixels, channel group and channels, each with what is valid of it."""
    blocks = tl.cdiv(channels // groups, BLOCK_C)
    program = tl.program_id(0).to(tl.int64)
    pixel = program // (groups * blocks) * BLOCK_P + tl.arange(0, BLOCK_P)
    group = program // blocks % groups
    in_group = program % blocks * BLOCK_C + tl.arange(0, BLOCK_C)
    return pixel, pixel < pixels, group, group * (channels // groups) + in_group, in_group < channels // groups


@triton.jit
def _forward_kernel(
    input, offset, mask, weight, bias, out, pixels, channels, groups, geometry,
    input_strides, offset_strides, mask_strides, weight_strides,
    HAS_MASK: tl.constexpr, HAS_BIAS: tl.constexpr, DEPTHWISE: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    height, width, out_height, out_width, taps, taps_x = geometry[:6]
    pixel, valid, group, channel, channel_valid = _tile(pixels, channels, groups, BLOCK_P, BLOCK_C)
    image = input + (pixel // (out_height * out_width) * input_strides[0])[:, None]
    tile_valid = valid[:, None] & channel_valid

    total = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
    if HAS_BIAS:
        total += tl.load(bias + channel, mask=channel_valid, other=0)
    for tap in range(taps):
        top, left, fy, fx, m = _place(
            pixel, tap, group, valid, offset, mask, geometry, offset_strides, mask_strides, HAS_MASK
        )
        a, b, c, d = _neighbours(image, top, left, height, width, input_strides, channel, channel_valid)
        sample = ((1 - fy) * (1 - fx) * m)[:, None] * a + ((1 - fy) * fx * m)[:, None] * b
        sample += (fy * (1 - fx) * m)[:, None] * c + (fy * fx * m)[:, None] * d
        if DEPTHWISE:
            at = weight + tap // taps_x * weight_strides[0] + tap % taps_x * weight_strides[1]
            total += sample * tl.load(at + channel * weight_strides[2], mask=channel_valid, other=0)
        else:
            tl.store(out + ((pixel * taps + tap) * channels)[:, None] + channel, sample, mask=tile_valid)
    if DEPTHWISE:
        tl.store(out + (pixel * channels)[:, None] + channel, total, mask=tile_valid)


@triton.jit
def _places_kernel(
    dout, input, offset, mask, weight, doffset, dmask, dweight, cells, pixels, channels, groups, geometry,
    input_strides, offset_strides, mask_strides, weight_strides, doffset_strides, dmask_strides,
    HAS_MASK: tl.constexpr, DEPTHWISE: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """doffset, dmask, this tile's share of dweight and (the row after the taps) dbias, and the cell of every sample."""
    height, width, out_height, out_width, taps, taps_x = geometry[:6]
    tile = tl.program_id(0).to(tl.int64) // groups
    group = tl.program_id(0) % groups
    pixel = tile * BLOCK_P + tl.arange(0, BLOCK_P)
    valid = pixel < pixels
    group_channels = channels // groups
    image, row, column = _split(pixel, out_height, out_width)
    share = tile * (taps + 1) * channels + group * group_channels

    for tap in range(taps):
        top, left, fy, fx, m = _place(
            pixel, tap, group, valid, offset, mask, geometry, offset_strides, mask_strides, HAS_MASK
        )
        gy = tl.zeros((BLOCK_P,), tl.float32)
        gx = tl.zeros((BLOCK_P,), tl.float32)
        gm = tl.zeros((BLOCK_P,), tl.float32)
        for start in range(0, group_channels, BLOCK_C):
            in_group = start + tl.arange(0, BLOCK_C)
            channel_valid = in_group < group_channels
            channel = group * group_channels + in_group
            a, b, c, d = _neighbours(
                input + (image * input_strides[0])[:, None], top, left, height, width, input_strides, channel,
                channel_valid,
            )  # fmt: skip
            upper = a + fx[:, None] * (b - a)
            lower = c + fx[:, None] * (d - c)
            sample = upper + fy[:, None] * (lower - upper)
            row_of = pixel if DEPTHWISE else pixel * taps + tap
            at = dout + (row_of * channels)[:, None] + channel
            g = tl.load(at, mask=valid[:, None] & channel_valid, other=0).to(tl.float32)
            if DEPTHWISE:
                at = dweight + share + tap * channels + in_group
                tl.store(at, tl.sum(g * sample * m[:, None], 0), mask=channel_valid)
                at = weight + tap // taps_x * weight_strides[0] + tap % taps_x * weight_strides[1]
                if tap == 0:
                    tl.store(dweight + share + taps * channels + in_group, tl.sum(g, 0), mask=channel_valid)
                g *= tl.load(at + channel * weight_strides[2], mask=channel_valid, other=0)
            gm += tl.sum(g * sample, 1)
            gy += tl.sum(g * (lower - upper), 1)
            gx += tl.sum(g * ((b - a) + fy[:, None] * ((d - c) - (b - a))), 1)
        sample_channel = group * taps + tap
        at = doffset + image * doffset_strides[0] + row * doffset_strides[2] + column * doffset_strides[3]
        at += 2 * sample_channel * doffset_strides[1]
        tl.store(at, m * gy, mask=valid)
        tl.store(at + doffset_strides[1], m * gx, mask=valid)
        if HAS_MASK:
            at = dmask + image * dmask_strides[0] + row * dmask_strides[2] + column * dmask_strides[3]
            tl.store(at + sample_channel * dmask_strides[1], gm, mask=valid)
        # Samples in no cell come after all cells: (image, group) beyond the last.
        cell = ((image * groups + group) * (height + 1) + top + 1) * (width + 1) + left + 1
        last = pixels // (out_height * out_width) * groups * (height + 1) * (width + 1)
        tl.store(cells + (pixel * groups + group) * taps + tap, tl.where(top >= -1, cell, last), mask=valid)


@triton.jit
def _input_kernel(
    dout, offset, mask, weight, dinput, starts, order, pixels, channels, groups, geometry,
    offset_strides, mask_strides, weight_strides,
    HAS_MASK: tl.constexpr, DEPTHWISE: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """dinput of a tile of input pixels. starts[cell] is the first of the cell's samples in `order`."""
    height, width, out_height, out_width, taps, taps_x = geometry[:6]
    input_pixel, valid, group, channel, channel_valid = _tile(pixels, channels, groups, BLOCK_P, BLOCK_C)
    image, y, x = _split(input_pixel, height, width)

    total = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
    for neighbour in tl.static_range(4):  # this pixel as upper left, upper right, lower left, lower right
        cell = ((image * groups + group) * (height + 1) + y + 1 - neighbour // 2) * (width + 1) + x + 1 - neighbour % 2
        start = tl.load(starts + cell, mask=valid, other=0)
        count = tl.load(starts + cell + 1, mask=valid, other=0) - start
        for i in range(tl.max(count, 0)):
            some = i < count
            sample = tl.load(order + start + i, mask=some, other=0)
            tap = sample % taps
            pixel = sample // (taps * groups)
            top, left, fy, fx, m = _place(
                pixel, tap, group, some, offset, mask, geometry, offset_strides, mask_strides, HAS_MASK
            )
            share = (fy if neighbour // 2 else 1 - fy) * (fx if neighbour % 2 else 1 - fx) * m
            tile_valid = some[:, None] & channel_valid
            row_of = pixel if DEPTHWISE else pixel * taps + tap
            g = tl.load(dout + (row_of * channels)[:, None] + channel, mask=tile_valid, other=0).to(tl.float32)
            if DEPTHWISE:
                at = weight + tap // taps_x * weight_strides[0] + tap % taps_x * weight_strides[1]
                g *= tl.load(at[:, None] + channel * weight_strides[2], mask=tile_valid, other=0)
            total += share[:, None] * g
    at = dinput + (input_pixel * channels)[:, None] + channel
    tl.store(at, total, mask=valid[:, None] & channel_valid)


def forward(input, offset, mask, weight, bias, stride, padding, dilation):
    out = input.new_empty(input.shape[0], *offset.shape[2:], input.shape[3])
    _forward(out, input, offset, mask, weight, bias, weight.shape[:2], stride, padding, dilation)
    return out


def sample(input, offset, mask, kernel_size, stride, padding, dilation):
    columns = input.new_empty(input.shape[0], *offset.shape[2:], kernel_size[0] * kernel_size[1], input.shape[3])
    _forward(columns, input, offset, mask, None, None, kernel_size, stride, padding, dilation)
    return columns


def backward(dout, input, offset, mask, weight, stride, padding, dilation):
    dinput, doffset, dmask, partials = _backward(
        dout, input, offset, mask, weight, weight.shape[:2], stride, padding, dilation
    )
    dweight = partials.sum(0)
    return dinput, doffset, dmask, dweight[:-1].view(weight.shape), dweight[-1].clone()


def sample_backward(dcolumns, input, offset, mask, kernel_size, stride, padding, dilation):
    return _backward(dcolumns, input, offset, mask, None, kernel_size, stride, padding, dilation)[:3]


def _geometry(input, offset, kernel_size, stride, padding, dilation):
    _, height, width, _ = input.shape
    taps = kernel_size[0] * kernel_size[1]
    return (height, width, *offset.shape[2:], taps, kernel_size[1], *stride, *padding, *dilation)


def _strides(x, count):
    return (0,) * count if x is None else x.stride()[:count]


def _plan(pixels, channels, groups):
    """Tiles of pixels, blocks of channels over all groups, channels of a block."""
    block_c = min(triton.next_power_of_2(channels // groups), MAX_BLOCK_C)
    return triton.cdiv(pixels, BLOCK_P), groups * triton.cdiv(channels // groups, block_c), block_c


def _forward(out, input, offset, mask, weight, bias, kernel_size, stride, padding, dilation):
    input = input if input.stride(3) == 1 else input.contiguous()
    bias = None if bias is None else bias.contiguous()
    geometry = _geometry(input, offset, kernel_size, stride, padding, dilation)
    channels, groups = input.shape[3], offset.shape[1] // (2 * geometry[4])
    pixels = offset.shape[0] * offset.shape[2] * offset.shape[3]
    tiles, blocks, block_c = _plan(pixels, channels, groups)
    launch(
        _forward_kernel, tiles * blocks, input, offset, mask, weight, bias, out, pixels, channels, groups, geometry,
        _strides(input, 3), _strides(offset, 4), _strides(mask, 4), _strides(weight, 3),
        HAS_MASK=mask is not None, HAS_BIAS=bias is not None, DEPTHWISE=weight is not None,
        BLOCK_P=BLOCK_P, BLOCK_C=block_c, num_warps=WARPS,
    )  # fmt: skip


def _backward(dout, input, offset, mask, weight, kernel_size, stride, padding, dilation):
    """dinput, doffset, dmask, and partial sums (tiles, taps + 1, channels) of dweight and dbias."""
    dout, input = dout.contiguous(), input if input.stride(3) == 1 else input.contiguous()
    geometry = _geometry(input, offset, kernel_size, stride, padding, dilation)
    batch, height, width, channels = input.shape
    taps = geometry[4]
    groups = offset.shape[1] // (2 * taps)
    pixels = offset.shape[0] * offset.shape[2] * offset.shape[3]
    tiles, blocks, block_c = _plan(pixels, channels, groups)
    shared = {"HAS_MASK": mask is not None, "DEPTHWISE": weight is not None, "BLOCK_P": BLOCK_P, "BLOCK_C": block_c}
    shared["num_warps"] = WARPS

    doffset, dmask = torch.empty_like(offset), None if mask is None else torch.empty_like(mask)
    partials = None if weight is None else weight.new_empty(tiles, taps + 1, channels)
    cells = torch.empty(pixels * groups * taps, dtype=torch.int64, device=input.device)
    launch(
        _places_kernel, tiles * groups, dout, input, offset, mask, weight, doffset, dmask, partials, cells,
        pixels, channels, groups, geometry, _strides(input, 3), _strides(offset, 4), _strides(mask, 4),
        _strides(weight, 3), _strides(doffset, 4), _strides(dmask, 4), **shared,
    )  # fmt: skip

    cells, order = torch.sort(cells, stable=True)
    every = torch.arange(batch * groups * (height + 1) * (width + 1) + 1, device=cells.device)
    starts = torch.searchsorted(cells, every)
    dinput = input.new_empty(input.shape)
    input_pixels = batch * height * width
    tiles, _, _ = _plan(input_pixels, channels, groups)
    launch(
        _input_kernel, tiles * blocks, dout, offset, mask, weight, dinput, starts, order,
        input_pixels, channels, groups, geometry, _strides(offset, 4), _strides(mask, 4), _strides(weight, 3), **shared,
    )  # fmt: skip
    return dinput, doffset, offset.new_empty(0) if mask is None else dmask, partials


def aot_cases():
    """See `_aot`."""
    from ._aot import recorded

    def tensor(*shape, dtype=torch.float32):
        return torch.empty(shape, dtype=dtype, device="meta")

    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        for channels, size, groups, masked in ((128, 3, 1, False), (12, 7, 2, True)):
            x, geometry = tensor(2, 243, 17, channels, dtype=dtype), ([1, 1], [size // 2] * 2, [1, 1])
            offset = tensor(2, 2 * groups * size**2, 243, 17)
            mask = tensor(2, groups * size**2, 243, 17) if masked else None
            weight, columns = tensor(size, size, channels), tensor(2, 243, 17, size**2, channels, dtype=dtype)
            label = f"C={channels} {size}x{size} groups={groups}{' mask' if masked else ''} {str(dtype)[6:]}"
            yield from recorded(label, forward, x, offset, mask, weight, weight[0, 0], *geometry)
            yield from recorded(label, backward, x, x, offset, mask, weight, *geometry)
            yield from recorded(f"{label} columns", sample, x, offset, mask, [size, size], *geometry)
            yield from recorded(f"{label} columns", sample_backward, columns, x, offset, mask, [size, size], *geometry)
