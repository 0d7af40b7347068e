"""What attention variants cost: time and memory of a step beside full causal attention.

    python benchmarks/attention.py train [--context 2048] [--rounds 3] [--steps 4]
    python benchmarks/attention.py evaluate [--steps 60] [--penalties 0.1 1 10] [--text FILE]
    python benchmarks/attention.py scaling [--contexts 256 512 1024 2048 4096 8192]

`train` times training steps of 4 layers, 4 heads, d_model 128, batch 2. `evaluate` trains hard
windows, one for each penalty, times evaluation beside a plain model of that shape and prints the
part of the pairs that its windows keep and that its blocks compute. `scaling` fits the exponent of
the context in seconds and in memory, also of attention alone. Every measurement is a process of its
own; the variants come in turn within a round, and ratios are taken inside it.
"""

import argparse
import json
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from _process import child, peak, say
from torch import Tensor, nn

from xtool.archs import architecture, build, read_model, start
from xtool.axes import layout
from xtool.config import model_options, options, resolve
from xtool.evaluation.trace import trace
from xtool.rows import Row
from xtool.tasks import Shape, fitted, make_data, open_data
from xtool.training.configs import fresh_config
from xtool.training.dials import REPORT, RESULT
from xtool.training.loop import train
from xtool.training.setup import set_up

SHAPE = {"d_model": 128, "n_layers": 4, "n_heads": 4}
BATCH, VOCABULARY = 2, 65
FULL: dict[str, Any] = {"attention": "plain"}
TRAINED = [
    FULL,
    {"attention": "window", "window": 128},
    {"attention": "window", "window": 64},
    {"attention": "strided", "window": 32},
    {"attention": "span", "window": 128},
    {"attention": "hard-window", "window": 128},
    {"attention": "hard-window"},
    {"attention": "soft-window"},
    {"attention": "key-importance"},
    {"attention": "head-gate"},
    {"attention": "structure-mlp"},
    {"attention": "structure-embedding"},
]
SCALED = [FULL, {"attention": "window", "window": 128}, {"attention": "strided", "window": 32}]
SCALED += [{"attention": "hard-window", "window": 128}, {"attention": "soft-window"}]


class Silent:
    """A listener that says nothing."""

    def stepped(self, step: int, loss: float | None) -> None: ...
    def evaluated(self, rows: list[Row]) -> None: ...
    def note(self, text: str) -> None: ...


def shown(dials: Mapping[str, Any]) -> str:
    """A variant with its dials."""
    return " ".join(str(value) for value in dials.values())


def built(dials: Mapping[str, Any], context: int, layers: int) -> nn.Module:
    """A model with its first values."""
    given = {**SHAPE, "n_layers": layers, **dials}
    config = {"arch": "gpt", **resolve(model_options("gpt", dials["attention"]), [("", given)])}
    config = architecture(config).configure(config, Shape(VOCABULARY, context, VOCABULARY))
    model = build(config)
    start(model, layout(config), 0)
    return model


def timed(dials: Mapping[str, Any], context: int, steps: int, part: str) -> None:
    """Say the seconds of a step, and by how many bytes the peak memory is above that before."""
    model = built(dials, context, SHAPE["n_layers"] if part == "model" else 1)
    if part == "attention":
        x = torch.randn(BATCH, context, SHAPE["d_model"], requires_grad=True)
        step = _attention_step(model.blocks[0].attention.train(), x)  # type: ignore[index,union-attr]
    else:
        step = _model_step(model.train(), context)
    before = peak()
    step()
    seconds = []
    for _ in range(steps):
        began = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - began)
    say(statistics.median(seconds), peak() - before)


def _model_step(model: nn.Module, context: int) -> Callable[[], None]:
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    tokens = torch.randint(VOCABULARY, (BATCH, context + 1))

    def step() -> None:
        logits: Tensor = model(tokens[:, :-1])
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def _attention_step(attention: nn.Module, x: Tensor) -> Callable[[], None]:
    def step() -> None:
        found = attention(x)
        (found if isinstance(found, Tensor) else found.out).sum().backward()

    return step


def measured(dials: Mapping[str, Any], context: int, steps: int, part: str) -> dict[str, float]:
    """The seconds of a step and its memory in MB, from a process of its own."""
    seconds, memory = child(__file__, json.dumps([dials, context, steps, part]))
    return {"seconds": seconds, "memory": memory / 2**20}


def compare(context: int, rounds: int, steps: int, only: list[str]) -> None:
    """Training steps of the chosen variants, in turn."""
    chosen = [dials for dials in TRAINED if not only or dials["attention"] in ["plain", *only]]
    found: dict[str, list[dict[str, float]]] = {shown(dials): [] for dials in chosen}
    for _ in range(rounds):
        for dials in chosen:
            found[shown(dials)].append(measured(dials, context, steps, "model"))
    full = found[shown(FULL)]
    for name, each in found.items():
        ratios = [a["seconds"] / b["seconds"] for a, b in zip(full, each, strict=True)]
        print(
            f"train, context {context}, {name}: {1e3 * each[0]['seconds']:.0f} ms a step, "
            f"{statistics.median(ratios):.2f} times as fast as full attention "
            f"({min(ratios):.2f} to {max(ratios):.2f}), "
            f"memory {statistics.median(one['memory'] for one in each):.0f} MB"
        )


