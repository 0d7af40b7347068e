"""The laws that every attention variant obeys, run on the variant itself.

The tests hold each file of the folder against them, `xtool check my.py` a user's own. A law is
checked on small models with random values, in every setting of `SETTINGS` that the variant takes.
"""

import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from xtool import registry
from xtool.archs import architecture, build, start, stored_names
from xtool.axes import ATTENTION, layout, pattern_regex
from xtool.checkpoint import Reader, save
from xtool.config import model_options, options, resolve
from xtool.errors import CheckFailed, UsageError, XtoolError
from xtool.evaluation.generate import can_cache
from xtool.header import Header
from xtool.layers._cache import caching
from xtool.layers.attention._kernel import masked
from xtool.surgery.grow import grow
from xtool.surgery.plan import Plan, plan
from xtool.surgery.slice import slice_model
from xtool.tasks import Shape
from xtool.training.replicas import Replicas, stacked

FOLDER = "layers/attention"
CONTEXT, LONG = 24, 130  # a long one has several blocks of queries
SMALL = {"d_model": 32, "n_layers": 2, "n_heads": 8, "n_kv_heads": 4, "d_ff": 48}
SETTINGS: list[dict[str, Any]] = [
    {},
    {"positions": "rotary", "norm": "rmsnorm", "bias": "all"},
    {"positions": "none", "norm": "none", "causal": False},
    {"positions": "sinusoidal", "n_kv_heads": 8, "d_value": 6, "tied_head": True},
]
JITTER = 0.3  # of every value, gains and biases too; GENTLE where rounding is the question
GENTLE = 0.02
CHANGES = [
    {"n_layers": 3, "d_ff": 96},
    {"d_model": 64},
    {"d_model": 64, "n_heads": 8},
    {"d_head": 8},
]
TOLERANCE = {"exact": 1e-10, "neutral": 1e-6, "single": 1e-5}


class Broken(XtoolError):
    """A law that does not hold."""


@dataclass(frozen=True)
class Law:
    """One law: what it says, and what checks it in one setting.

    The check returns what it found, or None where the law does not concern the setting.

    Raises:
        Broken: it does not hold.
    """

    says: str
    check: Callable[[str, Mapping[str, Any]], str | None]
    settings: int = len(SETTINGS)  # the first ones, in which it is checked


@dataclass(frozen=True)
class Verdict:
    """Whether a law holds, and what was found."""

    law: str
    holds: bool
    found: str


def verdicts(
    attention: str,
    laws: Sequence[Law] | None = None,
    settings: Sequence[Mapping[str, Any]] = SETTINGS,
) -> Iterator[Verdict]:
    """Each law in turn, or those that are given, over its settings; none after a failed first one.

    That is the law of the tensors: a variant that cannot be built breaks all others too.
    """
    buildable = True
    for law in LAWS if laws is None else laws:
        if not buildable:
            return
        found = []
        try:
            for setting in settings[: law.settings]:
                found.append(law.check(attention, setting))
        except XtoolError as error:
            buildable = law.check is not _axes
            yield Verdict(law.says, False, f"{error.message} ({_shown(setting)})")
        except Exception as error:  # a user's file may raise anything
            what = f"{_place(error)}{type(error).__name__}: {error}".partition("\n")[0]
            buildable = False
            yield Verdict(law.says, False, f"{what} ({_shown(setting)})")
        else:
            said = list(dict.fromkeys(one for one in found if one is not None))
            yield Verdict(law.says, True, "; ".join(said) if said else "does not apply")


def _place(error: Exception) -> str:
    """File and line of a user's own file where an error came from."""
    own = {str(path.resolve()) for path in registry.admitted().values()}
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename in own]
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}: " if frames else ""


def _shown(setting: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in setting.items()) or "the defaults"


def configured(attention: str, setting: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """The configuration of a small model with a variant; `context` among `more` is its length."""
    given = {**SMALL, "attention": attention, **setting, **more}
    context = given.pop("context", CONTEXT)
    dials = resolve(model_options("gpt", attention), [("the law's setting", given)])
    config = {"arch": "gpt", **dials}
    return architecture(config).configure(config, Shape(27, context, 27))


def made(
    config: Mapping[str, Any],
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
    jitter: float = JITTER,
) -> nn.Module:
    """A model with every value away from its first one."""
    model = build(config).to(dtype)
    start(model, layout(config), seed)
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=jitter)
    return model.eval()


