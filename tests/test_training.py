"""Training: reproducible to the byte, exact to resume, and it never loses the last good state."""

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Run

from xtool import rows
from xtool.archs import read_model
from xtool.checkpoint import load, save
from xtool.errors import XtoolError
from xtool.training.batches import Batches
from xtool.training.journal import Journal
from xtool.training.schedule import lr_factor

TINY = ["--d-model", 8, "--threads", 1, "--quiet", "--batch-size", 8]
DROP = [*TINY, "--dropout", 0.2, "--dropout-attention", 0.1, "--clip", 1, "--warmup", 3]


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def without_seconds(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {k: v for k, v in row.items() if k != "seconds"}
        for row in rows
        if row["metric"] != "train_seconds"
    ]


def test_a_loss_falls_and_the_rows_say_so(data: Path, xtool: Run, tmp_path: Path) -> None:
    done = xtool("train", data, *TINY, "--epochs", 10, "--lr", 0.01, "-o", "m.st")
    assert (done.code, done.out) == (0, "m.st\n")
    rows = rows_of(tmp_path / "m.rows.jsonl")
    dev = [row["value"] for row in rows if (row.get("split"), row["metric"]) == ("dev", "loss")]
    assert len(dev) == 11
    assert dev[-1] < 0.8 * dev[0]
    assert {row["metric"] for row in rows if row.get("split") == "dev"} == {
        "loss",
        "accuracy",
        "majority",
    }
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data.st", "m.rows.jsonl", "m.st"]


STOPPED = """
import sys
import os, signal
from xtool.training import loop
from xtool.training.journal import Journal
step = loop._Loop._step
at, kind = int(sys.argv[1]), getattr(signal, sys.argv[2])
def stopping(self):
    step(self)
    if self.run.position.step == at:
        os.kill(os.getpid(), kind)
loop._Loop._step = stopping
sys.argv = ["xtool", *sys.argv[3:]]
from xtool.cli import main
main()
"""


