"""What variants with windows share: their weights, and the dials of those that learn their lengths.

A variant gives the length of each query's window; `_windows` computes what lies inside.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from xtool.errors import UsageError
from xtool.layers.attention._kernel import distances, scored, within
from xtool.layers.attention._windows import block_of, local, plan, weighed
from xtool.layers.attention.plain import Plain, PlainEntry

RAMP = 32


class Windowed(Plain):
    """Attention inside windows whose lengths a variant gives."""

    ramp = 1

    def lengths(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "#B #H #T"]:
        """The window of each query, or what broadcasts."""
        raise NotImplementedError

    def weights(self, x: Tensor, q: Tensor, k: Tensor) -> Float[Tensor, "B H T S"]:
        """By their definition."""
        lengths = self.measured(x, q)
        if self.trace is not None:
            self._show(lengths, q, k)
        return weighed(self.seen(scored(q, k, self.scale)), lengths, self.ramp)

    def quick(self, x: Tensor, q: Tensor, k: Tensor, v: Tensor) -> Float[Tensor, "B H T W"]:
        """By blocks where these save something."""
        block = block_of(q.shape[2], self.causal) if q.shape[2] == k.shape[2] else None
        if block is None:
            return self.mixed(self.weights(x, q, k), v)
        lengths = self.measured(x, q)
        return local(
            q,
            k,
            v,
            lengths,
            self.ramp,
            block=block,
            causal=self.causal,
            scale=self.scale,
            dropout=self.rate,
        )

    def measured(self, x: Tensor, q: Tensor) -> Float[Tensor, "B H T"]:
        """The lengths, as exact as the scores or better."""
        exact = torch.promote_types(q.dtype, torch.float32)
        return self.lengths(x).to(exact).expand(q.shape[:3])

    def _show(self, lengths: Tensor, q: Tensor, k: Tensor) -> None:
        """The windows, and what part of all pairs that are seen they keep and would compute."""
        if self.trace is None:
            return
        queries, keys = q.shape[2], k.shape[2]
        self.trace.note("window_length", lengths)
        far = distances(queries, keys, q.device)  # (T, S)
        kept = within(far, lengths[..., None], causal=self.causal)  # (B, H, T, S)
        whole = self.pairs(queries, keys)
        self.trace.note("pairs_kept", kept.sum(-1) * queries / whole)
        block = block_of(queries, self.causal) if queries == keys else None
        computed = torch.full_like(lengths[..., :1], queries * keys)
        if block:
            found = plan(lengths, k.shape[1], block, self.causal).pairs
            computed = found.view(*lengths.shape[:2], -1).sum(-1, keepdim=True)
        self.trace.note("pairs_computed", computed / whole)


class Learned(Windowed):
    """Windows between 1 and `window` + `ramp` tokens long, by a number that a subclass gives."""

    penalty: Float[Tensor, " 2"] | None = None

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.longest, self.ramp = int(config.window), int(config.ramp)
        self.price = float(config.window_penalty)

    def lengths(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "#B #H #T"]:
        """The windows, and what they cost where that is asked for."""
        parts = torch.sigmoid(self.told(x))  # (B, H, T)
        if self.price and self.penalty is not None and torch.is_grad_enabled():
            cost = self.price * parts.mean()
            self.penalty = self.penalty + torch.stack([cost, torch.ones_like(cost)])
        return 1 + (self.longest + self.ramp - 1) * parts

    def told(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "#B H #T"]:
        """The number behind each window, or what broadcasts."""
        raise NotImplementedError


class LearnedEntry(PlainEntry):
    """The dials of learned windows; their FLOPs are those of the longest."""

    def configure(self, config: dict[str, Any]) -> dict[str, Any]:
        """The context and a ramp that fits it, unless given.

        Raises:
            UsageError: a ramp below 1, or a penalty below 0.
        """
        if config["ramp"] is not None and config["ramp"] < 1:
            raise UsageError(
                f"`ramp` is {config['ramp']}, it must be at least 1", "1 ends a window at once"
            )
        if config["window_penalty"] < 0:
            raise UsageError(
                f"`window_penalty` is {config['window_penalty']}, it must be 0 or more",
                "0 charges nothing for long windows",
            )
        return {
            "window": config["window"] or config["context"],
            "ramp": config["ramp"] or max(1, min(RAMP, config["context"] // 2)),
        }

    def keys(self, config: Any, context: int) -> float:
        """Those of the longest window."""
        return float(min(config.window + config.ramp, context))
