"""System: how a binary ends: exit code, one line, and a traceback for faults of the program alone."""

import functools
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import pytest
import tensorflow as tf
from absl import flags as absl_flags

from dqgan_tf import errors
from dqgan_tf.training import command

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROGRAM = """
import signal, sys, time
from dqgan_tf import errors
from dqgan_tf.training import command

def main(arguments):
    print("started", flush=True)
    {body}

command.run(main, has_dashes=True, exits_at_once={at_once})
"""


PARSED = PROGRAM.replace("import signal, sys, time", "import argparse, signal, sys, time").replace(
    "command.run(main, has_dashes=True,", "command.run_parsed(main, argparse.ArgumentParser(),"
)


def start(body, at_once=False, arguments=(), program=PROGRAM):
    program = program.format(body=body, at_once=at_once)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    # A shell starts its background jobs, these tests among them, with SIGINT ignored, and children inherit that.
    restore = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    return subprocess.Popen([sys.executable, "-c", program, *arguments], cwd=ROOT, preexec_fn=restore, **pipes)


def ended(*arguments, **named):
    """(exit code, stdout, stderr) of a binary with this body of `main`."""
    process = start(*arguments, **named)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


@pytest.mark.parametrize("at_once", [False, True])
@pytest.mark.parametrize(
    ("body", "code"), [("pass", 0), ("return 0", 0), ("return 143", 143), ("sys.exit(5)", 5)], ids=str
)
def test_what_main_returns_is_the_exit_code(body, code, at_once):
    assert ended(body, at_once) == (code, "started\n", "")


@pytest.mark.parametrize("at_once", [False, True])
@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        ("errors.UsageError('mend\\n  it')", 2, "mend it"),
        ("errors.CheckpointError('damaged')", 2, "damaged"),
        ("errors.TrainingError('diverged')", 3, "diverged"),
        ("OSError(28, 'No space left on device')", 3, "[Errno 28] No space left on device"),
        ("errors.PeerLostError('worker 1')", 4, "worker 1"),
        ("KeyboardInterrupt()", 130, "Interrupted by signal 2."),
        ("KeyboardInterrupt(signal.SIGTERM)", 143, "Interrupted by signal 15."),
    ],
)
def test_one_line_and_a_code(error, code, line, at_once):
    assert ended(f"raise {error}", at_once) == (code, "started\n", f"ERROR: {line}\n")


@pytest.mark.parametrize("at_once", [False, True])
@pytest.mark.parametrize(
    ("body", "error"),
    [
        ("raise ValueError('ours')", "ValueError: ours"),
        ("list(zip([1], [1, 2], strict=True))", "ValueError: zip() argument 2 is longer than argument 1"),
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("assert arguments == 5", "AssertionError"),
    ],
)
def test_a_fault_shows_its_traceback_and_has_its_own_code(body, error, at_once):
    code, out, err = ended(body, at_once)
    assert (code, out) == (errors.EXIT_FAULT, "started\n") == (70, "started\n")
    assert err.startswith("Traceback") and err.endswith(f"{error}\n") and "ERROR: " not in err
    assert re.search(r'File "<string>", line 8, in main', err)


@pytest.mark.parametrize("at_once", [False, True])
@pytest.mark.parametrize(
    ("body", "code", "end"),
    [
        ("return 143", 143, ""),
        ("raise errors.UsageError('mend it')", 2, "ERROR: mend it\n"),
        ("raise OSError(28, 'No space left on device')", 3, "ERROR: [Errno 28] No space left on device\n"),
        ("raise ValueError('a fault')", 70, "ValueError: a fault\n"),
    ],
)
def test_a_program_of_argparse_ends_like_a_binary(body, code, end, at_once):
    ended_with, out, err = ended(body, at_once, program=PARSED)
    assert (ended_with, out, err[-len(end) :] if end else err) == (code, "started\n", end)
    assert ("Traceback" in err) == (code == 70)


