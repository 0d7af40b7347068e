"""The bigram model: the logits of the next symbol are a row of a table, chosen by the last one.

It is the first rung of the ladder: what cannot beat it has not learnt to look back. Trained to the
end its loss is that of the pairs' frequencies, which `train` gives as the baseline `bigram`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Integer
from torch import Tensor, nn
from torch.nn import functional as F

from xtool.archs import Architecture
from xtool.errors import UsageError
from xtool.tasks import Shape

OPTIONS: list[tuple[Any, ...]] = []
TASK = "language"
PRESETS = {
    "bigram": {
        "context": 8,
        "batch_size": 32,
        "steps": 3000,
        "lr": 1e-2,
        "schedule": "cosine",
        "weight_decay": 0.0,
        "eval_every": 500,
    }
}
AXES = {"table.weight": ("vocab", "n_outputs")}


class Table(nn.Module):
    """Symbols (B, T) to logits (B, T, C)."""

    def __init__(self, symbols: int, classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(symbols, classes))

    def forward(self, symbols: Integer[Tensor, "B T"]) -> Float[Tensor, "B T C"]:
        """Look up."""
        return F.embedding(symbols.long(), self.weight)


class Bigram(nn.Module):
    """The model; see the module."""

    def __init__(self, symbols: int, classes: int) -> None:
        super().__init__()
        self.table = Table(symbols, classes)

    def stages(self) -> Sequence[tuple[str, nn.Module]]:
        """The table."""
        return [("table.", self.table)]

    def forward(self, symbols: Integer[Tensor, "B T"]) -> Float[Tensor, "B T C"]:
        """(B, T) -> (B, T, C)."""
        logits: Tensor = self.table(symbols)
        return logits


class _Entry:
    def configure(self, dials: Mapping[str, Any], shape: Shape) -> dict[str, Any]:
        if shape.vocab_size is None:
            raise UsageError("`bigram` reads symbols, the data hold numbers", "use `--arch gpt`")
        return dict(dials) | vars(shape)

    def build(self, config: Mapping[str, Any]) -> nn.Module:
        return Bigram(config["vocab_size"], config["n_outputs"])

    def flops(self, config: Mapping[str, Any]) -> int:
        """One a logit, for reading it: nothing is multiplied."""
        return int(config["context"] * config["n_outputs"])


ENTRY: Architecture = _Entry()
