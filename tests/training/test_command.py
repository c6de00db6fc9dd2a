"""How a binary ends: exit code, one line, and a traceback for the program's own faults alone."""

import io
import signal
import sys

import pytest
import tensorflow as tf
from absl import flags as absl_flags
from absl.testing import flagsaver

from dqgan_tf.training import command, command_line, errors
from dqgan_tf.training.stop_signal import StopSignal


@pytest.fixture
def end(monkeypatch):
    """Returns a function that ends with an error and returns the exit code."""

    def leave(code):
        raise SystemExit(code)

    def ended(error):
        with pytest.raises(SystemExit) as caught, flagsaver.as_parsed(), command.errors_in_one_line():
            raise error
        return caught.value.code

    monkeypatch.setattr(command.os, "_exit", leave)
    return ended


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (errors.UsageError("mend\n  it"), 2, "mend it"),
        (errors.CheckpointError("damaged"), 2, "damaged"),
        (ValueError("out of range"), 2, "out of range"),
        (errors.TrainingError("diverged"), 3, "diverged"),
        (OSError(28, "No space left on device"), 3, "[Errno 28] No space left on device"),
        (tf.errors.ResourceExhaustedError(None, None, "{{node x}} events; No space\nmore"), 3, "events; No space"),
        (errors.PeerLostError("worker 1"), 4, "worker 1"),
        (KeyboardInterrupt(), 130, "Interrupted by signal 2."),
        (KeyboardInterrupt(signal.SIGTERM), 143, "Interrupted by signal 15."),
    ],
)
def test_one_line_and_a_code(end, capsys, error, code, line):
    assert end(error) == code
    assert capsys.readouterr() == ("", f"ERROR: {line}\n")


@pytest.mark.parametrize("error", [tf.errors.InternalError(None, None, "XLA"), TypeError("ours"), AssertionError()])
def test_a_fault_of_the_program_shows_its_traceback(end, capsys, error):
    assert end(error) == 1
    text = capsys.readouterr().err
    assert text.startswith("Traceback") and type(error).__name__ in text and "ERROR: " not in text


def test_a_log_on_a_full_disk_changes_no_code(end, monkeypatch):
    class Full(io.StringIO):
        def write(self, text):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(sys, "stderr", Full())
    assert end(errors.TrainingError("full")) == 3


def test_a_second_signal_interrupts_and_says_which():
    with StopSignal() as stop:
        signal.raise_signal(signal.SIGTERM)
        assert stop.received == signal.SIGTERM
        with pytest.raises(KeyboardInterrupt) as caught:
            signal.raise_signal(signal.SIGINT)
    assert caught.value.args == (signal.SIGINT,)


@pytest.fixture
def own_flags(monkeypatch):
    """A binary's flags alone: those of others that this process has imported would want values too."""
    values = absl_flags.FlagValues()
    absl_flags.DEFINE_integer("verbosity", 0, "", flag_values=values)
    monkeypatch.setattr(absl_flags, "FLAGS", values)


@pytest.mark.usefixtures("own_flags")
def test_what_stands_behind_dashes_is_not_parsed():
    rest = command_line.parse_before_dashes(["launch", "--verbosity=-1", "--", "--unknown", "--", "x"])
    assert rest == ["launch", "--unknown", "--", "x"]


@pytest.mark.parametrize("arguments", [["--unknown"], ["--verbosity=x"], ["stray"], ["stray", "--", "x"]])
@pytest.mark.usefixtures("own_flags")
def test_what_stands_before_them_is(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        command_line.parse_before_dashes(["launch", *arguments])
    assert caught.value.code == 2
    text = capsys.readouterr().err
    assert text.startswith("ERROR: ") and text.count("\n") == 1
