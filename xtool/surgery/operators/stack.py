"""The whole list of blocks once more on top of itself: 0 1 2 0 1 2.

G_stack of Du et al. (2024, arXiv:2405.15319), who grow depth four times over. Not exact: the upper
copies read what the lower ones never wrote before.
"""

from xtool.surgery.operators import Operator
from xtool.surgery.operators._depth import Repeated

PROMISE = "approximate"
CONDITION = "whole factors of depth; widths stay"

ENTRY: Operator = Repeated(lambda old, new: [layer % old for layer in range(new)])
