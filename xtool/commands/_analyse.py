"""What `inspect --parts`, `--spectrum`, `--similarity` and `--tokens` do: analyses, as rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from xtool.commands._ui import Notes, chosen_format, write_stdout


@dataclass(frozen=True)
class Wanted:
    """What to find out of models.

    Attributes:
        parts: the shares of their parts in parameters and FLOPs.
        spectrum: the singular values of their matrices.
        similarity: how alike their activations are.
        tokens: how alike their token vectors are at each level.
        groups: a category file with the groups of `tokens`, and behind a colon its level.
        data: the inputs of `similarity`; None looks for those of the first model's lineage.
        split: which of them.
        where: conditions on the rows that are shown.
        form: the rows' format; None for a table on a terminal, else CSV.
    """

    parts: bool
    spectrum: bool
    similarity: bool
    tokens: bool
    groups: str | None
    data: Path | None
    split: str
    where: Sequence[str]
    form: str | None

    def __bool__(self) -> bool:
        return self.parts or self.spectrum or self.similarity or self.tokens


def analyse(paths: Sequence[Path], wanted: Wanted, notes: Notes) -> None:
    """Write the rows of the wanted analyses to standard output.

    Raises:
        UsageError: one model, where two are to be compared, or an unknown format.
        XtoolError: an unreadable model, or data that is not found or does not fit.
    """
    from xtool import rows as tables
    from xtool.analysis.parts import part_rows
    from xtool.analysis.similarity import similarity_rows
    from xtool.analysis.spectrum import spectrum_rows
    from xtool.analysis.tokens import token_rows
    from xtool.config import check_model
    from xtool.dataset import data_of
    from xtool.errors import UsageError
    from xtool.storage import header_of
    from xtool.tasks import open_data

    form = chosen_format(wanted.form)
    if wanted.similarity and len(paths) < 2:
        raise UsageError("`--similarity` compares models: give two or more")
    names = labels(paths)
    rows = []
    if wanted.parts:
        for path, name in zip(paths, names, strict=True):
            config = header_of(path, "model", "resume").config
            check_model(config, str(path))
            rows += part_rows(config, name)
    if wanted.spectrum:
        rows += spectrum_rows(paths, names, notes.say)
    if wanted.similarity:
        data = data_of(paths[0], wanted.data)
        rows += similarity_rows(paths, names, open_data(data), wanted.split, notes.say)
    if wanted.tokens:
        rows += token_rows(paths, names, wanted.groups)
    write_stdout(tables.render(tables.select(rows, wanted.where), form))


def labels(paths: Sequence[Path]) -> list[str]:
    """Each file's name without `.st`, or the whole path where two files share a name."""
    stems = [path.name.removesuffix(".st") for path in paths]
    clash = len({path.resolve() for path in paths}) > len(set(stems))
    return [str(path) for path in paths] if clash else stems
