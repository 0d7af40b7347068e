"""The size of the lowest loss under a budget, found with few evaluations (Mix'n'Match).

A nested model holds every mix of its feed-forward widths by layer (Devvrit et al., 2023,
arXiv:2310.07707): W widths in L layers are W^L sizes, of which few can be evaluated. Those are the
uniform ones, and the largest of them that fits with one layer at another width. They give an
estimate of the rest, most of which is a sum over layers. A knapsack over layers gives the best of
the sum under a budget, exactly; these, and what exchanging the widths of two layers makes of the
best so far, are evaluated by turns, the lowest estimate first, and the estimate learns from each.
The answer is the best that was evaluated, so no estimate is reported, and it may be a uniform size.
Changes around the largest that fits tell more than changes of the whole model: where mixes were not
trained, layers of far apart widths suit each other badly.

Other nested sizes (width, heads, depth) are enumerated: each of their combinations is a body with
mixes of its own.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from xtool.evaluation.mixes import Body, Estimate, Mix, Number, best_mixes, exchanges

Place = tuple[int, Mix]  # the place of a body, and a mix in it

MOST = 25  # evaluations, unless there are more than half as many layers
KEPT = 16  # mixes that the knapsack gives
POLISHED = 6  # evaluations that are left for what was chosen


@dataclass
class Losses:
    """Evaluations: each is made once, and no more than so many.

    Attributes:
        evaluate: the loss of a place.
        most: how many it may make.
        known: those that it made.
    """

    evaluate: Callable[[Place], float]
    most: int
    known: dict[Place, float] = field(default_factory=dict)

    def __call__(self, place: Place) -> float:
        """The loss of a place."""
        if place not in self.known:
            assert self.left > 0
            self.known[place] = self.evaluate(place)
        return self.known[place]

    @property
    def left(self) -> int:
        """How many more it may make."""
        return self.most - len(self.known)

    def within(self, body: int) -> dict[Mix, float]:
        """The known mixes of a body."""
        return {mix: loss for (place, mix), loss in self.known.items() if place == body}


def promising(body: Body, known: Mapping[Mix, float], budget: Number) -> tuple[float, Mix] | None:
    """The mix within a budget of the lowest estimate among those not known, with its estimate.

    Returns:
        None where none is left, or where not even the narrowest fits.
    """
    if not known or body.largest(budget) is None:
        return None
    estimate = Estimate(body, known)
    chosen = best_mixes(estimate.table, body.costs, budget - body.base, KEPT)
    found = {mix for _, mix in chosen} | {body.uniform(n) for n in body.widths}
    fitting = [mix for mix in known if body.cost(mix) <= budget]
    for mix in sorted(fitting, key=lambda one: known[one])[:2]:
        found |= exchanges(mix, body.widths)
    left = sorted(mix for mix in found if mix not in known and body.cost(mix) <= budget)
    return min(zip(estimate(left), left, strict=True)) if left else None


def search(bodies: Sequence[Body], budget: Number, losses: Losses) -> list[Place]:
    """The places within a budget that were evaluated, the lowest loss first.

    Of several bodies the largest uniform sizes that fit are evaluated; mixes are looked for in the
    body where that is best, and in the next ones as far as evaluations allow.

    Returns:
        none where nothing fits.
    """
    starts = {n: start for n, body in enumerate(bodies) if (start := body.largest(budget))}
    order = sorted(starts, key=lambda n: -bodies[n].cost(starts[n]))[: max(1, losses.left // 2)]
    order.sort(key=lambda n: losses((n, starts[n])))
    opened: list[int] = []
    for n in order:
        design = bodies[n].design(starts[n])
        new = [mix for mix in design if (n, mix) not in losses.known]
        if opened and len(new) > losses.left - POLISHED:
            break
        for mix in new[: max(0, losses.left - POLISHED)]:
            losses((n, mix))
        opened.append(n)
    while losses.left:
        found = [(promising(bodies[n], losses.within(n), budget), n) for n in opened]
        chosen = min(((*one, n) for one, n in found if one), default=None)
        if chosen is None:
            break
        losses((chosen[2], chosen[1]))
    return ranked(bodies, budget, losses)


def ranked(bodies: Sequence[Body], budget: Number, losses: Losses) -> list[Place]:
    """The known places within a budget, the lowest loss first, of equal ones the cheapest."""
    cost = {place: bodies[place[0]].cost(place[1]) for place in losses.known}
    fitting = [place for place in cost if cost[place] <= budget]
    return sorted(fitting, key=lambda place: (losses.known[place], cost[place]))


def explore(bodies: Sequence[Body], budgets: Sequence[Number], losses: Losses) -> None:
    """Evaluate every uniform size, and under each budget the most promising other one.

    So that there is something to go by, layers of a middle size are changed one by one before.
    """
    for n, body in enumerate(bodies):
        design = body.design(body.uniform(len(body.widths) // 2))
        for mix in design[: max(len(body.widths), MOST // len(bodies))]:
            losses((n, mix))
    for budget in budgets:
        found = [(promising(body, losses.within(n), budget), n) for n, body in enumerate(bodies)]
        chosen = min(((*one, n) for one, n in found if one), default=None)
        if chosen is not None and losses.left:
            losses((chosen[2], chosen[1]))


def on_front(points: Sequence[tuple[Number, float]]) -> list[bool]:
    """Of costs and losses, which have none that is no worse in both and better in one."""
    return [
        not any(a <= cost and b <= loss and (a, b) != (cost, loss) for a, b in points)
        for cost, loss in points
    ]
