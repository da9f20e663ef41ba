"""The scans in four directions of VMamba, PoseMamba and SasMamba: `forward_core` of their SS2D and BiSTSSM modules.

Their projections, convolution and gate stay; the copies of the map in four orders, the scan and the sum become one op.
"""

from functools import partial

import torch

from lifter.kernels import skeleton_scan
from lifter.models.posemamba import limb_gather
from lifter.models.sasmamba import stride_gather

from ..engine import Rewrite, extend, is_extended

FORWARD, SIDEWAYS = ("T-f", "T-b"), ("S-f", "S-b")  # the even and the odd ones of their four weight groups
ALL = ("T-f", "S-f", "T-b", "S-b")


def cross_scan(module):
    core = getattr(module, "forward_core", None)
    if not hasattr(module, "A_logs") or not (is_extended(module) or isinstance(core, partial)):
        return None
    if is_extended(module):
        return "its scan was replaced before"
    if getattr(core.func, "__name__", None) != "forward_corev2" or getattr(core.func, "__self__", None) is not module:
        return "its forward_core is not the forward_corev2 of VMamba"
    options = core.keywords
    if options.get("cascade2d") or options.get("scan_mode", "cross2d") not in ("cross2d", 0):
        return "it does not scan in four directions"
    if getattr(module, "x_proj_bias", None) is not None:
        return "its x_proj has a bias"
    name = getattr(options.get("CrossScan"), "__name__", "CrossScan")
    if name not in GATHERS:
        return f"its order of tokens, {name}, is not known"
    if _weights(module)[0].shape[0] != len(ALL):
        return f"it has {_weights(module)[0].shape[0]} groups of weights, not {len(ALL)}"

    C, gather = module.in_proj.in_features, GATHERS[name]
    sizes = [(2, 5, 17), (1, 3, 17), (1, 150, 17)] if gather else [(2, 5, 3), (1, 2, 7), (1, 300, 3)]
    shapes = [(B, C, T, J) if module.channel_first else (B, T, J, C) for B, T, J in sizes]

    def make(module):
        if gather:
            module.register_buffer("_lifter_gather", gather().to(module.Ds.device), persistent=False)
        del module.forward_core  # theirs is bound to the module, and would stand before the method
        return extend(module, Scan)

    return Rewrite("scan in four directions", make, [(shape,) for shape in shapes])


# The name of their CrossScan -> the table of what its frame-major directions read.
GATHERS = {
    "CrossScan": None,
    "CrossScanTriton": None,
    "CrossScan_plus_poselimbs": lambda: limb_gather(ALL),
    "CrossScan_plus_poselimbsv2": lambda: stride_gather((1, 2, 3), ALL),
}


class Scan:
    def forward_core(self, x):
        """(B, C, T, J) -> the normalised sum of the scans, in the layout that the module has."""
        y = _scan(self, x.permute(0, 2, 3, 1), getattr(self, "_lifter_gather", None))
        return self.out_norm(y.permute(0, 3, 1, 2) if self.channel_first else y).to(x.dtype)


def _scan(module, x, gather):
    x_proj, dt_proj, dt_bias, A, D = _weights(module)

    def scan(x, directions=ALL, groups=slice(None), gather=None):
        chosen = (weight[groups] for weight in (x_proj.to(x.dtype), dt_proj, dt_bias, A, D))
        return skeleton_scan(x, *chosen, gather, None, directions)

    if gather is None or not (torch.is_grad_enabled() and x.requires_grad):
        return scan(x, gather=gather)
    # Their backward sends nothing to the joints that were added: kept, since a model was trained with it.
    joints = gather[0, 0, 1:].long()
    added = sum(x.detach()[:, :, row] for row in joints)
    return scan(x + added, FORWARD, slice(0, None, 2)) + scan(x, SIDEWAYS, slice(1, None, 2))


def _weights(module):
    """(K, R + 2N, C), (K, C, R), (K, C), A (K, C, N) and D (K, C) of the K directions."""
    K, C = module.dt_projs_bias.shape
    packed = hasattr(module, "x_proj_weight")  # VMamba's own file has grouped linear layers instead
    x_proj = module.x_proj_weight if packed else module.x_proj.weight
    dt_proj = module.dt_projs_weight if packed else module.dt_projs.weight
    A = -torch.exp(module.A_logs.float())
    return x_proj.view(K, -1, C), dt_proj.view(K, C, -1), module.dt_projs_bias, A.view(K, C, -1), module.Ds.view(K, C)
