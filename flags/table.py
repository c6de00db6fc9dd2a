"""The table of all settings, made from the fields of `dqgan_tf.config`.

python -m flags.table > docs/settings.md
python -m flags.table compressor_rules start_step topology packet_mb transport     (the table of README.md)
"""

import dataclasses
import sys

from dqgan_tf.config import RunConfig, settings
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


def excerpt(*names: str) -> str:
    """Returns the table of some settings, without their sections, values and resume.

    Raises:
      KeyError: there is no such setting.
    """
    rows, fields = ["| flag | default | meaning |", "|---|---|---|"], {f.name: f for f in settings().values()}
    rows += [_row(f"`--{name}`", _default(fields[name]), fields[name].metadata["help"]) for name in names]
    return "\n".join([*rows, ""])


def _section(config_class):
    rows = [
        f"## `{config_class.__name__}`",
        "",
        "| flag | default | values | resume | meaning |",
        "|---|---|---|---|---|",
    ]
    for field in dataclasses.fields(config_class):
        if field.metadata:
            resume = "local" if field.metadata["is_local"] else "free" if field.metadata["may_change"] else ""
            cells = [_default(field), requirement(field), resume, field.metadata["help"]]
            rows.append(_row(f"`--{field.name}`", *cells))
    return "\n".join([*rows, ""])


def _default(field):
    return "" if field.default in (None, "") else f"`{field.default}`"


def _row(*cells):
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


if __name__ == "__main__":
    print(excerpt(*sys.argv[1:]) if sys.argv[1:] else render(), end="")
