"""What `grow` does with the models it was given: each is grown, and proved on the written file."""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xtool.archs import open_model
from xtool.checkpoint import Reader
from xtool.commands._resize import places, target
from xtool.commands._ui import Notes, write_stdout
from xtool.config import options
from xtool.errors import UsageError
from xtool.storage import Source, header_of
from xtool.surgery.grow import Proving, grow
from xtool.surgery.plan import Plan, plan
from xtool.surgery.state import grow_state, notes_on, state_reader
from xtool.tasks import open_data


@dataclass(frozen=True)
class Asked:
    """The command line of `grow`; `dials` are the operator's, `said` those that somebody set."""

    changes: Mapping[str, int]
    method: str
    dials: Mapping[str, Any]
    said: Set[str]
    seed: int
    proof: bool
    tol: float | None
    data: Path | None
    out: Path | None
    force: bool
    dry_run: bool
    config_file: Path | None

    def target(self, path: Path) -> Path:
        """Where a model's grown one goes."""
        return target(path, self.out, self.changes, self.method)

    def plan(self, reader: Reader) -> Plan:
        """How a model grows; a replica draws with a seed of its own."""
        return plan(
            reader, self.changes, self.method, self.dials, self.seed + (reader.replica or 0)
        )

    def inputs(self) -> list[Path | None]:
        """The files that are read beside the models."""
        fitted_to = Path(self.dials["data"]) if self.dials.get("data") else None
        return [self.data, fitted_to, self.config_file]


def grow_each(models: Sequence[Path], asked: Asked, notes: Notes) -> None:
    """Grow models one after another; a dry run only says what would become of them.

    Raises:
        UsageError: options that do not go together, or an output that is an input; see `plan`.
        XtoolError: an unreadable input, or an output that is in the way.
        CheckFailed: an exact operator that was not exact on the written file.
    """
    if asked.tol is not None and not 0 < asked.tol < 1:
        raise UsageError(f"`--tol` is {asked.tol}, it must be above 0 and below 1")
    proving = Proving(asked.proof, asked.tol, open_data(asked.data) if asked.data else None)
    places(models, asked.out, asked.target, asked.inputs(), None if asked.dry_run else asked.force)
    for path in models:
        if asked.dry_run:
            _foretell(path, asked, notes)
        else:
            _grow(path, asked, proving, notes)


def _foretell(path: Path, asked: Asked, notes: Notes) -> None:
    with Source(path) as source:
        whole = source.require_header("model", "resume").kind == "resume"
        reader = state_reader(source) if whole else open_model(source, replica=0)
        chosen = asked.plan(reader)
    notes.say(f"{path} -> {asked.target(path)}: {', '.join(chosen.changes)}; {chosen.method}")


def _grow(path: Path, asked: Asked, proving: Proving, notes: Notes) -> None:
    place = asked.target(path)
    header = header_of(path, "model", "resume")
    whole = header.kind == "resume"
    grow_one = grow_state if whole else grow
    chosen, found, digest = grow_one(path, place, asked.plan, proving)
    kind = "exact" if chosen.exact else "approximate: the function has changed"
    notes.say(f"{path} -> {place}: {', '.join(chosen.changes)}")
    own = {dial.name for dial in options("surgery/operators", chosen.method)}
    for name in sorted(asked.said - own):
        flag = f"--{name.replace('_', '-')}"
        notes.say(f"`{flag}` did nothing: `{chosen.method}`, which `auto` took, has no such dial")
    notes.say(f"{chosen.method} ({kind}): {found or 'not proved, as asked'}")
    for note in notes_on(chosen, header) if whole else ():
        notes.say(note)
    if fitted := chosen.fit().note:
        notes.say(fitted)
    notes.detail(f"digest {digest}")
    write_stdout(f"{place}\n")