def test_a_wrong_option_of_argparse_is_a_wrong_command_line():
    code, out, err = ended("pass", arguments=["--bogus"], program=PARSED)
    assert (code, out) == (errors.EXIT_USAGE, "") and err.endswith("error: unrecognized arguments: --bogus\n")


def test_errors_of_tensorflow(monkeypatch, capsys):
    """Only a full disk, which TensorFlow's file system reports by an error of its own, ends in one line."""

    def code(error):
        def main():
            raise error

        try:
            main()
        except Exception as caught:
            return command._exit_code(caught)

    assert code(tf.errors.ResourceExhaustedError(None, None, "{{node x}} events; No space left on device\n.")) == 3
    assert capsys.readouterr() == ("", "ERROR: events; No space left on device\n")
    assert code(tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor with shape[9]")) == 70
    assert "in main" in (text := capsys.readouterr().err) and "OOM when allocating" in text and "ERROR: " not in text
    assert code(tf.errors.InvalidArgumentError(None, None, "Incompatible shapes: [2] vs. [3]")) == 70
    assert "in main" in (text := capsys.readouterr().err) and "Incompatible shapes" in text and "ERROR: " not in text
    monkeypatch.delitem(sys.modules, "tensorflow")
    assert code(ValueError("no TensorFlow here")) == 70


@pytest.mark.parametrize("at_once", [False, True])
def test_output_that_cannot_be_written_changes_no_code(at_once):
    program = PROGRAM.format(body="raise errors.TrainingError('full')", at_once=at_once)
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, stderr=full)
    assert done.returncode == 3


def test_leaving_at_once_skips_the_teardown():
    body = "import atexit; atexit.register(print, 'teardown')"
    assert ended(body, at_once=False)[1] == "started\nteardown\n"
    assert ended(body, at_once=True)[1] == "started\n"


def test_leaving_at_once_does_not_wait_for_what_an_error_keeps_alive():
    """A strategy whose workers are lost takes many seconds to end."""
    body = "slow = type('Slow', (), {'__del__': lambda self: time.sleep(20)})(); raise errors.PeerLostError('gone')"
    start_time = time.monotonic()
    assert ended(body, at_once=True) == (4, "started\n", "ERROR: gone\n")
    assert time.monotonic() - start_time < 15


def test_ctrl_c():
    process = start("time.sleep(60)")
    assert process.stdout.readline() == "started\n"
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=20)[1] == "ERROR: Interrupted by signal 2.\n"
    assert process.returncode == 130


def test_what_stands_behind_dashes_is_not_parsed():
    code, out, _ = ended("print(arguments[1:])", arguments=["--verbosity=-1", "--", "--unknown", "--", "x"])
    assert (code, out) == (0, "started\n['--unknown', '--', 'x']\n")


@pytest.mark.parametrize("arguments", [["--unknown"], ["--verbosity=x"], ["stray"], ["stray", "--", "x"]])
def test_a_wrong_command_line(arguments):
    code, out, err = ended("pass", arguments=arguments)
    assert (code, out) == (2, "") and err.startswith("ERROR: ") and err.count("\n") == 1


