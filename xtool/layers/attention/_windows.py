"""Attention inside windows: what lies beyond them is not computed.

Every query i has a length r, in tokens: a key at distance x = |i - j| counts min(1, (r - x) / ramp)
times as much as without a window, so exactly 0 from x = r on (the ramp is that of Sukhbaatar et
al., 2019, arXiv:1905.07799). With a ramp of 1 and a whole r, that is the plain window of r tokens.

Queries are taken in blocks, each with the blocks of keys that its longest window reaches. Blocks
that need equally many are computed together, a few at a time, and the backward pass computes their
weights again, so that neither T x T scores nor the weights of all windows are ever in memory.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional as F

from xtool.layers.attention._kernel import cached, distances

BLOCK = 64  # queries
AT_ONCE = 1 << 18  # pairs
LEAST = 1e-30  # a sum of weights that still has all its digits


def weighed(
    scores: Float[Tensor, "B H T S"],
    lengths: Float[Tensor, "B H T"],
    ramp: int,
) -> Float[Tensor, "B H T S"]:
    """The attention weights inside windows, by their definition.

    Args:
        scores: of all pairs, those of keys that are not seen minus infinity.
        lengths: of each query's window, or what broadcasts.
        ramp: tokens over which a window ends.
    """
    far = distances(*scores.shape[-2:], scores.device).abs()  # (T, S)
    inside = ((lengths[..., None] - far) / ramp).clamp(0, 1)  # (B, H, T, S)
    weights = scores.masked_fill(inside == 0, float("-inf")).softmax(-1) * inside
    return weights / weights.sum(-1, keepdim=True)


def block_of(positions: int, causal: bool) -> int | None:
    """Queries in a block; None where blocks save nothing.

    Without a causal mask blocks must divide the positions: padding would be seen.
    """
    if positions <= BLOCK:
        return None
    if causal:
        return BLOCK
    best = next(size for size in range(BLOCK, 0, -1) if positions % size == 0)
    return best if best >= BLOCK // 4 else None


@dataclass(frozen=True)
class Plan:
    """Which blocks of keys each block of queries reads, all (B*H*n).

    Attributes:
        back: blocks before its own.
        ahead: blocks after its own.
        own: its own block of keys, counted over (B, G, n).
        block: positions of one.
    """

    back: Int64[Tensor, " M"]
    ahead: Int64[Tensor, " M"]
    own: Int64[Tensor, " M"]
    block: int

    @property
    def pairs(self) -> Int64[Tensor, " M"]:
        """Pairs of a query and a key that each block computes."""
        return (self.back + self.ahead + 1) * self.block**2

    def groups(self) -> Iterator[tuple[Tensor, Tensor, int, int]]:
        """Blocks of equal shape: their places, their blocks of keys, how many back and ahead."""
        most = int(self.ahead.max()) + 1
        shapes = self.back * most + self.ahead
        for shape in torch.unique(shapes).tolist():
            back, ahead = divmod(shape, most)
            places = (shapes == shape).nonzero()[:, 0]
            reach = torch.arange(-back, ahead + 1, device=places.device)
            each = self.block**2 * len(reach)
            for some in places.split(max(1, AT_ONCE // each)):
                yield some, (self.own[some, None] + reach).flatten(), back, ahead


def plan(lengths: Float[Tensor, "B H T"], kv_heads: int, block: int, causal: bool) -> Plan:
    """The blocks that windows reach, the longest of each block of queries deciding."""
    batch, heads, positions = lengths.shape
    blocks = -(-positions // block)
    longest = F.pad(lengths, (0, blocks * block - positions), value=1.0)
    longest = torch.unflatten(longest, -1, (blocks, block)).amax(-1)  # (B, H, n)
    need = ((longest.ceil() - 1) / block).ceil().long()
    place = torch.arange(blocks, device=lengths.device).expand_as(need)
    back = torch.minimum(need, place)
    ahead = torch.zeros_like(need) if causal else torch.minimum(need, blocks - 1 - place)
    head = torch.arange(heads, device=lengths.device)[:, None] // (heads // kv_heads)
    batches = torch.arange(batch, device=lengths.device)[:, None, None]
    own = (batches * kv_heads + head) * blocks + place
    return Plan(back.flatten(), ahead.flatten(), own.flatten(), block)


def local(
    q: Float[Tensor, "B H T K"],
    k: Float[Tensor, "B G T K"],
    v: Float[Tensor, "B G T W"],
    lengths: Float[Tensor, "B H T"],
    ramp: int,
    *,
    block: int,
    causal: bool,
    scale: float,
    dropout: float = 0.0,
) -> Float[Tensor, "B H T W"]:
    """What `weighed` mixes of the values, computed by blocks."""
    found = plan(lengths.detach(), k.shape[1], block, causal)
    kind = q.device.type
    if torch.is_autocast_enabled(kind):
        q, k, v = (one.to(torch.get_autocast_dtype(kind)) for one in (q, k, v))
    with torch.autocast(kind, enabled=False):
        out: Tensor = _Local.apply(  # type: ignore[no-untyped-call]
            q, k, v, lengths / ramp, found, ramp, causal, scale, dropout
        )
    return out


def _blocks(x: Float[Tensor, "B H T K"], block: int, fill: float = 0.0) -> Float[Tensor, "M b K"]:
    """The blocks of positions of all heads, the last one filled up."""
    return F.pad(x, (0, 0, 0, -x.shape[2] % block), value=fill).reshape(-1, block, x.shape[-1])


def _whole(x: Float[Tensor, "M b K"], like: Float[Tensor, "B H T _"]) -> Float[Tensor, "B H T K"]:
    """Undo `_blocks`."""
    return x.view(*like.shape[:2], -1, x.shape[-1])[:, :, : like.shape[2]]


@cached(64)
def _far(
    block: int, back: int, ahead: int, ramp: int, causal: bool, dtype: torch.dtype, device: Any
) -> Float[Tensor, "b S"]:
    """Distances over the ramp inside a block of queries; infinite for keys that are not seen."""
    queries = torch.arange(block, device=device)[:, None] + back * block
    far = queries - torch.arange((back + ahead + 1) * block, device=device)  # (b, S)
    scaled = far.abs().to(dtype) / ramp
    return scaled.masked_fill(far < 0, float("inf")) if causal else scaled


class _Local(torch.autograd.Function):
    """Queries (B, H, T, K), keys (B, G, T, K) and values to what they mix (B, H, T, W)."""

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        r: Tensor,
        found: Plan,
        ramp: int,
        causal: bool,
        scale: float,
        dropout: float,
    ) -> Tensor:
        """Group by group; a group's weights are forgotten."""
        seed = int(torch.randint(1 << 62, ())) if dropout else 0
        ctx.settings = found, ramp, causal, scale, dropout, seed
        out = v.new_empty(len(found.own), found.block, v.shape[-1])
        for one in _groups(ctx, q, k, v, r):
            used = one.shares if one.kept is None else one.shares * one.kept
            mixed = torch.bmm(used.to(v.dtype), one.values).div_(one.total)  # (m, b, W)
            out.index_copy_(0, one.places, mixed)
        whole = _whole(out, q)
        ctx.save_for_backward(q, k, v, r, whole)
        return whole

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        """The softmax's gradient; a weight inside the ramp is in proportion to r - x."""
        q, k, v, r, out = ctx.saved_tensors
        found, _, _, scale, _, _ = ctx.settings
        given, out = (_blocks(one, found.block) for one in (gradients[0], out))  # (M, b, W)
        delta = (given * out).sum(-1, keepdim=True).to(r.dtype)  # (M, b, 1)
        dq = q.new_empty(*given.shape[:2], q.shape[-1])
        dr = r.new_zeros(*given.shape[:2], 1)
        dk, dv = (x.new_zeros(_blocks(x, found.block).shape) for x in (k, v))
        for one in _groups(ctx, q, k, v, r):
            g = given.index_select(0, one.places)  # (m, b, W)
            through = torch.bmm(g, one.values.transpose(1, 2)).to(r.dtype)  # (m, b, S)
            used = weights = one.shares.div_(one.total)
            if one.kept is not None:
                used, through = used * one.kept, through * one.kept
            dv.index_add_(0, one.reach, _apart(torch.bmm(used.to(v.dtype).transpose(1, 2), g), dv))
            ds = through.sub_(delta.index_select(0, one.places)).mul_(weights)
            low = ds.to(q.dtype)
            dq.index_copy_(0, one.places, torch.bmm(low, one.keys).mul_(scale))
            dk.index_add_(0, one.reach, _apart(torch.bmm(low.transpose(1, 2), one.queries), dk))
            if ctx.needs_input_grad[3]:
                flat = (one.inside == 0) | (one.inside == 1)
                edge = one.inside.masked_fill_(flat, float("inf"))
                dr.index_copy_(0, one.places, (ds / edge).sum(-1, keepdim=True))
        of_lengths = _whole(dr, q)[..., 0]
        return _whole(dq, q), _whole(dk, k), _whole(dv, v), of_lengths, *[None] * 5


