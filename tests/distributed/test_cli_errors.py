"""What the binaries say when they cannot do what is asked: one line, an exit code, and nothing damaged.

Two commands run as a user runs them. The others are forked from one process that has imported the library and called
nothing of it yet, which spares the seconds of TensorFlow's import: `python -m tests.distributed.test_cli_errors FILE`.
"""

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
from concurrent import futures

import pytest

from tests.distributed import cluster
from tests.distributed.cli_cases import CASES, PLACES, make_files

ENVIRONMENT = {"TF_CONFIG": None, "CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "2"}
# What TensorFlow prints as it is imported, before any setting can silence it (TensorFlow 2.21.0), and what TensorFlow
# Datasets says of a folder where nothing is prepared and before it prepares something.
NOTICE = re.compile(r"WARNING: All log messages before absl|[IWE]0000 |W\d{4} .* file_utils.py|Downloading and prep")
SECONDS = 60  # on a loaded machine; a hang would be ended by nothing

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
    make_files(template)
    folders = {name: root / name for name in CASES}
    requests = []
    for name, case in CASES.items():
        subprocess.run(["cp", "-a", template, folders[name]], check=True)
        places = {place: folders[name] / place for place in PLACES}
        arguments = case.arguments.format(**places).split()
        home = {"HOME": str(folders[name])} if "~" in case.arguments else {}
        environment = ENVIRONMENT | {"TF_CONFIG": case.tf_config} | home
        requests.append({"arguments": arguments, "environment": environment, "log": f"{folders[name]}.log"})
    before = contents(template)
    forked = {name: request for name, request in zip(CASES, requests, strict=True) if name not in AS_A_USER}
    file = root / "requests.json"
    file.write_text(json.dumps(list(forked.values())))
    with futures.ThreadPoolExecutor() as threads:
        chosen = [request for name, request in zip(CASES, requests, strict=True) if name in AS_A_USER]
        users = [threads.submit(run_as_a_user, request) for request in chosen]
        cluster.run(["-m", "tests.distributed.test_cli_errors", str(file)], root / "runner", num_workers=1)
    ends = dict(zip(forked, json.loads(file.with_suffix(".out").read_text()), strict=True))
    names = [name for name in CASES if name in AS_A_USER]
    ends |= {name: user.result() for name, user in zip(names, users, strict=True)}
    return {name: Result(folders[name], before, *ends[name]) for name in CASES}


def contents(folder):
    """{path: digest} of all files below `folder`."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def run_as_a_user(request):
    """Runs `python -m` of the request; returns its exit code and seconds."""
    environment = os.environ | request["environment"] | {"PYTHONPATH": str(cluster.ROOT)}
    environment = {name: value for name, value in environment.items() if value is not None}
    command = [sys.executable, "-m", *request["arguments"]]
    started = time.monotonic()
    with open(request["log"], "w") as log:
        ended = subprocess.run(command, cwd=cluster.ROOT, env=environment, stdout=log, stderr=log, timeout=SECONDS)
    return ended.returncode, time.monotonic() - started


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

    from dqgan_tf.training import evaluation, restore, run  # noqa: F401

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
