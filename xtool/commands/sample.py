"""Sample a model: inputs, targets and predictions of its task."""

from pathlib import Path
from typing import Annotated

import typer

from xtool.commands._ui import INPUT, Own, one_path, write_stdout


def sample(
    model: Annotated[Path, typer.Argument(help="A model, or - for its path.")],
    data: Annotated[
        Path | None,
        typer.Option(help="The data; by default that of the lineage.", rich_help_panel=INPUT),
    ] = None,
    split: Annotated[str, typer.Option(help="train, dev or test.", rich_help_panel=INPUT)] = "dev",
    examples: Annotated[int, typer.Option(help="How many.", rich_help_panel=INPUT, min=1)] = 5,
    seed: Annotated[
        int, typer.Option(help="Of the choice of examples.", rich_help_panel=INPUT)
    ] = 0,
    own: Own = None,
) -> None:
    """Show inputs, targets and predictions.

    The wrong ones are marked.
    """
    place = one_path(model)
    import torch

    from xtool.archs import read_model
    from xtool.dataset import find_data
    from xtool.evaluation.score import predict
    from xtool.seeds import derive
    from xtool.tasks import fitted, open_data, task_of

    header, _, built = read_model(place)
    found = open_data(data or find_data(header, [place.parent, Path.cwd()]))
    found = fitted(found, header, "the data")
    chosen = found.split(split)
    generator = torch.Generator().manual_seed(derive(seed, "sample"))
    picked = torch.randperm(len(chosen), generator=generator)[:examples]
    inputs, targets = chosen.inputs[picked], chosen.targets[picked]
    task = task_of(header, str(place))
    lines = task.show(header, inputs, targets, predict(built, inputs))
    write_stdout("\n".join(lines) + "\n")
