"""What `slice --params` and `slice --latency` do: choose a size of a nested model, and cut it."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from xtool.commands._ui import Notes, write_stdout
from xtool.errors import UsageError

if TYPE_CHECKING:
    import torch

    from xtool.evaluation.budgets import Scorer
    from xtool.evaluation.search import Place

PANEL = "Budget"
THOUSANDS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "b": 10**9}
SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}

Budget = Annotated[
    str | None,
    typer.Option(
        "--params",
        help="Of a nested model, the size of the lowest dev loss with at most so many parameters: "
        "2000, 120k, 1.5M.",
        rich_help_panel=PANEL,
    ),
]
Latency = Annotated[
    str | None,
    typer.Option(
        help="The same with a forward pass over one example of at most so long, the median here: "
        "500us, 3ms.",
        rich_help_panel=PANEL,
    ),
]
Examples = Annotated[
    int | None,
    typer.Option(
        help="Choose on so many examples, spread over dev; all unless given.",
        rich_help_panel=PANEL,
    ),
]


@dataclass(frozen=True)
class Where:
    """On what sizes are compared.

    Attributes:
        data: the data file; None looks for that of the lineage.
        examples: how many of dev; None takes all.
        device: as it was asked for.
        replica: which of a file of several models.
    """

    data: Path | None
    examples: int | None
    device: str
    replica: int | None


def slice_each(
    models: Sequence[Path],
    budgets: Mapping[str, str | None],
    beside: Sequence[str],
    where: Where,
    out: Path | None,
    force: bool,
    notes: Notes,
) -> None:
    """Choose a size of each model and cut it.

    Raises:
        UsageError: two budgets, a size `beside` one; see `_chosen`.
    """
    from xtool import registry
    from xtool.atomic import require_apart, require_writable
    from xtool.commands._resize import target
    from xtool.dataset import data_of
    from xtool.surgery.slice import slice_model

    given = [name for name, text in budgets.items() if text]
    if len(given) > 1 or beside:
        names = ", ".join(f"`--{name.replace('_', '-')}`" for name in [*given, *beside])
        raise UsageError(f"{names} exclude each other", "a budget chooses every size itself")
    if out and len(models) > 1:
        raise UsageError(f"`-o` names one file, {len(models)} models were given")
    if out:
        require_writable(out, force)
    for path in models:
        changes = _chosen(path, given[0], str(budgets[given[0]]), where, notes)
        place = target(path, out, changes)
        read = data_of(path, where.data)
        require_apart([place], [*models, read, *registry.admitted().values()])
        require_writable(place, force)
        changed, digest = slice_model(path, place, changes, where.replica, False, inside=False)
        notes.say(f"{path} -> {place}: {', '.join(changed)}; every tensor is a prefix, to the bit")
        notes.detail(f"digest {digest}")
        write_stdout(f"{place}\n")


def _chosen(
    path: Path, kind: str, text: str, where: Where, notes: Notes
) -> dict[str, int | list[int]]:
    """The sizes that a model has within a budget at the lowest loss.

    Raises:
        UsageError: no budget, no size within it; see `_scorer`.
    """
    from xtool.archs import axes_of
    from xtool.evaluation.budgets import Sizes, choose, seconds
    from xtool.evaluation.search import Losses

    budget = amount(kind, text)
    score, device = _scorer(path, kind, where)
    sizes = Sizes(score.config)
    losses = Losses(lambda place: score(sizes.at(place)), sizes.most)
    notes.detail(f"{path}: choosing on {len(score.split)} examples of dev")
    if kind == "params":
        bodies = sizes.by_params()
        place = choose(sizes, bodies, budget, losses)
        cost = said_params(bodies[place[0]].cost(place[1]))
    else:
        timed: dict[Place, float] = {}

        def time(place: "Place") -> float:
            size = sizes.at(place)
            timed[place] = seconds(path, where.replica, size, score.split, device)
            return timed[place]

        def fits(place: "Place") -> bool:
            return time(place) <= budget

        place = choose(sizes, sizes.by_seconds(time), budget, losses, fits, said_seconds)
        cost = said_seconds(timed[place])
    known = losses.known
    notes.say(
        f"{path}: `--{kind} {text}` chose {sizes.at(place).label}: {cost}, loss "
        f"{known[place]:.4f} (the whole model {known[sizes.whole]:.4f}), after {len(known)} "
        "evaluations on dev"
    )
    if place == sizes.whole:
        return {name: found[-1] for name, found in axes_of(score.config).items()}
    return dict(sizes.at(place).changes)


def _scorer(path: Path, kind: str, where: Where) -> "tuple[Scorer, torch.device]":
    """What scores the sizes of a model, and on what device.

    Raises:
        UsageError: a model that is not nested, or more examples than there are.
    """
    from xtool.archs import HEAD, axes_of, read_model
    from xtool.dataset import data_of
    from xtool.evaluation.budgets import Scorer
    from xtool.tasks import fitted, open_data, task_of
    from xtool.training.devices import device_of

    device = device_of(where.device)
    header, _, model = read_model(path, where.replica)
    axes = axes_of(header.config)
    if not axes or HEAD in axes:
        why = "only its output is nested" if axes else "is not nested"
        raise UsageError(
            f"{path}: {why}, so it has no sizes for `--{kind}` to choose from",
            "`xtool train --nest` trains some; `--to` and `--d-ff` cut any model",
        )
    data_path = data_of(path, where.data)
    data = fitted(open_data(data_path), header, str(data_path))
    split = data.stored("dev")
    if where.examples is not None:
        if not 1 <= where.examples <= len(split):
            raise UsageError(
                f"`--examples` is {where.examples}, dev has {len(split)}", "leave it out for all"
            )
        places = [n * len(split) // where.examples for n in range(where.examples)]
        split = replace(split, inputs=split.inputs[places], targets=split.targets[places])
    task = task_of(data.header, str(data_path))
    return Scorer(model.to(device), header.config, task, split), device


def amount(kind: str, text: str) -> float:
    """A number of parameters, or of seconds.

    Raises:
        UsageError: it is neither.
    """
    match = re.fullmatch(r"(\d{1,12}(?:\.\d{1,6})?|\.\d{1,6})\s*([a-zA-Z]*)", text.strip())
    units = THOUSANDS if kind == "params" else SECONDS
    unit = match[2].lower() if match else "?"
    found = float(match[1]) * units[unit] if match and unit in units else 0
    if found <= 0:
        hint = "such as 2000, 120k or 1.5M" if kind == "params" else "such as 500us, 3ms or 0.1s"
        raise UsageError(f"`--{kind} {text}` is no budget above 0", hint)
    return found


def said_params(number: float | int) -> str:
    """Parameters as a person reads them."""
    return f"{number:,.0f} parameters"


def said_seconds(number: float | int) -> str:
    """A short time as a person reads it."""
    return f"{1e3 * number:.3g} ms" if number >= 1e-3 else f"{1e6 * number:.3g} us"
