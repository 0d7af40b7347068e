"""A looped transformer: a few blocks applied again and again to their own output.

z_0 = 0 and z_{t+1} = norm(blocks(z_t + e)), with e the embedded input and its positions, given to
every loop (Yang et al., 2023, arXiv:2311.12424; Giannou et al., 2023, arXiv:2301.13196). The head
scores every z. Training takes the mean loss of the last `loss_loops` loops; those before them leave
no activations and no gradient. With one loop it is the `gpt` of the same tensors; so it is with the
injection `none`, where z_0 = e, blocks that are `untied` and no `loop_norm`, unless attention
passes something from layer to layer, which each loop begins anew.

`registers` stand before the input, as in Darcet et al. (2023, arXiv:2309.16588). Every position may
read them, but under a causal mask they read one another alone: what they carry from loop to loop is
then the same for every input, and a memory of it only without that mask.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from random import Random
from types import SimpleNamespace
from typing import Any

import torch
from jaxtyping import Float, Num
from torch import Tensor, nn

from xtool import registry
from xtool.archs import After, Architecture, Between
from xtool.archs.gpt import ENTRY as GPT
from xtool.archs.gpt import Gpt
from xtool.errors import UsageError
from xtool.layers.loops import Difference, Inject
from xtool.seeds import derive
from xtool.tasks import Shape

LIKE = "gpt"
OPTIONS = [
    ("n_layers", "int", 1, "blocks of a loop"),
    ("n_loops", "int", 12, "loops"),
    ("loops_from", "int", None, "fewest loops in training, see `loops_by`; n_loops unless given"),
    ("loops_by", "ramp|random", "ramp", "from the fewest to n_loops: in turn, or drawn each step"),
    ("loops_every", "int", 500, "steps after which a ramp adds a loop"),
    ("loss_loops", "int", None, "last loops that the loss is of; all unless given"),
    ("injection", "add|scaled|gated|concat|none", "add", "how the input joins the state in a loop"),
    ("loop_norm", "bool", True, "norm the state after every loop, not only before the head"),
    ("untied", "bool", False, "each loop has blocks of its own, a part of n_layers"),
    ("loop_rank", "int", 0, "rank of what each loop adds to the matrices that all share; 0: none"),
    ("registers", "int", 0, "learned vectors before the input, with a state and no output"),
    ("state_noise", "float", 0.0, "standard deviation of noise on the state in training"),
]
TASK = "regression"
CACHED = False
TUNABLE = ["n_loops", "loops_from", "loops_by", "loops_every", "loss_loops", "state_noise"]
LATER = ["untied", "registers", "state_noise", "loop_rank"]
LOW_RANK = "loop_rank"
MAX_REGISTERS = 1 << 12
AXES = {
    "registers": ("registers", "d_model"),
    "inject.scale": ("=1",),
    "inject.state.weight": ("d_model", "<d_model"),
    "inject.input.weight": ("d_model", "<d_model"),
    "inject.input.bias": ("d_model",),
}
INEXACT = [
    (
        "n_layers",
        ["untied=true"],
        "blocks after the last would be one loop's alone, and another's place",
    ),
    (
        "d_model",
        ["method=pad", "norm=layernorm", "loop_norm=true"],
        "the norm after each loop does not leave the new units at the old ones' mean",
    ),
    (
        "d_model",
        ["method=pad", "norm=layernorm", "injection=gated|concat"],
        "the injection reads the state and the input without a norm",
    ),
    (
        "d_model",
        ["method=clone|split", "tied_head=true", "loop_norm=true"],
        "a tied head is scaled by the norm before it, which the loops go through too",
    ),
]
MAX_LOOPS, MAX_DIFFERENT = 1 << 16, 1 << 10
PRESETS = {
    # The released runs of Leiay/looped_transformer (2023), and the grid of the follow-up study.
    "yang-linear": {
        "d_model": 256,
        "n_heads": 8,
        "bias": "all",
        "n_loops": 20,
        "loss_loops": 15,
        "loops_from": 15,
        "batch_size": 64,
        "lr": 1e-4,
    },
    "yang-sparse": {
        "d_model": 256,
        "n_heads": 8,
        "bias": "all",
        "n_loops": 20,
        "loss_loops": 10,
        "loops_from": 10,
        "batch_size": 64,
        "lr": 1e-4,
    },
    "yang-tree": {
        "d_model": 256,
        "n_heads": 8,
        "bias": "all",
        "n_loops": 70,
        "loss_loops": 15,
        "loops_from": 15,
        "batch_size": 64,
        "lr": 1e-4,
    },
    "yang-relu": {
        "d_model": 256,
        "n_heads": 8,
        "bias": "all",
        "n_loops": 12,
        "loss_loops": 5,
        "loops_from": 5,
        "batch_size": 64,
        "lr": 1e-4,
    },
    "seed-d10": {
        "d_model": 256,
        "n_heads": 4,
        "bias": "all",
        "n_loops": 20,
        "loss_loops": 10,
        "batch_size": 64,
        "steps": 20000,
        "lr": 1e-4,
    },
}


def loops_of(config: Mapping[str, Any], name: str) -> int:
    """The loops that a dial says, which are all unless given."""
    return int(config["n_loops"] if config[name] is None else config[name])


class Looped(Gpt):
    """The model; see the module.

    Attributes:
        loops: how many to run unless told otherwise.
        trained: how many this step of training has.
    """

    def __init__(self, c: SimpleNamespace) -> None:
        super().__init__(c)
        self.inject = Inject(c.injection, c.d_model)
        self.loops = c.n_loops
        self.fewest, self.last = (loops_of(vars(c), n) for n in ("loops_from", "loss_loops"))
        self.by, self.every = c.loops_by, c.loops_every
        self.loop_norm, self.d_model = c.loop_norm, c.d_model
        self.each = c.n_layers // c.n_loops if getattr(c, "untied", False) else c.n_layers
        self.rank = int(getattr(c, "loop_rank", 0))
        for block in self.blocks if self.rank else []:
            block.loops = nn.ModuleList(Difference(block, self.rank) for _ in range(c.n_loops))
        self.count = int(getattr(c, "registers", 0))
        self.registers: nn.Parameter | None = None
        if self.count:
            self.registers = nn.Parameter(torch.empty(self.count, c.d_model))
        self.turn: Callable[..., Tensor] = self._turn
        self.noise = float(getattr(c, "state_noise", 0.0))
        self.at_step(0)

    def stages(self) -> Sequence[tuple[str, nn.Module]]:
        """All at once: every loop needs the input again."""
        return [("", self)]

    def forward(self, inputs: Num[Tensor, "B T *d"]) -> Float[Tensor, "*S B T C"]:
        """Logits after the last loop; in training those of the loops that the loss is of."""
        if not self.training:
            *_, last = self.states(self.read(inputs), self.loops)
            return self._scored(last)
        loops = self.trained
        e, z = self.read(inputs), None
        silent = loops - min(self.last, loops)
        with torch.no_grad():
            for state in self.states(e, silent):
                z = state
        found = self.states(e, loops, z, first=silent)
        if self.head.n_outputs < self.d_model:  # what is stacked is copied: the smaller of the two
            return torch.stack([self._scored(state) for state in found])
        return self._scored(torch.stack(list(found)))

    def every_loop(
        self, inputs: Num[Tensor, "B T *d"], loops: int, between: Between | None = None
    ) -> Iterator[After]:
        """The logits and the state after each of so many loops, in one pass."""
        for z in self.states(self.read(inputs), loops, between=between):
            yield After(self._scored(z), z)

    def begin(self, inputs: Num[Tensor, "B T *d"], between: Between | None = None) -> After | None:
        """The embedded input, where it is not injected later."""
        if not self.inject.nothing:
            return None
        e = self.read(inputs)
        e = between.at("input", e, self.count) if between else e
        return After(self._scored(e), e)

    def read(self, inputs: Num[Tensor, "B T *d"]) -> Float[Tensor, "B RT D"]:
        """The embedded input, behind the registers."""
        e: Tensor = self.embed(inputs)
        if self.registers is None:
            return e
        return torch.cat([self.registers.to(e.dtype).expand(len(e), -1, -1), e], 1)

    def states(
        self,
        e: Float[Tensor, "B T D"],
        loops: int,
        z: Float[Tensor, "B T D"] | None = None,
        first: int = 0,
        between: Between | None = None,
    ) -> Iterator[Float[Tensor, "B T D"]]:
        """The state after each loop from `first` on, from z, or from the start."""
        if between:
            e = between.at("input", e, self.count)
        if z is None:
            z = e if self.inject.nothing else torch.zeros_like(e)
        noise = between.noise if between else self.noise * self.training
        drawn = torch.Generator(e.device).manual_seed(between.seed) if between else None
        for loop in range(first, loops):
            if loop and noise:
                z = z + noise * _normal(z, drawn)
            if between:
                z = between.at("state", z, self.count)
            # What is each loop's own begins again after the last one.
            own = loop % self.loops if self.rank else 0
            z = self.turn(z, e, loop * self.each % len(self.blocks), own)
            yield z

    def _turn(
        self, z: Float[Tensor, "B T D"], e: Float[Tensor, "B T D"], first: int, own: int
    ) -> Float[Tensor, "B T D"]:
        """One loop, with its blocks from the first one on and its own differences."""
        x = self.inject(z, e)
        for block in self.blocks[first : first + self.each]:
            x = block.get_submodule(f"loops.{own}")(block, x) if self.rank else block(x)
        x = x[..., : self.d_model]
        out: Tensor = self.head.norm(x) if self.loop_norm else x
        return out

    def compile_part(self, compiler: Callable[..., Any]) -> bool:
        """Compile one loop, which serves any number of them; not if each has values of its own."""
        if self.each == len(self.blocks) and not self.rank:
            self.turn = compiler(self._turn)
            return True
        return False

    def at_step(self, step: int) -> None:
        """How many loops it has: by a ramp, or drawn by the step alone.

        So all models of a file, and all seeds, have as many at a step.
        """
        if self.by == "random":
            self.trained = Random(derive(step, "loops")).randint(self.fewest, self.loops)
        else:
            self.trained = int(min(self.loops, self.fewest + step // self.every))

    def _scored(self, z: Float[Tensor, "*S B RT D"]) -> Float[Tensor, "*S B T C"]:
        z = z[..., self.count :, :]
        return self.head.scored(z if self.loop_norm else self.head.norm(z))


def _difference_size(config: Mapping[str, Any]) -> int:
    """Values that one loop has of its own."""
    if not (rank := config.get("loop_rank", 0)):
        return 0
    with torch.device("meta"):
        blocks = Gpt(SimpleNamespace(**config)).blocks
        own = [Difference(block, rank) for block in blocks]
    return sum(values.numel() for one in own for values in one.parameters())


def _normal(like: Tensor, generator: torch.Generator | None) -> Tensor:
    """N(0, 1) in the shape of a tensor; without a generator each replica draws its own."""
    if generator is None:
        return torch.randn_like(like)
    return torch.empty_like(like).normal_(generator=generator)


class _Entry:
    def configure(self, dials: Mapping[str, Any], shape: Shape) -> dict[str, Any]:
        c = GPT.configure(dials, shape)
        if not 1 <= c["n_loops"] <= MAX_LOOPS:
            raise UsageError(f"`n_loops` is {c['n_loops']}, it must be 1 to {MAX_LOOPS}")
        fewest, last = loops_of(c, "loops_from"), loops_of(c, "loss_loops")
        if not 1 <= fewest <= c["n_loops"]:
            raise UsageError(
                f"`loops_from` is {fewest}, it must be 1 to `n_loops` ({c['n_loops']})",
                "give both where either changes",
            )
        if c.get("untied") and c["n_layers"] % c["n_loops"]:
            raise UsageError(
                f"`n_layers` ({c['n_layers']}) must be divisible by `n_loops` ({c['n_loops']}): "
                "untied loops have as many blocks each"
            )
        if not 0 <= c.get("registers", 0) <= MAX_REGISTERS:
            raise UsageError(f"`registers` is {c['registers']}, it must be 0 to {MAX_REGISTERS}")
        tables = registry.literal("layers/attention", c["attention"], "AXES", {}).values()
        if c.get("registers") and any("context" in axes for axes in tables):
            raise UsageError(
                f"the attention variant `{c['attention']}` has values for each position, which "
                "`registers` are not",
                "leave out `--registers`, or take another variant",
            )
        if not 0 <= c.get("loop_rank", 0) <= c["d_model"]:
            raise UsageError(
                f"`loop_rank` is {c['loop_rank']}, it must be 0 to `d_model` ({c['d_model']})",
                "more is no low rank: `--untied` gives each loop its own blocks",
            )
        if c.get("loop_rank") and c["n_loops"] > MAX_DIFFERENT:
            raise UsageError(
                f"`loop_rank` is for at most {MAX_DIFFERENT} loops, `n_loops` is {c['n_loops']}",
                "leave it out: the loops share their blocks",
            )
        if c.get("loop_rank") and c.get("untied"):
            raise UsageError(
                "`loop_rank` is for loops that share blocks, `untied` ones do not", "leave one out"
            )
        if c.get("state_noise", 0.0) < 0:
            raise UsageError(f"`state_noise` is {c['state_noise']}, it must be 0 or more")
        for name, value in {"loss_loops": last, "loops_every": c["loops_every"]}.items():
            if value < 1:
                raise UsageError(f"`{name}` is {value}, it must be at least 1")
        return c

    def notes(self, config: Mapping[str, Any]) -> list[str]:
        """Where the loss has more loops than there are."""
        loops, last = config["n_loops"], loops_of(config, "loss_loops")
        if last <= loops:
            return []
        return [f"`loss_loops` {last} is above `n_loops` {loops}: the loss is of all {loops}"]

    def build(self, config: Mapping[str, Any]) -> nn.Module:
        return Looped(SimpleNamespace(**config))

    def flops(self, config: Mapping[str, Any]) -> int:
        """Of the loops, and of the head once."""
        loop, rest = self._parts(config)
        return int(config["n_loops"] * loop + rest)

    def training_costs(self, config: Mapping[str, Any]) -> list[tuple[int, int]]:
        """Every loop forward, those of the loss and their heads backward too.

        A ramp costs more with each loop; loops that are drawn count as their mean.
        """
        loop, rest = self._parts(config)
        read = 2 * config["context"] * config["d_model"] * (config.get("d_input") or 0)
        fewest, every = loops_of(config, "loops_from"), config["loops_every"]
        found = []
        for loops in range(fewest, config["n_loops"] + 1):
            last = min(loops_of(config, "loss_loops"), loops)
            cost = (loops + 2 * last) * loop + 3 * (last * (rest - read) + read)
            found.append(((loops - fewest) * every, int(cost)))
        if config["loops_by"] == "random":
            return [(0, sum(cost for _, cost in found) // len(found))]
        return found

    def _parts(self, config: Mapping[str, Any]) -> tuple[int, int]:
        """Of one loop, its difference as if applied to its input, and of what is outside them."""
        rest = GPT.flops({**config, "n_layers": 0})
        positions = config["context"] + config.get("registers", 0)
        inject = 4 * positions * config["d_model"] ** 2
        inject *= config["injection"] in ("gated", "concat")
        wide = {**config, "context": positions}
        blocks = GPT.flops(wide) - GPT.flops({**wide, "n_layers": 0})
        if config.get("untied"):
            blocks //= config["n_loops"]
        return blocks + inject + 2 * positions * _difference_size(config), rest


ENTRY: Architecture = _Entry()
