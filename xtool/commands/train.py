"""Train a model on a data file, from its beginning or from another model."""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from xtool import registry
from xtool.commands._dials import (
    completion,
    entry,
    known,
    peek,
    peek_all,
    peek_dial,
    peek_run_file,
    run_file,
)
from xtool.commands._ui import (
    INPUT,
    MODEL,
    OUTPUT,
    SAID,
    Force,
    Notes,
    Out,
    Own,
    Quiet,
    Verbose,
    one_path,
    spoken_for,
    write_stdout,
)
from xtool.config import Option, model_options, resolve, run_file_text
from xtool.inputs import require_files
from xtool.training.dials import CONTEXT, REPORT, RESULT

if TYPE_CHECKING:
    from xtool.commands._train import Asked
    from xtool.training.parallel import Processes
    from xtool.training.run import Listener

CHOICE = [Option("arch", "text", "gpt", ""), Option("preset", "text", None, "")]

SHOWN = 8  # sizes of a nested model that are named


def panels() -> dict[str, list[Option]]:
    """The dials of the architecture and attention variant that command line and run file name."""
    for path in peek_all("--own"):
        known("archs", path)
    table = peek_run_file("train")
    before = _config_of(peek("--from"))
    arch = known("archs", peek_dial("--arch"), table.get("arch"), before.get("arch")) or "gpt"
    said = (peek_dial("--attention"), table.get("attention"), before.get("attention"))
    attention = known("layers/attention", *said)
    ready = ", ".join(registry.literal("archs", arch, "PRESETS", {})) or "it has none"
    preset = Option("preset", "text", None, f"a named set of these dials: {ready}")
    model = [preset, *model_options(arch, attention), CONTEXT]
    groups = {f"Model `{arch}`": model, "Training": RESULT}
    return {name: _with_tasks(dials) for name, dials in groups.items()} | {OUTPUT: REPORT}


def _with_tasks(dials: list[Option]) -> list[Option]:
    """The dials, each with the values that tasks put in place of its default in its help."""
    names = registry.names("tasks")
    tasks = [(task, registry.literal("tasks", task, "DEFAULTS", {})) for task in names]

    def added(dial: Option) -> str:
        return "".join(f"; for {task} {own[dial.name]}" for task, own in tasks if dial.name in own)

    return [replace(dial, help=dial.help + added(dial)) for dial in dials]


def _config_of(path: str | None) -> dict[str, Any]:
    """The configuration of a model file, as far as its header can be read."""
    if path is None or path == "-":
        return {}
    from xtool.errors import XtoolError
    from xtool.storage import Source

    try:
        with Source(Path(path)) as source:
            config = dict(source.require_header().config)
    except XtoolError:
        return {}
    # A file that a header names is not read: only the user admits one.
    foreign = set(registry.own_files(config)) - set(registry.admitted())
    return {name: value for name, value in config.items() if str(value) not in foreign}


