"""Help pages as plain text, options grouped by panel; drawing boxes would double the start-up."""

import re
from typing import TYPE_CHECKING

from typer.core import TyperCommand

if TYPE_CHECKING:
    from typer._click import Context, HelpFormatter

ORDER = (
    "Arguments", "Input", "Task", "Sizes", "Model", "Operator", "Race", "Training", "Common",
    "Output",
)  # fmt: skip


class GroupedCommand(TyperCommand):
    """A command whose help lists its options under the panel that each names."""

    def format_options(self, ctx: "Context", formatter: "HelpFormatter") -> None:
        """Write one section a panel: input, model, training, output, and the rest."""
        panels: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                record = (_plain_types(record[0]), record[1])
                plain = "Arguments" if parameter.param_type_name == "argument" else "Options"
                panel = getattr(parameter, "rich_help_panel", None) or plain
                panels.setdefault(panel, []).append(record)
        for name in sorted(panels, key=_place):
            with formatter.section(name):
                formatter.write_dl(panels[name], col_max=28)


def _plain_types(text: str) -> str:
    """`<list[Path]>` as `<path>`, `<int range>` as `<int>`: a value's type, not Python's."""
    text = re.sub(r"<(?:list\[)?(\w+)(?:\]| range)?>", lambda found: f"<{found[1].lower()}>", text)
    return text.replace("<Path,Path>...", "<path> <path>").replace("<str,str>...", "<text> <text>")


def _place(panel: str) -> int:
    word = panel.split()[0]
    return ORDER.index(word) if word in ORDER else len(ORDER)
