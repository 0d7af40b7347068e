"""Averages of rows: over seeds, with an interval, and results tables."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from statistics import stdev
from typing import Any, TypeVar

from xtool.errors import UsageError, unknown
from xtool.intervals import Estimate, estimate, p_value
from xtool.rows import Row, require_column, row, short

# The metric that each baseline is one of.
BASELINES = {"majority": "accuracy", "unigram": "loss", "bigram": "loss"}
BASELINES |= dict.fromkeys(
    ("least_squares", "ridge", "lasso", "nearest", "averaging", "tree", "boosted_trees"),
    "squared_error",
)
ALONGSIDE = ("metric", "split", "seed", "replica", "step", "epoch", "tensor", "layer")
UNLIKE = ("arch", "task", "data", "split", "metric")
# What an evaluation did to the same model.
ASKED = ("loops", "examples", "exit", "threshold", "mask", "keep", "kept", "state_noise")
# What of a model a row is about.
PLACES = ("size", "part", "layer", "head")
FRACTIONS = ("accuracy", "majority", "agreement", "acceptance")

Kept = TypeVar("Kept")


def exact(extra: Mapping[str, Kept]) -> dict[str, Kept]:
    """Of what a split keeps beside its examples, the errors of exact methods, by name."""
    return {name: extra[name] for name in sorted(BASELINES.keys() & extra.keys())}


def bounded(metric: str, found: Estimate) -> Estimate:
    """An estimate whose interval stays within 0 and 1 where the metric does."""
    if metric not in FRACTIONS or found.low is None or found.high is None:
        return found
    return Estimate(found.value, max(found.low, 0.0), min(found.high, 1.0), found.n)


def summarise(
    rows: Iterable[Row], keys: Sequence[str], one_step: bool = False, over: Collection[str] = ()
) -> dict[tuple[Any, ...], Estimate]:
    """Mean and interval for each combination of `keys`, in the order of first appearance.

    Several rows of one cell (seeds, replicas) give a t interval over them; a single row keeps the
    interval that it came with, and the same row given twice counts once.

    Args:
        rows: what to average.
        keys: the columns whose values make a cell.
        one_step: whether a cell is of one step of each run.
        over: of `PLACES`, what is averaged on purpose.
    """
    cells: dict[tuple[Any, ...], list[Row]] = {}
    for one in rows:
        cell = cells.setdefault(tuple(one.get(key) for key in keys), [])
        if one not in cell:
            cell.append(one)
    for found in cells.values():
        if one_step:
            _require_one_step(found)
        for name in (one for one in (*UNLIKE, *ASKED, *PLACES) if one not in over):
            values = sorted({str(one.get(name)) for one in found})
            if len(values) > 1:
                raise UsageError(
                    f"rows with `{name}` {' and '.join(values[:2])} would be averaged as one",
                    f"choose one with `--where {name}={values[0]}`",
                )
    return {key: _estimate(found) for key, found in cells.items()}


def _require_one_step(rows: Sequence[Row]) -> None:
    """Raise UsageError where a run is there at several of its steps."""
    steps: dict[tuple[Any, ...], Any] = {}
    for one in rows:
        run = tuple(one.get(name) for name in ("label", "seed", "replica", "part", "layer", "head"))
        if steps.setdefault(run, one.get("step")) != one.get("step"):
            raise UsageError(
                f"`{one['label']}` at step {steps[run]} and at {one['step']} would be averaged",
                f"choose one with `--where step={one['step']}`",
            )


def _estimate(rows: list[Row]) -> Estimate:
    if len(rows) > 1:
        return bounded(str(rows[0]["metric"]), estimate([float(one["value"]) for one in rows]))
    one = rows[0]
    return Estimate(float(one["value"]), one.get("low"), one.get("high"), 1)


REPEATED = ("seed", "replica")
LENGTHS = ("step", "epoch", "lineage_epoch")
MEASURED = ("value", "low", "high", "n", "params", "flops", "lineage_flops", "seconds")


def average(rows: Sequence[Row], over: str) -> list[Row]:
    """One row in place of those that differ only by `over`, such as `seed`.

    The interval is a t interval over the averaged rows, `sd` their standard deviation and `n`
    their number; costs are averaged too. A replica counts as the seed that it has.

    Raises:
        UsageError: an unknown column, one that does not tell repetitions apart, or rows of which no
            two belong together.
    """
    require_column(rows, over)
    if over in UNLIKE:
        raise UsageError(
            f"rows of different `{over}` are not repetitions", "average over `seed` or `replica`"
        )
    repeated = REPEATED if over in REPEATED else (over,)
    dropped = {*repeated, "digest", "p_value", *MEASURED, "lineage_seconds", "loops_used"}
    groups = _repetitions(rows, over, repeated, dropped)
    if len(groups) == len(rows):
        raise UsageError(
            f"no two rows differ only by `{over}`", "give the runs to average one `--label`"
        )
    out = []
    for found in groups:
        if len({_told(one) for one in found}) == 1:  # such as an exact method's, beside each model
            out.append(found[0])
            continue
        mean = _estimate(found)
        made = row(**{n: v for n, v in found[0].items() if n not in dropped}) | vars(mean)
        used = [name for name in ("loops_used", *LENGTHS) if name in found[0]]
        costs = (*used, "params", "flops", "lineage_flops", "seconds", "lineage_seconds")
        spread = {"n": len(found), "sd": stdev(float(one["value"]) for one in found)}
        out.append(made | spread | {name: _mean(found, name) for name in costs})
    return out


def _repetitions(
    rows: Sequence[Row], over: str, repeated: Sequence[str], dropped: Collection[str]
) -> list[list[Row]]:
    """Rows that belong together, in the order of their first ones.

    A model is what its run ended with, wherever that was. But rows of a journal are of one step,
    and where a seed is there twice, its models are of several lengths.

    Raises:
        UsageError: the same model twice, or lengths that not every seed has.
    """
    out = []
    for found in _grouped(rows, {*dropped, *LENGTHS}):
        models = [(one["digest"], one.get("replica")) for one in found if one.get("digest")]
        if len(set(models)) < len(models):
            raise UsageError("the same model is there twice", "name each once")
        who = {tuple(one.get(name) for name in repeated) for one in found}
        if len(who) == len(found) == len(models):
            out.append(found)
            continue
        parts = _grouped(found, dropped)
        if models and len(who) < len(found) and any(len(part) != len(who) for part in parts):
            raise UsageError(
                f"`{found[0]['label']}` has several models of a {over} that ended at steps of "
                "their own",
                "choose some with `--where`, or give each kind a `--label`",
            )
        out += parts
    return out


def _grouped(rows: Iterable[Row], dropped: Collection[str]) -> list[list[Row]]:
    """Rows that say the same beside some columns, whichever format they were written in."""
    groups: dict[frozenset[tuple[str, str]], list[Row]] = {}
    for one in rows:
        groups.setdefault(_told(one, dropped), []).append(one)
    return list(groups.values())


def unseen(more: Iterable[Row], rows: Iterable[Row]) -> list[Row]:
    """Those that say what none of the rows says, such as other looks at the same models."""
    known = {_told(one) for one in rows}
    return [one for one in more if _told(one) not in known]


def _told(one: Row, dropped: Collection[str] = ()) -> frozenset[tuple[str, str]]:
    """What a row says: its values as text, where there are any."""
    said = {name: value for name, value in one.items() if name not in dropped}
    return frozenset((name, str(value)) for name, value in said.items() if value is not None)


def paired(rows: Sequence[Row], label: str, over: str) -> list[Row]:
    """Differences of every other label from one, paired by `over`, such as `seed`.

    Returns:
        a row for each label, metric, split, nested size and what was asked of it (loops, examples),
        named `accuracy_difference`, with a t interval, the p-value of a two-sided paired t test,
        and `n` the number of pairs; one pair has neither interval nor p-value.

    Raises:
        UsageError: no such label, two rows of one label that only `over` could tell apart, a row
            without its partner, or a pair of different data.
    """
    labels: dict[tuple[Any, ...], dict[Any, Row]] = {}
    for one in rows:
        # Exact methods stand beside the models and have no seed.
        if one["metric"] in BASELINES or (one.get("arch") is None and one.get(over) is None):
            continue
        told = tuple((name, one.get(name)) for name in ("size", *ASKED))
        found = labels.setdefault((one["label"], one["metric"], one["split"], told), {})
        if one.get(over) in found:
            raise UsageError(
                f"two rows of `{one['label']}` have {over} {one.get(over)}",
                "narrow them with `--where`, for example to one step",
            )
        found[one.get(over)] = one
    if all(name != label for name, *_ in labels):
        known = {str(one["label"]) for one in rows}
        if label in known:
            raise UsageError(f"the rows of `{label}` have no `{over}`, nothing pairs them")
        raise unknown("label", label, known)
    out = []
    for (name, metric, split, told), found in labels.items():
        if name == label:
            continue
        base = labels.get((label, metric, split, told), {})
        lone = [value for value in found if value not in base]
        if lone:
            kind = "".join(f", {column} {value}" for column, value in told if value is not None)
            raise UsageError(
                f"`{label}` has no row of {over} {lone[0]}{kind} to pair with `{name}`",
                "narrow both to what they share with `--where`",
            )
        for column in ("task", "data"):
            kinds = {one.get(column) for one in (*found.values(), *base.values())} - {None}
            if len(kinds) > 1:
                raise UsageError(
                    f"`{name}` and `{label}` differ in `{column}`: "
                    f"{' and '.join(sorted(map(str, kinds)))}",
                    "only values on the same examples can be paired",
                )
        pairs = [one["value"] - base[value]["value"] for value, one in found.items()]
        mean, first = estimate(pairs), next(iter(found.values()))
        numbers = dict(vars(mean))
        numbers["sd"] = stdev(pairs) if len(pairs) > 1 else None
        kept = {c: first.get(c) for c in ("arch", "task", "data", "split", "device")}
        kept |= {column: value for column, value in told if value is not None}
        metric = f"{first['metric']}_difference"
        made = row(label=name, metric=metric, **kept, **numbers)
        chance = p_value(pairs) if len(pairs) > 1 else None
        out.append(made | {"against": label, "p_value": chance})
    return out


def _mean(rows: Sequence[Row], name: str) -> float | int | None:
    values: list[float | int] = [one[name] for one in rows if one.get(name) is not None]
    if len(values) < len(rows):
        return None
    return values[0] if len(set(values)) == 1 else sum(values) / len(values)


def pivot(rows: Sequence[Row], down: str, across: str) -> tuple[list[Row], list[str]]:
    """A results table: one line a value of `down`, one column a value of `across`.

    Every column after the first is followed by its difference from the first, unless the columns
    are repetitions or different things. A layer is the mean of its heads.

    Returns:
        the lines, and their columns in order.

    Raises:
        UsageError: an unknown column, or rows of several metrics or splits that would be mixed.
    """
    for name in (down, across):
        require_column(rows, name)
    for name in ("metric", "split"):
        found = sorted({str(one.get(name)) for one in rows})
        if len(found) > 1 and name not in (down, across):
            raise UsageError(
                f"the rows hold several values of `{name}`: {', '.join(found)}",
                f"choose one with `--where {name}={found[0]}`",
            )
    heads_too = ["head"] if "layer" in (down, across) else []
    cells = summarise(rows, [down, across], one_step=True, over=heads_too)
    heads = list(dict.fromkeys(key[1] for key in cells))
    lines, columns = [], [down]
    for head in heads:
        plain = head == heads[0] or across in ALONGSIDE
        columns += [str(head)] if plain else [str(head), f"{head} - {heads[0]}"]
    for side in dict.fromkeys(key[0] for key in cells):
        line: Row = {down: side}
        first = cells.get((side, heads[0]))
        for head in heads:
            here = cells.get((side, head))
            line[str(head)] = _with_interval(here) if here else None
            if here and first and head != heads[0] and across not in ALONGSIDE:
                line[f"{head} - {heads[0]}"] = f"{here.value - first.value:+.4f}"
        lines.append(line)
    return lines, columns


def _with_interval(cell: Estimate) -> str:
    spread = f" [{short(cell.low)}, {short(cell.high)}]" if cell.low is not None else ""
    return short(cell.value) + spread
