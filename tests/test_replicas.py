"""Replicas: each is the run made alone with its seed, through every command that carries them."""

import csv
import io
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Result, Run

from xtool.archs import read_model
from xtool.checkpoint import load, save
from xtool.storage import Source
from xtool.training import loop

BASE = ["--threads", 1, "--quiet", "--batch-size", 8, "--precision", "fp64", "--lr", 0.01]
DECAY = str(Path(__file__).parents[1] / "examples" / "decay.py")
NETWORKS = {
    "counting": ["--preset", "counting", "--d-model", 8],
    "plain": ["--d-model", 8, "--n-heads", 2, "--n-layers", 2, "--tied-head", "--clip", 0.1],
    "dropouts": ["--d-model", 8, "--n-heads", 2, "--dropout", 0.2, "--dropout-attention", 0.3],
    "rms": ["--d-model", 8, "--norm", "rmsnorm", "--activation", "swiglu", "--schedule", "cosine"],
    "own": ["--arch", DECAY],
}


def far(one: Path, other: Path) -> float:
    """The largest difference between two weights."""
    a, b = (read_model(path)[2].state_dict() for path in (one, other))
    return max(float((a[name] - b[name]).abs().max()) for name in a)


def rows(done: Result) -> list[dict[str, str]]:
    assert done.code == 0, done.err
    return list(csv.DictReader(io.StringIO(done.out)))


@pytest.mark.parametrize("network", NETWORKS)
def test_a_replica_is_the_run_made_alone_with_its_seed(
    network: str, data: Path, xtool: Run, tmp_path: Path
) -> None:
    args = [data, *BASE, *NETWORKS[network], "--steps", 30]
    own = ["--own", DECAY] if network == "own" else []
    assert xtool("train", *args, "--seed", 4, "--replicas", 3, "-o", "r.st").code == 0
    for replica in range(3):
        one, alone = f"{replica}.st", f"a{replica}.st"
        assert xtool("slice", "r.st", "--replica", replica, "-o", one, *own).code == 0
        assert xtool("train", *args, "--seed", 4 + replica, "-o", alone).code == 0
        assert far(tmp_path / one, tmp_path / alone) < 1e-10
    assert far(tmp_path / "0.st", tmp_path / "1.st") > 1e-2


def test_replicas_go_through_grow_train_and_slice_as_each_alone(
    data: Path, xtool: Run, tmp_path: Path
) -> None:
    args = [data, *BASE, "--d-model", 8, "--n-heads", 2, "--steps", 5]
    on = [data, *BASE, "--steps", 5, "--from"]
    grow = ["--to", 16, "--method", "clone", "--seed", 7]
    assert xtool("train", *args, "--replicas", 2, "-o", "r.st").code == 0
    assert xtool("grow", "r.st", *grow, "-o", "g.st").code == 0
    assert xtool("train", *on, "g.st", "-o", "after.st").code == 0
    assert (
        xtool("slice", "after.st", "--replica", 1, "--to", 8, "--untrained-ok", "-o", "one.st").code
        == 0
    )
    assert xtool("slice", "after.st", "--to", 8, "--untrained-ok", "-o", "both.st").code == 0
    assert xtool("slice", "both.st", "--replica", 1, "-o", "other.st").code == 0
    assert far(tmp_path / "one.st", tmp_path / "other.st") == 0

    assert xtool("train", *args, "--seed", 1, "-o", "a.st").code == 0
    assert xtool("grow", "a.st", *grow[:-1], 8, "-o", "ag.st").code == 0
    assert xtool("train", *on, "ag.st", "--seed", 1, "-o", "aa.st").code == 0
    assert xtool("slice", "aa.st", "--to", 8, "--untrained-ok", "-o", "alone.st").code == 0
    assert far(tmp_path / "one.st", tmp_path / "alone.st") < 1e-10


