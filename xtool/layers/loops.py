"""What one loop of a shared block has of its own: a low-rank difference of each matrix.

In loop t a matrix W of the block is W + B_t A_t, with A_t (R, n_in) and B_t (n_out, R), as in the
relaxed recursive models of Bae et al. (2024, arXiv:2410.20672).
"""

import torch
from torch import Tensor, nn
from torch.func import functional_call

from xtool.axes import FIRST, SECOND
from xtool.layers.linear import Linear


class Difference(nn.Module):
    """The differences of all matrices of a block in one loop.

    Args:
        block: the block that all loops share.
        rank: R.
    """

    def __init__(self, block: nn.Module, rank: int) -> None:
        super().__init__()
        for path, module in block.named_modules():
            if not isinstance(module, Linear):
                continue
            own: nn.Module = self
            for part in path.split("."):
                if not hasattr(own, part):
                    own.add_module(part, nn.Module())
                own = own.get_submodule(part)
            n_out, n_in = module.weight.shape
            own.register_parameter(FIRST, nn.Parameter(torch.empty(rank, n_in)))
            own.register_parameter(SECOND, nn.Parameter(torch.empty(n_out, rank)))

    def forward(self, block: nn.Module, x: Tensor) -> Tensor:
        """What the block makes of x in this loop, (B, T, D) -> (B, T, D)."""
        own = dict(self.named_parameters())
        weights = {}
        for name in (name for name in own if name.endswith(FIRST)):
            path = name.removesuffix(f".{FIRST}")
            weight = getattr(block.get_submodule(path), "weight")  # noqa: B009
            weights[f"{path}.weight"] = differing(weight, own[f"{path}.{SECOND}"], own[name])
        out: Tensor = functional_call(block, weights, (x,))
        return out


def differing(weight: Tensor, second: Tensor, first: Tensor) -> Tensor:
    """The matrix of one loop: W (n_out, n_in) + B (n_out, R) A (R, n_in)."""
    return weight + second @ first
