"""Trains a GAN on a cluster of Ray: Ray Train places the workers, sets TF_CONFIG and starts all again if one fails.

    python -m trainers.ray_train --num_workers=4 --max_restarts=5 -- --flagfile=flags/experiments/ring.flags \\
        --model_dir=/shared/runs/ring

Every worker runs trainers.train with the arguments after `--`, from the folder of this command, which must be on every
machine. --model_dir must be a folder that all machines share. Needs the extra `ray`.
"""

import os
import secrets
import subprocess
import sys

from absl import flags

from dqgan_tf.distribute import tf_config
from dqgan_tf.errors import EXIT_TRAINING, EXIT_USAGE, PeerLostError, UsageError
from dqgan_tf.training import command, launcher

_NUM_WORKERS = flags.DEFINE_integer("num_workers", 2, "Number of workers, on any machines.", lower_bound=1)
_CPUS = flags.DEFINE_integer("cpus_per_worker", 1, "CPUs that Ray reserves for a worker; its threads.", lower_bound=1)
_GPUS = flags.DEFINE_integer("gpus_per_worker", 0, "GPUs that Ray reserves for a worker.", lower_bound=0)
_MAX_RESTARTS = flags.DEFINE_integer(
    "max_restarts",
    0,
    "Number of times that all workers start again after one failed; each resumes from the last checkpoint.",
    lower_bound=0,
)


def run_worker(job):
    """Runs in each worker of Ray. Returns the exit code of the trainer if another start would not change it.

    The trainer is a process of its own: it needs the main thread for its signals, and ends by os._exit.

    Raises:
      RuntimeError: another exit code. Ray Train then starts all workers again.
    """
    if not os.path.isdir(job["folder"]):
        raise RuntimeError(f"{job['folder']}, the folder of trainers.ray_train, is not on this machine.")
    threads = dict.fromkeys(("TF_NUM_INTRAOP_THREADS", "OMP_NUM_THREADS"), str(job["cpus"]))
    environment = launcher.worker_environment([], 0) | threads | {tf_config.SECRET: job["secret"]}
    environment.pop("TF_USE_LEGACY_KERAS", None)  # Ray's backend sets it; it would make tf.keras the Keras of 2023
    trainer = subprocess.Popen(
        [sys.executable, "-m", "dqgan_tf.commands", "train", *job["arguments"]],
        cwd=job["folder"],
        env=environment,
        preexec_fn=launcher.die_with_parent,  # Ray kills a worker whose peers have failed
    )
    code = trainer.wait()
    if code not in (0, EXIT_USAGE, EXIT_TRAINING):
        raise RuntimeError(
            f"trainers.train {f'exited with code {code}' if code > 0 else f'was killed by signal {-code}'}."
        )
    return code


def main(arguments):
    model_dir = launcher.log_dir_of(arguments[1:]).parent
    try:
        from ray import cloudpickle, train
    except ImportError as error:
        raise UsageError(f"trainers.ray_train needs Ray: pip install '.[ray]' ({error}).") from None
    command.load_tensorflow()  # without its lines; the next import would load it, too
    from ray.train.tensorflow import TensorflowTrainer, config

    # Ray's workers import the modules of classes that they get by name, here TensorFlow with its lines (Ray 2.60).
    cloudpickle.register_pickle_by_value(config)
    resources = {"CPU": _CPUS.value} | ({"GPU": _GPUS.value} if _GPUS.value else {})
    trainer = TensorflowTrainer(
        run_worker,
        train_loop_config={
            "arguments": arguments[1:],
            "folder": os.getcwd(),
            "cpus": _CPUS.value,
            "secret": tf_config.secret(os.environ) or secrets.token_hex(32),
        },
        scaling_config=train.ScalingConfig(
            num_workers=_NUM_WORKERS.value, use_gpu=bool(_GPUS.value), resources_per_worker=resources
        ),
        run_config=train.RunConfig(
            storage_path=os.path.abspath(model_dir / "ray"),
            failure_config=train.FailureConfig(max_failures=_MAX_RESTARTS.value),
        ),
    )
    try:
        return trainer.fit().return_value
    except train.TrainingFailedError as error:
        failures = getattr(error, "worker_failures", {}) or {"": error}  # the first are by rank, each a whole traceback
        texts = [f"worker {rank}: {str(failure).strip().splitlines()[-1]}" for rank, failure in failures.items()]
        raise PeerLostError(f"Ray Train gave up after {_MAX_RESTARTS.value} restarts. {' '.join(texts)}") from None


if __name__ == "__main__":
    command.run(main, has_dashes=True)