def scaling(contexts: list[int], rounds: int) -> None:
    """The exponent of the context in time and memory."""
    for part in ("model", "attention"):
        for dials in SCALED:
            points = []
            for context in contexts:
                steps = max(1, min(4, 8192 // context))
                each = [measured(dials, context, steps, part) for _ in range(rounds)]
                least = {key: min(one[key] for one in each) for key in each[0]}
                points.append((context, least["seconds"], least["memory"]))
            said = "; ".join(f"{c}: {1e3 * s:.0f} ms {m:.0f} MB" for c, s, m in points)
            print(
                f"{part} {shown(dials)}: {said}; seconds grow as context^"
                f"{_exponent([(c, s) for c, s, _ in points]):.2f}, memory as context^"
                f"{_exponent([(c, m) for c, _, m in points]):.2f}",
                flush=True,
            )


def _exponent(points: list[tuple[int, float]]) -> float:
    """The slope of a straight line through the logarithms."""
    known = [(math.log(x), math.log(y)) for x, y in points if y > 1e-9]
    x, y = zip(*known, strict=True)
    return statistics.linear_regression(x, y).slope


def evaluate(
    steps: int, penalties: list[float], text: Path | None, context: int, rounds: int
) -> None:
    """Train hard windows, and time their evaluation beside a plain model's."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        dials = resolve(options("tasks", "language"), [])
        make_data(place / "data.st", "language", str(text or "builtin-large"), {}, dials, 0)
        data = open_data(place / "data.st")
        models = {}
        learned = [{"attention": "hard-window", "window_penalty": price} for price in penalties]
        for kind in (FULL, *learned):
            given = {**SHAPE, **kind}
            config = fresh_config(
                "gpt",
                resolve(model_options("gpt", str(kind["attention"])), [("", given)]),
                data.header,
                context,
            )
            run = {"steps": steps, "batch_size": BATCH, "lr": 1e-3, "eval_every": steps}
            dials = resolve(RESULT + REPORT, [("", run)])
            fit = data.cut(context)
            out = place / f"{shown(kind)}.st"
            train(set_up(fit, None, config, dials, out), Silent())
            header, _, model = read_model(out)
            models[shown(kind)] = model.eval()
        split = fitted(data, header, "the data").split("dev")
        inputs = split.inputs[:BATCH]
        seconds = {
            name: [_evaluated(model, inputs) for _ in range(rounds)]
            for name, model in models.items()
        }
        for name, model in models.items():
            ratios = [a / b for a, b in zip(seconds[shown(FULL)], seconds[name], strict=True)]
            pairs = _pairs(model, split)
            print(
                f"evaluate, context {context}, {name}: {1e3 * min(seconds[name]):.0f} ms, "
                f"{statistics.median(ratios):.2f} times as fast as full attention{pairs}"
            )


def _evaluated(model: nn.Module, inputs: Tensor) -> float:
    with torch.inference_mode():
        began = time.perf_counter()
        model(inputs)
        return time.perf_counter() - began


def _pairs(model: nn.Module, split: Any) -> str:
    """The mean part of pairs over layers and heads."""
    traces = trace(model, split)
    said = ""
    for metric in ("pairs_kept", "pairs_computed"):
        parts = [torch.cat(one.found[metric]).mean() for one in traces if metric in one.found]
        if parts:
            said += f", {metric.replace('_', ' ')} {float(torch.stack(parts).mean()):.3f}"
    return said


def main() -> None:
    """One of the three comparisons, or a process of one."""
    if sys.argv[1:2] == ["--child"]:
        timed(*json.loads(sys.argv[2]))
        return
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=["train", "evaluate", "scaling"])
    parser.add_argument("--context", type=int, default=2048)
    parser.add_argument(
        "--contexts", type=int, nargs="+", default=[256, 512, 1024, 2048, 4096, 8192]
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--only", nargs="+", default=[], help="variants to compare with plain")
    parser.add_argument("--penalties", type=float, nargs="+", default=[0.1, 1.0, 10.0])
    parser.add_argument("--text", type=Path)
    given = parser.parse_args()
    if given.what == "train":
        compare(given.context, given.rounds, given.steps or 4, given.only)
    elif given.what == "scaling":
        scaling(given.contexts, given.rounds)
    else:
        rounds = 2 * given.rounds + 1
        evaluate(given.steps or 60, given.penalties, given.text, given.context, rounds)


if __name__ == "__main__":
    main()
