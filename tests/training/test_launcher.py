"""System: the launcher as a process of its own: who failed, what is shown, what starts again, what workers are told."""

import json
import os
import pathlib
import signal
import time

import pytest

from dqgan_tf.errors import UsageError
from dqgan_tf.training import launcher
from tests.training.launched import SOON, assert_none_running, wait_until


class Ended:
    """What a process' `poll` would return."""

    def __init__(self, code):
        self.poll = lambda: code


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
    assert_none_running([int(run.log(i).split("alive ")[1]) for i in range(3) if "alive" in run.log(i)])


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


def test_a_worker_of_a_cluster(monkeypatch):
    """TF_CONFIG of another tool names the cluster; it was ignored once."""
    hosts = {"chief": ["a:1"], "worker": ["b:1", "c:1"]}
    monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": hosts, "task": {"type": "worker", "index": 1}}))
    assert launcher.name_in_cluster(None) == "worker_2"
    assert launcher.worker_environment([], 0)["TF_CONFIG"] == os.environ["TF_CONFIG"]
    with pytest.raises(UsageError, match="--num_workers=2 asks .* 3 workers. Leave out .* to run worker 2 of it"):
        launcher.name_in_cluster(2)
    with pytest.raises(UsageError, match="--evaluator starts .* out --evaluator to run worker 2 of it"):
        launcher.name_in_cluster(None, evaluator=True)
    monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": hosts, "task": {"type": "evaluator", "index": 0}}))
    assert launcher.name_in_cluster(None) == "evaluator"
    with pytest.raises(UsageError, match="names another one. Leave out --num_workers to run the evaluator of it"):
        launcher.name_in_cluster(2)
    monkeypatch.setenv("TF_CONFIG", '{"cluster": {"worker": ["a:1"]}, "task": {"type": "ps", "index": 0}}')
    with pytest.raises(UsageError, match="task.type"):
        launcher.name_in_cluster(None)
    monkeypatch.delenv("TF_CONFIG")
    assert launcher.name_in_cluster(None) is None and launcher.name_in_cluster(2, evaluator=True) is None


EVALUATOR = "evaluator = json.loads(os.environ.get('TF_CONFIG', '{}'))['task']['type'] == 'evaluator'\n"


def evaluator_log(run):
    return (run.folder / "logs" / "evaluator.log").read_text()


def test_an_evaluator_is_told_its_task_and_waited_for(launch):
    body = "say(os.environ['TF_CONFIG'])\nif evaluator: time.sleep(1); say('done')"
    run = launch(EVALUATOR + body, workers=2, evaluator=True)
    assert run.end() == 0
    told, done = evaluator_log(run).splitlines()
    assert json.loads(told)["task"] == {"type": "evaluator", "index": 0}
    assert json.loads(told)["cluster"] == json.loads(run.log(0))["cluster"]  # which has no evaluator
    assert done == "done"


def test_an_evaluator_that_fails_stops_no_worker(launch):
    run = launch(EVALUATOR + "sys.exit('no figures') if evaluator else time.sleep(1)", workers=2, evaluator=True)
    assert run.end() == 1
    assert "Evaluator exited with code 1. The end of" in run.err and "  no figures\n" in run.err


def test_an_evaluator_outlives_restarts_and_ends_with_the_job(launch):
    body = "append('start')\nif evaluator: alive()\ntime.sleep(1)\nsys.exit(5)"
    run = launch(EVALUATOR + body, workers=2, restarts=1, evaluator=True)
    assert run.end() == 5
    assert run.notes.read_text() == "start\n" * 5
    assert_none_running([int(evaluator_log(run).split("alive ")[1])])


def test_a_signal_ends_an_evaluator_too(launch):
    run = launch(EVALUATOR + "alive()", workers=2, evaluator=True)
    run.pids(2)
    wait_until(lambda: "alive" in evaluator_log(run))
    run.process.terminate()
    assert run.end() == 128 + signal.SIGTERM
    assert_none_running([int(evaluator_log(run).split("alive ")[1])])


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


def test_a_new_launch_keeps_what_is_in_the_logs(launch):
    """Another job may be writing there: its workers hold the folder, and those of the new launch end."""
    launch("say('first')", workers=1).end()
    run = launch("say('second')", workers=1)
    assert run.end() == 0
    assert run.log(0) == "first\nsecond\n" and run.out == "second\n"


def test_what_the_user_must_mend_is_not_tried_again(launch):
    run = launch("append('start')\nsys.exit(2)", workers=1, restarts=3)
    assert run.end() == 2
    assert run.notes.read_text() == "start\n"


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


def test_workers_have_the_secret_of_this_process_or_that_of_the_launcher(monkeypatch):
    monkeypatch.delenv("DQGAN_SECRET", raising=False)
    assert launcher.worker_environment([1, 2], 0, "random")["DQGAN_SECRET"] == "random"
    # A launcher of a task in TF_CONFIG knows nothing of those on the other machines, and so no common secret.
    assert "DQGAN_SECRET" not in launcher.worker_environment([], 0, "random")
    monkeypatch.setenv("DQGAN_SECRET", "own")
    assert launcher.worker_environment([1, 2], 0, "random")["DQGAN_SECRET"] == "own"
    monkeypatch.setenv("DQGAN_SECRET", " ")
    with pytest.raises(UsageError, match="DQGAN_SECRET is set and empty"):
        launcher.worker_environment([1, 2], 0, "random")


def test_free_ports_differ():
    assert len(set(launcher.free_ports(50))) == 50


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--model_dir=a"], "a"),
        (["-model_dir", "a", "--steps=1"], "a"),
        (["--model_dir=a", "--model_dir=b"], "b"),
        (["--width", "16", "--model_dir", "a"], "a"),
        (["--model_dir=~/a"], "/home/somebody/a"),
        (["--flagfile={file}"], "of the file"),
        (["--flagfile", "{file}", "--steps=1"], "of the file"),
        (["--flagfile={outer}"], "of the file"),
        (["--flagfile={file}", "--model_dir=a"], "a"),
        (["--model_dir=a", "--flagfile={file}"], "of the file"),
    ],
)
def test_logs_lie_in_the_model_dir(arguments, expected, tmp_path, monkeypatch):
    """As absl reads them: the last one counts, a flagfile stands for its lines, flagfiles may name others."""
    monkeypatch.setenv("HOME", "/home/somebody")
    file, outer = tmp_path / "file", tmp_path / "outer"
    file.write_text("# comment\n--steps=3\n--model_dir=of the file\n")
    outer.write_text(f"--flagfile={file}\n")
    arguments = [argument.format(file=file, outer=outer) for argument in arguments]
    assert launcher.log_dir_of(arguments) == pathlib.Path(expected) / "logs"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--steps=1"], "Give --model_dir=DIR after --, or --log_dir=DIR before it"),
        (["model_dir=a"], "Give --model_dir=DIR after --"),
        (["--model_dir"], "model_dir"),
        (["--flagfile=/nowhere"], "/nowhere"),
    ],
)
def test_workers_without_a_model_dir_that_can_be_read(arguments, message):
    with pytest.raises(UsageError, match=message):
        launcher.log_dir_of(arguments)


def test_logs_that_have_no_place(tmp_path):
    (tmp_path / "file").write_text("")
    config = launcher.LaunchConfig(("true",), 1, tmp_path / "file" / "logs")
    with pytest.raises(UsageError, match="--log_dir=.*file/logs cannot be made: Not a directory"):
        launcher.Launcher(config)._run_once(0)