@pytest.mark.parametrize(
    ("name", "code", "dials"),
    [
        ("SIGINT", 130, []),
        pytest.param("SIGTERM", 130, [], marks=pytest.mark.slow),
        ("SIGKILL", -9, []),
        ("SIGINT", 130, ["--optimizer", "lion", "--ema", 0.9]),
        pytest.param(
            "SIGKILL", -9, ["--optimizer", "lion", "--accumulate", 3], marks=pytest.mark.slow
        ),
        pytest.param(
            "SIGINT", 130, ["--optimizer", "muon", "--patience", 3], marks=pytest.mark.slow
        ),
        ("SIGKILL", -9, ["--optimizer", "muon", "--schedule", "wsd", "--ema", 0.99]),
        pytest.param("SIGKILL", -9, ["--optimizer", "sgd"], marks=pytest.mark.slow),
    ],
)
def test_a_stopped_run_resumes_to_the_same_bytes(
    name: str,
    code: int,
    dials: list[object],
    data: Path,
    xtool: Run,
    tmp_path: Path,
) -> None:
    args = ["train", data, *DROP, "--epochs", 3, "--keep-best", "--eval-every", 5, *dials]
    assert xtool(*args, "-o", "straight.st", "--label", "x").code == 0
    args = [str(a) for a in [*args, "-o", "m.st", "--save-every", 4, "--label", "x"]]
    done = subprocess.run(
        [sys.executable, "-c", STOPPED, str(at := random.randrange(5, 36)), name, *args],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stderr
    assert not (tmp_path / "m.st").exists()
    if name != "SIGKILL":
        assert "`--resume` goes on" in done.stderr
    assert "Traceback" not in done.stderr
    refused = xtool(*args)
    assert refused.code == 1
    assert "unfinished run" in refused.err
    assert xtool(*args, "--resume").code == 0
    for part in ("", ".best"):
        straight, resumed = tmp_path / f"straight{part}.st", tmp_path / f"m{part}.st"
        assert straight.read_bytes() == resumed.read_bytes(), at
    rows = [without_seconds(rows_of(tmp_path / f"{n}.rows.jsonl")) for n in ("straight", "m")]
    assert rows[0] == rows[1]
    assert not (tmp_path / "m.resume.st").exists()


def test_a_run_that_stops_before_its_first_step_evaluates_once(
    data: Path, xtool: Run, tmp_path: Path
) -> None:
    args = ["train", data, *DROP, "--steps", 4, "--patience", 1, "--label", "x"]
    assert xtool(*args, "-o", "straight.st").code == 0
    code = STOPPED.replace("_Loop._step", "_Loop._evaluate").replace("stopping(self)", "stop(self)")
    code = code.replace("= stopping", "= stop")
    part = [str(a) for a in [*args, "-o", "m.st"]]
    stopped = [sys.executable, "-c", code, "0", "SIGINT", *part]
    assert subprocess.run(stopped, check=False, capture_output=True).returncode == 130
    assert xtool(*part, "--resume").code == 0
    assert (tmp_path / "m.st").read_bytes() == (tmp_path / "straight.st").read_bytes()
    rows = [without_seconds(rows_of(tmp_path / f"{n}.rows.jsonl")) for n in ("straight", "m")]
    assert rows[0] == rows[1]


def test_a_resumed_run_counts_its_seconds_on(tmp_path: Path) -> None:
    (tmp_path / "m.rows.jsonl").write_text(
        rows.to_jsonl([rows.row(step=2, metric="loss", value=1.0, seconds=s) for s in (3.0, 7.5)])
    )
    journal = Journal(tmp_path / "m.rows.jsonl", 2)
    assert (len(journal.kept), journal.seconds) == (2, 7.5)
    journal.close()


def test_dials_are_saved_only_where_the_run_may_begin(
    data: Path, xtool: Run, tmp_path: Path
) -> None:
    (tmp_path / "m.rows.jsonl").touch()
    args = ["train", data, *TINY, "--steps", 1, "--save-config", "s.toml", "-o", "m.st"]
    for more in ([], ["--dry-run"]):
        done = xtool(*args, *more)
        assert (done.code, "m.rows.jsonl: already exists" in done.err) == (1, True)
    assert not (tmp_path / "s.toml").exists()


def test_files_without_the_latest_dials_go_on(data: Path, xtool: Run, tmp_path: Path) -> None:
    args = ["train", data, *TINY, "--steps", 4, "-o", "m.st"]
    assert xtool(*args, "--keep-state").code == 0
    for name in ("m.st", "m.resume.st"):
        header, tensors = load(tmp_path / name)
        config = {k: v for k, v in header.config.items() if k != "residual"}
        save(tmp_path / name, header.model_copy(update={"config": config}), tensors)
    more = ["--residual", "--save-config", "s.toml", "-o", "n.st"]
    assert xtool("train", data, "--from", "m.st", "--steps", 1, *more).code == 0
    assert "residual = true" in (tmp_path / "s.toml").read_text()
    (tmp_path / "m.st").unlink()
    assert xtool(*args, "--resume").code == 0


@pytest.mark.parametrize(
    "dials",
    [
        [],
        pytest.param(["--optimizer", "lion", "--ema", 0.9], marks=pytest.mark.slow),
        pytest.param(["--optimizer", "muon"], marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_every_stored_field_of_the_state_matters(
    dials: list[object], data: Path, xtool: Run, tmp_path: Path
) -> None:
    args = ["train", data, *DROP, "--label", "x", "--eval-every", 5, *dials]
    assert xtool(*args, "--steps", 12, "-o", "whole.st").code == 0
    part = [str(a) for a in [*args, "--steps", "12", "--save-every", "6", "-o", "m.st"]]
    subprocess.run(
        [sys.executable, "-c", STOPPED, "7", "SIGKILL", *part], check=False, capture_output=True
    )
    header, tensors = load(tmp_path / "m.resume.st")
    good = (tmp_path / "m.resume.st").read_bytes()
    kinds = {name.split("/")[0] + name.rpartition("/")[2]: name for name in tensors}
    for name in kinds.values():
        save(tmp_path / "m.resume.st", header, tensors | {name: tensors[name] * 1.5 + 1e-3})
        assert xtool(*part, "--resume").code == 0
        assert (tmp_path / "m.st").read_bytes() != (tmp_path / "whole.st").read_bytes(), name
        (tmp_path / "m.st").unlink()
    position = header.training["position"]
    for at in (5, 7):
        training = header.training | {"position": position | {"step": at}}
        save(tmp_path / "m.resume.st", header.model_copy(update={"training": training}), tensors)
        done = xtool(*part, "--resume")
        assert (done.code, f"its position is step {at}" in done.err) == (1, True)
        training["progress"] = header.training["progress"] | {"steps": at}
        save(tmp_path / "m.resume.st", header.model_copy(update={"training": training}), tensors)
        assert xtool(*part, "--resume").code == 0
        assert (tmp_path / "m.st").read_bytes() != (tmp_path / "whole.st").read_bytes(), at
        (tmp_path / "m.st").unlink()
    name = "model/blocks.0.attention.q.weight"
    save(tmp_path / "m.resume.st", header, tensors | {name: tensors[name][:1]})
    assert f"lacks `{name}` of shape" in xtool(*part, "--resume").err
    for more in ("model/more", "optimizer/more", "more/more"):
        save(tmp_path / "m.resume.st", header, tensors | {more: tensors[name]})
        assert f"unknown tensor `{more}" in xtool(*part, "--resume").err
    for lost in ("position", "progress"):
        training = {k: v for k, v in header.training.items() if k != lost}
        save(tmp_path / "m.resume.st", header.model_copy(update={"training": training}), tensors)
        assert xtool(*part, "--resume").code == 1
    assert not (tmp_path / "m.st").exists()
    (tmp_path / "m.resume.st").write_bytes(good)
    assert xtool(*part, "--resume").code == 0
    assert (tmp_path / "m.st").read_bytes() == (tmp_path / "whole.st").read_bytes()


def test_rows_that_were_lost_are_spoken_of(data: Path, xtool: Run, tmp_path: Path) -> None:
    part = [str(a) for a in ["train", data, *TINY[:-3], "--steps", 12, "--save-every", 6]]
    stopped = [sys.executable, "-c", STOPPED, "7", "SIGKILL", *part, "-o", "m.st"]
    subprocess.run(stopped, check=False, capture_output=True)
    (tmp_path / "m.rows.jsonl").write_text('{"step": 0, "metric": "accuracy", "value": 99}\n[[')
    done = xtool(*part, "--resume", "-o", "m.st")
    assert done.code == 0
    assert "1 rows before step 6, the run wrote" in done.err


def test_the_state_of_another_run_is_refused(data: Path, xtool: Run, tmp_path: Path) -> None:
    part = [str(a) for a in ["train", data, *TINY, "--steps", 12, "--save-every", 4, "-o", "m.st"]]
    subprocess.run(
        [sys.executable, "-c", STOPPED, "7", "SIGKILL", *part], check=False, capture_output=True
    )
    done = xtool(*part, "--lr", 0.5, "--resume")
    assert done.code == 1
    assert "`lr` is 0.001 there, 0.5 here" in done.err
    for other in (["--seed", 5], ["--threads", 2], ["--norm", "rmsnorm"], ["--n-layers", 2]):
        done = xtool(*part, *other, "--resume")
        assert done.code == 1, other
        assert "is of another run" in done.err
    decay = str(Path(__file__).parents[1] / "examples" / "decay.py")
    done = xtool("train", data, "--arch", decay, "--resume", "-o", "m.st")
    assert done.code == 1
    assert "`arch` is gpt there, decay.py here" in done.err
    assert (tmp_path / "m.resume.st").exists()


def test_zero_steps_write_the_untrained_model(data: Path, xtool: Run, tmp_path: Path) -> None:
    assert xtool("train", data, *TINY, "--steps", 0, "--seed", 3, "-o", "m.st").code == 0
    header, ours, model = read_model(tmp_path / "m.st")
    from xtool.layers.initial import initial

    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, initial(ours, name, 3)), name
    assert header.training["progress"]["flops"] == 0


def test_flops_are_counted_over_the_lineage_and_the_budget_holds(
    data: Path, xtool: Run, tmp_path: Path
) -> None:
    assert xtool("train", data, *TINY, "--epochs", 1, "-o", "a.st").code == 0
    first = read_model(tmp_path / "a.st")[0].training["progress"]
    assert first["flops"] == first["lineage_flops"] > 0
    assert xtool("grow", "a.st", "--to", 16, "-q").code == 0
    budget = 5 * first["flops"]
    assert (
        xtool(
            "train", data, "--from", "a-16.st", "--max-flops", budget, "--quiet", "-o", "b.st"
        ).code
        == 0
    )
    second = read_model(tmp_path / "b.st")[0].training["progress"]
    assert second["lineage_flops"] == first["flops"] + second["flops"]
    one_step = second["flops"] / second["steps"]
    assert budget - one_step < second["lineage_flops"] <= budget
    assert second["lineage_epochs"] == pytest.approx(1 + second["epochs"])


def test_reaching_a_metric_is_recorded_once(data: Path, xtool: Run, tmp_path: Path) -> None:
    done = xtool(
        "train", data, *TINY, "--epochs", 6, "--lr", 0.01, "--reach", "loss=1.0", "-o", "m.st"
    )
    assert done.code == 0
    rows = rows_of(tmp_path / "m.rows.jsonl")
    (reached,) = [row for row in rows if row["metric"] == "reached_step"]
    dev = [r for r in rows if (r.get("split"), r["metric"]) == ("dev", "loss")]
    first = next(r for r in dev if r["value"] <= 1.0)
    assert reached["value"] == first["step"] > 0
    done = xtool("train", data, *TINY[:-3], "--steps", 1, "--reach", "loss=0.1", "-o", "n.st")
    assert "`--reach loss=0.1` was not reached" in done.err
    assert {r["metric"] for r in rows if r["metric"].startswith("reached")} == {
        "reached_step",
        "reached_epoch",
        "reached_flops",
        "reached_lineage_flops",
    }


def test_a_diverging_run_stops_and_leaves_the_last_good_state(
    data: Path, xtool: Run, tmp_path: Path
) -> None:
    args = ["train", data, *TINY, "--norm", "none", "-o", "m.st"]
    assert xtool(*args, "--steps", 24, "--keep-state").code == 0
    before = (tmp_path / "m.st").read_bytes(), (tmp_path / "m.resume.st").read_bytes()
    done = xtool(*args, "--lr", "1e30", "--epochs", 3, "--force")
    assert done.code == 1
    assert "the loss is" in done.err
    assert (tmp_path / "m.st").read_bytes() == before[0]
    assert load(tmp_path / "m.resume.st")
    assert "Traceback" not in done.err


def test_a_run_that_diverges_between_looks_saves_no_state(
    data: Path, xtool: Run, tmp_path: Path
) -> None:
    args = [*TINY, "--norm", "none", "--lr", "1e30", "--steps", 60, "--save-every", 7]
    done = xtool("train", data, *args, "--eval-every", 60, "-o", "m.st")
    assert done.code == 1
    assert "the loss is" in done.err
    assert not (tmp_path / "m.resume.st").exists()


@pytest.mark.parametrize(("budget", "code"), [("1e18", 0), ("-1", 2), ("inf", 2)])
def test_a_budget_of_flops_may_be_large(budget: str, code: int, data: Path, xtool: Run) -> None:
    done = xtool("train", data, *TINY, "--max-flops", budget, "--dry-run", "-o", "m.st")
    assert done.code == code, done.err


def test_data_without_dev_leave_an_earlier_run_alone(
    data: Path, xtool: Run, tmp_path: Path
) -> None:
    header, tensors = load(data)
    save(tmp_path / "bare.st", header, {n: t for n, t in tensors.items() if "dev" not in n})
    assert xtool("train", data, *TINY, "--steps", 2, "-o", "m.st").code == 0
    before = (tmp_path / "m.rows.jsonl").read_bytes()
    done = xtool("train", "bare.st", *TINY, "--steps", 2, "-o", "m.st", "--force")
    assert done.code == 1
    assert "no split `dev`" in done.err
    assert (tmp_path / "m.rows.jsonl").read_bytes() == before


def test_a_row_that_lost_its_end_of_line_is_written_anew(tmp_path: Path) -> None:
    path = tmp_path / "m.rows.jsonl"
    first, second = (rows.row(metric="loss", value=1.0, step=step) for step in (1, 2))
    path.write_bytes(rows.to_jsonl([first, second]).encode()[:-1])
    journal = Journal(path, keep=2)
    assert [one["step"] for one in journal.kept] == [1]
    journal.write([second])
    journal.close()
    assert [one["step"] for one in rows.read(path.read_text(), "x")] == [1, 2]


def test_a_second_writer_on_one_output_is_refused(data: Path, xtool: Run, tmp_path: Path) -> None:
    args = [
        str(a) for a in ["train", data, *TINY, "--epochs", 100000, "--eval-every", 50, "-o", "m.st"]
    ]
    first = subprocess.Popen([sys.executable, "-m", "xtool", *args], stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while not (tmp_path / "m.resume.st").exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        done = xtool(*args, "--force")
        assert done.code == 1
        assert "another run is writing it" in done.err
        size = (tmp_path / "m.rows.jsonl").stat().st_size
        assert size > 0, "the other run's rows are untouched"
    finally:
        first.send_signal(signal.SIGINT)
    assert first.wait(30) == 130
    assert os.path.getsize(tmp_path / "m.resume.st") > 0


def test_the_checkpoint_gives_dials_that_were_not_said(
    data: Path, xtool: Run, tmp_path: Path
) -> None:
    assert xtool("train", data, *TINY, "--lr", 0.02, "--steps", 1, "-o", "a.st").code == 0
    (tmp_path / "run.toml").write_text("[train]\nweight_decay = 0.5\nbatch_size = 4\n")
    args = ["--from", "a.st", "--steps", 1, "--config", "run.toml", "--batch-size", 2, "-q"]
    assert xtool("train", data, *args, "-o", "b.st").code == 0
    dials = read_model(tmp_path / "b.st")[0].training["dials"]
    assert (dials["lr"], dials["weight_decay"], dials["batch_size"]) == (0.02, 0.5, 2)


def test_a_trained_model_keeps_its_shape_but_its_dropout_may_change(
    data: Path, xtool: Run, tmp_path: Path
) -> None:
    assert xtool("train", data, *TINY, "--steps", 1, "-o", "a.st").code == 0
    done = xtool("train", data, "--from", "a.st", "--d-model", 16, "--steps", 1, "-o", "b.st")
    assert done.code == 2
    assert "`d_model` is 8 in the model" in done.err
    assert (
        xtool(
            "train", data, "--from", "a.st", "--dropout", 0.5, "--steps", 1, "-q", "-o", "b.st"
        ).code
        == 0
    )
    assert read_model(tmp_path / "b.st")[0].config["dropout"] == 0.5


def test_used_dials_can_be_saved_and_used_again(data: Path, xtool: Run, tmp_path: Path) -> None:
    args = [*TINY, "--steps", 2, "--lr", 0.03]
    assert xtool("train", data, *args, "-o", "a.st", "--save-config", "run.toml").code == 0
    assert xtool("train", data, "--config", "run.toml", "-q", "-o", "b.st").code == 0
    assert (tmp_path / "a.st").read_bytes() == (tmp_path / "b.st").read_bytes()


def test_a_damaged_model_is_not_trained_on(data: Path, xtool: Run, tmp_path: Path) -> None:
    assert xtool("train", data, *TINY, "--steps", 1, "-o", "m.st").code == 0
    whole = bytearray((tmp_path / "m.st").read_bytes())
    whole[-1] ^= 1
    (tmp_path / "m.st").write_bytes(whole)
    done = xtool("train", data, "--from", "m.st", "--steps", 1, "-o", "n.st")
    assert (done.code, "the digest does not match" in done.err) == (3, True)
    assert not (tmp_path / "n.st").exists()


def test_a_dry_run_says_what_it_would_do_and_writes_nothing(
    data: Path, xtool: Run, tmp_path: Path
) -> None:
    done = xtool("train", data, "--d-model", 8, "--dry-run")
    assert (done.code, done.out) == (0, "")
    assert "parameters" in done.err
    assert [p.name for p in tmp_path.iterdir()] == ["data.st"]


def test_double_precision_is_stored_and_run(data: Path, xtool: Run, tmp_path: Path) -> None:
    assert xtool("train", data, *TINY, "--precision", "fp64", "--steps", 2, "-o", "a.st").code == 0
    assert read_model(tmp_path / "a.st")[2].state_dict()["embed.weight"].dtype == torch.float64


@pytest.mark.parametrize(
    "bad",
    [
        ["--lr", "0"],
        ["--batch-size", "0"],
        ["--epochs", "-1"],
        ["--beta1", "1"],
        ["--reach", "accuracy"],
        ["--reach", "acuracy=0.9"],
        ["--steps", "1", "--epochs", "1"],
        ["--norm", "batchnorm"],
        ["--preset", "none"],
        ["--arch", "gtp"],
        ["--threads", "0"],
        ["--d-model", "7", "--n-heads", "2"],
    ],
)
def test_a_dial_outside_its_range_is_a_usage_error(
    bad: list[str], data: Path, xtool: Run, tmp_path: Path
) -> None:
    done = xtool("train", data, *bad, "-o", "m.st")
    assert done.code == 2, done
    assert done.err.startswith("error: ")
    assert [p.name for p in tmp_path.iterdir()] == ["data.st"]


def test_schedules_rise_then_fall_to_a_tenth() -> None:
    assert [lr_factor("constant", s, 10, 2) for s in (0, 1, 2, 9)] == [0.5, 1.0, 1.0, 1.0]
    for name in ("cosine", "linear"):
        assert lr_factor(name, 2, 10, 2) == 1.0
        assert lr_factor(name, 10, 10, 2) == pytest.approx(0.1)
        falling = [lr_factor(name, s, 10, 2) for s in range(2, 11)]
        assert falling == sorted(falling, reverse=True)


def test_a_step_is_that_of_plain_torch(data: Path, xtool: Run, tmp_path: Path) -> None:
    args = ["train", data, "--d-model", 8, "--threads", 1, "-q", "--precision", "fp64"]
    assert xtool(*args, "--steps", 0, "-o", "a.st").code == 0
    dials = ["--beta1", 0.8, "--beta2", 0.9, "--weight-decay", 0.3, "--clip", 0.05, "--lr", 0.02]
    more = [*dials, "--schedule", "cosine", "--warmup", 2, "--batch-size", 96]
    assert xtool(*args, *more, "--steps", 5, "-o", "b.st").code == 0
    _, _, model = read_model(tmp_path / "a.st")
    train = load(data)[1]
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim == 1]
    groups = [{"params": matrices, "weight_decay": 0.3}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, betas=(0.8, 0.9), eps=1e-8, fused=False)
    for step in range(5):
        for group in optimizer.param_groups:
            group["lr"] = 0.02 * lr_factor("cosine", step, 5, 2)
        optimizer.zero_grad()
        logits = model(train["train.inputs"]).transpose(1, 2)
        torch.nn.functional.cross_entropy(logits, train["train.targets"].long()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.05)
        optimizer.step()
    for name, tensor in read_model(tmp_path / "b.st")[2].state_dict().items():
        assert torch.allclose(tensor, model.state_dict()[name], atol=1e-9), name


def test_each_epoch_has_its_own_order_of_every_example(
    data: Path, xtool: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[int]] = []
    taken = Batches.rows

    def note(self: Batches, step: int) -> torch.Tensor:
        found = taken(self, step)
        seen.append(found[0].tolist())
        return found

    monkeypatch.setattr(Batches, "rows", note)
    assert xtool("train", data, *TINY, "--epochs", 2, "-o", "m.st").code == 0
    first, second = (list(itertools.chain(*batches)) for batches in (seen[:12], seen[12:]))
    assert sorted(first) == sorted(second) == list(range(96))
    assert first != second


def test_the_best_is_the_lowest_dev_loss(data: Path, xtool: Run, tmp_path: Path) -> None:
    args = [*TINY, "--epochs", 4, "--lr", 0.3, "--keep-best", "-o", "m.st"]
    assert xtool("train", data, *args).code == 0
    rows = rows_of(tmp_path / "m.rows.jsonl")
    dev = [r for r in rows if (r.get("split"), r["metric"]) == ("dev", "loss")]
    best = min(dev, key=lambda r: r["value"])
    assert read_model(tmp_path / "m.best.st")[0].training["progress"]["steps"] == best["step"]


@pytest.mark.parametrize("args", [["--lr", 1e20], ["--lr", 1e12, "--norm", "none"]])
def test_a_run_that_diverges_at_once_is_one_line(
    args: list[object], data: Path, xtool: Run, tmp_path: Path
) -> None:
    done = xtool("train", data, *TINY, *args, "--steps", 2, "--eval-every", 1, "-o", "m.st")
    assert done.code == 1
    assert "lower `--lr`" in done.err
    assert not (tmp_path / "m.st").exists()


def test_resuming_a_finished_run_leaves_its_state(data: Path, xtool: Run, tmp_path: Path) -> None:
    args = ["train", data, *TINY, "--steps", 3, "-o", "m.st"]
    assert xtool(*args, "--keep-state").code == 0
    before = {path.name: path.read_bytes() for path in tmp_path.glob("m.*st")}
    assert len(before) == 2
    assert xtool(*args, "--resume").code == 0
    assert {path.name: path.read_bytes() for path in tmp_path.glob("m.*st")} == before


def test_a_parents_rows_are_not_replaced_through_a_link(
    data: Path, xtool: Run, tmp_path: Path
) -> None:
    assert xtool("train", data, *TINY, "--steps", 1, "-o", "m.st").code == 0
    (tmp_path / "n.rows.jsonl").symlink_to("m.rows.jsonl")
    done = xtool("train", data, "--from", "m.st", "--steps", 1, "-o", "n.st", "--force")
    assert (done.code, "is both an output" in done.err) == (2, True), done


def test_a_full_disk_under_the_rows_is_named(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "m.rows.jsonl", None)
    mine = journal._file
    with open("/dev/full", "r+b", buffering=0) as full:
        journal._file = full  # type: ignore[assignment]
        with pytest.raises(XtoolError, match=r"m\.rows\.jsonl: no space left"):
            journal.write([rows.row(metric="loss", value=1.0, step=1)])
    journal._file = mine
    journal.close()
