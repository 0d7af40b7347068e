"""Sampling: the cache changes no logit, draws are those asked for, the text is whole."""

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Run, configuration
from torch import Tensor

from xtool.archs import build, start
from xtool.axes import layout
from xtool.commands._sample import _Writer
from xtool.evaluation.generate import can_cache, generate, picker
from xtool.tokenizers.byte import ByteTokenizer
from xtool.tokenizers.char import CharTokenizer

TEXT = "To be, or not to be, that is the question:\nWhether 'tis nobler in the mind\n" * 30
KINDS: list[dict[str, Any]] = [
    {"positions": "none"},
    {"positions": "learned", "tied_head": True},
    {"positions": "sinusoidal", "bias": "all", "norm": "rmsnorm"},
    {"positions": "rotary", "n_heads": 4, "n_kv_heads": 2},
]


def model_of(**dials: Any) -> tuple[torch.nn.Module, dict[str, Any]]:
    config = configuration(n_layers=2, causal=True, context=12, **dials)
    model = build(config).double()
    start(model, layout(config), 0)
    return model.eval(), config


def greedy(logits: Tensor) -> Tensor:
    return logits.argmax(-1)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_the_text_is_the_same_with_and_without_the_cache(kind: dict[str, Any]) -> None:
    model, config = model_of(**kind)
    assert can_cache(config)
    prompt = torch.tensor([[1, 2, 0], [2, 2, 1]])
    texts = [
        torch.stack(list(itertools.islice(generate(model, prompt, 12, greedy, cached), 30)))
        for cached in (True, False)
    ]
    assert torch.equal(*texts)


def test_the_cache_computes_one_position_a_token() -> None:
    model, _ = model_of()
    seen: list[int] = []
    model.embed.register_forward_hook(lambda m, args, out: seen.append(args[0].shape[1]))
    list(itertools.islice(generate(model, torch.tensor([[1, 2]]), 12, greedy, True), 12))
    assert seen == [2] + [1] * 10 + [12]


def test_draws_follow_the_dials() -> None:
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log().expand(4000, -1)

    def shares(temperature: float, top_k: int | None, top_p: float) -> list[float]:
        generator = torch.Generator().manual_seed(0)
        drawn = picker(temperature, top_k, top_p, 4, generator)(logits)
        return (drawn.bincount(minlength=4) / 4000).tolist()

    assert shares(1.0, None, 1.0) == pytest.approx([0.5, 0.3, 0.15, 0.05], abs=0.03)
    assert shares(1.0, 2, 1.0) == pytest.approx([0.625, 0.375, 0, 0], abs=0.03)
    assert shares(1.0, None, 0.6) == pytest.approx([0.625, 0.375, 0, 0], abs=0.03)
    assert shares(0.5, None, 1.0) == pytest.approx([0.685, 0.247, 0.062, 0.007], abs=0.03)
    assert shares(0.0, None, 1.0) == [1, 0, 0, 0]
    assert shares(1.0, None, 1e-9) == [1, 0, 0, 0]
    few = picker(1.0, None, 1.0, 2, torch.Generator().manual_seed(0))(logits)
    assert set(few.tolist()) == {0, 1}, "symbols that the tokenizer lacks are never drawn"


def written(writer: _Writer, tokens: list[int]) -> list[str]:
    out = []
    for token in tokens:
        writer.add(torch.tensor(token))
        out.append(writer.take())
    return [*out, writer.take(last=True)]


def test_half_a_character_waits_for_its_other_half() -> None:
    tokens = list("aé€".encode())
    assert written(_Writer(ByteTokenizer(), None, ""), tokens) == ["a", "", "é", "", "", "€", ""]
    assert written(_Writer(ByteTokenizer(), None, ""), tokens[:2]) == ["a", "", "\ufffd"]


def test_the_text_ends_before_the_stop() -> None:
    writer = _Writer(CharTokenizer("abc"), "bc", "cab")
    assert "".join(written(writer, [0, 1, 1, 0, 1, 2, 0])) == "cababba"
    assert writer.over


