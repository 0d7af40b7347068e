"""Mixes of widths by layer: what they cost, and from few losses the estimate of all others.

A sum over layers estimates the loss of a mix, and a knapsack gives the best of the sum under a
budget. What the sum missed where it was put to the test is carried over to mixes like that, by a
Gaussian process (Rasmussen and Williams, 2006, chapter 2).
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

SIMILAR = 0.5  # how like two neighbouring widths are
STEEPEST = 3.0  # how much more than its share a layer may be thought to matter
NOISE = 1e-3  # of an evaluation, beside what unlike mixes differ by


@dataclass(frozen=True)
class Body:
    """What the layers stand in, each with one of several widths: all other sizes are fixed.

    Attributes:
        base: what it costs with every layer at its narrowest.
        costs: what each width adds in each layer, by layer and width; 0 for the narrowest.
        extra: what a uniform size costs beside, by width; none unless given.
    """

    base: Number
    costs: Table
    extra: Sequence[Number] = ()

    @property
    def widths(self) -> range:
        """The places of the widths."""
        return range(len(self.costs[0]))

    def uniform(self, width: int) -> Mix:
        """Every layer at one width."""
        return (width,) * len(self.costs)

    def cost(self, mix: Mix) -> Number:
        """What a mix costs, exactly where costs are exact."""
        extra = self.extra[mix[0]] if self.extra and len({*mix}) == 1 else 0
        return self.base + sum(row[n] for row, n in zip(self.costs, mix, strict=True)) + extra

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
    """The loss of every mix of a body, from those that are known.

    What the sum over layers missed is carried over by a Gaussian process, whose kernel is the
    square of the part of layers that agree: sums over layers and over pairs of them.

    Args:
        body: the body.
        known: losses, that of `around` among them.
        around: where single layers were changed.

    Attributes:
        table: what each width of a layer adds to the loss of `around`.
    """

    def __init__(self, body: Body, known: Mapping[Mix, float], around: Mix) -> None:
        self.start = known[around]
        uniform = [known.get(body.uniform(width), self.start) for width in body.widths]
        shares = [(loss - self.start) / len(around) for loss in uniform]
        self.table = []
        for layer in range(len(around)):
            losses = [known.get(single(around, layer, width)) for width in body.widths]
            changes = [None if loss is None else loss - self.start for loss in losses]
            self.table.append(completed(changes, shares))
        self.mixes = torch.tensor([*known])  # (M, L)
        missed = torch.tensor([*known.values()]).double() - self.sums(self.mixes)  # (M,)
        kernel = likeness(self.mixes, self.mixes)
        kernel += NOISE * torch.eye(len(known), dtype=torch.float64)
        self.weights = torch.linalg.solve(kernel, missed)  # (M,)

    def sums(self, mixes: Int64[Tensor, "N L"]) -> Float64[Tensor, " N"]:
        """The sums over layers alone."""
        table = torch.tensor(self.table).double()  # (L, W)
        return self.start + table.T.gather(0, mixes).sum(1)  # (N,)

    def __call__(self, mixes: Sequence[Mix]) -> list[float]:
        """The losses of mixes."""
        wanted = torch.tensor(mixes)  # (N, L)
        missed = likeness(wanted, self.mixes) @ self.weights  # (N,)
        return [float(loss) for loss in self.sums(wanted) + missed]


def completed(changes: Sequence[float | None], shares: Sequence[float]) -> list[float]:
    """What each width of a layer adds to the loss.

    Args:
        changes: by width, what it was seen to add; None where it was not seen.
        shares: by width, the layer's part of what a uniform size adds. Where nothing was seen this
            is taken, times what fits the changes that were.
    """
    pairs = [(seen, share) for seen, share in zip(changes, shares, strict=True) if seen is not None]
    over = sum(share * share for _, share in pairs)
    scale = sum(seen * share for seen, share in pairs) / over if over else 1.0
    scale = min(max(scale, 0.0), STEEPEST)
    return [
        share * scale if seen is None else seen for seen, share in zip(changes, shares, strict=True)
    ]


def likeness(ours: Int64[Tensor, "N L"], theirs: Int64[Tensor, "M L"]) -> Float64[Tensor, "N M"]:
    """How like mixes are, 0 to 1."""
    steps = (ours[:, None] - theirs[None]).abs()  # (N, M, L)
    return (SIMILAR ** steps.double()).mean(-1) ** 2  # (N, M)


def exchanges(mix: Mix, widths: Sequence[int]) -> set[Mix]:
    """The mixes that differ in one or two layers."""
    found = set()
    for first, other in combinations(range(len(mix)), 2):
        for one, two in product(widths, repeat=2):
            new = [*mix]
            new[first], new[other] = one, two
            found.add(tuple(new))
    return found
