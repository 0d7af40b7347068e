"""The error of a looped model by the positions that a mask keeps between its loops.

Rows come from `evaluate --mask`; what was masked, and at which end positions were kept, tells
series apart beside the label.
"""

from dataclasses import replace
from typing import TYPE_CHECKING

from xtool.errors import UsageError
from xtool.plots import Plot, Request
from xtool.plots.curves import curves
from xtool.plots.loops import logarithmic

if TYPE_CHECKING:
    from matplotlib.axes import Axes

X = "kept"
BY = "label"


def tokens(axes: "Axes", request: Request) -> None:
    """A line a mask and series.

    Raises:
        UsageError: rows after several numbers of loops.
    """
    loops = sorted({int(one["loops"]) for one in request.rows if one.get("loops")})
    if len(loops) > 1:
        raise UsageError(
            f"the rows are after {' and '.join(map(str, loops[:3]))} loops",
            f"choose one with `--where loops={loops[-1]}`",
        )
    rows = [
        one | {"series": f"{one.get(str(request.by))}: {one.get('keep')} of the {one.get('mask')}"}
        for one in request.rows
    ]
    own = replace(request, rows=rows, by="series")
    curves(axes, own)
    logarithmic(axes, own)
    axes.set_xlabel("positions kept")


ENTRY: Plot = tokens