def symbols(config: Mapping[str, Any], examples: int = 2) -> Tensor:
    """Inputs of full length, (B, T)."""
    generator = torch.Generator().manual_seed(2)
    return torch.randint(27, (examples, config["context"]), generator=generator)


def _require_close(found: Tensor, wanted: Tensor, tolerance: float, what: str) -> str:
    largest = max(1.0, float(wanted.detach().abs().max()))
    difference = float((found - wanted).detach().abs().max())
    if not difference <= tolerance * largest:
        raise Broken(f"{what} differ by {difference:.2g}, at most {tolerance * largest:.2g}")
    return f"to {tolerance:g}"


def _axes(attention: str, setting: Mapping[str, Any]) -> str:
    config = configured(attention, setting)
    model, ours = build(config), layout(config)
    state = model.state_dict()
    for name in stored_names(model, ours):
        ours.check(name, state[name].shape, "the model")
    logits = made(config)(symbols(config))
    if logits.shape != (2, CONTEXT, 27) or not bool(logits.isfinite().all()):
        raise Broken(f"the logits have shape {list(logits.shape)}, or one is NaN or infinite")
    flops = architecture(config).flops(config)
    if not isinstance(flops, int) or flops < 1:
        raise Broken(f"`flops` gives {flops!r}, not a whole number above 0")
    return "every tensor"


def _causal(attention: str, setting: Mapping[str, Any]) -> str | None:
    config = configured(attention, setting, causal=True)
    model, one = made(config), symbols(config)
    other = one.clone()
    other[:, 13:] = (other[:, 13:] + 5) % 27
    before, after = model(one), model(other)
    if not torch.equal(before[:, :13], after[:, :13]):
        raise Broken("changing a later symbol changes an earlier logit")
    if torch.allclose(before[:, 13:], after[:, 13:]):
        raise Broken("changing a symbol changes no logit from there on")
    return "to the bit"


def _gradient(attention: str, setting: Mapping[str, Any]) -> str:
    for rate in (0.0, 0.1):
        config = configured(attention, setting, dropout_attention=rate)
        model = made(config).train()
        torch.manual_seed(0)
        model(symbols(config, 4)).log_softmax(-1)[..., 0].sum().backward()
        gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
        largest = max(float(g.abs().max()) for g in gradients.values() if g is not None)
        for name, gradient in gradients.items():
            if gradient is None or not float(gradient.abs().max()) > 1e-12 * largest:
                raise Broken(f"no gradient reaches `{name}` at dropout {rate:g}")
    return "also without dropout"


def _neutral(attention: str, setting: Mapping[str, Any]) -> str | None:
    neutral = registry.literal(FOLDER, attention, "NEUTRAL", None)
    if neutral is None:
        return None
    declared = {dial.name for dial in options(FOLDER, attention)}
    dials = {name: CONTEXT if v == "context" else v for name, v in neutral.items()}
    config = configured(attention, setting, **{n: v for n, v in dials.items() if n in declared})
    model, plain = made(config), build(configured("plain", setting)).double().eval()
    tensors = {
        pattern_regex(ATTENTION + name): value
        for name, value in dials.items()
        if name not in declared
    }
    state = model.state_dict()
    for name, tensor in state.items():
        for pattern, value in tensors.items():
            if pattern.fullmatch(name):
                tensor.fill_(value)
    plain.load_state_dict({name: state[name] for name in plain.state_dict()})
    inputs = symbols(config)
    return _require_close(model(inputs), plain(inputs), TOLERANCE["neutral"], "the logits")


def _quick(attention: str, setting: Mapping[str, Any]) -> str:
    said = {}
    for context in (CONTEXT, LONG):
        config = configured(attention, setting, context=context)
        inputs = symbols(config)
        for kind, dtype, jitter in (
            ("exact", torch.float64, JITTER),
            ("single", torch.float32, GENTLE),
        ):
            model = made(config, dtype, jitter=jitter)
            quick, by_mask = (_with_gradients(model, inputs, way) for way in (False, True))
            for name, wanted in by_mask.items():
                said[dtype] = _require_close(quick[name], wanted, TOLERANCE[kind], name)
    return f"{said[torch.float64]}, in float32 {said[torch.float32]}; gradients too"


