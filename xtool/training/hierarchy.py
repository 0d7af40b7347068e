"""A hierarchy of tokens: each nested size of an embedding learns groups in place of tokens.

A size with groups should give every token of the target's group the same chance, so its loss is
the cross-entropy with the uniform distribution over the group, less its floor, the log of the
group's size (after evintunador/hierarchical_embeddings, 2024, which left the floor in). Groups are
imposed by a category file, or emerge: every so many steps they are found anew in the embedding,
until two groupings in a row agree.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from jaxtyping import Float, Int64
from numpy import ndarray
from torch import Tensor, nn

from xtool.analysis.grouping import agreement, clarity, grouped, require_groups
from xtool.archs import HEAD, Child, axes_of, label_of, sizes_of
from xtool.categories import Groups, read_categories
from xtool.dataset import Split
from xtool.errors import UsageError
from xtool.evaluation.score import together
from xtool.evaluation.sizes import groups_of, over_groups
from xtool.header import Header
from xtool.rows import Row, row
from xtool.tokenizers import texts_of

SETTLED = 0.95
EXAMPLES = 256  # of dev, for the loss of a level


def levels_of(config: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The nested widths of an embedding, by their number, each with what it changes.

    Raises:
        UsageError: another axis is nested, nothing is, or the embedding is not the head's.
    """
    axes = axes_of(config)
    if set(axes) not in ({"d_model"}, {HEAD}):
        raise UsageError(
            "a hierarchy of tokens needs nested widths of the embedding",
            "`--nest d_model=8,16`, or `--nest head=8,16`, and no other axis",
        )
    if not config["tied_head"]:
        raise UsageError(
            "a hierarchy of tokens is learned by the head, the embedding is another table",
            "add `--tied-head`",
        )
    if config["vocab_size"] != config["n_outputs"]:
        raise UsageError("a hierarchy of tokens needs a task whose classes are the tokens")
    (name,) = axes
    return {str(s.changes[name]): s.changes for s in sizes_of(config) if s.changes}


class Hierarchy:
    """The groups of a run, now.

    Args:
        config: of the model.
        dials: of the run: `categories`, `emergent`, `every`, `groups`.
        data: the header of the data, whose tokens are grouped.
        groups: by level, as they stand; changed in place.
        seen: how often each token stands in the training text.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        dials: Mapping[str, Any],
        data: Header,
        groups: Groups,
        seen: Int64[ndarray, " V"] | None = None,
    ) -> None:
        self.seen = seen
        self.config, self.dials, self.groups = config, dials, groups
        self.levels = levels_of(config)
        self.given: Groups = {}
        if dials["emergent"] != "none":
            require_groups(dials["groups"], int(config["vocab_size"]))
        if dials["categories"]:
            tokens = texts_of(data.tokenizer)
            self.given, _ = read_categories(Path(dials["categories"]), tokens)
            self._require_levels()
            if dials["emergent"] == "none":
                groups.update(self.given)

    def _require_levels(self) -> None:
        for level in self.given:
            if level not in self.levels:
                raise UsageError(
                    f"{self.dials['categories']}: level {level} is no nested size below the whole",
                    f"nested: {', '.join(self.levels)}; the whole model learns the tokens",
                )

    def of(self, changes: Mapping[str, Any]) -> list[int] | None:
        """The groups of a size; None where it learns tokens."""
        return groups_of(self.groups, changes)

    def due(self, step: int) -> bool:
        """Whether groups are to be found anew after a step."""
        search = self.dials["emergent"] != "none" and not self.settled
        return search and step > 0 and step % int(self.dials["every"]) == 0

    def regroup(self, model: nn.Module, base: Mapping[str, Any]) -> list[Row]:
        """Find groups anew, and whether they have settled; the rows that tell of it.

        Args:
            model: whose embedding is read.
            base: the columns of the rows.
        """
        emergent = self.dials["emergent"]
        rows, agreed = [], []
        for level in self.levels:
            table = self._table(model, level)
            found = grouped(table.numpy(), emergent, self.dials["groups"], self.seen)
            said = clarity(table.numpy(), found)
            if level in self.groups:
                said["group_agreement"] = agreement(self.groups[level], found)
                agreed.append(said["group_agreement"])
            rows += self._told(said, found, level, base)
            self.groups[level] = found
        if len(agreed) == len(self.levels) and min(agreed) >= SETTLED:
            self.groups[""] = []  # the mark that they have settled
        return rows

    @property
    def settled(self) -> bool:
        """Whether two groupings in a row agreed, which ends the search."""
        return "" in self.groups

    def clear(self, model: nn.Module, split: Split, base: Mapping[str, Any]) -> list[Row]:
        """Rows of how clear the groups of each level are now, and of its loss over its floor."""
        some = together(split, EXAMPLES)
        part = replace(split, inputs=split.inputs[:some], targets=split.targets[:some])
        rows = []
        model.eval()
        for level in self.levels:  # in one order, however the run came to its groups
            if groups := self.groups.get(level):
                said = clarity(self._table(model, level).numpy(), groups)
                child = Child(model, self.config, self.levels[level]).bind(contiguous=True)
                said["group_excess"] = float(over_groups(child, part, groups).mean())
                rows += self._told(said, groups, level, base)
        return rows

    def _told(
        self, said: dict[str, float], groups: Sequence[int], level: str, base: Mapping[str, Any]
    ) -> list[Row]:
        if level in self.given and self.dials["emergent"] != "none":
            said["category_agreement"] = agreement(self.given[level], groups)
        size = label_of(self.levels[level])
        return [row(metric=name, value=value, size=size, **base) for name, value in said.items()]

    @staticmethod
    def _table(model: nn.Module, level: str) -> Float[Tensor, "V d"]:
        weight = model.get_parameter("embed.weight").detach()
        return weight[:, : int(level)].double().cpu()
