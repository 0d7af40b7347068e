"""The transformer of the GPT family, composed by configuration, causal or not.

Embedding and positions, blocks of attention and feed-forward, and a head of one or two layers
(Radford et al., 2019). With the preset `counting` it is the network of the counting experiment.
"""

from collections.abc import Mapping, Sequence
from math import prod
from types import SimpleNamespace
from typing import Any

from jaxtyping import Float, Num
from torch import Tensor, nn

from xtool import registry
from xtool.archs._contracts import Architecture
from xtool.axes import SIZES
from xtool.errors import UsageError
from xtool.layers.attention import Configured
from xtool.layers.blocks import Block
from xtool.layers.embedding import Embed
from xtool.layers.head import Head
from xtool.layers.mlp import Mlp
from xtool.layers.norms import norm
from xtool.tasks import Shape

OPTIONS = [
    ("d_model", "int", 128, "width of the residual stream"),
    ("n_layers", "int", 4, "blocks"),
    ("n_heads", "int", 4, "attention heads"),
    ("n_kv_heads", "int", None, "heads of keys and values; n_heads unless given"),
    ("d_head", "int", None, "width of a head's queries and keys; d_model / n_heads unless given"),
    ("d_value", "int", None, "width of a head's values; d_head unless given"),
    (
        "d_ff",
        "ints",
        None,
        "width of the feed-forward part, or one a layer; 4 d_model unless given, 0 for none",
    ),
    ("d_hidden", "int", None, "width of a two-layer head; one layer unless given"),
    ("norm", "none|layernorm|rmsnorm", "layernorm", "norm before each part"),
    ("norm_eps", "float", 1e-5, "what the norm adds to the variance"),
    ("activation", "relu|relu2|gelu|swiglu|none", "gelu", "non-linearity"),
    (
        "positions",
        "none|learned|sinusoidal|sinusoidal-unpaired|rotary",
        "learned",
        "how places are told",
    ),
    ("attention", "@layers/attention", "plain", "attention variant"),
    ("attention_output", "bool", True, "project the heads' values onto the residual stream"),
    ("score_scale", "d_head|d_model|none", "d_head", "scores are divided by the root of this"),
    ("causal", "bool", True, "see only earlier positions"),
    ("bias", "all|mlp|none", "none", "which linear layers have one"),
    ("residual", "bool", True, "add each part's output to its input"),
    ("tied_head", "bool", False, "the head reads the embedding's own weights"),
    ("dropout", "float", 0.0, "on the embedding and on each part's output"),
    ("dropout_attention", "float", 0.0, "on the attention weights"),
    ("dropout_hidden", "float", 0.0, "inside the feed-forward part and a two-layer head"),
    ("nest", "texts", None, "smaller sizes inside, `d_model=16,32`; again for another axis"),
    ("nest_schedule", "joint|random|sandwich", "sandwich", "which sizes a step trains"),
    ("nest_drawn", "int", 1, "sizes that `sandwich` draws beside the largest and the smallest"),
    ("nest_mix", "bool", False, "drawn sizes have a feed-forward width of their own in each layer"),
    ("nest_distill", "float", 0.5, "part of a smaller size's loss: distance from the largest"),
    ("nest_gain", "shared|own", "own", "whether each size's norms have gains of their own"),
    ("nest_sort", "bool", True, "sort a trained model's units by importance before its first nest"),
    ("nest_weights", "text", None, "of each size's loss, smallest first; 1,...,1,2 unless given"),
]
TASK = "counting"
CACHED = True
LATER = [
    "residual", "nest", "nest_schedule", "nest_drawn", "nest_mix", "nest_distill", "nest_gain",
    "nest_sort", "nest_weights",
]  # fmt: skip
TUNABLE = [
    "dropout", "dropout_attention", "dropout_hidden", "nest", "nest_schedule", "nest_drawn",
    "nest_mix", "nest_distill", "nest_gain", "nest_sort", "nest_weights",
]  # fmt: skip
PRESETS = {
    "counting": {
        "d_model": 48,
        "n_layers": 1,
        "n_heads": 1,
        "d_head": 24,
        "d_value": 48,
        "d_ff": 24,
        "d_hidden": 24,
        "norm": "none",
        "activation": "relu",
        "positions": "sinusoidal-unpaired",
        "attention_output": False,
        "score_scale": "d_model",
        "causal": False,
        "bias": "mlp",
        "dropout_hidden": 0.5,
    },
    # The two of karpathy/nanoGPT for tinyshakespeare, on a GPU and on a CPU.
    "shakespeare-char": {
        "d_model": 384,
        "n_layers": 6,
        "n_heads": 6,
        "context": 256,
        "tied_head": True,
        "dropout": 0.2,
        "dropout_attention": 0.2,
        "batch_size": 64,
        "steps": 5000,
        "lr": 1e-3,
        "schedule": "cosine",
        "warmup": 100,
        "beta2": 0.99,
        "weight_decay": 0.1,
        "clip": 1.0,
        "eval_every": 250,
        "keep_best": True,
    },
    "shakespeare-char-cpu": {
        "d_model": 128,
        "n_layers": 4,
        "n_heads": 4,
        "context": 64,
        "tied_head": True,
        "batch_size": 12,
        "steps": 2000,
        "lr": 1e-3,
        "schedule": "cosine",
        "warmup": 100,
        "beta2": 0.99,
        "weight_decay": 0.1,
        "clip": 1.0,
        "eval_every": 250,
    },
    # What the looped models of the same name stand beside.
    "yang-12": {
        "d_model": 256,
        "n_layers": 12,
        "n_heads": 8,
        "bias": "all",
        "batch_size": 64,
        "lr": 1e-4,
    },
    "seed-d10-12": {
        "d_model": 256,
        "n_layers": 12,
        "n_heads": 4,
        "bias": "all",
        "batch_size": 64,
        "steps": 20000,
        "lr": 1e-4,
    },
    # A character model of 2023 whose attention had three faults; these dials, without them.
    "chargpt": {
        "d_model": 384,
        "n_layers": 6,
        "n_heads": 6,
        "context": 256,
        "activation": "relu",
        "dropout": 0.2,
        "dropout_attention": 0.2,
        "batch_size": 64,
        "steps": 5000,
        "lr": 3e-4,
        "schedule": "constant",
        "eval_every": 500,
    },
}
MAX_LAYERS, MAX_WIDTH = 4096, 1 << 24
AXES = {
    "embed.weight": ("vocab", "d_model"),
    "embed.positions": ("context", "d_model"),
    "embed.read.weight": ("d_model", "<d_input"),
    "embed.read.bias": ("d_model",),
    "blocks.{layer}.mlp.up.weight": ("d_ff", "<d_model"),
    "blocks.{layer}.mlp.gate.weight": ("d_ff", "<d_model"),
    "blocks.{layer}.mlp.down.weight": ("d_model", "<d_ff"),
    "blocks.{layer}.mlp.up.bias": ("d_ff",),
    "blocks.{layer}.mlp.gate.bias": ("d_ff",),
    "blocks.{layer}.mlp.down.bias": ("d_model",),
    "blocks.{layer}.attention_norm.*": ("=d_model",),
    "blocks.{layer}.mlp_norm.*": ("=d_model",),
    "head.norm.*": ("=d_model",),
    "sizes.*.blocks.{layer}.attention_norm.*": ("=d_model",),
    "sizes.*.blocks.{layer}.mlp_norm.*": ("=d_model",),
    "sizes.*.head.norm.*": ("=d_model",),
    "head.hidden.weight": ("d_hidden", "<d_model"),
    "head.hidden.bias": ("d_hidden",),
    "head.out.weight": ("n_outputs", "<d_hidden"),
    "head.weight": ("n_outputs", "<d_model"),
    "head.bias": ("n_outputs",),
}
TIED = {"head.weight": ("embed.weight", "tied_head=true", "head.norm")}
FROZEN = {"embed.positions": ["positions=sinusoidal", "positions=sinusoidal-unpaired"]}


