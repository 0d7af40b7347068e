"""Inspect files: header, lineage, and tensors with their axes; spectra and likeness of models."""

import json
import struct
from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Annotated, Any

import typer

from xtool import registry
from xtool.commands._analyse import Wanted, analyse
from xtool.commands._dials import completion
from xtool.commands._ui import INPUT, OUTPUT, Notes, Own, Quiet, paths, write_stdout
from xtool.errors import UsageError
from xtool.rows import FORMATS

if TYPE_CHECKING:
    from xtool.storage import Entry, Source


def inspect(
    file: Annotated[list[Path], typer.Argument(help="Files, or - for their paths.")],
    examples: Annotated[
        int,
        typer.Option(help="Of a data file, show this many examples.", rich_help_panel=INPUT, min=0),
    ] = 0,
    parts: Annotated[
        bool,
        typer.Option(
            "--parts",
            help="Rows: each part's share of the parameters and of the FLOPs.",
            rich_help_panel=INPUT,
        ),
    ] = False,
    spectrum: Annotated[
        bool,
        typer.Option(
            "--spectrum",
            help="Rows: each matrix's singular values over its largest, and their distance from "
            "the first model's.",
            rich_help_panel=INPUT,
        ),
    ] = False,
    similarity: Annotated[
        bool,
        typer.Option(
            "--similarity",
            help="Rows: linear CKA of the activations with the first model's, stage by stage.",
            rich_help_panel=INPUT,
        ),
    ] = False,
    tokens: Annotated[
        bool,
        typer.Option(
            "--tokens",
            help="Rows: the cosine of each pair of token vectors, at each nested width.",
            rich_help_panel=INPUT,
        ),
    ] = False,
    groups: Annotated[
        str | None,
        typer.Option(
            help="For --tokens: a category file, FILE or FILE:LEVEL, whose groups are columns that "
            "pictures follow.",
            rich_help_panel=INPUT,
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            help="The inputs of --similarity; by default the lineage's.", rich_help_panel=INPUT
        ),
    ] = None,
    split: Annotated[
        str, typer.Option(help="Of that data: train, dev or test.", rich_help_panel=INPUT)
    ] = "dev",
    own: Own = None,
    categories: Annotated[
        bool,
        typer.Option(
            "--categories",
            help="The groups of tokens that a model has learned, as a category file.",
            rich_help_panel=OUTPUT,
        ),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object a file.", rich_help_panel=OUTPUT)
    ] = False,
    where: Annotated[
        list[str] | None, typer.Option(help="Keep rows with COLUMN=VALUE.", rich_help_panel=OUTPUT)
    ] = None,
    form: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="Of rows: table, csv, jsonl or markdown; a table on a terminal, else csv.",
            rich_help_panel=OUTPUT,
            autocompletion=completion(FORMATS),
        ),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Show what files are and how they came to be, or with --spectrum and --similarity how alike.

    Models are compared with the first. Give controls too: an untrained one (`xtool train DATA
    --steps 0`), and one of another seed.
    """
    wanted = Wanted(parts, spectrum, similarity, tokens, groups, data, split, where or [], form)
    if wanted and (as_json or examples):
        raise UsageError("`--json` and `--examples` are not for rows", "`--format jsonl` is")
    if groups is not None and not tokens:
        raise UsageError("`--groups` is for `--tokens`")
    if not wanted and (data or where or form):
        raise UsageError(
            "`--data`, `--where` and `--format` are for rows: --parts, --spectrum, --similarity, "
            "--tokens"
        )
    if wanted:
        analyse(paths(file), wanted, Notes(quiet, verbose=False))
        return
    for path in paths(file):
        if categories:
            write_stdout(_categories(path))
            continue
        found = describe(path)
        if as_json:
            write_stdout(json.dumps(found) + "\n")
        else:
            write_stdout(text(found))
        if examples:
            write_stdout(_examples(path, examples))


def describe(path: Path) -> dict[str, Any]:
    """What the header of a file says, as JSON values; the digest is not checked."""
    from xtool.axes import explain, layout
    from xtool.config import check_model
    from xtool.storage import BYTES, Source

    with Source(path) as source:
        header = source.header
        ours, missing = None, list[str]()
        if header and header.kind in ("model", "resume"):
            own = registry.own_files(header.config)
            missing = [name for name in own if name not in registry.admitted()]
            if not missing:
                check_model(header.config, str(path))
                ours = layout(header.config)
        tensors = []
        for entry in sorted(source.entries.values(), key=lambda one: one.name):
            one: dict[str, Any] = {"name": entry.name, "dtype": entry.dtype, "shape": entry.shape}
            name = entry.name.removeprefix("model/").removeprefix("average/")
            owner, _, kept = name.removeprefix("optimizer/").rpartition("/")
            if ours and kept == "factors":
                factors = zip(("lr", "eps", "decay"), _doubles(source, entry), strict=False)
                one["axes"] = ", ".join(f"{dial} x {value:.4g}" for dial, value in factors)
            elif ours and not kept.startswith("age."):
                of = owner if name.startswith("optimizer/") else name
                ours.check(of, entry.shape, str(path))
                one["axes"] = explain(ours.axes(of), ours.replicas)
            tensors.append(one | {"bytes": prod(entry.shape) * BYTES[entry.dtype]})
        trained = [
            t
            for t in tensors
            if ours
            and not t["name"].startswith(("optimizer/", "average/"))
            and not ours.is_frozen(t["name"].removeprefix("model/"))
        ]
        return {
            "path": str(path),
            "needs": missing,
            "bytes": source.size,
            "header": header.model_dump(by_alias=True) if header else None,
            "params": sum(prod(t["shape"]) for t in trained) // ours.replicas if ours else None,
            "tensors": tensors,
        }


def _doubles(source: "Source", entry: "Entry") -> tuple[float, ...]:
    """The first few values of a small tensor of doubles."""
    raw = source.read(entry.start, min(entry.stop - entry.start, 24))
    return struct.unpack(f"<{len(raw) // 8}d", raw[: len(raw) // 8 * 8])


def text(found: Mapping[str, Any]) -> str:
    """A description as a person reads it."""
    from xtool.errors import printable
    from xtool.lineage import Step, explain
    from xtool.rows import to_table

    header = found["header"]
    lines = [f"{found['path']}: {found['bytes']:,} bytes"]
    if header is None:
        lines.append("a safetensors file without an xtool header")
    else:
        lines[0] += f", {header['kind']}, digest {header['digest'][:16]}"
        if found["params"] is not None:
            lines[0] += f", {found['params']:,} parameters"
        for part in ("config", "task", "tokenizer", "training"):
            if header[part]:
                lines += ["", part, *_pairs(header[part])]
        steps = [Step.model_validate(one) for one in header["lineage"]]
        lines += ["", "lineage"]
        for line in explain(steps):
            lines += wrap(line, 98, initial_indent="  ", subsequent_indent="     ")
    rows = [one | {"shape": "x".join(map(str, one["shape"]))} for one in found["tensors"]]
    columns = [c for c in ("name", "dtype", "shape", "axes", "bytes") if any(c in r for r in rows)]
    table = to_table(rows, columns) if rows else "no tensors\n"
    hint = [f"axes: pass `--own {name}`\n\n" for name in found["needs"]]
    return printable("\n".join(lines)) + "\n\n" + table + "\n" + "".join(hint)


def _pairs(values: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """One line a value, those of inner tables under a dotted name."""
    for name, value in sorted(values.items()):
        if isinstance(value, dict):
            yield from _pairs(value, f"{prefix}{name}.")
        else:
            line = str(value).replace("\n", "\\n")
            yield f"  {prefix}{name} = {line}"


def _examples(path: Path, number: int) -> str:
    from xtool.dataset import Drawn
    from xtool.tasks import defaults, open_data, task_of

    data = open_data(path)
    task = task_of(data.header, str(path))
    usual = defaults(data.header).get("context")
    cut = data.cut(min(usual or 1, data.longest))
    split = cut.split("train")
    split = cut.stored("dev") if isinstance(split, Drawn) else split
    lines = task.show(data.header, split.inputs[:number], split.targets[:number], None)
    return "\n".join(lines) + "\n"


def _categories(path: Path) -> str:
    """A category file of the groups that stand in a model's header.

    Raises:
        XtoolError: it learned none.
    """
    from xtool.categories import category_text
    from xtool.errors import XtoolError
    from xtool.storage import header_of
    from xtool.tokenizers import texts_of

    header = header_of(path, "model")
    groups = header.training.get("categories")
    if not groups:
        raise XtoolError(
            f"{path}: was trained with no groups of tokens",
            "`xtool train` with `--categories` or `--emergent` has them",
        )
    tokens = texts_of(header.tokenizer)
    if len({*tokens}) < len(tokens):
        raise XtoolError(f"{path}: some tokens have one text, no file could tell them apart")
    return category_text(groups, tokens)
