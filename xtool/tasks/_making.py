"""From a corpus, or from lines that stand ready, to a data file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xtool import registry
from xtool.corpora import Text, read_corpus, read_lines
from xtool.dataset import write_dataset
from xtool.errors import UsageError, located
from xtool.header import Header
from xtool.lineage import step
from xtool.storage import Source
from xtool.tasks._contracts import Task
from xtool.tokenizers import Tokenizer, restore

DRAWN = "drawn"  # the corpus of a task that reads none


def make_data(
    out: Path,
    name: str,
    corpus: str,
    lines: Mapping[str, Path],
    dials: Mapping[str, Any],
    seed: int,
    tokenizer_from: Path | None = None,
) -> str:
    """Prepare a task's data file and return its digest.

    Args:
        out: where it goes.
        name: the task.
        corpus: a corpus by name or path, or `-`; not read when `lines` are given.
        lines: files that hold one example a line, by split.
        dials: the task's own.
        seed: of the split.
        tokenizer_from: a model or data file whose tokenizer to use.
    """
    task: Task = registry.load("tasks", name)
    if lines and tokenizer_from:
        raise UsageError("`--lines` are ready examples, `--tokenizer-from` is for a text")
    if lines:
        texts = {split: read_lines(path) for split, path in lines.items()}
        made = task.prepare_lines(texts, dials)
        inputs = {split: text.sha256 for split, text in texts.items()}
        source: dict[str, Any] = {"corpus": "lines", "sha256": inputs}
    else:
        text = Text(corpus, "", "") if corpus == DRAWN else read_corpus(corpus)
        tokenizer, digest = _tokenizer_of(tokenizer_from) if tokenizer_from else (None, "")
        made = task.prepare(text, dials, seed, tokenizer)
        inputs = {"corpus": text.sha256, "tokenizer": digest}
        inputs = {name: value for name, value in inputs.items() if value}
        source = {"corpus": text.name, "sha256": text.sha256, "note": text.note}
    options = {"task": name, "corpus": source["corpus"], **dials}
    header = Header(
        kind="data",
        config=source,
        task=made.task,
        tokenizer=made.tokenizer,
        lineage=[step("prepare", options, inputs, seed)],
    )
    return write_dataset(out, header, made.splits)


def _tokenizer_of(path: Path) -> tuple[Tokenizer, str]:
    """The tokenizer of a file, and the file's digest."""
    with Source(path) as source:
        header = source.require_header("model", "data", "resume")
        digest = source.verify()
        with located(path):
            return restore(header.tokenizer), digest
