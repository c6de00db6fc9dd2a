"""Defines one flag for each setting of `dqgan_tf.config`, e.g. --compressor, and reads the flags as a `RunConfig`."""

import sys

from absl import flags

from dqgan_tf import config, fields
from dqgan_tf.training import command

_READERS = {
    bool: flags.BooleanParser().parse,
    int: flags.IntegerParser().convert,
    float: flags.FloatParser().convert,
    str: str,
}


class SettingParser(flags.ArgumentParser):
    """Reads the text of a flag and checks the value by `fields.check`, as the dataclass of the setting does."""

    def __init__(self, field):
        self._field = field
        self._type, _ = fields.value_type(field)
        is_limited = self._type in (int, float) or field.metadata["choices"]
        self.syntactic_help = fields.requirement(field) if is_limited else ""

    def parse(self, argument):
        try:
            value = _READERS[self._type](argument)
        except (TypeError, ValueError):
            value = argument  # `check` refuses it
        return fields.check(self._field, value)

    def flag_type(self):
        return self._type.__name__


def run_config() -> config.RunConfig:
    """Returns the configuration that the parsed flags describe.

    A flag of the method that --algorithm names may be given, on the command line or in a flag file, with the method's
    value only.

    Raises:
      UsageError: a compressor or a rule that does not exist, or a flag that contradicts --algorithm.
    """
    values = {key: flags.FLAGS[field.name].value for key, field in config.settings().items()}
    for key, value in config.ALGORITHMS.get(values["algorithm"], {}).items():
        if flags.FLAGS[key.rpartition(".")[2]].present and values[key] != value:
            config.refuse_contradiction(values["algorithm"], key, values[key])
    return config.from_flat(values)


def _define(key, field):
    """Defines the flag of a setting. --help of the binary lists it; --helpfull lists it under its group."""
    is_required = key == "model_dir"
    flag = flags.Flag(
        command.PathParser() if field.metadata["is_path"] else SettingParser(field),
        flags.ArgumentSerializer(),
        field.name,
        None if is_required else field.default,
        field.metadata["help"],
        boolean=field.type is bool,
    )
    flags.DEFINE_flag(flag, module_name=f"settings of {key.rpartition('.')[0] or 'the run'}", required=is_required)
    flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)


for _key, _field in config.settings().items():
    _define(_key, _field)