def train(
    data: Annotated[
        Path | None,
        typer.Argument(help="A data file; by default that of --from, or the default task's."),
    ] = None,
    parent: Annotated[
        Path | None,
        typer.Option(
            "--from",
            help="A model or training state to go on from; - reads its path.",
            rich_help_panel=INPUT,
        ),
    ] = None,
    config_file: Annotated[
        Path | None,
        typer.Option("--config", help="A TOML file with a table `[train]`.", rich_help_panel=INPUT),
    ] = None,
    own: Own = None,
    arch: Annotated[
        str | None,
        typer.Option(
            help="The architecture, or your own file. [default: gpt]",
            rich_help_panel=MODEL,
            autocompletion=completion(registry.names("archs")),
            envvar="XTOOL_ARCH",
            show_envvar=False,
        ),
    ] = None,
    out: Out = None,
    force: Force = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from NAME.resume.st.", rich_help_panel=OUTPUT)
    ] = False,
    save_config: Annotated[
        Path | None,
        typer.Option(help="Write the dials that were used, TOML.", rich_help_panel=OUTPUT),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done.", rich_help_panel=OUTPUT)
    ] = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    **dials: Any,
) -> None:
    """Train a model, fresh or from another.

    Its path goes to standard output, its rows to NAME.rows.jsonl.
    """
    notes = Notes(quiet or spoken_for(), verbose)
    parent = one_path(parent) if parent else None
    require_files([data] if data else [], "give a data file of `xtool prepare`")
    from xtool.commands._train import Asked
    from xtool.training.parallel import joined

    named = arch or peek_run_file("train").get("arch")
    if isinstance(named, str):
        entry("archs", named)  # else the file's own dials would be called unknown
    every = CHOICE + [dial for dials_of in panels().values() for dial in dials_of]
    from_file = run_file(config_file, "train", every)
    said = {"arch": arch, "preset": dials.pop("preset", None)}
    chosen = resolve(CHOICE, [("", said), (str(config_file), from_file)])
    chosen["arch"] = entry("archs", chosen["arch"])
    for given in (dials, from_file):
        if given.get("attention"):
            given["attention"] = entry("layers/attention", given["attention"])
    asked = Asked(
        data=data,
        parent=parent,
        arch=chosen["arch"] if arch or from_file.get("arch") else None,
        preset=chosen["preset"],
        layers=[(SAID, dials), (str(config_file), from_file)],
        out=out,
        resume=resume,
        force=force,
        dry_run=dry_run,
        config_file=config_file,
        save_config=save_config,
    )
    with joined() as processes:
        _train(asked, notes, processes)


def _train(asked: "Asked", notes: Notes, processes: "Processes") -> None:
    """Plan, say and do it; of several processes the first one speaks."""
    from xtool.archs import Noting, architecture
    from xtool.atomic import replacing, require_writable
    from xtool.commands._progress import ProgressBar
    from xtool.commands._tensorboard import TensorBoard
    from xtool.commands._train import outputs, plan_run
    from xtool.training.loop import train as train_run

    run, going_on = plan_run(asked, notes, processes)
    total = run.total_steps
    together = f", {processes.count} processes" if processes.count > 1 else ""
    several = f"{len(run.seeds)} models, each of " if len(run.seeds) > 1 else ""
    notes.say(
        f"{run.config['arch']}: {several}{asked.params(run):,} parameters, {total:,} steps of "
        f"{run.dials['batch_size']}, {run.progress(total)['flops']:.3g} training FLOPs; "
        f"{run.threads} thread{'s' * (run.threads > 1)}{together}, "
        f"{run.route} -> {run.out}"
    )
    arch = architecture(run.config)
    for note in arch.notes(run.config) if isinstance(arch, Noting) else ():
        notes.say(note)
    if run.config.get("nest"):
        notes.say(_sizes(run.config))
    for name, value in sorted((dict(run.config) | dict(run.dials)).items()):
        notes.detail(f"  {name} = {value}")
    for path in outputs(run.out) if run.dials["keep_best"] else outputs(run.out)[:-1]:
        require_writable(path, asked.force or asked.resume)
    if asked.save_config:
        require_writable(asked.save_config, asked.force)
    if asked.dry_run:
        return
    if asked.save_config and processes.first:
        values = {"arch": run.config["arch"], **asked.used(run), **run.dials}
        with replacing(asked.save_config) as (file, _):
            file.write(run_file_text("train", values).encode())
    processes.wait()
    with ExitStack() as stack:
        listener: Listener = stack.enter_context(ProgressBar(total, run.position.step, notes))
        if run.dials["log"] == "tensorboard" and processes.first:
            listener = stack.enter_context(TensorBoard(listener, run.out, run.position.step))
        digest = train_run(run, listener, resume=going_on)
    notes.detail(f"digest {digest}")
    if processes.first:
        write_stdout(f"{run.out}\n")


def _sizes(config: Mapping[str, Any]) -> str:
    """The sizes that a nested model is trained in, the whole one last."""
    from xtool.archs import count_size, sizes_of

    found = sizes_of(config)
    named = found if len(found) <= SHOWN else [*found[: SHOWN - 1], found[-1]]
    each = [f"{one.label} ({count_size(config, one.changes):,} parameters)" for one in named]
    if len(named) < len(found):
        each.insert(-1, "...")
    return f"{len(found)} sizes: {', '.join(each)}"
