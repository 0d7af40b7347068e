"""Spectra and similarities: their laws, and the rows and pictures made of them."""

from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch
from conftest import Result, Run, configuration, make_model
from test_operators import grow_to

from xtool import rows
from xtool.analysis.parts import part_rows
from xtool.analysis.similarity import activations, cka, named_stages
from xtool.analysis.spectrum import distance, spectrum
from xtool.archs import architecture, build, count, open_model, start
from xtool.axes import layout
from xtool.checkpoint import save
from xtool.header import Header
from xtool.plots import _draw
from xtool.storage import Source
from xtool.tasks import Shape

INSPECT = ("inspect", "--format", "jsonl")


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def orthogonal(size: int, seed: int) -> torch.Tensor:
    return torch.linalg.qr(random(size, size, seed=seed))[0]


def found(done: Result, metric: str) -> list[dict[str, Any]]:
    assert done.code == 0, done.err
    return [one for one in rows.read(done.out, "x") if one["metric"] == metric]


def test_a_spectrum_is_that_of_the_matrix_it_was_built_from() -> None:
    values = torch.tensor([8.0, 4.0, 1.0, 0.0], dtype=torch.float64)
    matrix = orthogonal(6, 1)[:, :4] * values @ orthogonal(4, 2)
    assert torch.allclose(spectrum(matrix), values / 8, atol=1e-12)
    assert torch.allclose(spectrum(matrix.T * 1e30), values / 8, atol=1e-12)
    assert spectrum(torch.zeros(2, 3)).tolist() == [0, 0]


def test_a_random_matrix_has_the_same_spectrum_at_any_width() -> None:
    wide, narrow = spectrum(random(300, 300)), spectrum(random(60, 60, seed=1))
    assert distance(wide, narrow) < 0.1
    assert distance(wide, spectrum(random(600, 150))) > 0.2


