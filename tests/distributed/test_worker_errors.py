"""What ends one worker ends all: one line each that names the cause. Only a fault of the library shows a traceback."""

import shutil
import signal
import subprocess
import sys
import time

import pytest

from dqgan_tf.errors import EXIT_FAULT, EXIT_PEER_LOST
from tests.distributed import cluster
from tests.distributed.test_training import TINY, command

# A worker whose last argument is code to be run before it starts.
PREPARED = """
import runpy, sys
exec(sys.argv.pop())
runpy.run_module("trainers.train", run_name="__main__", alter_sys=True)
"""
NAN_DATA = """
from dqgan_tf import data
build = data.build
data.build = lambda *arguments, **named: build(*arguments, **named).map(lambda batch: batch * float("nan"))
"""


# The second call raises what a flat vector that is one tensor short would raise in the middle of a step.
FAULT_IN_A_STEP = """
from dqgan_tf.gan.model import DQGAN
train_steps, calls = DQGAN.train_steps, []
def faulty(self, iterator, count):
    calls.append(count)
    list(zip(calls, [0], strict=True))
    return train_steps(self, iterator, count)
DQGAN.train_steps = faulty
"""
FAULT_AT_START = """
from dqgan_tf.training import job
def faulty(config, strategy):
    raise ValueError("injected")
job.describe = faulty
"""
# The chief stays in its first evaluation.
LONG_EVALUATION = """
import time
from dqgan_tf.training.evaluation import Evaluator
def evaluate(self, model):
    print("evaluating", flush=True)
    time.sleep(600)
Evaluator.evaluate = evaluate
"""


def prepared(*arguments):
    return ["-c", PREPARED, *arguments]


def ends_all(workers, code, message):
    assert workers.wait(120) == [code] * len(workers.logs), workers.output()
    for index in range(len(workers.logs)):
        lines = [line for line in workers.output(index).splitlines() if line.startswith("ERROR: ")]
        assert len(lines) == 1 and message in lines[0], workers.output(index)
        assert "Traceback" not in workers.output(index)


def test_a_batch_that_does_not_divide(tmp_path):
    both = cluster.Cluster([*command(tmp_path / "run", 20), "--batch_size=15"], tmp_path / "logs")
    ends_all(both, 2, "must be a multiple of their number, 2. Received: batch_size=15")
    assert not list((tmp_path / "run").iterdir())


def test_a_rule_that_names_no_weight(tmp_path):
    both = cluster.Cluster([*command(tmp_path / "run", 20), "--compressor_rules=biass=none"], tmp_path / "logs")
    ends_all(both, 2, "'biass' of the compressor rules matches no weight's name")
    assert not list((tmp_path / "run").iterdir())


def test_other_code(tmp_path):
    """Worker 1 runs a copy of the checkout that differs by one character."""
    for folder in ("dqgan_tf", "flags", "trainers"):
        shutil.copytree(cluster.ROOT / folder, tmp_path / "copy" / folder)
    changed = tmp_path / "copy" / "dqgan_tf" / "gan" / "steps.py"
    changed.write_text(changed.read_text() + "#")
    extra = [[""], [f"sys.path.insert(0, {str(tmp_path / 'copy')!r})"]]
    arguments = command(tmp_path / "run", 20)[2:]
    both = cluster.Cluster(prepared(*arguments), tmp_path / "logs", extra=extra)
    ends_all(both, 2, "The workers disagree: code is '")
    assert not list((tmp_path / "run").iterdir())


def shows_a_traceback(text, error, file):
    assert f"\n{error}" in text and f'/{file}", line ' in text and "Traceback" in text
    assert "ERROR: " not in text


def test_a_fault_of_one_worker_at_the_start(tmp_path):
    """The others wait for nothing: they end at once with a line that names the worker and its fault."""
    arguments = command(tmp_path / "run", 20)[2:]
    both = cluster.Cluster(prepared(*arguments), tmp_path / "logs", extra=[[""], [FAULT_AT_START]])
    assert both.wait(60) == [EXIT_PEER_LOST, EXIT_FAULT], both.output()
    lines = [line for line in both.output(0).splitlines() if line.startswith("ERROR: ")]
    assert lines == ["ERROR: Worker 1 met a fault: ValueError: injected. Its own output has the traceback."]
    assert "Traceback" not in both.output(0)
    shows_a_traceback(both.output(1), "ValueError: injected", "dqgan_tf/training/run.py")


