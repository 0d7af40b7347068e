"""The contract of architectures and attention variants: every file in their folders obeys it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import configuration, make_model
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from xtool import registry
from xtool.archs import architecture, build, count, read_model, start, stored_names
from xtool.axes import layout
from xtool.checkpoint import save
from xtool.config import check_model, model_options
from xtool.errors import UsageError, XtoolError
from xtool.header import Header
from xtool.layers.attention import plain as plain_attention
from xtool.layers.initial import initial
from xtool.layers.mlp import FUNCTIONS
from xtool.layers.positions import frequencies, table, turned
from xtool.training.configs import preset
from xtool.training.costs import costs_of
from xtool.training.dials import CONTEXT, REPORT, RESULT
from xtool.training.replicas import Replicas

ARCHS = registry.names("archs")
LATER = registry.literal("archs", "gpt", "LATER")
ATTENDING = [
    arch
    for arch in ARCHS
    if any(row[0] == "attention" for row in registry.literal("archs", arch, "OPTIONS"))
]
NARROW = ("window", "strided")  # do not see every position
SEEING = [name for name in registry.names("layers/attention") if name not in NARROW]
CASES: list[dict[str, Any]] = [
    {},
    {"norm": "none", "bias": "all", "positions": "sinusoidal"},
    {"norm": "rmsnorm", "activation": "swiglu", "tied_head": True},
    {"d_head": 6, "d_value": 10, "d_ff": 20, "d_hidden": 12, "bias": "mlp", "activation": "relu"},
    {"attention_output": False, "positions": "none", "score_scale": "d_model"},
    {"activation": "relu2", "residual": False, "n_heads": 4, "n_kv_heads": 2},
    {"activation": "none", "positions": "rotary", "bias": "all"},
    {"d_ff": 0, "positions": "sinusoidal-unpaired"},
]


def built(**dials: Any) -> tuple[dict[str, Any], torch.nn.Module]:
    config = configuration(**dials)
    model = build(config).double()
    start(model, layout(config), 0)
    return config, model.eval()


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("case", range(len(CASES)))
def test_changing_a_later_symbol_changes_no_earlier_logit(arch: str, case: int) -> None:
    _, model = built(arch=arch, causal=True, **CASES[case])
    one = torch.randint(27, (2, 12), generator=torch.Generator().manual_seed(0))
    other = one.clone()
    other[:, 7:] = (other[:, 7:] + 5) % 27
    before, after = model(one), model(other)
    assert torch.equal(before[:, :7], after[:, :7])
    assert not torch.allclose(before[:, 7:], after[:, 7:])


def test_an_older_file_has_no_dial_that_came_later() -> None:
    config, model = built()
    older = {name: value for name, value in config.items() if name not in LATER}
    assert len(older) < len(config)
    check_model(older, "x")
    symbols = torch.arange(12)[None]
    again = build(older).double()
    again.load_state_dict(model.state_dict())
    assert torch.equal(again(symbols), model(symbols))


@pytest.mark.parametrize(
    ("dial", "sites"),
    [("dropout", 5), ("dropout_attention", 2), ("dropout_hidden", 2)],
)
def test_dropout_acts_at_each_of_its_sites(
    dial: str, sites: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, model = built(n_layers=2, **{dial: 0.3})
    seen: list[float] = []
    drop, attend = torch.nn.functional.dropout, plain_attention.attend

    def dropping(x: torch.Tensor, p: float, *args: Any, **named: Any) -> torch.Tensor:
        seen.append(p)
        return drop(x, p, *args, **named)

    def attending(*args: Any, dropout: float, **named: Any) -> torch.Tensor:
        seen.append(dropout)
        return attend(*args, dropout=dropout, **named)

    monkeypatch.setattr(torch.nn.functional, "dropout", dropping)
    monkeypatch.setattr(plain_attention, "attend", attending)
    model.train()(torch.zeros(1, 5, dtype=torch.long))
    assert [p for p in seen if p] == [0.3] * sites


def test_matrices_that_write_the_residual_begin_smaller_by_the_root_of_the_depth() -> None:
    spreads = []
    for layers in (1, 4):
        _, model = built(n_layers=layers)
        start(model, layout(configuration(n_layers=layers)), 0)
        block = model.blocks[0]
        spreads.append([w.std().item() for w in (block.mlp.down.weight, block.attention.o.weight)])
    assert spreads[1] == pytest.approx([one / 2 for one in spreads[0]])


def test_every_part_can_be_left_out() -> None:
    x = torch.randn(2, 5, 16, dtype=torch.float64)
    plain = built(n_layers=1)[1].blocks[0]
    for dials in ({"residual": False}, {"d_ff": 0}):
        _, model = built(n_layers=1, **dials)
        block = model.blocks[0]
        block.load_state_dict(plain.state_dict(), strict="d_ff" not in dials)
        attended = plain.attention(plain.attention_norm(x))
        if "d_ff" in dials:
            assert torch.equal(block(x), x + attended)
        else:
            assert torch.equal(block(x), plain.mlp(plain.mlp_norm(attended)))
    hidden = torch.tensor([-1.0, 2.0])
    assert FUNCTIONS["relu2"](hidden).tolist() == [0, 4]
    assert FUNCTIONS["none"](hidden).tolist() == [-1, 2]


def test_normed_scores_are_cosines_and_the_average_is_one() -> None:
    shape = {"n_layers": 1, "n_heads": 2, "score_scale": "none", "causal": True}
    x = torch.randn(1, 5, 16, dtype=torch.float64)
    normed = built(attention="qk-norm", **shape)[1].blocks[0].attention
    q, k, v = (w(x).view(1, 5, 2, 8).transpose(1, 2) for w in (normed.q, normed.k, normed.v))
    cosine = torch.nn.functional.cosine_similarity(q[..., :, None, :], k[..., None, :, :], dim=-1)
    seen = torch.ones(5, 5).tril().bool()
    weights = (8 * cosine).masked_fill(~seen, -torch.inf).softmax(-1)
    expected = normed.o((weights @ v).transpose(1, 2).flatten(2))
    assert torch.allclose(normed(x), expected, atol=1e-10)
    plain = built(attention="average", **shape)[1].blocks[0].attention
    weights = seen / seen.sum(1, keepdim=True)
    assert torch.allclose(plain(x), plain.o(weights.double() @ plain.v(x)), atol=1e-12)


@pytest.mark.parametrize("attention", SEEING)
@pytest.mark.parametrize("arch", ATTENDING)
def test_without_the_mask_every_position_sees_every_other(arch: str, attention: str) -> None:
    _, model = built(arch=arch, attention=attention, causal=False)
    one = torch.zeros(1, 12, dtype=torch.int64)
    other = one.clone()
    other[0, 11] = 3
    assert not torch.allclose(model(one)[0, 0], model(other)[0, 0])


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("case", range(len(CASES)))
def test_a_model_comes_back_from_its_file_bit_for_bit(arch: str, case: int, tmp_path: Path) -> None:
    make_model(tmp_path / "a.st", torch.float32, arch=arch, **CASES[case])
    header, ours, model = read_model(tmp_path / "a.st")
    state = model.state_dict()
    save(tmp_path / "b.st", header, {name: state[name] for name in stored_names(model, ours)})
    assert (tmp_path / "a.st").read_bytes() == (tmp_path / "b.st").read_bytes()


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("case", range(len(CASES)))
def test_parameters_are_counted_once_and_tables_not_at_all(arch: str, case: int) -> None:
    config, model = built(arch=arch, **CASES[case])
    ours = layout(config)
    state = model.state_dict()
    stored = sum(state[n].numel() for n in stored_names(model, ours) if not ours.is_frozen(n))
    assert count(model) == stored


@pytest.mark.parametrize("arch", ATTENDING)
@pytest.mark.parametrize("case", range(len(CASES)))
def test_flops_are_those_that_torch_counts(arch: str, case: int) -> None:
    config, model = built(arch=arch, causal=False, **CASES[case])
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 12, dtype=torch.int64))
    assert architecture(config).flops(config) == counter.get_total_flops()


@pytest.mark.parametrize("arch", ATTENDING)
@pytest.mark.parametrize("case", range(len(CASES)))
def test_a_training_step_costs_what_is_said(arch: str, case: int) -> None:
    config, model = built(arch=arch, causal=False, **CASES[case])
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        steps = Replicas(model.train(), config, 1)
        steps.forward(torch.zeros(1, 12, dtype=torch.int64)).sum().backward()
    assert counter.get_total_flops() == costs_of(config)[-1][1]
    if arch == "gpt":
        assert costs_of(config)[-1][1] == 3 * architecture(config).flops(config)


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("case", range(len(CASES)))
def test_every_parameter_gets_a_gradient(arch: str, case: int) -> None:
    _, model = built(arch=arch, **CASES[case])
    symbols = torch.randint(27, (8, 12), generator=torch.Generator().manual_seed(0))
    model.train()(symbols).log_softmax(-1)[..., 0].sum().backward()
    largest = max(float(p.grad.abs().max()) for p in model.parameters() if p.grad is not None)
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert float(parameter.grad.abs().max()) > 1e-8 * largest, name


@pytest.mark.parametrize("arch", ARCHS)
def test_the_stages_in_turn_are_the_model(arch: str) -> None:
    _, model = built(arch=arch)
    x = symbols = torch.arange(12)[None]
    for prefix, stage in model.stages():  # type: ignore[operator]
        assert all(prefix + name in model.state_dict() for name in stage.state_dict())
        x = stage(x)
    assert torch.equal(x, model(symbols))


@pytest.mark.parametrize("arch", ARCHS)
def test_the_dials_of_the_header_are_those_that_are_declared(arch: str) -> None:
    config = configuration(arch=arch)
    check_model(config, "x")
    later = registry.literal("archs", arch, "LATER", [])
    for dial in model_options(arch):
        if dial.name in later:
            continue
        wrong = {k: v for k, v in config.items() if k != dial.name}
        with pytest.raises(XtoolError):
            check_model(wrong, "x")
    with pytest.raises(XtoolError):
        check_model(config | {"more": 1}, "x")


@pytest.mark.parametrize(
    ("dials", "message"),
    [
        ({"n_heads": 3}, r"`d_model` \(16\) must be divisible by `n_heads` \(3\)"),
        (
            {"attention_output": False, "d_value": 4},
            r"`n_heads` x `d_value` \(8\) must be `d_model` \(16\)",
        ),
        ({"dropout": 1.0}, "below 1"),
        ({"d_ff": -1}, "must be 0 to"),
        ({"tied_head": True, "d_hidden": 4}, "exclude"),
        ({"norm_eps": 0.0}, "above 0"),
    ],
)
def test_dials_that_contradict_each_other_are_refused(dials: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        configuration(**dials)


def test_the_counting_preset_is_the_experiments_network() -> None:
    dials = preset("gpt", "counting", 48)
    config = configuration(**dials)
    model = build(config).double()
    start(model, layout(config), 0)
    state = dict(model.state_dict())
    symbols = torch.randint(27, (3, 12), generator=torch.Generator().manual_seed(0))
    # An independent plain implementation of brianakl/bootstrapped_model_up_scaling, d6f7657.
    x = state["embed.weight"][symbols] + state["embed.positions"]
    part = "blocks.0."
    q, k, v = (x @ state[f"{part}attention.{n}.weight"].T for n in ("q", "k", "vo"))
    a = (q @ k.transpose(1, 2) / 48**0.5).softmax(-1) @ v + x
    up = a @ state[f"{part}mlp.up.weight"].T + state[f"{part}mlp.up.bias"]
    out = up.relu() @ state[f"{part}mlp.down.weight"].T + state[f"{part}mlp.down.bias"] + a
    hidden = (out @ state["head.hidden.weight"].T + state["head.hidden.bias"]).relu()
    logits = hidden @ state["head.out.weight"].T + state["head.bias"]
    model.eval()
    assert torch.allclose(model(symbols), logits, atol=1e-12)
    assert state[f"{part}attention.q.weight"].shape == (24, 48)


def test_a_preset_scales_with_d_model() -> None:
    dials = preset("gpt", "counting", 96)
    assert [dials[n] for n in ("d_head", "d_value", "d_ff", "d_hidden")] == [48, 96, 48, 48]
    with pytest.raises(UsageError, match="not whole"):
        preset("gpt", "counting", 49)
    with pytest.raises(UsageError, match="unknown preset"):
        preset("gpt", "counting2", None)


def test_position_tables() -> None:
    paired, own = table("sinusoidal", 5, 6), table("sinusoidal-unpaired", 5, 6)
    assert paired[3, 2] == pytest.approx(torch.tensor(3 * 10000 ** (-2 / 6)).sin())
    assert paired[3, 3] == pytest.approx(torch.tensor(3 * 10000 ** (-2 / 6)).cos())
    assert own[3, 3] == pytest.approx(torch.tensor(3 * 10000 ** (-6 / 6)).cos())


def test_rotary_turns_each_pair_as_a_complex_number() -> None:
    x = torch.randn(2, 3, 5, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    steps = torch.arange(5)[:, None] * frequencies(4)
    wanted = torch.view_as_complex(x.view(2, 3, 5, 4, 2)) * torch.exp(1j * steps)
    assert torch.allclose(turned(x, frequencies(4)), torch.view_as_real(wanted).flatten(-2))
    assert frequencies(4).tolist() == [1.0, 0.1, 0.01, 0.001]


def test_rotary_scores_depend_on_the_distance_alone() -> None:
    q, k = torch.randn(2, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    q, k = (turned(one.expand(1, 1, 9, 6), frequencies(3))[0, 0] for one in (q, k))  # (9, 6)
    scores = q @ k.T
    for distance in range(-8, 9):
        diagonal = scores.diagonal(distance)
        assert torch.allclose(diagonal, diagonal[0].expand_as(diagonal))
    assert float(scores[0].std()) > 0.1


def test_grouped_heads_are_full_heads_with_repeated_keys_and_values() -> None:
    grouped, full = (
        configuration(n_heads=4, n_kv_heads=kv, bias="all", positions="rotary") for kv in (2, 4)
    )
    small, large = (build(one).double().eval() for one in (grouped, full))
    start(small, layout(grouped), 0)
    state = small.state_dict()
    for name in state:
        part = name.split(".")[-2]
        if "attention." in name and part in ("k", "v"):
            heads = state[name].unflatten(0, (2, -1))
            state[name] = heads.repeat_interleave(2, 0).flatten(0, 1)
    large.load_state_dict(state)
    symbols = torch.randint(27, (3, 12), generator=torch.Generator().manual_seed(0))
    assert torch.allclose(small(symbols), large(symbols), atol=1e-12)
    assert small.blocks[0].attention.k.weight.shape == (8, 16)


@pytest.mark.parametrize(
    ("dials", "said"),
    [
        (
            {"n_heads": 4, "n_kv_heads": 3},
            r"`n_heads` \(4\) must be divisible by `n_kv_heads` \(3\)",
        ),
        ({"positions": "rotary", "d_head": 5}, "even `d_head`, not 5"),
        ({"n_heads": 4, "n_kv_heads": 2, "attention_output": False}, "has its own values"),
    ],
)
def test_heads_that_do_not_go_together_are_refused(dials: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        configuration(**dials)


def test_first_values_do_not_depend_on_how_the_rows_are_asked_for() -> None:
    ours = layout(configuration(d_model=512, d_ff=2048))
    name = "blocks.0.mlp.up.weight"
    whole = initial(ours, name, 3)
    assert torch.equal(whole[700:1301], initial(ours, name, 3, 700, 1301))
    assert not torch.equal(whole, initial(ours, name, 4))
    assert float(whole.abs().max()) <= 512**-0.5
    assert float(whole.std()) == pytest.approx((3 * 512) ** -0.5, rel=0.01)


def test_a_file_that_lacks_a_tensor_or_has_one_too_many_is_refused(tmp_path: Path) -> None:
    config = make_model(tmp_path / "a.st")
    _, ours, model = read_model(tmp_path / "a.st")
    tensors = {name: model.state_dict()[name] for name in stored_names(model, ours)}
    header = Header(kind="model", config=config)
    save(tmp_path / "b.st", header, {k: v for k, v in tensors.items() if k != "embed.weight"})
    with pytest.raises(XtoolError, match=r"lacks tensor `embed\.weight`"):
        read_model(tmp_path / "b.st")
    save(
        tmp_path / "c.st",
        header,
        tensors | {"blocks.1.mlp.gate.weight": tensors["blocks.0.mlp.up.weight"]},
    )
    with pytest.raises(XtoolError, match="unknown tensor"):
        read_model(tmp_path / "c.st")
    save(tmp_path / "d.st", header, tensors | {"embed.weight": torch.zeros(27, 17)})
    with pytest.raises(
        XtoolError, match=r"axis `d_model`: 17 in the file, 16 in the configuration"
    ):
        read_model(tmp_path / "d.st")


@pytest.mark.parametrize(
    ("arch", "name"),
    [(arch, name) for arch in ARCHS for name in registry.literal("archs", arch, "PRESETS", {})],
)
def test_a_preset_holds_dials_that_are_there(arch: str, name: str) -> None:
    known = {dial.name: dial for dial in [*model_options(arch, None), CONTEXT, *RESULT, *REPORT]}
    for dial, value in registry.literal("archs", arch, "PRESETS")[name].items():
        assert known[dial].parse(value, name) == value


def test_a_bigram_sees_one_symbol() -> None:
    config, model = built(arch="bigram")
    one = torch.randint(27, (2, 12), generator=torch.Generator().manual_seed(0))
    assert torch.equal(model(one), model.get_parameter("table.weight")[one])
    assert architecture(config).flops(config) == 12 * 3


@pytest.mark.parametrize(("tied", "spread"), [(True, (3 * 64) ** -0.5), (False, 1.0)])
def test_positions_are_as_large_as_the_symbols_that_they_are_added_to(
    tied: bool, spread: float
) -> None:
    _, model = built(d_model=64, n_heads=4, tied_head=tied, positions="learned")
    for name in ("embed.weight", "embed.positions"):
        assert float(model.get_parameter(name).detach().std()) == pytest.approx(spread, rel=0.1)


# Blocks of a window compute other pairs than FLOPs count; strided heads need more heads.
WHOLE = [name for name in SEEING if name not in ("average", "hard-window", "span")]


@pytest.mark.parametrize("attention", WHOLE)
@pytest.mark.parametrize("arch", ATTENDING)
def test_flops_of_a_variant_are_those_that_torch_counts(arch: str, attention: str) -> None:
    config, model = built(arch=arch, attention=attention, causal=False)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 12, dtype=torch.int64))
    assert architecture(config).flops(config) == counter.get_total_flops()
