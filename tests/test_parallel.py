"""Several processes: the run of one, shared."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Run

from xtool import rows
from xtool.archs import read_model
from xtool.checkpoint import load
from xtool.errors import UsageError
from xtool.training.parallel import Processes, check_parallel

# 96 examples in batches of 20, so the last of an epoch has 16, and of 40 two have 7 and 6 apiece.
RUN: list[object] = ["--d-model", 8, "--n-layers", 2, "--tied-head", "--threads", 1, "--clip", 0.3]
RUN += ["--batch-size", 20, "--steps", 20, "--eval-every", 5, "--label", "x"]
STOPPED = """
import os, signal
from xtool.training import loop
step = loop._Loop._step
def stopping(self):
    step(self)
    if self.run.position.step == 13:
        os.kill(os.getpid(), signal.SIGKILL)
loop._Loop._step = stopping
from xtool.cli import main
main()
"""


def launch(folder: Path, *args: object, script: Path | None = None) -> Any:
    """The command in two processes."""
    what = [script] if script else ["-m", "xtool"]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", 2]
    command += ["--master-port", 0, "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"]
    words = [str(one) for one in [*command, *what, *args]]
    kept = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    return subprocess.run(
        words, capture_output=True, text=True, check=False, cwd=folder, env=kept, timeout=300
    )


def losses(path: Path) -> list[float]:
    found = rows.read(path.read_text(), "x")
    return [one["value"] for one in found if one["metric"] == "loss"]


UNTIED = ["--arch", "looped", "--n-layers", 3, "--n-loops", 3, "--untied", "--loops-from", 2]
SPOKEN = ["--arch", "looped", "--n-loops", 3, "--injection", "none", "--loss-loops", 2]
RANKED = ["--arch", "looped", "--n-loops", 3, "--loop-rank", 2, "--loss-loops", 2]


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        pytest.param("ddp", [], marks=pytest.mark.slow),
        ("fsdp", []),
        # Of 17 examples in 4 parts the processes have 9 and 8.
        ("ddp", ["--batch-size", 17, "--accumulate", 4]),
        pytest.param("ddp", [*UNTIED, "--loops-every", 8], marks=pytest.mark.slow),
        pytest.param("ddp", RANKED, marks=pytest.mark.slow),
        pytest.param("ddp", SPOKEN, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_two_processes_train_the_model_of_one(
    kind: str, more: list[object], data: Path, xtool: Run, tmp_path: Path
) -> None:
    assert xtool("train", data, *RUN, *more, "-o", "one.st").code == 0
    done = launch(tmp_path, "train", data, *RUN, *more, "--parallel", kind, "-o", "two.st")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "two.st\n", "the first process alone speaks"
    assert done.stderr.count("2 processes") == done.stderr.count("step     20") == 1
    one, two = (losses(tmp_path / f"{name}.rows.jsonl") for name in ("one", "two"))
    assert len(one) == len(two) == 9
    assert two == pytest.approx(one, abs=1e-5)
    headers = [load(tmp_path / f"{name}.st")[0] for name in ("one", "two")]
    assert headers[0].config == headers[1].config
    assert headers[1].training["processes"] == 2
    states = [read_model(tmp_path / f"{name}.st")[2].state_dict() for name in ("one", "two")]
    for name, tensor in states[0].items():
        assert torch.allclose(tensor, states[1][name], rtol=0, atol=1e-4), name


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
@pytest.mark.parametrize("optimizer", ["adamw", "lion", "muon", "sgd"])
def test_a_killed_run_of_two_processes_resumes_to_the_same_bytes(
    kind: str, optimizer: str, data: Path, tmp_path: Path
) -> None:
    args = ["train", data, *RUN, "--parallel", kind, "--optimizer", optimizer, "--dropout", 0.2]
    assert launch(tmp_path, *args, "-o", "whole.st").returncode == 0
    script = tmp_path / "stopped.py"
    script.write_text(STOPPED)
    assert launch(tmp_path, *args, "-o", "m.st", script=script).returncode != 0
    assert (tmp_path / "m.resume.st").exists()
    assert not (tmp_path / "m.st").exists()
    done = launch(tmp_path, *args, "-o", "m.st", "--resume")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "m.st").read_bytes() == (tmp_path / "whole.st").read_bytes()


DRAWN = """
from xtool.training import loop
seed = loop.Replicas.seed
def seeding(self, seeds):
    sys.stderr.write(f"{seeds[0]}\\n")  # at once, or two processes mix theirs
    seed(self, seeds)
loop.Replicas.seed = seeding
"""


@pytest.mark.slow
def test_each_process_drops_out_others(data: Path, tmp_path: Path) -> None:
    (tmp_path / "drawn.py").write_text(f"import sys\n{DRAWN}\nfrom xtool.cli import main\nmain()\n")
    args = ["train", data, *RUN[:-6], "--steps", 2, "--parallel", "ddp", "-q", "-o", "m.st"]
    done = launch(tmp_path, *args, script=tmp_path / "drawn.py")
    assert done.returncode == 0, done.stderr
    seeds = [line for line in done.stderr.splitlines() if line.isdigit()]
    assert len(seeds) == len(set(seeds)) == 4


@pytest.mark.slow
def test_all_processes_stop_when_one_is_asked_to(data: Path, tmp_path: Path) -> None:
    (tmp_path / "asked.py").write_text(
        STOPPED.replace("SIGKILL", "SIGINT").replace("== 13", "== 13 and self.processes.rank")
    )
    args = ["train", data, *RUN, "--steps", 200, "--parallel", "ddp", "-q", "-o", "m.st"]
    done = launch(tmp_path, *args, script=tmp_path / "asked.py")
    assert done.returncode != 0
    assert "interrupted at step 20 of 200" in done.stderr
    assert load(tmp_path / "m.resume.st")[0].training["position"]["step"] == 20


def test_every_example_is_in_one_share() -> None:
    for examples in (1, 2, 3, 7):
        batch = torch.arange(examples)[None]
        shares = [Processes(3, rank).share(batch) for rank in range(3)]
        assert sum(weight for _, weight in shares) == pytest.approx(1)
        seen = torch.cat([part[0] for part, weight in shares if weight])
        assert sorted(seen.tolist()) == list(range(examples))


@pytest.mark.parametrize(
    ("dials", "message"),
    [
        ({"parallel": "none"}, "2 processes were started for one model"),
        (
            {"parallel": "ddp", "replicas": 2},
            "`--replicas` does not go together with `--parallel ddp`",
        ),
        ({"parallel": "fsdp", "ema": 0.9}, "`--ema` does not go together"),
        ({"parallel": "fsdp", "watch": True}, "`--watch` does not go together"),
        ({"parallel": "fsdp", "compile": True}, "`--compile` does not go together"),
    ],
)
def test_what_processes_cannot_do(dials: dict[str, Any], message: str) -> None:
    every = {"replicas": 1, "ema": 0.0, "watch": False, "compile": False} | dials
    with pytest.raises(UsageError, match=message):
        check_parallel(Processes(2, 0), every)
    check_parallel(Processes(), every)
