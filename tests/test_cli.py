"""The command line as a person or a shell meets it: exit codes, streams, pipes, help."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TEXT, Result, Run, make_model

from xtool import registry, writing
from xtool.archs import read_model
from xtool.checkpoint import load, save
from xtool.cli import COMMANDS
from xtool.evaluation.models import Evaluator
from xtool.header import Header
from xtool.storage import Source

ROOT = Path(__file__).parents[1]
TINY = ["--d-model", 8, "--threads", 1, "--quiet", "--batch-size", 8]
HEAVY = {"torch", "numpy", "pandas", "matplotlib", "safetensors", "pooch"}


def shell(script: str, folder: Path, **env: str) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env=os.environ | {"PATH": path} | env,
        capture_output=True,
        text=True,
        check=False,
    )


FLAGS = {
    "prepare": ["--lines", "--length", "--cap", "--seed", "--out", "--force", "--config"],
    "train": ["--from", "--resume", "--preset", "--d-model", "--score-scale", "--lr", "--dry-run"],
    "grow": [
        "--method",
        "--n-layers",
        "--noise-db",
        "--dry-run",
        "--own",
        "--race",
        "--race-seeds",
    ],
    "slice": ["--n-heads", "--context", "--vocab", "--out"],
    "evaluate": ["--against", "--pivot", "--over", "--format"],
    "plot": ["--kind", "--where", "--title"],
    "inspect": ["--json", "--examples", "--spectrum", "--similarity"],
}


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_is_light_grouped_and_names_the_options(command: str, tmp_path: Path) -> None:
    code = (
        "import sys\nfrom xtool.cli import main\n"
        f"sys.argv = {['xtool', *command.split(), '--help']!r}\n"
        "try:\n    main()\nexcept SystemExit as stop:\n    assert not stop.code, stop.code\n"
        f"heavy = {HEAVY!r} & set(sys.modules)\nassert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Usage: ")
    for flag in FLAGS.get(command, []):
        assert re.search(rf"^  (-\w, )?{flag}\b", done.stdout, re.MULTILINE), flag
    sections = re.findall(r"^([A-Z][a-z]+)[^:\n]*:$", done.stdout, re.MULTILINE)
    order = [s for s in sections if s in ("Arguments", "Input", "Model", "Training", "Output")]
    assert order == sorted(order, key=["Arguments", "Input", "Model", "Training", "Output"].index)


def test_the_dials_in_help_are_those_of_the_file(xtool: Run) -> None:
    shown = xtool("train", "--arch", "gpt", "--help").out
    assert "--score-scale" in shown
    assert "--noise-db" in xtool("grow", "--method", "clone", "--help").out
    assert "--noise-db" not in xtool("grow", "--method", "pad", "--help").out
    assert "--cap" in xtool("prepare", "counting", "--help").out


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--nonsense"], "no such option: --nonsense"),
        (["trian"], "did you mean 'train'"),
        (["train", "--epoch", "1"], "did you mean --epochs"),
        (["train", "--lr", "fast"], "invalid value for '--lr'"),
        (["prepare", "counting", "buitlin"], "did you mean `builtin`"),
        (["prepare", "couting"], "did you mean `counting`"),
        (["grow"], "missing"),
        (["grow", "x.st"], "no size given"),
        (["grow", "x.st", "--to", "9", "--method", "padd"], "did you mean `pad`"),
        (["train", "-q", "-v"], "exclude"),
        (["prepare", "counting", "builtin", "--lines", "a", "b"], "give one of them"),
    ],
)
def test_a_wrong_command_line_is_exit_two_with_a_guess(
    args: list[str], message: str, xtool: Run, tmp_path: Path
) -> None:
    done = xtool(*args)
    assert done.code == 2
    assert message in done.err.lower()
    assert done.err.startswith("error: ")
    assert done.out == ""
    assert not list(tmp_path.iterdir())


def bad_files(folder: Path) -> dict[str, Path]:
    make_model(folder / "good.st", torch.float32)
    good = (folder / "good.st").read_bytes()
    header, _, model = read_model(folder / "good.st")
    out = {
        name: folder / f"{name}.st" for name in ("cut", "flipped", "lies", "text", "fifo", "folder")
    }
    out["cut"].write_bytes(good[:-10])
    out["flipped"].write_bytes(good[:-10] + bytes([good[-10] ^ 1]) + good[-9:])
    lying = header.model_copy(update={"config": header.config | {"d_model": 24}})
    save(out["lies"], lying, dict(model.state_dict()))
    out["text"].write_text("hello")
    os.mkfifo(out["fifo"])
    out["folder"].mkdir()
    out["zero"], out["missing"] = Path("/dev/zero"), folder / "missing.st"
    from xtool import checkpoint

    keep = checkpoint.require_finite
    checkpoint.require_finite = lambda *_: None
    try:
        tensors = load(folder / "good.st")[1]
        name = "blocks.0.mlp.up.weight"
        tensors[name][0, 0] = float("nan")
        out["nan"] = folder / "nan.st"
        save(out["nan"], header, tensors)
    finally:
        checkpoint.require_finite = keep
    return out


@pytest.mark.parametrize(
    "command",
    [
        ["check", "{}"],
        ["grow", "{}", "--to", "32", "-o", "out.st"],
        ["slice", "{}", "--to", "8", "--untrained-ok", "-o", "out.st"],
        ["evaluate", "{}"],
        ["train", "--from", "{}", "data.st", "-o", "out.st", "--steps", "1"],
        ["sample", "{}"],
        ["train", "{}", "-o", "out.st", "--steps", "1"],
        ["train", "data.st", "--config", "{}", "-o", "out.st", "--steps", "1"],
        ["prepare", "counting", "--lines", "{}", "{}", "-o", "out.st"],
        ["plot", "{}", "-o", "out.png"],
    ],
    ids=lambda c: " ".join(c[:2]),
)
def test_a_bad_file_is_one_line_and_nothing_written(
    command: list[str], data: Path, xtool: Run, tmp_path: Path
) -> None:
    for name, path in bad_files(tmp_path).items():
        before = sorted(p.name for p in tmp_path.iterdir())
        done = xtool(*[str(path) if part == "{}" else part for part in command])
        text = done.out if command[0] == "check" else done.err
        assert done.code == 3 if command[0] == "check" else done.code in (1, 3), (name, done)
        assert text.startswith("bad  " if command[0] == "check" else "error: "), (name, text)
        assert "Traceback" not in done.err
        assert text.partition("\n\nhint:")[0].strip().count("\n") == 0, text
        assert sorted(p.name for p in tmp_path.iterdir()) == before, name


def test_check_gives_a_verdict_for_each_file(data: Path, xtool: Run, tmp_path: Path) -> None:
    make_model(tmp_path / "m.st", torch.float32)
    done = xtool("check", "data.st", "m.st")
    assert done.code == 0
    assert [line.split(":")[0] for line in done.out.splitlines()] == ["ok   data.st", "ok   m.st"]
    (tmp_path / "m.st").write_bytes((tmp_path / "m.st").read_bytes()[:-1])
    done = xtool("check", "data.st", "m.st")
    assert done.code == 3
    assert done.out.splitlines()[1].startswith("bad  m.st: truncated")


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("model", {"config": {"replicas": 0}}, "`replicas` is '0'"),
        ("model", {"config": {"replicas": "x"}}, "`replicas` is 'x'"),
        ("data", {"task": {"name": "regression", "function": "linear"}}, "lacks its `dims`"),
        ("data", {"task": {"sizes": [1]}}, ""),
        ("data", {"task": {"sizes": {"epoch": "many"}}}, "epoch has 'many' examples"),
    ],
    ids=str,
)
def test_check_judges_headers_that_cannot_be(
    kind: str, changes: dict[str, Any], message: str, data: Path, xtool: Run,
    tmp_path: Path,
) -> None:  # fmt: skip
    make_model(tmp_path / "m.st", torch.float32)
    header, tensors = load(data if kind == "data" else tmp_path / "m.st")
    update = {name: getattr(header, name) | own for name, own in changes.items()}
    save(tmp_path / "odd.st", header.model_copy(update=update), tensors)
    done = xtool("check", "odd.st")
    if message:
        assert (done.code, message in done.out) == (3, True), done
    assert "Traceback" not in done.err


def test_inspect_shows_lineage_and_axes_without_torch(
    data: Path, xtool: Run, tmp_path: Path
) -> None:
    assert xtool("train", data, *TINY, "--steps", 1, "-o", "m.st").code == 0
    assert xtool("grow", "m.st", "--to", 16, "-q").code == 0
    shown = xtool("inspect", "m-16.st").out
    assert re.search(r"1\. prepare .*2\. train .*3\. grow .*d_model=16", shown, re.DOTALL)
    assert max(map(len, shown.split("lineage\n")[1].split("\n\n")[0].splitlines())) <= 98
    assert re.search(r"mlp.up.weight +F32 +64x16 +d_ff x <d_model", shown)
    code = (
        "import sys\nfrom xtool.cli import main\n"
        "sys.argv = ['xtool', 'inspect', 'm-16.st', '--json']\n"
        "try:\n    main()\nexcept SystemExit:\n    assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, check=True
    )
    assert b'"params"' in done.stdout


def test_inspect_is_instant_on_a_big_file(tmp_path: Path, xtool: Run) -> None:
    raw = b'{"a":{"dtype":"F32","shape":[25000000000],"data_offsets":[0,100000000000]}}'
    with (tmp_path / "big.st").open("wb") as file:
        file.write(len(raw).to_bytes(8, "little") + raw)
        file.truncate(8 + len(raw) + 100_000_000_000)
    done = xtool("inspect", "big.st")
    assert done.code == 0
    assert "without an xtool header" in done.out


def test_an_existing_output_is_refused_without_force(
    data: Path, xtool: Run, tmp_path: Path
) -> None:
    make_model(tmp_path / "m.st")
    (tmp_path / "taken.st").write_text("mine")
    for command in (
        ["train", data, *TINY, "--steps", 1],
        ["grow", "m.st", "--to", 32],
        ["slice", "m.st", "--to", 8, "--untrained-ok"],
        ["prepare", "counting"],
    ):
        done = xtool(*command, "-o", "taken.st")
        assert (done.code, "already exists" in done.err) == (1, True), command
    assert (tmp_path / "taken.st").read_text() == "mine"
    assert xtool("grow", "m.st", "--to", 32, "-o", "taken.st", "--force").code == 0


def test_paths_come_from_standard_input_and_empty_input_is_an_error(
    data: Path, xtool: Run, tmp_path: Path
) -> None:
    for name in "ab":
        make_model(tmp_path / f"{name}.st")
    done = xtool("grow", "-", "--to", 32, stdin="a.st\nb.st\n")
    assert done.out == "a-32.st\nb-32.st\n"
    for command in (
        ["grow", "-", "--to", 48],
        ["evaluate", "-"],
        ["train", "--from", "-"],
        ["plot", "-"],
    ):
        done = xtool(*command, stdin="")
        assert done.code == 1, command
        assert done.err.startswith("error: ")
    done = xtool("train", data, "--from", "-", stdin="a.st\nb.st\n")
    assert "2 paths, exactly one" in done.err


def test_standard_output_is_data_alone(data: Path, xtool: Run) -> None:
    done = xtool("train", data, "--d-model", 8, "--steps", 2, "-o", "m.st")
    assert done.out == "m.st\n"
    assert "parameters" in done.err
    assert xtool("train", data, "--d-model", 8, "--steps", 2, "-o", "n.st", "-q").err == ""


def test_a_path_goes_out_as_the_bytes_that_it_is(data: Path, tmp_path: Path) -> None:
    script = "xtool train data.st --steps 0 --d-model 8 -q -o $'a\\xff.st' | od -An -tx1"
    done = shell(script, tmp_path, LC_ALL="C.UTF-8")
    assert bytes.fromhex(done.stdout) == b"a\xff.st\n", done.stderr


def test_a_closed_pipe_is_respected(data: Path, tmp_path: Path) -> None:
    done = shell("xtool inspect data.st data.st data.st | head -1", tmp_path)
    assert "Traceback" not in done.stderr
    assert done.stdout.startswith("data.st")


def test_environment_and_flag_order(data: Path, xtool: Run, tmp_path: Path,
                                    monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setenv("XTOOL_LR", "0.25")
    assert xtool("train", data, *TINY, "--steps", 1, "-o", "a.st").code == 0
    assert xtool("train", data, *TINY, "--steps", 1, "-o", "b.st", "--lr", 0.5).code == 0
    assert read_model(tmp_path / "a.st")[0].training["dials"]["lr"] == 0.25
    assert read_model(tmp_path / "b.st")[0].training["dials"]["lr"] == 0.5


def test_completion_knows_commands_and_registry_names(tmp_path: Path) -> None:
    def complete(line: str) -> str:
        words = {"COMP_WORDS": line, "COMP_CWORD": str(len(line.split()) - (line[-1] != " "))}
        return shell("xtool || true", tmp_path, _XTOOL_COMPLETE="complete_bash", **words).stdout

    assert "evaluate" in complete("xtool ev")
    assert "identity-qkv" in complete("xtool grow a.st --method identity-")
    assert "layernorm" in complete("xtool train --norm la")


OWN_ARCH = (ROOT / "examples" / "decay.py").read_text()


def test_a_users_own_architecture_trains_and_is_passed_again(
    data: Path, xtool: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def anew(*args: object) -> Result:
        monkeypatch.setattr(registry, "_admitted", {})
        return xtool(*args)

    (tmp_path / "mine.py").write_text(OWN_ARCH)
    args = ["train", data, "--arch", "mine.py", "--d-model", 8, "--steps", 5, "-q", "-o", "m.st"]
    code = (
        f"import sys; sys.argv = {['xtool', *map(str, args)]!r}\nfrom xtool.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    with Source(tmp_path / "m.st") as source:
        config = source.require_header().config
    assert (config["arch"], config["d_model"]) == ("mine.py", 8)
    assert len(config["sources"]["mine.py"]) == 64
    refused = anew("evaluate", "m.st")
    assert (refused.code, "--own mine.py" in refused.err) == (2, True)
    again = anew("evaluate", "m.st", "--own", "mine.py", "--format", "jsonl")
    assert (again.code, '"arch": "mine.py"' in again.out) == (0, True), again.err
    done = shell(
        "xtool grow m.st --to 12 --own mine.py |"
        " xtool slice - --to 8 --untrained-ok --own mine.py -o cut.st\n"
        "xtool evaluate m.st m-12.st cut.st --own mine.py --where metric=loss --format jsonl",
        tmp_path,
    )
    assert done.returncode == 0, done.stderr
    losses = [json.loads(line)["value"] for line in done.stdout.splitlines()[1:]]
    assert losses == pytest.approx([losses[0]] * 3, abs=1e-5)
    (tmp_path / "mine.py").write_text(OWN_ARCH + "# edited\n")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        again = anew("evaluate", "m.st", "--own", "mine.py", "--format", "jsonl")
    assert "mine.py is not the file" in again.err


def test_the_saved_dials_of_a_users_own_architecture_are_read_back(
    data: Path, xtool: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = OWN_ARCH.replace('"channels")]', '"channels"), ("speed", "float", 1.0, "unused")]')
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "mine.py").write_text(more)
    common = ["--threads", 1, "-q"]

    def run(*args: object) -> Result:
        monkeypatch.setattr(registry, "_admitted", {})
        return xtool("train", *common, *args)

    saved = ["--d-model", 8, "--speed", 2.5, "--steps", 2, "--save-config", "run.toml"]
    done = run(data, "--arch", "sub/mine.py", *saved, "-o", "a.st")
    assert done.code == 0, done.err
    assert 'arch = "mine.py"' in (tmp_path / "run.toml").read_text()
    again = run(data, "--config", "run.toml", "--own", "sub/mine.py", "-o", "b.st", "--label", "a")
    assert again.code == 0, again.err
    assert read_model(tmp_path / "b.st")[0].config["speed"] == 2.5
    flag = run(data, "--config", "run.toml", "--own=sub/mine.py", "--speed", 3, "-o", "c.st")
    assert flag.code == 0, flag.err
    assert read_model(tmp_path / "c.st")[0].config["speed"] == 3.0
    on = run("--from", "b.st", "--own", "sub/mine.py", "--speed", 2.5, "--steps", 1, "-o", "d.st")
    assert on.code == 0, on.err
    refused = run(data, "--config", "run.toml", "-o", "e.st")
    assert refused.code == 2
    assert "mine.py: no such file" in refused.err


def test_a_header_cannot_make_a_file_in_the_folder_run(
    data: Path, xtool: Run, tmp_path: Path
) -> None:
    (tmp_path / "evil.py").write_text("raise SystemExit(99)\n")
    save(tmp_path / "m.st", Header(kind="model", config={"arch": "evil.py"}), {"a": torch.zeros(1)})
    for command in (["train", "--from", "m.st"], ["evaluate", "m.st"], ["grow", "m.st", "--to", 9]):
        done = xtool(*command)
        assert done.code == 2, (command, done)
        assert "--own evil.py" in done.err


def test_data_that_contradicts_its_header_is_refused(
    data: Path, xtool: Run, tmp_path: Path
) -> None:
    header, tensors = load(data)
    for name, value, message in (
        ("train.inputs", tensors["train.inputs"] + 30, "the task has 0 to 26"),
        ("dev.targets", tensors["dev.targets"] + 3, "the task has 0 to 2"),
        ("dev.inputs", tensors["dev.inputs"][:, :7], "is not N x 20 whole numbers"),
        ("dev.inputs", tensors["dev.inputs"].float(), "is not N x 20 whole numbers"),
    ):
        save(tmp_path / "bad.st", header, tensors | {name: value})
        done = xtool("train", "bad.st", *TINY, "--steps", 1, "-o", "m.st")
        assert (done.code, message in done.err) == (1, True), done.err
        assert xtool("check", "bad.st").code == 3


def test_a_growth_that_is_not_exact_exits_three_and_leaves_nothing(
    xtool: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from xtool.surgery.operators.pad import Pad

    make_model(tmp_path / "m.st")
    monkeypatch.setattr(Pad, "_gain", lambda self, growth, name, values, new: values)
    done = xtool("grow", "m.st", "--to", 24, "--method", "pad")
    assert done.code == 3
    assert "promised to be exact" in done.err
    assert [p.name for p in tmp_path.iterdir()] == ["m.st"]


def test_depth_context_and_vocabulary_grow_without_a_width(xtool: Run, tmp_path: Path) -> None:
    make_model(tmp_path / "m.st", positions="learned")
    done = xtool("grow", "m.st", "--method", "passthrough", "--slices", "0:2,1:2")
    assert (done.code, done.out) == (0, "m-passthrough.st\n"), done.err
    assert "n_layers 2 -> 3" in done.err
    done = xtool("grow", "m.st", "--method", "passthrough")
    assert (done.code, "no size given" in done.err) == (2, True)
    done = xtool("grow", "m.st", "--context", 20, "--vocab", 30)
    assert (done.code, done.out) == (0, "m-context20-vocab_size30.st\n"), done.err
    assert "pad (exact): largest logit difference 0" in done.err
    done = xtool("slice", done.out.strip(), "--context", 12, "--vocab", 27, "-o", "back.st")
    assert done.code == 0, done.err
    old, new = load(tmp_path / "m.st")[1], load(tmp_path / "back.st")[1]
    assert all(torch.equal(old[name], new[name]) for name in old)


def test_an_interrupt_outside_training_is_exit_130(
    xtool: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*args: object) -> None:
        raise KeyboardInterrupt

    make_model(tmp_path / "m.st")
    monkeypatch.setattr(Evaluator, "rows", interrupt)
    done = xtool("evaluate", "m.st")
    assert done.code == 130
    assert "Traceback" not in done.err


PIPELINE = """
xtool prepare counting - -o counting.st --train-size 96 --dev-size 32 --test-size 32 < text.txt
xtool train counting.st --d-model 16 --epochs 2 --batch-size 8 --threads 1 -o small.st
xtool grow small.st --to 32 --method {method} | xtool train counting.st --from - --epochs 1 |
    xtool slice - --to 16 --untrained-ok | xtool evaluate - --format jsonl > rows.jsonl
