"""The papers' tables: published cost, ours by the papers' convention, ours in full.

Nothing runs: the models lie on "meta", hooks and a counter of FLOPs see every layer and op of one clip.
"""

import gc
from collections import Counter
from contextlib import contextmanager
from functools import cache, partial
from unittest import mock

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten
from torch.utils.flop_counter import flop_registry

import lifter
from lifter.layers import TCEP, Linear, Mamba, Retention
from lifter.models import D3DP, FinePOSE
from lifter.models.finepose import TOKENS

from . import published

TITLE = "Tables: parameters and multiply-accumulates of one clip"
COLUMNS = [
    ("case", "case", "{}"),  # of one that failed
    ("model", "name", "{}"),
    ("T", "frames", "{}"),
    ("source", "source", "{}"),
    ("published", "printed", "{}"),
    ("convention", "convention", "{}"),
    ("params by convention", "params_paper_convention", "{:,}"),
    ("deviation", "params_deviation", "{}"),
    ("MACs by convention", "macs_by_convention", lambda macs: _macs(macs)),
    ("deviation", "macs_deviation", "{}"),
    ("params, all", "params", "{:,}"),
    ("MACs, all", "macs", lambda macs: _macs(macs)),
    ("MPJPE, mm", "mpjpe", "{}"),
    ("note", "note", "{}"),
]
SCREEN = ("case", "model", "T", "source", "published", "params by convention", "MACs by convention", "deviation")
NOTES = [
    "By convention: as thop counts, and most papers with it. Only registered layers count (Linear, convolution, norm): no "
    "raw parameters, no products of them, no attention, no scan, no sampling. Others count with an older thop (no LayerNorm, "
    "but biases of convolutions), or with torchprofile (every product, but none inside a custom function, as Mamba's is).",
    "All: every parameter, and half the FLOPs of every product, attention, retention, convolution, "
    "scan (9 L D N + L D) and sampling.",
    "Deviation of the count by convention from the published figure (of all parameters where the source counts so, as HTP's "
    'tables do); "as printed" if its digits are the same.',
    "MPJPE: as printed, on Human3.6M from detected keypoints, in one of the tables that print a model. accuracy.svg draws it "
    "against all multiply-accumulates of a pose.",
]

NORMS = (nn.LayerNorm, nn.BatchNorm1d, nn.BatchNorm2d)
LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, *NORMS)
FREE = (*NORMS, nn.GELU)  # no product is in them
SOFTMAX = (torch.ops.aten._softmax, torch.ops.aten._safe_softmax)
COMPARISONS = [getattr(torch.ops.aten, name) for name in ("eq", "ne", "lt", "le", "gt", "ge")]
# Of these thop sees nothing: in the official codes their matrices are raw parameters (of TCEP the printed total says so), and
# it has no rule for GroupNorm; or all is in one custom function (Mamba).
UNSEEN = (Retention, TCEP, Mamba, nn.MultiheadAttention)
ARCHITECTURES = ("sasmamba", "poseretnet", "htp", "masc_pose", "mixsynthformer")
PAPER, OLD_THOP = "thop", "old thop"
IGNORED = ("forward", "p", "shuffle")  # ours, and rates of training: blocks are alike without them
HIDDEN = (
    "skeleton_scan",
    "causal_conv1d",
    "aten.mm",
)  # what Mamba's custom function does: scans, convolutions and projections without bias
CONVENTIONS = {
    "thop": lambda counts: counts["macs_paper_convention"],
    "2 x thop": lambda counts: 2 * counts["macs_paper_convention"],
    "4 x thop": lambda counts: 4 * counts["macs_paper_convention"],
    "2 x all": lambda counts: 2 * counts["macs"],
    "old thop": lambda counts: counts["macs_old_thop"],
    "torchprofile": lambda counts: sum(n for op, n in counts["macs_by_op"].items() if not op.endswith(HIDDEN)),
}


def cases(setup):
    """Return all rows, in a quick run those of the five architectures."""
    rows = [row for row in published.ROWS if not setup.quick or row.model.startswith(ARCHITECTURES)]
    return [(f"{row.name} ({row.source})", partial(_row, row)) for row in rows]


