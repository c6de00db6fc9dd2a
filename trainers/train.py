"""Trains a GAN by DQGAN: a single worker, or one of the workers of TF_CONFIG.

    python -m trainers.train --model_dir=runs/ring --dataset=gaussian_ring --steps=4000
    python -m trainers.train --flagfile=flags/experiments/ring.flags --model_dir=runs/ring

If --model_dir holds an unfinished run, the command resumes it.
"""

import os
import signal

from dqgan_tf.distribute import tf_config
from dqgan_tf.training import command
from flags import run as run_flags

_EVALUATOR_NICENESS = 10  # of a core that it shares with a worker, it gets a tenth


def main(arguments):
    del arguments
    # Until `StopSignal` catches it, Ctrl-C ends the process immediately, without a traceback: there is nothing to save.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    config = run_flags.run_config()
    if tf_config.is_evaluator(os.environ):
        os.nice(_EVALUATOR_NICENESS)  # before TensorFlow starts threads, which inherit it

    command.load_tensorflow()
    from dqgan_tf.training import run

    return run.run(config)


if __name__ == "__main__":
    command.run(main, exits_at_once=True)
