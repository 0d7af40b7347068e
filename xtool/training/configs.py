"""Configurations of models: new ones from dials and data, trained ones with what may be tuned."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from xtool import registry
from xtool.archs import (
    canonical,
    checked,
    configured,
)
from xtool.axes import RESIDUAL, SIZES
from xtool.config import options
from xtool.errors import UsageError, unknown
from xtool.header import Header
from xtool.tasks import Shape, task_of

ATTENTION = "layers/attention"
OF_SIZES = ("nest", "nest_gain", "nest_weights", "nest_mix")
WIDTHS = [name for name in SIZES if name.startswith("d_") and name != RESIDUAL]


def preset(arch: str, name: str | None, d_model: int | None) -> dict[str, Any]:
    """A preset's dials; another d_model scales its other widths in their ratios.

    Raises:
        UsageError: the architecture has no such preset, or a width would not be whole.
    """
    if name is None:
        return {}
    presets = registry.literal("archs", arch, "PRESETS", {})
    if name not in presets:
        raise unknown("preset", name, presets)
    dials = dict(presets[name])
    if d_model is not None and "d_model" in dials:
        for width in WIDTHS:
            if dials.get(width):
                scaled, rest = divmod(dials[width] * d_model, dials["d_model"])
                if rest or not scaled:
                    raise UsageError(
                        f"preset `{name}`: `{width}` ({dials[width]} at `d_model` "
                        f"{dials['d_model']}) is not whole at {d_model}"
                    )
                dials[width] = scaled
    return dials


def fresh_config(
    arch: str, dials: Mapping[str, Any], data: Header, context: int | None = None
) -> dict[str, Any]:
    """The configuration of a new model for this data.

    Args:
        arch: the architecture.
        dials: the architecture's.
        data: the header of the data.
        context: positions of an example, where the data leave them free.

    Raises:
        UsageError: dials that contradict each other, or another context than that of the data.
    """
    shape: Shape = task_of(data, "data").shape(data)
    if context is not None and context != (shape.context or context):
        raise UsageError(
            f"`--context` is {context}, the examples of the data have {shape.context} positions",
            "leave it out; it is for a running text",
        )
    context = shape.context or context
    if context is None or context < 1:
        raise UsageError(f"`--context` is {context}, it must be at least 1")
    shape = replace(shape, context=context)
    config: dict[str, Any] = {"arch": arch, **dials}
    _require_window(config, context)
    if sources := registry.source_digests([arch, str(dials.get("attention"))]):
        config["sources"] = sources
    return _with_nest(configured(config, shape))


def _require_nest(config: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    """Raise UsageError for other nested sizes than those that have gains of their own already."""
    if not config.get("nest") or config["nest_gain"] != "own":
        return
    given = {name: config[name] if asked.get(name) is None else asked[name] for name in OF_SIZES}
    same = canonical({**config, **given}) == config["nest"]
    if not same or given["nest_gain"] != "own" or given["nest_mix"] != config["nest_mix"]:
        raise UsageError(
            f"`nest` is {config['nest']} in the model given with `--from`, whose sizes have their "
            "own gains",
            f"`xtool slice --to {config['d_model']}` takes it out whole, with no size inside",
        )


def _with_nest(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration with its nested sizes as they stand in headers."""
    return config | {"nest": canonical(config)} if config.get("nest") else config


def trained_config(config: Mapping[str, Any], asked: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of a trained model, with what may be tuned on it changed.

    Raises:
        UsageError: a dial that the model's tensors depend on was asked to differ.
    """
    tunable = [*registry.literal("archs", config["arch"], "TUNABLE", [])]
    _require_nest(config, asked)
    before, variant = config.get("attention"), asked.get("attention") or config.get("attention")
    if variant != before:
        config = _with_attention(config, str(variant))
        tunable += ["attention", *(dial.name for dial in options(ATTENTION, str(variant)))]
    elif before:
        tunable += registry.literal(ATTENTION, before, "TUNABLE", [])
    own = "blocks" if config.get("untied") else "a difference" if config.get("loop_rank") else ""
    if own and asked.get("n_loops") not in (None, config["n_loops"]):
        raise UsageError(
            f"`n_loops` is {config['n_loops']} in the model given with `--from`, not "
            f"{asked['n_loops']}, and each loop has {own} of its own",
            "`xtool evaluate --loops` runs more; they begin again after the last",
        )
    for name, value in asked.items():
        if value is not None and value != config.get(name) and name not in tunable:
            raise UsageError(
                f"`{name}` is {config.get(name)} in the model given with `--from`, not {value}",
                "`xtool grow` and `xtool slice` change a trained model",
            )
    if asked.get("window") is not None:
        _require_window(asked, config["context"])
    tuned = _with_nest(dict(config) | {k: v for k, v in asked.items() if v is not None})
    return tuned if variant == before else checked(tuned)


def _with_attention(config: Mapping[str, Any], variant: str) -> dict[str, Any]:
    """The configuration with another variant: dials that both have stay, the rest is default."""
    before = {dial.name for dial in options(ATTENTION, str(config["attention"]))}
    kept = {name: value for name, value in config.items() if name not in before}
    own = {d.name: config.get(d.name, d.default) for d in options(ATTENTION, variant)}
    kept = {name: value for name, value in kept.items() if name != "sources"}
    if sources := registry.source_digests([str(config["arch"]), variant]):
        kept["sources"] = sources
    return kept | own | {"attention": variant}


def _require_window(dials: Mapping[str, Any], context: int) -> None:
    """Raise UsageError for a window that is asked to be longer than the inputs.

    A cut context may leave a model's own window longer, which changes nothing.
    """
    window = dials.get("window")
    if window is not None and not 1 <= window <= context:
        raise UsageError(
            f"`window` is {window}, it must be 1 to `context` ({context})",
            "leave it out for the default, or lengthen `--context`",
        )
