"""The error by the examples in the prompt, beside that of exact methods.

Rows come from `evaluate --by-examples`; the band is the 95 % interval. What lies far below every
model, as least squares with enough examples, leaves the picture at its lower edge.
"""

from matplotlib.axes import Axes

from xtool.plots import Plot, Request
from xtool.plots._draw import logarithmic
from xtool.plots.curves import curves

X = "examples"
BY = "label"
BASELINES = False  # they are series of their own


def examples(axes: Axes, request: Request) -> None:
    """A line a series."""
    curves(axes, request)
    logarithmic(axes, request)
    axes.set_xlabel("examples in the prompt")


ENTRY: Plot = examples
