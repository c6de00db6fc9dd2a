"""Starts several workers of trainers.train on this machine and stops all if one fails.

    python -m trainers.launch --num_workers=2 -- --flagfile=flags/experiments/ring.flags --model_dir=runs/ring

Every worker gets the arguments after `--`. Their output is in worker_<i>.log under --log_dir, by default logs/ in the
workers' --model_dir. The chief's output is printed too.
"""

import pathlib
import sys

from absl import flags

from dqgan_tf.training import command, launcher

_NUM_WORKERS = flags.DEFINE_integer("num_workers", 2, "Worker processes.", lower_bound=1, upper_bound=256)
_MAX_RESTARTS = flags.DEFINE_integer(
    "max_restarts",
    0,
    "Number of times that all workers start again after one failed; each resumes from the last checkpoint.",
    lower_bound=0,
)
# Replaces absl's flag of that name.
_LOG_DIR = command.define_path(
    "log_dir", "Folder of worker_<i>.log. Default: logs/ in the workers' --model_dir.", allow_override=True
)


def main(arguments):
    workers = arguments[1:]
    return launcher.Launcher(
        launcher.LaunchConfig(
            command=(sys.executable, "-m", "dqgan_tf.commands", "train", *workers),
            num_workers=_NUM_WORKERS.value,
            log_dir=pathlib.Path(_LOG_DIR.value or launcher.log_dir_of(workers)),
            max_restarts=_MAX_RESTARTS.value,
        )
    ).run()


if __name__ == "__main__":
    command.run(main, has_dashes=True)
