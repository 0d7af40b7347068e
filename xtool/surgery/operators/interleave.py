"""Each block repeated in its place: 0 0 1 1 2 2.

The interpolation of Chang et al. (2018, arXiv:1710.10348), there for residual networks. Not exact:
a copy adds once more what its original has added.
"""

from xtool.surgery.operators import Operator
from xtool.surgery.operators._depth import Repeated

PROMISE = "approximate"
CONDITION = "whole factors of depth; widths stay"

ENTRY: Operator = Repeated(lambda old, new: [layer * old // new for layer in range(new)])
