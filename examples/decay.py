"""An architecture of one's own: each channel is a decaying sum of what was read before.

Use it without touching the package: `xtool train data.st --arch examples/decay.py`, and later
`xtool evaluate model.st --own examples/decay.py`. Growing and slicing follow from `AXES`.
"""

import torch
from torch import nn

OPTIONS = [("d_model", "int", 32, "channels")]
AXES = {
    "embedding.weight": ("vocab", "d_model"),
    "mixer.decay": ("=d_model",),
    "head.weight": ("n_outputs", "<d_model"),
    "head.bias": ("n_outputs",),
}
TASK = "counting"


class Mixer(nn.Module):
    """y[t] = sigmoid(decay) * y[t - 1] + x[t], (B, T, d_model) -> (B, T, d_model)."""

    def __init__(self, d_model):
        super().__init__()
        self.decay = nn.Parameter(torch.empty(d_model))

    def forward(self, x):
        steps = torch.arange(x.shape[1], device=x.device)
        apart = (steps[:, None] - steps[None, :])[..., None]  # (T, T, 1)
        log_decay = nn.functional.logsigmoid(self.decay)  # (d_model,)
        weights = (apart.clamp(min=0) * log_decay).exp() * (apart >= 0)  # (T, T, d_model)
        return torch.einsum("tsd,bsd->btd", weights, x)


class Decay(nn.Module):
    """(B, T) symbols -> (B, T, C) logits."""

    def __init__(self, config):
        super().__init__()
        self.embedding = nn.Embedding(config["vocab_size"], config["d_model"])
        self.mixer = Mixer(config["d_model"])
        self.head = nn.Linear(config["d_model"], config["n_outputs"])

    def stages(self):
        """The parts in turn, each with the prefix of its tensors' names."""
        return [("embedding.", self.embedding), ("mixer.", self.mixer), ("head.", self.head)]

    def forward(self, inputs):
        x = inputs.long()
        for _, stage in self.stages():
            x = stage(x)
        return x


class Architecture:
    """What the file ends with."""

    def configure(self, dials, shape):
        """All dials; none of them is derived from another."""
        return dict(dials) | vars(shape)

    def build(self, config):
        """A model whose values are filled in afterwards."""
        return Decay(config)

    def flops(self, config):
        """One forward pass over one example."""
        length, width = config["context"], config["d_model"]
        return 2 * length * width * (length + config["n_outputs"])


ENTRY = Architecture()
