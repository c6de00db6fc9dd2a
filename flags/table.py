"""The table of all settings, made from the fields of `dqgan_tf.config`: `python -m flags.table > docs/settings.md`."""

import dataclasses

from dqgan_tf.config import RunConfig
from dqgan_tf.fields import requirement

_HEAD = """# Settings

Each setting is a field of a dataclass in `dqgan_tf/config.py` and a flag of `trainers.train`. Both refuse a bad value
by the same rule and, except for paths, with the same sentence. `python -m flags.table > docs/settings.md` makes this
file from the fields.

The column *resume* says what a resumed run may change (`free`; see `operations.md`) and what may also differ between
workers (`local`).
"""


def render() -> str:
    """Returns the table as Markdown, one section a group."""
    groups = [field.type for field in dataclasses.fields(RunConfig) if not field.metadata]
    return "\n".join([_HEAD, *map(_section, (RunConfig, *groups))])


def _section(config_class):
    rows = [
        f"## `{config_class.__name__}`",
        "",
        "| flag | default | values | resume | meaning |",
        "|---|---|---|---|---|",
    ]
    for field in dataclasses.fields(config_class):
        if field.metadata:
            default = "" if field.default in (None, "") else f"`{field.default}`"
            resume = "local" if field.metadata["is_local"] else "free" if field.metadata["may_change"] else ""
            cells = [f"`--{field.name}`", default, requirement(field), resume, field.metadata["help"]]
            rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join([*rows, ""])


if __name__ == "__main__":
    print(render(), end="")
