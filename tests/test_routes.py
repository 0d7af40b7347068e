"""Routes: equal results by every library and kernel, and the rule that chooses among them."""

import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Run, configuration
from torch import Tensor

from xtool.archs import read_model
from xtool.checkpoint import load
from xtool.layers.attention import _flex
from xtool.layers.attention._fixed import near
from xtool.layers.attention._flex import flex
from xtool.layers.attention._kernel import attend, kernel
from xtool.layers.positions import frequencies, turned
from xtool.storage import Source
from xtool.training import routes

RUN = ["--d-model", 16, "--n-layers", 1, "--n-heads", 2, "--threads", 1, "--batch-size", 32]
DIALS: dict[str, Any] = {"precision": "fp32", "replicas": 1, "batch_size": 8}


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("heads", [2, 4])
def test_the_kernels_agree_and_so_do_their_gradients(causal: bool, heads: int) -> None:
    torch.manual_seed(0)
    q = torch.randn(3, 4, 7, 5, dtype=torch.float64)
    k, v = (torch.randn(3, heads, 7, width, dtype=torch.float64) for width in (5, 6))
    found = []
    for name in ("sdpa", "plain"):
        inputs = [one.clone().requires_grad_() for one in (q, k, v)]
        with kernel(name):
            out = attend(*inputs, causal=causal, scale=0.3)
        (out**2).sum().backward()
        found.append([out, *(one.grad for one in inputs)])
    for one, other in zip(*found, strict=True):
        assert torch.allclose(one, other, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "route", [one for one in routes.ROUTES if one != routes.DEFAULT and "flex" not in one]
)
def test_a_route_changes_no_more_than_rounding(
    route: str, data: Path, xtool: Run, tmp_path: Path
) -> None:
    args = ["train", data, *RUN, "--steps", 10]
    assert xtool(*args, "--route", routes.DEFAULT, "-o", "a.st").code == 0
    done = xtool(*args, "--route", route, "-o", "b.st")
    if "onednn" in route and routes.error(route, configuration(), 32) > routes.LARGEST_ERROR:
        assert (done.code, "a relative error" in done.err) == (2, True)
        return
    assert done.code == 0, done.err
    assert load(tmp_path / "b.st")[0].training["route"] == route
    one, other = (read_model(tmp_path / f"{name}.st")[2].state_dict() for name in "ab")
    for name, tensor in one.items():
        assert torch.allclose(tensor, other[name], rtol=0, atol=1e-4), name


def test_masks_that_an_evaluation_makes_first_can_be_trained_with() -> None:
    _flex._blocks.cache_clear()
    with torch.inference_mode():
        mask = _flex._blocks(150, 40, True, "cpu")
    held = [one for one in vars(mask).values() if isinstance(one, Tensor)]
    assert held
    assert not any(one.is_inference() for one in held)


def test_rotary_positions_are_whole_numbers_in_bf16_too() -> None:
    x = torch.randn(1, 1, 1000, 8, generator=torch.Generator().manual_seed(0)).bfloat16()
    table = frequencies(4).float()
    found, wanted = turned(x, table), turned(x.double(), table.double())
    assert found.dtype == torch.bfloat16
    assert (found - wanted).abs().max() < 0.02


