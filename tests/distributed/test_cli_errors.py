"""What the binaries say when they cannot do what is asked: one line, an exit code, and nothing damaged.

Two commands run as a user runs them. The others are forked from one process that has imported the library and called
nothing of it yet, which spares the seconds of TensorFlow's import: `python -m tests.distributed.test_cli_errors FILE`.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
import re
import runpy
import signal
import subprocess
import sys
import time

import pytest

from tests.distributed import cluster

ENVIRONMENT = {"TF_CONFIG": None, "CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "2"}
# What TensorFlow prints as it is imported, before any setting can silence it (TensorFlow 2.21.0), and what TensorFlow
# Datasets says of a folder where nothing is prepared.
NOTICE = re.compile(r"WARNING: All log messages before absl|[IWE]0000 |W\d{4} .* file_utils.py")
SECONDS = 60  # on a loaded machine; a hang would be ended by nothing

USAGE, TRAINING = 2, 3
TWO_WORKERS = '{"cluster": {"worker": ["127.0.0.1:1", "127.0.0.1:2"]}, "task": {"type": "worker", "index": 0}}'


@dataclasses.dataclass(frozen=True)
class Case:
    """A command and what must come of it.

    arguments: behind `python -m`; `{new}` is a fresh folder's name, `{file}` a file, `{empty}` an empty folder, `{run}`
      and `{damaged}` runs of 10 steps, `{sets}` data sets, of which `own` is one.
    message: pattern that the one line on stderr contains; None where the command succeeds.
    """

    arguments: str
    message: str | None
    code: int = USAGE
    tf_config: str | None = None


TRAIN = "trainers.train --model_dir={new} "
RESUME = "trainers.train --width=16 --batch_size=16 --model_dir="
CASES = {
    "tf_config_no_json": Case(TRAIN, "TF_CONFIG is not usable: it is not JSON", tf_config="{"),
    "tf_config_no_object": Case(TRAIN, "TF_CONFIG is not usable: it must be an object", tf_config="[]"),
    "tf_config_other_task": Case(
        TRAIN, "task worker:2 is not in the cluster, which has 2 worker", tf_config=TWO_WORKERS.replace("0}", "2}")
    ),
    "tf_config_no_port": Case(TRAIN, "must be a list of host:port", tf_config=TWO_WORKERS.replace(":1", "")),
    "tf_config_empty_is_none": Case(
        TRAIN + "--replicas_per_worker=2 --batch_size=3", "multiple of their number, 2.*batch_size=3", tf_config=""
    ),
    "batch_size": Case(TRAIN + "--replicas_per_worker=2 --batch_size=3", "multiple of their number, 2.*batch_size=3"),
    "unknown_compressor": Case(TRAIN + "--compressor=gzip", "must be like one of .*linear:bits=4.*Received: 'gzip'"),
    "bits_out_of_range": Case(TRAIN + "--compressor=linear:bits=9", "`bits` must be .*Received: bits=9"),
    "bits_not_whole": Case(TRAIN + "--compressor=linear:bits=5.5", "`bits` must be .*5.5"),
    "unknown_flag": Case(TRAIN + "--learning_rate=1", "Unknown command line flag 'learning_rate'"),
    "stray_argument": Case(TRAIN + "runs/ring", "'runs/ring'"),
    "unknown_dataset": Case(TRAIN + "--dataset=fashion_mnst", "no data set 'fashion_mnst'. Near it: fashion_mnist"),
    "unprepared_dataset": Case(
        TRAIN + "--dataset=cifar10 --data_dir={empty}",
        "'cifar10' is not prepared: .*trainers.prepare --dataset=cifar10",
    ),
    "unknown_split": Case(
        TRAIN + "--dataset=own --data_dir={sets} --split=nonsense", "`split` must be .*split='nonsense'"
    ),
    "model_dir_is_a_file": Case("trainers.train --model_dir={file}", "--model_dir=.*file cannot be written"),
    "model_dir_below_a_file": Case("trainers.train --model_dir={file}/run", "--model_dir=.*file/run cannot be written"),
    "dcgan_of_points": Case(TRAIN + "--network=dcgan", "use `mlp` for points"),
    "stochastic_error_feedback": Case(
        TRAIN + "--compressor=linear:bits=4,rounding=stochastic", "contractive compressor: .*allow_non_contractive"
    ),
    "another_run": Case(RESUME + "{run} --width=32", "--width=16, this run asks for --width=32"),
    "another_seed": Case(RESUME + "{run} --seed=1", "--seed=0, this run asks for --seed=1"),
    "damaged_run": Case(RESUME + "{damaged}", "worker_0.index is missing; remove this folder"),
    "evaluate_empty": Case("trainers.evaluate --model_dir={empty}", "empty holds no run: there is no config.json"),
    "evaluate_nothing": Case("trainers.evaluate --model_dir={new}", "new holds no run"),
    "evaluate_damaged": Case("trainers.evaluate --model_dir={damaged}", "worker_0.index is missing"),
    "generate_empty": Case("trainers.generate --model_dir={empty} --output={new}.png", "empty holds no run"),
    "generate_into_a_file": Case(
        "trainers.generate --model_dir={run} --output={file}/x.npz", "Not a directory|File exists", code=TRAINING
    ),
    "generate_beside_a_cluster": Case(
        "trainers.generate --model_dir={run} --output={new}.npz --num_samples=3", None, code=0, tf_config=TWO_WORKERS
    ),
}
AS_A_USER = ("another_run", "bits_out_of_range")


class Result:
    """How a command ended.

    code: exit code.
    seconds: it took.
    lines: of stdout and stderr, without TensorFlow's notices.
    changed: files of `folder` that were changed or removed, and those that are new.
    """

    def __init__(self, folder, before, code, seconds):
        self.code, self.seconds = code, seconds
        text = (folder.parent / f"{folder.name}.log").read_text()
        self.lines = [line for line in text.splitlines() if line.strip() and not NOTICE.match(line)]
        after = contents(folder)
        self.changed = sorted(path for path in before if after.get(path) != before[path])
        self.new = sorted(set(after) - set(before))


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Every case's result. Each has a folder of its own."""
    root = tmp_path_factory.mktemp("cli")
    template = root / "template"
    make_runs(template)
    folders = {name: root / name for name in CASES}
    requests = []
    for name, case in CASES.items():
        subprocess.run(["cp", "-a", template, folders[name]], check=True)
        places = {place: folders[name] / place for place in ("new", "file", "empty", "run", "damaged", "sets")}
        arguments = case.arguments.format(**places).split()
        environment = ENVIRONMENT | {"TF_CONFIG": case.tf_config}
        requests.append({"arguments": arguments, "environment": environment, "log": f"{folders[name]}.log"})
    before = contents(template)
    forked = {name: request for name, request in zip(CASES, requests, strict=True) if name not in AS_A_USER}
    file = root / "requests.json"
    file.write_text(json.dumps(list(forked.values())))
    users = [run_as_a_user(request) for name, request in zip(CASES, requests, strict=True) if name in AS_A_USER]
    cluster.run(["-m", "tests.distributed.test_cli_errors", str(file)], root / "runner", num_workers=1)
    ends = dict(zip(forked, json.loads(file.with_suffix(".out").read_text()), strict=True))
    ends |= dict(zip(AS_A_USER, (finish(*user) for user in users), strict=True))
    return {name: Result(folders[name], before, *ends[name]) for name in CASES}


