"""Rows of a nested model's sizes, and which are on the front of loss against parameters.

Every uniform size is scored, a middle one with each layer changed alone, and then under budgets
spread between the smallest and the whole model the mix that `search` expects most of. A size is on
the front where no other that was scored has no more of both loss and parameters.
"""

from pathlib import Path

from xtool.archs import axes_of
from xtool.errors import UsageError
from xtool.evaluation.budgets import Sizes
from xtool.evaluation.models import Evaluator
from xtool.evaluation.search import MOST, Losses, explore, on_front
from xtool.rows import Row
from xtool.storage import header_of


def front_rows(evaluator: Evaluator, path: Path, label: str | None, count: int) -> list[Row]:
    """The rows of each size that was scored, smallest first, with a column `front`.

    Args:
        evaluator: scores sizes on its one split.
        path: the model.
        label: as `Evaluator.rows`.
        count: how many budgets there are between the smallest size and the whole model.

    Raises:
        UsageError: a model that is not nested, a file of several, or several splits.
        XtoolError: see `Evaluator.rows`.
    """
    header = header_of(path, "model")
    if not axes_of(header.config):
        raise UsageError(f"{path}: is not nested, so it has no front", "`xtool train --nest`")
    if header.replicas > 1:
        raise UsageError(
            f"{path}: holds {header.replicas} models", "`xtool slice --replica 0` takes one out"
        )
    if len(evaluator.splits) != 1 or "all" in evaluator.splits:
        raise UsageError("`--front` is of one split", "such as `--split dev`")
    sizes = Sizes(header.config)
    bodies = sizes.by_params()
    whole, mix = sizes.whole
    low = min(body.cost(sizes.uniform(n, 0)) for n, body in enumerate(bodies))
    high = bodies[whole].cost(mix)
    budgets = [low + (high - low) * (n + 1) / (count + 1) for n in reversed(range(count))]
    uniform = sum(len(body.widths) for body in bodies)
    losses = Losses(lambda place: evaluator.loss(path, sizes.at(place)), uniform + MOST + count)
    explore(bodies, budgets, losses)
    found = [evaluator.rows_of_size(path, label, sizes.at(place)) for place in losses.known]
    params = [int(rows[0]["params"]) for rows in found]
    points = [*zip(params, losses.known.values(), strict=True)]
    marked = zip(found, on_front(points), strict=True)
    told = [[one | {"front": str(on).lower()} for one in rows] for rows, on in marked]
    told.sort(key=lambda rows: int(rows[0]["params"]))
    return [one for rows in told for one in rows]
