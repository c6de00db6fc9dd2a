"""Trains a GAN by DQGAN: one worker, or one of many under TF_CONFIG.

    python -m trainers.train --model_dir=runs/ring --dataset=gaussian_ring --steps=4000
    python -m trainers.train --flagfile=flags/experiments/ring.flags --model_dir=runs/ring

The same command over an unfinished --model_dir resumes it.
"""

import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before TensorFlow: its start-up notices are not the run's

from absl import app

from flags import run as run_flags


def main(argv):
    if len(argv) > 1:
        app.usage(shorthelp=True, writeto_stdout=False, detailed_error=f"Unexpected argument {argv[1]!r}.", exitcode=2)
    config = run_flags.run_config()

    from dqgan_tf.training import errors, run

    try:
        code = run.run(config)
    except (errors.UsageError, ValueError) as error:
        code = _fail(error, errors.EXIT_USAGE)
    except (errors.TrainingError, errors.PeerLostError) as error:
        code = _fail(error, error.exit_code)
    sys.stdout.flush()
    os._exit(code) if code else sys.exit(0)


def _fail(error, code):
    print(f"ERROR: {error}", file=sys.stderr, flush=True)
    return code


if __name__ == "__main__":
    app.run(main)
