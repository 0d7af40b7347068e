"""Generating: a model's own next tokens, one after another."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from jaxtyping import Float, Integer
from torch import Tensor, nn

from xtool import registry
from xtool.errors import UsageError
from xtool.layers._cache import caching

Pick = Callable[[Float[Tensor, "N V"]], Integer[Tensor, " N"]]


def can_cache(config: Mapping[str, Any]) -> bool:
    """Whether a model's architecture and attention variant keep keys and values."""
    own = [("archs", config["arch"]), ("layers/attention", config.get("attention"))]
    return all(registry.literal(folder, name, "CACHED", False) for folder, name in own if name)


@torch.inference_mode()
def generate(
    model: nn.Module,
    prompt: Integer[Tensor, "N T"],
    context: int,
    pick: Pick,
    cached: bool,
) -> Iterator[Integer[Tensor, " N"]]:
    """The next token of each of N texts, without end.

    The model sees a window of the last `context` tokens. With a cache it computes one position for
    each token until the window is full; from then on the window moves with each token, so that
    every token stands at another position and all are computed anew.

    Args:
        model: causal.
        prompt: the tokens to go on from, at least one.
        context: the longest window.
        pick: chooses tokens by their logits.
        cached: whether to keep keys and values.
    """
    model.eval()
    window = prompt[:, -context:]
    seen = context  # positions in the cache; a full one is made anew
    with ExitStack() as caches:
        while True:
            if cached and seen < context:
                logits = model(window[:, -1:])[:, -1]  # (N, V)
                seen += 1
            else:
                caches.close()
                if cached:
                    caches.enter_context(caching(model))
                logits = model(window)[:, -1]  # (N, V)
                seen = window.shape[1]
            token = pick(logits)  # (N,)
            window = torch.cat([window, token[:, None].to(window)], 1)[:, -context:]
            yield token


def picker(
    temperature: float, top_k: int | None, top_p: float, known: int, generator: torch.Generator
) -> Pick:
    """How tokens are chosen: the likeliest at temperature 0, else drawn.

    Args:
        temperature: divides the logits.
        top_k: only so many of the likeliest.
        top_p: only the likeliest that together have this probability (Holtzman et al., 2020,
            arXiv:1904.09751).
        known: only symbols below this one.
        generator: on the CPU.

    Raises:
        UsageError: a value outside its range.
    """
    if not 0 <= temperature < math.inf:
        raise UsageError(f"`--temperature` is {temperature}, it must be a number from 0")
    if top_k is not None and top_k < 1:
        raise UsageError(f"`--top-k` is {top_k}, it must be at least 1")
    if not 0 < top_p <= 1:
        raise UsageError(f"`--top-p` is {top_p}, it must be above 0 and at most 1")

    def pick(logits: Float[Tensor, "N V"]) -> Integer[Tensor, " N"]:
        logits = logits[:, :known].double().cpu()
        if temperature == 0:
            return logits.argmax(-1)
        falling, order = logits.sort(dim=-1, descending=True, stable=True)  # (N, V)
        chance = ((falling - falling[:, :1]) / temperature).softmax(-1)
        kept = torch.where(chance.cumsum(-1) - chance < top_p, chance, 0.0)
        if top_k is not None:
            kept[:, top_k:] = 0.0
        drawn = torch.multinomial(kept, 1, generator=generator)  # (N, 1)
        token: Tensor = order.gather(-1, drawn)[:, 0]
        return token

    return pick
