"""Windows of one length for all: blocks of queries beside blocks of keys, in the fused kernel.

All blocks of queries reach equally many blocks of keys, but for those at the ends of the text, so
keys are slices put side by side and a mask trims them to the window. Only queries, keys, values and
the result stay in memory for the backward pass. The kernel is the CPU's flash attention, called as
what it is because its public name would keep the slices too; elsewhere, and with dropout, blocks
are those of `_windows`, or on request those of `_flex`.
"""

from collections.abc import Iterator
from itertools import groupby
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from xtool.layers.attention._flex import flex
from xtool.layers.attention._kernel import FLEX, cached, is_chosen, within
from xtool.layers.attention._windows import local

FORWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
BACKWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


def near(
    q: Float[Tensor, "B H T K"],
    k: Float[Tensor, "B G T K"],
    v: Float[Tensor, "B G T W"],
    window: int,
    *,
    block: int,
    causal: bool,
    scale: float,
    dropout: float = 0.0,
) -> Float[Tensor, "B H T W"]:
    """Attention to the nearest `window` positions, by blocks; see `_windows.block_of`."""
    if is_chosen(FLEX) and not dropout:
        return flex(q, k, v, window, causal=causal, scale=scale)
    if q.device.type != "cpu" or dropout or q.shape[-1] != v.shape[-1]:
        exact = torch.promote_types(q.dtype, torch.float32)
        lengths = torch.full((1, 1, 1), float(window), device=q.device, dtype=exact)
        return local(
            q,
            k,
            v,
            lengths.expand(q.shape[:3]),
            1,
            block=block,
            causal=causal,
            scale=scale,
            dropout=dropout,
        )
    if torch.is_autocast_enabled("cpu"):
        q, k, v = (one.to(torch.get_autocast_dtype("cpu")) for one in (q, k, v))
    positions = q.shape[2]
    if pad := -positions % block:
        q, k, v = (F.pad(one, (0, 0, 0, pad)) for one in (q, k, v))
    out: Tensor = _Near.apply(q, k, v, window, block, causal, scale)  # type: ignore[no-untyped-call]
    return out[:, :, :positions]


class _Near(torch.autograd.Function):
    """(B, H, T, K), (B, G, T, K) and (B, G, T, W) to (B, H, T, W), where blocks divide T."""

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        window: int,
        block: int,
        causal: bool,
        scale: float,
    ) -> Tensor:
        """Stretch by stretch."""
        ctx.settings = window, block, causal, scale
        out = torch.empty_like(q, memory_format=torch.contiguous_format)
        sums = []
        for span in _spans(q.shape[2] // block, window, block, causal):
            mask = _mask(span, window, block, causal, q.dtype)
            mixed, total = FORWARD(*_sides(q, k, v, span, block), attn_mask=mask, scale=scale)
            _put(out, mixed, span, k.shape[1], block)
            sums.append(total)
        ctx.save_for_backward(q, k, v, out, *sums)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        """The kernel's own gradient; each block of keys adds up what its readers say."""
        q, k, v, out, *sums = ctx.saved_tensors
        (given,) = gradients
        window, block, causal, scale = ctx.settings
        groups = k.shape[1]
        dq = torch.empty_like(q, memory_format=torch.contiguous_format)
        dk, dv = (torch.zeros_like(x, memory_format=torch.contiguous_format) for x in (k, v))
        spans = _spans(q.shape[2] // block, window, block, causal)
        for span, total in zip(spans, sums, strict=True):
            sides = _sides(q, k, v, span, block)
            g, mixed = (_queries(one, span, groups, block) for one in (given, out))
            mask = _mask(span, window, block, causal, q.dtype)
            found = BACKWARD(g, *sides, mixed, total, 0.0, False, attn_mask=mask, scale=scale)
            _put(dq, found[0], span, groups, block)
            for into, part in ((dk, found[1]), (dv, found[2])):
                _add(into, part.sum(1), span, block)
        return dq, dk, dv, None, None, None, None


Span = tuple[int, int, int, int]


def _spans(blocks: int, window: int, block: int, causal: bool) -> Iterator[Span]:
    """Stretches of blocks of equal shape: blocks back, blocks ahead, the first and the end."""
    need = -(-(window - 1) // block)

    def shape(place: int) -> tuple[int, int]:
        return min(need, place), 0 if causal else min(need, blocks - 1 - place)

    for (back, ahead), found in groupby(range(blocks), shape):
        places = list(found)
        yield back, ahead, places[0], places[-1] + 1


def _queries(x: Float[Tensor, "B H T K"], span: Span, groups: int, block: int) -> Tensor:
    """The blocks of queries of a stretch, (B*G*m, H/G, b, K)."""
    _, _, low, high = span
    own = x[:, :, low * block : high * block]
    own = torch.unflatten(torch.unflatten(own, 2, (-1, block)), 1, (groups, -1))
    return own.transpose(2, 3).flatten(0, 2)


def _sides(
    q: Tensor, k: Tensor, v: Tensor, span: Span, block: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, and the keys and values that they reach, (B*G*m, H/G, S, K)."""
    back, ahead, low, high = span
    queries = _queries(q, span, k.shape[1], block)
    keys, values = (
        torch.cat(
            [
                torch.unflatten(x[:, :, (low + i) * block : (high + i) * block], 2, (-1, block))
                for i in range(-back, ahead + 1)
            ],
            3,
        )
        .flatten(0, 2)[:, None]
        .expand(-1, queries.shape[1], -1, -1)
        for x in (k, v)
    )
    return queries, keys, values


def _put(into: Float[Tensor, "B H T K"], part: Tensor, span: Span, groups: int, block: int) -> None:
    """Write what `_queries` took."""
    _, _, low, high = span
    batch, heads = into.shape[:2]
    shaped = part.reshape(batch, groups, high - low, heads // groups, block, part.shape[-1])
    into[:, :, low * block : high * block] = shaped.transpose(2, 3).reshape(
        batch, heads, -1, part.shape[-1]
    )


def _add(
    into: Float[Tensor, "B G T K"], part: Float[Tensor, "BGm S K"], span: Span, block: int
) -> None:
    """Add to each block of keys what its readers in the stretch say."""
    back, ahead, low, high = span
    batch, groups = into.shape[:2]
    shaped = part.reshape(batch, groups, high - low, -1, block, part.shape[-1])
    for place, i in enumerate(range(-back, ahead + 1)):
        into[:, :, (low + i) * block : (high + i) * block] += shaped[:, :, :, place].flatten(2, 3)


@cached(64)
def _mask(
    span: Span, window: int, block: int, causal: bool, dtype: torch.dtype
) -> Float[Tensor, "1 1 b S"]:
    """Minus infinity for keys of the blocks that are outside the window."""
    back, ahead = span[:2]
    far = torch.arange(block)[:, None] + back * block - torch.arange((back + ahead + 1) * block)
    outside = ~within(far, window, causal=causal)
    return torch.zeros(far.shape, dtype=dtype).masked_fill(outside, float("-inf"))[None, None]
