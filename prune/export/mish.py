"""Mish in operators that ONNX Runtime is fast at.

It has none for Mish, and computes softplus and tanh, by which exporters write it, value by value:
that is most of such a network's time. Multiplications and one sigmoid are vectorised everywhere.
"""

from __future__ import annotations

from torch import Tensor, nn

from prune.core.trace.meta import copied


class Mish(nn.Module):
    """x tanh(log(1 + exp(x))) (Misra 2019) by its sigmoid alone.

    The tangent is (u - 1) / (u + 1) with u = (1 + exp(x))². With s = sigmoid(x), u = 1 / (1 - s)²,
    so it is m / (2 - m) with m = 1 - (1 - s)² = s (2 - s). Nothing overflows or cancels.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map any tensor."""
        sigmoid = x.sigmoid()
        m = sigmoid * (2 - sigmoid)
        return x * m / (2 - m)


def expanded(net: nn.Module) -> nn.Module:
    """Copy a network with every Mish in these operators; tensors are shared."""
    plain = copied(net, lambda tensor: tensor)
    for module in list(plain.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.Mish):
                setattr(module, name, Mish())
    return plain
