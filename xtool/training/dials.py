"""The dials of training, the same for every task and architecture."""

from xtool.config import Option, from_rows

# What changes the result, and stands in the lineage.
RESULT = from_rows(
    [
        ("epochs", "float", 10.0, "passes over the training split"),
        ("steps", "int", None, "optimizer steps, instead of epochs; 0 writes the untrained model"),
        ("max_flops", "float", None, "stop at this many training FLOPs, counted over the lineage"),
        ("max_time", "float", None, "stop after this many seconds, as if the steps were done"),
        ("patience", "int", None, "stop after this many evaluations without a lower dev loss"),
        ("batch_size", "int", 64, "examples a step"),
        ("accumulate", "int", 1, "parts in which a step's examples are computed, to save memory"),
        ("optimizer", "@training/optimizers", "adamw", "how weights follow their gradients"),
        ("lr", "float", 1e-3, "learning rate at its highest"),
        ("schedule", "constant|cosine|linear|wsd", "cosine", "how the rate falls, to a tenth"),
        ("warmup", "int", 0, "steps over which the learning rate rises"),
        ("decay_part", "float", 0.2, "part of the steps over which `wsd` falls, at the end"),
        ("weight_decay", "float", 0.01, "on matrices; decoupled but for sgd"),
        ("beta1", "float", 0.9, "memory of the gradient: AdamW, Lion and sgd"),
        ("beta2", "float", 0.99, "AdamW's memory of its square, Lion's long memory"),
        ("adam_eps", "float", 1e-8, "AdamW's smallest divisor"),
        ("clip", "float", 0.0, "largest gradient norm; 0 does not clip"),
        ("categories", "text", None, "a file of token groups, which nested sizes learn for tokens"),
        (
            "emergent",
            "none|average|hdbscan|threshold",
            "none",
            "find the groups in the embedding instead; the file's are compared",
        ),
        ("every", "int", 250, "steps between two searches for groups"),
        ("groups", "int", None, "groups of average linkage; by their silhouette unless given"),
        ("ema", "float", 0.0, "memory of a running average of the weights, which is what is kept"),
        ("precision", "fp32|fp64|bf16", "fp32", "of the arithmetic; weights of bf16 are fp32"),
        (
            "route",
            "auto|torch+sdpa|torch+plain|onednn+sdpa|onednn+plain|torch+flex",
            "auto",
            "matrix library and attention kernel; flex for windows on a GPU",
        ),
        ("compile", "bool", False, "compile the model first, which takes a while"),
        ("seed", "int", 0, "of every random choice"),
        ("replicas", "int", 1, "models trained as one batch, with this seed and those after it"),
        ("parallel", "none|ddp|fsdp", "none", "what the processes of torchrun share"),
        ("device", "auto|cpu|cuda|mps", "auto", "where to compute"),
        ("threads", "int", None, "CPU threads; all cores unless given"),
    ]
)

# How long the examples are, where the data leave it to the model; it stands in the configuration.
CONTEXT = Option("context", "int", None, "positions an example, where the data are a running text")

# What only decides what is written, and when.
REPORT = from_rows(
    [
        ("eval_every", "int", None, "steps between evaluations; an epoch unless given"),
        ("save_every", "int", None, "steps between saves of the state; an evaluation unless given"),
        ("reach", "text", None, "METRIC=VALUE on dev: record when it was first reached"),
        ("watch", "bool", False, "rows of gradients, updates, rate, clipping and speed"),
        ("log", "none|tensorboard", "none", "another place for the rows: NAME.tensorboard"),
        ("keep_best", "bool", False, "also keep NAME.best.st, the lowest dev loss"),
        ("keep_state", "bool", False, "keep NAME.resume.st of the finished run"),
        ("label", "text", None, "names the run in rows; the output's name unless given"),
    ]
)
