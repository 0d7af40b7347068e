import ast
from pathlib import Path

import pytest

from xtool import registry
from xtool.config import Option, options, read_run_file, resolve, run_file_text
from xtool.errors import UsageError, XtoolError

FOLDERS = [
    "archs",
    "tasks",
    "corpora",
    "tokenizers",
    "surgery/operators",
    "layers/attention",
    "plots",
]


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_file_of_a_folder_is_an_entry_with_a_summary(folder: str) -> None:
    for name in registry.names(folder):
        assert registry.load(folder, name) is not None
        summary = ast.get_docstring(ast.parse(registry.path_of(folder, name).read_text()))
        assert summary
        assert summary.splitlines()[0].endswith(".")
        for dial in options(folder, name):
            assert dial.help
            dial.parse(dial.default, name)


def test_an_unknown_name_lists_the_known_ones_and_guesses() -> None:
    with pytest.raises(UsageError) as error:
        registry.path_of("surgery/operators", "clown")
    assert "did you mean `clone`?" in error.value.hint
    assert "pad" in error.value.hint


def test_a_users_own_file_is_used_by_its_name_once_it_was_passed(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="its user's own"):
        registry.path_of("archs", "mine.py")
    path = tmp_path / "mine.py"
    path.write_text('"""Mine."""\nOPTIONS = [("a", "int", 1, "one")]\nENTRY = 5\n')
    assert registry.admit(str(path)) == "mine.py"
    assert registry.load("archs", "mine.py") == 5
    assert [dial.name for dial in options("archs", "mine.py")] == ["a"]
    assert len(registry.source_digests(["mine.py"])["mine.py"]) == 64


def test_a_literal_that_is_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "clever.py"
    path.write_text("OPTIONS = list()\n")
    registry.admit(str(path))
    with pytest.raises(XtoolError, match="must be a literal"):
        options("archs", "clever.py")


DIALS = [
    Option("lr", "float", 0.1, ""),
    Option("kind", "a|b", "a", ""),
    Option("n", "int", None, ""),
]


def test_the_first_source_that_has_a_value_wins() -> None:
    sources = [("flags", {"lr": None}), ("file", {"lr": 2.0}), ("checkpoint", {"lr": 3.0, "n": 4})]
    assert resolve(DIALS, sources) == {"lr": 2.0, "kind": "a", "n": 4}


@pytest.mark.parametrize(
    "bad", [{"lr": "x"}, {"lr": float("nan")}, {"kind": "c"}, {"n": 1.5}, {"n": True}]
)
def test_a_value_of_the_wrong_type_is_refused(bad: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        resolve(DIALS, [("file", bad)])


def test_a_run_file_reads_back_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    values = {"lr": 0.5, "kind": "b", "n": None}
    path.write_text(run_file_text("train", values))
    assert read_run_file(path, "train", DIALS) == {"lr": 0.5, "kind": "b"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[train]\nlrr = 1", "unknown dial"),
        ("train", "not TOML"),
        ("[other]\na = 1", "no table"),
        ("[train]\nlr = 1\nL = 2", "unknown dial"),
        ("[train]\nkind = 3", "must be a word"),
        ("[train]\nlr = 1" + "0" * 400, "must be finite"),
        ("[train]\nlr = " + "[" * 3000, "not TOML"),
    ],
)
def test_a_bad_run_file_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "run.toml"
    path.write_text(text)
    with pytest.raises(XtoolError, match=message):
        read_run_file(path, "train", DIALS)
