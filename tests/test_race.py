"""The race of operators: equal terms, honest ranking, and nothing left behind."""

import os
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from conftest import Result, Run

from xtool import registry, rows
from xtool.errors import Interrupted, XtoolError
from xtool.rows import row
from xtool.surgery import race
from xtool.surgery.operators.pad import Pad

RACE = ["grow", "small.st", "--race", "--race-seeds", 2, "--threads", 1]
SHORT = [*RACE, "--race-steps", 4]


@pytest.fixture
def small(data: Path, xtool: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A trained model beside its data; temporary folders go to `temporary`."""
    dials = ["--d-model", 8, "--n-layers", 1, "--n-heads", 1, "--batch-size", 16, "--lr", 0.01]
    train = ["train", data, *dials, "--threads", 1, "-q"]
    assert xtool(*train, "--epochs", 2, "-o", "small.st").code == 0
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    return tmp_path / "small.st"


def left(small: Path) -> list[str]:
    """The races' folders that are there."""
    return [p.name for p in (small.parent / "temporary").glob("xtool-race-*")]


def ranking(done: Result) -> list[dict[str, Any]]:
    assert done.code == 0, done.err
    return rows.read(done.out, "x")


def test_every_operator_and_both_controls_race_at_equal_cost(
    small: Path, xtool: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = set()
    keep = race.train

    def watched(run: Any, listener: Any) -> str:
        seen.add((run.steps_before, run.total_steps, run.dials["lr"], run.dials["batch_size"]))
        return keep(run, listener)

    monkeypatch.setattr(race, "train", watched)
    done = xtool(*SHORT, "--to", 16, "--format", "jsonl")
    found, absent = ranking(done), set(re.findall("not in the race: ([a-z-]+)", done.err))
    assert absent == {"interleave", "learned", "passthrough", "stack"}
    labels = set(registry.names("surgery/operators")) - {"random", *absent}
    labels |= {"scratch", "untrained"}
    assert {one["label"] for one in found} == labels
    assert seen == {(12, 4, 0.01, 16)}
    assert len({(one["step"], one["flops"], one["params"], one["n"]) for one in found}) == 1
    assert [one["place"] for one in found] == list(range(1, len(found) + 1))
    values = [one["value"] for one in found]
    assert values == sorted(values)
    assert all(one["low"] <= one["value"] <= one["high"] for one in found)
    exact = [one for one in found if one["promise"] == "exact" and one["label"] != "untrained"]
    by_label = {one["label"]: one for one in found}
    assert by_label["untrained"]["method"] == exact[0]["label"]
    assert all(one["start"] == pytest.approx(exact[0]["start"], abs=1e-5) for one in exact)
    assert by_label["untrained"]["start"] > exact[0]["start"]
    for one in found:
        control = one["label"] in ("scratch", "untrained")
        assert (one["lineage_flops"] == one["flops"]) == control
    assert sorted(p.name for p in small.parent.iterdir() if p.suffix == ".st") == [
        "data.st",
        "small.st",
    ]
    assert not left(small)


def test_a_place_in_the_race_is_what_growing_and_training_by_hand_gives(
    small: Path, xtool: Run
) -> None:
    found = ranking(xtool(*SHORT, "--to", 12, "--seed", 3, "--format", "csv", "--data", "data.st"))
    by_hand = []
    for seed in (3, 4):
        grown, out = f"pad{seed}.st", f"trained{seed}.st"
        how = ["--method", "pad", "--seed", seed]
        assert xtool("grow", "small.st", "--to", 12, *how, "-o", grown).code == 0
        go_on = ["--from", grown, "--steps", 4, "--seed", seed, "--threads", 1, "-q", "-o", out]
        assert xtool("train", *go_on).code == 0
        # The run's own rows: by the route of the run, as the race's are.
        dev = ["--where", "metric=loss", "--where", "split=dev", "--format", "csv"]
        shown = xtool("evaluate", f"trained{seed}.rows.jsonl", *dev)
        by_hand.append(ranking(shown)[-1]["value"])
    assert by_hand[0] != by_hand[1]
    (pad,) = (one for one in found if one["label"] == "pad")
    assert pad["value"] == pytest.approx(fmean(by_hand), rel=1e-12)


def test_the_output_is_the_best_operators_file_before_training(small: Path, xtool: Run) -> None:
    done = xtool(*SHORT, "--to", 12, "--seed", 1, "-o", "best.st")
    assert (done.code, done.out) == (0, "best.st\n")
    assert re.search(r"not in the race: clone: `d_model` 8 -> 12 is not a whole factor", done.err)
    (best,) = re.findall(r"small.st -> best.st: (\S+), not trained", done.err)
    places = re.findall(r"^ +\d+  (\S+)", done.err, re.MULTILINE)
    assert best == next(name for name in places if name not in ("scratch", "untrained"))
    how = ["--method", best, "--seed", 1]
    assert xtool("grow", "small.st", "--to", 12, *how, "-o", "same.st").code == 0
    folder = small.parent
    assert (folder / "best.st").read_bytes() == (folder / "same.st").read_bytes()
    assert xtool(*SHORT, "--to", 12, "-o", "best.st").code == 1
    assert not left(small)


def test_a_budget_of_flops_gives_as_many_steps_as_fit(small: Path, xtool: Run) -> None:
    budget = 1.9e7
    found = ranking(xtool(*RACE, "--to", 12, "--race-flops", budget, "--format", "csv"))
    for one in found:
        assert one["step"] > 1
        assert one["flops"] <= budget < one["flops"] * (1 + 1 / one["step"])
    done = xtool(*RACE, "--to", 12, "--race-flops", 10)
    assert (done.code, "allows no step" in done.err) == (2, True)


def test_an_operator_that_breaks_its_promise_does_not_end_the_race(
    small: Path, xtool: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Pad, "_gain", lambda self, growth, name, values, new: values)
    done = xtool(*SHORT, "--to", 16, "--format", "jsonl")
    found = {one["label"]: one for one in ranking(done)}
    assert "pad" not in found
    assert found["untrained"]["method"] == "clone"
    assert "pad did not finish: `pad` promised to be exact" in done.err


def test_a_file_that_cannot_be_read_ends_the_race(
    small: Path, xtool: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise XtoolError("no room")

    monkeypatch.setattr(race, "grow", full)
    done = xtool(*SHORT, "--to", 16)
    assert done.code == 1
    assert "no room" in done.err


def test_an_interrupted_race_leaves_nothing(
    small: Path, xtool: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    for error in (Interrupted("saved in x", "`--resume`"), KeyboardInterrupt()):

        def fail(run: Any, listener: Any, error: BaseException = error) -> str:
            assert left(small)
            raise error

        monkeypatch.setattr(race, "train", fail)
        done = xtool(*SHORT, "--to", 16, "-o", "best.st")
        assert done.code == 130
        assert "resume" not in done.err
        assert not left(small)
        assert not (small.parent / "best.st").exists()


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)]
)
def test_a_signal_ends_the_race_cleanly(number: signal.Signals, small: Path) -> None:
    args = [str(part) for part in [*RACE, "--race-steps", 100000, "--to", 16]]
    run = subprocess.Popen(
        [sys.executable, "-m", "xtool", *args],
        cwd=small.parent,
        env=os.environ | {"TMPDIR": str(small.parent / "temporary")},
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    while not list((small.parent / "temporary").glob("*/trained.rows.jsonl")):
        assert run.poll() is None
    run.send_signal(number)
    out, err = run.communicate(timeout=60)
    assert (run.returncode, out) == (130, "")
    assert "Traceback" not in err
    assert not left(small)


def result(label: str, *losses: float) -> race.Result:
    method = {"scratch": "random", "untrained": "pad"}.get(label, label)
    return race.Result(label, method, [1.0] * len(losses), [row(value=v) for v in losses])


CONTROLS = [("scratch", 2.0, 2.1), ("untrained", 3.0, 3.1)]


@pytest.mark.parametrize(
    ("field", "best", "said"),
    [
        (
            [("pad", 0.1, 0.11), ("clone", 1, 1.1), ("untrained", 2, 2.1)],
            "pad",
            ["pad wins: .* others, but scratch did not finish"],
        ),
        ([("pad", 0.1, 0.11), *CONTROLS], "pad", ["pad wins: .* of all others$"]),
        ([("pad", 0.1, 0.2), ("clone", 0.1, 0.3)], "pad", ["no winner beyond noise: .* clone"]),
        (
            [("scratch", 0.1, 0.11), ("clone", 0.5, 0.51), ("pad", 0.9, 0.91)],
            "clone",
            ["scratch did better than every operator"],
        ),
        (
            [("untrained", 0.1, 0.2), ("pad", 0.1, 0.3)],
            "pad",
            ["untrained did better", "no winner beyond noise: .* untrained"],
        ),
    ],
)
def test_the_verdict_says_what_the_intervals_say(
    field: list[tuple[Any, ...]], best: str, said: list[str]
) -> None:
    winner, lines = race.verdict(race.ranked([result(*one) for one in field[::-1]]))
    assert winner.label == best
    assert len(lines) == len(said)
    assert all(re.match(wanted, line) for wanted, line in zip(said, lines, strict=True))


def test_options_that_do_not_go_together_are_refused(small: Path, xtool: Run) -> None:
    for args, message in (
        (["--race", "--method", "pad"], "takes one model, and every operator"),
        (["--race", "--race-seeds", 1], "an interval needs 2 or more"),
        (["--race", "--race-steps", 1, "--race-flops", 1], "exclude each other"),
        (["--race", "--format", "csv", "-o", "x.st"], "give one"),
        (["--race", "--race-steps", 0], "allows no step"),
        (["--race", "--format", "cvs"], "unknown format"),
        (["--race", "-o", "small.st", "--force"], "is both an output and another file"),
        (["--race-steps", 3], "are for `--race`"),
    ):
        done = xtool("grow", "small.st", "--to", 16, *args)
        assert (done.code, message in done.err) == (2, True), (args, done.err)
        assert done.out == ""
        assert not left(small)
