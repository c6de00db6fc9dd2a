"""Starts several workers of trainers.train on this machine and stops all if one fails.

    python -m trainers.launch --num_workers=2 -- --flagfile=flags/experiments/ring.flags --model_dir=runs/ring

Every worker gets the arguments after `--`. Their output is in worker_<i>.log under --log_dir, by default logs/ in the
workers' --model_dir. The chief's output is printed too.

If TF_CONFIG names a cluster, it starts this machine's task of it and prints its output. With --max_restarts on every
machine, a job comes back by itself after a worker was lost: all start again and resume from the last checkpoint.

In a job of Kubernetes or Slurm, --cluster makes TF_CONFIG from the variables of the job; see docs/clusters.md.
"""

import pathlib
import sys

from absl import flags

from dqgan_tf.distribute import tf_config
from dqgan_tf.training import command, launcher

_NUM_WORKERS = flags.DEFINE_integer(
    "num_workers",
    None,
    "Worker processes on this machine, 2 by default. Not with a TF_CONFIG that names a cluster.",
    lower_bound=1,
    upper_bound=256,
)
_CLUSTER = flags.DEFINE_enum(
    "cluster",
    None,
    sorted(tf_config.SCHEDULERS),
    "The scheduler whose variables describe the cluster, for one worker of it; without the flag TF_CONFIG does.",
)
_MAX_RESTARTS = flags.DEFINE_integer(
    "max_restarts",
    0,
    "Number of times that all workers start again after one failed; each resumes from the last checkpoint.",
    lower_bound=0,
)
_EVALUATOR = flags.DEFINE_boolean(
    "evaluator",
    False,
    "Also start an evaluator, which computes the figures of trainers.evaluate of every checkpoint; its output is in "
    "evaluator.log. Not with a TF_CONFIG that names a cluster.",
)
# Replaces absl's flag of that name.
_LOG_DIR = command.define_path(
    "log_dir", "Folder of worker_<i>.log. Default: logs/ in the workers' --model_dir.", allow_override=True
)


def main(arguments):
    scheduler, workers = _CLUSTER.value, arguments[1:]
    name = launcher.name_in_cluster(_NUM_WORKERS.value, _EVALUATOR.value, scheduler)
    return launcher.Launcher(
        launcher.LaunchConfig(
            command=(sys.executable, "-m", "dqgan_tf.commands", "train", *workers),
            num_workers=(_NUM_WORKERS.value or 2) if name is None else 1,
            log_dir=pathlib.Path(_LOG_DIR.value or launcher.log_dir_of(workers)),
            max_restarts=_MAX_RESTARTS.value,
            name_in_cluster=name,
            evaluator=_EVALUATOR.value,
        )
    ).run()


if __name__ == "__main__":
    command.run(main, has_dashes=True)
