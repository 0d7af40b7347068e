"""Between the loops of a shared block: how the input joins the state, and what differs.

In loop t a matrix W of the block is W + B_t A_t, with A_t (R, n_in) and B_t (n_out, R), as in the
relaxed recursive models of Bae et al. (2024, arXiv:2410.20672).
"""

import torch
from jaxtyping import Float
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


class Inject(nn.Module):
    """The state and the input of a loop, (B, T, D) each, to what its blocks read."""

    def __init__(self, injection: str, d_model: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.empty(1)) if injection == "scaled" else None
        self.state: Linear | None = None
        self.input: Linear | None = None
        self.gated, self.nothing = injection == "gated", injection == "none"
        if injection in ("gated", "concat"):
            self.state = Linear(d_model, d_model)
            self.input = Linear(d_model, d_model, bias=True)

    def forward(self, z: Float[Tensor, "B T D"], e: Float[Tensor, "B T D"]) -> Tensor:
        """Add the input, as it is, scaled, or gated; or map both linearly; or leave it out."""
        if self.nothing:
            return z
        if self.state is not None and self.input is not None:
            both: Tensor = self.state(z) + self.input(e)
            return z + torch.sigmoid(both) * e if self.gated else both.to(z.dtype)
        return z + (e if self.scale is None else self.scale * e)