class Norms(nn.Module):
    """The norms of a model, by the names that they have there, for one of its nested sizes."""

    def __init__(self, c: SimpleNamespace) -> None:
        super().__init__()

        def one() -> nn.Module:
            return norm(c.norm, c.d_model, c.norm_eps)

        parts = ["attention_norm", "mlp_norm"] if c.d_ff else ["attention_norm"]
        within = 0 if c.nest.startswith("head=") else c.n_layers
        self.blocks = nn.ModuleList(
            nn.ModuleDict({part: one() for part in parts}) for _ in range(within)
        )
        self.head = nn.ModuleDict({"norm": one()})


class Gpt(nn.Module):
    """The model; see the module."""

    def __init__(self, c: SimpleNamespace) -> None:
        super().__init__()
        self.embed = Embed(c)
        self.blocks = nn.ModuleList(
            self._block(SimpleNamespace(**vars(c) | {"d_ff": d_ff}))
            for d_ff in widths(c.d_ff, c.n_layers)
        )
        self.head = Head(c, self.embed.weight)
        nest = getattr(c, "nest", None)
        if nest and c.nest_gain == "own":
            smaller = prod(word.count(",") + 1 for word in nest.split()) - 1
            # Sizes between are trained as mixes alone, which have the whole model's.
            smaller = min(smaller, 1) if c.nest_mix else smaller
            self.sizes = nn.ModuleList(Norms(c) for _ in range(smaller))

    @staticmethod
    def _block(c: SimpleNamespace) -> Block:
        return Block(
            c.d_model,
            norm(c.norm, c.d_model, c.norm_eps),
            registry.load("layers/attention", c.attention).build(c),
            norm(c.norm, c.d_model, c.norm_eps) if c.d_ff else None,
            Mlp(c.d_model, c.d_ff, c.activation, c.bias != "none", c.dropout_hidden)
            if c.d_ff
            else None,
            c.dropout,
            getattr(c, "residual", True),
        )

    def stages(self) -> Sequence[tuple[str, nn.Module]]:
        """Embedding, blocks, head."""
        blocks = [(f"blocks.{i}.", block) for i, block in enumerate(self.blocks)]
        return [("embed.", self.embed), *blocks, ("head.", self.head)]

    def forward(self, inputs: Num[Tensor, "B T *d"]) -> Float[Tensor, "B T C"]:
        """(B, T), or (B, T, d) -> (B, T, C)."""
        x = inputs
        for _, stage in self.stages():
            x = stage(x)
        return x


