"""How a binary ends: the user's errors in one line and an exit code, the program's own with their traceback."""

import contextlib
import os
import signal
import sys
import traceback
from typing import NoReturn

from absl import flags, logging
from tensorflow import errors as tf_errors

from dqgan_tf.training import errors


@contextlib.contextmanager
def errors_in_one_line():
    """Turns what is the user's or the cluster's to mend into one line on stderr and an exit code.

    The process leaves at once then: TensorFlow's own shutdown would wait for the workers that are gone.
    """
    _quiet()
    try:
        yield
    except (errors.UsageError, ValueError) as error:
        _leave(error, errors.EXIT_USAGE)
    except (errors.TrainingError, errors.PeerLostError) as error:
        _leave(error, error.exit_code)
    except OSError as error:
        _leave(error, errors.EXIT_TRAINING)
    except tf_errors.ResourceExhaustedError as error:  # a full disk, told by TensorFlow's own file system
        _leave(errors.first_line(error), errors.EXIT_TRAINING)
    except KeyboardInterrupt as error:
        number = error.args[0] if error.args else signal.SIGINT
        _leave(f"Interrupted by signal {int(number)}.", 128 + number)
    except Exception:
        with contextlib.suppress(OSError):
            traceback.print_exc()
            sys.stderr.flush()
        os._exit(1)


def leave(code: int) -> NoReturn:
    """Ends the process at once: TensorFlow's own teardown takes seconds, in which the others miss its heartbeat."""
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def _quiet():
    """TensorFlow's own notices only where --verbosity asks for them: the run has its own lines."""
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)


def _leave(error, code):
    with contextlib.suppress(OSError):  # a log on the disk that is full
        print("ERROR: " + " ".join(str(error).split()), file=sys.stderr, flush=True)
        sys.stdout.flush()
    os._exit(code)
