"""The header of a `.st` file: canonical JSON that says what the file is and how it came to be.

It is one value, under the single safetensors metadata key `xtool`. Canonical means sorted keys, no
spaces, ASCII only, no clock and no absolute path, so that the same work gives the same bytes.
"""

import json
from typing import Annotated, Any, Literal, NotRequired

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from typing_extensions import TypedDict

from xtool.errors import XtoolError
from xtool.inputs import strict_json
from xtool.lineage import Step

NO_DIGEST = "0" * 64


Scalar = str | int | float | bool | None
Count = Annotated[int, Field(strict=True, ge=0)]
Number = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Progress(TypedDict, total=False):
    """Steps, epochs and training FLOPs of the last run and of the whole lineage."""

    steps: Count
    epochs: Number
    flops: Count
    lineage_steps: Count
    lineage_epochs: Number
    lineage_flops: Count


class Position(TypedDict):
    """Where an unfinished run stands."""

    step: Count
    best: float | None
    reached: bool
    loss_sums: list[float]
    loss_count: Count
    rows: Count
    clipped: NotRequired[list[Count]]
    worse: NotRequired[Count]
    stopped: NotRequired[bool]
    groups: NotRequired[dict[str, list[Count]]]


class Training(TypedDict, total=False):
    """How a model was trained; `position` stands in resume files alone."""

    dials: dict[str, Scalar]
    progress: Progress
    position: Position
    threads: Count
    processes: Count
    route: str
    label: str
    categories: dict[str, list[Count]]


class Header(BaseModel):
    """What every file of xtool says about itself.

    Attributes:
        kind: `data`, `model` or `resume`.
        config: the architecture with all its dials, or where a data file's text came from.
        task: the task's name and dials; `train` copies it from data to model.
        tokenizer: how text became symbols.
        training: dials of the last training run and its `progress`, counted over the lineage too.
        lineage: the steps that made the file, oldest first.
        digest: BLAKE3 of the whole file with these 64 digits as zeros.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    schema_: Literal[1] = Field(default=1, alias="schema")
    kind: Literal["data", "model", "resume"]
    config: dict[str, Any] = {}
    task: dict[str, Any] = {}
    tokenizer: dict[str, Any] = {}
    training: Training = {}
    lineage: list[Step] = []
    digest: str = Field(default=NO_DIGEST, pattern="^[0-9a-f]{64}$")

    @property
    def replicas(self) -> int:
        """How many models the file holds."""
        found = self.config.get("replicas", 1)
        if type(found) is not int or found < 1:
            raise XtoolError(f"the header's `replicas` is {str(found)[:40]!r}, no whole number")
        return found

    def inherited(self) -> Training:
        """What a model cut or grown from this one keeps: its lineage's cost, not its label."""
        kept = self.training.copy()
        kept.pop("label", None)
        kept.pop("categories", None)
        if "progress" in kept:
            kept["progress"] = {**kept["progress"], "steps": 0, "epochs": 0.0, "flops": 0}
        return kept

    def canonical(self) -> str:
        """The header as canonical JSON."""
        return canonical_json(self.model_dump(by_alias=True))


def canonical_json(value: Any) -> str:
    """JSON with sorted keys, no spaces, ASCII only; equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def read_header(text: str, where: str) -> Header:
    """Parse and check a header.

    Raises:
        XtoolError: not canonical JSON, or not of this schema.
    """
    try:
        value = strict_json(text)
    except ValueError as error:
        raise XtoolError(f"{where}: the header is not JSON: {error}") from error
    if isinstance(value, dict) and value.get("schema") not in (None, 1):
        raise XtoolError(
            f"{where}: schema {value['schema']!r} is not 1",
            "it was written by another version of xtool",
        )
    try:
        header = Header.model_validate(value)
        canonical = header.canonical()
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "header"
        raise XtoolError(f"{where}: the header's `{place}`: {first['msg'].lower()}") from error
    except ValueError as error:
        raise XtoolError(f"{where}: the header holds a number that JSON has not") from error
    if canonical != text:
        raise XtoolError(f"{where}: the header is not canonical JSON", "it was edited by hand")
    return header