def make_runs(folder):
    """Writes the files that the cases find: a run, a damaged one, an empty folder, a file, a data set."""
    import numpy as np
    import tensorflow_datasets as tfds

    from dqgan_tf import data
    from dqgan_tf.config import NetworkConfig, RunConfig, TrainConfig
    from dqgan_tf.distribute.message_board import MessageBoard
    from dqgan_tf.training import job
    from dqgan_tf.training.checkpoint import Checkpoints
    from tests.gan.local_strategy import local_strategy

    train = TrainConfig(batch_size=16, steps=10, deterministic=False)  # determinism would stay for all later tests
    for name in ("run", "damaged"):
        config = RunConfig(str(folder / name), network=NetworkConfig(width=16), train=train)
        strategy, board = local_strategy(1), MessageBoard(0, 1)
        built = job.build(config, data.describe(config.data), strategy, board)
        Checkpoints(folder / name / "checkpoints", config, built.model, board, strategy, 3).save(10)
        (folder / name / "config.json").write_text(config.to_json())
        (folder / name / "metrics.jsonl").write_text('{"step": 10}\n')
    (folder / "damaged" / "checkpoints" / "step_00000010" / "worker_0.index").unlink()
    (folder / "empty").mkdir()
    (folder / "file").write_text("kept")
    (folder / "sets").mkdir()
    tfds.dataset_builders.store_as_tfds_dataset(
        name="own",
        version="1.0.0",
        features=tfds.features.FeaturesDict({"image": tfds.features.Image(shape=(28, 28, 1))}),
        split_datasets={"train": [(0, {"image": np.zeros((28, 28, 1), np.uint8)})]},
        data_dir=folder / "sets",
        disable_shuffling=True,
    )


