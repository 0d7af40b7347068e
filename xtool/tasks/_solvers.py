"""The squared errors of exact methods on regression prompts, by the number of pairs they have read.

All compute in double precision, over all prompts at once. An error is that of the prediction of
y_k from the k - 1 pairs before it, over the variance of the function.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Float64
from torch import Tensor
from torch.nn import functional as F

from xtool.errors import UsageError
from xtool.tasks._functions import Prompts, variance_of

NEIGHBOURS = 3
BOOSTED = {"n_estimators": 50, "max_depth": 4, "learning_rate": 0.1}
PENALTY = 0.01  # lasso's, beside half the mean squared error, at `--scale` 1
TURNS, MOST_TURNS = 100, 100_000
CHUNK = 128  # prompts at once

Points = Float64[Tensor, "N k d"]
Values = Float64[Tensor, "N k"]
Query = Float64[Tensor, "N d"]


def least_squares(x: Points, y: Values, query: Query) -> Float64[Tensor, " N"]:
    """The shortest weights that fit best."""
    weights: Tensor = torch.linalg.lstsq(x, y[..., None], driver="gelsd").solution[..., 0]
    return (weights * query).sum(1)


def ridge(x: Points, y: Values, query: Query, penalty: float) -> Float64[Tensor, " N"]:
    """The mean of the weights under a normal prior and noise of variance `penalty`."""
    inner = x.transpose(1, 2) @ x + penalty * torch.eye(x.shape[2], dtype=x.dtype)
    weights: Tensor = torch.linalg.solve(inner, x.transpose(1, 2) @ y[..., None])[..., 0]
    return (weights * query).sum(1)


def lasso(x: Points, y: Values, scale: float) -> Float64[Tensor, "N n"]:
    """Least squares with `PENALTY` on the absolute weights, of points and values over their scale.

    Returns:
        the predictions at every point from those before it, all found together.
    """
    x, y = x / scale, y / scale
    pairs = torch.arange(1, x.shape[1], dtype=x.dtype)
    inner = torch.einsum("nki,nkj->nkij", x, x).cumsum(1)[:, :-1] / pairs[:, None, None]
    with_y = (x * y[..., None]).cumsum(1)[:, :-1] / pairs[:, None]  # (N, n - 1, d)
    weights = _sparse_weights(inner.flatten(0, 1), with_y.flatten(0, 1)).view_as(with_y)
    return F.pad(scale * (weights * x[:, 1:]).sum(-1), (1, 0))


def _sparse_weights(
    inner: Float64[Tensor, "M d d"], with_y: Float64[Tensor, "M d"]
) -> Float64[Tensor, "M d"]:
    """The minimum of w inner w / 2 - with_y w + PENALTY |w|, to 1e-6 of its conditions.

    FISTA (Beck and Teboulle, 2009), begun anew wherever it overshoots (O'Donoghue and Candes, 2015,
    arXiv:1204.3982). Every `TURNS` what has come to rest is left out.
    """
    found = torch.zeros_like(with_y)
    step = 1 / torch.linalg.eigvalsh(inner)[:, -1:].clamp(min=1e-300)  # (M, 1)
    moving, weights, ahead, speed = torch.arange(len(found)), found, found, torch.ones_like(step)
    for _ in range(MOST_TURNS // TURNS):
        a, b, s = inner[moving], with_y[moving], step[moving]
        for _ in range(TURNS):
            moved = ahead - s * ((a @ ahead[..., None])[..., 0] - b)
            after = moved.sign() * (moved.abs() - s * PENALTY).clamp(min=0)
            change = after - weights
            overshot = ((ahead - after) * change).sum(1, keepdim=True) > 0
            faster = torch.where(overshot, 1.0, (1 + (1 + 4 * speed**2).sqrt()) / 2)
            ahead = after + torch.where(overshot, 0.0, (speed - 1) / faster) * change
            weights, speed = after, faster
        found[moving] = weights
        slope = (a @ weights[..., None])[..., 0] - b
        off = torch.where(
            weights != 0, (slope + PENALTY * weights.sign()).abs(), slope.abs() - PENALTY
        )
        open_ = off.amax(1) > 1e-6 * PENALTY
        moving, weights, ahead, speed = (one[open_] for one in (moving, weights, ahead, speed))
        if not len(moving):
            break
    return found


def nearest(x: Points, y: Values, query: Query) -> Float64[Tensor, " N"]:
    """The mean value of the nearest points."""
    far = (x - query[:, None]).square().sum(2)
    places = far.topk(min(NEIGHBOURS, x.shape[1]), 1, largest=False).indices
    return y.gather(1, places).mean(1)


def averaging(x: Points, y: Values, query: Query) -> Float64[Tensor, " N"]:
    """The mean of y x as weights."""
    return ((x * y[..., None]).mean(1) * query).sum(1)


def trees(x: Points, y: Values, query: Query, boosted: int, depth: int) -> Float64[Tensor, " N"]:
    """A greedy tree, or 50 boosted ones of depth 4 (Yang et al., 2023), by scikit-learn.

    Raises:
        UsageError: the package is missing.
    """
    try:
        from sklearn.ensemble import GradientBoostingRegressor
        from sklearn.tree import DecisionTreeRegressor
    except ImportError as error:
        raise UsageError(
            "`--trees` needs the package scikit-learn", "pip install 'xtool[trees]'"
        ) from error
    out = []
    for points, values, asked in zip(x.numpy(), y.numpy(), query.numpy(), strict=True):
        model = (
            GradientBoostingRegressor(**BOOSTED, random_state=0)
            if boosted
            else DecisionTreeRegressor(max_depth=depth, random_state=0)
        )
        out.append(float(model.fit(points, values).predict(asked[None])[0]))
    return torch.tensor(out, dtype=x.dtype)


def errors_of(
    found: Prompts, task: Mapping[str, Any], with_trees: bool = False
) -> dict[str, Float[Tensor, "N n"]]:
    """The errors of each method that suits a task, by name, in single precision."""
    methods: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "least_squares": partial(_one_by_one, least_squares),
        "nearest": partial(_one_by_one, nearest),
        "averaging": partial(_one_by_one, averaging),
    }
    if task["noise"]:
        solve = partial(ridge, penalty=task["noise"] ** 2)
        methods["ridge"] = partial(_one_by_one, solve)
    if task["function"] == "sparse":
        methods["lasso"] = partial(lasso, scale=float(task.get("scale", 1.0)))
    if with_trees:
        for boosted, name in enumerate(("tree", "boosted_trees")):
            solve = partial(trees, boosted=boosted, depth=task["depth"])
            methods[name] = partial(_one_by_one, solve)
    x, y = (one.double().cpu() for one in found)
    errors = {}
    for name, method in methods.items():
        parts = zip(torch.split(x, CHUNK), torch.split(y, CHUNK), strict=True)
        predicted = torch.cat([method(*part) for part in parts])
        errors[name] = ((predicted - y).square() / variance_of(task)).float()
    return errors


def _one_by_one(method: Callable[..., Tensor], x: Points, y: Values) -> Float64[Tensor, "N n"]:
    """Predictions at each point from those before it; 0 at the first."""
    found = [torch.zeros_like(y[:, 0])]
    for known in range(1, y.shape[1]):
        found.append(method(x[:, :known], y[:, :known], x[:, known]))
    return torch.stack(found, 1)
