"""Linear layers."""

from torch import Tensor, nn

from lifter.kernels import linear


class Linear(nn.Linear):
    """`torch.nn.Linear` on `lifter.kernels.linear`, with the same arguments, parameters and, up to rounding, results."""

    def forward(self, input: Tensor) -> Tensor:
        return linear(input, self.weight, self.bias)


class ReorderedLinear(Linear):
    """Linear layer with permuted outputs: output i is computed by row `order[i]`.

    The weight, which is smaller than the outputs, is permuted in each call, or once by `lifter.freeze`.
    """

    order: Tensor

    def __init__(self, in_features: int, out_features: int, order: Tensor, bias: bool = True):
        super().__init__(in_features, out_features, bias)
        self.register_buffer("order", order, persistent=False)  # a constant of the architecture

    def forward(self, input: Tensor) -> Tensor:
        return linear(input, *self._reordered())

    def plain(self):
        """Return an equivalent linear layer."""
        layer = Linear(self.in_features, self.out_features, self.bias is not None).to(self.weight)
        for parameter, value in zip(layer.parameters(), self._reordered(), strict=False):
            parameter.data = value.detach()
        return layer

    def _reordered(self):
        return self.weight[self.order], None if self.bias is None else self.bias[self.order]
