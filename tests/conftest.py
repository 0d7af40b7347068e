"""Shared fixtures: tiny models and data, and the command line run in this process."""

import io
import json
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from xtool import registry
from xtool.archs import build, start, stored_names
from xtool.axes import layout
from xtool.checkpoint import Reader, save
from xtool.cli import main
from xtool.config import model_options, options, resolve
from xtool.corpora._normalise import ALPHABET
from xtool.dataset import Split, write_dataset
from xtool.header import Header
from xtool.surgery.grow import grow
from xtool.surgery.plan import Plan, plan
from xtool.surgery.proof import Proof
from xtool.tasks import Shape
from xtool.tasks.counting import counts
from xtool.tokenizers.char import CharTokenizer

TEXT = "\n\n".join(
    f"Paragraph {i}: the quick brown fox number {i} jumps over {i * 7} lazy dogs, "
    f"and {chr(97 + i % 26) * 3} is a word that repeats; so it goes on and on for a while."
    for i in range(60)
)


@dataclass
class Result:
    """What a command did."""

    code: int
    out: str
    err: str


Run = Callable[..., Result]


@pytest.fixture(autouse=True)
def _no_own_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """What one test admits, the next one does not know."""
    monkeypatch.setattr(registry, "_admitted", {})
    monkeypatch.setenv("XTOOL_DEBUG", "1")


@pytest.fixture
def xtool(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Run:
    """Run `xtool ARGS` in a fresh folder, in this process."""
    monkeypatch.chdir(tmp_path)

    def run(*args: object, stdin: str | bytes = "") -> Result:
        raw = stdin if isinstance(stdin, bytes) else stdin.encode()
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", ["xtool", *map(str, args)])
            patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(raw)))
            capsys.readouterr()
            with pytest.raises(SystemExit) as stop:
                main()
        found = capsys.readouterr()
        return Result(int(stop.value.code or 0), found.out, found.err)

    return run


@pytest.fixture
def data(xtool: Run, tmp_path: Path) -> Path:
    """A small counting data file, `data.st`."""
    sizes = ["--train-size", 96, "--dev-size", 32, "--test-size", 32]
    done = xtool("prepare", "counting", "-", "-o", "data.st", *sizes, stdin=TEXT)
    assert done.code == 0, done.err
    return tmp_path / "data.st"


COUNTING = Shape(27, 12, 3)


def configuration(arch: str = "gpt", shape: Shape = COUNTING, **dials: Any) -> dict[str, Any]:
    """A tiny configuration of an architecture for the counting task."""
    small = {"d_model": 16, "n_layers": 2, "n_heads": 2, "n_loops": 3}
    given = resolve(model_options(arch, dials.get("attention")), [("test", small | dials)])
    return registry.load("archs", arch).configure({"arch": arch, **given}, shape)


def make_model(
    path: Path, dtype: torch.dtype = torch.float64, jitter: float = 0.3, **dials: Any
) -> dict[str, Any]:
    """Write a model whose every tensor, gains and biases too, is away from its first value."""
    config = configuration(**dials)
    model, ours = build(config).to(dtype), layout(config)
    start(model, ours, 0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += jitter * torch.randn(parameter.shape, generator=generator, dtype=dtype)
    state = model.state_dict()
    header = Header(kind="model", config=config)
    save(path, header, {name: state[name] for name in stored_names(model, ours)})
    return config


def make_examples(path: Path, size: int = 96) -> str:
    """Write a counting data file that a model of `make_model` fits; returns its digest."""
    drawn = torch.randint(27, (size, 12), generator=torch.Generator().manual_seed(2))
    inputs = drawn.to(torch.uint8)
    task = {"name": "counting", "length": 12, "cap": 2}
    header = Header(kind="data", task=task, tokenizer=CharTokenizer(ALPHABET).header())
    return write_dataset(path, header, {"train": Split(inputs, counts(inputs, 2))})


def dials_of(method: str, folder: Path) -> dict[str, Any]:
    """An operator's defaults; slices, or a little data, for those that need some."""
    own = resolve(options("surgery/operators", "clone" if method == "auto" else method), [])
    if method == "passthrough":
        own["slices"] = "0:2,0:2"
    if "fit_steps" in own:
        if not (folder / "examples.st").exists():
            make_examples(folder / "examples.st")
        own |= {"data": str(folder / "examples.st"), "fit_steps": 2}
    return own


def grow_to(
    path: Path,
    out: Path,
    method: str,
    seed: int = 0,
    dials: dict[str, Any] | None = None,
    **changes: int,
) -> Proof:
    given = dials_of(method, path.parent) | (dials or {})

    def make(reader: Reader) -> Plan:
        return plan(reader, changes, method, given, seed)

    return grow(path, out, make)[1]


def page_data(page: str) -> Any:
    """What a drawn page's script reads."""
    found = re.search(r'<script id="data" type="application/json">(.*?)</script>', page, re.DOTALL)
    assert found
    return json.loads(found[1])
