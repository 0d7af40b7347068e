"""Check files: format, header, digest, shapes and finite values, to the last bit.

A user's own attention variant is held against the laws of all variants.
"""

from pathlib import Path
from typing import Annotated

import typer

from xtool import registry
from xtool.commands._ui import Own, paths, write_stdout


def check(
    file: Annotated[list[Path], typer.Argument(help="Files, or - for their paths.")],
    own: Own = None,
) -> None:
    """Read every byte of files and judge them.

    A verdict for each goes to standard output; exit code 3 if one is bad. Of an attention variant
    of your own, a `.py` file, each law has a verdict.
    """
    from xtool.errors import XtoolError, located

    bad = 0
    for path in paths(file):
        if path.suffix == ".py":
            bad += _laws(path)
            continue
        try:
            with located(path):
                found = verdict(path)
            write_stdout(f"ok   {path}: {found}\n")
        except XtoolError as error:
            bad += 1
            write_stdout(f"bad  {error.message}\n")
    if bad:
        raise typer.Exit(3)


def _laws(path: Path) -> int:
    """Say which laws a user's own attention variant obeys; how many it does not."""
    from xtool.surgery.laws import verdicts

    broken = 0
    for one in verdicts(registry.admit(str(path))):
        write_stdout(f"{'ok ' if one.holds else 'bad'}  {path}: {one.law}: {one.found}\n")
        broken += not one.holds
    return broken


def verdict(path: Path) -> str:
    """What a good file is, after reading all of it.

    Raises:
        XtoolError: something about it is not as it should be.
    """
    from xtool.archs import read_model
    from xtool.checkpoint import Reader
    from xtool.storage import Source
    from xtool.surgery.state import check_state
    from xtool.tasks import open_data, require_fit

    with Source(path) as source:
        header = source.require_header()
        source.verify()
        reader = Reader(source)
        foreign = [n for n in registry.own_files(header.config) if n not in registry.admitted()]
        for name in reader.names:
            reader.tensor(name)
        if header.kind == "resume" and not foreign:
            check_state(source)
    if header.kind == "model" and not foreign:
        for replica in range(header.replicas):
            read_model(path, replica, verify=False)
        if header.task:
            require_fit(header.config, header, str(path))
    if header.kind == "data":
        open_data(path)
    left = f"; axes not checked, pass `--own {foreign[0]}`" if foreign else ""
    return f"{header.kind}, {len(reader.names)} tensors, digest {header.digest[:16]}{left}"
