"""Trains a GAN by DQGAN: one worker, or one of many under TF_CONFIG.

    python -m trainers.train --model_dir=runs/ring --dataset=gaussian_ring --steps=4000
    python -m trainers.train --flagfile=flags/experiments/ring.flags --model_dir=runs/ring

The same command over an unfinished --model_dir resumes it.
"""

import signal

from dqgan_tf.training import command
from flags import run as run_flags


def main(arguments):
    del arguments
    # Until the run listens for it, Ctrl-C ends the process at once: there is nothing to save and no traceback to show.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    config = run_flags.run_config()

    from dqgan_tf.training import run

    return run.run(config)


if __name__ == "__main__":
    command.run(main, exits_at_once=True)
