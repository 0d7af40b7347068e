"""From rows to a file: choose the rows, draw, and write the picture in one step.

The last functions are what several kinds of figures share.
"""

import io
from collections.abc import Iterable, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from xtool import registry
from xtool.atomic import replacing
from xtool.averages import BASELINES
from xtool.errors import UsageError, XtoolError, printable, unknown
from xtool.intervals import Estimate
from xtool.plots import Plot, Request
from xtool.rows import Row, require_column

FORMATS = ("png", "svg", "pdf", "html")
# Okabe and Ito (2008): told apart with every kind of colour vision; markers differ too.
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#1A1A1A"]
MARKERS = "osD^vPX"
LINES = ("-", "--", ":", "-.")
# Characters side by side below a picture, and what a marker with its space takes of them.
LEGEND, MARK = 96, 8
STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.alpha": 0.3,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.hashsalt": "xtool",
    "svg.fonttype": "none",
    "text.parse_math": False,
    "figure.constrained_layout.use": True,
}


def request(
    rows: Sequence[Row], kind: str, x: str | None, y: str | None, by: str | None
) -> Request:
    """Decide what to draw, filling in what was not said.

    Raises:
        UsageError: an unknown column or metric, or rows of several splits.
        XtoolError: nothing is left to draw.
    """
    x = x or registry.literal("plots", kind, "X")
    by = by or registry.literal("plots", kind, "BY")
    metrics = list(dict.fromkeys(str(one["metric"]) for one in rows))
    y = (
        y
        or registry.literal("plots", kind, "Y")
        or next((m for m in ("accuracy", "squared_error", "loss") if m in metrics), metrics[0])
    )
    if y not in metrics:
        error = unknown("metric", y, metrics)
        raise UsageError(error.message, f"choose one with `--y`; {error.hint}")
    assert x is not None
    require_column(rows, x)
    if by:
        require_column(rows, by)
    chosen = [one for one in rows if one["metric"] == y and one.get(x) is not None]
    if not chosen:
        raise XtoolError(f"no row of `{y}` has a value in column `{x}`", "choose another `--x`")
    splits = sorted({str(one.get("split")) for one in chosen})
    if len(splits) > 1 and "split" not in (x, by):
        if "dev" not in splits:
            raise UsageError(
                f"the rows hold several splits: {', '.join(splits)}",
                f"choose one with `--where split={splits[0]}`, or `--by split` tells them apart",
            )
        chosen = [one for one in chosen if one["split"] == "dev"]
    if registry.literal("plots", kind, "LAST", False) and not {x, by} & {"step", "epoch"}:
        chosen = last(chosen)
    lines = registry.literal("plots", kind, "BASELINES", True)
    return Request(chosen, x, y, by, _baselines(rows, chosen, y) if lines else ())


def _baselines(rows: Sequence[Row], chosen: Sequence[Row], y: str) -> list[Row]:
    """The baselines of a metric on the splits that are drawn, each if it is one number.

    Models of different data have none in common.
    """
    if len({one.get("data") for one in chosen if one.get("data")}) > 1:
        return []
    splits = {one.get("split") for one in chosen}
    found: dict[str, dict[float, Row]] = {}
    for one in rows:
        if BASELINES.get(one["metric"]) == y and one.get("split") in splits:
            found.setdefault(one["metric"], {}).setdefault(one["value"], one)
    return [next(iter(values.values())) for values in found.values() if len(values) == 1]


def last(rows: Sequence[Row]) -> list[Row]:
    """Of each run, told apart by label, seed and split, the rows of the latest step alone."""
    run = ("label", "seed", "replica", "split")
    latest: dict[tuple[object, ...], int] = {}
    for one in rows:
        key = tuple(one.get(name) for name in run)
        latest[key] = max(latest.get(key, 0), int(one.get("step") or 0))
    return [r for r in rows if int(r.get("step") or 0) == latest[tuple(r.get(n) for n in run)]]


