"""System: the launcher as a process of its own, with workers of a few lines: signals and orphans are part of it."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest
from absl import flags

from dqgan_tf.training import launcher

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROGRAM = """
import pathlib, sys
from dqgan_tf.training.launcher import Launcher, LaunchConfig
code, workers, folder, restarts = sys.argv[1:]
command = (sys.executable, "-c", code)
sys.exit(Launcher(LaunchConfig(command, int(workers), pathlib.Path(folder), int(restarts))).run())
"""
# What a worker's line may use: its index and a way to be alive for a long time.
PREAMBLE = """
import json, os, pathlib, signal, sys, time
index = json.loads(os.environ["TF_CONFIG"])["task"]["index"] if "TF_CONFIG" in os.environ else 0
def say(text): print(text, flush=True)
def alive(): say(f"alive {os.getpid()}"); time.sleep(120)
def append(text): print(text, file=open(%r, "a"))
"""
SOON = 30  # seconds; a failure is noticed in a twentieth of one, a worker that ignores SIGTERM is killed after five


class Started:
    """A launcher under way."""

    def __init__(self, folder, worker, workers, restarts):
        self.folder = folder
        self.notes = folder / "notes"
        code = PREAMBLE % str(self.notes) + worker
        command = [sys.executable, "-c", PROGRAM, code, str(workers), str(folder / "logs"), str(restarts)]
        self.process = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )

    def end(self):
        self.out, self.err = self.process.communicate(timeout=SOON)
        return self.process.returncode

    def log(self, index):
        path = self.folder / "logs" / f"worker_{index}.log"
        return path.read_text() if path.exists() else ""

    def pids(self, workers):
        """Process ids of the workers, once all have said that they are alive."""
        wait_until(lambda: all("alive" in self.log(index) for index in range(workers)))
        return [int(self.log(index).split("alive ")[-1].split()[0]) for index in range(workers)]


class Ended:
    """What a process' `poll` would return."""

    def __init__(self, code):
        self.poll = lambda: code


@pytest.fixture
def launch(tmp_path):
    started = []

    def start(worker, workers=2, restarts=0):
        tmp_path.mkdir(exist_ok=True)
        started.append(Started(tmp_path, worker, workers, restarts))
        return started[-1]

    yield start
    for one in started:
        if one.process.poll() is None:
            one.process.kill()
            one.process.communicate()


def wait_until(condition):
    end = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.05)


def is_running(pid):
    try:
        state = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def none_running(pids):
    wait_until(lambda: not any(map(is_running, pids)))


def test_all_end_well(launch):
    run = launch("say(f'worker {index}')", workers=3)
    assert run.end() == 0
    assert [run.log(index) for index in range(3)] == ["worker 0\n", "worker 1\n", "worker 2\n"]
    assert (run.out, run.err) == ("worker 0\n", "")


@pytest.mark.parametrize("failing", [0, 1, 2])
def test_one_fails_and_the_others_are_stopped(launch, failing):
    run = launch(f"say('working')\nif index == {failing}: sys.exit('out of luck\\nreally')\nalive()", workers=3)
    start = time.monotonic()
    assert run.end() == 1
    assert time.monotonic() - start < SOON
    assert f"Worker {failing} exited with code 1" in run.err
    assert "  working\n  out of luck\n  really\n" in run.err
    none_running([int(run.log(i).split("alive ")[1]) for i in range(3) if "alive" in run.log(i)])


def test_the_code_is_the_workers_own(launch):
    assert launch("sys.exit(3) if index else alive()").end() == 3


def test_only_the_end_of_a_long_log_is_shown(launch):
    run = launch("for k in range(100): say(f'line {k}')\nsys.exit(7)", workers=1)
    assert run.end() == 7
    shown = [line for line in run.err.splitlines() if line.startswith("  line ")]
    assert shown == [f"  line {k}" for k in range(85, 100)]


def test_who_lost_another_is_not_the_cause():
    """Exit code 4 says that another worker is gone; the one that is gone is named where both have ended."""
    config = launcher.LaunchConfig(("true",), 3, pathlib.Path("unused"))
    watched = launcher.Launcher(config)
    for codes, cause in [
        ((4, None, 3), 2),
        ((4, None, 4), 0),
        ((None, 0, None), None),
        ((None, -9, 4), 1),
        ((1, 2, 3), 0),
    ]:
        watched._processes = [Ended(code) for code in codes]
        assert watched._cause() == cause


