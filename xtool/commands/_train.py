"""From what the command line of `train` asked for to a run that is ready to go."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xtool import registry
from xtool.archs import canonical, count
from xtool.atomic import require_apart, require_writable
from xtool.commands._ui import Notes
from xtool.config import check_model, model_options, options, resolve, with_later
from xtool.dataset import data_of
from xtool.errors import UsageError, XtoolError
from xtool.header import Header
from xtool.storage import header_of
from xtool.tasks import defaults, make_data, open_data, task_of
from xtool.training.configs import fresh_config, preset, trained_config
from xtool.training.dials import CONTEXT, REPORT, RESULT
from xtool.training.journal import best_path, rows_path, state_path
from xtool.training.parallel import Processes
from xtool.training.run import Run
from xtool.training.setup import set_up
from xtool.training.state import optimizer_of

FOLDER = Path("checkpoints")
LENGTH = ("epochs", "steps", "max_flops", "max_time", "patience")
OF_TOKENS = ("emergent", "every", "groups")


@dataclass(frozen=True)
class Asked:
    """The command line of `train`, still unresolved; `layers` are dials by falling precedence."""

    data: Path | None
    parent: Path | None
    arch: str | None
    preset: str | None
    layers: list[tuple[str, Mapping[str, Any]]]
    out: Path | None
    resume: bool
    force: bool
    dry_run: bool = False
    config_file: Path | None = None
    save_config: Path | None = None

    def dial(self, name: str) -> Any:
        """A dial as the user gave it, or None."""
        return next((v[name] for _, v in self.layers if v.get(name) is not None), None)

    def used(self, run: Run) -> dict[str, Any]:
        """The architecture's dials of a run, but for the derived ones that nobody set."""
        dials = model_options(run.config["arch"], run.config.get("attention"))
        said = [d for d in dials if d.default is not None or self.dial(d.name) is not None]
        if task_of(run.data.header, "data").shape(run.data.header).context is None:
            said.append(CONTEXT)
        return {dial.name: run.config[dial.name] for dial in said}

    def params(self, run: Run) -> int:
        """The parameters of one model."""
        return count(run.model) // len(run.seeds)


def plan_run(asked: Asked, notes: Notes, processes: Processes) -> tuple[Run, bool]:
    """The run, and whether it goes on from a saved state.

    Raises:
        UsageError: dials that do not go together, or an output that is an input.
        XtoolError: an unreadable input, or an output that is in the way.
    """
    parent = _header(asked.parent) if asked.parent else None
    if processes.count > 1 and not (asked.data or parent):
        raise UsageError("several processes need their data prepared", "name the data file")
    data_path = asked.data or _default_data(asked, parent, notes)
    data = open_data(data_path)
    arch = parent.config["arch"] if parent else asked.arch or "gpt"
    if parent and asked.arch and asked.arch != arch:
        raise UsageError(f"`--arch {asked.arch}`: the model given with `--from` is a {arch}")
    if parent and asked.preset:
        raise UsageError("`--preset` is for a new model, `--from` brings its own dials")
    out = asked.out or _default_out(asked, data_path, arch)
    written = [*outputs(out), *([asked.save_config] if asked.save_config else [])]
    own = registry.admitted().values()
    rows = [rows_path(asked.parent)] if asked.parent else []
    groups = [Path(str(found))] if (found := asked.dial("categories")) else []
    require_apart(written, [data_path, asked.parent, *rows, asked.config_file, *groups, *own])
    saved = _saved(out, asked, notes)
    if saved is None and not asked.force:
        require_writable(out)
    if saved and not parent:
        config = _saved_config(asked, saved, state_path(out))
    else:
        config = _config(asked, data.header, arch, parent)
    ready = {} if parent else preset(str(config["arch"]), asked.preset, asked.dial("d_model"))
    dials = _training_dials(asked, saved or parent, bool(saved), ready, defaults(data.header))
    if parent and saved is None:
        hierarchy = dials["categories"] or dials["emergent"] != "none"
        kept = parent.training.get("categories") or parent.training.get("position", {}).get(
            "groups"
        )
        if kept and not hierarchy:
            notes.say("the model's groups are not taken over: its sizes learn tokens from now on")
        if parent.kind == "resume" and parent.training.get("dials", {}).get("ema"):
            notes.say("the state's running average is not taken over: training begins its own")
    if parent and parent.kind == "resume":
        theirs = optimizer_of(parent)
        if theirs != dials["optimizer"]:
            raise UsageError(
                f"{asked.parent}: the state is of `{theirs}`, not of `{dials['optimizer']}`",
                f"use `--optimizer {theirs}`, or begin with the model in place of the state",
            )
        for name in ("beta1", "beta2"):
            was = parent.training.get("dials", {}).get(name, dials[name])
            if was != dials[name]:
                notes.say(f"`{name}` is {dials[name]}, the state's moments were made with {was}")
    return set_up(data, asked.parent, config, dials, out, processes), saved is not None


