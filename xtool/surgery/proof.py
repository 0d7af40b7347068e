"""The proof of a growth: small and grown model on the same inputs, read from their written files.

Both are walked stage by stage, so that at any time one stage of one model is in memory. Exact means
that the logits agree to 1e-10 * max(1, |logit|max) in float64 and to 1e-5 of it in float32.
"""

from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Float, Integer
from torch import Tensor
from torch.func import functional_call

from xtool.archs import Model, build
from xtool.axes import Layout
from xtool.checkpoint import Reader
from xtool.errors import CheckFailed, XtoolError
from xtool.seeds import derive

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}
POSITIONS = 1024
SYMBOLS = 4096


@dataclass(frozen=True)
class Proof:
    """What a comparison of two models found.

    Attributes:
        difference: the largest difference between two logits.
        largest: the largest logit of the small model, by size.
        tolerance: what the difference may be for the growth to count as exact.
    """

    difference: float
    largest: float
    tolerance: float

    @property
    def exact(self) -> bool:
        """Whether the promise of an exact operator is kept."""
        return self.difference <= self.tolerance

    def __str__(self) -> str:
        return (
            f"largest logit difference {self.difference:.2g} of {self.largest:.3g} "
            f"(exact: at most {self.tolerance:.2g})"
        )


@torch.inference_mode()
def logits(reader: Reader, ours: Layout, inputs: Integer[Tensor, "B T"]) -> Float[Tensor, "B T C"]:
    """A stored model's logits, (B, T) -> (B, T, C), in the type that it is stored in."""
    with torch.device("meta"):
        model = build(ours.config).eval()
    x = inputs
    for prefix, stage in cast(Model, model).stages():
        names = [name for name in stage.state_dict() if prefix + name in model.state_dict()]
        tensors: dict[str, Any] = {name: reader.tensor(prefix + name) for name in names}
        x = functional_call(stage, tensors, (x,), tie_weights=False)
    return x


def compare(small: Reader, grown: Reader, seed: int) -> Proof:
    """Run both models on the same random inputs, of at most `POSITIONS` positions each.

    The inputs are of the small model's length and symbols, and its outputs are compared: new
    positions, symbols and outputs have nothing that they could agree with.

    Args:
        small: the model that was grown, with its layout.
        grown: the written result, with its layout.
        seed: of the inputs.

    Raises:
        XtoolError: the small model's own logits are NaN or infinite.
    """
    assert small.layout is not None
    assert grown.layout is not None
    config = small.layout.config
    generator = torch.Generator().manual_seed(derive(seed, "proof"))
    length = min(config["context"], POSITIONS)
    shape = (max(1, min(16, SYMBOLS // length)), length)
    inputs = torch.randint(config["vocab_size"], shape, generator=generator)  # (B, T)
    before = logits(small, small.layout, inputs)  # (B, T, C)
    after = logits(grown, grown.layout, inputs)[..., : before.shape[2]]  # (B, T, C)
    largest = float(before.abs().max())
    if not torch.isfinite(before).all():
        raise XtoolError(f"{small.source.path}: the model's logits are NaN or infinite")
    tolerance = TOLERANCE.get(before.dtype, 1e-2) * max(1.0, largest)
    return Proof(float((after - before).abs().max()), largest, tolerance)


def require_exact(proof: Proof, method: str) -> None:
    """Raise CheckFailed unless the proof holds."""
    if not proof.exact:
        raise CheckFailed(
            f"`{method}` promised to be exact, but the {proof}",
            "nothing was written; a float32 model can be too badly conditioned for its tolerance: "
            "another `--method`, or one trained with `--precision fp64`",
        )
