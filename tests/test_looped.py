"""Looped models: against a plain implementation of the paper's model, and what loops promise."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Result, configuration
from torch import Tensor, nn
from torch.nn import functional as F

from xtool.archs import architecture, build, start
from xtool.axes import layout
from xtool.tasks import Shape

Run = Callable[..., Result]
PROMPTS = Shape(None, 14, 1, 5)  # 7 points of 5 numbers


def made(dtype: torch.dtype = torch.float64, **dials: Any) -> nn.Module:
    """A small looped model with every value away from its first one."""
    config = configuration("looped", PROMPTS, n_layers=2, bias="all", **dials)
    model = build(config).to(dtype)
    start(model, layout(config), 0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.2)
    return model


def prompts(count: int = 3, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    return (
        torch.randn(count, 14, 5, generator=generator, dtype=dtype),
        torch.randn(count, 7, generator=generator, dtype=dtype),
    )


def reference(state: dict[str, Tensor], x: Tensor, loops: int, last: int, cut: bool) -> Tensor:
    """The model of the paper in plain operations: the predictions of the last loops, (S, B, n)."""

    def norm(z: Tensor, name: str) -> Tensor:
        return F.layer_norm(z, z.shape[-1:], state[name + ".weight"], state[name + ".bias"])

    def linear(z: Tensor, name: str) -> Tensor:
        return z @ state[name + ".weight"].T + state.get(name + ".bias", torch.zeros(()))

    def attend(z: Tensor, name: str) -> Tensor:
        b, t, d = z.shape
        q, k, v = (
            linear(z, f"{name}.{part}").view(b, t, 2, d // 2).transpose(1, 2) for part in "qkv"
        )
        scores = q @ k.transpose(2, 3) / math.sqrt(d // 2)
        scores = scores.masked_fill(torch.ones(t, t).triu(1) > 0, -math.inf)
        return linear((scores.softmax(-1) @ v).transpose(1, 2).reshape(b, t, d), f"{name}.o")

    e = linear(x, "embed.read") + state["embed.positions"]
    z, found = torch.zeros_like(e), []
    for loop in range(loops):
        if cut and loop == loops - last:
            z = z.detach()
        z = z + e
        for i in range(2):
            z = z + attend(norm(z, f"blocks.{i}.attention_norm"), f"blocks.{i}.attention")
            up = F.gelu(linear(norm(z, f"blocks.{i}.mlp_norm"), f"blocks.{i}.mlp.up"))
            z = z + linear(up, f"blocks.{i}.mlp.down")
        z = norm(z, "head.norm")
        if loop >= loops - last:
            found.append(linear(z, "head")[:, ::2, 0])
    return torch.stack(found)


@pytest.mark.parametrize(("loops", "last"), [(4, 4), (6, 2), (3, 9)])
def test_outputs_and_gradients_are_those_of_the_papers_model(loops: int, last: int) -> None:
    model, (x, y) = made(n_loops=loops, loss_loops=last).train(), prompts()
    state = {n: t.detach().clone().requires_grad_() for n, t in model.state_dict().items()}
    kept = min(loops, last)
    wanted = reference(state, x, loops, kept, cut=True)
    found = model(x)[..., ::2, 0]  # (S, B, n)
    assert found.shape == (kept, 3, 7)
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)
    (found - y).square().mean().backward()
    (wanted - y).square().mean().backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, state[name].grad, rtol=1e-8, atol=1e-10)
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(x)[:, ::2, 0], wanted[-1], rtol=1e-10, atol=1e-10)
    if last < loops:
        whole = {n: t.detach().clone().requires_grad_() for n, t in state.items()}
        (reference(whole, x, loops, kept, cut=False) - y).square().mean().backward()
        differ = state["embed.positions"].grad - whole["embed.positions"].grad
        assert float(differ.abs().max()) > 1e-6, "the cut changes the gradient"


def test_the_loops_before_the_loss_leave_no_activations() -> None:
    def saved(last: int) -> int:
        model, (x, _) = made(n_loops=20, loss_loops=last).train(), prompts()
        sizes: list[int] = []

        def pack(tensor: Tensor) -> Tensor:
            sizes.append(tensor.numel() * tensor.element_size())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            model(x)
        return sum(sizes)

    assert saved(10) <= 0.55 * saved(20)


def test_one_loop_is_the_dense_model_to_the_bit() -> None:
    model, (x, _) = made(torch.float32, n_loops=1).eval(), prompts(dtype=torch.float32)
    dense = build(configuration("gpt", PROMPTS, n_layers=2, bias="all")).eval()
    dense.load_state_dict(model.state_dict())
    assert torch.equal(model(x), dense(x))


@pytest.mark.parametrize("injection", ["add", "scaled", "gated", "concat"])
@pytest.mark.parametrize("loop_norm", [True, False])
def test_one_pass_gives_what_separate_runs_give(injection: str, loop_norm: bool) -> None:
    dials = {"injection": injection, "loop_norm": loop_norm}
    model, (x, _) = made(n_loops=3, **dials).eval(), prompts()
    found = list(model.every_loop(x, 6))
    for loops in (1, 3, 6):
        alone = made(n_loops=loops, **dials).eval()
        alone.load_state_dict(model.state_dict())
        assert torch.equal(found[loops - 1].logits, alone(x))
    model.train()
    assert torch.equal(model(x)[-1], found[2].logits)


def test_loops_of_training_are_fixed_ramped_or_drawn() -> None:
    def counts(**dials: Any) -> list[int]:
        model, found = made(n_loops=6, **dials).train(), []
        for step in range(40):
            model.at_step(step)
            torch.manual_seed(step)
            found.append(model.trained_loops())
        return found

    assert counts() == [6] * 40
    assert counts(loops_from=3, loops_every=10) == [3] * 10 + [4] * 10 + [5] * 10 + [6] * 10
    drawn = counts(loops_from=3, loops_by="random")
    assert set(drawn) == {3, 4, 5, 6}
    assert drawn == counts(loops_from=3, loops_by="random")


def test_training_flops_count_the_loops_of_the_loss_three_times() -> None:
    config = configuration("looped", PROMPTS, n_layers=1, n_loops=20, loss_loops=10)
    looped, one = (architecture(config), {**config, "n_loops": 1, "loss_loops": 1})
    read = 2 * 14 * 16 * 5  # there is no gradient by the numbers themselves
    assert looped.training_flops(one) == 3 * looped.flops(one) - read
    both = looped.training_flops(config) / looped.training_flops({**config, "loss_loops": 20})
    assert both == pytest.approx(40 / 60, abs=0.01)


def test_a_looped_model_on_the_command_line(xtool: Run, tmp_path: Path) -> None:
    small = ["--dims", 3, "--points", 6, "--dev-size", 32, "--test-size", 8]
    assert xtool("prepare", "regression", *small, "-o", "r.st").code == 0
    shape = ["--d-model", 16, "--n-heads", 2, "--threads", 1, "--batch-size", 8]
    args = ["train", "r.st", "--arch", "looped", *shape, "--n-loops", 4, "--loss-loops", 2]
    assert xtool(*args, "--steps", 6, "--eval-every", 3, "-o", "l.st").code == 0
    done = xtool("evaluate", "l.st", "--loops", "1:8", "--by-examples", "--format", "jsonl")
    assert done.code == 0, done.err
    rows = [json.loads(line) for line in done.out.splitlines()]
    cells = {
        (r.get("loops"), r.get("examples")): r["value"]
        for r in rows
        if r["metric"] == "squared_error" and r["label"] == "l"
    }
    assert {loops for loops, _ in cells} == {None, *range(1, 9)}
    mean = sum(cells[4, k] for k in range(6)) / 6
    assert mean == pytest.approx(cells[None, None], rel=1e-5), "n_loops is what runs unless asked"
    exact = [r["value"] for r in rows if r["label"] == "least squares"]
    assert len(exact) == 6
    assert max(exact[3:]) < 1e-9, "enough pairs tell a linear function"
    # Loops may change on a trained model, and the lineage tells.
    on = ["train", "r.st", "--from", "l.st", "--threads", 1, "--steps", 2, "--n-loops", 6]
    assert xtool(*on, "-o", "m.st").code == 0
    assert "n_loops=6" in xtool("inspect", "m.st").out
    # Where it is one run or two makes no difference.
    long = ["--steps", 6, "--eval-every", 3, "--save-every", 3]
    assert xtool(*args, *long, "--keep-state", "-o", "again.st").code == 0
    assert (tmp_path / "again.st").read_bytes() == (tmp_path / "l.st").read_bytes()
    for command, code, message in (
        (["evaluate", "l.st", "--loops", "0:3"], 2, "are not numbers of 1 to"),
        (["evaluate", "l.st", "--split", "train"], 2, "are drawn as they are trained on"),
        (["train", "r.st", "--arch", "bigram", "-o", "x.st"], 2, "the data hold numbers"),
        (["train", "r.st", "--arch", "looped", "--n-loops", 0, "-o", "x.st"], 2, "`n_loops` is 0"),
        ([*args, "--loops-from", 9, "-o", "x.st"], 2, "`loops_from` is 9"),
    ):
        done = xtool(*command)
        assert (done.code, message in done.err) == (code, True), done
