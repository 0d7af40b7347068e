"""A gpt with smaller ones inside: prefixes of its weights that are trained with it.

It is the `gpt` with a default for `nest`, which any gpt or looped model may have; `xtool slice`
writes each of the sizes as a file of its own. See Kusupati et al. (2022, arXiv:2205.13147) and
Devvrit et al. (2023, arXiv:2310.07707), and `archs/_nest.py` for how this differs.
"""

from xtool.archs import Architecture
from xtool.archs.gpt import ENTRY as GPT

LIKE = "gpt"
OPTIONS = [
    ("nest", "texts", "auto", "smaller sizes inside, `d_model=16,32`; again for another axis"),
]
TASK = "language"
CACHED = True
ENTRY: Architecture = GPT
