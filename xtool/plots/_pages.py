"""Pages with a label for every token: sizes in inches and points, so that no two labels meet."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from xtool.plots._levels import Run

POINTS = 72  # an inch
# Points from one label to the next, up to so many tokens.
PITCHES = {80: 9.5, 160: 7.5, 300: 5.8}
LEAST = 4.8
FILLED = 0.84  # of the pitch that the font takes


def pitch_of(number: int) -> float:
    """Points from one token's label to the next."""
    return next((pitch for most, pitch in PITCHES.items() if number <= most), LEAST)


def room(names: Sequence[str], font: float) -> float:
    """Inches that the longest of some names takes at most, with a little space."""
    longest = max(map(len, names), default=0)
    return (max(1.0, 0.75 * longest) * font + 10) / POINTS if longest else 0.0


def page(axes: Axes, width: float, height: float) -> Figure:
    """The figure at a size in inches, empty but for a title that may come."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.set_layout_engine("none")
    figure.set_size_inches(width, height)
    axes.set_position((0, 0, 1, 1))
    axes.set_axis_off()
    return figure


def head_room(height: float) -> float:
    """Inches for a title above a page whose panels need a height."""
    return 0.35 + 0.02 * height


def panel(figure: Figure, left: float, bottom: float, width: float, height: float) -> Axes:
    """Axes at a place in inches, without a grid."""
    across, down = figure.get_size_inches()
    axes: Axes = figure.add_axes((left / across, bottom / down, width / across, height / down))
    axes.grid(visible=False)
    return axes


def label_tokens(axes: Axes, names: Sequence[str], font: float, across: bool = True) -> None:
    """A label for each token down the axes and, if wanted, across; upright where all are short."""
    style = {"labelsize": font, "length": 0, "pad": 2}
    axes.set_yticks(range(len(names)), list(names))
    axes.tick_params(axis="y", **style)
    if across:
        turned = 90 if max(map(len, names)) > 1 else 0
        axes.set_xticks(range(len(names)), list(names), rotation=turned)
        axes.tick_params(axis="x", **style)


def bracket(axes: Axes, runs: Sequence[Run], font: float, side: float) -> None:
    """Brackets around groups, above and to the right of a matrix, with their names.

    Args:
        axes: with one place a token.
        runs: the groups.
        font: size of the names, in points.
        side: of the matrix, in inches.
    """
    near, far, text = (1 + part * font / POINTS / side for part in (0.3, 0.9, 1.2))
    for run in runs:
        ends = (run.start - 0.3, run.start - 0.3, run.stop - 0.7, run.stop - 0.7)
        rise, middle = (near, far, far, near), (run.start + run.stop - 1) / 2
        above, right = axes.get_xaxis_transform(), axes.get_yaxis_transform()
        line = {"color": "0.2", "linewidth": max(0.8, font / 25), "clip_on": False, "scalex": False}
        axes.plot(ends, rise, transform=above, scaley=False, **line)  # type: ignore[arg-type]
        axes.plot(rise, ends, transform=right, scaley=False, **line)  # type: ignore[arg-type]
        turned = 90 if len(run.name) > 1 else 0
        axes.text(
            middle, text, run.name, transform=above, fontsize=font, rotation=turned,
            ha="center", va="bottom",
        )  # fmt: skip
        axes.text(text, middle, run.name, transform=right, fontsize=font, ha="left", va="center")
