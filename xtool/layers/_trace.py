"""Looking inside a model while it runs: what each attention module shows of itself.

A module that can be looked into declares `trace: Trace | None = None`; inside `tracing` each has
one, and gives it its weights and whatever it has by head and query.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn

from xtool.layers.attention._kernel import distances


class Trace:
    """What one module showed: of each metric its mean over queries, by example and head.

    Attributes:
        found: metric -> (B, H) for each batch.
        map: the weights summed over examples, (H, T, S), and how many there were.
    """

    def __init__(self) -> None:
        self.found: dict[str, list[Tensor]] = {}
        self.now: dict[str, list[Tensor]] = {}
        self.map: tuple[Tensor, int] | None = None

    def note(self, metric: str, values: Float[Tensor, "B H T"]) -> None:
        """A number of each head and query."""
        self.now.setdefault(metric, []).append(values.detach().double().mean(-1).cpu())

    def close(self) -> None:
        """The end of a batch: of a module that ran several times in it, the mean counts."""
        for metric, times in self.now.items():
            self.found.setdefault(metric, []).append(torch.stack(times).mean(0))
        self.now.clear()

    def weights(self, weights: Float[Tensor, "B H T S"]) -> None:
        """The attention weights: how far they look, how far that spreads, and their entropy."""
        far = distances(*weights.shape[-2:], weights.device).abs().to(weights.dtype)  # (T, S)
        mean = (weights * far).sum(-1)  # (B, H, T)
        square = (weights * far.square()).sum(-1)
        self.note("look_back", mean)
        self.note("look_back_spread", (square - mean.square()).clamp(min=0).sqrt())
        self.note("attention_entropy", -torch.special.xlogy(weights, weights).sum(-1))
        before, count = self.map or (torch.zeros_like(weights[0], device="cpu"), 0)
        self.map = before + weights.detach().sum(0).cpu(), count + len(weights)


@contextmanager
def tracing(model: nn.Module) -> Iterator[list[Trace]]:
    """Give each module of a model that can be looked into an empty trace inside, in order."""
    looked = [module for module in model.modules() if hasattr(module, "trace")]
    traces = [Trace() for _ in looked]
    for module, trace in zip(looked, traces, strict=True):
        module.trace = trace  # type: ignore[assignment]
    try:
        yield traces
    finally:
        for module, trace in zip(looked, traces, strict=True):
            module.trace = None  # type: ignore[assignment]
            trace.close()