def _config(asked: Asked, data: Header, arch: str, parent: Header | None) -> dict[str, Any]:
    """The configuration of the model that a new run begins with."""
    if parent:
        attention = asked.dial("attention") or parent.config.get("attention")
        declared = [*model_options(arch, attention), CONTEXT]
        given = {d.name: d.parse(asked.dial(d.name), "the run file or flag") for d in declared}
        return trained_config(parent.config, given)
    ready = preset(arch, asked.preset, asked.dial("d_model"))
    layers = [*asked.layers, ("preset", ready), ("task", defaults(data))]
    attention = asked.dial("attention") or ready.get("attention")
    dials = resolve(model_options(arch, attention), layers)
    return fresh_config(arch, dials, data, resolve([CONTEXT], layers)["context"])


def _saved_config(asked: Asked, saved: Header, where: Path) -> dict[str, Any]:
    """The configuration of a stopped run, which nothing on the command line contradicts."""
    config = dict(saved.config)
    check_model(config, str(where))
    config = with_later(config)
    arch = str(config["arch"])
    ready = preset(arch, asked.preset, asked.dial("d_model"))
    declared = [*model_options(arch, config.get("attention")), CONTEXT]
    said = {dial.name: dial.parse(asked.dial(dial.name), "the flag") for dial in declared}
    if said.get("nest"):
        said["nest"] = canonical({**config, "nest": said["nest"]})
    if isinstance(said.get("d_ff"), list) and len({*said["d_ff"]}) == 1:
        said["d_ff"] = said["d_ff"][0]
    given = {name: ready.get(name) if value is None else value for name, value in said.items()}
    for name, here in {"arch": asked.arch, **given}.items():
        if here not in (None, config[name]):
            raise XtoolError(
                f"{where}: is of another run: `{name}` is {config[name]} there, {here} here",
                "give the same flags with `--resume`, or `--force` to start over",
            )
    return config


def outputs(out: Path) -> list[Path]:
    """The files that a run writes, the last one only with `--keep-best`."""
    return [out, rows_path(out), state_path(out), best_path(out)]


def _header(path: Path) -> Header:
    header = header_of(path, "model", "resume")
    check_model(header.config, str(path))
    return header.model_copy(update={"config": with_later(header.config)})


def _default_data(asked: Asked, parent: Header | None, notes: Notes) -> Path:
    """The data of the parent's lineage, or the architecture's default task, prepared if need be."""
    if parent and asked.parent:
        return data_of(asked.parent)
    task = registry.literal("archs", asked.arch or "gpt", "TASK")
    if task is None:
        raise UsageError(
            f"no data named, and `{asked.arch}` has no default task", "name the data file"
        )
    path = FOLDER / f"{task}.st"
    if path.exists():
        notes.say(f"no data named: using {path}")
        return path
    if asked.dry_run:
        raise UsageError(
            f"no data named, and the default task is not prepared yet in {path}",
            f"`xtool prepare {task} -o {path}`",
        )
    FOLDER.mkdir(exist_ok=True)
    corpus = registry.literal("tasks", task, "CORPUS")
    notes.say(f"no data named: preparing the default task, {task} from {corpus}, into {path}")
    dials = resolve(options("tasks", task), [])
    make_data(path, task, corpus, {}, dials, 0)
    return path


def _default_out(asked: Asked, data: Path, arch: str) -> Path:
    near = asked.parent or asked.data
    stem = (asked.parent or data).name.removesuffix(".st").removesuffix(".resume")
    folder = near.parent if near else FOLDER
    return folder / f"{stem}-{arch.removesuffix('.py')}.st"


def _saved(out: Path, asked: Asked, notes: Notes) -> Header | None:
    """The header of the state to go on from, or None to begin."""
    path = state_path(out)
    if not asked.resume:
        if path.exists() and not out.exists() and not asked.force:
            raise XtoolError(
                f"{path}: an unfinished run", "`--resume` goes on, `--force` starts over"
            )
        return None
    if not path.exists():
        if out.exists() and not asked.force:
            raise XtoolError(f"{out}: the run is finished, there is nothing to resume")
        notes.say(f"nothing to resume ({path} is not there): starting from the beginning")
        return None
    return header_of(path, "resume")


def _training_dials(
    asked: Asked,
    before: Header | None,
    resuming: bool,
    ready: Mapping[str, Any],
    task: Mapping[str, Any],
) -> dict[str, Any]:
    """Every training dial; the length of a run is its own, not taken over from a checkpoint.

    Args:
        asked: the command line.
        before: the header of the run to go on from.
        resuming: whether it is this very run.
        ready: the dials of a preset.
        task: those that the task puts in place of the defaults.
    """
    old = dict(before.training.get("dials", {})) if before else {}
    if not resuming:
        old = {
            k: v for k, v in old.items() if k not in (*LENGTH, *OF_TOKENS, "device", "eval_every")
        }
    given = [*asked.layers, ("preset", ready)]
    dials = resolve(RESULT + REPORT, [*given, ("the checkpoint", old), ("task", task)])
    for where, values in given:
        said = [name for name in ("steps", "epochs") if values.get(name) is not None]
        if len(said) == 2:
            raise UsageError(f"`--steps` and `--epochs` exclude each other in {where}")
        if said == ["epochs"]:
            dials["steps"] = None
        if said:
            break
    if dials["steps"] is not None:
        dials["epochs"] = None
    return dials
