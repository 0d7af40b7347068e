"""The proof of a growth: small and grown model on the same inputs, read from their written files.

Both are walked stage by stage, so that at any time one stage of one model is in memory. Exact means
that the logits agree to 1e-10 * max(1, |logit|max) in float64 and to 1e-5 of it in float32, unless
another tolerance is asked for.
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
from xtool.dataset import Dataset
from xtool.errors import CheckFailed, XtoolError
from xtool.evaluation.score import together
from xtool.seeds import derive
from xtool.tasks import Task, fitted, task_of

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}
POSITIONS = 1024
SYMBOLS = 4096
EXAMPLES = 256


@dataclass(frozen=True)
class Proof:
    """What a comparison of two models found.

    Attributes:
        difference: the largest difference between two logits.
        largest: the largest logit of the small model, by size.
        tolerance: what the difference may be for the growth to count as exact.
        losses: the task's loss in nats before and after, where data were given.
    """

    difference: float
    largest: float
    tolerance: float
    losses: tuple[float, float] | None = None

    @property
    def exact(self) -> bool:
        """Whether the promise of an exact operator is kept."""
        return self.difference <= self.tolerance

    def __str__(self) -> str:
        text = f"largest logit difference {self.difference:.2g} of {self.largest:.3g}"
        if self.exact:
            text += f" (at most {self.tolerance:.2g})"
        if self.losses:
            text += f"; loss {self.losses[0]:.4f} before, {self.losses[1]:.4f} after"
        return text


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


def compare(
    small: Reader,
    grown: Reader,
    seed: int,
    tolerance: float | None = None,
    data: Dataset | None = None,
) -> Proof:
    """Run both models on the same random inputs, of at most `POSITIONS` positions each.

    The inputs are of the small model's length and symbols, and its outputs are compared: new
    positions, symbols and outputs have nothing that they could agree with.

    Args:
        small: the model that was grown, with its layout.
        grown: the written result, with its layout.
        seed: of the inputs.
        tolerance: of the difference, relative to the largest logit; by default that of the type.
        data: also compares on the first examples of its dev split (training split where there is
            none), and gives their loss.

    Raises:
        XtoolError: the small model's own logits are NaN or infinite, or the data do not fit it.
    """
    assert small.layout is not None
    config = small.layout.config
    generator = torch.Generator().manual_seed(derive(seed, "proof"))
    length = min(config["context"], POSITIONS)
    shape = (max(1, min(16, SYMBOLS // length)), length)
    inputs = torch.randint(config["vocab_size"], shape, generator=generator)  # (B, T)
    difference, largest, before, _ = _run_both(small, grown, inputs)
    losses = None
    if data is not None:
        data = fitted(data, small.source.require_header(), "the data")
        name = "dev" if "dev" in data.splits else "train"
        split, task = data.split(name), task_of(data.header, "the data")
        number = together(split, EXAMPLES)
        inputs, targets = split.inputs[:number], split.targets[:number]  # (B, T)
        found = _run_both(small, grown, inputs)
        difference, largest = max(difference, found[0]), max(largest, found[1])
        before = found[2]
        losses = (_loss(task, found[2], targets), _loss(task, found[3], targets))
    relative = TOLERANCE.get(before.dtype, 1e-2) if tolerance is None else tolerance
    return Proof(difference, largest, relative * max(1.0, largest), losses)


def _loss(task: Task, logits: Tensor, targets: Tensor) -> float:
    return float(task.loss(logits, targets).mean())


def _run_both(small: Reader, grown: Reader, inputs: Tensor) -> tuple[float, float, Tensor, Tensor]:
    """The largest difference and the largest logit, then both models' logits (B, T, C)."""
    assert small.layout is not None
    assert grown.layout is not None
    before = logits(small, small.layout, inputs)  # (B, T, C)
    after = logits(grown, grown.layout, inputs)[..., : before.shape[2]]  # (B, T, C)
    if not torch.isfinite(before).all():
        raise XtoolError(f"{small.source.path}: the model's logits are NaN or infinite")
    return float((after - before).abs().max()), float(before.abs().max()), before, after


def require_exact(proof: Proof, method: str) -> None:
    """Raise CheckFailed unless the proof holds."""
    if not proof.exact:
        raise CheckFailed(
            f"`{method}` promised to be exact, but the {proof}; at most {proof.tolerance:.2g} is",
            "nothing was written; a float32 model can be too badly conditioned for its tolerance: "
            "another `--method`, or one trained with `--precision fp64`",
        )