def test_the_cause_may_end_after_who_lost_it(launch):
    run = launch("if index: time.sleep(1)\nsys.exit(3 if index else 4)")
    assert run.end() == 3
    assert "Worker 1 exited with code 3" in run.err


def test_who_lost_another_is_named_where_the_other_hangs(launch):
    run = launch("alive() if index else sys.exit(4)")
    assert run.end() == 4
    assert "Worker 0 exited with code 4" in run.err


def test_a_worker_killed_by_a_signal(launch):
    run = launch("alive()")
    pids = run.pids(2)
    os.kill(pids[1], signal.SIGKILL)
    assert run.end() == 128 + signal.SIGKILL
    assert "Worker 1 was killed by signal 9" in run.err
    none_running(pids)


def test_a_worker_that_ignores_sigterm_is_killed(launch):
    run = launch("signal.signal(signal.SIGTERM, signal.SIG_IGN)\nif index: time.sleep(2); sys.exit(1)\nalive()")
    assert run.end() == 1
    none_running([int(run.log(0).split("alive ")[1])])


def test_restarts_until_it_works(launch, tmp_path):
    notes = str(tmp_path / "notes")
    run = launch(f"append('start')\nsys.exit(open({notes!r}).read() != 'start\\n' * 3)", workers=1, restarts=5)
    assert run.end() == 0
    assert run.notes.read_text() == "start\n" * 3


def test_restarts_are_counted(launch):
    run = launch("append('start')\nsay('said')\nsys.exit(5)", workers=1, restarts=2)
    assert run.end() == 5
    assert run.notes.read_text() == "start\n" * 3
    assert "Restart 1 of 2." in run.err and "Restart 2 of 2." in run.err and "Restart 3" not in run.err
    assert run.log(0) == run.out == "said\n" * 3  # one log for all attempts, and nothing of it twice on the screen


def test_a_new_launch_begins_new_logs(launch):
    launch("say('first')", workers=1).end()
    run = launch("say('second')", workers=1)
    assert run.end() == 0
    assert run.log(0) == "second\n"


def test_what_the_user_must_mend_is_not_tried_again(launch):
    run = launch("append('start')\nsys.exit(2)", workers=1, restarts=3)
    assert run.end() == 2
    assert run.notes.read_text() == "start\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_handed_on_once_and_waited_for(launch, number):
    worker = f"""
def save(*_): append("saved"); time.sleep(1); sys.exit({128 + number})
signal.signal({int(number)}, save)
alive()
"""
    run = launch(worker, restarts=3)
    pids = run.pids(2)
    run.process.send_signal(number)
    assert run.end() == 128 + number
    assert run.notes.read_text() == "saved\n" * 2
    assert run.err == ""
    none_running(pids)


def test_control_c_reaches_a_worker_once(launch):
    """A terminal signals its whole foreground group; for a worker the second signal means: at once, no checkpoint."""
    worker = """
signal.signal(signal.SIGINT, lambda *_: append("asked"))
say(f"alive {os.getpid()}")
end = time.monotonic() + 2
while time.monotonic() < end: time.sleep(0.05)
"""
    run = launch(worker)
    run.pids(2)
    os.killpg(run.process.pid, signal.SIGINT)
    assert run.end() == 128 + signal.SIGINT
    assert run.notes.read_text() == "asked\n" * 2


def test_a_second_signal_does_not_wait(launch):
    run = launch("signal.signal(signal.SIGINT, lambda *_: append('asked'))\nwhile True: alive()", workers=1)
    pids = run.pids(1)
    run.process.send_signal(signal.SIGINT)
    wait_until(run.notes.exists)
    start = time.monotonic()
    run.process.send_signal(signal.SIGINT)
    assert run.end() == 128 + signal.SIGINT
    assert time.monotonic() - start < 15  # less than the 20 s that a first one waits
    assert "Traceback" not in run.err
    none_running(pids)


def test_more_signals_while_it_stops_its_workers(launch):
    """Impatience must not leave the workers behind, nor show a traceback."""
    run = launch("for number in (2, 15): signal.signal(number, signal.SIG_IGN)\nalive()")
    pids = run.pids(2)
    for _ in range(4):
        run.process.send_signal(signal.SIGINT)
        time.sleep(0.3)
    assert run.end() == 128 + signal.SIGINT
    assert run.err == ""
    none_running(pids)


