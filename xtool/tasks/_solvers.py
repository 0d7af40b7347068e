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
PENALTY = 0.01  # lasso's, beside half the mean squared error
TURNS = 300
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


def lasso(x: Points, y: Values) -> Float64[Tensor, "N n"]:
    """Least squares with `PENALTY` on the absolute weights (FISTA; Beck and Teboulle, 2009).

    Returns:
        the predictions at every point from those before it, all found together.
    """
    pairs = torch.arange(1, x.shape[1], dtype=x.dtype)
    inner = torch.einsum("nki,nkj->nkij", x, x).cumsum(1)[:, :-1] / pairs[:, None, None]
    with_y = (x * y[..., None]).cumsum(1)[:, :-1] / pairs[:, None]  # (N, n - 1, d)
    step = 1 / torch.linalg.matrix_norm(inner)[..., None]  # at most 1 / the largest eigenvalue
    weights = ahead = torch.zeros_like(with_y)
    for turn in range(1, TURNS + 1):
        slope = (inner @ ahead[..., None])[..., 0] - with_y
        moved = ahead - step * slope
        after = moved.sign() * (moved.abs() - step * PENALTY).clamp(min=0)
        ahead = after + (turn - 1) / (turn + 2) * (after - weights)
        weights = after
    return F.pad((weights * x[:, 1:]).sum(-1), (1, 0))


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
        methods["lasso"] = lasso
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