def _apart(x: Float[Tensor, "m S K"], like: Float[Tensor, "N b K"]) -> Float[Tensor, "mc b K"]:
    """Keys of a group as blocks again."""
    return x.reshape(-1, *like.shape[1:])


class _Group(NamedTuple):
    """Blocks computed together: m of them, with S keys each."""

    places: Int64[Tensor, " m"]
    reach: Int64[Tensor, " mc"]
    inside: Float[Tensor, "m b S"]
    shares: Float[Tensor, "m b S"]  # the weights times their total
    total: Float[Tensor, "m b 1"]
    queries: Float[Tensor, "m b K"]  # times the scale
    keys: Float[Tensor, "m S K"]
    values: Float[Tensor, "m S W"]
    kept: Float[Tensor, "m b S"] | None  # dropout's factors


def _groups(ctx: Any, q: Tensor, k: Tensor, v: Tensor, r: Tensor) -> Iterator[_Group]:
    """Each group with its weights, the same whenever it is asked for.

    Only a gradient needs them divided by their total: there are more keys than values to divide.
    """
    found, ramp, causal, scale, dropout, seed = ctx.settings
    q, k, v = (_blocks(one, found.block) for one in (q, k, v))
    r = _blocks(r[..., None], found.block, 1.0)  # (M, b, 1)
    drawn = torch.Generator(q.device).manual_seed(seed) if dropout else None
    for some, reach, back, ahead in found.groups():
        keys, values = (
            one.index_select(0, reach).view(len(some), -1, one.shape[-1]) for one in (k, v)
        )
        queries = q.index_select(0, some) * scale  # (m, b, K)
        far = _far(found.block, back, ahead, ramp, causal, r.dtype, r.device)  # (b, S)
        inside = torch.sub(r.index_select(0, some), far).clamp_(0, 1)  # (m, b, S)
        scores = torch.bmm(queries, keys.transpose(1, 2))
        shares = scores.softmax(-1, dtype=r.dtype).mul_(inside)
        total = shares.sum(-1, keepdim=True)
        if not float(total.min()) >= LEAST:
            # Keys outside the window outweigh those inside beyond what numbers hold.
            scores = scores.to(r.dtype).masked_fill_(inside == 0, float("-inf"))
            shares = scores.softmax(-1).mul_(inside)
            total = shares.sum(-1, keepdim=True)
        kept = None
        if drawn is not None:
            kept = torch.empty_like(shares).bernoulli_(1 - dropout, generator=drawn)
            kept.div_(1 - dropout)
        yield _Group(some, reach, inside, shares, total, queries, keys, values, kept)