def test_check_hashes_a_file_of_replicas_once(
    data: Path, xtool: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    args = ["train", data, *BASE, "--d-model", 8, "--steps", 1, "--replicas", 3, "-o", "r.st"]
    assert xtool(*args).code == 0
    hashed: list[Path] = []
    keep = Source.verify
    monkeypatch.setattr(Source, "verify", lambda self: (hashed.append(self.path), keep(self))[1])
    assert xtool("check", "r.st").out.startswith("ok   r.st: model")
    assert hashed == [Path("r.st")]
    raw = bytearray((tmp_path / "r.st").read_bytes())
    raw[-5] ^= 1
    (tmp_path / "r.st").write_bytes(raw)
    assert xtool("check", "r.st").code == 3


def test_several_replicas_can_start_from_one_model(data: Path, xtool: Run, tmp_path: Path) -> None:
    assert xtool("train", data, *BASE, "--d-model", 8, "--steps", 3, "-o", "a.st").code == 0
    on = ["train", data, *BASE, "--from", "a.st", "--steps", 3]
    assert xtool(*on, "--replicas", 2, "-o", "r.st").code == 0
    assert xtool("slice", "r.st", "--replica", 1).out == "r-replica1.st\n"
    assert xtool(*on, "--seed", 1, "-o", "alone.st").code == 0
    assert far(tmp_path / "r-replica1.st", tmp_path / "alone.st") < 1e-10


def test_rows_name_the_replica_and_its_seed_and_equal_those_of_its_slice(
    data: Path, xtool: Run
) -> None:
    args = [data, *BASE, "--d-model", 8, "--steps", 3, "--seed", 5, "--replicas", 2]
    assert xtool("train", *args, "-o", "r.st").code == 0
    assert xtool("slice", "r.st", "--replica", 1, "-o", "one.st").code == 0
    both = rows(xtool("evaluate", "r.st", "--data", data))
    alone = rows(xtool("evaluate", "one.st", "--data", data))
    assert {(row["replica"], row["seed"]) for row in both} == {("0", "5"), ("1", "6")}
    same = ("metric", "split", "seed", "value", "low", "high", "n", "params", "lineage_flops")
    second = [[row[name] for name in same] for row in both if row["replica"] == "1"]
    assert second == [[row[name] for name in same] for row in alone]
    trained = rows(xtool("evaluate", "r.rows.jsonl", "--where", "step=3", "--where", "replica=1"))
    found = [next(r["value"] for r in some if r["metric"] == "loss") for some in (trained, alone)]
    assert found[0] == found[1]


def test_paired_differences_pair_replica_with_replica(data: Path, xtool: Run) -> None:
    args = [data, *BASE, "--d-model", 8, "--steps", 3, "--replicas", 2]
    assert xtool("train", *args, "-o", "a.st").code == 0
    found = rows(xtool("evaluate", "a.st", "--data", data, "--against", "a.st"))
    differences = [row for row in found if row["metric"] == "loss_difference"]
    assert [float(row["value"]) for row in differences] == [0, 0]
    assert xtool("train", *args[:-1], 3, "-o", "b.st").code == 0
    assert xtool("evaluate", "a.st", "--against", "b.st", "--data", data).code == 1


def test_replicas_resume_to_the_bit(
    data: Path, xtool: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    args = ["train", data, *BASE, *NETWORKS["dropouts"], "--replicas", 2, "--steps", 9]
    assert xtool(*args, "-o", "whole.st").code == 0
    step = loop._Loop._step

    def stopping(self: Any) -> None:
        step(self)
        if self.run.position.step == 5:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(loop._Loop, "_step", stopping)
    assert xtool(*args, "-o", "parts.st").code == 130
    monkeypatch.setattr(loop._Loop, "_step", step)
    assert xtool("check", "parts.resume.st").code == 0
    assert xtool(*args, "-o", "parts.st", "--resume").code == 0
    assert (tmp_path / "whole.st").read_bytes() == (tmp_path / "parts.st").read_bytes()


@pytest.mark.parametrize("lost", ["model/embed.weight", "optimizer/head.weight/exp_avg", "all"])
def test_a_state_of_replicas_that_lacks_a_tensor_is_found(
    lost: str, data: Path, xtool: Run, tmp_path: Path
) -> None:
    args = ["train", data, *BASE, "--d-model", 8, "--steps", 2, "--replicas", 2, "--keep-state"]
    assert xtool(*args, "-o", "r.st").code == 0
    header, tensors = load(tmp_path / "r.resume.st", "resume")
    left = {n: t for n, t in tensors.items() if n != lost and (lost != "all" or "model/" in n)}
    assert len(left) < len(tensors)
    save(tmp_path / "bad.resume.st", header, left)
    assert xtool("check", "r.resume.st").code == 0
    done = xtool("check", "bad.resume.st")
    assert (done.code, "lacks" in done.out) == (3, True), done


def test_what_needs_one_model_says_so(data: Path, xtool: Run, tmp_path: Path) -> None:
    args = ["train", data, *BASE, "--d-model", 8, "--steps", 2]
    assert xtool(*args, "--replicas", 2, "--keep-state", "-o", "r.st").code == 0
    assert xtool(*args, "-o", "a.st").code == 0
    before = sorted(path.name for path in tmp_path.iterdir())
    for code, said, command in (
        (1, "holds 2 replicas", ["sample", "r.st"]),
        (1, "holds 2 replicas", ["inspect", "--spectrum", "r.st", "a.st"]),
        (1, "has no replica 2", ["slice", "r.st", "--replica", 2]),
        (2, "nothing to slice", ["slice", "a.st", "--replica", 0]),
        (2, "cannot start 3", [*args, "--from", "r.st", "--replicas", 3, "-o", "x.st"]),
        (2, "cannot start 2", [*args, "--from", "r.resume.st", "-o", "x.st"]),
        (1, "state of several replicas", ["grow", "r.resume.st", "--to", 16]),
        (2, "`--reach` follows one", [*args, "--replicas", 2, "--reach", "loss=1", "-o", "x.st"]),
        (2, "`--keep-best` follows", [*args, "--replicas", 2, "--keep-best", "-o", "x.st"]),
        (2, "`replicas` is 0", [*args, "--replicas", 0, "-o", "x.st"]),
    ):
        done = xtool(*command)
        assert (done.code, said in done.err) == (code, True), (command, done)
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_every_shape_of_a_replicated_file_is_checked(
    data: Path, xtool: Run, tmp_path: Path
) -> None:
    args = ["train", data, *BASE, "--d-model", 8, "--steps", 0, "--replicas", 2]
    assert xtool(*args, "-o", "r.st").code == 0
    header, tensors = load(tmp_path / "r.st", "model")
    name = "embed.weight"
    for bad in (tensors[name][:1], tensors[name][0], torch.cat([tensors[name]] * 2)):
        save(tmp_path / "bad.st", header, tensors | {name: bad})
        done = xtool("check", "bad.st")
        assert (done.code, "replicas" in done.out) == (3, True), done