def _with_gradients(model: nn.Module, inputs: Tensor, by_mask: bool) -> dict[str, Tensor]:
    """The logits, and the gradient of their mean log probability by each parameter."""
    model.zero_grad()
    if by_mask:
        with masked():
            logits = model(inputs)
    else:
        logits = model(inputs)
    logits.log_softmax(-1)[..., 0].mean().backward()
    gradients = {f"the gradients of `{n}`": p.grad for n, p in model.named_parameters()}
    return {"the logits": logits} | {n: g for n, g in gradients.items() if g is not None}


def _cache(attention: str, setting: Mapping[str, Any]) -> str | None:
    config = configured(attention, setting, causal=True)
    if not can_cache(config):
        return None
    model, inputs = made(config), symbols(config)
    with torch.inference_mode():
        whole = model(inputs)
        with caching(model):
            parts = [model(part) for part in torch.split(inputs, [9, 4] + [1] * 11, 1)]
    return _require_close(torch.cat(parts, 1), whole, TOLERANCE["exact"], "the logits")


def _replicas(attention: str, setting: Mapping[str, Any]) -> str:
    config = configured(attention, setting)
    alone = [made(config, seed=seed).train() for seed in (0, 1)]
    inputs = torch.stack([symbols(config), symbols(config).flip(1)])  # (R, B, T)
    wanted = [model(part) for model, part in zip(alone, inputs, strict=True)]
    replicas = Replicas(stacked([made(config, seed=seed).train() for seed in (0, 1)]), config, 2)
    found: dict[str, Tensor] = {}

    def loss(logits: Tensor, targets: Tensor) -> Tensor:
        found["logits"] = logits
        return logits[..., 0]

    replicas.losses(loss, inputs, inputs)
    both = torch.cat(wanted)  # (R*B, T, C)
    return _require_close(found["logits"], both, TOLERANCE["exact"], "the logits")


def _rounded(attention: str, setting: Mapping[str, Any]) -> str:
    config = configured(attention, setting, context=LONG)
    model, inputs = made(config, torch.float32, jitter=GENTLE).train(), symbols(config)
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(inputs)
    logits.float().log_softmax(-1)[..., 0].mean().backward()
    logits = logits.detach()
    if not all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None):
        raise Broken("a gradient is NaN or infinite")
    with torch.no_grad():
        exact = model(inputs)
    if not float((logits - exact).abs().mean() / exact.abs().mean()) < 0.1:
        raise Broken("the logits are others than in float32")
    return "finite, and near to float32's"


def _grows(attention: str, setting: Mapping[str, Any]) -> str:
    config = configured(attention, setting)
    model, ours = made(config), layout(config)
    state = model.state_dict()
    said = []
    with TemporaryDirectory() as folder:
        small, large = Path(folder, "small.st"), Path(folder, "large.st")
        header = Header(kind="model", config=config)
        save(small, header, {name: state[name] for name in stored_names(model, ours)})
        for method in ("pad", "clone"):
            for change in CHANGES:
                said += _grown(small, large, method, change)
        for cut in ({"n_layers": 1}, {"d_ff": 24}, {"n_heads": 4, "n_kv_heads": 4}):
            try:
                slice_model(small, large, cut)
                large.unlink()
            except UsageError as error:
                said.append(f"refused: {error.message}")
    return "; ".join(dict.fromkeys(["exact, or refused", *said]))


def _grown(small: Path, large: Path, method: str, change: Mapping[str, int]) -> list[str]:
    """Grow and prove it; the reason where it is refused."""
    dials = resolve(options("surgery/operators", method), [])

    def make(reader: Reader) -> Plan:
        return plan(reader, change, method, dials, 0)

    try:
        grow(small, large, make)
    except UsageError as error:
        return [error.message] if "attention variant" in error.message else []
    except CheckFailed as error:
        what = ", ".join(change)
        raise Broken(f"`{method}` of {what} is not exact: name it in `FIXED`") from error
    large.unlink()
    return []


LAWS = [
    Law("tensors name their axes", _axes),
    Law("no query sees a later key", _causal),
    Law("every parameter learns", _gradient),
    Law("with its NEUTRAL values it is plain attention", _neutral),
    Law("its quick way equals its definition", _quick),
    Law("with the cache of keys it is the same", _cache),
    Law("replicas compute what each does alone", _replicas),
    Law("it trains in bfloat16", _rounded, settings=2),
    Law("it grows exactly and slices, or says why not", _grows, settings=2),
]
