"""The benchmark as a command: what a user gives becomes a plan, what fails one line and exit code 2."""

import contextlib
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence

from absl import logging

from dqgan_tf.benchmarking import rates, report, run, torch_baselines, variants
from dqgan_tf.benchmarking.table import table

EXIT_USAGE = 2


@contextlib.contextmanager
def errors_in_one_line() -> Iterator[None]:
    """Turns what is the user's or the machine's to mend into a line on stderr and exit code 2.

    SIGTERM unwinds the stack as Ctrl-C does: network namespaces and workers outlive nobody.
    """
    logging.set_verbosity(logging.WARNING)
    previous = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        yield
    except subprocess.CalledProcessError as error:
        _leave(f"{' '.join(error.cmd)} failed: {' '.join((error.stderr or '').split())}")
    except (ValueError, ImportError, OSError, RuntimeError) as error:
        _leave(str(error))
    finally:
        signal.signal(signal.SIGTERM, previous)


def plan(
    names: Sequence[str] | None,
    num_workers: int,
    rounds: int,
    rate: str,
    profile: str | None = None,
    *,
    whole_step: bool,
) -> run.Plan:
    """Returns what is to be measured; without names the default variants, and PyTorch's where torch is installed.

    Raises:
      ValueError: the rate cannot be read.
    """
    rates.bits_per_second(rate)
    torch = () if whole_step else torch_baselines.available()
    return run.Plan(tuple(dict.fromkeys(names or (*variants.DEFAULT, *torch))), num_workers, rounds, rate, profile)


def recorded(entries: list[dict], said: str, output: str | None) -> str:
    """Appends the entries with the command line `said` to `output`, if it is given; returns their table."""
    if output:
        report.append(output, [entry | {"command": said} for entry in entries])
    return table(entries)


def make_report(path: str, folder: str | None) -> str:
    """Returns the tables of recorded runs, and writes them and the figures where `folder` is given.

    Raises:
      As `report.read` and `report.write`.
    """
    entries = report.read(path)
    return report.write(entries, folder) if folder else table(entries)


def say(text: str) -> None:
    """Shows progress, beside the output."""
    print(text, file=sys.stderr, flush=True)


def _leave(text):
    print(f"ERROR: {text}", file=sys.stderr, flush=True)
    raise SystemExit(EXIT_USAGE)
