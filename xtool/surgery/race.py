"""A race of growth operators: each trains for a short lag at equal cost, and the loss ranks them.

The loss right after growing predicts badly which operator is ahead later, the loss after a short
lag predicts it well (LAG: Karp et al., 2024, arXiv:2406.02469). All contestants see the same
batches, as many steps and the same seeds. Two controls always run: `scratch`, a fresh large model,
and `untrained`, a fresh small one grown by the best exact operator. What does not beat the first
gains nothing by growing; what does not beat the second owes its gain to the operator's form and not
to what the small model had learned.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import Any

from xtool import registry
from xtool.archs import open_model
from xtool.checkpoint import model_reader, save
from xtool.dataset import Dataset
from xtool.errors import CheckFailed, Diverged, Interrupted, UsageError, XtoolError
from xtool.intervals import Estimate, estimate, p_value
from xtool.layers.initial import initial
from xtool.rows import Row, row
from xtool.seeds import derive
from xtool.storage import Source, header_of
from xtool.surgery.grow import grow
from xtool.surgery.operators import Fitted
from xtool.surgery.plan import plan, promise
from xtool.training.loop import train
from xtool.training.setup import set_up

FRESH = "random"
SCRATCH, UNTRAINED = "scratch", "untrained"
NEVER = 10**15  # steps
CHANCE = 0.05


@dataclass(frozen=True)
class Terms:
    """What every contestant gets.

    Attributes:
        small: the model to grow.
        changes: the sizes asked for, by dial.
        dials: of each operator.
        data: what to train and score on.
        training: every training dial but the seed.
        flops: the training budget of each contestant and seed, in place of steps.
        seeds: of growing, of the order of the examples, and of the controls.
    """

    small: Path
    changes: Mapping[str, int]
    dials: Mapping[str, Mapping[str, Any]]
    data: Dataset
    training: Mapping[str, Any]
    flops: float | None
    seeds: Sequence[int]


@dataclass(frozen=True)
class Result:
    """What became of one contestant.

    Attributes:
        label: the operator's name, `scratch` or `untrained`.
        method: the operator.
        starts: the dev loss of each seed before training, in nats.
        rows: the row of the dev loss of each seed after it.
    """

    label: str
    method: str
    starts: list[float] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)

    @property
    def control(self) -> bool:
        """Whether nothing was carried over from the trained model."""
        return self.label in (SCRATCH, UNTRAINED)

    @property
    def losses(self) -> list[float]:
        """The dev loss of each seed, in nats."""
        return [float(one["value"]) for one in self.rows]

    @property
    def loss(self) -> Estimate:
        """Their mean, with its interval over seeds."""
        return estimate(self.losses)


def contestants(
    small: Path, changes: Mapping[str, int], dials: Mapping[str, Mapping[str, Any]], seed: int
) -> tuple[list[str], dict[str, str]]:
    """The operators that can do a growth, and the reason of each that refuses.

    Raises:
        UsageError: no operator can, because nothing grows or something shrinks.
        XtoolError: an unreadable model.
    """
    able, refused = [], {}
    with Source(small) as source:
        reader = open_model(source)
        plan(reader, changes, FRESH, dials[FRESH], seed)
        for method in registry.names("surgery/operators"):
            if isinstance(registry.load("surgery/operators", method), Fitted):
                refused[method] = "it is fitted first, at a cost that the others do not have"
                continue
            try:
                plan(reader, changes, method, dials[method], seed)
                able.append(method)
            except UsageError as error:
                refused[method] = error.message
    return able, refused


def race(
    terms: Terms, methods: Sequence[str], note: Callable[[str], None]
) -> tuple[list[Result], dict[str, str]]:
    """Grow, train and score every contestant.

    Args:
        terms: what each one gets.
        methods: the operators that take part; see `contestants`.
        note: is told of every run.

    Returns:
        the results, lowest mean loss first, and why others did not finish: a growth that was not
        exact as promised, or a loss that became infinite.

    Raises:
        Interrupted: a signal came; nothing is left.
        UsageError: a budget too small for one step, or a dial outside its range.
        XtoolError: nobody finished, or a file could not be read or written.
    """
    results: list[Result] = []
    failed: dict[str, str] = {}

    def enter(label: str, method: str) -> None:
        try:
            results.append(_compete(terms, label, method, note))
        except (CheckFailed, Diverged) as error:
            failed[label] = error.message

    for method in methods:
        enter(SCRATCH if method == FRESH else method, method)
    grown = [one.method for one in ranked(results) if not one.control]
    if not grown:
        reasons = "; ".join(dict.fromkeys(failed.values()))
        raise XtoolError(f"no operator finished the race: {reasons}", "lower `--lr`")
    enter(UNTRAINED, next((one for one in grown if promise(one) == "exact"), grown[0]))
    return ranked(results), failed


def ranked(results: Sequence[Result]) -> list[Result]:
    """The lowest mean loss first."""
    return sorted(results, key=lambda one: one.loss.value)


def _compete(terms: Terms, label: str, method: str, note: Callable[[str], None]) -> Result:
    """All seeds of one contestant."""
    out = Result(label, method)
    for seed in terms.seeds:
        start, last = _trial(terms, label, method, seed)
        out.starts.append(start)
        out.rows.append(last)
        note(f"{label}, seed {seed}: dev loss {start:.4f} -> {last['value']:.4f}")
    return out


def _trial(terms: Terms, label: str, method: str, seed: int) -> tuple[float, Row]:
    """Grow and train once: the dev loss before, and its row afterwards."""
    with TemporaryDirectory(prefix="xtool-race-") as name:
        folder = Path(name)
        small, grown = terms.small, folder / "grown.st"
        if label == UNTRAINED:
            small = folder / "untrained.st"
            _write_untrained(terms.small, small, seed)
        grow(small, grown, lambda r: plan(r, terms.changes, method, terms.dials[method], seed))
        header = header_of(grown, "model")
        dials = {**terms.training, "seed": seed, "eval_every": NEVER}
        if terms.flops is not None:
            before = header.training.get("progress", {}).get("lineage_flops", 0)
            dials |= {"steps": NEVER, "max_flops": before + terms.flops}
        run = set_up(terms.data, grown, header.config, dials, folder / "trained.st")
        if run.total_steps < 1:
            raise UsageError(
                "the budget of the race allows no step", "raise `--race-flops` or `--race-steps`"
            )
        watch = _Watch()
        try:
            train(run, watch)
        except Interrupted:
            raise Interrupted("the race was interrupted; nothing is left of it") from None
        return watch.rows[0]["value"], watch.rows[-1]


def _write_untrained(small: Path, out: Path, seed: int) -> None:
    """A fresh model of the small one's size.

    Its header is the small one's: the order of the examples depends on the lineage's steps, and all
    contestants are to see the same batches.
    """
    with Source(small) as source:
        reader = model_reader(source)
        own = derive(seed, "untrained")
        tensors = {
            name: initial(reader.layout, name, own).to(reader.dtype(name)) for name in reader.names
        }
        save(out, source.require_header("model"), tensors)


class _Watch:
    """A listener that keeps the row of each dev loss."""

    def __init__(self) -> None:
        self.rows: list[Row] = []

    def stepped(self, step: int, loss: float | None) -> None: ...

    def evaluated(self, rows: list[Row]) -> None:
        self.rows += [one for one in rows if (one["split"], one["metric"]) == ("dev", "loss")]

    def note(self, text: str) -> None: ...


KEPT = ("arch", "task", "step", "epoch", "params", "flops", "lineage_flops", "device")


def race_rows(results: Sequence[Result]) -> list[Row]:
    """One row `loss` a contestant, best first: mean and interval over seeds, and its cost.

    Free columns: `place`, `method`, `promise`, `start` (the loss before training) and `p_value` (of
    the paired difference from the first over seeds). What a control costs has no lineage.
    """
    out = []
    for place, one in enumerate(results, 1):
        last, loss = one.rows[0], one.loss
        columns = {name: last[name] for name in KEPT}
        if one.control:
            columns["lineage_flops"] = last["flops"]
        numbers = {"value": loss.value, "low": loss.low, "high": loss.high, "n": loss.n}
        out.append(
            row(
                label=one.label,
                split="dev",
                metric="loss",
                seconds=fmean(float(r["seconds"]) for r in one.rows),
                place=place,
                method=one.method,
                promise=promise(one.method),
                start=fmean(one.starts),
                p_value=_chance(one, results[0]) if place > 1 else None,
                **numbers,
                **columns,
            )
        )
    return out


def verdict(results: Sequence[Result]) -> tuple[Result, list[str]]:
    """The best operator, and what the race says of it, plainly."""
    best = next(one for one in results if not one.control)
    lines = []
    ahead = [one.label for one in results[: results.index(best)]]
    if ahead:
        lines.append(f"{' and '.join(ahead)} did better than every operator")
    level = [one.label for one in results if one is not best and _chance(one, best) >= CHANCE]
    if level:
        lines.append(
            f"no winner beyond noise: {best.label} is not told apart from {', '.join(level)} "
            f"(paired over seeds, p >= {CHANCE})"
        )
    elif not ahead:
        missing = sorted({SCRATCH, UNTRAINED} - {one.label for one in results})
        but = f", but {' and '.join(missing)} did not finish" if missing else ""
        lines.append(
            f"{best.label} wins: paired over seeds it is ahead (p < {CHANCE}) of all others{but}"
        )
    return best, lines


def _chance(one: Result, other: Result) -> float:
    """The p-value of the paired difference of two contestants over seeds."""
    return p_value([a - b for a, b in zip(one.losses, other.losses, strict=True)])
