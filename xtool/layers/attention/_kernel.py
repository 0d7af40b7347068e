"""The kernel of scaled dot-product attention: torch's fused one, or plain products.

Which is faster depends on processor and shape, so a run chooses one; see `xtool.training.routes`.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache, wraps
from typing import Any, TypeVar

import torch
from jaxtyping import Bool, Float, Int64, Integer
from torch import Tensor
from torch.nn import functional as F

KERNELS = ("sdpa", "plain")
FLEX = "flex"  # on a GPU: windows in FlexAttention, all else as in the first one
_chosen = [KERNELS[0]]
_masked = [False]

Dropout = Callable[[Tensor, float], Tensor]
Made = TypeVar("Made")


def cached(size: int) -> Callable[[Callable[..., Made]], Callable[..., Made]]:
    """Keep a function's last results; a model that is compiled has them made inside it."""

    def keeping(make: Callable[..., Made]) -> Callable[..., Made]:
        kept = lru_cache(maxsize=size)(make)

        @wraps(make)
        def made(*args: Any, **named: Any) -> Made:
            # torch warns of a cache inside what it compiles, and passes it by.
            return (make if torch.compiler.is_compiling() else kept)(*args, **named)

        return made

    return keeping


@contextmanager
def kernel(name: str) -> Iterator[None]:
    """Use one of `KERNELS` or `FLEX` inside."""
    _chosen.append(name)
    try:
        yield
    finally:
        _chosen.pop()


def is_chosen(name: str) -> bool:
    """Whether a kernel is the one in use."""
    return _chosen[-1] == name


@contextmanager
def masked() -> Iterator[None]:
    """Compute every variant by its definition inside: all weights of all pairs, then masks."""
    _masked.append(True)
    try:
        yield
    finally:
        _masked.pop()


def is_masked() -> bool:
    """Whether we are inside `masked`."""
    return _masked[-1]


def attend(
    q: Float[Tensor, "B H T K"],
    k: Float[Tensor, "B G S K"],
    v: Float[Tensor, "B G S W"],
    *,
    causal: bool,
    scale: float,
    dropout: float = 0.0,
    mask: Bool[Tensor, "T S"] | None = None,
) -> Float[Tensor, "B H T W"]:
    """softmax(scale q k^T) v, by the chosen kernel; H / G query heads share a head of keys.

    Of fewer queries than keys the queries are the last ones, when causal. A mask says which pairs
    are kept, and then alone decides.
    """
    causal = causal and q.shape[-2] > 1 and mask is None
    if _chosen[-1] == "plain":
        return products(q, k, v, causal=causal, scale=scale, dropout=dropout, mask=mask)
    if causal and q.shape[-2] < k.shape[-2]:
        mask, causal = seen(q.shape[-2], k.shape[-2], q.device), False
    return F.scaled_dot_product_attention(
        q, k, v, mask, dropout, causal, scale=scale, enable_gqa=k.shape[-3] < q.shape[-3]
    )


def products(
    q: Float[Tensor, "B H T K"],
    k: Float[Tensor, "B G S K"],
    v: Float[Tensor, "B G S W"],
    *,
    causal: bool,
    scale: float,
    dropout: float = 0.0,
    mask: Tensor | None = None,
    drop: Dropout = F.dropout,
) -> Float[Tensor, "B H T W"]:
    """The same by two matrix products.

    Args:
        q: queries.
        k: keys.
        v: values.
        causal: whether a query sees only the keys up to its own.
        scale: on the scores.
        dropout: its rate on attention weights.
        mask: (T, S) or what broadcasts with the scores; added to them, or where they are kept.
        drop: drops out at a rate.
    """
    scores = scored(q, k, scale)  # (B, H, T, S)
    if causal:
        scores = scores + _future(q.shape[-2], k.shape[-2], scores.dtype, scores.device)
    if mask is not None:
        kept = mask.dtype == torch.bool
        scores = scores.masked_fill(~mask, float("-inf")) if kept else scores + mask
    weights = scores.softmax(-1)
    return (drop(weights, dropout) if dropout else weights) @ for_each(v, q.shape[-3])


def scored(
    q: Float[Tensor, "B H T K"], k: Float[Tensor, "B G S K"], scale: float
) -> Float[Tensor, "B H T S"]:
    """Queries times keys, times the scale."""
    return (q * scale) @ for_each(k, q.shape[-3]).transpose(-1, -2)


def for_each(keys: Float[Tensor, "B G S K"], heads: int) -> Float[Tensor, "B H S K"]:
    """Keys or values once for each head of queries."""
    group = heads // keys.shape[-3]
    return keys.repeat_interleave(group, -3) if group > 1 else keys


@cached(8)
def distances(queries: int, keys: int, device: torch.device) -> Int64[Tensor, "T S"]:
    """How far before its query each key stands, 0 for its own, negative after it.

    The queries are the last ones.
    """
    with torch.inference_mode(False):  # an evaluation may come first, training needs it too
        places = torch.arange(keys, device=device)
        return places[keys - queries :, None] - places


@cached(8)
def seen(queries: int, keys: int, device: torch.device) -> Bool[Tensor, "T S"]:
    """Whether a key stands no later than the query."""
    with torch.inference_mode(False):
        return distances(queries, keys, device) >= 0


def within(
    far: Integer[Tensor, "..."], window: int | Float[Tensor, "..."], *, causal: bool
) -> Bool[Tensor, "..."]:
    """Whether keys are inside their queries' windows.

    Args:
        far: how far before its query each key stands, as of `distances`.
        window: the distance from which on a key is outside; one for all, or what broadcasts.
        causal: whether keys after their query are outside too.
    """
    near = far.abs() < window
    return near & (far >= 0) if causal else near


@cached(8)
def _future(
    queries: int, keys: int, dtype: torch.dtype, device: torch.device
) -> Float[Tensor, "T S"]:
    """What is added to scores: minus infinity at later positions; the last ones are the same."""
    mask = torch.full((queries, keys), float("-inf"), dtype=dtype, device=device)
    return mask.triu(keys - queries + 1)
