"""An architecture whose every weight is stored transposed, (in, out), as some libraries do."""

import torch
from torch import nn
from torch.nn import functional as F

OPTIONS = [
    ("d_model", "int", 16, "width of the residual stream"),
    ("n_layers", "int", 2, "blocks"),
    ("n_heads", "int", 2, "attention heads"),
    ("d_head", "int", 8, "width of a head"),
    ("d_ff", "int", 24, "width of the feed-forward part"),
    ("norm", "none|layernorm|rmsnorm", "layernorm", "norm before each part"),
    ("norm_eps", "float", 1e-5, "what the norm adds to the variance"),
    ("score_scale", "d_head|none", "d_head", "scores are divided by the root of this"),
]
AXES = {
    "embed.weight": ("d_model", "vocab"),
    "blocks.{layer}.q": ("<d_model", "n_heads*d_head"),
    "blocks.{layer}.kv": ("<d_model", "2*n_heads*d_head"),
    "blocks.{layer}.o": ("<n_heads*d_head", "d_model"),
    "blocks.{layer}.up": ("<d_model", "d_ff"),
    "blocks.{layer}.down": ("<d_ff", "d_model"),
    "blocks.{layer}.*_norm": ("=d_model",),
    "head.norm": ("=d_model",),
    "head.weight": ("<d_model", "n_outputs"),
}
PRODUCTS = {"blocks.{layer}.q": ("d_head", "score_scale")}


def normalised(x, gain, config):
    if config["norm"] == "none":
        return x
    if config["norm"] == "rmsnorm":
        return F.rms_norm(x, gain.shape, gain, config["norm_eps"])
    return F.layer_norm(x, gain.shape, gain, None, config["norm_eps"])


class Part(nn.Module):
    def __init__(self, config, **shapes):
        super().__init__()
        self.config = config
        for name, shape in shapes.items():
            self.register_parameter(name, nn.Parameter(torch.empty(*shape)))


class Embed(Part):
    def forward(self, symbols):
        return F.embedding(symbols.long(), self.weight.T)  # (B, T, D)


class Block(Part):
    def forward(self, x):
        heads = self.config["n_heads"]
        y = normalised(x, self.attention_norm, self.config)
        q = (y @ self.q).unflatten(-1, (heads, -1)).transpose(1, 2)  # (B, H, T, K)
        k, v = (y @ self.kv).unflatten(-1, (2, heads, -1)).permute(2, 0, 3, 1, 4)  # (B, H, T, K)
        scale = q.shape[-1] ** -0.5 if self.config["score_scale"] == "d_head" else 1.0
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale)
        x = x + mixed.transpose(1, 2).flatten(2) @ self.o
        return x + torch.relu(normalised(x, self.mlp_norm, self.config) @ self.up) @ self.down


class Head(Part):
    def forward(self, x):
        return normalised(x, self.norm, self.config) @ self.weight  # (B, T, C)


class Transposed(nn.Module):
    def __init__(self, c):
        super().__init__()
        d, inner, gain = c["d_model"], c["n_heads"] * c["d_head"], (c["d_model"],)
        shapes = {"q": (d, inner), "kv": (d, 2 * inner), "o": (inner, d)}
        shapes |= {"up": (d, c["d_ff"]), "down": (c["d_ff"], d)}
        shapes |= {"attention_norm": gain, "mlp_norm": gain}
        self.embed = Embed(c, weight=(d, c["vocab_size"]))
        self.blocks = nn.ModuleList(Block(c, **shapes) for _ in range(c["n_layers"]))
        self.head = Head(c, norm=gain, weight=(d, c["n_outputs"]))

    def stages(self):
        blocks = [(f"blocks.{i}.", block) for i, block in enumerate(self.blocks)]
        return [("embed.", self.embed), *blocks, ("head.", self.head)]

    def forward(self, x):
        for _, stage in self.stages():
            x = stage(x)
        return x


class Architecture:
    def configure(self, dials, shape):
        return dict(dials) | vars(shape)

    def build(self, config):
        return Transposed(config)

    def flops(self, config):
        return 1


ENTRY = Architecture()