@pytest.fixture(name="model")
def trained(xtool: Run, tmp_path: Path) -> Path:
    (tmp_path / "book.txt").write_text(TEXT)
    assert xtool("prepare", "language", "book.txt", "-o", "book.st").code == 0
    args = ["--d-model", 16, "--n-layers", 1, "--n-heads", 2, "--context", 16, "--threads", 1]
    done = xtool("train", "book.st", *args, "--steps", 40, "--lr", 0.01, "-o", "m.st")
    assert done.code == 0, done.err
    return tmp_path / "m.st"


def test_text_goes_on_from_the_prompt(model: Path, xtool: Run) -> None:
    args = ["sample", model, "--prompt", "To be", "--length", 40]
    done = xtool(*args)
    assert done.code == 0, done.err
    assert done.out.startswith("To be")
    assert len(done.out) == 5 + 40 + 1
    assert xtool(*args).out == done.out
    assert xtool(*args, "--seed", 1).out != done.out
    cold = [xtool(*args, "--temperature", 0, *more).out for more in ([], ["--no-cache"])]
    assert cold[0] == cold[1]
    several = xtool("sample", model, "--samples", 3, "--length", 10).out
    assert [f"--- sample {n}\n" in several for n in (1, 2, 3, 4)] == [True, True, True, False]
    ended = xtool(*args, "--stop", "e", "--length", 400).out
    assert "e" not in ended[5:]


@pytest.mark.parametrize(
    ("code", "message", "args"),
    [
        (1, "character 'é' (column 3) is not in the alphabet", ["--prompt", "Tré"]),
        (2, "`--prompt` is empty", ["--prompt", ""]),
        (2, "`--top-k` is 0", ["--top-k", 0]),
        (2, "`--top-p` is 1.5", ["--top-p", 1.5]),
        (2, "`--temperature` is -1.0", ["--temperature", -1]),
        (2, "`--temperature` is nan", ["--temperature", "nan"]),
        (2, "`--prompt` is not UTF-8 text: character 3", ["--prompt", "To\udcff"]),
        (2, "`--stop` is not UTF-8 text", ["--stop", "\udcff"]),
        (2, "--length", ["--length", 0]),
        (2, "not for examples", ["--prompt", "T", "--examples", 2]),
        (2, "unknown device", ["--device", "tpu"]),
    ],
)
def test_what_cannot_be_sampled(
    code: int, message: str, args: list[object], model: Path, xtool: Run
) -> None:
    done = xtool("sample", model, *args)
    assert (done.code, done.out) == (code, "")
    assert message in done.err


def test_a_prompt_may_come_from_standard_input(model: Path, xtool: Run) -> None:
    args = ["sample", model, "--length", 9]
    wanted = xtool(*args, "--prompt", "To be\nor")
    assert xtool(*args, "--prompt", "-", stdin="To be\r\nor\r\n").out == wanted.out
    done = xtool(*args, "--prompt", "-", stdin=b"To \xff")
    assert (done.code, done.out) == (1, "")
    assert "standard input: not UTF-8 text: byte 3" in done.err


def test_without_a_prompt_a_line_begins(model: Path, xtool: Run) -> None:
    args = ["sample", model, "--temperature", 0, "--length", 9]
    assert "\n" + xtool(*args).out == xtool(*args, "--prompt", "\n").out


def test_the_coldest_draws_are_the_likeliest(model: Path, xtool: Run) -> None:
    args = ["sample", model, "--length", 9, "--temperature"]
    assert xtool(*args, 1e-320).out == xtool(*args, 0).out


def test_a_model_that_sees_what_comes_does_not_speak(model: Path, xtool: Run) -> None:
    args = ["--no-causal", "--d-model", 8, "--context", 8, "--steps", 1]
    assert xtool("train", "book.st", *args, "-o", "both.st").code == 0
    done = xtool("sample", "both.st")
    assert (done.code, "sees later positions too" in done.err) == (2, True)


def test_a_bigram_and_one_of_several_replicas_speak(model: Path, xtool: Run) -> None:
    assert xtool("train", "book.st", "--arch", "bigram", "--steps", 5, "-o", "b.st").code == 0
    assert len(xtool("sample", "b.st", "--length", 20).out) == 21
    args = ["--d-model", 8, "--context", 8, "--steps", 1, "--replicas", 2]
    assert xtool("train", "book.st", *args, "-o", "r.st").code == 0
    assert xtool("sample", "r.st").code == 1
    assert xtool("sample", "r.st", "--replica", 1, "--length", 5).code == 0
