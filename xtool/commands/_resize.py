"""What `grow` and `slice` share: the sizes that were asked for, and the name of the output."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from xtool import registry
from xtool.atomic import require_apart, require_writable
from xtool.axes import SIZES
from xtool.config import Option
from xtool.errors import UsageError

TYPES = {"d_ff": "ints"}
OPTIONS = [Option(name, TYPES.get(name, "int"), None, text) for name, text in SIZES.items()]
Width = Annotated[
    int | None,
    typer.Option(
        "--to",
        "--d-model",
        help="The new d_model.",
        rich_help_panel="Sizes",
        envvar="XTOOL_D_MODEL",
        show_envvar=False,
    ),
]
Vocab = Annotated[
    int | None,
    typer.Option(
        "--vocab",
        "--vocab-size",
        help=SIZES["vocab_size"] + ".",
        rich_help_panel="Sizes",
        envvar="XTOOL_VOCAB_SIZE",
        show_envvar=False,
    ),
]
PANEL = [option for option in OPTIONS if option.name not in ("d_model", "vocab_size")]


def changes(sizes: Mapping[str, Any], enough: bool = False) -> dict[str, Any]:
    """The sizes that were given.

    Raises:
        UsageError: none was, and what else was given is not `enough`.
    """
    given = {name: size for name, size in sizes.items() if size is not None}
    if not given and not enough:
        raise UsageError("no size given", "`--to N` sets d_model; see `--help` for the others")
    return given


def target(path: Path, out: Path | None, wanted: Mapping[str, Any], method: str = "") -> Path:
    """`-o`, or beside the input: `small-96.st`, `small-n_layers4.st`, `small-96.resume.st`."""
    if out is not None:
        return out
    said = {k: "_".join(map(str, v)) if isinstance(v, list) else v for k, v in wanted.items()}
    parts = [str(v) if k == "d_model" else f"{k}{v}" for k, v in said.items()]
    stem = path.name.removesuffix(".st")
    end = ".resume.st" if stem.endswith(".resume") else ".st"
    return path.with_name("-".join([stem.removesuffix(".resume"), *(parts or [method])]) + end)


def places(
    models: Sequence[Path],
    out: Path | None,
    named: Callable[[Path], Path],
    inputs: Iterable[Path | None],
    force: bool | None,
) -> list[Path]:
    """Where what becomes of each model goes, looked at before the first is written.

    Args:
        models: the inputs.
        out: `-o`.
        named: the name without it.
        inputs: other files that are read, beside the user's own code.
        force: whether a file there may be replaced; None where nothing will be written.

    Raises:
        UsageError: one name for several, or an output that is an input.
        XtoolError: an output is in the way, or cannot be written.
    """
    if out and len(models) > 1:
        raise UsageError(f"`-o` names one file, {len(models)} models were given")
    found = [out or named(path) for path in models]
    require_apart(found, [*models, *inputs, *registry.admitted().values()])
    if force is not None:
        for place in found:
            require_writable(place, force)
    return found