def test_the_distance_is_the_integral_over_both_step_functions() -> None:
    ours, theirs = spectrum(random(4, 9)), spectrum(random(6, 7, seed=1))
    fine = [values.repeat_interleave(12 // len(values)) for values in (ours, theirs)]
    wanted = (fine[0] - fine[1]).norm() / max(fine[0].norm(), fine[1].norm())
    assert distance(ours, theirs) == pytest.approx(float(wanted), rel=1e-12)
    assert distance(theirs, ours) == distance(ours, theirs)
    assert distance(ours, ours) == 0
    assert distance(ours, ours.repeat_interleave(3)) < 1e-15
    assert distance(ours * 0, ours * 0) == 0
    assert distance(ours, ours * 0) == 1


def test_a_clone_has_the_spectrum_of_the_small_model_and_zeros(xtool: Run, tmp_path: Path) -> None:
    make_model(tmp_path / "a.st")
    assert xtool("grow", "a.st", "--to", 32, "--method", "clone", "--no-noise").code == 0
    values = found(xtool(*INSPECT, "--spectrum", "a.st", "a-32.st"), "singular_value")
    names = {one["tensor"] for one in values}
    assert len(names) == 15
    assert "blocks.0.attention_norm.weight" not in names
    for name in names:
        small, grown = (
            [one["value"] for one in values if (one["tensor"], one["label"]) == (name, label)]
            for label in ("a", "a-32")
        )
        assert grown[: len(small)] == pytest.approx(small, rel=1e-10)
        assert max([*grown[len(small) :], 0]) < 1e-12
        assert small[0] == 1
    last = [one for one in values if one["rank"] == 1]
    assert len(last) == 2 * len(names)


def test_distances_are_from_the_first_model_with_their_mean(xtool: Run, tmp_path: Path) -> None:
    make_model(tmp_path / "a.st")
    make_model(tmp_path / "b.st", n_layers=3)
    done = xtool(*INSPECT, "--spectrum", "a.st", "a.st", "b.st")
    apart = found(done, "spectrum_distance")
    assert {(one["label"], one["against"]) for one in apart} == {("a", "a"), ("b", "a")}
    assert not any(one["value"] for one in apart if one["label"] == "a")
    means = found(done, "mean_spectrum_distance")
    own = [one["value"] for one in apart if one["label"] == "b"]
    assert means[0]["value"] == 0
    assert means[1]["value"] == pytest.approx(fmean(own))
    assert max(own) > 0.01
    assert means[1]["n"] == len(own) == 15
    assert "6 such were left out" in done.err


def test_models_of_one_file_name_are_told_apart_by_path(xtool: Run, tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    for path in ("a.st", "x/a.st"):
        make_model(tmp_path / path)
    apart = found(xtool(*INSPECT, "--spectrum", "a.st", "x/a.st"), "mean_spectrum_distance")
    assert [(one["label"], one["against"]) for one in apart] == [("x/a.st", "a.st")]


def unbiased(x: torch.Tensor, y: torch.Tensor) -> float:
    """Song et al. (2012), equation 5, with its N x N matrices."""
    n = len(x)
    k, m = (z @ z.T * (1 - torch.eye(n, dtype=z.dtype)) for z in (x, y))
    whole = k.sum() * m.sum() / (n - 1) / (n - 2) - 2 / (n - 2) * (k @ m).sum()
    return float((k @ m).trace() + whole)


def test_cka_is_the_unbiased_estimate() -> None:
    x, y = random(9, 4) + 3, random(9, 6, seed=1) @ torch.diag(random(6, seed=2)) - 1
    wanted = unbiased(x, y) / (unbiased(x, x) * unbiased(y, y)) ** 0.5
    assert cka(x, y) == pytest.approx(wanted, rel=1e-9)


def test_cka_is_one_up_to_rotation_scale_and_shift() -> None:
    x = random(200, 12) * torch.arange(1, 13) + 5
    assert cka(x, x) == pytest.approx(1, abs=1e-12)
    assert cka(x, -1e-6 * x @ orthogonal(12, 3) + 2) == pytest.approx(1, abs=1e-9)
    assert cka(x, torch.cat([x, x], dim=1)) == pytest.approx(1, abs=1e-12)
    assert cka(x, x.sign()) < 0.999  # type: ignore[operator]


def test_cka_of_independent_features_is_near_zero_even_with_few_positions() -> None:
    for positions, width in ((2000, 32), (64, 256)):
        value = cka(random(positions, width), random(positions, width, seed=1))
        assert value is not None
        assert abs(value) < 0.05


def test_cka_of_features_that_do_not_vary_is_none() -> None:
    assert cka(torch.full((9, 3), 0.1), random(9, 3)) is None


def test_a_model_and_its_clone_agree_after_every_stage(
    data: Path, xtool: Run, tmp_path: Path
) -> None:
    dials = ["--d-model", 16, "--n-heads", 2, "--n-layers", 2, "--precision", "fp64"]
    dials += ["--dropout", 0.5]
    train = ["train", data, *dials, "--threads", 1, "-q"]
    assert xtool(*train, "--steps", 5, "-o", "a.st").code == 0
    assert xtool(*train, "--steps", 0, "--seed", 1, "-o", "other.st").code == 0
    assert xtool("grow", "a.st", "--to", 32, "--method", "clone", "--no-noise").code == 0
    done = xtool(*INSPECT, "--similarity", "a.st", "a-32.st", "other.st", "--split", "test")
    alike = found(done, "cka")
    layers = ["embed", "blocks.0", "blocks.1", "head"]
    assert [(one["label"], one["layer"]) for one in alike] == [
        (label, layer) for label in ("a-32", "other") for layer in layers
    ]
    assert [one["value"] for one in alike[:4]] == pytest.approx([1] * 4, abs=1e-10)
    assert max(one["value"] for one in alike[4:]) < 0.9
    assert {(one["split"], one["against"], one["n"]) for one in alike} == {("test", "a", 32)}


def test_similarity_of_models_that_share_some_stages(
    data: Path, xtool: Run, tmp_path: Path
) -> None:
    train = ["train", data, "--d-model", 8, "--threads", 1, "-q", "--steps", 1]
    assert xtool(*train, "--n-layers", 1, "-o", "a.st").code == 0
    assert xtool("grow", "a.st", "--n-layers", 2, "-o", "b.st").code == 0
    done = xtool(*INSPECT, "--similarity", "a.st", "b.st", "--data", "data.st")
    alike = found(done, "cka")
    assert [one["layer"] for one in alike] == ["embed", "blocks.0", "head"]
    assert [one["value"] for one in alike] == pytest.approx([1] * 3, abs=1e-4)
    assert "b.st: left out, with no counterpart: blocks.1" in done.err


def test_a_users_own_architecture_is_compared(data: Path, xtool: Run, tmp_path: Path) -> None:
    own = Path(__file__).parents[1] / "examples" / "decay.py"
    train = ["train", data, "--arch", own, "--d-model", 8, "--threads", 1, "-q", "--steps", 1]
    assert xtool(*train, "-o", "a.st").code == 0
    assert xtool("grow", "a.st", "--to", 16, "--method", "clone", "--own", own).code == 0
    compared = [*INSPECT, "--spectrum", "--similarity", "a.st", "a-16.st", "--own", own]
    alike = found(xtool(*compared), "cka")
    assert [one["layer"] for one in alike] == ["embedding", "mixer", "head"]
    assert [one["value"] for one in alike] == pytest.approx([1] * 3, abs=1e-4)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--similarity", "a.st"], "give two or more"),
        (["--spectrum", "a.st", "--json"], "are not for rows"),
        (["a.st", "--format", "csv"], "are for rows: --parts"),
        (["--spectrum", "a.st", "--format", "cvs"], "unknown format"),
        (["--similarity", "a.st", "a.st"], "lineage names no data"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    args: list[str], message: str, xtool: Run, tmp_path: Path
) -> None:
    make_model(tmp_path / "a.st")
    done = xtool("inspect", *args)
    assert done.code in (1, 2)
    assert message in done.err
    assert done.out == ""


def test_spectra_are_drawn_a_panel_a_matrix_and_a_line_a_model(
    xtool: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "ab":
        make_model(tmp_path / f"{name}.st", n_layers=1)
    grow_to(tmp_path / "b.st", tmp_path / "c.st", "clone", d_model=32)
    (tmp_path / "s.jsonl").write_text(xtool(*INSPECT, "--spectrum", "a.st", "c.st").out)
    figures = []
    keep = _draw._bytes
    monkeypatch.setattr(
        _draw, "_bytes", lambda figure, *rest: (figures.append(figure), keep(figure, *rest))[1]
    )
    assert xtool("plot", "s.jsonl", "--kind", "spectrum", "-o", "all.svg").code == 0
    one = ["--where", "tensor=head.weight", "--kind", "spectrum", "-o", "one.svg"]
    assert xtool("plot", "s.jsonl", *one).code == 0
    panels = figures[0].axes[1:]
    assert len(panels) == 9
    assert [len(panel.lines) for panel in panels] == [2] * 9
    (alone,) = figures[1].axes
    x, y = alone.lines[0].get_data()
    assert list(x) == pytest.approx([1 / 3, 2 / 3, 1])
    assert y[0] == 1
    assert alone.get_title() == "head.weight"
    done = xtool("plot", "s.jsonl", "--kind", "spectrum", "--x", "tensor", "-o", "no.svg")
    assert done.code == 2


@pytest.mark.parametrize(
    "dials",
    [
        {},
        {"tied_head": True, "positions": "rotary", "n_kv_heads": 1},
        {"d_ff": 0},
        {"arch": "looped", "injection": "concat", "registers": 2},
    ],
    ids=str,
)
def test_parts_add_up_to_the_model(dials: dict[str, Any]) -> None:
    config = configuration(n_layers=3, n_heads=2, **dials)
    found = part_rows(config, "x")
    for metric, whole in (
        ("params", count(build(config))),
        ("flops", architecture(config).flops(config)),
    ):
        own = [one for one in found if one["metric"] == metric]
        assert sum(one["value"] for one in own) == whole
        assert sum(one["share"] for one in own) == pytest.approx(1)
        assert all(one["value"] > 0 for one in own if one["part"] in ("attention", "head"))
    mlp = [one["value"] for one in found if (one["part"], one["metric"]) == ("mlp", "params")]
    assert mlp == ([] if dials.get("d_ff") == 0 else [3 * 2 * 16 * config["d_ff"]])


def test_the_differences_of_loops_are_a_part_of_their_own() -> None:
    plain, ranked = (
        {one["part"]: one["value"] for one in part_rows(config, "x") if one["metric"] == "flops"}
        for config in (configuration("looped", loop_rank=rank, n_loops=3) for rank in (0, 2))
    )
    # B A of four matrices of attention and two of the feed-forward part, in 2 blocks and 3 loops.
    assert ranked.pop("loops") == 2 * 3 * 2 * 2 * (4 * 16 * 16 + 2 * 16 * 64)
    assert ranked == plain


@pytest.mark.parametrize("arch", ["gpt", "looped"])
def test_models_of_numbers_are_looked_into_as_they_are(arch: str, tmp_path: Path) -> None:
    config = configuration(arch, Shape(None, 14, 1, 5))
    model = build(config)
    start(model, layout(config), 0)
    save(tmp_path / "m.st", Header(kind="model", config=config), model.state_dict())
    numbers = random(4, 14, 5)
    with Source(tmp_path / "m.st") as source:
        reader = open_model(source)
        *_, (name, _) = named_stages(reader)
        ((_, found),) = activations(reader, numbers, [name])
    torch.testing.assert_close(found, model.eval()(numbers.float()).flatten(0, 1))
    params = [one["value"] for one in part_rows(config, "x") if one["metric"] == "params"]
    assert sum(params) == count(model)


def test_parts_are_rows_of_the_command(tmp_path: Path, xtool: Run) -> None:
    make_model(tmp_path / "a.st")
    done = xtool("inspect", "a.st", "--parts", "--where", "metric=flops", "--format", "csv")
    assert done.code == 0, done.err
    assert [line.split(",")[0] for line in done.out.splitlines()[1:]] == ["a"] * 6
    assert "attention" in done.out
    make_model(tmp_path / "b.st", arch="bigram")  # which multiplies nothing
    done = xtool("inspect", "b.st", "--parts", "--where", "metric=flops", "--format", "csv")
    assert (done.code, len(done.out.splitlines())) == (0, 2), done