def contents(folder):
    """{path: digest} of all files below `folder`."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def run_as_a_user(request):
    """Starts `python -m` of the request; returns what `finish` takes."""
    environment = os.environ | request["environment"] | {"PYTHONPATH": str(cluster.ROOT)}
    environment = {name: value for name, value in environment.items() if value is not None}
    command = [sys.executable, "-m", *request["arguments"]]
    with open(request["log"], "w") as log:
        started = time.monotonic()
        return subprocess.Popen(command, cwd=cluster.ROOT, env=environment, stdout=log, stderr=log), started


def finish(process, started):
    return process.wait(SECONDS), time.monotonic() - started


@pytest.mark.parametrize("name", CASES)
def test_says_so_in_one_line_and_damages_nothing(results, name):
    case, result = CASES[name], results[name]
    text = "\n".join(result.lines)
    assert result.code == case.code, text
    assert result.seconds < SECONDS
    assert "Traceback" not in text
    assert not result.changed
    if case.message is None:
        return
    assert re.search(case.message, text), text
    assert not result.new
    errors = [line for line in result.lines if line.startswith("ERROR: ")]
    assert result.lines == errors and len(errors) == 1, text


def test_generate_beside_a_cluster_joins_none(results):
    """TF_CONFIG of a pod names a cluster; drawing samples concerns one process and waits for nobody."""
    assert results["generate_beside_a_cluster"].new == ["new.npz"]


def fork_all(path):
    """Runs the requests in forks of this process, two at a time; writes [code, seconds] of each beside `path`."""
    import tensorflow  # noqa: F401
    import tensorflow_datasets  # noqa: F401

    from dqgan_tf.training import evaluation, export, restore, run  # noqa: F401

    requests, running, ends = json.loads(pathlib.Path(path).read_text()), {}, {}
    for number, request in enumerate(requests):
        if len(running) == 2:
            collect(running, ends)
        child = os.fork()
        if not child:
            become(request)
            return  # the interpreter ends as it does behind `python -m`
        running[child] = number, time.monotonic()
    while running:
        collect(running, ends)
    pathlib.Path(path).with_suffix(".out").write_text(json.dumps([ends[number] for number in range(len(requests))]))


def collect(running, ends):
    child, status = os.wait()
    number, started = running.pop(child)
    ends[number] = os.waitstatus_to_exitcode(status), time.monotonic() - started


def become(request):
    """Runs `python -m` of the request in this process, with its output in the log."""
    signal.alarm(SECONDS)
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT)
    os.dup2(log, 1), os.dup2(log, 2)
    for name, value in request["environment"].items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value
    sys.argv = request["arguments"]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    fork_all(sys.argv[1])
