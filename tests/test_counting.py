"""The counting task and the corpora it is made from."""

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Run

from xtool import registry
from xtool.checkpoint import save
from xtool.config import options, resolve
from xtool.corpora import read_corpus, text_of
from xtool.corpora._normalise import ALPHABET, normalise, pieces
from xtool.dataset import data_of, read_dataset
from xtool.errors import XtoolError
from xtool.header import Header
from xtool.tasks import Shape, counting, make_data
from xtool.tasks.counting import ENTRY as TASK
from xtool.tasks.counting import counts
from xtool.tokenizers import restore

DIALS = resolve(options("tasks", "counting"), [])


def test_the_default_data_is_what_the_task_promises(tmp_path: Path) -> None:
    make_data(tmp_path / "d.st", "counting", "builtin", {}, DIALS, 0)
    data = read_dataset(tmp_path / "d.st")
    assert {name: len(split) for name, split in data.splits.items()} == {
        "train": 10000,
        "dev": 1000,
        "test": 1000,
    }
    strings = [{bytes(row) for row in split.inputs.tolist()} for split in data.splits.values()]
    assert not strings[0] & strings[1]
    assert not strings[0] & strings[2]
    assert not strings[1] & strings[2]
    assert TASK.shape(data.header) == Shape(27, 20, 3)
    assert len(data.header.config["sha256"]) == 64
    make_data(tmp_path / "e.st", "counting", "builtin", {}, DIALS, 1)
    assert not torch.equal(
        read_dataset(tmp_path / "e.st").splits["dev"].inputs, data.splits["dev"].inputs
    )


def test_targets_count_earlier_occurrences_up_to_the_cap() -> None:
    symbols = torch.tensor([[1, 1, 2, 1, 1, 2]])
    assert counts(symbols, 2).tolist() == [[0, 1, 0, 2, 2, 1]]
    assert counts(symbols, 9).tolist() == [[0, 1, 0, 2, 3, 1]]


def test_long_strings_are_cut_from_a_corpus_and_counted_in_parts(
    xtool: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = " ".join(f"{chr(97 + i % 26)}{chr(97 + i % 7)}" for i in range(9000))
    sizes = ["--train-size", 2, "--dev-size", 1, "--test-size", 1]
    done = xtool("prepare", "counting", "-", "--length", 2000, *sizes, "-o", "l.st", stdin=text)
    assert done.code == 0, done.err
    symbols = torch.randint(27, (9, 12), generator=torch.Generator().manual_seed(0))
    whole = counts(symbols, 3)
    monkeypatch.setattr(counting, "AT_ONCE", 4 * 12**2)
    assert torch.equal(counts(symbols, 3), whole)


@pytest.mark.parametrize("name", registry.names("tasks"))
def test_a_task_scores_its_own_targets_perfectly(name: str) -> None:
    task = registry.load("tasks", name)
    if "squared_error" in task.metrics:
        values = torch.randn(4, 20)
        found = task.score(values.repeat_interleave(2, 1)[..., None], values)
        assert tuple(found) == task.metrics
        assert not any(errors.any() for errors in found.values())
        return
    targets = torch.randint(3, (4, 20), generator=torch.Generator().manual_seed(0))
    logits = 100.0 * torch.nn.functional.one_hot(targets, 3)
    found = task.score(logits, targets)
    assert tuple(found) == task.metrics
    assert found["accuracy"].tolist() == [1.0] * 4
    assert float(found["loss"].max()) < 1e-9
    assert float(task.score(-logits, targets)["accuracy"].max()) == 0.0


def test_text_is_normalised_as_text8_has_it() -> None:
    assert normalise("  Hello, World 42!\n\nÉté") == "hello world four two t"
    assert normalise("a1b") == "a one b"


def test_a_long_paragraph_is_cut_at_spaces_and_loses_nothing() -> None:
    text = normalise("word " * 1000)
    assert " ".join(pieces(text, 100)) == text
    assert max(map(len, pieces(text, 100))) <= 100
    assert "".join(pieces("x" * 950, 100)) == "x" * 950


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "empty"),
        (b"  \n\n ", "empty"),
        (b"abc\n\xff\xfe", r"not UTF-8 text: byte 4 \(line 2\) is 0xff"),
        (b"a\0b", "binary: byte 1"),
    ],
)
def test_what_is_not_text_is_refused_with_the_place(raw: bytes, message: str) -> None:
    with pytest.raises(XtoolError, match=message):
        text_of("x", raw)


def test_the_large_corpus_contains_the_small_one() -> None:
    small, large = read_corpus("builtin"), read_corpus("builtin-large")
    assert large.text.startswith("\n\n".join(small.paragraphs))
    assert sum(map(len, large.paragraphs)) > 2 * sum(map(len, small.paragraphs))


def test_too_small_a_corpus_says_both_numbers(xtool: Run) -> None:
    done = xtool("prepare", "counting", "-", stdin="hello world this is a small text")
    assert done.code == 1
    assert "gives 1 different strings of 20 characters, 12000 are asked for" in done.err


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("too short", "line 2 has 9 characters, the task has 20"),
        ("x" * 19 + "!", "line 2 holds '!'"),
    ],
)
def test_a_bad_line_is_named(line: str, message: str, xtool: Run, tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("a" * 20 + "\n" + line + "\n")
    (tmp_path / "dev.txt").write_text("b" * 20 + "\n")
    done = xtool("prepare", "counting", "--lines", "train.txt", "dev.txt")
    assert done.code == 1
    assert message in done.err
    assert not list(tmp_path.glob("*.st"))


def test_ready_lines_become_train_and_dev(xtool: Run, tmp_path: Path) -> None:
    drawn = random.Random(0)
    lines = {
        name: ["".join(drawn.choices(ALPHABET, k=20)) for _ in range(size)]
        for name, size in (("train", 300), ("dev", 40))
    }
    for name, found in lines.items():
        (tmp_path / f"{name}.txt").write_text("\n".join(found) + "\n")
    done = xtool("prepare", "counting", "--lines", "train.txt", "dev.txt", "-o", "h.st")
    assert done.code == 0, done.err
    data = read_dataset(tmp_path / "h.st")
    tokenizer = restore(data.header.tokenizer)
    for name, found in lines.items():
        assert [tokenizer.decode(one) for one in data.split(name).inputs] == found
    assert list(data.splits) == ["train", "dev"]


def test_data_is_found_by_its_digest_whatever_its_name(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def told(command: str, digest: str) -> dict[str, Any]:
        own = {"command": command, "inputs": {"data": digest}}
        return {"options": {}, "seed": 0, "version": "0", **own}

    digest = read_dataset(data).header.digest
    # What a map was fitted to is no training.
    lineage = [told("train", digest), told("grow", "f" * 64)]
    header = Header.model_validate({"kind": "model", "lineage": lineage})
    (tmp_path / "sub").mkdir()
    save(tmp_path / "sub" / "m.st", header, {"x": torch.ones(1)})
    data.rename(tmp_path / "renamed.st")
    model = tmp_path / "sub" / "m.st"
    assert data_of(model).name == "renamed.st"
    assert data_of(model, Path("given.st")) == Path("given.st")
    monkeypatch.chdir(tmp_path / "sub")
    with pytest.raises(XtoolError, match="not beside it"):
        data_of(model)


def test_examples_are_shown_over_their_targets(data: Path, xtool: Run) -> None:
    shown = xtool("inspect", data, "--examples", 2)
    lines = [line for line in shown.out.splitlines() if line.startswith(("input", "target"))]
    assert len(lines) == 4
    assert len(lines[0]) == len(lines[1]) == 28
