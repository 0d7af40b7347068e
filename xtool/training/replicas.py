"""Replicas: R independent models, each with its own seed, computed as one batch.

The parameters of all stand on a leading axis, and `torch.func.vmap` runs the architecture over it,
whichever it is; the small matrix products of small models become R times fewer and larger ones.
Each replica sees the examples, the first values and, on the CPU, the dropout of the run made alone
with its seed, so the two differ only as sums in another order do.

One model is the case R = 1, without the axis and without vmap.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Num
from torch import Tensor, nn
from torch.func import vmap
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from xtool.archs import build
from xtool.layers.attention._kernel import masked, products
from xtool.training.nested import Nested
from xtool.training.parallel import whole


def stacked(models: Sequence[nn.Module]) -> nn.Module:
    """The first of several equal models, with the tensors of all on a leading axis, (R, ...)."""
    states = [dict(model.state_dict(keep_vars=True)) for model in models]
    whole, made = models[0], dict[Tensor, Tensor]()
    for prefix, module in whole.named_modules():
        place = f"{prefix}." if prefix else ""
        for held in (module._parameters, module._buffers):
            for name, tensor in held.items():
                if tensor is None:
                    continue
                if tensor not in made:
                    values = torch.stack([state[place + name].detach() for state in states])
                    made[tensor] = nn.Parameter(values) if tensor.requires_grad else values
                held[name] = made[tensor]
    return whole


class Replicas:
    """Runs one model, or several that share a stacked module.

    Args:
        model: as it is for one, stacked for several.
        config: of one model.
        count: how many there are.
        bf16: whether to round products to bfloat16.
    """

    def __init__(
        self, model: nn.Module, config: Mapping[str, Any], count: int, bf16: bool = False
    ) -> None:
        self.model, self.count, self.bf16 = model, count, bf16
        self.forward: Callable[..., Tensor] = model
        self.nested: Nested | None = None
        if config.get("nest"):
            self.forward = self.nested = Nested(model, config)
        self.device = next(model.parameters()).device
        self.generators = [torch.Generator(self.device) for _ in range(count)]
        self.places: list[tuple[dict[str, Any], str]] = [
            (held, name)
            for module in model.modules()
            for held in (module._parameters, module._buffers)
            for name, tensor in held.items()
            if tensor is not None
        ]
        self.pricing = any(hasattr(module, "penalty") for module in model.modules())
        self.each = [model] if count == 1 else list(_views(model, config, count))

    def seed(self, seeds: Sequence[int]) -> None:
        """Seed what the next forward pass draws, one seed a replica."""
        if self.device.type == "cpu":
            torch.default_generator.manual_seed(seeds[0])  # quicker: it alone is used here
        else:
            torch.manual_seed(seeds[0])
        for generator, seed in zip(self.generators, seeds, strict=True):
            generator.manual_seed(seed)

    def losses(
        self, loss: Callable[[Tensor, Tensor], Tensor], inputs: Tensor, targets: Tensor
    ) -> Float[Tensor, " R"]:
        """The mean loss of each replica on its own batch, (R, B, T) each -> (R,).

        Logits of several loops, (R, S, B, T, C), each have the targets; the loss is their mean. Of
        several sizes, (R, Z, ..., B, T, C), it is what `Nested.combined` makes of theirs.

        What modules add to their `penalty`, such as the cost of long windows in each loop, is in
        its gradient; its value is that of the loss alone.
        """
        for module in self._priced():
            module.penalty = torch.zeros(2, device=self.device)  # their sum and number
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            if self.count == 1:
                logits, price = self.forward(inputs[0])[None], self._price().view(1)
            else:
                logits, price = self._logits(inputs)
        if self.bf16:
            logits = logits.float()
        lead = logits.shape[:-3]  # (R,), (R, S), (R, Z) or (R, Z, S)
        one = targets.shape[1:]  # (B, T)
        targets = targets.view(lead[0], *[1] * (len(lead) - 1), *one).expand(*lead, *one)
        last = len(lead)
        found = loss(logits.flatten(0, last), targets.flatten(0, last))  # (R*S*B, T)
        if self.nested is None:
            mean = found.view(self.count, -1).mean(1)  # (R,)
        else:
            mean = self.nested.combined(logits, found.view(*lead, one[0], -1), targets)
        return mean + (price - price.detach()) if self.pricing else mean

    def _price(self) -> Float[Tensor, ""]:
        """The mean of what modules added to their penalties, which they are then rid of."""
        total = torch.zeros(2, device=self.device)
        for module in self._priced():
            total, module.penalty = total + module.penalty, None
        return total[0] / total[1].clamp(min=1)

    def _priced(self) -> list[Any]:
        """The modules that may ask for a penalty."""
        modules = (self.nested or self.model).modules() if self.pricing else ()
        return [module for module in modules if hasattr(module, "penalty")]

    def _logits(
        self, inputs: Num[Tensor, "R B T *d"]
    ) -> tuple[Float[Tensor, "R B T C"], Float[Tensor, " R"]]:
        """The logits of each replica, and what its modules ask for."""
        whole = [held[name] for held, name in self.places]

        def one(own: list[Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
            for (held, name), tensor in zip(self.places, own, strict=True):
                held[name] = tensor
            out: Tensor = self.forward(x)
            return out, self._price()

        # What `torch.func.functional_call` does too, which takes half as long as a small model.
        try:
            with _Batchable(self.generators), masked():
                logits, price = vmap(one, randomness="different")(whole, inputs)
                return logits, price
        finally:
            for (held, name), tensor in zip(self.places, whole, strict=True):
                held[name] = tensor

    @torch.no_grad()
    def clip(self, limit: float) -> Float[Tensor, " R"]:
        """Scale the gradient of each replica to a norm of at most `limit`; what the norms were."""
        if self.count == 1:
            norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), limit)
            return torch.stack([whole(norm)])
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        norms = self.norm(gradients)
        scale = (limit / (norms + 1e-6)).clamp(max=1)  # (R,)
        for gradient in gradients:
            gradient.mul_(scale.view(-1, *[1] * (gradient.ndim - 1)))
        return norms

    @torch.no_grad()
    def norm(self, tensors: Sequence[Tensor]) -> Float[Tensor, " R"]:
        """The norm over all tensors together, of each replica."""
        each = [one.reshape(self.count, -1) for one in tensors]
        norms = torch.stack([torch.linalg.vector_norm(one, dim=1) for one in each])
        whole: Tensor = torch.linalg.vector_norm(norms, dim=0)
        return whole


def _views(model: nn.Module, config: Mapping[str, Any], count: int) -> Iterator[nn.Module]:
    """Each replica as a model of its own, whose tensors are views of the stacked ones."""
    for replica in range(count):
        with torch.device("meta"):
            one = build(config)
        own = {name: tensor[replica].detach() for name, tensor in model.state_dict().items()}
        one.load_state_dict(own, assign=True)
        yield one


Draw = Callable[[Tensor, torch.Generator], Tensor]


class _Draws(torch.autograd.Function):
    """Random numbers in the shape of x; under vmap each replica draws its own."""

    @staticmethod
    def forward(x: Tensor, draw: Draw, generators: Sequence[torch.Generator]) -> Tensor:
        """As one model alone draws them."""
        return draw(torch.empty_like(x), generators[0])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """They do not depend on x."""
        ctx.mark_non_differentiable(output)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        """Nothing."""
        return None, None, None

    @staticmethod
    def vmap(
        info: Any,
        in_dims: tuple[int | None, ...],
        x: Tensor,
        draw: Draw,
        generators: Sequence[torch.Generator],
    ) -> tuple[Tensor, int]:
        """(R, ...) -> (R, ...), drawn replica by replica."""
        one = x if in_dims[0] is None else x.select(in_dims[0], 0)
        found = one.new_empty(len(generators), *one.shape)
        for part, own in zip(found.unbind(), generators, strict=True):
            draw(part, own)
        return found, 0


class _Batchable(TorchFunctionMode):
    """Gives vmap what it lacks: attention in plain products, dropout and noise with own seeds.

    And products of all examples of a replica at once: vmap would repeat a layer's weights for each
    example, and make as many gradients of them.
    """

    def __init__(self, generators: Sequence[torch.Generator]) -> None:
        super().__init__()
        self.generators = generators

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        """Replace the four, pass on the rest."""
        named = dict(kwargs or {})
        if func is F.scaled_dot_product_attention:
            return self._attention(*args, **named)
        if func is F.dropout:
            return self._dropout(*args, **named)
        if func is F.linear:
            return self._linear(*args, **named)
        if func is torch.randn_like and not named:
            return self._noise(*args, **named)
        return func(*args, **named)

    def _dropout(
        self, x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
    ) -> Tensor:
        if not training or p == 0:
            return x
        return x * self._drawn(x, lambda out, g: out.bernoulli_(1 - p, generator=g).div_(1 - p))

    def _noise(self, x: Tensor) -> Tensor:
        return self._drawn(x, lambda out, g: out.normal_(generator=g))

    def _drawn(self, x: Tensor, draw: Draw) -> Tensor:
        found: Tensor = _Draws.apply(x, draw, self.generators)  # type: ignore[no-untyped-call]
        return found

    def _linear(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        out = x.reshape(-1, x.shape[-1]) @ weight.T  # (B*T, n_out)
        out = out.view(*x.shape[:-1], -1)  # (B, T, n_out)
        return out if bias is None else out + bias

    def _attention(
        self,
        q: Float[Tensor, "B H T K"],
        k: Float[Tensor, "B G S K"],
        v: Float[Tensor, "B G S W"],
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Float[Tensor, "B H T W"]:
        return products(
            q,
            k,
            v,
            causal=is_causal,
            scale=q.shape[-1] ** -0.5 if scale is None else scale,
            dropout=dropout_p,
            mask=attn_mask,
            drop=self._dropout,
        )
