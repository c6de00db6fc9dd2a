"""Starts several workers of trainers.train on this machine and stops all when one fails.

    python -m trainers.launch --num_workers=2 -- --flagfile=flags/experiments/ring.flags --model_dir=runs/ring

What stands behind `--` goes to every worker. Their output is in worker_<i>.log under --log_dir, by default logs/ in the
workers' --model_dir; the chief's is on the screen too.
"""

import pathlib
import sys

from absl import app, flags

from dqgan_tf.training import command_line, launcher

_NUM_WORKERS = flags.DEFINE_integer("num_workers", 2, "Worker processes.", lower_bound=1, upper_bound=256)
_MAX_RESTARTS = flags.DEFINE_integer(
    "max_restarts",
    0,
    "How often all workers start again after one failed; each resumes from the last checkpoint.",
    lower_bound=0,
)


def main(argv):
    try:
        code = launcher.Launcher(_launch_config(argv[1:])).run()
    except (OSError, flags.Error) as error:
        command_line.refuse(str(error))
    raise SystemExit(code)


def _launch_config(arguments):
    model_dir = launcher.model_dir_of(arguments)
    log_dir = flags.FLAGS["log_dir"].value or (f"{model_dir}/logs" if model_dir else None)
    if log_dir is None:
        command_line.refuse("Give --model_dir=DIR behind --, or --log_dir=DIR before it.")
    return launcher.LaunchConfig(
        command=(sys.executable, "-m", "trainers.train", *arguments),
        num_workers=_NUM_WORKERS.value,
        log_dir=pathlib.Path(log_dir),
        max_restarts=_MAX_RESTARTS.value,
    )


if __name__ == "__main__":
    app.run(main, flags_parser=command_line.parse_before_dashes)
