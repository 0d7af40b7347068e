"""The error of a looped model by the positions that a mask keeps between its loops.

Rows come from `evaluate --mask`; what was masked, and at which end positions were kept, tells
series apart beside the label.
"""

from dataclasses import replace

from matplotlib.axes import Axes

from xtool.plots import Plot, Request
from xtool.plots._draw import logarithmic, require_one, series_of
from xtool.plots.curves import curves

X = "kept"
BY = "label"


def tokens(axes: Axes, request: Request) -> None:
    """A line a mask and series.

    Raises:
        UsageError: rows after several numbers of loops.
    """
    by = request.by or BY
    for name, found in series_of(request.rows, by).items():
        looped = [one for one in found if isinstance(one.get("loops"), int)]
        require_one(looped, "loops", f"the rows of `{name}` are after several numbers of loops")
    rows = [
        one
        | {"series": f"{one.get(by)}: {one.get('keep')} of the {one.get('mask')}"}
        | {"loops": None}
        for one in request.rows
    ]
    own = replace(request, rows=rows, by="series")
    curves(axes, own)
    logarithmic(axes, own)
    axes.set_xlabel("positions kept")


ENTRY: Plot = tokens
