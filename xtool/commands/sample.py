"""Sample a model: the text that it goes on with, or inputs, targets and predictions of its task."""

from pathlib import Path
from typing import Annotated, Any

import typer

from xtool.commands._ui import INPUT, Device, Own, Threads, one_path, write_stdout
from xtool.errors import UsageError

TEXT, SHOW = "Text", "Examples"


def sample(
    model: Annotated[Path, typer.Argument(help="A model, or - for its path.")],
    prompt: Annotated[
        str | None,
        typer.Option(help="The text to go on from; - reads it.", rich_help_panel=TEXT),
    ] = None,
    length: Annotated[int, typer.Option(help="Tokens.", rich_help_panel=TEXT, min=1)] = 500,
    samples: Annotated[int, typer.Option(help="How many.", rich_help_panel=TEXT, min=1)] = 1,
    temperature: Annotated[
        float, typer.Option(help="0 takes the likeliest token.", rich_help_panel=TEXT)
    ] = 0.8,
    top_k: Annotated[
        int | None, typer.Option(help="Only so many of the likeliest.", rich_help_panel=TEXT)
    ] = None,
    top_p: Annotated[
        float,
        typer.Option(help="Only the likeliest of this probability.", rich_help_panel=TEXT),
    ] = 1.0,
    stop: Annotated[
        str | None, typer.Option(help="End before this text.", rich_help_panel=TEXT)
    ] = None,
    no_cache: Annotated[
        bool, typer.Option("--no-cache", help="Compute every position anew.", rich_help_panel=TEXT)
    ] = False,
    data: Annotated[
        Path | None,
        typer.Option(help="The data; by default that of the lineage.", rich_help_panel=SHOW),
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="train, dev or test. [default: dev]", rich_help_panel=SHOW)
    ] = None,
    examples: Annotated[
        int | None, typer.Option(help="How many. [default: 5]", rich_help_panel=SHOW, min=1)
    ] = None,
    seed: Annotated[int, typer.Option(help="Of what is drawn.", rich_help_panel=INPUT)] = 0,
    size: Annotated[
        str | None,
        typer.Option(
            help="Of a nested model, the size to run: as 16, or d_ff=64.", rich_help_panel=INPUT
        ),
    ] = None,
    replica: Annotated[
        int | None, typer.Option(help="Which of several models.", rich_help_panel=INPUT)
    ] = None,
    device: Device = "cpu",
    threads: Threads = None,
    own: Own = None,
) -> None:
    """Print text that a language model goes on with, or examples of a task.

    Of examples inputs, targets and predictions are shown, the wrong ones marked.
    """
    place = one_path(model)
    from xtool.archs import read_model
    from xtool.commands._sample import Drawing, show, speak
    from xtool.tasks import task_of
    from xtool.training.devices import device_of, threads_of

    threads_of(threads)
    changes = _changes(place, size) if size is not None else None
    header, _, built = read_model(place, replica, size=changes)
    built = built.to(device_of(device))
    text = task_of(header, str(place)).shape(header).context is None
    if text and (data, split, examples) == (None, None, None):
        speak(
            built,
            header,
            prompt,
            Drawing(length, samples, temperature, top_k, top_p, stop, not no_cache, seed),
        )
        return
    if prompt is not None:
        raise UsageError(
            f"`--prompt` is for the text of a language model, not for examples of {place}",
            "leave out `--data`, `--split` and `--examples`" if text else "leave it out",
        )
    write_stdout(show(built, header, place, data, split or "dev", examples or 5, seed))


def _changes(place: Path, size: str) -> dict[str, Any]:
    """What a size changes of a model that was trained in it.

    Raises:
        UsageError: it has no such size.
    """
    from xtool.archs import parse_size, require_size
    from xtool.storage import header_of

    config = {"nest": None, **header_of(place, "model").config}
    found = parse_size(size, config)
    require_size(config, found, str(place))
    return dict(found.changes)