def _row(row: published.Published):
    printed_for = (row.frames if row.per_frame else 1) / row.calls
    calls = [] if row.calls == 1 else [f"{row.calls} calls"]
    found = {
        "model": row.model,
        "name": row.name,
        "frames": row.frames,
        "kwargs": row.kwargs,
        "source": row.source,
        "printed": row.printed,
        "convention": ", ".join([row.counted, *(["per frame"] if row.per_frame else []), *calls]) if row.public else None,
        "published_params": published.value(row.params) if row.params else None,
        "published_macs": published.value(row.macs) * printed_for if row.macs else None,
        "mpjpe": row.mpjpe,
        "note": row.note,
    }
    if not row.public:
        return [found]
    counts = _counted(row.model, row.frames, tuple(row.kwargs.items()))
    params = counts["params" if row.all_params else "params_paper_convention"]
    macs = CONVENTIONS[row.counted](counts)
    deviations = {
        "params_deviation": _deviation(params, row.params) if row.params else None,
        "macs_deviation": _deviation(macs / printed_for, row.macs) if row.macs else None,
    }
    each = {"macs_of_pose": counts["macs"] * row.calls / counts["poses"]}
    return [found | counts | {"macs_by_convention": macs} | each | deviations]


@cache
def _counted(model, frames, kwargs):
    """Many tables print the same model."""
    return count(model, frames, **dict(kwargs))


def _macs(macs):
    return f"{macs / 1e9:.3f} G" if macs >= 1e9 else f"{macs / 1e6:.3f} M"


def _deviation(ours, printed):
    if published.as_printed(ours, printed):
        return "as printed"
    return f"{ours / published.value(printed) - 1:+.1%}"


def count(name, frames, **kwargs) -> dict:
    """Parameters and multiply-accumulates of one clip, by the papers' convention and in full."""
    with unfilled(), uncollected():
        model = lifter.create_model(name, num_frames=frames, **kwargs).eval().to("meta")
    with torch.device("meta"):  # the ops count there, also where no kernels are built
        inputs = [torch.empty(1, frames, model.num_joints, model.in_channels)]
        if isinstance(model, D3DP):
            inputs += [torch.empty(1, frames, model.num_joints, 3), torch.empty(1)]  # noisy poses and their time
        if isinstance(model, FinePOSE):
            dim = model.Spatial_pos_embed.shape[-1]
            inputs += [torch.empty(1, dim), torch.empty(1, TOKENS, dim)]  # a text
    macs = Counter()  # by op, and of the paper convention
    modules = list(model.modules())
    layers = _watch(modules, macs)
    _count_alike_once(modules, macs)
    network = getattr(model, "lift_all", model)  # as the official class: all frames of a window, of which it gives one
    with torch.no_grad(), uncollected(), CountProducts(macs):
        network(*inputs)
    by_op = {op: int(number) for op, number in macs.items()}
    in_convention, in_old_thop = (by_op.pop(tool, 0) for tool in (PAPER, OLD_THOP))
    return {
        "params": sum(p.numel() for p in model.parameters()),
        "params_paper_convention": sum(p.numel() for layer in layers for p in layer.parameters()),
        "macs": sum(by_op.values()),
        "macs_paper_convention": in_convention,
        "macs_old_thop": in_old_thop,
        "macs_by_op": by_op,
        "poses": frames - sum(getattr(model, "margins", ())),
    }


def unfilled():
    """Leave parameters as they are made: nobody reads their values, and filling them takes as long as all the rest."""
    fills = [name for name in vars(nn.init) if name.endswith("_") and not name.startswith("_")]
    return mock.patch.multiple(nn.init, **dict.fromkeys(fills, lambda tensor, *args, **options: tensor))