@pytest.mark.slow  # the next test has it behind the launcher
def test_a_fault_of_one_worker_in_a_step(tmp_path):
    arguments = command(tmp_path / "run", 1000)[2:]
    both = cluster.Cluster(prepared(*arguments), tmp_path / "logs", extra=[[""], [FAULT_IN_A_STEP]])
    assert both.wait(60) == [EXIT_PEER_LOST, EXIT_FAULT], both.output()
    assert "ERROR: Worker 0 lost another worker" in both.output(0) and "Traceback" not in both.output(0)
    shows_a_traceback(both.output(1), "ValueError: zip() argument 2 is shorter", "dqgan_tf/training/loop.py")


def test_a_fault_behind_the_launcher(tmp_path):
    """It starts again, as after a crash, and reports the fault's own code and the end of the traceback."""
    worker = [sys.executable, *prepared(*command(tmp_path / "run", 20)[2:], FAULT_AT_START)]
    code = (
        "import pathlib, sys; from dqgan_tf.training.launcher import Launcher, LaunchConfig\n"
        f"sys.exit(Launcher(LaunchConfig({worker!r}, 1, pathlib.Path({str(tmp_path / 'logs')!r}), 1)).run())"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=cluster.ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == EXIT_FAULT
    assert "Restart 1 of 1." in done.stderr and done.stderr.count("Worker 0 exited with code 70.") == 2
    shows_a_traceback(done.stderr, "  ValueError: injected", "dqgan_tf/training/run.py")
    assert "  Traceback (most recent call last):" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_chief_that_is_lost_while_it_evaluates(tmp_path, number):
    """The other waits for it as long as it gives signs of life, here twice the limit without one; then it ends."""
    arguments = command(tmp_path / "run", 100, "--eval_every=10", "--silence_timeout=5")[2:]
    both = cluster.Cluster(prepared(*arguments, LONG_EVALUATION), tmp_path / "logs")
    try:
        log = both.logs[0]
        cluster.wait_for(lambda: log.exists() and "evaluating" in log.read_text(), 120, "the evaluation")
        time.sleep(10.0)
        assert not any(process.has_ended() for process in both.processes), both.output()
        both.kill(0, number)
        start = time.monotonic()
        assert both.processes[1].wait(60) == EXIT_PEER_LOST, both.output()
        assert time.monotonic() - start < 5 + 10, "the limit, and what TensorFlow and this machine add"
    finally:
        both.kill()
    assert sum(line.startswith("ERROR: Worker 1 ") for line in both.output(1).splitlines()) == 1
    assert "Traceback" not in both.output(1)


@pytest.mark.slow
def test_one_worker_that_is_not_finite(tmp_path):
    """All skip each of its steps, and stop together after --max_skipped_in_row."""
    arguments = [*command(tmp_path / "run", 1000)[2:], "--max_skipped_in_row=15"]
    both = cluster.Cluster(prepared(*arguments), tmp_path / "logs", extra=[[""], [NAN_DATA]])
    ends_all(both, 3, "The last 15 steps up to step 15 were skipped, because an update was not finite on some replica")
    assert "skipped 10" in both.output(0)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 300 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", folder], capture_output=True)
    if mount.returncode:
        pytest.skip(f"no small file system without root: {mount.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.slow
def test_a_full_disk_under_what_the_chief_alone_writes(tmp_path, small_disk):
    arguments = [*TINY, f"--model_dir={small_disk}/run", "--steps=100000", "--sample_every=10", "--checkpoint_every=0"]
    both = cluster.Cluster(arguments, tmp_path / "logs")
    ends_all(both, 3, f"Worker 0 could not write into {small_disk}/run by step")
    assert "No space left on device" in both.output(1)
