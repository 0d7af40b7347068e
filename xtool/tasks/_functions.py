"""What the points of a regression prompt lie on: each draws many prompts at once.

The linear, sparse, tree and two-layer functions are those of Garg et al. (2022, arXiv:2208.01066);
`rows` draws prompts from a table of a user's own.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Generator, Tensor


class Prompts(NamedTuple):
    """Points (B, n, d) and their values (B, n)."""

    x: Float[Tensor, "B n d"]
    y: Float[Tensor, "B n"]


Draw = Callable[[int, Generator], Prompts]


def _normal(*shape: int, generator: Generator) -> Tensor:
    return torch.randn(*shape, generator=generator, device=generator.device)


def linear(x: Float[Tensor, "B n d"], generator: Generator) -> Float[Tensor, "B n"]:
    """The product of x with weights from N(0, 1)."""
    weights = _normal(len(x), x.shape[2], generator=generator)
    return torch.einsum("bnd,bd->bn", x, weights)


def sparse(x: Float[Tensor, "B n d"], generator: Generator, nonzero: int) -> Float[Tensor, "B n"]:
    """The same, all but `nonzero` of the weights 0."""
    weights = _normal(len(x), x.shape[2], generator=generator)
    order = torch.rand(weights.shape, generator=generator, device=x.device).argsort(1)
    return torch.einsum("bnd,bd->bn", x, weights * (order < nonzero))


def tree(x: Float[Tensor, "B n d"], generator: Generator, depth: int) -> Float[Tensor, "B n"]:
    """A full binary tree: each inner node asks for the sign of a number, leaves are N(0, 1)."""
    batch, _, dims = x.shape
    device = x.device
    asked = torch.randint(dims, (batch, 2**depth - 1), generator=generator, device=device)
    leaves = _normal(batch, 2**depth, generator=generator)
    node = torch.zeros(x.shape[:2], dtype=torch.long, device=device)  # (B, n)
    for _ in range(depth):
        number = x.gather(2, asked.gather(1, node)[..., None])[..., 0]  # (B, n)
        node = 2 * node + 1 + (number > 0)
    return leaves.gather(1, node - (2**depth - 1))


def relu(x: Float[Tensor, "B n d"], generator: Generator, hidden: int) -> Float[Tensor, "B n"]:
    """A two-layer network with weights from N(0, 1), scaled to the variance of `linear`."""
    first = _normal(len(x), x.shape[2], hidden, generator=generator)
    second = _normal(len(x), hidden, generator=generator)
    out = torch.einsum("bnh,bh->bn", torch.bmm(x, first).relu_(), second)
    return out * math.sqrt(2 / hidden)


def variance_of(task: Mapping[str, Any]) -> float:
    """The variance of the function's values over prompts, noise apart."""
    read = {"linear": "dims", "relu": "dims", "sparse": "nonzero"}.get(str(task.get("function")))
    if read is None:
        return 1.0
    return float(task[read] * task.get("scale", 1.0) ** 2)


def function_of(
    task: Mapping[str, Any], rows: Float[Tensor, "N c"] | None = None, dims: int | None = None
) -> Draw:
    """What draws prompts of a task.

    Args:
        task: the dials of the task.
        rows: those of a table, the value last in each.
        dims: how many of them are not 0; all unless given.
    """
    own = {"sparse": "nonzero", "tree": "depth", "relu": "hidden"}.get(task["function"])
    dials = {own: task[own]} if own else {}
    points, noise = task["points"], task["noise"]

    def draw(count: int, generator: Generator) -> Prompts:
        if rows is not None:
            chosen = _distinct(count, points, len(rows), generator)
            found = rows.to(generator.device)[chosen]  # (B, n, d + 1)
            x, y = found[..., :-1], found[..., -1]
        else:
            x = _points(task, count, generator)
            live = task["dims"] if dims is None else min(dims, task["dims"])
            x[..., live:] = 0
            # The function is one of the numbers that are not 0.
            y = FUNCTIONS[task["function"]](x[..., :live], generator, **dials)
        if noise:
            y = y + noise * _normal(*y.shape, generator=generator)
        return Prompts(x, y)

    return draw


def _points(task: Mapping[str, Any], count: int, generator: Generator) -> Float[Tensor, "B n d"]:
    """From N(0, 1), scaled; skewed ones from another normal distribution in each prompt.

    There the variance in the i-th of some orthogonal directions is in proportion to 1/i^skew, and
    `dims` in all (Garg et al. have 1/i^2).
    """
    dims, skew = task["dims"], task.get("skew", 0.0)
    x = _normal(count, task["points"], dims, generator=generator) * float(task.get("scale", 1.0))
    if not skew:
        return x
    variance = torch.arange(1, dims + 1, device=x.device, dtype=x.dtype) ** -skew
    spread = (variance * dims / variance.sum()).sqrt()
    directions = torch.linalg.qr(_normal(count, dims, dims, generator=generator)).Q
    skewed: Tensor = (x * spread) @ directions.transpose(1, 2)
    return skewed


def _distinct(count: int, points: int, among: int, generator: Generator) -> Tensor:
    """Row numbers (B, n), none twice in a prompt."""
    even = torch.ones(count, among, device=generator.device)
    return even.multinomial(points, replacement=False, generator=generator)


FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    "linear": linear,
    "sparse": sparse,
    "tree": tree,
    "relu": relu,
}
