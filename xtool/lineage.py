"""Lineage: the chain prepare -> train -> grow -> train behind a file, without paths or clocks."""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict

from xtool import __version__


class Step(BaseModel):
    """One command that took part in making a file.

    Attributes:
        command: such as `train`.
        options: the dials that change the result, and only those.
        inputs: digest of each input file by its role, such as `data` or `from`.
        seed: the seed that was used.
        version: the version of xtool.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    command: str
    options: dict[str, Any]
    inputs: dict[str, str]
    seed: int
    version: str


def step(command: str, options: Mapping[str, Any], inputs: Mapping[str, str], seed: int) -> Step:
    """The step of this version; dials that were not set are left out."""
    kept = {name: value for name, value in sorted(options.items()) if value is not None}
    return Step(command=command, options=kept, inputs=dict(inputs), seed=seed, version=__version__)


def trained_on(steps: Sequence[Step]) -> str | None:
    """The digest of the data of the last training, or of what read data last if nothing trained."""
    told = [one for one in steps if "data" in one.inputs]
    trained = [one for one in told if one.command == "train"] or told
    return trained[-1].inputs["data"] if trained else None


def explain(steps: list[Step]) -> list[str]:
    """One line a step, oldest first, as `inspect` prints it."""
    lines = []
    for number, one in enumerate(steps, 1):
        dials = " ".join(f"{name}={value}" for name, value in one.options.items())
        inputs = " ".join(f"{role}:{digest[:12]}" for role, digest in one.inputs.items())
        lines.append(f"{number}. {one.command} {dials} seed={one.seed} <- {inputs or 'nothing'}")
    return lines
