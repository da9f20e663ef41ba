"""lifter's kernels inside a model of somebody else's."""

import copy

import torch
from torch import nn
from torch.nn.modules.dropout import _DropoutNd

from lifter._errors import first_line
from lifter.kernels import backend

from .engine import Report, difference, draw, rewrite
from .rules import SWAPS


def optimize(model: nn.Module) -> Report:
    """Let what we recognise in somebody else's model run on lifter's kernels, in place, and say what was done.

    Known are attention blocks of MixSTE, MotionBERT, MotionAGFormer and their kin, the four-direction scans of PoseMamba,
    SasMamba and VMamba, and the Mamba (1 and 2) mixers of mamba-ssm and transformers. They are known by what they hold (names,
    shapes and kinds of their parts, signature of `forward`). Each is then compared with its original in float32 on random
    input, outputs and gradients: in training, without dropout, on a short one, in evaluation on several lengths up to 300
    (mixers: 130). A module that differs by more than rounding, or cannot run here, is left alone.

    Nothing else changes: modules, parameters, hooks and the keys of the state dict stay. A swapped module becomes an
    instance of a subclass of its class that has another `forward` (a scan another `forward_core`). Dropout of attention
    weights draws other random numbers. A model may be trained, copied, pickled and replicated as before; what was swapped
    already is left. A pickle of it needs lifter to be read.

    A model that needs an extension to run at all, such as PoseMamba's `selective_scan_cuda_core`, needs
    `lifter.compat.install()` before it is imported.

    Args:
        model: any module, on any device but "meta".

    Returns:
        `Report`; print it. `.swapped` are names, `.left` is {name: why}.

    Raises:
        TypeError if `model` is no module.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"optimize: model is {type(model).__name__}, expected a torch.nn.Module")
    return rewrite(model, SWAPS, _verify)[1]


@torch.inference_mode(False)
def _verify(module, swap):
    """Compare two copies. The module itself is only touched if they do the same."""
    if any(p.device.type == "meta" for p in module.parameters()):
        return None, "its weights are on the meta device"
    if any(getattr(type(module), name) is not getattr(object, name) for name in ("__reduce__", "__reduce_ex__")):
        return None, "its class says itself how it is pickled"
    verified = f"{swap.kind}, verified"
    try:
        theirs = copy.deepcopy(module).float().requires_grad_(True)
    except Exception as error:  # of somebody else's code, whatever it is, here and below
        return None, f"it cannot be copied ({first_line(error)})"
    for part in theirs.modules():
        for hooks in (part._forward_hooks, part._forward_pre_hooks, part._backward_hooks, part._backward_pre_hooks):
            hooks.clear()  # they stay with the model, and should not see random numbers
        if isinstance(part, _DropoutNd):
            part.p = 0.0
    ours = swap.make(copy.deepcopy(theirs))
    alive = dict(vars(theirs))  # nothing new gets the id of what was there
    before = _holds(alive)
    try:
        expected = _run(theirs, swap.examples)
    except Exception as error:
        why = f"its own code does not run here ({first_line(error)})"
        if not swap.reference:
            return None, why
        expected = None
        verified += f" on the reference: {why}"
    if _holds(vars(theirs)) != before:
        return None, "its forward keeps something of what it computes"
    try:
        found = _run(ours, swap.examples)
    except Exception as error:
        return None, f"lifter's ops do not take it ({first_line(error)})"
    if expected is None:
        with backend("reference"):
            expected = _run(ours, swap.examples)
    for key, tensor in expected.items():
        if why := difference(key[1], tensor, found[key]) if key in found else f"{key[1]} is lost":
            return None, why
    return swap.make(module), verified


def _holds(attributes):
    """{name: (id, how much is in it)} of what a module remembers."""
    size = lambda value: len(value) if isinstance(value, (list, dict, set)) else 0
    return {name: (id(value), size(value)) for name, value in attributes.items() if name != "training"}


def _run(module, examples):
    """{(number, name): tensor} of the first example in training and of all in evaluation, in which the module is left."""
    device = next(module.parameters()).device
    tensors = {}
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        for i, example in enumerate([examples[0], *examples]):
            module.train(i == 0)
            for name, tensor in _outputs(module, example, device):
                tensors[i, f"in {'evaluation' if i else 'training'} {name}"] = tensor
    return tensors


def _outputs(module, example, device):
    """[(name, tensor)]: the output, and the gradients of input and parameters for a fixed random cotangent."""
    x, *more = draw(example, next(module.parameters()))
    x.requires_grad_()
    torch.manual_seed(0)
    with torch.enable_grad(), torch.autocast(device.type, enabled=False):
        out = module(x, *more)
        (weights,) = draw([tuple(out.shape)], out)
        named = [("input", x), *module.named_parameters()]
        grads = torch.autograd.grad(out, [p for _, p in named], weights, allow_unused=True)
        with torch.no_grad():  # may take another way
            alone = module(x.detach(), *more)
    tensors = [(f"the gradient of {name}", g) for (name, _), g in zip(named, grads) if g is not None]
    return [("its output", out.detach()), ("its output without gradients", alone), *tensors]
