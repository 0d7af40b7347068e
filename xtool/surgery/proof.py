"""The proof of a growth: small and grown model on the same inputs, read from their written files.

Both are walked stage by stage, so that one stage of one model is in memory at a time; of the last
ones, which make the logits, both are, and logits are compared a few examples at a time. Exact means
that the logits agree to 1e-10 * max(1, |logit|max) in float64 and to 1e-5 of it in float32, unless
another tolerance is asked for.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Num
from torch import Tensor

from xtool.archs import Stage, stored_stages
from xtool.checkpoint import Reader
from xtool.dataset import Dataset
from xtool.errors import CheckFailed, XtoolError
from xtool.evaluation.score import together
from xtool.seeds import derive
from xtool.tasks import fitted, task_of

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}
POSITIONS = 1024
SYMBOLS = 4096
EXAMPLES = 256
AT_ONCE = 256  # positions


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
            text += (
                f"; loss {self.losses[0]:.4f} before, {self.losses[1]:.4f} after, "
                "on the first examples"
            )
        return text


@torch.inference_mode()
def walk(reader: Reader, inputs: Num[Tensor, "B T *d"]) -> tuple[Tensor, Callable[[], Stage]]:
    """What a stored model's last stage is given, (B, ...), and what reads that stage."""
    *stages, (_, read_last) = stored_stages(reader)
    x = inputs
    for _, read in stages:
        stage = read()
        x = torch.cat([stage(part) for part in _parts(x, inputs)])  # (B, ...)
        del stage  # before the next one is read
    return x, read_last


def _parts(x: Tensor, inputs: Num[Tensor, "B T *d"]) -> tuple[Tensor, ...]:
    """Tensors of a few examples each, of `AT_ONCE` positions or of one example."""
    return torch.split(x, max(1, AT_ONCE // inputs.shape[1]))


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
    config = small.layout.config
    generator = torch.Generator().manual_seed(derive(seed, "proof"))
    length = min(config["context"], POSITIONS)
    shape = (max(1, min(16, SYMBOLS // length)), length)
    if width := config.get("d_input"):
        inputs = torch.randn(*shape, width, generator=generator)  # (B, T, d)
    else:
        inputs = torch.randint(config["vocab_size"], shape, generator=generator)  # (B, T)
    found = _run_both(small, grown, inputs)
    difference, largest, losses = found.difference, found.largest, None
    if data is not None:
        data = fitted(data, small.source.require_header(), "the data")
        name = "dev" if "dev" in data.splits else "train"
        split, task = data.split(name), task_of(data.header, "the data")
        number = together(split, EXAMPLES)
        inputs, targets = split.inputs[:number], split.targets[:number]  # (B, T)
        more = _run_both(
            small, grown, inputs, lambda logits, part: task.loss(logits, targets[part])
        )
        difference = torch.maximum(difference, more.difference)
        largest = torch.maximum(largest, more.largest)
        losses = more.losses
    relative = TOLERANCE.get(largest.dtype, 1e-2) if tolerance is None else tolerance
    return Proof(float(difference), float(largest), relative * max(1.0, float(largest)), losses)


@dataclass(frozen=True)
class _Found:
    difference: Tensor
    largest: Tensor
    losses: tuple[float, float] | None


@torch.inference_mode()
def _run_both(
    small: Reader,
    grown: Reader,
    inputs: Num[Tensor, "B T *d"],
    loss: Callable[[Tensor, slice], Tensor] | None = None,
) -> _Found:
    """The largest difference, the largest logit, and of a loss of some examples both means."""
    (x, read_old), (y, read_new) = walk(small, inputs), walk(grown, inputs)  # (B, ...)
    old, new = read_old(), read_new()
    differences, sizes, losses = [], [], []
    at = 0
    for one, other in zip(_parts(x, inputs), _parts(y, inputs), strict=True):
        before = old(one)  # (b, T, C)
        whole = new(other)  # (b, T, C'), the small model's classes first
        after = whole[..., : before.shape[2]]  # (b, T, C)
        part = slice(at, at := at + len(one))
        if loss is not None:
            losses.append(torch.stack([loss(before, part), loss(whole, part)]))  # (2, b, T)
        sizes.append(before.abs().max())
        differences.append((after - before).abs_().max())
    largest = torch.stack(sizes).max()
    if not torch.isfinite(largest):
        raise XtoolError(f"{small.source.path}: the model's logits are NaN or infinite")
    means = tuple(torch.cat(losses, 1).flatten(1).mean(1).tolist()) if losses else None
    return _Found(torch.stack(differences).max(), largest, means)


def require_exact(proof: Proof, method: str) -> None:
    """Raise CheckFailed unless the proof holds."""
    if not proof.exact:
        raise CheckFailed(
            f"`{method}` promised to be exact, but the {proof}; at most {proof.tolerance:.2g} is",
            "nothing was written; a float32 model can be too badly conditioned for its tolerance: "
            "another `--method`, or one trained with `--precision fp64`",
        )
