"""Linear layers."""

from collections.abc import Sequence

from torch import Tensor, nn

from lifter.kernels import linear


class Linear(nn.Linear):
    """`torch.nn.Linear` by `lifter.kernels.linear`: the same arguments, parameters and results, to rounding."""

    def forward(self, input: Tensor) -> Tensor:
        return linear(input, self.weight, self.bias)


class ReorderedLinear(Linear):
    """Linear layer whose outputs come in another order than its rows: output i is that of row `order[i]`.

    The weight, which is smaller than the outputs, is reordered in each call; by `lifter.freeze` once.
    """

    def __init__(self, in_features: int, out_features: int, order: Sequence[int], bias: bool = True):
        super().__init__(in_features, out_features, bias)
        self.register_buffer("order", order, persistent=False)  # a constant of the architecture

    def forward(self, input: Tensor) -> Tensor:
        return linear(input, *self._reordered())

    def plain(self):
        """A linear layer that gives the same."""
        layer = Linear(self.in_features, self.out_features, self.bias is not None).to(self.weight)
        for parameter, value in zip(layer.parameters(), self._reordered(), strict=False):
            parameter.data = value.detach()
        return layer

    def _reordered(self):
        return self.weight[self.order], None if self.bias is None else self.bias[self.order]
