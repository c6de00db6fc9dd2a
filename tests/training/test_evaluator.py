"""The task `evaluator` on checkpoints of a small model: what it evaluates, in which order, and when it ends."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import types

import numpy as np
import pytest
import tensorflow as tf

from dqgan_tf.config import EvaluationConfig, TrainConfig
from dqgan_tf.data import DataSpec
from dqgan_tf.errors import PeerLostError, UsageError
from dqgan_tf.telemetry import json_lines
from dqgan_tf.training import evaluator
from dqgan_tf.training.restore import TrainedRun
from tests.distributed import cluster
from tests.training.tiny_run import CONFIG, checkpoints, fill


class Figures:
    """Stands for `evaluation.Evaluator`: the figure is the step of the model; fails at the steps `fails`."""

    fails, calls, action = (), [], None

    def __init__(self, config, spec):
        Figures.calls = []

    def evaluate(self, model):
        step = int(model.shared_values()["step"])
        self.calls.append(step)
        if Figures.action:
            Figures.action(step)
        if step in self.fails:
            raise ArithmeticError(f"no figure of step {step}")
        return {"modes_found": step, "generator": "averaged"}


@pytest.fixture
def job(tmp_path, two, monkeypatch):
    """Returns (save(step), run(**settings)); both of the run in tmp_path, whose last step is 9."""
    monkeypatch.setattr(evaluator, "_POLL_SECONDS", 0.01)
    monkeypatch.setattr(evaluator.evaluation, "Evaluator", Figures)
    monkeypatch.setattr(Figures, "fails", ())
    monkeypatch.setattr(Figures, "action", None)
    spec = DataSpec("images", (28, 28, 1), 10, "fashion_mnist")
    monkeypatch.setattr(evaluator.restore, "load", lambda *_: load(spec, two[1], *_))
    config = dataclasses.replace(CONFIG, model_dir=str(tmp_path), train=TrainConfig(steps=9))
    writer = checkpoints(tmp_path, two, config, keep=3)

    def save(step, weights=None):
        fill(two, step if weights is None else weights, step)
        writer.save(step)
        if step == 9:
            (tmp_path / "summary.json").write_text('{"steps": 9}')

    def run(best_figure="none", **settings):
        own = EvaluationConfig(best_figure=best_figure)
        return evaluator.run(dataclasses.replace(config, train=TrainConfig(steps=9, **settings), evaluation=own))

    yield save, run
    writer.close()


def load(spec, model, model_dir, data_dir, folder):
    evaluator.checkpoint.restore_shared(folder, model)
    return TrainedRun(CONFIG, spec, model, 0)


def entries(tmp_path):
    return [(line["step"], line["modes_found"]) for line in json_lines.read(tmp_path / "evaluator/evaluations.jsonl")]


def curve(tmp_path):
    (events,) = (tmp_path / "tensorboard" / "evaluator").iterdir()
    read = tf.compat.v1.train.summary_iterator(str(events))
    return [event.step for event in read for value in event.summary.value if value.tag.endswith("/modes_found")]


def test_newest_first_and_the_curve_in_order(job, tmp_path, capsys):
    save, run = job
    for step in (3, 6, 9):
        save(step)
    assert run() == 0
    assert entries(tmp_path) == [(9, 9), (6, 6), (3, 3)]
    assert curve(tmp_path) == [3, 6, 9]
    text = capsys.readouterr().err
    assert "step 6  modes_found 6  (" in text and "The run is finished. 3 evaluations are in" in text
    assert not (tmp_path / "evaluator" / "reading").exists() and not (tmp_path / "evaluator" / "LOCK").exists()


def test_a_second_start_evaluates_what_is_new(job, tmp_path):
    """Also after a line that was cut off."""
    save, run = job
    save(3)
    Figures.action = lambda step: signal.raise_signal(signal.SIGTERM) if step == 6 else save(6)
    assert run() == 128 + signal.SIGTERM
    assert entries(tmp_path) == [(3, 3)]
    with open(tmp_path / "evaluator" / "evaluations.jsonl", "a") as file:
        file.write('{"step": 6, "mo')
    Figures.action = None
    save(9)
    assert run() == 0
    assert entries(tmp_path) == [(3, 3), (9, 9), (6, 6)] and curve(tmp_path) == [3, 6, 9]
    assert run() == 0 and entries(tmp_path) == [(3, 3), (9, 9), (6, 6)]


def test_a_step_that_is_saved_again_with_other_weights(job, tmp_path):
    """As by `--flush_residuals`, when a run goes on with fewer steps. A line of an older version names no weights."""
    save, run = job
    save(9)
    assert run() == 0 and entries(tmp_path) == [(9, 9)]
    save(9)
    assert run() == 0 and entries(tmp_path) == [(9, 9)]
    save(9, weights=4)
    assert run() == 0 and entries(tmp_path) == [(9, 9), (9, 9)]
    path = tmp_path / "evaluator" / "evaluations.jsonl"
    first = json.loads(path.read_text().splitlines()[0])
    path.write_text(json.dumps({name: value for name, value in first.items() if name != "weights"}) + "\n")
    assert run() == 0 and entries(tmp_path) == [(9, 9)]


def test_a_signal_while_the_best_checkpoint_is_kept(job, tmp_path, monkeypatch):
    """The next start evaluates it again, and keeps it."""
    save, run = job
    save(9)
    keep_best = evaluator.checkpoint.keep_best
    monkeypatch.setattr(evaluator.checkpoint, "keep_best", lambda *_: signal.raise_signal(signal.SIGTERM))
    assert run(best_figure="modes_found") == 128 + signal.SIGTERM
    assert entries(tmp_path) == [] and evaluator.checkpoint.best(tmp_path / "checkpoints") is None
    monkeypatch.setattr(evaluator.checkpoint, "keep_best", keep_best)
    assert run(best_figure="modes_found") == 0 and entries(tmp_path) == [(9, 9)]
    assert evaluator.checkpoint.best(tmp_path / "checkpoints").value == 9.0


def test_a_checkpoint_that_is_removed_while_it_is_read(job, tmp_path, monkeypatch, capsys):
    """Before the files are linked it is left out, afterwards it is evaluated."""
    save, run = job
    folder, link = tmp_path / "checkpoints", evaluator.checkpoint.link
    save(3), save(6)

    def remove_first(source, target):
        if source.name == "step_00000006":
            (source / "COMMIT").unlink()
            shutil.rmtree(source)
        link(source, target)

    def remove_then(step):
        if step == 3:
            shutil.rmtree(folder / "step_00000003")
            save(9)

    monkeypatch.setattr(evaluator.checkpoint, "link", remove_first)
    Figures.action = remove_then
    assert run() == 0
    assert entries(tmp_path) == [(3, 3), (9, 9)]
    assert "step_00000006 was removed before it could be read." in capsys.readouterr().err


def test_what_cannot_be_evaluated_is_passed_over_with_the_reason(job, tmp_path, monkeypatch, capsys):
    save, run = job
    for step in (3, 6, 9):
        save(step)
    monkeypatch.setattr(Figures, "fails", (9,))
    (tmp_path / "checkpoints" / "step_00000006" / "replicated.index").write_bytes(b"damaged")
    assert run() == 0
    assert entries(tmp_path) == [(3, 3)]
    text = capsys.readouterr().err
    assert "step_00000009 is passed over: Traceback" in text and "no figure of step 9" in text
    assert "step_00000006 is passed over: Checkpoint file" in text and text.count("passed over") == 2


def test_another_run_in_the_folder_is_evaluated_anew(job, tmp_path, two):
    save, run = job
    save(9)
    assert run() == 0
    shutil.rmtree(tmp_path / "checkpoints" / "step_00000009")
    other = checkpoints(tmp_path, two, dataclasses.replace(CONFIG, train=TrainConfig(steps=9)))
    fill(two, 1, 9)
    other.save(9)
    other.close()
    assert run() == 0
    runs = [line["run"] for line in json_lines.read(tmp_path / "evaluator" / "evaluations.jsonl")]
    assert len(runs) == len(set(runs)) == 2


@pytest.mark.parametrize("before", [False, True])
def test_gives_up_without_a_job(job, before, capsys):
    save, run = job
    if before:
        save(3)
    with pytest.raises(PeerLostError, match=r"No job has worked in .* for 1 s \(--start_timeout\)"):
        run(start_timeout=1.0)
    assert capsys.readouterr().err.count("waits for a job that works in") == 1


def test_waits_for_a_job_that_is_alive(job, monkeypatch, capsys):
    """As long as it holds the lock of its folder, here for longer than the limit, and for that limit afterwards."""
    save, run = job
    asked = []

    def is_held(folder):
        asked.append(folder)
        if len(asked) == 155:
            save(9)
        return len(asked) < 150

    monkeypatch.setattr(evaluator.folder_lock, "is_held", is_held)
    assert run(start_timeout=1.0) == 0
    assert capsys.readouterr().err.count("The evaluator waits for its first checkpoint in") == 1


def test_waits_anew_behind_an_evaluation(job, tmp_path, monkeypatch):
    """An evaluation that takes longer than the limit; the job stands still between two starts when it ends."""
    save, run = job
    ticks, take = [0.0], evaluator._Task._take

    def slow(task, folder):
        take(task, folder)
        ticks[0] += 100.0

    def sleep(seconds):
        ticks[0] += seconds
        if len(entries(tmp_path)) == 1 and ticks[0] > 100.5:
            save(9)

    save(3)
    monkeypatch.setattr(evaluator._Task, "_take", slow)
    monkeypatch.setattr(evaluator, "time", types.SimpleNamespace(monotonic=lambda: ticks[0], sleep=sleep))
    assert run(start_timeout=2.0) == 0
    assert entries(tmp_path) == [(3, 3), (9, 9)]


def test_an_older_summary_does_not_end_it(job, tmp_path):
    """Of a finished run that is made longer."""
    save, run = job
    save(6)
    (tmp_path / "summary.json").write_text('{"steps": 6}')
    with pytest.raises(PeerLostError):
        run(start_timeout=1.0)
    assert entries(tmp_path) == [(6, 6)]


def test_other_settings_are_refused(job, tmp_path):
    save, run = job
    save(9)
    with pytest.raises(UsageError, match="the flags of the workers: .* trained with --seed=0, .* --seed=5"):
        run(seed=5)


def test_figures_that_are_refused_end_it(job):
    save, run = job
    save(9)

    def refuse(step):
        raise UsageError("too few images")

    Figures.action = refuse
    with pytest.raises(UsageError, match="too few images"):
        run()


def test_keeps_the_best_checkpoint(job, tmp_path):
    save, run = job
    save(3), save(6)
    Figures.action = lambda step: save(9) if step == 3 else None
    assert run(best_figure="modes_found") == 0
    best = evaluator.checkpoint.best(tmp_path / "checkpoints")
    assert (best.folder.name, best.figure, best.value) == ("step_00000009", "modes_found", 9.0)
    evaluator.checkpoint.check_files(best.folder)


# `trainers.train` whose run and TensorFlow print the niceness of the process.
NICENESS = """
import os, sys, types
run = types.SimpleNamespace(run=lambda config: print("run", os.nice(0)))
sys.modules["dqgan_tf.training.run"] = run
from dqgan_tf.training import command
from trainers import train
command.load_tensorflow = lambda: print("TensorFlow", os.nice(0))
command.run(train.main)
"""


@pytest.mark.parametrize(("task", "added"), [("evaluator", 10), ("worker", 0)])
def test_the_evaluator_lowers_its_priority_before_tensorflow_starts(task, added):
    config = {"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": task, "index": 0}}
    environment = cluster.environment_of([0], 0) | {"TF_CONFIG": json.dumps(config)}
    command = [sys.executable, "-c", NICENESS, "--model_dir=here"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    niceness = min(19, os.nice(0) + added)
    assert done.stdout.splitlines() == [f"TensorFlow {niceness}", f"run {niceness}"], done.stderr


@pytest.mark.slow
def test_all_threads_of_an_evaluator_have_a_low_priority(tmp_path):
    config = {"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "evaluator", "index": 0}}
    environment = cluster.environment_of([0], 0) | {"TF_CONFIG": json.dumps(config)}
    log = tmp_path / "log"
    process = cluster.start(["-m", "trainers.train", f"--model_dir={tmp_path}/run"], environment, log)
    cluster.wait_for(lambda: "waits for a job" in log.read_text(), what="the evaluator")
    threads = [int(task) for task in os.listdir(f"/proc/{process.pid}/task")]
    niceness = {os.getpriority(os.PRIO_PROCESS, thread) for thread in threads}
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 128 + signal.SIGTERM
    assert niceness == {min(19, os.nice(0) + 10)}


@pytest.mark.slow
@pytest.mark.timeout(600)  # three starts of TensorFlow, one of them with three processes
def test_beside_two_workers(tmp_path):
    """The figures are those of `trainers.evaluate`; `trainers.generate` takes the best checkpoint."""
    flags = ["--dataset=gaussian_ring", "--width=16", "--batch_size=16", "--steps=40", "--steps_per_call=5"]
    flags += ["--checkpoint_every=20", "--sample_every=0", "--log_every=10", "--eval_samples=700"]
    model_dir = tmp_path / "run"
    command = ["-m", "trainers.launch", "--num_workers=2", "--evaluator", "--", *flags, "--best_figure=mode_distance"]
    cluster.run([*command, f"--model_dir={model_dir}"], tmp_path / "logs", num_workers=1)
    lines = {line["step"]: line for line in json_lines.read(model_dir / "evaluator" / "evaluations.jsonl")}
    assert sorted(lines) == [20, 40]
    command = ["-m", "trainers.evaluate", f"--model_dir={model_dir}", "--num_samples=700"]
    cluster.run(command, tmp_path / "logs_evaluate", num_workers=1)
    last = json_lines.read(model_dir / "metrics.jsonl")[-1]
    assert last == {key: value for key, value in lines[40].items() if key not in ("run", "weights")}
    command = ["-m", "trainers.generate", f"--model_dir={model_dir}", f"--output={tmp_path}/x.npz"]
    cluster.run([*command, "--checkpoint=best"], tmp_path / "logs_generate", num_workers=1)
    best = min(lines.values(), key=lambda line: line["mode_distance"])
    assert np.load(tmp_path / "x.npz")["step"] == best["step"]
