"""Freezing of linear layers: their weights in oneDNN's blocked layout."""

from functools import cached_property

import torch
from torch import nn

from lifter.layers import Linear, Mlp, ReorderedLinear

from ..engine import Rewrite, untouched
from ..frozen import Frozen

# Private to PyTorch: they may vanish.
OPS = ("_reorder_linear_weight", "_linear_pointwise", "_is_mkldnn_bf16_supported")


LINEAR = (nn.Linear, Linear)  # they compute the same


def linear_layer(module):
    """A linear layer."""
    if not _can_pack(module):
        return None
    return Rewrite("linear layer", PackedLinear, [((rows, module.in_features),) for rows in (1, 20)])


def reordered_linear(module):
    """A linear layer that reorders its weight in each call."""
    if not untouched([module], {ReorderedLinear}) or not (plain := linear_layer(module.plain())):
        return None
    return Rewrite(plain.kind, lambda module: PackedLinear(module.plain()), plain.examples)


def mlp(module):
    """An `Mlp` with GELU, which is applied where the products are still in the caches."""
    if type(module) is not Mlp or not untouched([module]) or not untouched([module.drop], {nn.Dropout}):
        return None
    if not _can_pack(module.fc1) or not is_exact_gelu(module.act):
        return None
    return Rewrite("MLP", PackedMlp, [((rows, module.fc1.in_features),) for rows in (1, 20)])


class PackedLinear(Frozen, nn.Linear):
    """`linear(input)`, then `activation` ("none" or "gelu"), with the weight packed for oneDNN.

    It is a `nn.Linear` with the bias as a parameter for models that look for either.
    """

    ROWS = 4096  # for which the layout is chosen; it suits fewer rows as well

    def __init__(self, linear, activation="none"):
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.activation, self.dtype = activation, linear.weight.dtype
        self.packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach().contiguous(), self.ROWS)
        self.bias = None if linear.bias is None else nn.Parameter(linear.bias.detach().contiguous(), requires_grad=False)
        vars(self)["bias"] = self.bias  # found at once; the lookup of a parameter takes longer

    @cached_property
    def weight(self):
        """The weight as it was. Some modules do not call their linear layers, but read the weight; it is kept for these."""
        return self.packed.to_dense(self.dtype)

    def forward(self, input):
        self.check(input, self.dtype, self.in_features)
        multiply = torch.ops.lifter_rewrite.packed_linear if torch.compiler.is_compiling() else _multiply
        return multiply(input, self.packed, self.bias, self.activation)

    def _apply(self, fn, recurse=True):
        """Stay, whatever the model is cast or moved to: the bias alone would go."""
        return self

    def extra_repr(self):
        return f"{self.in_features}, {self.out_features}, activation={self.activation!r}, {self.dtype}"


def _multiply(x, packed, bias, activation):
    return torch.ops.mkldnn._linear_pointwise(x, packed, bias, activation, [], "none")


# In a graph the product is an op of ours: inductor takes oneDNN's for one of those that it packs itself.
_library = torch.library.Library("lifter_rewrite", "DEF")
_library.define("packed_linear(Tensor x, Tensor packed, Tensor? bias, str activation) -> Tensor")
_library.impl("packed_linear", _multiply, "CompositeExplicitAutograd")
torch.library.register_fake(
    "lifter_rewrite::packed_linear",
    lambda x, packed, bias, activation: x.new_empty(*x.shape[:-1], packed.shape[0]),
    lib=_library,
)


class PackedMlp(Frozen):
    """fc2(GELU(fc1(x))), the GELU in `fc1`."""

    def __init__(self, mlp):
        super().__init__()
        self.fc1, self.fc2 = PackedLinear(mlp.fc1, "gelu"), mlp.fc2

    def forward(self, x):
        return self.fc2(self.fc1(x))


def _can_pack(module):
    """Return whether it is a linear layer, no subclass, with a weight that oneDNN packs."""
    plain = untouched([module], LINEAR) and type(module.weight) is nn.Parameter
    return plain and module.weight.numel() > 0 and packs(module.weight.dtype)


def packs(dtype):
    """Return whether oneDNN packs weights of this dtype on this machine."""
    if not torch.backends.mkldnn.is_available() or not all(hasattr(torch.ops.mkldnn, op) for op in OPS):
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def is_exact_gelu(module):
    return untouched([module], {nn.GELU}) and module.approximate == "none"
