"""The maps of `learned`: one for each factor that grows, from its old indices to its new ones."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod, sqrt

import torch
from jaxtyping import Float64
from torch import Tensor

from xtool.axes import RESIDUAL, Axis, Layout
from xtool.gather import prefix, repeat, tile
from xtool.seeds import derive
from xtool.surgery.operators import KEYS, Factor, Growth, multiplied, uneven

DATA_AXES = ("vocab", "context", "n_outputs")

# What a map serves, the factor, its old and its new size.
Key = tuple[str, str, int, int]
Values = Callable[[Key], Tensor]


def copies(old: Layout, new: Layout) -> bool:
    """Whether the growth is by whole factors, where copies are exact; see `clone`."""
    return not (uneven(old, new) or multiplied(old, new))


@dataclass(frozen=True)
class Maps:
    """The maps of one growth: where they start, and what the fit adds.

    Attributes:
        growth: the growth.
        names: the tensors of the grown model.
        changes: key -> (new, old) float32, what is fitted.
    """

    growth: Growth
    names: list[str]
    changes: dict[Key, Tensor]

    @cached_property
    def _copies(self) -> bool:
        return copies(self.growth.old, self.growth.new)

    @cached_property
    def starts(self) -> dict[Key, Float64[Tensor, "new old"]]:
        """Every map and table of coefficients as it is before the fit."""
        keys = {key for name in self.names for axis in self._axes(name) for key in axis}
        keys |= {key for name in self.names if (key := self._depth(name))}
        return {key: self._start(key) for key in sorted(keys)}

    def fitted(self, key: Key) -> Float64[Tensor, "new old"]:
        """A map after the fit, float64."""
        return self.starts[key] + self.changes[key].detach().double()

    def sources(self, name: str) -> list[str]:
        """The old tensors that a new one is made of."""
        layer, depth = self.growth.new.layer(name), self._depth(name)
        if depth is None:
            return [self.growth.source(name)]
        return [name.replace(f".{layer}.", f".{old}.", 1) for old in range(depth[2])]

    def tensor(self, name: str, old: Mapping[str, Tensor], values: Values) -> Tensor:
        """A grown tensor.

        Args:
            name: which.
            old: the old tensors that it is made of.
            values: gives the map of a key, in the type of the old tensors.
        """
        sources, depth = self.sources(name), self._depth(name)
        out = old[sources[0]]
        if depth is not None:
            weights = values(depth)[self.growth.new.layer(name)]  # (old layers,)
            out = sum((w * old[s] for w, s in zip(weights, sources, strict=True)), 0 * out)
        for place, keys in enumerate(self._axes(name)):
            matrix = self._matrix(name, place, keys, values)
            if matrix is not None:
                out = matrix @ out if place == 0 else out @ matrix.T
        return out * self._constant(name)

    def flops(self) -> int:
        """Operations of making every grown tensor once."""
        total = 0
        for name in self.names:
            shape = list(self.growth.reader.shape(self.growth.source(name)))
            total += 2 * len(self.sources(name)) * prod(shape) if self._depth(name) else 0
            for place, keys in enumerate(self._axes(name)):
                if keys:
                    size = self.growth.new.shape(name)[place]
                    total += 2 * size * prod(shape)
                    shape[place] = size
        return total

    def _axes(self, name: str) -> list[list[Key]]:
        """For each axis of a tensor the maps of its factors that grow."""
        out = []
        for axis in self.growth.new.axes(name):
            factors = self.growth.factors(name, axis)
            out.append([self._key(name, axis, one) for one in factors if one.old != one.new])
        return out

    def _key(self, name: str, axis: Axis, factor: Factor) -> Key:
        product = self.growth.new.product(name)
        summed = product is not None and product[0] == factor.name
        kind: str = "reads" if summed else axis.role
        if kind == "scales" and name.endswith("bias"):
            kind = "shifts"
        return kind, str(factor.name), factor.old, factor.new

    def _depth(self, name: str) -> Key | None:
        """The coefficients of a layer's tensor, where the number of layers grows."""
        growth = self.growth
        if growth.new.layer(name) is None or growth.ratio("n_layers") == 1:
            return None
        role = "depth writes" if growth.writes_residual(name) else "depth"
        return role, "n_layers", growth.old.size("n_layers"), growth.new.size("n_layers")

    def _matrix(self, name: str, place: int, keys: list[Key], values: Values) -> Tensor | None:
        """The map of a whole axis: the Kronecker product over its factors."""
        if not keys:
            return None
        axis = self.growth.new.axes(name)[place]
        left, out = list(keys), torch.ones(1, 1)
        for factor in self.growth.factors(name, axis):
            grown = bool(left) and left[0][1] == str(factor.name)
            part = values(left.pop(0)) if grown else torch.eye(factor.new)
            out = torch.kron(out, part)
        return out

    def _constant(self, name: str) -> float:
        """What the exact start multiplies a tensor by beside its maps."""
        growth = self.growth
        out = growth.root(name)
        if self._copies:
            tied = any(name.startswith(tie.norm + ".") for tie in growth.new.ties)
            return out / growth.ratio(RESIDUAL) if tied else out
        gain = growth.new.axes(name)[0].role == "scales" and not name.endswith("bias")
        return out / sqrt(growth.ratio(RESIDUAL)) if gain and growth.normed else out

    def _start(self, key: Key) -> Float64[Tensor, "new old"]:
        kind, factor, old, new = key
        corner = _one_hot(prefix(old, new), old)
        if factor in DATA_AXES:
            return corner
        if factor == KEYS and self.growth.regroups:
            return _one_hot(repeat(old, new), old)
        if kind.startswith("depth"):
            if kind == "depth":
                corner[old:, -1] = 1
            return corner
        tiled = _one_hot(tile(old, new), old)
        if self._copies:
            return self._divided(key, tiled) if kind == "reads" else tiled
        if kind == "scales":
            return tiled
        stream = factor == RESIDUAL
        if kind == ("reads" if stream else "writes"):
            corner[old:] = self._drawn(key, new - old) / sqrt(old)
        elif stream and kind == "writes" and self.growth.old.config.get("norm") == "layernorm":
            corner[old:] = 1 / old
        return corner

    def _divided(self, key: Key, tiled: Tensor) -> Tensor:
        """The dual of whole copies; noise cancels between the copies of each pair."""
        _, _, old, new = key
        number = new // old
        if not self.growth.dials["noise"]:
            return tiled / number
        noise = self._drawn(key, number // 2 * old).view(-1, old, old) / sqrt(10 * old)
        for copy in range(number // 2 * 2):
            sign = 1 if copy % 2 == 0 else -1
            tiled[copy * old : (copy + 1) * old] += sign * noise[copy // 2]
        return tiled / number

    def _drawn(self, key: Key, rows: int) -> Tensor:
        generator = torch.Generator().manual_seed(derive(self.growth.seed, "maps", *key))
        return torch.randn(rows, key[2], generator=generator, dtype=torch.float64)


def _one_hot(found: Tensor, old: int) -> Float64[Tensor, "new {old}"]:
    """An index map as a matrix; a row of zeros where there is no old index."""
    return (found[:, None] == torch.arange(old)).double()
