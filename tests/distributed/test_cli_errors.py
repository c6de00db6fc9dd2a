"""What the binaries say when they cannot do what is asked: one line, an exit code, and nothing damaged.

Two commands run as a user runs them, the others in forks of a process that has imported TensorFlow and the library.
"""

import hashlib
import os
import re
import signal
import subprocess
import sys
import time
from concurrent import futures

import pytest

from tests.distributed.cli_cases import CASES, PLACES, make_files
from tests.distributed.forks import ROOT, Forks

IMPORTED = (
    "tensorflow",
    "tensorflow_datasets",
    *(f"dqgan_tf.training.{name}" for name in ("evaluation", "restore", "run")),
)
ENVIRONMENT = {"CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "2", "PYTHONPATH": str(ROOT)}
# What TensorFlow prints as it is imported, before any setting can silence it (TensorFlow 2.21.0; 2.20 begins with the
# date), and what TensorFlow Datasets says of a folder where nothing is prepared and before it prepares something.
NOTICE = re.compile(
    r"WARNING: All log messages before absl|[IWE]0000 |\d{4}-\d\d-\d\d [\d:.]+: [IWE] |W\d{4} .* file_utils.py"
    r"|Downloading and prep|=== Source Location Trace: === *$|external/xla/\S+:\d+$"
)
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
    requests = {}
    for name, case in CASES.items():
        subprocess.run(["cp", "-a", template, folders[name]], check=True)
        places = {place: folders[name] / place for place in PLACES}
        home = {"HOME": str(folders[name])} if "~" in case.arguments else {}
        tf_config = {} if case.tf_config is None else {"TF_CONFIG": case.tf_config}
        environment = os.environ | ENVIRONMENT | tf_config | home
        requests[name] = case.arguments.format(**places).split(), environment, f"{folders[name]}.log"
    before, forks = contents(template), Forks(*IMPORTED, environment=os.environ | ENVIRONMENT)
    with futures.ThreadPoolExecutor(2) as threads:
        ends = {
            name: threads.submit(run_as_a_user if name in AS_A_USER else run_in_a_fork, forks, *request)
            for name, request in requests.items()
        }
    forks.close()
    return {name: Result(folders[name], before, *end.result()) for name, end in ends.items()}


def contents(folder):
    """{path: digest} of all files below `folder`."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def run_as_a_user(_, arguments, environment, log):
    """Runs `python -m *arguments`. Returns its exit code and seconds."""
    started = time.monotonic()
    with open(log, "w") as output:
        command = [sys.executable, "-m", *arguments]
        ended = subprocess.run(command, cwd=ROOT, env=environment, stdout=output, stderr=output, timeout=SECONDS)
    return ended.returncode, time.monotonic() - started


def run_in_a_fork(forks, arguments, environment, log):
    """As `run_as_a_user`."""
    started = time.monotonic()
    process = forks.start(["-m", *arguments], environment, log)
    try:
        code = process.wait(SECONDS)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        code = process.wait()
    return code, time.monotonic() - started


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
