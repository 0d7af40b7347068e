"""Looped models: against a plain implementation of the paper's model, and what loops promise."""

import json
import math
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Run, configuration, grow_to
from torch import Tensor, nn
from torch.nn import functional as F

from xtool.archs import Between, architecture, build, count, flops, read_model, start
from xtool.axes import layout
from xtool.checkpoint import save
from xtool.dataset import Split
from xtool.errors import Diverged, UsageError
from xtool.evaluation.details import DetailRequest, details
from xtool.evaluation.differences import Counterparts
from xtool.evaluation.trace import trace, trace_rows
from xtool.header import Header
from xtool.layers._trace import tracing
from xtool.storage import Source
from xtool.surgery.loops import fold, unroll
from xtool.tasks import Shape
from xtool.tasks.regression import Regression
from xtool.training import loop
from xtool.training.costs import costs_of
from xtool.training.replicas import Replicas
from xtool.training.watch import without_gradient

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


def written(path: Path, model: nn.Module, dials: dict[str, Any]) -> nn.Module:
    """The same model, in a file too."""
    config = configuration("looped", PROMPTS, n_layers=2, bias="all", **dials)
    save(path, Header(kind="model", config=config), model.state_dict())
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
        weight = state[name + ".weight"]
        added = re.sub(r"^(blocks\.\d+)", rf"\1.loops.{loop}", name) + ".lora_"
        if added + "A" in state:
            weight = weight + state[added + "B"] @ state[added + "A"]
        return z @ weight.T + state.get(name + ".bias", torch.zeros(()))

    def attend(z: Tensor, name: str) -> Tensor:
        b, t, d = z.shape
        q, k, v = (
            linear(z, f"{name}.{part}").view(b, t, 2, d // 2).transpose(1, 2) for part in "qkv"
        )
        scores = q @ k.transpose(2, 3) / math.sqrt(d // 2)
        scores = scores.masked_fill(torch.ones(t, t).triu(1) > 0, -math.inf)
        return linear((scores.softmax(-1) @ v).transpose(1, 2).reshape(b, t, d), f"{name}.o")

    loop = -1
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


@pytest.mark.parametrize(("loops", "last", "rank"), [(4, 4, 0), (6, 2, 0), (3, 9, 0), (4, 4, 2)])
def test_outputs_and_gradients_are_those_of_the_papers_model(
    loops: int, last: int, rank: int
) -> None:
    model = made(n_loops=loops, loss_loops=last, loop_rank=rank).train()
    x, y = prompts()
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


def test_loops_beyond_the_trained_ones_begin_again_with_the_first_difference() -> None:
    model, (x, _) = made(n_loops=3, loop_rank=2).eval(), prompts()
    e = model.read(x)
    states = list(model.states(e, 7))
    for place in (3, 6):
        again = next(model.states(e, 1, states[place - 1]))
        torch.testing.assert_close(states[place], again)
    assert not model.compile_part(lambda turn: turn)


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


COMPILED = """
import torch
from functools import partial
from xtool.archs import build
from xtool.config import model_options, options
from xtool.training.replicas import Replicas

def made(**dials):
    config = {one.name: one.default for one in model_options("looped")} | dials
    shape = {"vocab_size": None, "context": 8, "n_outputs": 1, "d_input": 3, "arch": "looped"}
    model = build(config | shape).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return model

found = []

def backend(graph, inputs):
    found.append(graph)
    return graph.forward

small = {"d_model": 8, "n_heads": 2, "d_head": 4, "d_value": 4, "n_kv_heads": 2, "d_ff": 16}
model, x = made(**small, n_loops=3, loops_from=3, loss_loops=3), torch.randn(2, 8, 3)
with torch.no_grad():
    wanted = [one.logits for one in model.every_loop(x, 9)]
    assert model.compile_part(partial(torch.compile, backend=backend))
    for loops in (3, 5, 9):
        *_, last = model.every_loop(x, loops)
        torch.testing.assert_close(last.logits, wanted[loops - 1])
assert len(found) == 1, len(found)
untied = made(**small, n_loops=2, loops_from=2, loss_loops=2, n_layers=2, untied=True)
assert not untied.compile_part(torch.compile)

# What windows cost is added up loop by loop.
found.clear()
own = {one.name: one.default for one in options("layers/attention", "span")}
own |= {"window": 8, "ramp": 2}
loops = {"n_loops": 9, "loops_from": 9, "loss_loops": 9}
paid = made(**small, **loops, **own, attention="span").train()
assert paid.compile_part(partial(torch.compile, backend=backend))
replicas = Replicas(paid, {}, 1)
replicas.losses(lambda y, _: y[..., 0], x[None], torch.zeros(1, 2, 8)).sum().backward()
assert len(found) <= 2, len(found)
"""


def test_one_loop_is_compiled_and_serves_any_number_of_them() -> None:
    # In a process of its own: the checks of types in the tests are nothing to compile.
    done = subprocess.run([sys.executable, "-c", COMPILED], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_masks_and_noise_between_loops() -> None:
    model, (x, _) = made(n_loops=4).eval(), prompts()
    (one,) = model.every_loop(x, 1)
    *_, four = model.every_loop(x, 4)

    def masked(mask: str, keep: str, kept: int) -> Tensor:
        *_, last = model.every_loop(x, 4, Between(mask, keep, kept))
        return last.logits

    for keep in ("first", "last"):
        assert torch.equal(masked("state", keep, 0), one.logits), "each loop begins anew"
        for mask in ("state", "input"):
            assert torch.equal(masked(mask, keep, 14), four.logits), "nothing is masked"
    assert not torch.equal(masked("state", "first", 6), masked("input", "first", 6))
    assert not torch.equal(masked("state", "first", 6), masked("state", "last", 6))
    # What is kept of the beginning is all that the beginning can read.
    assert torch.equal(masked("state", "first", 6)[:, :6], four.logits[:, :6])
    noisy = [list(model.every_loop(x, 4, Between(noise=0.5))) for _ in range(2)]
    assert torch.equal(noisy[0][0].logits, one.logits)
    assert not torch.equal(noisy[0][3].logits, four.logits)
    assert torch.equal(noisy[0][3].logits, noisy[1][3].logits), "the same noise each time"


def test_what_each_loop_looks_at_is_averaged_over_the_loops() -> None:
    model = made(torch.float32, n_loops=3).eval()
    x, y = prompts(4, torch.float32)
    traces = trace(model, Split(x, y))
    assert {one["n"] for one in trace_rows(traces)} == {4}
    entropies = []
    with tracing(model) as own:
        for loops in (1, 2, 3):
            list(model.every_loop(x, loops))  # type: ignore[operator]
            entropies.append(torch.stack(own[0].now["attention_entropy"]).sum(0))
            own[0].close()
    assert torch.allclose(traces[0].found["attention_entropy"][0], entropies[2] / 3)


def test_registers_are_read_and_remember_only_without_a_causal_mask() -> None:
    x, _ = prompts()
    other = x.clone()
    other[:, 0] += 1
    for causal in (True, False):
        model = made(n_loops=3, registers=2, causal=causal).eval()
        assert model(x).shape == (3, 14, 1)
        states = [list(model.every_loop(one, 3))[-1].state for one in (x, other)]
        assert states[0].shape == (3, 16, 16)
        assert torch.equal(states[0][:, :2], states[1][:, :2]) == causal
        before = model(x)
        with torch.no_grad():
            model.registers.add_(0.1)
        assert not torch.equal(model(x), before), "they are read"
        *_, masked = model.every_loop(x, 3, Between("state", "last", 14))
        assert torch.equal(masked.logits, model(x)), "a mask keeps them"


def test_noise_in_training_is_of_the_seed_and_not_in_evaluation() -> None:
    quiet, model, (x, _) = made(n_loops=3), made(n_loops=3, state_noise=0.5), prompts()
    assert torch.equal(model.eval()(x), quiet.eval()(x))
    torch.manual_seed(0)
    first = model.train()(x)
    torch.manual_seed(0)
    assert torch.equal(model(x), first)
    assert torch.equal(first[0], quiet.train()(x)[0]), "the first loop begins without"
    assert not torch.equal(first[1], quiet(x)[1])


def test_prompts_leave_when_they_rest() -> None:
    model, task = made(n_loops=4), Regression()
    split = Split(*prompts(5))
    asked = DetailRequest(loops=range(1, 13), residual=True, exits=[1e-9, 0.5, 1 - 1e-9])
    found = details(model, task, split, asked)
    errors = {c["loops"]: m["loss"] for c, m in found if "loops" in c and "loss" in m}
    moves = {c["loops"]: m for c, m in found if "loops" in c and "state_move" in m}
    assert set(errors) == set(moves) == set(range(1, 13))
    assert torch.equal(moves[1]["state_move"], torch.ones(5, dtype=torch.float64)), "from 0 on"
    leaving = {(c["exit"], c["threshold"]): (c, m) for c, m in found if "threshold" in c}
    assert len(leaving) == 6
    for (move, threshold), (columns, metrics) in leaving.items():
        assert columns["loops_used"] == metrics["loops_used"].mean()
        for prompt, used in enumerate(metrics["loops_used"].tolist()):
            assert metrics["loss"][prompt] == errors[int(used)][prompt]
            far = [float(moves[loop][f"{move}_move"][prompt]) for loop in range(1, 13)]
            rests = [loop for loop, one in enumerate(far, 1) if one < threshold]
            assert int(used) == (rests[0] if rests else 12)


@pytest.mark.parametrize("injection", ["add", "concat", "none"])
@pytest.mark.parametrize("loop_norm", [True, False])
def test_unrolling_is_exact_and_folding_undoes_it(
    injection: str, loop_norm: bool, tmp_path: Path
) -> None:
    dials = {"injection": injection, "loop_norm": loop_norm, "n_loops": 3}
    small = tmp_path / "small.st"
    model = written(small, made(torch.float32, **dials), dials)
    said, proof = unroll(small, tmp_path / "deep.st")
    deep = read_model(tmp_path / "deep.st")
    assert (proof.difference, proof.tolerance) == (0, 0)
    arch = "gpt" if injection == "none" and not loop_norm else "looped"
    assert (deep[0].config["arch"], deep[0].config["n_layers"]) == (arch, 6)
    assert arch in said
    x, _ = prompts(dtype=torch.float32)
    assert torch.equal(deep[2].eval()(x), model.eval()(x))
    fold(tmp_path / "deep.st", tmp_path / "again.st", 3)
    again = read_model(tmp_path / "again.st")
    for name, tensor in again[2].state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name])
    assert again[0].config["n_loops"] == 3
    assert [one.command for one in again[0].lineage][-2:] == ["unroll", "fold"]
    with pytest.raises(UsageError, match=r"must be divisible by|has 3 loops"):
        fold(tmp_path / "deep.st", tmp_path / "x.st", 4)
    with pytest.raises(UsageError, match=r"cannot fold|do not share"):
        unroll(tmp_path / "deep.st", tmp_path / "x.st")


def test_folding_takes_the_mean_of_the_loops(tmp_path: Path) -> None:
    config = configuration("gpt", PROMPTS, n_layers=4)
    model = build(config)
    start(model, layout(config), 0)
    save(tmp_path / "deep.st", Header(kind="model", config=config), model.state_dict())
    _, proof = fold(tmp_path / "deep.st", tmp_path / "loop.st", 2)
    assert not proof.exact
    _, _, found = read_model(tmp_path / "loop.st")
    state, name = model.state_dict(), "blocks.{}.mlp.up.weight"
    for place in (0, 1):
        mean = (state[name.format(place)] + state[name.format(place + 2)]) / 2
        torch.testing.assert_close(found.state_dict()[name.format(place)], mean)


def test_a_difference_begins_at_nothing_and_costs_what_it_has() -> None:
    x, _ = prompts()
    config = configuration("looped", PROMPTS, n_loops=3, loop_rank=2)
    shared = configuration("looped", PROMPTS, n_loops=3)
    model, plain = build(config).double(), build(shared).double()
    start(model, layout(config), 0)
    start(plain, layout(shared), 0)
    assert torch.equal(model.eval()(x), plain.eval()(x))
    own = count(model) - count(plain)
    assert flops(config) - flops(shared) == 2 * config["context"] * own
    with pytest.raises(UsageError, match="`untied` ones do not"):
        configuration("looped", PROMPTS, n_loops=3, n_layers=3, loop_rank=2, untied=True)


@pytest.mark.parametrize("method", ["pad", "clone"])
def test_loops_with_differences_grow_and_unroll_exactly(method: str, tmp_path: Path) -> None:
    dials = {"injection": "concat", "n_loops": 3, "loop_rank": 2, "norm": "rmsnorm"}
    model = written(tmp_path / "small.st", made(torch.float32, **dials), dials)
    proof = grow_to(
        tmp_path / "small.st", tmp_path / "large.st", method, d_model=32, d_ff=128, n_layers=3
    )
    assert proof.exact
    _, proof = unroll(tmp_path / "small.st", tmp_path / "deep.st")
    assert (proof.difference, proof.tolerance) == (0, 0)
    x, _ = prompts(dtype=torch.float32)
    assert torch.equal(read_model(tmp_path / "deep.st")[2].eval()(x), model.eval()(x))


@pytest.mark.parametrize(
    "turns",
    [
        ["--loop-rank", 2],
        ["--untied", "--n-layers", 3],
        ["--untied", "--n-layers", 3, "--optimizer", "muon"],
        ["--injection", "none", "--loss-loops", 2],
    ],
    ids=str,
)
def test_loops_that_take_turns_resume_to_the_bit_and_are_sorted(
    turns: list[Any], xtool: Run, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = ["--arch", "looped", "--d-model", 16, "--n-heads", 2, "--batch-size", 8, "--threads", 1]
    loops = ["--n-loops", 3, "--loops-by", "random", "--loops-from", 1, *turns]
    args = ["train", data, *shape, *loops, "--steps", 12, "--label", "x"]
    done = xtool(*args, "-o", "a.st")
    assert (done.code, "cannot learn" in done.err) == (0, False), done
    step = loop._Loop._step

    def stopping(self: Any) -> None:
        step(self)
        if self.run.position.step == 5:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(loop._Loop, "_step", stopping)
        assert xtool(*args, "-o", "b.st").code == 130
    assert xtool(*args, "-o", "b.st", "--resume").code == 0
    assert (tmp_path / "a.st").read_bytes() == (tmp_path / "b.st").read_bytes()
    if "--loop-rank" not in turns:
        return
    done = xtool("train", data, "--from", "a.st", "--nest", "8", "--steps", 1, "-q", "-o", "n.st")
    assert done.code == 0, done.err
    done = xtool("train", data, "--from", "a.st", "--n-loops", 4, "-o", "x.st")
    assert (done.code, "each loop has a difference of its own" in done.err) == (2, True)


def test_loops_that_never_learn_are_named(xtool: Run, data: Path) -> None:
    args = ["train", data, "--arch", "looped", "--d-model", 8, "--n-heads", 1, "--threads", 1]
    own = ["--n-layers", 2, "--n-loops", 2, "--untied", "--loss-loops", 1, "--steps", 20]
    done = xtool(*args, *own, "-o", "x.st")
    assert (done.code, "no gradient reaches blocks.0" in done.err) == (0, True), done


def test_what_attention_passes_on_begins_anew_in_each_loop_unrolled_or_not(tmp_path: Path) -> None:
    dials = {"injection": "none", "loop_norm": False, "attention": "key-importance", "n_loops": 3}
    model = written(tmp_path / "loop.st", made(torch.float32, **dials), dials)
    said, proof = unroll(tmp_path / "loop.st", tmp_path / "deep.st")
    assert ("looped" in said, proof.difference) == (True, 0)
    x, _ = prompts(dtype=torch.float32)
    assert torch.equal(read_model(tmp_path / "deep.st")[2].eval()(x), model.eval()(x))


def test_errors_that_are_no_numbers_name_the_loop() -> None:
    model = made(torch.float32, norm="none", n_loops=2)
    x, y = prompts(4, torch.float32)
    with pytest.raises(Diverged, match=r"squared_error after \d+ loops is (nan|inf)"):
        details(model, Regression(), Split(1e3 * x, y), DetailRequest(loops=range(1, 200)))


def test_a_state_that_begins_with_the_input_moves_from_there() -> None:
    model = made(torch.float64, injection="none", n_loops=3)
    x, y = prompts(4)
    asked = DetailRequest(loops=[1, 2], residual=True)
    found = {c["loops"]: m for c, m in details(model, Regression(), Split(x, y), asked)
             if "state_move" in m}  # fmt: skip
    with torch.no_grad():
        e = model.read(x)
        first = next(model.states(e, 1))
    wanted = (first - e).flatten(1).norm(dim=1) / first.flatten(1).norm(dim=1)
    assert torch.allclose(found[1]["state_move"], wanted)


@pytest.mark.parametrize("dials", [{"positions": "none"}, {"injection": "concat"}], ids=str)
def test_bf16_rounds_products_and_not_the_state(dials: dict[str, Any]) -> None:
    model = made(torch.float32, n_loops=3, loss_loops=1, norm="rmsnorm", **dials).train()
    x, y = prompts(4, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        assert {state.dtype for state in model.states(model.read(x), 3)} == {torch.float32}
    config = configuration("looped", PROMPTS, n_layers=2, bias="all", n_loops=3, **dials)
    Replicas(model, config, 1, bf16=True).losses(
        Regression().loss, x[None], y[None]
    ).sum().backward()
    assert without_gradient(model) == []


def test_prompts_of_two_batches_have_noise_of_their_own() -> None:
    model = made(torch.float32, n_loops=3)
    x, y = prompts(1, torch.float32)
    split = Split(x.expand(300, -1, -1), y.expand(300, -1))
    ((_, found),) = details(model, Regression(), split, DetailRequest(between=[Between(noise=0.5)]))
    errors = found["squared_error"]
    assert len(errors.unique()) == 300


@pytest.mark.parametrize("injection", ["none", "add"])
def test_registers_and_widths_by_layer_are_unrolled_and_folded(
    injection: str, tmp_path: Path
) -> None:
    dials = {"injection": injection, "loop_norm": False, "n_loops": 3, "d_ff": [8, 16]}
    for more in ({}, {"registers": 2}):
        written(tmp_path / "a.st", made(torch.float32, **dials, **more), {**dials, **more})
        _, proof = unroll(tmp_path / "a.st", tmp_path / "deep.st")
        assert proof.difference == 0
        config = read_model(tmp_path / "deep.st")[0].config
        assert config["d_ff"] == [8, 16] * 3
        assert (config["arch"] == "gpt") == (injection == "none" and not more)
        fold(tmp_path / "deep.st", tmp_path / "again.st", 3)
        assert read_model(tmp_path / "again.st")[0].config["d_ff"] == [8, 16]
    written(tmp_path / "a.st", made(torch.float32, **dials), dials)
    unroll(tmp_path / "a.st", tmp_path / "deep.st")
    if injection == "none":
        with pytest.raises(UsageError, match="have different `d_ff`"):
            fold(tmp_path / "deep.st", tmp_path / "x.st", 6)


def test_folding_keeps_the_best_difference_of_a_rank(tmp_path: Path) -> None:
    dials = {"n_loops": 3, "loop_rank": 2}
    written(tmp_path / "small.st", made(torch.float32, **dials), dials)
    unroll(tmp_path / "small.st", tmp_path / "deep.st")
    far = []
    for rank in (0, 1, 3, 6):
        said, proof = fold(tmp_path / "deep.st", tmp_path / f"{rank}.st", 3, rank=rank)
        assert (f"of rank {rank}" in said) == (rank > 0)
        options = read_model(tmp_path / f"{rank}.st")[0].lineage[-1].options
        assert options == ({"n_loops": 3, "rank": rank} if rank else {"n_loops": 3})
        far.append(proof.difference)
    # Three differences of rank 2 are within rank 6 of their mean.
    assert min(far[:-1]) > 0.01
    assert far[-1] < 1e-4
    deep, found = (read_model(tmp_path / name)[2].state_dict() for name in ("deep.st", "3.st"))
    each = torch.stack([deep[f"blocks.{2 * loop + 1}.mlp.up.weight"] for loop in range(3)])
    own = "blocks.1.loops.2.mlp.up.lora_"
    left = each[2] - each.mean(0) - found[f"{own}B"] @ found[f"{own}A"]
    torch.testing.assert_close(left.norm(), torch.linalg.svdvals(each[2] - each.mean(0))[3:].norm())


@pytest.mark.parametrize("injection", ["scaled", "gated", "concat", "none"])
@pytest.mark.parametrize("method", ["pad", "clone", "split"])
@pytest.mark.parametrize("norm", ["rmsnorm", "layernorm"])
def test_every_injection_grows_exactly_or_says_why_not(
    injection: str, method: str, norm: str, tmp_path: Path
) -> None:
    loop_norm = norm == "rmsnorm"
    dials = {"injection": injection, "n_loops": 3, "norm": norm, "loop_norm": loop_norm}
    written(tmp_path / "small.st", made(**dials), dials)
    files = (tmp_path / "small.st", tmp_path / "large.st")
    sizes = {"d_model": 32, "d_ff": 128, "n_layers": 3}
    if method == "pad" and norm == "layernorm" and injection in ("gated", "concat"):
        with pytest.raises(UsageError, match="without a norm"):
            grow_to(*files, method, **sizes)
        return
    assert grow_to(*files, method, **sizes).exact


def test_loops_of_training_are_fixed_ramped_or_drawn() -> None:
    def counts(**dials: Any) -> list[int]:
        model, found = made(n_loops=6, **dials).train(), []
        for step in range(40):
            model.at_step(step)
            found.append(model.trained)
        return found

    assert counts() == [6] * 40
    assert counts(loops_from=3, loops_every=10) == [3] * 10 + [4] * 10 + [5] * 10 + [6] * 10
    drawn = counts(loops_from=3, loops_by="random")
    assert set(drawn) == {3, 4, 5, 6}
    assert drawn == counts(loops_from=3, loops_by="random")


def test_training_flops_count_the_loops_of_the_loss_three_times() -> None:
    config = configuration("looped", PROMPTS, n_layers=1, n_loops=20, loss_loops=10)
    one = {**config, "n_loops": 1, "loss_loops": 1}
    assert costs_of(one)[-1][1] == 3 * architecture(config).flops(one)
    both = costs_of(config)[-1][1] / costs_of({**config, "loss_loops": 20})[-1][1]
    assert both == pytest.approx(40 / 60, abs=0.01)


@pytest.mark.parametrize(
    "more",
    [
        {"loops_every": 3},
        {"loops_every": 3, "loops_from": 2},
        {"loops_every": 3, "loops_from": 2, "n_layers": 8, "untied": True},
        {"loops_every": 3, "loops_from": 1, "loss_loops": 2, "nest": "d_model=8"},
        {"loops_every": 3, "loops_from": 2, "n_layers": 8, "untied": True, "nest": "n_layers=4"},
    ],
)
def test_a_step_costs_what_a_model_of_its_loops_does(more: dict[str, Any]) -> None:
    config = configuration("looped", PROMPTS, n_loops=4, **more)
    model = build(config)
    costs = costs_of(config)
    assert costs[0][0] == 0
    for step in range(14):
        model.at_step(step)
        now = {"n_loops": model.trained, "loops_from": None}
        if more.get("untied"):
            now["n_layers"] = config["n_layers"] // 4 * model.trained
            if more.get("nest"):
                now["nest"] = f"n_layers={model.trained}"
        found = next(cost for first, cost in reversed(costs) if first <= step)
        assert found == costs_of({**config, **now})[-1][1], step


def test_loops_that_are_drawn_cost_their_mean() -> None:
    config = configuration("looped", PROMPTS, n_loops=4, loops_from=2, loops_by="random")
    each = [costs_of({**config, "n_loops": n, "loops_from": None})[-1][1] for n in (2, 3, 4)]
    assert costs_of(config) == [(0, sum(each) // 3)]


RAMP = ["--loops-from", 2, "--loops-every", 2]


def progress_of(path: Path) -> dict[str, Any]:
    with Source(path) as source:
        return dict(source.require_header("model").training["progress"])


@pytest.mark.usefixtures("trained")
def test_a_run_sums_what_its_steps_cost_and_one_that_goes_on_too(
    xtool: Run, tmp_path: Path
) -> None:
    each = {}
    for loops in (2, 3, 4):
        assert xtool(*TRAIN, "--n-loops", loops, "--steps", 1, "-o", f"{loops}.st").code == 0
        each[loops] = progress_of(tmp_path / f"{loops}.st")["flops"]
    assert xtool(*TRAIN, *RAMP, "--steps", 3, "-o", "a.st").code == 0
    first, own = 2 * each[2] + each[3], each[3] + 2 * each[4]
    assert progress_of(tmp_path / "a.st")["flops"] == first
    more = ["--from", "a.st", "--batch-size", 8, "--watch"]
    assert xtool("train", *more, "--steps", 3, "-o", "b.st").code == 0
    found = progress_of(tmp_path / "b.st")
    assert (found["flops"], found["lineage_flops"]) == (own, first + own)
    rows = [json.loads(one) for one in (tmp_path / "b.rows.jsonl").read_text().splitlines()]
    flops, tokens = (
        next(r["value"] for r in rows if r["metric"] == f"{unit}_per_second")
        for unit in ("flops", "tokens")
    )
    assert flops / tokens == pytest.approx(own / (3 * 8 * 12))
    for budget, steps in ((own, 3), (own - 1, 2), (each[3] - 1, 0)):
        limits = ["--steps", 9, "--max-flops", first + budget, "--force"]
        assert xtool("train", *more, *limits, "-o", "c.st").code == 0
        assert progress_of(tmp_path / "c.st")["steps"] == steps


@pytest.mark.usefixtures("trained")
def test_a_budget_ends_any_number_of_epochs(xtool: Run) -> None:
    limits = ["--epochs", 1e15, "--max-flops", 1e12, "--batch-size", 1, "--dry-run"]
    assert xtool(*TRAIN, *limits).code == 0


@pytest.fixture(scope="module")
def trained_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with prompts `r.st` and a model `l.st`, made once."""
    folder = tmp_path_factory.mktemp("trained")
    for args in (PREPARE, [*TRAIN, "--steps", 6, "--eval-every", 3, "-o", "l.st"]):
        command = [sys.executable, "-m", "xtool", *map(str, args)]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
    return folder


PREPARE = ["prepare", "regression", "--dims", 3, "--points", 6]
PREPARE += ["--dev-size", 32, "--test-size", 8, "-o", "r.st"]
TRAIN = ["train", "r.st", "--arch", "looped", "--d-model", 16, "--n-heads", 2, "--threads", 1]
TRAIN += ["--batch-size", 8, "--n-loops", 4, "--loss-loops", 2]


@pytest.fixture
def trained(xtool: Run, trained_once: Path, tmp_path: Path) -> Path:
    """Copies of `r.st` and `l.st`, in the folder the command line runs in."""
    for file in ("r.st", "l.st"):
        shutil.copy(trained_once / file, tmp_path)
    return tmp_path


@pytest.mark.usefixtures("trained")
def test_errors_by_loops_and_by_examples_beside_least_squares(xtool: Run) -> None:
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


def test_the_counterpart_of_a_score_is_the_others_under_the_same_conditions() -> None:
    def cell(value: float, **columns: Any) -> tuple[dict[str, Any], dict[str, Tensor]]:
        return columns, {"loss": torch.tensor([value]).double()}

    def of(details: list[Any], **columns: Any) -> float | None:
        found = Counterparts(details, {"loss": torch.zeros(1).double()}).of(columns)
        return float(found["loss"]) if found else None

    plain = [cell(1, examples=0), cell(2, examples=1)]
    assert of(plain, loops=3, n_loops=4, examples=1) == 2
    assert of(plain, loops=3, n_loops=4) == 0, "its one answer"
    assert of(plain, exit="state", threshold=0.1, loops_used=2.5) == 0
    looped = [cell(n, loops=n, n_loops=3) for n in (1, 2, 3)]
    assert of(looped, loops=2, n_loops=4) == 2, "after as many loops"
    assert of(looped, loops=5, n_loops=5) == 3, "each after its own"
    assert of(looped, loops=5, n_loops=6) is None
    masked = [cell(n, loops=3, n_loops=3, mask="state", kept=n) for n in (1, 2)]
    assert of(masked, loops=4, n_loops=4, mask="state", kept=2) == 2
    assert of(masked, loops=4, n_loops=4, mask="input", kept=2) is None
    left = [cell(7, exit="state", threshold=0.1, loops_used=1.5)]
    assert of(left, exit="state", threshold=0.1, loops_used=2.5) == 7
    assert of(left, exit="output", threshold=0.1, loops_used=2.5) is None


@pytest.mark.usefixtures("trained")
def test_differences_are_told_apart_as_scores_are(xtool: Run) -> None:
    plain = ["train", "r.st", "--d-model", 16, "--n-heads", 2, "--steps", 2, "-o", "plain.st"]
    assert xtool(*plain, "--eval-every", 2).code == 0
    other = [*TRAIN, "--steps", 2, "--eval-every", 2, "--n-loops", 3, "--loops-from", 3]
    assert xtool(*other, "-o", "other.st").code == 0
    looks = ["--loops", "1:5", "--by-examples", "--format", "jsonl"]
    for against, looped in (("plain", False), ("other", True)):
        done = xtool("evaluate", "l.st", "--against", f"{against}.st", *looks)
        theirs = xtool("evaluate", f"{against}.st", *(looks if looped else looks[2:]))
        assert (done.code, theirs.code) == (0, 0), done.err + theirs.err
        cells: dict[tuple[Any, ...], float] = {}
        for line in (*done.out.splitlines(), *theirs.out.splitlines()):
            r = json.loads(line)
            cells[r["metric"], r["label"], r.get("loops"), r.get("examples")] = r["value"]
        for loops in (None, *range(1, 6)):
            for examples in range(6) if loops else (None,):
                ours = cells["squared_error", "l", loops, examples]
                least = cells["squared_error", against, loops if looped else None, examples]
                found = cells["squared_error_difference", "l", loops, examples]
                assert found == pytest.approx(ours - least, abs=1e-9)
    assert xtool("evaluate", "plain.st", *looks).code == 2, "it alone has no loops"


def test_looks_between_loops_are_drawn_and_never_averaged_in_silence(
    xtool: Run, trained: Path
) -> None:
    looks = ["--residual", "--exits", "0.5,0.01", "--mask", "input", "--keep", "first:0:12:6"]
    done = xtool("evaluate", "l.st", "--loops", "1:4", *looks, "--format", "jsonl")
    assert done.code == 0, done.err
    (trained / "looks.jsonl").write_text(done.out)
    assert {json.loads(line).get("kept") for line in done.out.splitlines()} == {None, 0, 6, 12}
    for kind, where in (("loops", "kept=12"), ("exits", "kept=12"), ("tokens", "loops=4")):
        drawn = xtool("plot", "looks.jsonl", "--kind", kind, "--where", where)
        assert drawn.code == 0, drawn.err
    drawn = xtool("plot", "looks.jsonl", "--kind", "loops", "-o", "mixed.png")
    assert (drawn.code, "would be averaged as one" in drawn.err) == (2, True)
    twice = ["--exits", "0.5,0.50", "--mask", "input", "--keep", "first:6,6", "--format", "jsonl"]
    done = xtool("evaluate", "l.st", *twice)
    seen = [json.loads(line) for line in done.out.splitlines()]
    (one,) = [r for r in seen if (r.get("exit"), r["metric"]) == ("state", "loss")]
    assert one["n"] == next(r["n"] for r in seen if r["metric"] == "loss")


@pytest.mark.usefixtures("trained")
def test_a_trained_model_is_unrolled_folded_and_given_other_loops(xtool: Run) -> None:
    assert xtool("grow", "l.st", "--unroll").code == 0
    lineage = json.loads(xtool("inspect", "l-unrolled.st", "--json").out)["header"]["lineage"]
    assert lineage[-1]["options"] == {"n_loops": 4}
    assert xtool("slice", "l-unrolled.st", "--fold", 4, "--data", "r.st").code == 0
    done = xtool("train", "r.st", "--from", "l-unrolled.st", "--n-loops", 2, "-o", "x.st")
    assert (done.code, "each loop has blocks of its own" in done.err) == (2, True)
    on = ["train", "r.st", "--from", "l.st", "--threads", 1, "--steps", 2, "--n-loops", 6]
    assert xtool(*on, "-o", "m.st").code == 0
    assert "n_loops=6" in xtool("inspect", "m.st").out


def test_evaluations_and_states_do_not_change_a_looped_run(xtool: Run, trained: Path) -> None:
    long = ["--steps", 6, "--eval-every", 3, "--save-every", 3, "--keep-state"]
    assert xtool(*TRAIN, *long, "-o", "again.st").code == 0
    assert (trained / "again.st").read_bytes() == (trained / "l.st").read_bytes()


@pytest.mark.usefixtures("trained")
def test_drawn_loops_are_those_of_each_seed_alone(xtool: Run, tmp_path: Path) -> None:
    drawn = ["--loops-from", 2, "--loops-by", "random", "--state-noise", 0.1, "--dropout", 0.1]
    args = [*TRAIN, *drawn, "--precision", "fp64", "--steps", 8]
    assert xtool(*args, "--replicas", 2, "-o", "both.st").code == 0
    for replica in (0, 1):
        one, alone = tmp_path / f"{replica}.st", tmp_path / f"a{replica}.st"
        assert xtool("slice", "both.st", "--replica", replica, "-o", one).code == 0
        assert xtool(*args, "--seed", replica, "-o", alone).code == 0
        a, b = (read_model(path)[2].state_dict() for path in (one, alone))
        assert max(float((a[name] - b[name]).abs().max()) for name in a) < 1e-10


@pytest.mark.usefixtures("trained")
def test_more_loops_of_the_loss_than_there_are_is_said(xtool: Run) -> None:
    said = xtool(*TRAIN, "--loss-loops", 9, "--dry-run", "-o", "x.st").err
    assert "`loss_loops` 9 is above `n_loops` 4: the loss is of all 4" in said


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["evaluate", "l.st", "--loops", "0:3"], "are not rising numbers of 1 to"),
        (["evaluate", "l.st", "--loops", ""], "are not rising numbers of 1 to"),
        (["evaluate", "l.st", "--exits", ""], "must be above 0 and below 1"),
        (["evaluate", "l.st", "--loops", "1:400000000"], "are not rising numbers of 1 to"),
        (["evaluate", "l.st", "--exits", "0"], "`--exits 0` must be above 0"),
        (["evaluate", "l.st", "--exits", "1"], "above 0 and below 1"),
        (["evaluate", "l.st", "--exits", "x"], "above 0 and below 1"),
        (["evaluate", "l.st", "--mask", "state"], "`--mask` and `--keep` belong together"),
        (["evaluate", "l.st", "--mask", "all", "--keep", "first:1"], "all"),
        (["evaluate", "l.st", "--mask", "state", "--keep", "1"], "neither first: nor last:"),
        (["evaluate", "l.st", "--mask", "state", "--keep", "last:13"], "has 12 positions"),
        (["evaluate", "l.st", "--state-noise", "-1"], "`--state-noise` is -1"),
        (["evaluate", "l.st", "--split", "train"], "are drawn as they are trained on"),
        (["evaluate", "rows.jsonl", "--loops", "1:3"], "holds rows"),
        (["grow", "l.st", "--unroll", "--to", 32], "`--unroll` changes no size"),
        (["grow", "l.st", "--unroll", "--dry-run"], "no other option: --dry-run"),
        (["slice", "l.st", "--fold", 2], "fold a `gpt`"),
        (
            ["slice", "l.st", "--to", 8, "--data", "r.st"],
            "`--data` is for `--sort`, `--fold` and budgets",
        ),
        (["train", "r.st", "--arch", "bigram", "-o", "x.st"], "the data hold numbers"),
        ([*TRAIN, "--registers", -1, "-o", "x.st"], "`registers` is -1"),
        (
            [*TRAIN, "--registers", 2, "--attention", "structure-mlp", "-o", "x.st"],
            "has values for each position, which `registers` are not",
        ),
        ([*TRAIN, "--untied", "-o", "x.st"], "`n_layers` (1) must be divisible"),
        ([*TRAIN, "--n-loops", 0, "-o", "x.st"], "`n_loops` is 0"),
        ([*TRAIN, "--loops-from", 9, "-o", "x.st"], "`loops_from` is 9"),
    ],
    ids=lambda one: " ".join(map(str, one[-4:])) if isinstance(one, list) else "",
)
def test_what_a_looped_model_cannot_do(
    command: list[Any], message: str, trained: Path, xtool: Run
) -> None:
    (trained / "rows.jsonl").write_text('{"metric": "loss", "value": 1}\n')
    done = xtool(*command)
    assert (done.code, message in done.err) == (2, True), done
