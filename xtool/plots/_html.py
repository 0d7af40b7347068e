"""A figure as a page that answers: values under the pointer, zoom, series hidden by a click.

The page is one file without anything from elsewhere: the picture as SVG, what is drawn and where,
and the rows it was drawn from, to save as CSV. `_page.html` is the template.
"""

import io
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.colors import to_hex
from matplotlib.container import BarContainer, ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter

from xtool.rows import Row, columns_of

EXACT = 1 << 53
POINTS = 72  # an inch; SVG is drawn in points
TEMPLATE = Path(__file__).with_name("_page.html")


@dataclass
class Mark:
    """Something that is drawn at one place: `at` in points of the picture, and what it says."""

    at: tuple[float, float]
    label: str
    said: list[str] = field(default_factory=list)


def html(figure: Figure, title: str, rows: Sequence[Row]) -> bytes:
    """The page.

    Args:
        figure: a figure that is drawn.
        title: of the page.
        rows: what it was drawn from.
    """
    series = _name_series(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    svg = "<svg" + buffer.getvalue().decode().partition("<svg")[2]
    every: list[Any] = [one for axes in figure.axes for one in (axes, *axes.child_axes)]
    panels = [_panel(axes) for axes in every if axes.axison]
    if len(panels) == 1:
        panels[0]["title"] = ""  # the figure's own
    data = {"series": series, "panels": panels, "rows": _columns(rows)}
    text = json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    page = TEMPLATE.read_text(encoding="utf-8")
    for key, value in (("TITLE", escape(title)), ("PICTURE", svg), ("DATA", text)):
        page = page.replace(f"<!--{key}-->", value, 1)
    return page.encode()


def _name_series(figure: Figure) -> dict[str, dict[str, str]]:
    """Give each legend entry a name in the picture, and tell in which colour its series is."""
    found: dict[str, dict[str, str]] = {}
    for legend in (*figure.legends, *(a.legend_ for a in figure.axes if a.legend_)):
        for handle, text in zip(legend.legend_handles, legend.get_texts(), strict=True):
            name = f"series_{len(found)}"
            text.set_gid(name)
            found[name] = {"colour": _colour(handle), "label": text.get_text()}
    return found


def _colour(handle: Any) -> str:
    """The colour that tells a series apart."""
    for getter in ("get_color", "get_markeredgecolor", "get_facecolor", "get_edgecolor"):
        value = getattr(handle, getter, lambda: "none")()
        if not isinstance(value, str):
            value = np.asarray(value).reshape(-1, np.asarray(value).shape[-1])[0]
        if not (isinstance(value, str) and value == "none"):
            return to_hex(value)
    return ""


def _panel(axes: Axes) -> dict[str, Any]:
    """Where one set of axes stands and what it shows."""
    merged: dict[tuple[float, float], list[Mark]] = {}
    for mark in _marks(axes):
        # A bar and the interval on top of it say one thing; two series do not.
        there = next((m for m in merged.get(mark.at, []) if not (m.label and mark.label)), None)
        if there is None:
            merged.setdefault(mark.at, []).append(mark)
        else:
            there.label = there.label or mark.label
            there.said = max(there.said, mark.said, key=len)
    box = _points(axes, [axes.bbox.min, axes.bbox.max])
    (left, bottom), (right, top) = box
    images = [_matrix(axes, image) for image in axes.images]
    return {
        "title": axes.get_title(),
        "box": [left, top, right, bottom],
        "marks": [asdict(mark) for there in merged.values() for mark in there],
        "matrix": images[0] if images else None,
    }


def _marks(axes: Axes) -> Iterator[Mark]:
    inside: set[Artist] = set()
    for held in axes.containers:
        label, inside = _label(held), inside | {*held.get_children()}
        if isinstance(held, BarContainer):
            tops = [(bar.get_x() + bar.get_width() / 2, bar.get_height()) for bar in held]
            yield from _each(axes, tops, label)
        elif isinstance(held, ErrorbarContainer) and held[0] is not None:
            bars = held[2][0].get_segments() if held[2] else []
            spans = [sorted(float(y) for y in bar[:, 1]) for bar in bars]
            yield from _each(axes, held[0].get_xydata(), label, spans)
    for line in axes.lines:
        if line not in inside:
            yield from _line(axes, line)
    for drawn in axes.collections:
        if isinstance(drawn, PathCollection):
            yield from _each(axes, np.ma.filled(drawn.get_offsets(), np.nan), _label(drawn))
        elif isinstance(drawn, LineCollection) and drawn not in inside:
            upright = [part.mean(0) for part in drawn.get_segments() if part[0, 0] == part[1, 0]]
            for mark in _each(axes, upright, _label(drawn)):
                # Between two named places stands neither.
                yield replace(mark, said=mark.said[:1])


def _line(axes: Axes, line: Line2D) -> Iterator[Mark]:
    """Marks of a line; of one right across the axes where it stands, if it has a name."""
    if line.get_transform() == axes.transData:
        yield from _each(axes, line.get_xydata(), _label(line))
    elif _label(line) and np.ptp(np.asarray(line.get_ydata(), float)) == 0:
        y = float(np.asarray(line.get_ydata())[0])
        low, high = axes.get_xlim()
        for x in np.linspace(low, high, 9):
            at = _points(axes, [axes.transData.transform((x, y))])[0]
            yield Mark(at, _label(line), [_said(axes.yaxis, y)])


def _each(
    axes: Axes, places: Any, label: str, spans: Sequence[Sequence[float]] = ()
) -> Iterator[Mark]:
    """A mark a place, where it is finite; with the interval of each."""
    places = np.asarray(places, float).reshape(-1, 2)
    shown = axes.transData.transform(places)
    where = _points(axes, shown)
    for number, ((x, y), at, pixel) in enumerate(zip(places, where, shown, strict=True)):
        if not axes.bbox.padded(1).contains(*pixel):
            continue
        said = [_said(axes.xaxis, x), _said(axes.yaxis, y)]
        if len(spans) == len(places) and spans[number][0] < spans[number][1]:
            low, high = spans[number]
            said.append(f"from {low:.5g} to {high:.5g}")
        yield Mark(at, label, [line for line in said if line])


def _said(axis: Axis, value: float) -> str:
    """A value as `loss: 2.31`, or as the name that its place on the axis has."""
    title = axis.get_label_text()
    names = _names(axis)
    if names:
        nearest = min(names, key=lambda place: abs(place - value))
        return f"{title}: {names[nearest]}" if title else names[nearest]
    return f"{title}: {value:.6g}" if title else f"{value:.6g}"


def _names(axis: Axis) -> dict[float, str]:
    """What stands at the places of an axis whose ticks have names."""
    form, places = axis.get_major_formatter(), axis.get_major_locator()
    if not (isinstance(form, FuncFormatter) and isinstance(places, FixedLocator)):
        return {}
    return {float(place): " ".join(form(place).split()) for place in places()}


def _label(artist: Any) -> str:
    label = str(artist.get_label())
    return "" if label.startswith("_") else label


def _points(axes: Axes, places: Any) -> list[tuple[float, float]]:
    """From the display's coordinates to points of the picture, downwards."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    tall = figure.bbox.height
    scaled = POINTS / figure.dpi
    return [
        (round(float(x) * scaled, 1), round(float(tall - y) * scaled, 1))
        for x, y in np.asarray(places, float)
    ]


def _matrix(axes: Axes, image: Any) -> dict[str, Any]:
    """The values of a picture of cells, with the names of its rows and columns."""
    values: np.ndarray = np.ma.filled(np.ma.asarray(image.get_array(), float), np.nan)
    left, right, bottom, top = image.get_extent()
    corners = axes.transData.transform([(left, top), (right, bottom)])
    (x, y), (far, low) = _points(axes, corners)
    down, across = _names(axes.yaxis), _names(axes.xaxis)
    rows, columns = values.shape[:2]
    return {
        "box": [x, y, far, low],
        "rows": [down.get(float(n), _middle(top, bottom, rows, n)) for n in range(rows)],
        "columns": [across.get(float(n), _middle(left, right, columns, n)) for n in range(columns)],
        "values": [
            [round(float(one), 4) if np.isfinite(one) else None for one in line] for line in values
        ],
    }


def _middle(first: float, last: float, cells: int, number: int) -> str:
    """The whole number at which a cell stands on an axis without names."""
    return str(math.floor(first + (number + 0.5) * (last - first) / cells))


def _columns(rows: Sequence[Row]) -> dict[str, Any]:
    """Rows by column, a constant one as one value; without those that are empty."""
    found: dict[str, Any] = {"length": len(rows), "columns": {}}
    for name in columns_of(rows):
        # A number of more digits than a page counts with is text there.
        values = [_exact(one.get(name)) for one in rows]
        kinds = {repr(value) for value in values}
        if kinds != {"None"}:
            found["columns"][name] = values if len(kinds) > 1 else values[0]
    return found


def _exact(value: Any) -> Any:
    if isinstance(value, list | dict):
        return json.dumps(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, int) and abs(value) > EXACT else value