def draw(asked: Request, kind: str, title: str | None, out: Path) -> None:
    """Draw a figure and write it; equal rows give equal bytes.

    Raises:
        UsageError: a file ending that is no format.
        XtoolError: the file cannot be written.
    """
    form = out.suffix.lstrip(".")
    if form not in FORMATS:
        raise UsageError(f"{out}: cannot draw `{form}`", f"end the name in {', '.join(FORMATS)}")
    plot: Plot = registry.load("plots", kind)
    with rc_context(STYLE):
        figure = Figure(figsize=(7, 4.5), dpi=150)
        axes = figure.subplots()
        axes.set_ylabel(_y_label(asked))
        plot(axes, asked)
        low, high = axes.get_ylim()
        fixed = not axes.get_autoscaley_on()
        lines = [one for one in asked.baselines if not fixed or low <= one["value"] <= high]
        for one, line in zip(lines, cycle((":", "-.", "--"))):
            axes.axhline(
                one["value"], color="0.4", linestyle=line, label=one["metric"].replace("_", " ")
            )
        if title:
            (figure.suptitle if len(figure.axes) > 1 else axes.set_title)(printable(title))
        handles, labels = axes.get_legend_handles_labels()
        if labels and (len(labels) > 1 or lines):
            ncols = max(1, min(4, LEGEND // (max(map(len, labels)) + MARK)))
            figure.legend(handles, labels, frameon=False, loc="outside lower center", ncols=ncols)
        try:
            picture = _bytes(
                figure, form, title or f"{asked.y} by {asked.x}", [*asked.rows, *asked.baselines]
            )
        except (ValueError, OverflowError) as error:
            raise XtoolError(f"{out}: these rows cannot be drawn: {error}") from error
    with replacing(out) as (file, _):
        file.write(picture)


def _y_label(asked: Request) -> str:
    splits = {one.get("split") for one in asked.rows}
    split = f"{splits.pop()} " if len(splits) == 1 and None not in splits else ""
    return split + asked.y.replace("_", " ") + (" (nats)" if asked.y == "loss" else "")


def _bytes(figure: Figure, form: str, title: str, rows: Sequence[Row]) -> bytes:
    buffer = io.BytesIO()
    if form == "html":
        from xtool.plots._html import html

        return html(figure, title, rows)
    metadata = {"png": {}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}[form]
    figure.savefig(buffer, format=form, metadata=metadata)
    return buffer.getvalue()


def series_of(rows: Iterable[Row], by: str | None) -> dict[object, list[Row]]:
    """The rows of each value of a column, by first appearance; without a column, all of them."""
    found: dict[object, list[Row]] = {}
    for one in rows:
        found.setdefault(one.get(by) if by else None, []).append(one)
    return found


def series_label(by: str | None, value: object) -> str:
    """A series in the legend: `seed 0`, but a name as it is."""
    return f"{by} {value}" if isinstance(value, int | float) else str(value)


def look_of(number: int) -> tuple[str, str, str]:
    """The colour, marker and line of a series; lines differ once all colours are used."""
    turn, place = divmod(number, len(COLOURS))
    return COLOURS[place], MARKERS[place], LINES[turn % len(LINES)]


def thousands(number: float, digits: int) -> str:
    """So many digits of a number: 120k for 120,000."""
    for least, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= least:
            return f"{number / least:.{digits}g}{letter}"
    return f"{number:g}"


def error_bars(cells: Iterable[Estimate]) -> tuple[list[float], list[float]]:
    """How far each 95 % interval reaches below and above its value; 0 where there is none."""
    below, above = [], []
    for cell in cells:
        below.append(0.0 if cell.low is None else max(0.0, cell.value - cell.low))
        above.append(0.0 if cell.high is None else max(0.0, cell.high - cell.value))
    return below, above


def logarithmic(axes: Axes, request: Request) -> None:
    """Make the axis of squared errors logarithmic, unless a model's error is 0.

    It begins just below the smallest error of a model, or of a baseline that is up to a hundred
    times smaller, and ends above the largest interval, or a baseline up to ten times larger.
    Baselines further away are not drawn; exact methods among the rows leave the picture at its
    lower edge.
    """
    errors = [one["value"] for one in request.rows if one.get("arch")]
    if request.y != "squared_error" or not errors or min(errors) <= 0:
        return
    least = min(errors)
    least = min([least, *(one["value"] for one in request.baselines if one["value"] > least / 100)])
    axes.set_yscale("log")
    most = float(axes.dataLim.y1)
    most = max([most, *(one["value"] for one in request.baselines if one["value"] < 10 * most)])
    axes.set_ylim(least / 1.5, 1.3 * most)
    few = axes.get_ylim()[1] < 100 * axes.get_ylim()[0]
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_minor_locator(LogLocator(subs=(2, 5)))
    axes.yaxis.set_minor_formatter(lambda value, _: f"{value:g}" if few else "")


def require_numbers(rows: Iterable[Row], column: str) -> None:
    """Raise UsageError where a column does not hold numbers."""
    if not all(isinstance(one[column], int | float) for one in rows):
        raise UsageError(f"column `{column}` is not a number", "use `--kind bars`")


def require_one(rows: Iterable[Row], column: str, message: str) -> None:
    """Raise UsageError, with the message and the values, where a column has several values."""
    values = list(dict.fromkeys(str(one.get(column)) for one in rows))
    if len(values) > 1:
        raise UsageError(
            f"{message}: {', '.join(values[:4])}", f"choose one with `--where {column}={values[0]}`"
        )
