"""Parses the command line of a binary, calls its main function and sets the exit code.

Errors that the user can correct are printed as one line. All binaries call `run`. docs/operations.md has the table of
exit codes.
"""

import argparse
import contextlib
import functools
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import NoReturn

from absl import app, flags, logging

from dqgan_tf import errors, tensorflow_texts

flags.disclaim_key_flags()  # a flag of `define_path` belongs to the file that calls it, in --help too


def run(main: Callable[[list[str]], int | None], *, has_dashes: bool = False, exits_at_once: bool = False) -> NoReturn:
    """Parses the command line, calls `main` and ends the process.

    `main` imports TensorFlow, the file of the binary does not. So --help and flag errors do not load TensorFlow.

    Args:
      main: takes the binary's name and the arguments after `--`; returns the exit code, or None for 0.
      has_dashes: arguments after `--` are allowed and not parsed.
      exits_at_once: exit without the interpreter's teardown. TensorFlow's waits for workers that are lost, and takes
        seconds in which other workers miss its heartbeat.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    app.run(
        functools.partial(_run_and_end, main, exits_at_once),
        flags_parser=functools.partial(parse, has_dashes=has_dashes),
    )


def run_parsed(
    main: Callable[[argparse.Namespace], int | None], parser: argparse.ArgumentParser, *, exits_at_once: bool = False
) -> NoReturn:
    """As `run` for a program that reads its options by argparse; `main` takes them.

    absl's flags are global: of two modules that define a flag of the same name, a process can import one. argparse has
    no such limit. A bad option ends with one line and exit code 2 too.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    raise SystemExit(_run_and_end(main, exits_at_once, parser.parse_args()))


def positive(text: str) -> int:
    """Returns the whole number of at least 1 in `text`: a type for argparse.

    Raises:
      ArgumentTypeError: there is none.
    """
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, such as 20. Received: {text}")
    return int(text)


def parse(arguments: Sequence[str], has_dashes: bool = False) -> list[str]:
    """Parses a command line; returns the binary's name and, with `has_dashes`, the arguments after `--`.

    An unknown flag, a bad value or an argument that is no flag ends the process with one line on stderr and
    `EXIT_USAGE`. absl's own parser would exit with 1, which the launcher treats as a crash. --help exits with 0.
    """
    arguments, unparsed = list(arguments), []
    if has_dashes and "--" in arguments:
        cut = arguments.index("--")
        arguments, unparsed = arguments[:cut], arguments[cut + 1 :]
    try:
        rest = flags.FLAGS(arguments)
    except flags.Error as error:
        raise SystemExit(_tell(f"{error} (see --helpshort)", errors.EXIT_USAGE)) from None
    except (SystemExit, BrokenPipeError):  # --help and similar flags, which exit with 1 in absl 2.5
        raise SystemExit(0) from None
    if len(rest) > 1:
        raise SystemExit(_tell(f"Unexpected argument {rest[1]!r}.", errors.EXIT_USAGE))
    return [*rest, *unparsed]


class PathParser(flags.ArgumentParser):
    """Reads a path and expands `~`, which a shell does not expand after `=`. All flags that are paths use it.

    A URL such as gs://bucket/run is refused: Python's own file functions would make a folder of that name.
    """

    syntactic_help = "a path; ~ is your home folder"

    def parse(self, argument):
        path = os.path.expanduser(argument)
        if path.startswith("~"):
            raise ValueError(f"there is no such user; for a folder of that name write ./{argument}")
        if "://" in path:
            raise ValueError("it is a URL; mount that storage and give the path of the folder, such as /mnt/bucket/run")
        return path


def define_path(name: str, help_text: str, default: str | None = None, **options) -> flags.FlagHolder:
    """Defines a flag whose value is a path; `options` are those of `absl.flags.DEFINE`."""
    return flags.DEFINE(PathParser(), name, default, help_text, serializer=flags.ArgumentSerializer(), **options)


def define_checkpoint() -> flags.FlagHolder:
    """Defines --checkpoint; `restore.find` reads its value."""
    return flags.DEFINE_string(
        "checkpoint", "newest", "Checkpoint of the run: newest, best (by the run's --best_figure), or a step."
    )


def load_tensorflow() -> None:
    """Imports TensorFlow and looks for its devices, without the lines of C++ that say nothing to the user.

    No log level silences them (TensorFlow 2.21). During this call a child process reads stderr and passes on all lines
    but `tensorflow_texts.HARMLESS`, also those of a process that is aborted here.
    """
    sys.stderr.flush()
    stderr = os.dup(2)
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        _pass_on(reading, writing)
    os.dup2(writing, 2)
    os.close(writing)
    os.close(reading)
    try:
        import tensorflow as tf

        tf.config.list_physical_devices()
    finally:
        os.dup2(stderr, 2)  # the child reads to the end and exits
        os.close(stderr)
        os.waitpid(child, 0)


def _pass_on(reading, writing):
    """The child of `load_tensorflow`."""
    try:
        for number in (signal.SIGINT, signal.SIGTERM):  # as of the whole process group: it ends with its parent
            signal.signal(number, signal.SIG_IGN)
        os.close(writing)
        with os.fdopen(reading, "rb") as lines:
            for line in lines:
                if not tensorflow_texts.HARMLESS.search(line.rstrip(b"\n")):
                    os.write(2, line)
    finally:
        os._exit(0)


def _run_and_end(main, exits_at_once, arguments):
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)  # of TensorFlow and Keras; a run prints its own lines
    try:
        code = main(arguments) or 0
    except (Exception, KeyboardInterrupt) as error:
        # In this block the error keeps the frames of `main` alive. After it they are freed, and with them a strategy,
        # whose end may wait for workers that are lost.
        return _end(_exit_code(error), exits_at_once)
    return _end(code, exits_at_once)


def _end(code, exits_at_once):
    """Flushes the output and returns `code`, or ends the process with it."""
    with contextlib.suppress(OSError):  # the reader of the output has exited, or the disk is full
        sys.stdout.flush()
        sys.stderr.flush()
    if exits_at_once:
        os._exit(code)
    return code


def _exit_code(error: Exception | KeyboardInterrupt) -> int:
    """Says what has happened; returns the exit code. Called where the error is handled."""
    if isinstance(error, errors.UsageError | errors.TrainingError | errors.PeerLostError):
        return _tell(error, error.exit_code)
    if isinstance(error, OSError):
        return _tell(error, errors.EXIT_TRAINING)
    if isinstance(error, KeyboardInterrupt):
        number = error.args[0] if error.args else signal.SIGINT
        return _tell(f"Interrupted by signal {int(number)}.", 128 + number)
    if tensorflow_texts.is_full_disk(error):
        return _tell(tensorflow_texts.first_line(error), errors.EXIT_TRAINING)
    with contextlib.suppress(OSError):
        traceback.print_exc()
    return errors.EXIT_FAULT


def _tell(error, code) -> int:
    """Prints an error as one line; returns `code`."""
    with contextlib.suppress(OSError):
        print("ERROR: " + " ".join(str(error).split()), file=sys.stderr, flush=True)
    return code
