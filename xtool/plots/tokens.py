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
    assert request.by is not None
    for name, loops in _loops(request).items():
        if len(loops) > 1:
            raise UsageError(
                f"the rows of `{name}` are after {' and '.join(map(str, sorted(loops)[:3]))} loops",
                f"choose one with `--where loops={max(loops)}`",
            )
    rows = [
        one
        | {"series": f"{one.get(request.by)}: {one.get('keep')} of the {one.get('mask')}"}
        | {"loops": None}
        for one in request.rows
    ]
    own = replace(request, rows=rows, by="series")
    curves(axes, own)
    logarithmic(axes, own)
    axes.set_xlabel("positions kept")


def _loops(request: Request) -> dict[str, set[int]]:
    """After how many loops the rows of each series are."""
    found: dict[str, set[int]] = {}
    for one in request.rows:
        if isinstance(one.get("loops"), int):
            found.setdefault(str(one.get(str(request.by))), set()).add(int(one["loops"]))
    return found


ENTRY: Plot = tokens
