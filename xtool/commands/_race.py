"""What `grow --race` does: the race, its table, and the best operator's grown file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xtool import registry
from xtool.commands._ui import SAID, Notes, chosen_format, write_stdout
from xtool.config import Option, options, resolve
from xtool.errors import UsageError

if TYPE_CHECKING:
    from xtool.surgery.race import Terms

RACE = [
    Option("race_steps", "int", None, "training steps of each contestant; 100 unless given"),
    Option("race_flops", "float", None, "training FLOPs of each contestant, in place of steps"),
    Option("race_seeds", "int", 3, "seeds of each contestant, from --seed on; 2 or more"),
    Option("lr", "float", None, "learning rate of the race; the model's own unless given"),
    Option("batch_size", "int", None, "examples a step of the race; the model's own unless given"),
    Option("device", "text", "auto", "where the race computes: auto, cpu, cuda or mps"),
    Option("threads", "int", None, "CPU threads of the race; all cores unless given"),
]
STEPS = 100
TABLE = [
    "place", "label", "method", "start", "value", "low", "high", "p_value", "n", "params", "step",
    "flops", "seconds",
]  # fmt: skip


@dataclass(frozen=True)
class Race:
    """The command line of `grow --race`; `layers` are dials by falling precedence."""

    small: Path
    changes: Mapping[str, int]
    layers: Sequence[tuple[str, Mapping[str, Any]]]
    seed: int
    data: Path | None
    form: str | None
    out: Path | None
    force: bool
    dry_run: bool
    config_file: Path | None


def run_race(asked: Race, notes: Notes) -> None:
    """Race the operators; with an output, write the best one's grown model, untrained.

    Raises:
        UsageError: options that do not go together, or no operator fits.
        Interrupted: a signal came; nothing is left.
        XtoolError: an unreadable input, or an output that is in the way.
    """
    from xtool import rows as tables
    from xtool.atomic import require_apart, require_writable
    from xtool.dataset import data_of
    from xtool.surgery import race
    from xtool.surgery.grow import grow
    from xtool.surgery.plan import plan

    form = chosen_format(asked.form)
    _check(asked)
    data = data_of(asked.small, asked.data)
    if asked.out:
        require_writable(asked.out, asked.force)
        own = registry.admitted().values()
        require_apart([asked.out], [asked.small, data, asked.config_file, *own])
    names = registry.names("surgery/operators")
    dials = {name: resolve(options("surgery/operators", name), asked.layers) for name in names}
    able, refused = race.contestants(asked.small, asked.changes, dials, asked.seed)
    for name, reason in refused.items():
        notes.say(f"not in the race: {name}: {reason.removeprefix(f'`{name}` refuses: ')}")
    if asked.dry_run:
        notes.say(f"contestants: {', '.join(able)}, and an untrained control")
        return
    results, failed = race.race(_terms(asked, data, dials), able, notes.say)
    for name, reason in failed.items():
        notes.say(f"{name} did not finish: {reason}")
    best, lines = race.verdict(results)
    found = race.race_rows(results)
    if asked.out:
        notes.say("\n" + tables.to_table(found, TABLE))
    else:
        write_stdout(tables.render(found, form, TABLE))
    for line in lines:
        notes.say(line)
    if asked.out:
        chosen = (asked.changes, best.method, dials[best.method], asked.seed)
        _, proof, _ = grow(asked.small, asked.out, lambda reader: plan(reader, *chosen))
        notes.say(f"{asked.small} -> {asked.out}: {best.method}, not trained: {proof}")
        write_stdout(f"{asked.out}\n")


def _check(asked: Race) -> None:
    if asked.form and asked.out:
        raise UsageError(
            "with `-o` standard output is a path, with `--format` it is rows: give one",
            "race with `--format`, then grow with the winner's `--method`",
        )
    values = resolve(RACE, asked.layers)
    if values["race_seeds"] < 2:
        raise UsageError(f"`--race-seeds` is {values['race_seeds']}, an interval needs 2 or more")
    if values["race_steps"] is not None and values["race_flops"] is not None:
        raise UsageError("`--race-steps` and `--race-flops` exclude each other")


def _terms(asked: Race, data_path: Path, dials: Mapping[str, Mapping[str, Any]]) -> "Terms":
    """The terms of the race: the training dials are the small model's, as with `train --from`."""
    from xtool.commands._train import LENGTH
    from xtool.storage import header_of
    from xtool.surgery.race import Terms
    from xtool.tasks import defaults, open_data
    from xtool.training.dials import REPORT, RESULT

    header = header_of(asked.small, "model")
    data = open_data(data_path)
    own = resolve(RACE, asked.layers)
    steps = STEPS if own["race_steps"] is None else own["race_steps"]
    old = {k: v for k, v in header.training.get("dials", {}).items() if k not in LENGTH}
    task = ("task", defaults(data.header))
    layers = [(SAID, own | {"steps": steps}), ("the checkpoint", old), task]
    training = resolve(RESULT + REPORT, layers) | {"epochs": None}
    seeds = range(asked.seed, asked.seed + own["race_seeds"])
    return Terms(asked.small, asked.changes, dials, data, training, own["race_flops"], seeds)
