"""Slices of the list of blocks one after another, overlapping as is liked: 0:8,4:12.

The passthrough merge of mergekit (https://github.com/arcee-ai/mergekit); so SOLAR uses its middle
blocks twice (Kim et al., 2023, arXiv:2312.15166). What a repeated block writes can be damped, as
users of that tool do by hand. Not exact, unless it is damped to zero and all blocks are in order.
"""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from xtool.errors import UsageError
from xtool.gather import prefix
from xtool.surgery.operators import Growth, Operator
from xtool.surgery.operators._depth import other_sizes

PROMISE = "approximate"
CONDITION = "slices of the old blocks; widths stay"
OPTIONS = [
    (
        "slices",
        "text",
        None,
        "first block of each slice and the one after its last, such as 0:8,4:12",
    ),
    ("damp", "float", 1.0, "what a repeated block writes is multiplied by this"),
]


class Passthrough:
    """The operator; see the module."""

    def refuse(self, growth: Growth) -> str:
        """No slices, or a width that changes."""
        if not growth.dials["slices"]:
            return "no slices were given, such as `--slices 0:8,4:12`"
        return other_sizes(growth)

    def depth(self, old: int, asked: int | None, dials: Mapping[str, Any]) -> list[int]:
        """The blocks of all slices in turn; without any `refuse` says what is missing."""
        if not dials["slices"]:
            return []
        layers: list[int] = []
        for part in dials["slices"].split(","):
            match = re.fullmatch(r"\s*(\d{1,6}):(\d{1,6})\s*", part)
            first, stop = (int(match[1]), int(match[2])) if match else (0, 0)
            if not first < stop <= old:
                raise UsageError(
                    f"`--slices` has `{part}`, which is no slice of {old} blocks",
                    f"a slice is FIRST:STOP with FIRST below STOP and STOP at most {old}",
                )
            layers += range(first, stop)
        if asked is not None and asked != len(layers):
            raise UsageError(
                f"`--slices {dials['slices']}` has {len(layers)} blocks, `--n-layers` is {asked}",
                "leave `--n-layers` out",
            )
        return layers

    def rows(self, growth: Growth, name: str, start: int, stop: int) -> Tensor:
        """The old values, damped where a repeated block writes the residual stream."""
        values = growth.gather(name, prefix, start, stop)
        again = growth.again(name) and growth.writes_residual(name)
        return values * growth.dials["damp"] if again else values


ENTRY: Operator = Passthrough()
