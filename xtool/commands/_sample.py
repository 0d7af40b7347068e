"""What `sample` prints: text as it is made, or examples of a task."""

import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from xtool.commands._ui import read_stdin, write_stdout
from xtool.dataset import data_of
from xtool.errors import UsageError, printable
from xtool.evaluation.generate import can_cache, generate, picker
from xtool.evaluation.score import predict
from xtool.header import Header
from xtool.seeds import derive
from xtool.tasks import fitted, open_data, task_of
from xtool.tokenizers import Tokenizer, restore

PARTIAL = "\N{REPLACEMENT CHARACTER}"
LONGEST = 4  # bytes of a character


@dataclass(frozen=True)
class Drawing:
    """How text is drawn; see the options of `sample`."""

    length: int
    samples: int
    temperature: float
    top_k: int | None
    top_p: float
    stop: str | None
    cached: bool
    seed: int


def show(
    model: nn.Module,
    header: Header,
    place: Path,
    data: Path | None,
    split: str,
    examples: int,
    seed: int,
) -> str:
    """Inputs, targets and predictions of examples that the seed chooses."""
    found = open_data(data_of(place, data))
    chosen = fitted(found, header, "the data").stored(split)
    generator = torch.Generator().manual_seed(derive(seed, "sample"))
    picked = torch.randperm(len(chosen), generator=generator)[:examples]
    inputs, targets = chosen.inputs[picked], chosen.targets[picked]
    device = next(model.parameters()).device
    said = predict(model, inputs.to(device)).cpu()
    return "\n".join(task_of(header, str(place)).show(header, inputs, targets, said)) + "\n"


def speak(model: nn.Module, header: Header, prompt: str | None, drawing: Drawing) -> None:
    """Print the prompt and what the model goes on with, one sample as it is made.

    Raises:
        UsageError: an empty prompt, a model that sees what comes, or dials out of range.
        XtoolError: a prompt with characters that the tokenizer does not know.
    """
    if header.config.get("causal") is False:
        raise UsageError(
            "the model sees later positions too, so it cannot go on with a text",
            "train one with `--causal`",
        )
    tokenizer = restore(header.tokenizer)
    if prompt == "-":
        prompt = read_stdin().removesuffix("\n")
    _require_text(prompt=prompt, stop=drawing.stop)
    start = _start(tokenizer, prompt)
    generator = torch.Generator().manual_seed(derive(drawing.seed, "sample"))
    pick = picker(drawing.temperature, drawing.top_k, drawing.top_p, tokenizer.size, generator)
    device = next(model.parameters()).device
    cached = drawing.cached and can_cache(header.config)
    coming = generate(
        model,
        start.expand(drawing.samples, -1).long().to(device),
        header.config["context"],
        pick,
        cached,
    )
    writers = [_Writer(tokenizer, drawing.stop, prompt or "") for _ in range(drawing.samples)]
    alone = drawing.samples == 1
    for token, _ in zip(coming, range(drawing.length), strict=False):
        for writer, one in zip(writers, token, strict=True):
            writer.add(one)
        if alone:
            _write(writers[0].take())
        if all(writer.over for writer in writers):
            break
    for number, writer in enumerate(writers):
        if not alone:
            _write(f"--- sample {number + 1}\n")
        _write(writer.take(last=True) + "\n")


def _require_text(**given: str | None) -> None:
    """Raise UsageError where a flag holds bytes that are no text."""
    for name, text in given.items():
        try:
            (text or "").encode()
        except UnicodeEncodeError as error:
            raise UsageError(
                f"`--{name}` is not UTF-8 text: character {error.start + 1} is no character"
            ) from error


def _start(tokenizer: Tokenizer, prompt: str | None) -> Tensor:
    """The tokens of a prompt, (T,); without one a line's end, or else the first symbol."""
    if prompt is not None:
        tokens = tokenizer.encode(prompt)
        if not len(tokens):
            raise UsageError("`--prompt` is empty", "leave it out to begin with a new line")
        return tokens
    symbols = torch.arange(tokenizer.size)
    lines = [one for one in torch.split(symbols, 1) if tokenizer.decode(one) == "\n"]
    return lines[0] if lines else symbols[:1]


def _write(text: str) -> None:
    """Text as it is; on a terminal without what would drive it."""
    if sys.stdout.isatty():
        text = "\t".join(printable(part) for part in text.split("\t"))
    write_stdout(text)


class _Writer:
    """One sample's text, held back where it may still change: a part of a character or of `stop`.

    Args:
        tokenizer: of the model.
        stop: ends the text before it.
        text: what stands before.
    """

    def __init__(self, tokenizer: Tokenizer, stop: str | None, text: str) -> None:
        self.tokenizer, self.stop = tokenizer, stop
        self.ready, self.made = text, ""
        self.partial: list[Tensor] = []
        self.over = False

    def add(self, token: Tensor) -> None:
        """One token more."""
        if self.over:
            return
        self.partial.append(token)
        text = self.tokenizer.decode(torch.stack(self.partial))
        if text.endswith(PARTIAL) and len(self.partial) < LONGEST:
            return
        self.partial = []
        self.made += text
        if self.stop and self.stop in self.made:
            self.made, self.over = self.made.partition(self.stop)[0], True
        held = 0 if self.over or not self.stop else len(self.stop) - 1
        free = max(0, len(self.made) - held)
        self.ready, self.made = self.ready + self.made[:free], self.made[free:]

    def take(self, last: bool = False) -> str:
        """What is ready and was not taken, all of it at the end."""
        if last and self.partial:
            self.made += self.tokenizer.decode(torch.stack(self.partial))
        ready = self.ready + (self.made if last else "")
        self.ready = ""
        return ready