def test_tensorflow_is_silent_unless_told_otherwise():
    body = "import os; from absl import logging; print(os.environ['TF_CPP_MIN_LOG_LEVEL'], logging.get_verbosity())"
    environment = {key: value for key, value in os.environ.items() if key != "TF_CPP_MIN_LOG_LEVEL"}
    command_line = [sys.executable, "-c", PROGRAM.format(body=body, at_once=False)]
    for arguments, printed in [([], "2 -1"), (["--verbosity=1"], "2 1")]:
        done = subprocess.run([*command_line, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True)
        assert done.stdout == f"started\n{printed}\n"


FAKE_TENSORFLOW = """
import os, types
os.write(2, b"WARNING: All log messages before absl::InitializeLog() is called are written to STDERR\\n")
os.write(2, b"I0000 00:00:17.1 1 port.cc:153] oneDNN custom operations are on.\\n")
os.write(2, b"E0000 00:00:17.2 1 x.cc:1] a real error\\n")
os.write(2, b"E0000 00:00:17.3 1 cuda_platform.cc:52] failed call to cuInit: INTERNAL: UNKNOWN ERROR (303)\\n")
os.write(2, b"E0000 00:00:17.4 1 cuda_platform.cc:52] failed call to cuInit: SYSTEM_DRIVER_MISMATCH (803)\\n")
{end}
config = types.SimpleNamespace(list_physical_devices=lambda: None)
"""


@pytest.mark.parametrize(("end", "code"), [("", 0), ("os.abort()", -signal.SIGABRT)])
def test_harmless_lines_of_the_start_are_left_out_and_errors_are_shown(tmp_path, end, code):
    """Also if the process is aborted at that moment."""
    (tmp_path / "tensorflow.py").write_text(FAKE_TENSORFLOW.format(end=end))
    body = f"sys.path.insert(0, {str(tmp_path)!r}); command.load_tensorflow(); print('after', file=sys.stderr)"
    found, out, err = ended(body)
    shown = "E0000 00:00:17.2 1 x.cc:1] a real error\n"
    shown += "E0000 00:00:17.4 1 cuda_platform.cc:52] failed call to cuInit: SYSTEM_DRIVER_MISMATCH (803)\n"
    assert (found, out) == (code, "started\n")
    assert err.startswith(shown + "Fatal Python error: Aborted\n") if end else err == shown + "after\n"


def test_the_start_of_tensorflow_is_silent(monkeypatch):
    """On a machine without a driver of NVIDIA, with TensorFlow's own log level."""
    monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL", raising=False)
    body = "command.load_tensorflow(); import tensorflow as tf; print(int(tf.constant(1) + 1))"
    assert ended(body) == (0, "started\n2\n", "")


class TestPaths:
    @pytest.fixture
    def values(self, monkeypatch):
        """Flags of their own: those of other binaries that this process has imported would want values too."""
        monkeypatch.setenv("HOME", "/home/somebody")
        values = absl_flags.FlagValues()
        command.define_path("folder", "A folder.", flag_values=values)
        command.define_path("cache", "A folder.", default="~/.cache", flag_values=values)
        return values

    @pytest.mark.parametrize(
        ("argument", "path"),
        [
            ("~/runs/x", "/home/somebody/runs/x"),
            ("~", "/home/somebody"),
            ("~root/x", os.path.expanduser("~root/x")),
            ("runs/~x", "runs/~x"),
            ("./~x", "./~x"),
        ],
    )
    def test_a_tilde_is_the_home_folder(self, values, argument, path):
        values(["binary", f"--folder={argument}"])
        assert (values.folder, values.cache) == (path, "/home/somebody/.cache")

    def test_a_tilde_of_nobody_is_refused(self, values):
        with pytest.raises(absl_flags.Error, match="~nobody_of_that_name: there is no such user; .*write ./~nobody_of"):
            values(["binary", "--folder=~nobody_of_that_name"])

    def test_a_url_is_refused(self, values):
        """Python's own file functions would make a folder `gs:`."""
        with pytest.raises(absl_flags.Error, match="--folder=gs://bucket/x: it is a URL; mount that storage"):
            values(["binary", "--folder=gs://bucket/x"])

    def test_none_stays(self, values):
        values(["binary"])
        assert values.folder is None

    def test_a_text_of_a_binary_is_no_path(self):
        """Their paths are flags of `define_path`. --dataset may be a path, which `data.files` reads in the same way."""
        sources = [
            path for folder in ("trainers", "benchmarks", "dqgan_tf/training") for path in (ROOT / folder).glob("*.py")
        ]
        texts = [re.findall(r"DEFINE_(?:multi_)?string\(\s*\"(\w+)\"", source.read_text()) for source in sources]
        assert {name for names in texts for name in names} == {
            "cell",
            "checkpoint",
            "dataset",
            "only",
            "rate",
            "variant",
        }
