"""Sizes of a nested model by what they cost: parameters, or the time of a forward pass.

`Sizes` lays them out for the search: each combination of the other nested sizes is a body, and
feed-forward widths mix by layer in it. Parameters are those of the file that slicing writes, in
which nothing is nested; they are a sum over layers, exactly. Times are
measured of uniform sizes and shared out over layers, so they only choose: what is chosen is timed.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate, product
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch
from torch import nn

from xtool.archs import (
    Child,
    Size,
    axes_of,
    count_size,
    read_model,
    size_of,
)
from xtool.dataset import Split
from xtool.errors import UsageError
from xtool.evaluation.mixes import Body, Number
from xtool.evaluation.score import scores
from xtool.evaluation.search import MOST, Losses, Place, search
from xtool.tasks import Task

WARM, TIMED = 3, 31
MIXED = "d_ff"


class Sizes:
    """The sizes of a nested model, as bodies and mixes.

    Args:
        config: of the model.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.config = config
        axes = axes_of(config)
        self.widths = axes.pop(MIXED, [])
        self.combinations = [
            dict(zip(axes, sizes, strict=True)) for sizes in product(*axes.values())
        ]

    @property
    def whole(self) -> Place:
        """The largest size."""
        place = len(self.combinations) - 1
        return place, self.uniform(place, -1)

    @property
    def most(self) -> int:
        """How many evaluations a search may make."""
        return max(MOST, 2 * len(self.whole[1]))

    def uniform(self, body: int, width: int) -> tuple[int, ...]:
        """The mix of a body with every layer at one width, -1 being the widest."""
        changes = self.combinations[body]
        layers = changes.get("n_layers") or self.config.get("n_layers") or 1
        return (range(len(self.widths) or 1)[width],) * (layers if self.widths else 1)

    def at(self, place: Place) -> Size:
        """The size of a place."""
        body, mix = place
        changes: dict[str, Any] = dict(self.combinations[body])
        if self.widths:
            changes[MIXED] = [self.widths[width] for width in mix]
        return size_of(self.config, changes)

    def by_params(self) -> list[Body]:
        """The bodies with what they cost in parameters."""
        found = []
        for body in range(len(self.combinations)):
            narrow = self.uniform(body, 0)
            base, costs = self.params((body, narrow)), []
            for layer in range(len(narrow)):
                wide = [(*narrow[:layer], n, *narrow[layer + 1 :]) for n in range(self._widths)]
                costs.append([self.params((body, mix)) - base for mix in wide])
            found.append(Body(base, costs))
        return found

    def by_seconds(self, seconds: Callable[[Place], float]) -> list[Body]:
        """The bodies with what they cost in time, shared out over layers alike.

        Args:
            seconds: measures a size; asked for uniform ones alone.
        """
        found = []
        for body in range(len(self.combinations)):
            uniform = [self.uniform(body, width) for width in range(self._widths)]
            times = [*accumulate((seconds((body, mix)) for mix in uniform), max)]
            layers = len(uniform[0])
            each = [(time - times[0]) / layers for time in times]
            found.append(Body(times[0], [each] * layers))
        return found

    @property
    def _widths(self) -> int:
        return len(self.widths) or 1

    def params(self, place: Place) -> int:
        """The parameters of a size, with nothing nested in it."""
        return count_size(self.config, self.at(place).changes)


class Scorer:
    """The loss of every size of a model, on the same examples for all.

    Args:
        model: the model, on its device.
        config: its configuration.
        task: the task.
        split: the examples.
    """

    def __init__(
        self, model: nn.Module, config: Mapping[str, Any], task: Task, split: Split
    ) -> None:
        self.model, self.config, self.task, self.split = model.eval(), config, task, split

    def __call__(self, size: Size) -> float:
        """The mean loss of a size."""
        model = self.model
        if size.changes:
            model = Child(model, self.config, size.changes).bind(contiguous=True)
        return float(scores(model, self.task, self.split)["loss"].mean())


@torch.inference_mode()
def seconds(
    path: Path, replica: int | None, size: Size, split: Split, device: torch.device
) -> float:
    """The median time of a forward pass over one example, by a size read as its file would be."""
    model = read_model(path, replica, verify=False, size=size.changes)[2].to(device).eval()
    example = split.inputs[:1].to(device)  # (1, T)
    found = []
    for turn in range(WARM + TIMED):
        start = perf_counter()
        model(example)
        if device.type == "cuda":
            torch.cuda.synchronize()
        if turn >= WARM:
            found.append(perf_counter() - start)
    return median(found)


def choose(
    sizes: Sizes,
    bodies: Sequence[Body],
    budget: Number,
    losses: Losses,
    fits: Callable[[Place], bool] = lambda place: True,
    said: Callable[[Number], str] = "{:,.0f} parameters".format,
) -> Place:
    """The best place within a budget.

    Args:
        sizes: of the model.
        bodies: their costs.
        budget: the most that a size may cost; the whole model is taken where it fits.
        losses: evaluates; the whole model is evaluated first, to compare with.
        fits: has the last word; asked in the order of losses.
        said: a cost, as errors give it.

    Raises:
        UsageError: nothing is within the budget.
    """
    body, mix = sizes.whole
    if bodies[body].cost(mix) <= budget and fits(sizes.whole):
        losses(sizes.whole)
        return sizes.whole
    narrow = [(n, sizes.uniform(n, 0)) for n in range(len(bodies))]
    smallest = min(narrow, key=lambda place: bodies[place[0]].cost(place[1]))
    cost = bodies[smallest[0]].cost(smallest[1])
    if cost <= budget:
        losses(sizes.whole)
        for place in search(bodies, budget, losses):
            if place != sizes.whole and fits(place):
                return place
    again = ", but no size held it when it was timed again" if cost <= budget else ""
    raise UsageError(
        f"no size is within {said(budget)}: the smallest, `{sizes.at(smallest).label}`, "
        f"costs {said(cost)}{again}",
        "give a larger budget, or cut to less than was trained: `--untrained-ok`",
    )
