"""Trains a GAN by DQGAN: one worker, or one of many under TF_CONFIG.

    python -m trainers.train --model_dir=runs/ring --dataset=gaussian_ring --steps=4000
    python -m trainers.train --flagfile=flags/experiments/ring.flags --model_dir=runs/ring

The same command over an unfinished --model_dir resumes it.
"""

import os
import signal

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before TensorFlow: its start-up notices are not the run's

from absl import app

from flags import run as run_flags


def main(argv):
    del argv
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until the run listens for it: nothing is lost, and no traceback
    config = run_flags.run_config()

    from dqgan_tf.training import command, run

    with command.errors_in_one_line():
        code = run.run(config)
    command.leave(code)


if __name__ == "__main__":
    app.run(main, flags_parser=run_flags.parse)