def test_flex_attention_has_the_same_windows(data: Path, xtool: Run) -> None:
    done = xtool("train", data, *RUN, "--device", "cpu", "--route", "torch+flex", "-o", "a.st")
    assert (done.code, "trains on a GPU only" in done.err) == (2, True)
    for causal in (True, False):
        q, k, v = (torch.randn(2, heads, 150, 16) for heads in (4, 2, 2))
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # uncompiled it computes every pair, and says so
            found = flex(q, k, v, 40, causal=causal, scale=0.25)
            wanted = near(q, k, v, 40, block=50, causal=causal, scale=0.25)
        assert torch.allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize(
    ("has", "precision", "context", "route"),
    [
        ("AuthenticAMD", "fp32", 64, "onednn+plain"),
        ("AuthenticAMD", "fp32", 256, "onednn+sdpa"),
        ("AuthenticAMD", "fp64", 64, routes.DEFAULT),
        ("AuthenticAMD", "bf16", 64, routes.DEFAULT),
        ("amx_bf16", "bf16", 64, "torch+plain"),
        ("amx_bf16", "bf16", 256, routes.DEFAULT),
        ("amx_bf16", "fp32", 64, routes.DEFAULT),
        ("neither", "fp32", 64, routes.DEFAULT),
    ],
)
def test_the_rule_is_of_processor_shape_and_precision(
    has: str, precision: str, context: int, route: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(routes, "error", lambda *args: 1e-7)
    monkeypatch.setattr(routes, "_has", lambda word: word == has)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512_VNNI")
    config, dials = {"vocab_size": 9, "d_model": 8, "context": context}, {"precision": precision}
    assert routes.choose("auto", "cpu", config, DIALS | dials) == route
    assert routes.choose("auto", "cuda", config, DIALS | dials) == routes.DEFAULT
    assert routes.choose("auto", "cpu", config, DIALS | dials | {"replicas": 2}) == routes.DEFAULT


def test_a_route_that_rounds_is_rejected(
    data: Path, xtool: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(routes, "_zen", lambda: True)
    monkeypatch.setattr(routes, "error", lambda *args: 2.9e-3)
    assert xtool("train", data, *RUN, "--steps", 1, "-o", "m.st").code == 0
    assert load(tmp_path / "m.st")[0].training["route"] == routes.DEFAULT
    done = xtool("train", data, *RUN, "--steps", 1, "--route", "onednn+plain", "-o", "n.st")
    assert done.code == 2
    assert "its products have a relative error of 2.9e-03 here, at most 1e-05" in done.err


def test_the_error_is_that_of_float32_and_settings_come_back() -> None:
    before = torch.backends.mkldnn.matmul.fp32_precision  # type: ignore[attr-defined]
    assert 1e-8 < routes.error(routes.DEFAULT, configuration(), 8) < 1e-6
    with pytest.raises(KeyError), routes.applied("onednn+plain"):
        raise KeyError
    assert torch.backends.mkldnn.matmul.fp32_precision == before  # type: ignore[attr-defined]


def test_another_route_is_another_run(
    data: Path, xtool: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    args = ["train", data, *RUN, "--steps", 2, "--keep-state", "-o", "m.st"]
    assert xtool(*args).code == 0
    (tmp_path / "m.st").unlink()
    with Source(tmp_path / "m.resume.st") as source:
        own = source.require_header("resume").training["route"]
    other = next(name for name in routes.ROUTES if name != own)
    monkeypatch.setattr("xtool.training.setup.choose", lambda *args: other)
    done = xtool(*args, "--resume")
    assert done.code == 1
    assert f"`route` is {own} there, {other} here" in done.err


def test_bf16_rounds_products_and_keeps_weights(data: Path, xtool: Run, tmp_path: Path) -> None:
    args = ["train", data, *RUN, "--steps", 10, "--lr", 0.01]
    for precision in ("fp32", "bf16"):
        assert xtool(*args, "--precision", precision, "-o", f"{precision}.st").code == 0
    one, other = (read_model(tmp_path / f"{n}.st")[2].state_dict() for n in ("fp32", "bf16"))
    apart = max(float((one[name] - other[name]).abs().max()) for name in one)
    assert 1e-5 < apart < 0.05
    assert all(tensor.dtype == torch.float32 for tensor in other.values())


@pytest.mark.slow
@pytest.mark.parametrize(
    "more", [[], ["--route", "torch+plain"], ["--attention", "window"], ["--attention", "span"]]
)
def test_a_compiled_model_trains_alike(more: list[str], data: Path, tmp_path: Path) -> None:
    args = [sys.executable, "-m", "xtool", "train", data, *RUN, "--steps", 10, "-q", *more]
    for last in (["-o", "a.st"], ["--compile", "-o", "b.st"]):
        command = [str(one) for one in [*args, "--precision", "fp64", *last]]
        done = subprocess.run(command, check=True, cwd=tmp_path, capture_output=True, text=True)
        assert done.stderr == ""
    one, other = (read_model(tmp_path / f"{name}.st")[2].state_dict() for name in "ab")
    for name, tensor in one.items():
        assert torch.allclose(tensor, other[name], rtol=0, atol=1e-9), name
