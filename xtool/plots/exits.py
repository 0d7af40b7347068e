"""What prompts lose when they leave the loops early: their error against the loops that they used.

Rows come from `evaluate --exits`. Each threshold is a point: the mean over seeds, with the 95 %
interval of the error. The faint line is the error without exits, after fixed numbers of loops.
"""

from typing import Any

from matplotlib.axes import Axes

from xtool.averages import summarise
from xtool.plots import Plot, Request
from xtool.plots._draw import COLOURS, LINES, MARKERS, error_bars, logarithmic, series_of

X = "loops_used"
BY = "label"
NAMES = {"none": "all loops", "state": "until the state rests", "output": "until the output rests"}


def exits(axes: Axes, request: Request) -> None:
    """A line for each rule of each series."""
    for colour, (name, rows) in enumerate(series_of(request.rows, request.by).items()):
        for place, (rule, words) in enumerate(NAMES.items()):
            own = [one for one in rows if one.get("exit") == rule]
            key = "loops" if rule == "none" else "threshold"
            points = []
            for (at,), cell in summarise(own, [key]).items():
                used = [float(one["loops_used"]) for one in own if one.get(key) == at]
                points.append((sum(used) / len(used), cell))
            points.sort(key=lambda point: point[0])
            used, errors = [one for one, _ in points], [cell.value for _, cell in points]
            how: dict[str, Any] = {
                "color": COLOURS[colour % len(COLOURS)],
                "label": f"{name}: {words}",
            }
            if rule == "none":
                axes.plot(used, errors, **how, alpha=0.5)
                continue
            spread = error_bars(cell for _, cell in points)
            line, marker = LINES[place], MARKERS[(place + 2 * colour) % len(MARKERS)]
            axes.errorbar(
                used, errors, spread, **how, linestyle=line, marker=marker, markersize=5, capsize=3
            )
    logarithmic(axes, request)
    axes.set_xlabel("loops used, mean over prompts")


ENTRY: Plot = exits
