"""What tasks share whose every position has one symbol or class for an answer."""

from jaxtyping import Float, Float64, Integer
from torch import Tensor
from torch.nn import functional as F


class SymbolScores:
    """Cross-entropy and accuracy; a task inherits them."""

    metrics: tuple[str, ...] = ("accuracy", "loss")

    def loss(
        self, logits: Float[Tensor, "B T C"], targets: Integer[Tensor, "B T"]
    ) -> Float[Tensor, "B T"]:
        """Cross-entropy, (B, T, C) and (B, T) -> (B, T) nats."""
        return F.cross_entropy(logits.transpose(1, 2), targets.long(), reduction="none")  # (B, T)

    def score(
        self, logits: Float[Tensor, "B T C"], targets: Integer[Tensor, "B T"]
    ) -> dict[str, Float64[Tensor, " B"]]:
        """Accuracy and loss of each example, (B,)."""
        right = logits.argmax(-1) == targets  # (B, T)
        loss = self.loss(logits, targets)  # (B, T)
        # In double precision on the CPU, because not every device has it.
        return {"accuracy": right.cpu().double().mean(1), "loss": loss.cpu().double().mean(1)}
