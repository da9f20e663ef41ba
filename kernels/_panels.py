"""Weights of linear layers in the layout of the C++ kernels: transposed, in panels of columns. See
csrc/cpu/weight_panels.h."""

import torch
import torch.nn.functional as F

PANEL = 64  # columns of a panel, and
LANES = 16  # the size is padded to a multiple of this, on every machine


def padded(n):
    return n + -n % LANES


def pack_vector(x):
    """Pack the elements in order and pad them."""
    return F.pad(x.flatten(), (0, -x.numel() % LANES))


def pack_panels(weight):
    """Pack a weight (out, in) into a vector (panels_size(out, in, dtype),) of the panels of its transpose. In bfloat16, values
    are interleaved in pairs along `in`, as AVX-512 multiplies them; an odd `in` is padded."""
    along = _along(weight.dtype)
    units = F.pad(weight, (0, -weight.shape[1] % along, 0, -weight.shape[0] % LANES)).unflatten(1, (-1, along))
    return torch.cat([panel.flatten() for panel in units.transpose(0, 1).split(PANEL, 1)])


def unpack_panels(packed, out, inner):
    """Undo `pack_panels`."""
    along = _along(packed.dtype)
    units = -(-inner // along)
    panels = [panel.unflatten(0, (units, -1, along)) for panel in packed.split(units * PANEL * along)]
    return torch.cat(panels, 1).transpose(0, 1).flatten(1)[:out, :inner]


def panels_size(out, inner, dtype=torch.float32):
    return padded(out) * (inner + -inner % _along(dtype))


def _along(dtype):
    return 2 if dtype == torch.bfloat16 else 1