"""


@pytest.mark.parametrize("method", [pytest.param("pad", marks=pytest.mark.slow), "clone"])
def test_the_same_commands_give_the_same_bytes_in_any_folder_and_hash_seed(
    method: str, tmp_path: Path
) -> None:
    found = []
    for seed in ("1", "2"):
        folder = tmp_path / seed / "deep"
        folder.mkdir(parents=True)
        (folder / "text.txt").write_text(TEXT)
        done = shell(PIPELINE.format(method=method), folder, PYTHONHASHSEED=seed)
        assert done.returncode == 0, done.stderr
        files = {p.name: p.read_bytes() for p in folder.iterdir() if p.suffix == ".st"}
        rows = re.sub(r'"(lineage_)?seconds": [\d.]+', "", (folder / "rows.jsonl").read_text())
        found.append((files, rows))
    assert len(found[0][0]) == 5
    assert found[0] == found[1]


def test_a_header_holds_no_path_and_no_clock(data: Path, tmp_path: Path, xtool: Run) -> None:
    assert xtool("train", data, *TINY, "--steps", 1, "-o", tmp_path / "m.st").code == 0
    with Source(tmp_path / "m.st") as source:
        text = source.require_header().canonical()
    assert str(tmp_path) not in text
    assert not re.search(r"20\d\d-\d\d|\d\d:\d\d", text)


def commands_of(text: str) -> list[str]:
    """The commands of the `console` blocks, continued lines joined."""
    blocks = re.findall(r"```console\n(.*?)```", text, re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line[2:] for line in lines if line.startswith("$ ")]


def test_the_first_commands_of_the_readme_run(tmp_path: Path) -> None:
    commands = commands_of((ROOT / "README.md").read_text())
    script = "\n".join(commands[:8])  # the pipeline and a comparison; the slow test runs all
    done = shell(script, tmp_path, XTOOL_MAX_FLOPS="2e9", XTOOL_THREADS="1")
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.glob("*.png"))


@pytest.mark.parametrize("failing", [False, True])
def test_an_experiment_stops_when_a_run_fails(failing: bool, tmp_path: Path) -> None:
    script = f"""
        jobs=2 && source {ROOT}/examples/_run.sh
        two() {{ sleep 0.1; {"false" if failing else "true"}; touch second; }}
        beside first two; beside other sleep 0.3; beside third touch third; finish; touch after"""
    done = shell(script, tmp_path)
    assert (done.returncode, "failed: first" in done.stderr) == (int(failing), failing), done
    there = {one.name for one in tmp_path.iterdir()}
    assert there == (set() if failing else {"second", "third", "after"})


@pytest.mark.slow
def test_the_commands_of_the_readme_run_in_full(tmp_path: Path) -> None:
    done = shell("\n".join(commands_of((ROOT / "README.md").read_text())), tmp_path)
    assert done.returncode == 0, done.stderr


def test_every_command_of_the_readme_parses() -> None:
    for command in commands_of((ROOT / "README.md").read_text()):
        assert shlex.split(command)[0] in ("xtool", "python3")


def test_train_alone_prepares_its_default_data_and_says_so(xtool: Run, tmp_path: Path) -> None:
    done = xtool("train", "--arch", "gpt", "--steps", 1, "--threads", 1)
    assert (done.code, done.out) == (0, "checkpoints/counting-gpt.st\n")
    assert "preparing the default task, counting from builtin" in done.err
    again = xtool("train", "--arch", "gpt", "--steps", 1, "--threads", 1, "-o", "b.st")
    assert "using checkpoints/counting.st" in again.err


def test_an_architecture_without_a_default_task_asks_for_data(xtool: Run, tmp_path: Path) -> None:
    (tmp_path / "taskless.py").write_text(OWN_ARCH.replace('TASK = "counting"', ""))
    done = xtool("train", "--arch", "taskless.py", "-o", "x.st")
    assert (done.code, "has no default task" in done.err) == (2, True), done
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.parametrize(
    "more", [["--label", "x"], ["--split", "test"], ["--data", "data.st"], ["--against", "m.st"]]
)
def test_what_only_models_have_is_refused_beside_rows(
    more: list[str], data: Path, xtool: Run, tmp_path: Path
) -> None:
    (tmp_path / "r.csv").write_text("label,metric,value,split\na,loss,1,dev\n")
    done = xtool("evaluate", "r.csv", *more)
    assert (done.code, "for models, and the files hold rows" in done.err) == (2, True), done


def test_a_header_of_another_kind_is_refused(xtool: Run, tmp_path: Path) -> None:
    save(tmp_path / "x.st", Header(kind="model", config={"arch": "gpt"}), {"a": torch.zeros(1)})
    for command in (["inspect", "x.st"], ["evaluate", "x.st"], ["grow", "x.st", "--to", 9]):
        done = xtool(*command)
        assert done.code == 1
        assert "is missing" in done.err


@pytest.mark.parametrize(
    "command",
    [
        ["train", "data.st", "--steps", "1", "-o", "data.st"],
        ["train", "data.st", "--steps", "1", "-o", "x.st", "--save-config", "data.st"],
        ["train", "data.st", "--steps", "1", "-o", "x.st", "--save-config", "x.st"],
        ["train", "--from", "m.st", "--steps", "1", "-o", "data.st"],
        ["train", "data.st", "--from", "m.st", "--steps", "1", "-o", "m.st"],
        ["train", "data.st", "--from", "n.best.st", "-o", "n.st", "--keep-best", "--steps", "1"],
        ["train", "data.st", "--config", "run.toml", "-o", "run.toml"],
        ["train", "data.st", "--arch", "mine.py", "--steps", "1", "-o", "mine.py"],
        ["train", "data.st", "--categories", "run.toml", "--steps", "1", "-o", "run.toml"],
        ["grow", "m.st", "--to", "16", "-o", "m.st"],
        ["grow", "m.st", "n.best.st", "m-16.st", "--to", "16"],
        ["grow", "m.st", "--to", "16", "--config", "run.toml", "-o", "run.toml"],
        ["grow", "m.st", "--to", "16", "--race", "-o", "data.st"],
        ["slice", "m.st", "--to", "4", "-o", "m.st"],
        ["slice", "m.st", "--sort", "importance", "--data", "data.st", "-o", "data.st"],
        ["slice", "m.st", "--sort", "importance", "-o", "data.st"],
        ["plot", "rows.svg", "-o", "rows.svg"],
        ["prepare", "counting", "text.txt", "-o", "text.txt"],
    ],
    ids=" ".join,
)
def test_an_output_never_replaces_an_input(
    command: list[str], data: Path, xtool: Run, tmp_path: Path
) -> None:
    train = ["train", data, *TINY, "--steps", 1]
    assert xtool(*train, "-o", "m.st").code == 0
    assert xtool(*train, "-o", "n.best.st").code == 0
    (tmp_path / "m-16.st").write_bytes((tmp_path / "m.st").read_bytes())
    (tmp_path / "rows.svg").write_text(xtool("evaluate", "m.st").out)
    (tmp_path / "mine.py").write_text(OWN_ARCH)
    (tmp_path / "run.toml").write_text("[train]\nsteps = 1\n[grow]\nseed = 1\n")
    (tmp_path / "text.txt").write_text(TEXT)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    done = xtool(*command, "--force")
    assert done.code == 2, done
    assert "is both an output and another file" in done.err
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("xtool inspect data.st > /dev/full", "standard output: no space left"),
        ("xtool inspect data.st >&-", "standard output is closed"),
        ("xtool check - <&-", "standard input holds no path"),
        ("xtool prepare counting - -o n.st <&-", "the corpus is empty"),
    ],
)
def test_broken_streams_are_one_line(data: Path, script: str, message: str, tmp_path: Path) -> None:
    done = shell(script, tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_closed_standard_error_takes_nothing_into_the_data(data: Path, tmp_path: Path) -> None:
    done = shell("xtool train data.st --steps 1 --d-model 8 --threads 1 -o m.st 2>&-", tmp_path)
    assert (done.returncode, done.stdout) == (0, "m.st\n")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("ENTRY = ", "import sys; sys.exit(0); ENTRY = "), "cannot be imported: SystemExit"),
        (("ENTRY = Architecture()", "ENTRY = 5"), "its `ENTRY` is no architecture"),
        (('"channels")]', '"channels", 5, 5)]'), "`OPTIONS` must hold rows"),
        (('("d_model", "int"', '("lr", "int"'), "dial `lr` is there already"),
        (("return 2 * length", "return 0 * length"), "`flops` gives 0"),
        (("x = stage(x)", "x = stage(x)[0]"), "mine.py"),
        (("import torch\n", "import torch\n)"), "not Python"),
    ],
)
def test_a_fault_in_a_users_own_file_names_it(
    change: tuple[str, str], message: str, data: Path, tmp_path: Path
) -> None:
    assert change[0] in OWN_ARCH
    (tmp_path / "mine.py").write_text(OWN_ARCH.replace(*change))
    run = "xtool train data.st --arch mine.py --threads 1 -q --steps 2 -o m.st"
    done = shell(run, tmp_path, XTOOL_DEBUG="")
    assert done.returncode in (1, 2)
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "m.st").exists()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--reach", "accuracy=nan"], "is not METRIC=VALUE"),
        (["--threads", "100000"], "1 to 1024"),
        (["--epochs", "1e308"], "must be"),
        (["--d-model", str(10**20)], "must be"),
        (["--n-layers", "10000000"], "must be 1 to"),
        (["--resume", "--preset", "nope"], "unknown preset"),
    ],
)
def test_impossible_values_are_refused(
    args: list[str], message: str, data: Path, xtool: Run, tmp_path: Path
) -> None:
    done = xtool("train", data, "--dry-run", *args, "-o", "m.st")
    assert done.code == 2
    assert message in done.err


STUDIES = ("width-16", "ratio", "split", "batch-64")
EXAMPLES = {
    "spectra": (
        ["| large-untrained ", "| small-2 ", "| grown-trained "],
        ["spectra"],
    ),
    "growth-text": (
        ["| small, 0.4 ", "| pad, 0.6 ", "| scratch, 0.6 ", "| untrained pad, 0.6 "],
        ["by-flops"],
    ),
    "language": (
        ["| base ", "| bigram ", "| no-residual ", "| plain-average ", "| bpe-512 "],
        ["parts"],
    ),
    "growth": (
        [
            "| untrained pad | dev   | accuracy_difference |",
            *(f"## {study}" for study in STUDIES),
        ],
        [
            f"{study}-{kind}"
            for study in STUDIES
            for kind in ("epochs", "flops", "by-epoch", "by-flops", "loss-by-epoch")
        ],
    ),
    "attention": (
        ["| window ", "| hard-window ", "| head-gate ", "| rotary-32-8 "],
        ["windows", "look-back", "head-gates", "attention-map"],
    ),
    "matryoshka": (
        ["| nested ", "| plain cut ", "| imposed-32 ", "loss_difference"],
        ["hierarchy"],
    ),
    "looped": (
        ["| fixed ", "| random ", "| twelve-layers ", "| 4-2 "],
        ["twin-loops", "twin-curves", "examples", "exits", "tokens", "grid-loops"],
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_runs_in_short(name: str, tmp_path: Path) -> None:
    lines, pictures = EXAMPLES[name]
    done = shell(f"bash {ROOT / 'examples' / name}.sh --fast out", tmp_path)
    assert done.returncode == 0, done.stderr
    table = (tmp_path / "out" / "tables.md").read_text()
    assert [line for line in lines if line not in table] == []
    assert [one for one in pictures if not (tmp_path / "out" / f"{one}.png").exists()] == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_a_file_is_written_is_one_line_and_leaves_nothing(
    number: signal.Signals,
    tmp_path: Path,
    xtool: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make_model(tmp_path / "a.st")

    def stopped(file: object, pieces: object) -> str:
        signal.raise_signal(number)
        time.sleep(10)  # the handler may come a moment later
        return ""

    monkeypatch.setattr(writing, "_stream", stopped)
    # A command in the background is born deaf to SIGINT, and so would this test be.
    before = signal.signal(number, signal.default_int_handler)
    try:
        done = xtool("grow", "a.st", "--to", 32, "-o", "grown.st")
    finally:
        signal.signal(number, before)
    assert (done.code, done.err) == (130, "error: interrupted\n"), done
    assert [path.name for path in tmp_path.iterdir()] == ["a.st"]