class _Entry:
    def configure(self, dials: Mapping[str, Any], shape: Shape) -> dict[str, Any]:
        c = dict(dials) | vars(shape)
        for name in (name for name in SIZES if name in c):
            most = MAX_LAYERS if name == "n_layers" else MAX_WIDTH
            least = 0 if name == "d_ff" else 1
            each = c[name] if isinstance(c[name], list) else [c[name]]
            if not all(size is None or least <= size <= most for size in each):
                raise UsageError(f"`{name}` is {c[name]}, it must be {least} to {most}")
        if c["d_head"] is None:
            if c["d_model"] % c["n_heads"]:
                raise UsageError(
                    f"`d_model` ({c['d_model']}) must be divisible by `n_heads` ({c['n_heads']})",
                    "or set `--d-head`",
                )
            c["d_head"] = c["d_model"] // c["n_heads"]
        c["d_value"] = c["d_value"] or c["d_head"]
        c["n_kv_heads"] = c["n_kv_heads"] or c["n_heads"]
        c["d_ff"] = _feed_forward(c)
        _check(c)
        variant = registry.load("layers/attention", c["attention"])
        return c | variant.configure(c) if isinstance(variant, Configured) else c

    def build(self, config: Mapping[str, Any]) -> nn.Module:
        return Gpt(SimpleNamespace(**config))

    def flops(self, config: Mapping[str, Any]) -> int:
        c = SimpleNamespace(**config)
        each = 2 * c.context * c.d_model * (3 if c.activation == "swiglu" else 2)
        blocks = 0
        for d_ff in widths(c.d_ff, c.n_layers):
            own = SimpleNamespace(**vars(c) | {"d_ff": d_ff})
            attention = registry.load("layers/attention", c.attention).flops(own, c.context)
            blocks += each * d_ff + attention
        width = c.d_hidden or c.d_model
        head = 2 * c.context * width * c.n_outputs
        head += 2 * c.context * c.d_model * c.d_hidden if c.d_hidden else 0
        head += 2 * c.context * c.d_model * (getattr(c, "d_input", None) or 0)
        return int(blocks + head)


def widths(d_ff: int | list[int], n_layers: int) -> list[int]:
    """The feed-forward width of each layer."""
    return d_ff[:n_layers] if isinstance(d_ff, list) else [d_ff] * n_layers


def _feed_forward(c: Mapping[str, Any]) -> int | list[int]:
    """The feed-forward widths, one number where all are equal."""
    if c["d_ff"] is None:
        return int(4 * c["d_model"])
    if not isinstance(c["d_ff"], list):
        return int(c["d_ff"])
    if len(c["d_ff"]) != c["n_layers"]:
        raise UsageError(f"`d_ff` gives {len(c['d_ff'])} widths, `n_layers` is {c['n_layers']}")
    if 0 in c["d_ff"]:
        raise UsageError("`d_ff` is 0 in some layers", "0 is for all of them, or none")
    return c["d_ff"] if len(set(c["d_ff"])) > 1 else int(c["d_ff"][0])


def _check(c: Mapping[str, Any]) -> None:
    if c["n_heads"] % c["n_kv_heads"]:
        raise UsageError(
            f"`n_heads` ({c['n_heads']}) must be divisible by `n_kv_heads` ({c['n_kv_heads']})"
        )
    if c["positions"] == "rotary" and c["d_head"] % 2:
        raise UsageError(f"rotary positions need an even `d_head`, not {c['d_head']}")
    inner = c["n_heads"] * c["d_value"]
    if not c["attention_output"] and inner != c["d_model"]:
        raise UsageError(
            f"without an output projection `n_heads` x `d_value` ({inner}) must be `d_model` "
            f"({c['d_model']})"
        )
    if not c["attention_output"] and c["n_kv_heads"] != c["n_heads"]:
        raise UsageError(
            f"without an output projection each of `n_heads` ({c['n_heads']}) has its own values, "
            f"`n_kv_heads` is {c['n_kv_heads']}"
        )
    if c["tied_head"] and c["d_hidden"]:
        raise UsageError("`tied_head` and `d_hidden` exclude each other")
    if c["tied_head"] and c["vocab_size"] is None:
        raise UsageError("`tied_head` scores symbols, the data hold numbers", "leave it out")
    if c["tied_head"] and c["n_outputs"] > c["vocab_size"]:
        raise UsageError(
            f"a tied head has {c['vocab_size']} rows, the task needs {c['n_outputs']} classes"
        )
    for name in ("dropout", "dropout_attention", "dropout_hidden"):
        if not 0 <= c[name] < 1:
            raise UsageError(f"`{name}` is {c[name]}, it must be at least 0 and below 1")
    if c["norm_eps"] <= 0:
        raise UsageError(f"`norm_eps` is {c['norm_eps']}, it must be above 0")


ENTRY: Architecture = _Entry()
