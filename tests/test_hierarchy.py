"""Hierarchies of tokens: category files, groups that emerge, and what nested sizes learn."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TEXT, Run

from xtool.analysis.grouping import agreement, clarity, grouped
from xtool.categories import category_text, read_categories
from xtool.checkpoint import load
from xtool.errors import XtoolError
from xtool.evaluation.sizes import excess
from xtool.storage import Source
from xtool.tasks import open_data
from xtool.tokenizers import texts_of
from xtool.training import hierarchy

TOKENS = ["\n", " ", "a", "b", "c", "A", "B", "-", "a-z", "3"]
STUDY = Path(__file__).parents[1] / "examples" / "categories.toml"


def groups_of(text: str, folder: Path, name: str = "c.toml") -> list[int]:
    (folder / name).write_text(text)
    return read_categories(folder / name, TOKENS)[0]["4"]


@pytest.mark.parametrize(
    ("entries", "members"),
    [
        ('["a-c"]', "abc"),
        ('["text:a-z", "-"]', ["a-z", "-"]),
        ('["class:upper"]', "AB"),
        ('["class:space", "class:digit"]', "\n 3"),
        ('["re:[aA]", "b"]', "aAb"),
        ('["\\n"]', "\n"),
        ('["class:punctuation"]', ["-"]),
    ],
)
def test_an_entry_is_a_token_a_range_a_class_or_an_expression(
    entries: str, members: list[str], tmp_path: Path
) -> None:
    found = groups_of(f"[levels.4]\nx = {entries}\n", tmp_path)
    inside = {token for token, group in zip(TOKENS, found, strict=True) if group == 0}
    assert inside == {*members}
    assert len({*found}) == len(TOKENS) - len(inside) + 1, "the others are groups of their own"


def test_toml_json_and_yaml_say_the_same(tmp_path: Path) -> None:
    found = groups_of('[levels.4]\nx = ["a", "b"]\ny = ["A"]\n', tmp_path)
    table = {"levels": {"4": {"x": ["a", "b"], "y": ["A"]}}}
    assert groups_of(json.dumps(table), tmp_path, "c.json") == found
    pytest.importorskip("yaml")
    assert groups_of("levels:\n  4:\n    x: [a, b]\n    y: [A]\n", tmp_path, "c.yaml") == found


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[levels.4]\nx = ["a"]\ny = ["a-c"]\n', "'a' is in `x` and in `y`"),
        ('[levels.4]\nx = ["q"]\n', "no token is 'q'"),
        ('[levels.4]\nx = ["text:az"]\n', "no token is 'az'"),
        ('[levels.4]\nx = ["class:uper"]\n', "unknown class `uper`"),
        ('[levels.4]\nx = ["re:["]\n', "`re:[`"),
        ('[levels.4]\nx = ["re:Q"]\n', "`x` holds no token"),
        ("[levels.4]\nx = 3\n", "must be a list of texts"),
        ("levels = 3\n", "must hold `levels`"),
        ("[levels\n", "not TOML"),
        ("[levels.4]\n", "has no group"),
        ('[levels.4]\nx = ["re:' + "(" * 5000 + '"]\n', "recursion"),
        ('[levels.4]\nx = ["re:a{9999999999999}"]\n', "too large"),
        ('overlaps = "first"\n[levels.4]\nx = ["a"]\n', "`overlaps` must be"),
        ('[level.4]\nx = ["a"]\n', "must hold `levels`"),
    ],
)
def test_category_files_that_cannot_be_read(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(XtoolError) as caught:
        groups_of(text, tmp_path)
    assert message in caught.value.message
    if "az" in text:
        assert "near are 'a-z'" in str(caught.value.hint)


def test_the_last_group_has_a_token_of_two_where_that_is_asked_for(tmp_path: Path) -> None:
    text = 'overlaps = "last"\n[levels.4]\nx = ["a-c"]\ny = ["c"]\n'
    found = dict(zip(TOKENS, groups_of(text, tmp_path), strict=True))
    assert found["a"] == found["b"] != found["c"]


def test_a_token_of_no_group_is_alone_whatever_groups_are_called(tmp_path: Path) -> None:
    found = groups_of('[levels.4]\n"token 0" = ["a", "b"]\n', tmp_path)
    assert found == [1, 2, 0, 0, *range(3, 9)]
    assert groups_of('[levels.4]\nx = ["re:[[ab]"]\n', tmp_path) == found, "without a warning"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("c.json", '{"levels": {"4": {"x": ["a"]}, "4": {"x": ["b"]}}}', "`4` stands there twice"),
        ("c.yaml", "levels:\n  4: {x: [a]}\n  4: {x: [b]}\n", "`4` stands there twice"),
        ("c.yaml", "levels:\n  4: {x: [a]}\n  '4': {x: [b]}\n", "level 4: stands there twice"),
        ("c.yaml", "levels: {4: {1: [a], '1': [b]}}\n", "two groups are called alike"),
        ("c.json", '{"levels": {"4": {"\\ud800": ["a"]}}}', "is no text"),
        ("c.yaml", "levels: !!timestamp x\n", "not YAML"),
        ("c.yaml", "levels: !!bool x\n", "not YAML"),
        ("c.yaml", "overlaps:\n- &a [x]\n" + "- [*a]\n" * 40, "must hold `levels`"),
    ],
)
def test_other_formats_are_read_as_strictly(
    name: str, text: str, message: str, tmp_path: Path
) -> None:
    pytest.importorskip("yaml")
    with pytest.raises(XtoolError, match=message):
        groups_of(text, tmp_path, name)


def test_groups_of_yaml_may_be_called_by_numbers(tmp_path: Path) -> None:
    pytest.importorskip("yaml")
    assert groups_of("levels: {4: {1: [a, b], 2.5: [A]}}\n", tmp_path, "c.yml")[2:6] == [0, 0, 4, 1]


def test_found_groups_can_be_imposed_again(tmp_path: Path) -> None:
    groups = {"4": [0, 1, 2, 2, 3, 2, 4, 4, 4, 5]}
    (tmp_path / "c.toml").write_text(category_text(groups, TOKENS))
    again = read_categories(tmp_path / "c.toml", TOKENS)[0]["4"]
    assert agreement(again, groups["4"]) == 1


def test_the_excess_is_zero_at_its_floor_and_the_loss_where_groups_are_tokens() -> None:
    targets = torch.tensor([[0, 1, 2]])
    logits = torch.tensor([[[5.0, 5.0, -60.0]] * 2 + [[-60.0, -60.0, 5.0]]]).double()
    assert float(excess(logits, targets, [0, 0, 1]).abs().max()) < 1e-9
    random = torch.randn(1, 3, 3, generator=torch.Generator().manual_seed(0)).double()
    whole = torch.nn.functional.cross_entropy(random[0], targets[0], reduction="none")
    torch.testing.assert_close(excess(random, targets, [0, 1, 2])[0], whole)
    assert float(excess(random, targets, [0, 0, 1]).min()) >= 0


@pytest.mark.parametrize("method", ["average", "hdbscan", "threshold"])
@pytest.mark.parametrize("lonely", [0, 2])
def test_clear_clusters_are_found_with_or_without_outliers(method: str, lonely: int) -> None:
    draw = np.random.default_rng(0)
    centres = np.eye(4)[:3] * 5
    table = np.concatenate([centre + 0.01 * draw.normal(size=(6, 4)) for centre in centres])
    truth = [n // 6 for n in range(18)] + [3 + n for n in range(lonely)]
    outliers = np.array([[0.0, 0, 0, 9], [-9.0, -9, -9, 0]])
    table = np.concatenate([table, outliers[:lonely]])
    count = 3 + lonely if method == "average" else None
    found = grouped(table, method, count)
    if method == "hdbscan":  # which may give the two outliers to the nearest cluster
        assert len({*found[:18]}) == 3
        assert agreement(found[:18], truth[:18]) == pytest.approx(1)
    else:
        assert agreement(found, truth) == pytest.approx(1)


@pytest.mark.parametrize("method", ["average", "hdbscan"])
def test_tokens_that_are_hardly_ever_seen_make_no_group_but_join_the_nearest(method: str) -> None:
    draw = np.random.default_rng(0)
    centres = np.eye(4)[[0] * 6 + [1] * 6 + [2] * 6 + [3] * 4]
    table = centres * 5 + 0.01 * draw.normal(size=centres.shape)
    table[18:] += centres[[0, 6, 12, 0]]  # nearer to one another than to what they resemble
    count = 4 if method == "average" else None
    truth = [n // 6 for n in range(18)]
    assert agreement(grouped(table, method, count), [*truth, 3, 3, 3, 3]) == pytest.approx(1)
    seen = np.array([1000] * 18 + [1, 0, 2, 1])
    assert grouped(table, method, 3 if count else None, seen) == [*truth, 0, 1, 2, 0]
    # Too few are left to make groups of: all of them do.
    rare = np.array([1000] + [1] * 21)
    assert grouped(table, method, count, rare) == grouped(table, method, count)


def test_clarity_says_how_alike_the_tokens_of_a_group_are() -> None:
    table = np.array([[1.0, 0], [1, 0], [0, 1], [1, 1]])
    said = clarity(table, [0, 0, 1, 1])
    assert said["groups"] == said["largest_group"] == 2
    assert said["inner_cosine"] == pytest.approx(0.5**0.5)
    within, between = (1 + 0.5**0.5) / 2, (0 + 0 + 2 * 0.5**0.5) / 4
    assert said["cosine_contrast"] == pytest.approx(within - between)


TRAIN = ["train", "t.st", "--nest", "head=2,4", "--tied-head", "--d-model", 16, "--n-heads", 2]
TRAIN += ["--n-layers", 1, "--context", 8, "--batch-size", 8, "--threads", 1, "-q"]


@pytest.fixture
def text(xtool: Run, tmp_path: Path) -> Path:
    done = xtool("prepare", "language", "-", "-o", "t.st", stdin=TEXT + "\n!?QZYXWVULJ")
    assert done.code == 0, done.err
    (tmp_path / "c.toml").write_text(
        '[levels.2]\nletter = ["class:letter"]\n[levels.4]\nlower = ["class:lower"]\n'
    )
    return tmp_path


def test_imposed_groups_are_learned_and_kept(xtool: Run, text: Path) -> None:
    args = [*TRAIN, "--steps", 300, "--eval-every", 300, "--lr", 0.03]
    done = xtool(*args, "--categories", "c.toml", "-o", "a.st")
    assert done.code == 0, done.err
    rows = [json.loads(line) for line in (text / "a.rows.jsonl").read_text().splitlines()]
    contrast = {
        (row["step"], row["size"]): row["value"]
        for row in rows
        if row["metric"] == "cosine_contrast"
    }
    assert contrast[300, "head=2"] > contrast[0, "head=2"] + 0.2
    over = {row["size"]: row["value"] for row in rows if row["metric"] == "group_excess"}
    done = xtool("evaluate", "a.st", "--size", "all", "--format", "jsonl", "--threads", 1)
    scored = [json.loads(line) for line in done.out.splitlines()]
    found = {one["size"]: one["value"] for one in scored if one["metric"] == "group_excess"}
    assert found == pytest.approx(over, rel=1e-5), "the dev split is no longer than is watched"
    params = {one["size"]: one["params"] for one in scored}
    assert params["head=2"] < params["head=4"] < params["head=16"], "a tied head is no table more"
    header = load(text / "a.st")[0]
    assert len({*header.training["categories"]["2"]}) > 1
    assert "c.toml" not in header.canonical()
    again = xtool("inspect", "a.st", "--categories")
    (text / "again.toml").write_text(again.out)
    tokens = texts_of(header.tokenizer)
    for level, found in read_categories(text / "again.toml", tokens)[0].items():
        assert agreement(found, header.training["categories"][level]) == 1
    assert xtool("sample", "a.st", "--size", "head=4", "--length", 3, "--prompt", "a").code == 0
    done = xtool("slice", "a.st", "--to", 8, "-o", "b.st")
    assert (done.code, "only its output is nested" in done.err) == (2, True), done


def test_groups_emerge_settle_and_resume_to_the_bit(
    xtool: Run, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    args = [*TRAIN, "--emergent", "average", "--every", 5, "--groups", 3, "--lr", 1e-5]
    args += ["--categories", "c.toml", "--eval-every", 10]
    seen: list[Any] = []
    monkeypatch.setattr(
        hierarchy, "grouped", lambda *given: seen.append(given[-1]) or grouped(*given)
    )
    done = xtool(*args, "--steps", 20, "--keep-state", "-o", "a.st")
    assert done.code == 0, done.err
    train = open_data(text / "t.st").cut(8).split("train").targets.flatten().long()
    assert seen
    assert all(np.array_equal(one, torch.bincount(train, minlength=len(one))) for one in seen)
    rows = [json.loads(line) for line in (text / "a.rows.jsonl").read_text().splitlines()]
    agreed = [row for row in rows if row["metric"] == "group_agreement"]
    assert {row["step"] for row in agreed} == {10}, "nothing moves, so they settle at once"
    assert {row["metric"] for row in rows} >= {"inner_cosine", "category_agreement", "groups"}
    assert xtool(*args, "--steps", 20, "--max-time", 0, "-o", "b.st").code == 0
    with Source(text / "a.resume.st") as source:
        groups = source.require_header("resume").training["position"]["groups"]
    assert {*groups} == {"", "2", "4"}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--nest", "d_ff=8"], "needs nested widths of the embedding"),
        (["--no-tied-head"], "add `--tied-head`"),
        (["--nest", "head=3"], "level 2 is no nested size below the whole"),
        (["--replicas", 2], "is of one model"),
        (["--every", 0], "`every` is 0"),
    ],
)
def test_runs_that_cannot_have_a_hierarchy(
    more: list[str], message: str, text: Path, xtool: Run
) -> None:
    args = (
        [one for one in TRAIN if one not in ("--nest", "head=2,4")] if "--nest" in more else TRAIN
    )
    done = xtool(*args, "--steps", 2, "--categories", "c.toml", *more, "-o", "x.st")
    assert (done.code, message in done.err) == (2, True), done
    assert not (text / "x.st").exists()


def test_the_levels_of_the_study_are_those_it_describes() -> None:
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
    tokens = [*"\n !$&',-.3:;?", *letters]
    groups, names = read_categories(STUDY, tokens)
    count = {level: len({*found}) for level, found in groups.items()}
    assert count == {"2": 2, "4": 4 + 3, "8": 3 + 11, "16": 26 + 13}
    at = dict(zip(tokens, groups["8"], strict=True))
    assert names["8"][at["y"]] == names["8"][at["Y"]] == "consonant"
