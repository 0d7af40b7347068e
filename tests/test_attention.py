"""Attention variants: the laws that all obey, and what each promises of its own."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Run, configuration
from torch import Tensor

from xtool import registry
from xtool.archs import build, start
from xtool.axes import layout
from xtool.checkpoint import load
from xtool.errors import UsageError
from xtool.layers._trace import tracing
from xtool.layers.attention._fixed import near
from xtool.layers.attention._kernel import masked
from xtool.layers.attention._windows import local, weighed
from xtool.surgery import laws
from xtool.training.replicas import Replicas, stacked

VARIANTS = registry.names("layers/attention")
SINK = (Path(__file__).parents[1] / "examples" / "sink.py").read_text()


@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("attention", VARIANTS)
def test_every_variant_obeys_the_laws(attention: str, every: bool) -> None:
    first, *others = laws.SETTINGS
    own = others[len(attention) % len(others)]
    found = list(laws.verdicts(attention, settings=laws.SETTINGS if every else [first, own]))
    assert [one for one in found if not one.holds] == []
    assert len(found) == len(laws.LAWS)


@pytest.mark.parametrize(
    ("old", "new", "law"),
    [
        ('{"sink": ("n_kv_heads*n_heads/n_kv_heads",)}', "{}", "tensors name their axes"),
        ("self.seen(scored(q, k, self.scale))", "scored(q, k, self.scale)", "no query sees"),
        ("self.sink.view", "self.sink.detach().view", "every parameter learns"),
        ('{"sink": -1e6}', '{"sink": 0.0}', "NEUTRAL"),
        ("class Sink(Weighed):", "class Sink(Plain):", "its quick way"),
        ("scored(q, k, self.scale)", "scored(q, k, self.scale * q.shape[2])", "with the cache"),
        ("self.sink.view", "(self.sink + (0 if self.sink.max() > 9 else 1)).view", "replicas"),
        ("[..., :-1]", "[..., :-1].add(torch.inf if q.dtype is torch.bfloat16 else 0)", "bfloat16"),
        ("self.sink.view", "(self.sink * self.n_heads).view", "it grows exactly"),
    ],
)
def test_each_law_can_be_broken(old: str, new: str, law: str, tmp_path: Path) -> None:
    name = f"law{abs(hash(law)) % 10000}.py"
    text = SINK.replace("import PlainEntry, Weighed", "import Plain, PlainEntry, Weighed")
    assert old in text
    (tmp_path / name).write_text(text.replace(old, new))
    (chosen,) = (one for one in laws.LAWS if law in one.says)
    (found,) = laws.verdicts(registry.admit(str(tmp_path / name)), [chosen])
    assert not found.holds, found


def test_a_variant_of_the_users_own_is_checked_trains_and_samples(
    xtool: Run, tmp_path: Path
) -> None:
    (tmp_path / "sink.py").write_text(SINK)
    done = xtool("check", "sink.py")
    assert done.code == 0, done.out + done.err
    assert done.out.count("ok ") == len(laws.LAWS)
    (tmp_path / "book.txt").write_text("To be, or not to be, that is the question: " * 40)
    assert xtool("prepare", "language", "book.txt", "-o", "book.st").code == 0
    small = ["--d-model", 16, "--n-layers", 1, "--n-heads", 2, "--context", 16, "--threads", 1]
    done = xtool("train", "book.st", "--attention", "sink.py", *small, "--steps", 3, "-o", "m.st")
    assert done.code == 0, done.err
    assert xtool("sample", "m.st", "--own", "sink.py", "--length", 20).code == 0


def test_a_broken_variant_of_the_users_own_fails_its_check(xtool: Run, tmp_path: Path) -> None:
    (tmp_path / "deaf.py").write_text(SINK.replace("self.sink.view", "self.sink.detach().view"))
    done = xtool("check", "deaf.py")
    assert done.code == 3
    assert "bad  deaf.py: every parameter learns: no gradient reaches" in done.out
    assert "Traceback" not in done.err
    (tmp_path / "typo.py").write_text(SINK.replace(".softmax", ".sofmax"))
    done = xtool("check", "typo.py")
    line = next(n for n, text in enumerate(SINK.splitlines(), 1) if ".softmax" in text)
    assert done.out.count("bad ") == 1
    assert f"typo.py:{line}: AttributeError" in done.out
    (tmp_path / "none.py").write_text("ENTRY = 1\n")
    assert xtool("check", "none.py").code == 3


def weights_of(attention: str, length: int = 12, **dials: Any) -> tuple[Any, Tensor, Tensor]:
    """One attention module with random values, its input and its weights (B, H, T, S)."""
    config = configuration(attention=attention, n_heads=4, n_layers=1, causal=True, **dials)
    model = laws.made(config)
    module = model.blocks[0].attention  # type: ignore[index,union-attr]
    x = torch.randn(2, length, 16, dtype=torch.float64)
    module.requires_grad_(False)
    q, k, _ = module.heads(x)
    return module, x, module.weights(x, q, k)


def test_a_window_sees_its_nearest_tokens_and_the_strided_its_steps() -> None:
    _, _, weights = weights_of("window", window=3)
    for query in range(12):
        for key in range(12):
            assert bool(weights[0, 0, query, key] > 0) == (0 <= query - key < 3)
    _, _, weights = weights_of("strided", window=2, strides="1,3")
    for head, stride in enumerate((1, 3, 1, 3)):
        for query in range(12):
            seen = {query - stride * n for n in range(2) if query - stride * n >= 0}
            assert set(weights[0, head, query].nonzero()[:, 0].tolist()) == seen


def test_without_a_causal_mask_a_window_has_two_sides() -> None:
    config = configuration(attention="window", window=3, n_layers=1, causal=False)
    module = laws.made(config).blocks[0].attention  # type: ignore[index,union-attr]
    x = torch.randn(1, 12, 16, dtype=torch.float64)
    q, k, _ = module.heads(x)
    weights = module.weights(x, q, k)
    assert weights[0, 0, 5].nonzero()[:, 0].tolist() == [3, 4, 5, 6, 7]


@pytest.mark.parametrize("attention", ["hard-window", "span"])
def test_the_mass_beyond_a_hard_window_is_exactly_zero(attention: str) -> None:
    module, x, weights = weights_of(attention, window=6, ramp=2)
    with torch.no_grad():
        lengths = module.lengths(x).expand(2, 4, 12)
    far = torch.arange(12)[:, None] - torch.arange(12)
    beyond = far >= lengths[..., None]
    assert beyond.logical_and(far >= 0).any()
    assert float(weights[beyond].detach().abs().sum()) == 0
    assert torch.allclose(weights.sum(-1), torch.ones(()).double())
    assert 1 <= float(lengths.min()) <= float(lengths.max()) <= 8


def test_the_ramp_weighs_down_in_proportion() -> None:
    lengths = torch.full((1, 1, 4), 3.0)
    weights = weighed(torch.zeros(1, 1, 4, 4), lengths, 2)
    # At distances 3, 2, 1, 0 the ramp gives 0, 1/2, 1, 1.
    assert weights[0, 0, 3].tolist() == pytest.approx([0, 0.2, 0.4, 0.4])


def test_the_soft_window_is_the_published_formula() -> None:
    module, x, weights = weights_of("soft-window", window=10)
    q, k, _ = module.heads(x)
    r = 1 + 5 * module.window(x).exp().transpose(1, 2)[..., None]  # (B, H, T, 1)
    d = torch.arange(12)[:, None] - torch.arange(12) + 1
    logits = q @ k.transpose(2, 3) * module.scale + (r - d) / r
    wanted = logits.masked_fill(d < 1, -torch.inf).softmax(-1)
    assert torch.allclose(weights, wanted, atol=1e-12)


def test_the_structure_is_that_of_the_rows() -> None:
    module, x, _ = weights_of("head-gate")
    q, k, _ = module.heads(x)
    scores = q @ k.transpose(2, 3) * module.scale
    weights = module.weights(x, q, k)
    found = module._structure(scores, weights)
    for head in range(4):
        for query in (0, 3, 11):
            row = weights[0, head, query, : query + 1]
            places = torch.arange(query + 1) / 12
            mean = (row * places).sum()
            spread = (row * (places - mean) ** 2).sum() ** 0.5
            logit = (row * scores[0, head, query, : query + 1]).sum()
            assert float(found.logit[0, query, head]) == pytest.approx(float(logit))
            assert float(found.place[0, query, head]) == pytest.approx(float(mean - query / 12))
            assert float(found.spread[0, query, head]) == pytest.approx(float(spread), abs=1e-6)


def test_importance_adds_up_over_the_layers() -> None:
    config = configuration(attention="key-importance", n_layers=2, causal=True)
    model = laws.made(config).requires_grad_(False)
    symbols = torch.arange(12)[None]
    with tracing(model) as traces:
        model(symbols)
    first, second = (float(one.found["key_importance"][0][0, 0]) for one in traces)
    x = model.embed(symbols)  # type: ignore[operator]
    block = model.blocks[0]  # type: ignore[index]
    own = block.attention.importance(block.attention_norm(x))  # type: ignore[union-attr,operator]
    assert first == pytest.approx(float(own.mean()))
    after = block(x)  # type: ignore[operator]
    assert after.shape[-1] == 17
    last = model.blocks[1]  # type: ignore[index]
    more = last.attention.importance(last.attention_norm(after[..., :16]))  # type: ignore[union-attr,operator]
    assert second == pytest.approx(float((own + more).mean()))


@pytest.mark.parametrize(("length", "block", "causal"), [(50, 16, True), (48, 16, False)])
def test_blocks_have_the_gradient_of_the_definition(length: int, block: int, causal: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (
        torch.randn(2, heads, length, 6, generator=generator, dtype=torch.float64)
        for heads in (4, 2, 2)
    )
    lengths = 30 * torch.rand(2, 4, length, generator=generator, dtype=torch.float64) + 1
    inputs = [one.requires_grad_() for one in (q, k, v, lengths)]
    mix = torch.randn(2, 4, length, 6, generator=generator, dtype=torch.float64)
    out = local(*inputs, 5, block=block, causal=causal, scale=0.4)
    scores = 0.4 * q @ k.repeat_interleave(2, 1).transpose(2, 3)
    if causal:
        scores = scores.masked_fill(~torch.ones(length, length).bool().tril(), -torch.inf)
    wanted = weighed(scores, lengths, 5) @ v.repeat_interleave(2, 1)
    assert torch.allclose(out, wanted, atol=1e-12)
    both = [torch.autograd.grad((one * mix).sum(), inputs) for one in (out, wanted)]
    for found, asked in zip(*both, strict=True):
        assert torch.allclose(found, asked, atol=1e-10)


@pytest.mark.parametrize(("length", "causal"), [(50, True), (48, False), (16, True)])
@pytest.mark.parametrize("window", [1, 5, 16, 17, 40])
def test_fixed_blocks_are_a_masked_softmax(length: int, causal: bool, window: int) -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (
        torch.randn(2, heads, length, 6, generator=generator, dtype=torch.float64)
        for heads in (4, 2, 2)
    )
    inputs = [one.requires_grad_() for one in (q, k, v)]
    mix = torch.randn(2, 4, length, 6, generator=generator, dtype=torch.float64)
    out = near(q, k, v, window, block=16, causal=causal, scale=0.4)
    far = torch.arange(length)[:, None] - torch.arange(length)
    outside = (far.abs() >= window) | ((far < 0) & causal)
    scores = 0.4 * q @ k.repeat_interleave(2, 1).transpose(2, 3)
    weights = scores.masked_fill(outside, -torch.inf).softmax(-1)
    wanted = weights @ v.repeat_interleave(2, 1)
    both = [torch.autograd.grad((one * mix).sum(), inputs) for one in (out, wanted)]
    for found, asked in zip((out, *both[0]), (wanted, *both[1]), strict=True):
        assert torch.allclose(found, asked, atol=1e-10)


def test_dropout_in_blocks_is_drawn_again_for_the_gradient() -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = [
        torch.randn(1, 1, 20, 3, generator=generator, dtype=torch.float64).requires_grad_()
        for _ in range(3)
    ]
    lengths = torch.full((1, 1, 20), 9.5, dtype=torch.float64)

    def mixed(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        torch.manual_seed(3)
        return local(q, k, v, lengths, 4, block=8, causal=True, scale=1.0, dropout=0.3)

    assert torch.autograd.gradcheck(mixed, inputs)
    calm = local(*inputs, lengths, 4, block=8, causal=True, scale=1.0)
    assert not torch.allclose(mixed(*inputs), calm)


def test_a_key_outside_that_outweighs_all_inside_changes_nothing() -> None:
    q = torch.ones(1, 1, 130, 2)
    k = torch.zeros(1, 1, 130, 2)
    k[0, 0, 0] = 500.0
    v = torch.randn(1, 1, 130, 2, generator=torch.Generator().manual_seed(0))
    out = local(q, k, v, torch.full((1, 1, 130), 3.0), 1, block=64, causal=True, scale=1.0)
    assert torch.allclose(out[0, 0, 60], v[0, 0, 58:61].mean(0))


def test_the_penalty_is_in_the_gradient_and_not_in_the_loss() -> None:
    config = configuration(attention="span", causal=True, window_penalty=0.5)
    model = laws.made(config).train()
    symbols = laws.symbols(config)[None]
    one = Replicas(model, config, 1).losses(_loss, symbols, symbols)
    (gradient,) = torch.autograd.grad(one.sum(), [model.get_parameter("blocks.0.attention.span")])
    free = laws.made(config | {"window_penalty": 0.0}).train()
    other = Replicas(free, config, 1).losses(_loss, symbols, symbols)
    span = free.get_parameter("blocks.0.attention.span")
    (without,) = torch.autograd.grad(other.sum(), [span])
    assert torch.equal(one, other)
    slope = torch.sigmoid(span) * (1 - torch.sigmoid(span)) / 2  # two heads, two layers
    assert torch.allclose(gradient - without, 0.5 * slope / 2, atol=1e-12)
    both = stacked([laws.made(config).train() for _ in range(2)])
    every = symbols.expand(2, -1, -1)
    losses = Replicas(both, config, 2).losses(_loss, every, every)
    (found,) = torch.autograd.grad(losses.sum(), [both.get_parameter("blocks.0.attention.span")])
    assert torch.allclose(found, gradient.expand(2, -1), atol=1e-10)


def test_windows_of_every_loop_are_paid_for() -> None:
    dials = {"attention": "hard-window", "window_penalty": 0.5, "n_loops": 3}
    config = configuration("looped", **dials)
    model = laws.made(config).train()
    symbols = laws.symbols(config)[None]
    costs: list[Tensor] = []
    for block in model.get_submodule("blocks"):
        told = block.attention.told
        block.attention.told = lambda x, told=told: (costs.append(told(x)), costs[-1])[1]
    one = Replicas(model, config, 1).losses(lambda y, _: 0 * y[..., 0], symbols, symbols)
    assert len(costs) == 3 * config["n_layers"]
    wanted = torch.stack([0.5 * torch.sigmoid(cost).mean() for cost in costs]).mean()
    names = [name for name, _ in model.named_parameters() if "attention" in name]
    own = [model.get_parameter(name) for name in names]
    for found, due in zip(
        *(
            torch.autograd.grad(value, own, retain_graph=True, allow_unused=True)
            for value in (one.sum(), wanted)
        ),
        strict=True,
    ):
        assert torch.allclose(found, torch.zeros_like(found) if due is None else due, atol=1e-12)


def _loss(logits: Tensor, targets: Tensor) -> Tensor:
    return logits.logsumexp(-1) - logits[..., 0]


@pytest.mark.parametrize(
    ("dials", "message"),
    [
        ({"attention": "strided", "n_heads": 2}, r"`n_kv_heads` \(2\) must be divisible by"),
        ({"attention": "strided", "strides": "1,1"}, "not different whole numbers"),
        ({"attention": "strided", "strides": "0"}, "not different whole numbers"),
        ({"attention": "strided", "strides": "²"}, "not different whole numbers"),
        ({"attention": "strided", "strides": "1,01"}, "not different whole numbers"),
        ({"attention": "strided", "strides": "1,99999999999"}, "at most 65536"),
        ({"attention": "hard-window", "ramp": 0}, "`ramp` is 0"),
        ({"attention": "span", "window_penalty": -1.0}, "`window_penalty` is -1.0"),
        ({"attention": "head-gate", "n_heads": 1}, "needs two or more"),
        ({"attention": "structure-mlp", "d_ff": 0}, "`d_ff` is 0"),
        (
            {"attention": "structure-mlp", "structure_norm": "post", "norm": "none"},
            "`norm` is none",
        ),
    ],
    ids=str,
)
def test_what_a_variant_cannot_do_is_refused(dials: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        configuration(**dials)


SMALL = ["--d-model", 16, "--n-layers", 2, "--n-heads", 2, "--causal", "--threads", 1, "--steps", 4]


def test_windows_on_the_command_line(xtool: Run, data: Path, tmp_path: Path) -> None:
    args = ["train", data, *SMALL, "--attention", "window"]
    done = xtool(*args, "--window", 99, "-o", "w.st")
    assert (done.code, "it must be 1 to `context` (20)" in done.err) == (2, True)
    assert xtool(*args, "--window", 3, "-o", "w.st").code == 0
    # A window can be changed on a trained model, tensors cannot.
    done = xtool("train", data, "--from", "w.st", "--window", 5, "--steps", 2, "-o", "x.st")
    assert done.code == 0, done.err
    done = xtool("train", data, "--from", "w.st", "--window", 50, "--steps", 2, "-o", "y.st")
    assert (done.code, "`window` is 50" in done.err) == (2, True)
    assert xtool("slice", "w.st", "--context", 2, "-o", "short.st").code == 0
    gated = ["--attention", "head-gate", "-o", "g.st"]
    assert xtool("train", data, *SMALL, *gated).code == 0
    done = xtool("grow", "g.st", "--n-heads", 4, "-o", "h.st")
    assert (done.code, "`head-gate` depends on `n_heads`" in done.err) == (2, True)


def test_the_attention_of_a_trained_model_may_change(
    xtool: Run, data: Path, tmp_path: Path
) -> None:
    assert xtool("train", data, *SMALL, "--keep-state", "-o", "plain.st").code == 0
    on = ["train", data, "--threads", 1, "--steps", 0, "--from"]
    done = xtool(*on, "plain.st", "--attention", "window", "--window", 20, "-o", "same.st")
    assert done.code == 0, done.err
    assert (
        xtool("train", data, *on[2:], "plain.st", "--attention", "span", "-o", "span.st").code == 0
    )
    before, same, span = (load(tmp_path / f"{name}.st") for name in ("plain", "same", "span"))
    assert (same[0].config["attention"], same[0].config["window"]) == ("window", 20)
    assert same[0].lineage[-1].options["attention"] == "window", "the lineage tells the change"
    for name, tensor in before[1].items():
        assert torch.equal(tensor, same[1][name])
        assert torch.equal(tensor, span[1][name])
    assert set(span[1]) > set(before[1]), "what the variant adds has its first values"
    done = xtool(*on, "span.st", "--attention", "soft-window", "--window", 4, "-o", "x.st")
    assert (done.code, "unknown tensor `blocks.0.attention" in done.err) == (1, True), done.err
    done = xtool(*on, "plain.resume.st", "--attention", "window", "-o", "x.st")
    assert (done.code, "is of attention `plain`, not `window`" in done.err) == (2, True)
    done = xtool(*on, "plain.st", "--attention", "window", "--d-model", 32, "-o", "x.st")
    assert (done.code, "`d_model` is 16" in done.err) == (2, True)
    assert not (tmp_path / "x.st").exists()
    done = xtool("train", data, "--window", 3)
    assert "it is a dial of `--attention hard-window|soft-window|span" in done.err


@pytest.mark.parametrize(
    ("dial", "message"),
    [
        ('("sink", "int", "two", "help")', "`sink` must be int, not 'two'"),
        ('("sink", "number", 2, "help")', "names a dial 'sink' of type 'number'"),
        ('("d_model", "int", 2, "help")', "its dial `d_model` is one of gpt"),
    ],
)
def test_dials_of_an_own_file_that_cannot_be(
    dial: str, message: str, xtool: Run, tmp_path: Path
) -> None:
    mine = f"dial{abs(hash(dial)) % 10000}.py"
    (tmp_path / mine).write_text(SINK.replace("ENTRY:", f"OPTIONS = [{dial}]\nENTRY:"))
    for command in (["check", mine], ["train", "--attention", mine, "--dry-run"]):
        done = xtool(*command)
        assert (done.code > 0, message in done.out + done.err) == (True, True), done


def test_looking_inside_gives_rows_and_pictures(xtool: Run, data: Path, tmp_path: Path) -> None:
    for kind in ("hard-window", "head-gate", "plain"):
        args = ["--attention", kind, "--label", kind, "-o", f"{kind}.st"]
        assert xtool("train", data, *SMALL, *args).code == 0
    models = ["hard-window.st", "head-gate.st", "plain.st"]
    done = xtool("evaluate", *models, "--data", data, "--trace", "maps", "--format", "jsonl")
    assert done.code == 0, done.err
    rows = [json.loads(line) for line in done.out.splitlines()]
    by = {(r["label"], r["metric"]): r for r in rows}
    assert {m for label, m in by if label == "plain"} >= {"look_back", "attention_entropy"}
    assert by["hard-window", "window_length"]["low"] <= by["hard-window", "window_length"]["value"]
    assert 0 < by["hard-window", "pairs_kept"]["value"] <= 1
    assert 0 < by["head-gate", "head_gate"]["value"] < 2
    heads = {(r["layer"], r["head"]) for r in rows if r["metric"] == "look_back"}
    assert heads == {(0, 0), (0, 1), (1, 0), (1, 1)}
    cells = [r for r in rows if r["metric"] == "attention" and r["label"] == "plain"]
    first = [r["value"] for r in cells if (r["layer"], r["head"], r["query"]) == (0, 0, 7)]
    assert sum(first) == pytest.approx(1, abs=1e-5)
    (tmp_path / "rows.jsonl").write_text(done.out)
    for args in (
        ["windows"],
        ["windows", "--y", "look_back"],
        ["heads"],
        ["attention-map", "--where", "label=plain"],
    ):
        kind, *more = args
        done = xtool("plot", "rows.jsonl", "--kind", kind, *more, "-o", f"{kind}.png", "--force")
        assert done.code == 0, done.err
    below = {"metric": "key_importance", "value": -0.1, "low": -0.2, "high": 0.1}
    lines = [json.dumps(below | {"label": "a", "layer": n, "head": 0}) for n in (0, 1)]
    (tmp_path / "below.jsonl").write_text("\n".join(lines))
    drawn = ["plot", "below.jsonl", "--kind", "windows", "--y", "key_importance", "--force"]
    assert xtool(*drawn, "-o", "windows.png").code == 0
    done = xtool(*drawn, "--x", "label", "-o", "windows.png")
    assert (done.code, "`label` is not a number" in done.err) == (2, True)
    done = xtool("plot", "rows.jsonl", "--kind", "attention-map", "-o", "x.png")
    assert (done.code, "several models" in done.err) == (2, True)
    assert xtool("evaluate", "plain.st", "--trace", "head").code == 2


def test_the_masked_way_is_left_behind_nowhere() -> None:
    config = configuration(attention="window", window=2, causal=True)
    model = build(config)
    start(model, layout(config), 0)
    symbols = laws.symbols(config)
    before = model(symbols)
    with masked():
        by_mask = model(symbols)
    with tracing(model):
        traced = model(symbols)
    assert torch.equal(before, model(symbols))
    assert torch.allclose(by_mask, traced)
