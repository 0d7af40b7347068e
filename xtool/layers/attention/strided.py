"""Heads that look back in steps of several lengths, each with as few keys as the others.

A head of stride s sees the positions i, i - s, i - 2s, ..., `window` of them: its reach grows with
the stride, its cost does not (the plan of tomhartke/transformer-modifications, 2023, never built
there; cf. the strided heads of Child et al., 2019, arXiv:1904.10509). The heads of keys take the
strides in turn. Positions of one remainder are a text of their own, with a window.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from xtool.errors import UsageError
from xtool.layers.attention import Attention
from xtool.layers.attention._fixed import near
from xtool.layers.attention._kernel import attend, distances, scored, within
from xtool.layers.attention._windows import block_of
from xtool.layers.attention.plain import Plain, PlainEntry

LIKE = "plain"
CACHED = True
# The stride of a query's head is that of its head of keys.
FIXED: dict[str, list[str]] = {"n_heads/n_kv_heads": []}
OPTIONS = [
    ("window", "int", None, "keys that a query sees; context / 8 unless given"),
    ("strides", "text", "1,2,4,16", "steps between them, which the heads take in turn"),
]
TUNABLE = ["window"]
NEUTRAL = {"window": "context", "strides": "1"}
LONGEST = 1 << 16


class Strided(Plain):
    """The variant; see the module."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.window, self.strides = int(config.window), parsed(config.strides)

    def kept(self, queries: int, keys: int, device: torch.device) -> Tensor:
        """The pairs that each head keeps, (H, T, S)."""
        far = distances(queries, keys, device)  # (T, S)
        each = [
            within(far, self.window * stride, causal=self.causal) & (far % stride == 0)
            for stride in self.strides
        ]
        group = self.n_heads // self.n_kv_heads
        heads = [each[head % len(each)] for head in range(self.n_kv_heads) for _ in range(group)]
        return torch.stack(heads)

    def weights(self, x: Tensor, q: Tensor, k: Tensor) -> Float[Tensor, "B H T S"]:
        """By a mask."""
        scores = scored(q, k, self.scale)  # (B, H, T, S)
        kept = self.kept(scores.shape[-2], scores.shape[-1], scores.device)
        if self.trace is not None:
            pairs = kept.flatten(1).sum(-1) / self.pairs(*kept.shape[1:])  # (H,)
            self.trace.note("pairs_kept", pairs[None, :, None].expand(len(q), -1, -1))
        return scores.masked_fill(~kept, float("-inf")).softmax(-1)

    def quick(self, x: Tensor, q: Tensor, k: Tensor, v: Tensor) -> Float[Tensor, "B H T W"]:
        """Each stride by itself, the positions of one remainder as one text."""
        length = q.shape[2]
        if length != k.shape[2] or (not self.causal and any(length % s for s in self.strides)):
            return self.mixed(self.weights(x, q, k), v)
        heads = torch.arange(self.n_heads, device=q.device).view(self.n_kv_heads, -1)
        orders, parts = [], []
        for place, stride in enumerate(self.strides):
            keys = slice(place, None, len(self.strides))
            orders.append(heads[keys].flatten())
            own = (_apart(one, stride) for one in (q[:, orders[-1]], k[:, keys], v[:, keys]))
            parts.append(_together(self._near(*own), stride, length))  # (B, h, T, W)
        return torch.cat(parts, 1)[:, torch.cat(orders).argsort()]

    def _near(self, q: Tensor, k: Tensor, v: Tensor) -> Float[Tensor, "B H T W"]:
        """The nearest keys of a text."""
        length = q.shape[2]
        common = {"causal": self.causal, "scale": self.scale, "dropout": self.rate}
        if self.window >= length:
            return attend(q, k, v, **common)
        if block := block_of(length, self.causal):
            return near(q, k, v, self.window, block=block, **common)
        kept = within(distances(length, length, q.device), self.window, causal=self.causal)
        return attend(q, k, v, mask=kept, **common)


def _apart(x: Float[Tensor, "B H T K"], stride: int) -> Float[Tensor, "Bs H t K"]:
    """The positions of each remainder as an example of its own."""
    padded = torch.unflatten(F.pad(x, (0, 0, 0, -x.shape[2] % stride)), 2, (-1, stride))
    return padded.permute(0, 3, 1, 2, 4).flatten(0, 1)


def _together(x: Float[Tensor, "Bs H t K"], stride: int, length: int) -> Float[Tensor, "B H T K"]:
    """Undo `_apart`."""
    return torch.unflatten(x, 0, (-1, stride)).permute(0, 2, 3, 1, 4).flatten(2, 3)[:, :, :length]


def parsed(text: str) -> list[int]:
    """Strides from their dial.

    Raises:
        UsageError: not whole numbers from 1, or one twice.
    """
    parts = [part.strip() for part in text.split(",")]
    strides = [int(part) if part.isascii() and part.isdigit() else 0 for part in parts]
    if min(strides) < 1 or len({*strides}) < len(strides):
        raise UsageError(f"`strides` is `{text}`, not different whole numbers", "like `1,4,16`")
    if max(strides) > LONGEST:
        raise UsageError(f"`strides` is `{text}`, a stride is at most {LONGEST}", "like `1,4,16`")
    return strides


class _Entry(PlainEntry):
    def configure(self, config: dict[str, Any]) -> dict[str, Any]:
        """An eighth of the context unless given; checks that every stride has a head."""
        strides = parsed(config["strides"])
        if config["n_kv_heads"] % len(strides):
            raise UsageError(
                f"`n_kv_heads` ({config['n_kv_heads']}) must be divisible by the number of "
                f"`strides` ({len(strides)}: {config['strides']}), so that all have as many heads",
                "name as many `--strides` as there are heads, or fewer",
            )
        return {"window": config["window"] or max(1, config["context"] // 8)}

    def keys(self, config: Any, context: int) -> float:
        strides = parsed(config.strides)
        return float(sum(min(config.window, -(-context // s)) for s in strides) / len(strides))


ENTRY: Attention = _Entry(Strided)
