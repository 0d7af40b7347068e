"""Evaluation: whole splits, honest intervals, paired differences."""

import json
import os
from pathlib import Path
from shutil import which
from subprocess import run

import pytest
from conftest import Run, page_data

from xtool import averages, plots, rows
from xtool.archs import read_model
from xtool.dataset import read_dataset
from xtool.evaluation import models as evaluation

TINY = ["--d-model", 8, "--threads", 1, "--quiet", "--batch-size", 8]


@pytest.fixture
def models(data: Path, xtool: Run, tmp_path: Path) -> Path:
    for seed in (0, 1):
        args = [*TINY, "--epochs", 4, "--lr", 0.01, "--seed", seed, "--label", "run"]
        assert xtool("train", data, *args, "-o", f"{seed}.st").code == 0
    return tmp_path


def test_accuracy_is_that_of_counting_by_hand(models: Path, xtool: Run) -> None:
    done = xtool("evaluate", "0.st", "--format", "jsonl")
    found = {one["metric"]: one for one in rows.read(done.out, "x")}
    header, _, model = read_model(models / "0.st")
    data = read_dataset(models / "data.st")
    dev = data.split("dev")
    right = (model.eval()(dev.inputs).argmax(-1) == dev.targets).double()
    assert found["accuracy"]["value"] == pytest.approx(float(right.mean()))
    assert found["accuracy"]["n"] == 32
    assert found["accuracy"]["low"] < found["accuracy"]["value"] < found["accuracy"]["high"]
    assert found["majority"]["value"] == pytest.approx(float((dev.targets == 0).double().mean()))
    assert found["accuracy"]["digest"] == header.digest
    assert found["accuracy"]["lineage_seconds"] > 0


