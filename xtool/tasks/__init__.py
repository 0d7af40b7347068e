"""Tasks: make examples from a corpus, score predictions. One file each."""

from xtool.tasks._contracts import (
    ByExamples,
    Drawing,
    Lengths,
    OfHeader,
    Prepared,
    Shape,
    Task,
)
from xtool.tasks._making import make_data
from xtool.tasks._reading import defaults, drawn, fitted, open_data, require_fit, task_of