@contextmanager
def uncollected():
    """Leave cycles alone for a while: looking for them takes a quarter of the time that models of many parts are built in."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _watch(modules, macs) -> list[nn.Module]:
    """Let the layers that the paper convention sees add to `macs`, and return them."""
    unseen = {child for module in modules if isinstance(module, UNSEEN) for child in module.modules()}
    read = lambda layer: all(p.requires_grad for p in layer._parameters.values() if p is not None)  # else nothing calls it
    layers = [module for module in modules if isinstance(module, LAYERS) and module not in unseen and read(module)]
    for layer in layers:
        layer.register_forward_hook(lambda layer, args, out: macs.update(_by_tool(layer, args[0], out)))
    for module in modules:  # on "meta" these take far longer than all the rest
        if isinstance(module, FREE):
            module.forward = lambda x: x
        elif type(module) in (nn.Linear, Linear):
            module.forward = partial(_shape_of_linear, module, macs)
    return layers


def _shape_of_linear(layer, macs, x):
    """Note the multiply-accumulates of a linear layer, and return an output that has only its shape."""
    macs.update(linear=layer_macs(layer, x, None))
    return x.new_empty(*x.shape[:-1], layer.out_features)


class CountProducts(TorchDispatchMode):
    """Adds half the FLOPs of every op that has some to `macs`. FlopCounterMode follows the modules, too, and is slower.

    Of what is elementwise there is only the shape: on "meta" it would take as long as all the rest, and import the compiler.
    """

    def __init__(self, macs):
        super().__init__()
        self.macs = macs

    @classmethod
    def _should_skip_dynamo(cls):  # of TorchDispatchMode; True would import the compiler
        return False

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        packet = op.overloadpacket
        if (torch.Tag.pointwise in op.tags or packet in SOFTMAX) and not op._schema.is_mutable:
            operands = [x for x in args if isinstance(x, (torch.Tensor, int, float))]
            shape = torch.broadcast_shapes(*(x.shape for x in operands if isinstance(x, torch.Tensor)))
            dtype = torch.bool if packet in COMPARISONS else torch.result_type(*(operands * 2)[:2])
            return torch.empty(shape, dtype=dtype, device="meta")
        output = op(*args, **(kwargs or {}))
        if formula := flop_registry.get(packet):
            self.macs[str(packet)] += formula(*args, **(kwargs or {}), out_val=output) / 2
        return output


def _count_alike_once(modules, macs):
    """Let the blocks of a list that are alike, given inputs of the same shapes, run once: the others add what it counted."""
    known = {}

    def run(block, forward, *args, **kwargs):
        given, _ = tree_flatten((args, kwargs))
        key = _likeness(block), *(x.shape if isinstance(x, torch.Tensor) else str(x) for x in given)
        if key in known:
            output, counted = known[key]
            macs.update(counted)
            return output
        before = macs.copy()
        output = forward(*args, **kwargs)
        known[key] = output, macs - before
        return output

    for blocks in [module for module in modules if isinstance(module, (nn.ModuleList, nn.Sequential))]:
        for block in blocks:
            if not isinstance(block, (*LAYERS, *FREE)):
                block.forward = partial(run, block, block.forward)


def _likeness(module) -> tuple:
    """Equal for modules of the same classes, sizes and options, but those of training."""
    found = []
    for name, child in module.named_modules():
        options = {key: value for key, value in vars(child).items() if not key.startswith("_") and key not in IGNORED}
        options |= {key: x.shape for key, x in (child._parameters | child._buffers).items() if x is not None}
        plain = (int, float, str, tuple, type(None))
        found.append((name, type(child), *((k, v if isinstance(v, plain) else id(v)) for k, v in options.items())))
    return tuple(found)


def _by_tool(layer, x, out) -> dict:
    macs = layer_macs(layer, x, out)
    old = 0 if isinstance(layer, nn.LayerNorm) else macs
    if isinstance(layer, (nn.Conv1d, nn.Conv2d)) and layer.bias is not None:
        old += out.numel()
    return {PAPER: macs, OLD_THOP: old}


def layer_macs(layer, x, out) -> int:
    """thop's rule for one call of a layer: biases are free, a norm costs 4 per element with affine weights, else 2."""
    if isinstance(layer, nn.Linear):
        return x.numel() * layer.out_features
    if isinstance(layer, (nn.Conv1d, nn.Conv2d)):
        return out.numel() * layer.weight[0].numel()
    affine = getattr(layer, "affine", False) or getattr(layer, "elementwise_affine", False)
    return x.numel() * (4 if affine else 2)