def test_seconds_come_from_a_journal_beside_the_model_first_by_name(
    models: Path, xtool: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = (models / "0.rows.jsonl").read_text().splitlines()
    for place, seconds in (("near/b", 2.0), ("near/a", 1.0), ("here/0", 3.0)):
        (models / place).parent.mkdir(exist_ok=True)
        last = json.dumps(json.loads(lines[-1]) | {"value": seconds})
        (models / f"{place}.rows.jsonl").write_text("\n".join([*lines[:-1], last]) + "\n")
    os.mkfifo(models / "near" / "pipe.rows.jsonl")
    (models / "near" / "binary.rows.jsonl").write_bytes(b"\xff\0")
    (models / "0.st").rename(models / "near" / "0.st")
    monkeypatch.chdir(models / "here")
    done = xtool("evaluate", "../near/0.st", "--data", "../data.st", "--format", "jsonl")
    assert done.code == 0, done.err
    assert {one["lineage_seconds"] for one in rows.read(done.out, "x")} == {1.0}


def test_the_other_model_of_a_difference_is_scored_once(
    data: Path, xtool: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = ["train", data, *TINY, "--steps", 1]
    assert xtool(*train, "--replicas", 3, "-o", "three.st").code == 0
    assert xtool(*train, "-o", "one.st").code == 0
    opened: list[str] = []
    keep = evaluation.read_model
    monkeypatch.setattr(
        evaluation,
        "read_model",
        lambda path, *rest, **more: (opened.append(path.name), keep(path, *rest, **more))[1],
    )
    done = xtool("evaluate", "three.st", "three.st", "--against", "one.st", "--format", "jsonl")
    assert sorted(opened) == ["one.st"] + ["three.st"] * 3
    both = rows.read(done.out, "x")
    assert both[: len(both) // 2] == both[len(both) // 2 :]
    opened.clear()
    assert xtool("evaluate", "one.st", "--against", "one.st", "--format", "jsonl").code == 0
    assert opened == ["one.st"]


def test_the_difference_from_oneself_is_nothing(models: Path, xtool: Run) -> None:
    done = xtool("evaluate", "0.st", "--against", "0.st", "--format", "jsonl")
    found = {one["metric"]: one for one in rows.read(done.out, "x")}
    assert found["accuracy_difference"]["value"] == 0
    assert found["accuracy_difference"]["p_value"] == 1.0


def test_a_paired_difference_is_the_difference_of_the_means(models: Path, xtool: Run) -> None:
    done = xtool("evaluate", "0.st", "1.st", "--against", "1.st", "--format", "jsonl")
    found = rows.read(done.out, "x")
    mean = {one["seed"]: one["value"] for one in found if one["metric"] == "loss"}
    (difference, _) = [one for one in found if one["metric"] == "loss_difference"]
    assert difference["value"] == pytest.approx(mean[0] - mean[1])
    assert difference["low"] <= difference["value"] <= difference["high"]
    assert 0 <= difference["p_value"] <= 1


def test_seeds_are_averaged_and_pivoted(models: Path, xtool: Run) -> None:
    done = xtool(
        "evaluate", "0.st", "1.st", "--over", "seed", "--format", "jsonl", "--where", "metric=loss"
    )
    (mean,) = [json.loads(line) for line in done.out.splitlines()]
    assert mean["n"] == 2
    chosen = ["--where", "metric=loss", "--format", "csv"]
    done = xtool("evaluate", "0.st", "1.st", "--pivot", "metric", "seed", *chosen)
    assert done.out.splitlines()[0] == "metric,0,1"
    two = ["--label", "a", "--label", "b"]
    done = xtool("evaluate", "0.st", "1.st", *two, "--pivot", "metric", "label", *chosen)
    assert done.out.splitlines()[0] == "metric,a,b,b - a"


def test_without_a_terminal_rows_are_csv_and_with_one_a_table(
    models: Path, xtool: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert xtool("evaluate", "0.st").out.startswith("label,digest,arch")
    assert xtool("evaluate", "0.st", "--format", "markdown").out.startswith("| label")
    assert "---" in xtool("evaluate", "0.st", "--format", "table").out.splitlines()[1]


def test_a_model_is_not_averaged_with_itself(models: Path, xtool: Run) -> None:
    done = xtool("evaluate", "0.st", "0.st", "--label", "a", "--label", "a", "--over", "seed")
    assert done.code == 2
    assert "the same model is there twice" in done.err
    one = rows.read(xtool("evaluate", "0.st").out, "x")
    once, twice = averages.summarise(one, ["metric"]), averages.summarise([*one, *one], ["metric"])
    assert once == twice
    for form in ("csv", "jsonl"):
        (models / f"rows.{form}").write_text(xtool("evaluate", "0.st", "--format", form).out)
    both = xtool("evaluate", "rows.csv", "rows.jsonl", "--format", "csv")
    assert both.out == xtool("evaluate", "rows.csv", "--format", "csv").out


def test_files_of_rows_are_tables_too(models: Path, xtool: Run) -> None:
    chosen = ["--where", "metric=loss", "--where", "split=dev", "--where", "epoch=0"]
    done = xtool("evaluate", "0.rows.jsonl", "1.rows.jsonl", *chosen, "--format", "csv")
    (models / "both.csv").write_text(done.out)
    assert len(rows.read(done.out, "x")) == 2
    assert xtool("evaluate", "both.csv", "--format", "csv").out == done.out


def test_all_splits_in_one_call(models: Path, xtool: Run) -> None:
    done = xtool("evaluate", "0.st", "--split", "all", "--format", "jsonl")
    assert [one["split"] for one in rows.read(done.out, "x") if one["metric"] == "loss"] == [
        "train",
        "dev",
        "test",
    ]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--split", "none"], "the data has no split `none`"),
        (["--format", "xml"], "unknown format `xml`"),
        (["--label", "a", "--label", "b"], "2 labels for 1 models"),
        (["--data", "0.st"], "a model file, where a data file is needed"),
        (["--pivot", "label", "colour"], "unknown column `colour`"),
        (["--over", "seed"], "no two rows differ only by `seed`"),
        (["--over", "metric", "--split", "all"], "rows of different `metric`"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(
    args: list[str], message: str, models: Path, xtool: Run
) -> None:
    done = xtool("evaluate", "0.st", *args)
    assert done.code in (1, 2)
    assert message in done.err


def test_data_of_another_shape_is_refused(models: Path, xtool: Run) -> None:
    sizes = ["--train-size", 8, "--dev-size", 4, "--test-size", 4, "--length", 10]
    assert xtool("prepare", "counting", *sizes, "-o", "short.st").code == 0
    done = xtool("evaluate", "0.st", "--data", "short.st")
    assert done.code == 1
    assert "needs `context` 10, the model has 20" in done.err


def test_sample_shows_targets_and_predictions(models: Path, xtool: Run) -> None:
    done = xtool("sample", "0.st", "--examples", 3)
    assert done.code == 0
    lines = done.out.splitlines()
    assert [line.split()[0] for line in lines if line.strip("^ ")] == [
        "input",
        "target",
        "model",
    ] * 3
    assert xtool("sample", "0.st", "--examples", 3).out == done.out


def test_pictures_are_drawn_from_rows_and_equal_rows_give_equal_bytes(
    models: Path, xtool: Run
) -> None:
    csv = xtool("evaluate", "0.st", "1.st", "--format", "csv").out
    for form in ("png", "svg", "pdf", "html"):
        for name in ("a", "b"):
            assert xtool("plot", "-", "-o", f"{name}.{form}", stdin=csv).out == f"{name}.{form}\n"
        assert (models / f"a.{form}").read_bytes() == (models / f"b.{form}").read_bytes()
    assert (models / "a.png").read_bytes().startswith(b"\x89PNG")
    assert xtool("plot", "-", "--title", "$\\frac{$", "-o", "odd.svg", stdin=csv).code == 0
    page = (models / "a.html").read_text()
    assert "src=" not in page
    assert "majority" in page
    args = ["--kind", "curves", "--y", "loss", "--by", "seed", "--where", "split=dev"]
    done = xtool("plot", "0.rows.jsonl", "1.rows.jsonl", *args, "-o", "curves.svg")
    assert done.code == 0, done.err


def test_a_page_says_what_is_drawn_and_holds_its_rows(models: Path, xtool: Run) -> None:
    csv = xtool("evaluate", "0.st", "1.st", "--format", "csv").out
    title = "<!--<script></script><b>&amp;"
    args = ["--by", "seed", "--title", title]
    done = xtool("plot", "-", *args, "-o", "a.html", "--save-rows", "a.csv", stdin=csv)
    assert done.code == 0, done.err
    page = (models / "a.html").read_text()
    assert title not in page
    assert page.count("</script>") == 2
    said = page_data(page)
    drawn = [one for one in rows.read(csv, "") if one["metric"] == "accuracy" and one["seed"]]
    assert [one["label"] for one in said["series"].values()][-2:] == ["seed 0", "seed 1"]
    (mark,) = (m for p in said["panels"] for m in p["marks"] if m["label"] == "seed 1")
    assert mark["said"][:2] == [drawn[0]["label"], f"dev accuracy: {drawn[0]['value']:.6g}"]
    left, top, right, bottom = said["panels"][0]["box"]
    assert left < mark["at"][0] < right
    assert top < mark["at"][1] < bottom
    assert said["rows"]["length"] == 3, "two models and the baseline"
    assert said["rows"]["columns"]["seed"][:2] == [0, 1]
    assert all(f'id="{name}"' in page for name in said["series"])
    # The rows beside it draw the same picture.
    assert xtool("plot", "a.csv", *args, "-o", "b.html").code == 0
    assert (models / "b.html").read_text() == page
    taken = xtool("plot", "0.rows.jsonl", "-o", "b.png", "--save-rows", "a.csv")
    assert "`--force`" in taken.err
    assert not (models / "b.png").exists()


def test_rows_that_are_piped_in_where_paths_are_read_are_named(models: Path, xtool: Run) -> None:
    for form in ("csv", "jsonl"):
        told = xtool("evaluate", "0.st", "--format", form).out
        done = xtool("evaluate", "-", stdin=told)
        assert (done.code, "standard input holds rows" in done.err) == (1, True)


def test_two_series_at_one_point_both_say_what_they_are(xtool: Run, tmp_path: Path) -> None:
    lines = [
        rows.row(label=name, metric="loss", value=value, step=step, split="dev", seed=0)
        for name in ("a", "b")
        for step, value in ((0, 3.0), (1, 2.0 if name == "a" else 1.0))
    ]
    lines[0] |= {"flops": 2**60 + 1}
    (tmp_path / "r.jsonl").write_text(rows.to_jsonl(lines))
    assert xtool("plot", "r.jsonl", "--kind", "curves", "--x", "step", "-o", "c.html").code == 0
    said = page_data((tmp_path / "c.html").read_text())
    marks = [(m["label"], *m["said"]) for p in said["panels"] for m in p["marks"]]
    assert [one for one in marks if "step: 0" in one] == [
        ("a", "step: 0", "dev loss (nats): 3"),
        ("b", "step: 0", "dev loss (nats): 3"),
    ]
    assert said["rows"]["columns"]["flops"][0] == str(2**60 + 1)


def test_bars_of_a_series_that_begins_later_have_its_name_and_free_columns_may_hold_anything(
    xtool: Run, tmp_path: Path
) -> None:
    cells = [("a", "x", 1.0), ("b", "x", 2.0), ("b", "y", 3.0)]
    lines = [
        rows.row(label=label, metric="loss", value=value, split="dev") | {"kind": kind, "free": [1]}
        for label, kind, value in cells
    ]
    (tmp_path / "r.jsonl").write_text(rows.to_jsonl(lines))
    done = xtool("plot", "r.jsonl", "--by", "kind", "-o", "b.html")
    assert done.code == 0, done.err
    said = page_data((tmp_path / "b.html").read_text())
    marks = {(m["label"], *m["said"][:1]) for p in said["panels"] for m in p["marks"]}
    assert marks == {("x", "a"), ("x", "b"), ("y", "b")}
    assert [one["label"] for one in said["series"].values()] == ["x", "y"]
    assert said["rows"]["columns"]["free"] == "[1]"
    text = "label,metric,value,split,free\na,loss,1,dev,nan\n"
    done = xtool("plot", "-", "-o", "c.png", "--save-rows", "c.jsonl", stdin=text)
    assert done.code == 0, done.err
    assert rows.read((tmp_path / "c.jsonl").read_text(), "")[0]["value"] == 1


@pytest.mark.skipif(not which("node"), reason="node, which reads the page's script, is not there")
def test_the_script_of_a_page_can_be_read(tmp_path: Path) -> None:
    page = (Path(str(plots.__file__)).parent / "_page.html").read_text()
    (tmp_path / "page.js").write_text(page.split("<script>")[1].split("</script>")[0])
    run(["node", "--check", "page.js"], cwd=tmp_path, check=True, timeout=60)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--kind", "pie"], "unknown kind of plot `pie`"),
        (["--save-rows", "a.txt"], "cannot write rows so"),
        (["--save-rows", "a.jsonl", "-o", "a.jsonl"], "is both an output"),
        (["-o", "a.bmp"], "cannot draw `bmp`"),
        (["--y", "acuracy"], "did you mean `accuracy`"),
        (["--x", "colour"], "unknown column `colour`"),
        (["--where", "split=test"], "no row has"),
        (["--kind", "curves", "--x", "task"], "is not a number"),
    ],
)
def test_what_cannot_be_drawn_is_refused_and_leaves_nothing(
    args: list[str], message: str, models: Path, xtool: Run
) -> None:
    csv = xtool("evaluate", "0.st", "--format", "csv").out
    done = xtool("plot", "-", *args, stdin=csv)
    assert done.code in (1, 2)
    assert message in done.err
    assert not [p for p in models.iterdir() if p.suffix in (".png", ".bmp")]