def test_a_launcher_killed_leaves_nobody_behind(launch):
    run = launch("signal.signal(signal.SIGTERM, signal.SIG_IGN)\nalive()", workers=3)
    pids = run.pids(3)
    run.process.kill()
    none_running(pids)


NOISE = [
    "WARNING: All log messages before absl::InitializeLog() is called are written to STDERR",
    "I0000 00:00:1700000000.000000     1 port.cc:153] oneDNN custom operations are on.",
    "E0000 00:00:1700000000.000000     1 cuda_platform.cc:52] failed call to cuInit",
    "To enable the following instructions: AVX2 FMA, in other operations, rebuild TensorFlow with the compiler flags.",
]


def test_start_up_notices_stay_in_the_log(launch):
    run = launch(f"for line in {NOISE!r} + ['step 1']: say(line)\nsys.exit(1)", workers=1)
    assert run.end() == 1
    assert run.log(0).splitlines() == [*NOISE, "step 1"]
    assert run.out == "step 1\n"
    assert all(line not in run.err for line in NOISE)


def test_the_chief_is_on_the_screen_while_it_works(launch):
    run = launch("say('first line')\nalive()", workers=1)
    assert run.process.stdout.readline() == "first line\n"
    run.process.terminate()
    run.end()


def test_a_last_line_without_its_end_is_shown(launch):
    run = launch("sys.stdout.write('no newline')", workers=1)
    assert run.end() == 0
    assert run.out == "no newline\n"


def test_workers_know_their_place(launch):
    run = launch("say(os.environ['TF_CONFIG'])", workers=2)
    assert run.end() == 0
    first, second = (json.loads(run.log(index)) for index in range(2))
    assert first["cluster"] == second["cluster"]
    assert len(set(first["cluster"]["worker"])) == 2
    assert (first["task"], second["task"]) == ({"type": "worker", "index": 0}, {"type": "worker", "index": 1})


def test_one_worker_is_no_cluster(monkeypatch):
    monkeypatch.setenv("TF_CONFIG", "of somebody else")
    assert "TF_CONFIG" not in launcher.worker_environment([1], 0)


def test_processors_are_shared_and_a_users_choice_stays(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    monkeypatch.delenv("TF_NUM_INTRAOP_THREADS", raising=False)
    environment = launcher.worker_environment([1, 2, 3, 4], 0)
    assert (environment["TF_NUM_INTRAOP_THREADS"], environment["OMP_NUM_THREADS"]) == ("2", "5")
    assert launcher.worker_environment(range(1, 17), 0)["TF_NUM_INTRAOP_THREADS"] == "1"


def test_free_ports_differ():
    assert len(set(launcher.free_ports(50))) == 50


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--model_dir=a"], "a"),
        (["-model_dir", "a", "--steps=1"], "a"),
        (["--model_dir=a", "--model_dir=b"], "b"),
        (["--steps=1"], None),
        (["model_dir=a"], None),
        (["--width", "16", "--model_dir", "a"], "a"),
        (["--flagfile={file}"], "of the file"),
        (["--flagfile", "{file}", "--steps=1"], "of the file"),
        (["--flagfile={outer}"], "of the file"),
        (["--flagfile={file}", "--model_dir=a"], "a"),
        (["--model_dir=a", "--flagfile={file}"], "of the file"),
    ],
)
def test_model_dir_of(arguments, expected, tmp_path):
    """As absl reads them: the last one counts, a flagfile stands for its lines, flagfiles may name others."""
    file, outer = tmp_path / "file", tmp_path / "outer"
    file.write_text("# comment\n--steps=3\n--model_dir=of the file\n")
    outer.write_text(f"--flagfile={file}\n")
    arguments = [argument.format(file=file, outer=outer) for argument in arguments]
    assert launcher.model_dir_of(arguments) == expected


@pytest.mark.parametrize("arguments", [["--model_dir"], ["--flagfile=/nowhere"]])
def test_model_dir_that_cannot_be_read(arguments):
    with pytest.raises(flags.Error):
        launcher.model_dir_of(arguments)
