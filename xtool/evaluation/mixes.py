"""Mixes of widths by layer: what they cost, and from few losses the estimate of all others.

A Gaussian process (Rasmussen and Williams, 2006, chapter 2) estimates the loss of a mix; the larger
part of it is a sum over layers, and a knapsack gives the best of such a sum under a budget.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from heapq import heappush, heapreplace
from itertools import combinations, product

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

Mix = tuple[int, ...]  # the place of a width among all, by layer; 0 is the narrowest
Number = int | float
Table = Sequence[Sequence[Number]]  # by layer and width

SIMILAR = 0.7  # how like two neighbouring widths are
PAIRS = 0.3  # how much pairs of layers matter, beside single ones
NOISE = 1e-3  # of an evaluation, beside what layers make of it


@dataclass(frozen=True)
class Body:
    """What the layers stand in, each with one of several widths: all other sizes are fixed.

    Attributes:
        base: what it costs with every layer at its narrowest.
        costs: what each width adds in each layer, by layer and width; 0 for the narrowest.
    """

    base: Number
    costs: Table

    @property
    def widths(self) -> range:
        """The places of the widths."""
        return range(len(self.costs[0]))

    def uniform(self, width: int) -> Mix:
        """Every layer at one width."""
        return (width,) * len(self.costs)

    def cost(self, mix: Mix) -> Number:
        """What a mix costs, exactly where costs are exact."""
        return self.base + sum(row[n] for row, n in zip(self.costs, mix, strict=True))

    def largest(self, budget: Number) -> Mix | None:
        """The largest uniform mix within a budget; None where not even the smallest is."""
        fitting = [n for n in self.widths if self.cost(self.uniform(n)) <= budget]
        return self.uniform(fitting[-1]) if fitting else None

    def design(self, around: Mix) -> list[Mix]:
        """What to evaluate first: uniform mixes, then each layer alone at other widths."""
        uniform = [self.uniform(width) for width in reversed(self.widths)]
        near = sorted(self.widths, key=lambda width: (abs(width - around[0]), width))
        layers = range(len(around))
        singles = [single(around, layer, width) for width in near for layer in layers]
        return [*dict.fromkeys([around, *uniform, *singles])]


def single(around: Mix, layer: int, width: int) -> Mix:
    """A mix with one layer at another width."""
    return (*around[:layer], width, *around[layer + 1 :])


def best_mixes(
    values: Table, costs: Table, budget: Number, keep: int = 1
) -> list[tuple[Number, Mix]]:
    """The mixes of the lowest sums of values whose sums of costs are within a budget, exactly.

    A partial mix is dropped once `keep` others cost no more and are worth no less.

    Args:
        values: by layer and width; lower is better.
        costs: by layer and width.
        budget: the most that the layers may cost together.
        keep: how many to give.

    Returns:
        up to `keep` sums of values with their mixes, the best first.
    """
    rest = [sum(map(min, costs[layer:])) for layer in range(1, len(costs) + 1)]
    states: list[tuple[Number, Number, Mix]] = [(0, 0, ())]
    for value, cost, least in zip(values, costs, rest, strict=True):
        grown = sorted(
            (spent + cost[width], worth + value[width], (*mix, width))
            for spent, worth, mix in states
            for width in range(len(cost))
            if spent + cost[width] + least <= budget
        )
        states = []
        lowest: list[Number] = []  # negative, so that the worst of those kept stands first
        for state in grown:
            if len(lowest) < keep:
                heappush(lowest, -state[1])
            elif state[1] < -lowest[0]:
                heapreplace(lowest, -state[1])
            else:
                continue
            states.append(state)
    return sorted((worth, mix) for _, worth, mix in states)[:keep]


class Estimate:
    """The loss of every mix of a body, from those that are known: the mean of a Gaussian process.

    Its kernel says that losses are alike where layers have like widths, so it holds any sum over
    layers; its square holds what pairs of layers add. Uniform sizes beside the widest have a part
    in common, as they may have gains of their own, or be what was trained where mixes were not.

    Args:
        body: the body.
        known: losses.

    Attributes:
        table: the part that is a sum over layers, by layer and width, up to a constant.
    """

    def __init__(self, body: Body, known: Mapping[Mix, float]) -> None:
        self.widest = body.widths[-1]
        self.mixes = torch.tensor([*known])  # (M, L)
        losses = torch.tensor([*known.values()], dtype=torch.float64)  # (M,)
        self.mean = losses.mean()
        kernel = self._kernel(self.mixes) + NOISE * torch.eye(len(known), dtype=torch.float64)
        self.weights = torch.linalg.solve(kernel, losses - self.mean)  # (M,)
        self.table: list[list[float]] = []
        for layer in range(len(body.costs)):
            column = self.mixes[:, layer, None]  # (M, 1)
            found = likeness(torch.tensor([*body.widths])[:, None], column) @ self.weights  # (W,)
            self.table.append(found.tolist())

    def __call__(self, mixes: Sequence[Mix]) -> list[float]:
        """The losses of mixes."""
        return [float(n) for n in self.mean + self._kernel(torch.tensor(mixes)) @ self.weights]

    def _kernel(self, mixes: Int64[Tensor, "N L"]) -> Float64[Tensor, "N M"]:
        """How much losses of these mixes and of the known ones are alike."""
        alike = likeness(mixes, self.mixes)
        same = self._uniform(mixes)[:, None] * self._uniform(self.mixes)[None]  # (N, M)
        return 1 + alike + PAIRS * alike**2 + same

    def _uniform(self, mixes: Int64[Tensor, "N L"]) -> Float64[Tensor, " N"]:
        """1 for uniform mixes but for the widest, 0 for the others."""
        first = mixes[:, :1]  # (N, 1)
        return ((mixes == first) & (first < self.widest)).all(1).double()  # (N,)


def likeness(ours: Int64[Tensor, "N L"], theirs: Int64[Tensor, "M L"]) -> Float64[Tensor, "N M"]:
    """How like mixes are, 0 to 1: the mean over layers."""
    steps = (ours[:, None] - theirs[None]).abs()  # (N, M, L)
    return (SIMILAR ** steps.double()).mean(-1)  # (N, M)


def exchanges(mix: Mix, widths: Sequence[int]) -> set[Mix]:
    """The mixes that differ in one or two layers."""
    found = set()
    for first, other in combinations(range(len(mix)), 2):
        for one, two in product(widths, repeat=2):
            new = [*mix]
            new[first], new[other] = one, two
            found.add(tuple(new))
    return found
