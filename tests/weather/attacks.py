"""Attacks on jobs of two workers: stopped and killed processes, cut links, strangers, wrong folders and clusters.

    python -m tests.weather.attacks [--only=kills] [--rounds=2] [--seed=0] [--results=results/weather/attacks.jsonl]
    python -m tests.weather.attacks --document=docs/operations.md

Each attack is a function that makes one round of it on a tiny network, with moments from `--seed`, and returns what
happened. A round that the results hold is not repeated, so the same command continues a run that was stopped.
--document renders the table of the recorded rounds and runs nothing.
"""

import argparse
import contextlib
import dataclasses
import functools
import json
import os
import pathlib
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from benchmarks import comparison, report
from benchmarks.provenance import command_line, provenance
from dqgan_tf import config
from dqgan_tf.distribute import tf_config
from dqgan_tf.errors import EXIT_PEER_LOST, EXIT_USAGE
from dqgan_tf.telemetry import json_lines
from tests.distributed import cluster

SILENCE_SECONDS = 8  # --silence_timeout of the jobs that lose a worker
GOODBYE_SECONDS = 15  # for workers whose link is cut when the run is finished, before they say goodbye
NOTICE_SECONDS = 10  # that the others may take beyond it, see docs/operations.md
CLUSTER_SECONDS = 30  # for workers whose cluster cannot work: 10 for a port in use, the rest for their own start
START_SECONDS = 20  # --start_timeout of the jobs that lose a worker before the first step
STEP_SECONDS = 120  # for a job to start and take steps on a loaded machine
KILLS = 10  # of one run
END_SECONDS = 0.5  # in which a freeze at the end is sent: the end takes longer on any machine that this has run on
FOREVER = 1_000_000  # steps
FAST_START = ("--r1_gamma=0", "--sample_every=0")  # no gradient of a gradient to compile, no pictures

SHORT_CALLS = (
    "--dataset=gaussian_ring",
    "--network=mlp",
    "--width=16",
    "--batch_size=16",
    "--steps_per_call=2",
    "--log_every=2",
    "--sample_every=40",
    "--checkpoint_every=10",
    "--weight_check_every=20",
    f"--silence_timeout={SILENCE_SECONDS}",
)
SETTINGS = {
    "sign, all_gather": ("--compressor=sign:bucket=32", "--topology=all_gather"),
    "top-k with rules, all_gather": (
        "--compressor=topk:fraction=0.1",
        "--compressor_rules=bias=none;discriminator/=sign:bucket=32",
        "--topology=all_gather",
    ),
    "powersgd": ("--compressor=powersgd:rank=2",),
    "adaptive, two_step": ("--compressor=adaptive:bits=3,bucket=32", "--topology=two_step"),
    "sign, two_step, shift, 4 local steps": (
        "--compressor=sign:bucket=32",
        "--topology=two_step",
        "--shift=0.1",
        "--local_steps=4",
        "--steps_per_call=4",
    ),
}


@dataclasses.dataclass
class Outcome:
    """What one round showed.

    case: what was attacked, in words.
    passed: whether the documentation's promise was kept.
    result: survived, ended or refused.
    codes: exit codes of the workers; None for one that runs.
    seconds: from the attack to the end of the last process, or to the next step. Of a frozen process: from its SIGCONT.
    limit: of these seconds.
    kills: processes that were killed.
    exact: whether the resumed run has the state of an uninterrupted one; None: not compared.
    detail: last lines of the workers.
    phase: of the run that a freeze has hit, see `phase`; None: not asked.
    """

    case: str
    passed: bool
    result: str
    codes: list
    seconds: float
    limit: float
    kills: int = 0
    exact: bool | None = None
    detail: str = ""
    phase: str | None = None


class Job:
    """Two workers of `trainers.train` on this machine. A context manager: it kills them at the end.

    Args:
      folder: for its files; the model_dir is `folder`/run.
      arguments: flags of the workers.
      name: of the folder of the logs.
      environment: further variables.
    """

    def __init__(self, folder, *arguments, name="logs", environment=None):
        self.model_dir = folder / "run"
        command_ = ["-m", "trainers.train", *arguments, f"--model_dir={self.model_dir}"]
        self._cluster = cluster.Cluster(command_, folder / name, environment=environment)
        self.processes, self._before = self._cluster.processes, self.lines()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._cluster.kill()
        for process in self.processes:
            process.wait(60)

    def lines(self):
        """Number of lines in metrics.jsonl."""
        path = self.model_dir / "metrics.jsonl"
        return path.read_text().count("\n") if path.exists() else 0

    def wait_for_steps(self, count=3, seconds=STEP_SECONDS):
        """Waits for `count` more lines in metrics.jsonl. Returns whether they came while both workers ran."""
        before, end = self.lines(), time.monotonic() + seconds
        while time.monotonic() < end:
            lines = self.lines()
            before = min(before, lines)  # a resume removes lines
            if lines >= before + count:
                return True
            if any(process.has_ended() for process in self.processes):
                return False
            time.sleep(0.02)
        return False

    def signal(self, worker, number):
        self._cluster.kill(worker, number)

    def codes(self):
        """Exit codes so far."""
        return [process.wait(1) if process.has_ended() else None for process in self.processes]

    def end_of(self, workers, seconds):
        """Waits at most `seconds` for workers to end. Returns the seconds that it took, or None."""
        start = time.monotonic()
        for worker in workers:
            try:
                self.processes[worker].wait(max(0.0, start + seconds - time.monotonic()))
            except subprocess.TimeoutExpired:
                return None
        return time.monotonic() - start

    def detail(self):
        """The error of each worker, or its last line."""
        return " | ".join(map(last_line, self._cluster.logs))


def last_line(log):
    """Returns the line of a log that begins with ERROR, or its last one: TensorFlow may print another after it."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return next((line for line in reversed(lines) if line.startswith("ERROR")), lines[-1] if lines else "")[:400]


# --- a worker stops ---


def freeze(number, rng, folder):
    """SIGSTOP of one worker during the start, the training or the end of a run: the other ends in time, or is done.

    Afterwards SIGCONT: the frozen one ends as fast. The moment may miss the phase that it aims at: the promise is that
    of the phase that it hits.
    """
    aim = ("training", "training", "training", "start", "end")[number % 5]
    victim, steps = rng.randrange(2), FOREVER if aim != "end" else 150
    case = f"worker {victim}, aim: {aim}"
    with Job(folder, *SHORT_CALLS, f"--steps={steps}", f"--start_timeout={START_SECONDS}") as job:
        if aim == "start":
            time.sleep(rng.uniform(0, 15))
        elif not job.wait_for_steps():
            return Outcome(case, False, "no step", job.codes(), 0, STEP_SECONDS, detail=job.detail())
        elif aim == "end":
            cluster.wait_for(lambda: phase(job.model_dir, steps) == "end", STEP_SECONDS, "the last step")
            time.sleep(rng.uniform(0, END_SECONDS))
        else:
            time.sleep(rng.uniform(0, 3))
        job.signal(victim, signal.SIGSTOP)
        hit = "over" if job.processes[victim].has_ended() else phase(job.model_dir, steps)
        seconds = job.end_of([1 - victim], STEP_SECONDS)
        job.signal(victim, signal.SIGCONT)
        after = job.end_of([victim], STEP_SECONDS)
        limit = SILENCE_SECONDS + NOTICE_SECONDS + (START_SECONDS if hit == "start" else 0)
        allowed = {EXIT_PEER_LOST} if hit != "end" else {0, EXIT_PEER_LOST}
        longest = max(STEP_SECONDS if wait is None else wait for wait in (seconds, after))
        passed = longest <= limit and hit != "over" and set(job.codes()) <= allowed
        return Outcome(case, passed, "ended", job.codes(), longest, limit, detail=job.detail(), phase=hit)


PHASES = {"start": "at the start", "training": "in training", "end": "at the end"}


def phase(model_dir, steps):
    """The phase of a run of `steps` steps, by its files: a key of `PHASES`.

    The start has no line in metrics.jsonl. The end has the line of the last step: what follows is the last checkpoint,
    summary.json, the last exchange and the goodbye.
    """
    entries = json_lines.read(model_dir / "metrics.jsonl")
    if not entries:
        return "start"
    return "end" if entries[-1]["step"] >= steps else "training"


def pause(number, rng, folder):
    """SIGSTOP, and SIGCONT after a quarter of the limit: both go on."""
    del number
    victim = rng.randrange(2)
    with Job(folder, *SHORT_CALLS, f"--steps={FOREVER}") as job:
        started = job.wait_for_steps()
        time.sleep(rng.uniform(0, 3))
        job.signal(victim, signal.SIGSTOP)
        time.sleep(SILENCE_SECONDS / 4)
        job.signal(victim, signal.SIGCONT)
        return _goes_on(f"worker {victim}, {SILENCE_SECONDS / 4:g} s", job, started)


def starve(number, rng, folder):
    """One worker gets little processor time for 30 s, by bursts of SIGSTOP or by its niceness: both go on."""
    victim = rng.randrange(2)
    case = f"worker {victim}, " + ("bursts of SIGSTOP", "niceness 19 beside busy loops on its core")[number % 2]
    with Job(folder, *SHORT_CALLS, f"--steps={FOREVER}") as job, contextlib.ExitStack() as stack:
        started = job.wait_for_steps()
        end = time.monotonic() + 30
        if number % 2:
            pid, core = job.processes[victim].pid, min(os.sched_getaffinity(0))
            for task in os.listdir(f"/proc/{pid}/task"):
                os.setpriority(os.PRIO_PROCESS, int(task), 19)
                os.sched_setaffinity(int(task), {core})
            for _ in range(2):
                stack.enter_context(_busy_loop(core))
            time.sleep(max(0.0, end - time.monotonic()))
            stack.close()
            return _goes_on(case, job, started)
        while time.monotonic() < end:
            job.signal(victim, signal.SIGSTOP)
            time.sleep(rng.uniform(0.5, 2))
            job.signal(victim, signal.SIGCONT)
            time.sleep(rng.uniform(0.02, 0.2))
        return _goes_on(case, job, started)


@contextlib.contextmanager
def _busy_loop(core):
    program = f"import os\nos.sched_setaffinity(0, {{{core}}})\nwhile True: pass"
    process = subprocess.Popen([sys.executable, "-c", program])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def _goes_on(case, job, started):
    """The outcome of an attack that a job must survive: both workers take steps."""
    start = time.monotonic()
    passed = job.wait_for_steps(seconds=60) and started
    seconds = time.monotonic() - start
    return Outcome(case, passed, "survived" if passed else "ended", job.codes(), seconds, 60, detail=job.detail())


# --- kills ---


def kills(number, rng, folder):
    """Ten SIGKILLs of one worker or both at random moments; the last resume ends with the state of a whole run."""
    setting = list(SETTINGS)[number % len(SETTINGS)]
    arguments, start_seconds = (*SHORT_CALLS, *FAST_START, *SETTINGS[setting]), START_SECONDS / 2
    codes, notes, slowest = [], [], (0.0, SILENCE_SECONDS + NOTICE_SECONDS)
    for kill in range(KILLS):
        more = f"--steps={FOREVER}", f"--start_timeout={start_seconds}"
        with Job(folder, *arguments, *more, name=f"logs_{kill}") as job:
            if rng.random() < 0.2:
                time.sleep(rng.uniform(0, 8))
                limit = start_seconds + SILENCE_SECONDS + NOTICE_SECONDS
            else:
                _wait_for_checkpoint(job)
                time.sleep(rng.uniform(0, 1.5))
                limit = SILENCE_SECONDS + NOTICE_SECONDS
            if any(process.has_ended() for process in job.processes):
                notes.append(f"ended before kill {kill}: {job.codes()} {job.detail()}")
                break
            victims = rng.choice(([0], [1], [0, 1]))
            for victim in victims:
                job.signal(victim, signal.SIGKILL)
            survivors = [worker for worker in (0, 1) if worker not in victims]
            seconds = job.end_of(survivors, STEP_SECONDS) if survivors else 0.0
            seconds = STEP_SECONDS if seconds is None else seconds
            slowest = max(slowest, (seconds, limit), key=lambda pair: pair[0] / pair[1])
            codes += [job.codes()[worker] for worker in survivors]
            if seconds > limit or set(codes) - {EXIT_PEER_LOST}:
                notes.append(f"kill {kill}, {seconds:.1f} s: {job.detail()}")
    newest = _newest(folder / "run")
    steps = int(newest.name[5:]) + 20 if newest else 0
    exact = newest is not None and _finish(folder, arguments, steps, notes)
    passed = exact and not notes
    unique = sorted(set(codes), key=str)
    return Outcome(
        f"{setting}, {steps} steps", passed, "survived", unique, *slowest, KILLS, exact, "; ".join(notes)[:2000]
    )


def _wait_for_checkpoint(job):
    before, end = _newest(job.model_dir), time.monotonic() + STEP_SECONDS
    while _newest(job.model_dir) == before and time.monotonic() < end:
        if any(process.has_ended() for process in job.processes):
            return  # the codes will tell
        time.sleep(0.01)


def _newest(model_dir):
    from dqgan_tf.training import checkpoint

    return checkpoint.newest(model_dir / "checkpoints")


def _finish(folder, arguments, steps, notes):
    """Whether the killed run, resumed to `steps`, has the state of one that nothing stopped."""
    whole = folder / "whole"
    whole.mkdir()
    for place, more in ((folder, ()), (whole, ("--checkpoint_every=0", "--sample_every=0", "--steps_per_call=20"))):
        with Job(place, *arguments, *more, f"--steps={steps}", name="last") as job:
            job.end_of([0, 1], 2 * STEP_SECONDS)
            if job.codes() != [0, 0]:
                notes.append(f"last part: {job.codes()} {job.detail()}")
                return False
    return state(folder / "run") == state(whole / "run")


def state(model_dir):
    """All that a finished run must share with one that nothing stopped: weights, state of the replicas, logged steps.

    The state of the replicas are all tensors of the last checkpoint: residuals, directions, moments and counters.
    """
    from dqgan_tf.training import checkpoint

    folder = checkpoint.newest(model_dir / "checkpoints")
    commit = checkpoint.check_files(folder)
    prefixes = sorted({name.partition(".")[0] for name in commit["files"]})
    tensors = {
        f"{prefix}:{name}": (value.shape, value.dtype.str, value.tobytes())
        for prefix in prefixes
        for name, value in checkpoint.read_tensors(folder / prefix).items()
    }
    summary = json.loads((model_dir / "summary.json").read_text())
    logged = [entry["step"] for entry in json_lines.read(model_dir / "metrics.jsonl")]
    return tensors, summary["weights_sha256"], summary["steps"], logged


# --- folders ---


def two_jobs(number, rng, folder):
    """A second job on the folder of a job that runs is refused, and the first one goes on."""
    del number
    with Job(folder, *SHORT_CALLS, f"--steps={FOREVER}") as first:
        started = first.wait_for_steps()
        time.sleep(rng.uniform(0, 2))
        with Job(folder, *SHORT_CALLS, f"--steps={FOREVER}", name="second") as second:
            seconds = second.end_of([0, 1], STEP_SECONDS)
            codes, detail = second.codes(), second.detail()
        text = f"in use by process {first.processes[0].pid} on {os.uname().nodename}"
        goes_on = first.wait_for_steps() and started
    passed = codes == [EXIT_USAGE, EXIT_USAGE] and detail.count(text) == 2 and goes_on
    return Outcome("", passed, "refused", codes, seconds or STEP_SECONDS, 60, detail=detail)


def stale_lock(number, rng, folder):
    """Both workers are killed, the lock names a process of another machine: the next job resumes."""
    del number
    with Job(folder, *SHORT_CALLS, f"--steps={FOREVER}") as job:
        _wait_for_checkpoint(job)
        time.sleep(rng.uniform(0, 1))
        job.signal(None, signal.SIGKILL)
    lock = folder / "run" / "checkpoints" / "LOCK"
    assert lock.exists()
    lock.write_text(json.dumps({"host": "another", "process": 1}))
    start = time.monotonic()
    with Job(folder, *SHORT_CALLS, f"--steps={FOREVER}", name="second") as job:
        passed, seconds = job.wait_for_steps(), time.monotonic() - start
        detail = job.detail()
        passed = passed and "Resuming from step" in (folder / "second" / "worker_0.log").read_text()
        return Outcome("", passed, "survived", job.codes(), seconds, 60, detail=detail)


MIXED = ("replicated", "worker_0", "worker_1", "COMMIT")


def mixed(number, rng, folder):
    """Files of an older checkpoint in the newest one: refused by name."""
    del rng
    what = MIXED[number % len(MIXED)]
    run = folder / "run"
    shutil.copytree(pathlib.Path(_finished_run().name) / "run", run)
    older, newest = run / "checkpoints" / "step_00000020", run / "checkpoints" / "step_00000040"
    for path in older.glob(f"{what}*"):
        shutil.copy(path, newest / path.name)
    with Job(folder, *SHORT_CALLS, "--checkpoint_every=20", "--steps=60") as job:
        seconds, codes = job.end_of([0, 1], STEP_SECONDS), job.codes()
        logs = [path.read_text() for path in sorted((folder / "logs").glob("*.log"))]
        named = all(f"step_00000040/{what}" in log and "does not belong there" in log for log in logs)
        passed = codes == [EXIT_USAGE, EXIT_USAGE] and named
        return Outcome(what, passed, "refused", codes, seconds or STEP_SECONDS, 60, detail=job.detail())


@functools.cache
def _finished_run():
    """A temporary folder with a run of 40 steps that has checkpoints at 20 and 40; it ends with the process."""
    folder = tempfile.TemporaryDirectory()
    with Job(pathlib.Path(folder.name), *SHORT_CALLS, "--checkpoint_every=20", "--steps=40") as job:
        job.end_of([0, 1], STEP_SECONDS)
        if job.codes() != [0, 0]:
            raise RuntimeError(job.detail())
    return folder


# --- clusters and strangers ---

_A, _B = "127.0.0.1:{0}", "127.0.0.1:{1}"
# Name -> cluster and task of each worker that is started. The ports are put in.
CLUSTERS = {
    "ps in the cluster": [({"worker": [_A, _B], "ps": ["127.0.0.1:1"]}, ("worker", 0))],
    "task ps": [({"worker": [_A], "ps": [_B]}, ("ps", 0))],
    "unknown job": [({"worker": [_A, _B], "trainer": ["127.0.0.1:1"]}, ("worker", 0))],
    "task without a cluster": [(None, ("worker", 0))],
    "index out of range": [({"worker": [_A, _B]}, ("worker", 2))],
    "list of Slurm": [({"worker": ["node[0-1]:2222"]}, ("worker", 0))],
    "address with a scheme": [({"worker": ["grpc://" + _A, _B]}, ("worker", 0))],
    "one address twice": [({"worker": [_A, _A]}, ("worker", 0))],
    "two names of one address": [
        ({"worker": [_A, "localhost:{0}"]}, ("worker", 0)),
        ({"worker": [_A, "localhost:{0}"]}, ("worker", 1)),
    ],
    "one index twice": [({"worker": [_A, _B]}, ("worker", 1)), ({"worker": [_A, _B]}, ("worker", 1))],
    "two workers 0": [({"worker": [_A, _B]}, ("worker", 0)), ({"worker": [_A, _B]}, ("worker", 0))],
    "own address of another machine": [
        ({"worker": [_A, "192.0.2.1:{1}"]}, ("worker", 0)),
        ({"worker": [_A, "192.0.2.1:{1}"]}, ("worker", 1)),
    ],
    "different clusters": [
        ({"worker": [_A, _B]}, ("worker", 0)),
        ({"worker": [_A, _B, "127.0.0.1:1"]}, ("worker", 1)),
    ],
}


def clusters(number, rng, folder):
    """A cluster that cannot work: all workers say why, in the same words, and end with code 2 without waiting."""
    del rng
    name = list(CLUSTERS)[number % len(CLUSTERS)]
    ports, processes, start = cluster.free_ports(2), [], time.monotonic()
    for index, (jobs, (task, place)) in enumerate(CLUSTERS[name]):
        config = {"task": {"type": task, "index": place}}
        if jobs is not None:
            config["cluster"] = {job: [address.format(*ports) for address in jobs[job]] for job in jobs}
        environment = cluster.environment_of([0], 0) | {"TF_CONFIG": json.dumps(config)}
        arguments = ["-m", "trainers.train", *SHORT_CALLS, "--steps=10", f"--model_dir={folder}/run"]
        processes.append(cluster.start(arguments, environment, folder / f"log_{index}"))
    codes, limit = [], CLUSTER_SECONDS
    for process in processes:
        try:
            codes.append(process.wait(limit + 30))
        except subprocess.TimeoutExpired:
            codes.append(None)
            process.send_signal(signal.SIGKILL)
    seconds = time.monotonic() - start
    errors = [last_line(folder / f"log_{index}") for index in range(len(codes))]
    detail = " | ".join(errors)
    passed = set(codes) == {EXIT_USAGE} and len(set(errors)) == 1 and seconds <= limit
    return Outcome(name, passed, "refused", codes, seconds, limit, detail=detail)


def strangers(number, rng, folder):
    """Connections that say nothing, too little, nonsense, or that a worker cannot come, to every port of both workers
    until the first step.

    Who says that a worker cannot come does not know the secret.
    """
    del number
    flags, secret = (*SHORT_CALLS, "--steps=60", "--start_timeout=60"), {tf_config.SECRET: rng.randbytes(16).hex()}
    with Strangers(rng) as crowd, Job(folder, *flags, environment=secret) as job:
        start = time.monotonic()
        crowd.visit([process.pid for process in job.processes])
        started = job.wait_for_steps()
        seconds = time.monotonic() - start
        job.end_of([0, 1], STEP_SECONDS)
        passed, case = started and job.codes() == [0, 0], f"{crowd.count()} connections"
        return Outcome(case, passed, "survived", job.codes(), seconds, 60, detail=job.detail())


class Strangers:
    """Threads that connect to all sockets at which processes listen, 40 times to each. A context manager.

    One port has several listeners one after another: the meeting of the workers, then TensorFlow's server. A quarter
    of the connections stay idle, a quarter send a byte every half second, a quarter send nonsense, and a quarter say
    that a worker cannot come.
    """

    def __init__(self, rng):
        self._rng, self._open, self._stop, self._threads = rng, [], threading.Event(), []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._stop.set()
        for thread in self._threads:
            thread.join()
        for connection, _ in self._open:
            connection.close()

    def visit(self, pids):
        self._threads.append(threading.Thread(target=self._call, args=[pids]))
        self._threads.append(threading.Thread(target=self._drip))
        for thread in self._threads:
            thread.start()

    def count(self):
        return len(self._open)

    def _call(self, pids):
        seen = {}
        while not self._stop.wait(0.05):
            for port, inode in {listener for pid in pids for listener in listeners(pid)}:
                if seen.get(inode, 0) == 40:
                    continue
                with contextlib.suppress(OSError):
                    connection = socket.create_connection(("127.0.0.1", port), 1)
                    kind = seen.get(inode, 0) % 4
                    if kind == 2:
                        connection.sendall(self._rng.randbytes(300))
                    if kind == 3:
                        self._forge(connection)
                    self._open.append((connection, kind))
                    seen[inode] = seen.get(inode, 0) + 1

    def _forge(self, connection):
        """Says in the name of worker 1 that it cannot come, as in `rendezvous`, with a proof of an empty secret."""
        mistake = "A stranger says that none can come."
        with contextlib.suppress(OSError, ValueError, LookupError, TypeError):
            token = json.loads(connection.recv(1000))["token"]
            message = {"worker": 1, "mistake": mistake, "proof": tf_config.proof({}, "meeting", token, "1", mistake)}
            connection.sendall(json.dumps(message).encode() + b"\n")

    def _drip(self):
        while not self._stop.wait(0.5):
            for connection, kind in list(self._open):
                if kind == 1:
                    with contextlib.suppress(OSError):
                        connection.sendall(b"{")


def listeners(pid):
    """TCP ports and inodes of the sockets at which a process listens, from /proc."""
    inodes = set()
    with contextlib.suppress(OSError):
        for descriptor in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                inodes.add(os.readlink(f"/proc/{pid}/fd/{descriptor}"))
    found = set()
    for table in ("tcp", "tcp6"):
        for line in pathlib.Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in inodes:
                found.add((int(fields[1].rpartition(":")[2], 16), fields[9]))
    return found


# --- links ---


class Cut(NamedTuple):
    """How a link is cut.

    words: for the case.
    silence: --silence_timeout, in seconds.
    seconds: until the link is back; None: for good.
    results: those that are allowed.
    """

    words: str
    silence: float
    seconds: float | None
    results: tuple[str, ...]


CUTS = (
    Cut("for good", 15, None, ("ended",)),
    Cut("a quarter of the limit", 15, 15 / 4, ("survived",)),
    Cut("half of the limit", 15, 15 / 2, ("survived", "ended")),
)
CUTS_OF_8_S = (
    Cut("8 s, default limit", config.TrainConfig.silence_timeout, 8, ("survived", "ended")),
    Cut("8 s, limit 40 s", 40, 8, ("survived",)),
)


def links(number, rng, folder):
    """The link of a worker is cut: for good, for a time that is survived, and for one that may be too long."""
    return _cut(CUTS[number // 2 % len(CUTS)], number % 2, rng, folder)


def links_8_s(number, rng, folder):
    """The link of a worker is cut for 8 s, with a limit that may be too short, and with one that is long enough."""
    return _cut(CUTS_OF_8_S[number // 2 % len(CUTS_OF_8_S)], number % 2, rng, folder)


def _cut(cut, victim, rng, folder):
    from tests.weather import test_outages

    limit, case = cut.silence + NOTICE_SECONDS, f"worker {victim}, {cut.words}"
    with test_outages.running(folder, cut.silence) as job:
        time.sleep(rng.uniform(0, 2))
        start = time.monotonic()
        job.set_link(victim, "down")
        if cut.seconds is not None:
            time.sleep(cut.seconds)
            job.set_link(victim, "up")
            start = time.monotonic()
        before, went_on, ends = job.lines(), False, {}
        while not went_on and None in job.codes() and time.monotonic() - start < STEP_SECONDS:
            time.sleep(0.05)
            ended = [index for index, code in enumerate(job.codes()) if code is not None]
            ends = {index: time.monotonic() - start for index in ended} | ends
            went_on = job.lines() > before + 3 and cut.seconds is not None and job.codes() == [None, None]
        seconds, codes = time.monotonic() - start, job.codes()
        result = "survived" if went_on else "ended"
        passed = result in cut.results and (went_on or codes == [EXIT_PEER_LOST] * 2) and seconds <= limit
        detail = " | ".join(f"{ends.get(i, 0):.1f} s: {last_line(folder / f'log_{i}')}" for i in (0, 1))
        return Outcome(case, passed, result, codes, seconds, limit, detail=detail)


# `trainers.train` whose method of a class waits for a file before it begins.
HELD = """
import os, pathlib, time
from {module} import {name}

method, folder = {name}.{method}, pathlib.Path({folder!r})

def hold(*arguments):
    (folder / f"held_{{os.getpid()}}").touch()
    while not (folder / "go").exists():
        time.sleep(0.01)
    return method(*arguments)

{name}.{method} = hold

from dqgan_tf.training import command
from trainers import train

command.run(train.main, exits_at_once=True)
"""
# What is cut off, its place in the code, the code of both workers, and the seconds in which they end.
ENDS = (
    ("the last exchange", ("dqgan_tf.training.loop", "Loop", "close"), EXIT_PEER_LOST, 15 + NOTICE_SECONDS),
    ("the goodbye", ("dqgan_tf.distribute.message_board", "MessageBoard", "leave"), 0, GOODBYE_SECONDS),
)


def links_end(number, rng, folder):
    """The link of a worker is cut for good after the last step: before the last exchange, or before the goodbye."""
    del rng
    from tests.weather import test_outages

    victim, (what, (module, name, method), code, limit) = number % 2, ENDS[number // 2 % len(ENDS)]
    program = HELD.format(module=module, name=name, method=method, folder=str(folder))
    with test_outages.running(folder, 15, steps=60, program=("-c", program)) as job:
        cluster.wait_for(lambda: len(list(folder.glob("held_*"))) == 2, STEP_SECONDS, "the end of the run")
        job.set_link(victim, "down")
        start = time.monotonic()
        (folder / "go").touch()
        ends = {}
        while None in job.codes() and time.monotonic() - start < STEP_SECONDS:
            time.sleep(0.05)
            ended = [index for index, code in enumerate(job.codes()) if code is not None]
            ends = {index: time.monotonic() - start for index in ended} | ends
        seconds, codes = time.monotonic() - start, job.codes()
        detail = " | ".join(f"{ends.get(i, 0):.1f} s: {last_line(folder / f'log_{i}')}" for i in (0, 1))
        passed = codes == [code, code] and seconds <= limit
        return Outcome(f"worker {victim}, before {what}", passed, "ended", codes, seconds, limit, detail=detail)


# --- rounds and their table ---

# Name -> attack, number of rounds, and what the table calls it.
ATTACKS: dict[str, tuple[Callable, int, str]] = {
    "freeze": (freeze, 20, "SIGSTOP of a worker during the start, the training or the end of a run"),
    "pause": (pause, 6, "SIGSTOP, and SIGCONT after 2 s"),
    "links": (links, 6, "link of a worker cut for good, for 3.75 s, for 7.5 s (limit 15 s)"),
    "links_8_s": (links_8_s, 4, "link of a worker cut for 8 s (default limit 30 s; 40 s)"),
    "links_end": (links_end, 4, "link of a worker cut at the end: before the last exchange, before the goodbye (15 s)"),
    "strangers": (strangers, 4, "idle, slow, senseless and forged connections to all ports during the start"),
    "starve": (
        starve,
        4,
        "a worker stopped in bursts of at most 2 s, or with niceness 19 beside two busy loops, for 30 s",
    ),
    "two_jobs": (two_jobs, 2, "a second job on the same folder"),
    "stale_lock": (stale_lock, 2, "the lock of a dead job"),
    "mixed": (mixed, len(MIXED), "files of an older checkpoint in the newest one"),
    "clusters": (clusters, len(CLUSTERS), "clusters that cannot work"),
    "kills": (kills, 10, "runs with 10 SIGKILLs each, of one worker or both"),
}


def rounds(path, only, seed, most=None):
    """Runs the rounds that the results do not hold, `most` of each attack; yields a line after each."""
    done = {(entry["attack"], entry["step"], entry["provenance"]["seeds"][0]) for entry in json_lines.read(path)}
    for name in only:
        attack, count, _ = ATTACKS[name]
        for number in range(count if most is None else min(count, most)):
            if (name, number, seed) in done:
                continue
            with tempfile.TemporaryDirectory() as folder:
                outcome = attack(number, random.Random(f"{seed} {name} {number}"), pathlib.Path(folder))
            source = provenance(command_line("tests.weather.attacks"), threads=1, seeds=[seed])
            path.parent.mkdir(parents=True, exist_ok=True)
            with json_lines.JsonLinesWriter(path, resume_step=None) as writer:
                writer.write(number, {"attack": name, **dataclasses.asdict(outcome), "provenance": source})
            yield f"{name} {number}: {outcome}"


def table(entries):
    """Returns the Markdown table of the recorded rounds."""
    rows = []
    for name, (_, _, words) in ATTACKS.items():
        found = [entry for entry in entries if entry["attack"] == name]
        if not found:
            continue
        results = [entry["result"] for entry in found]
        codes = sorted({str(code) for entry in found for code in entry["codes"] if code is not None})
        what = ", ".join(f"{results.count(result)} {result}" for result in sorted(set(results)))
        phases = [entry.get("phase") for entry in found]
        hit = ", ".join(f"{phases.count(name)} {where}" for name, where in PHASES.items() if name in phases)
        slowest = max(found, key=lambda entry: entry["seconds"] / entry["limit"])
        exact = [entry["exact"] for entry in found if entry["exact"] is not None]
        rows.append(
            [
                words + (f": {hit}" if hit else ""),
                str(len(found)),
                what + (f", codes {', '.join(codes)}" if codes else ""),
                f"{slowest['seconds']:.0f} of {slowest['limit']:.0f}",
                f"{sum(exact)} of {len(exact)}" if exact else "",
                f"{sum(entry['passed'] for entry in found)} of {len(found)}",
            ]
        )
    header = ["attack", "rounds", "result", "longest, s, of the limit", "exact", "as promised"]
    return report.markdown(header, rows)


def main():
    # argparse, because a test imports this file beside those of other programs, whose absl flags have equal names.
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only", action="append", choices=list(ATTACKS), help="attack to make; may be given several times"
    )
    parser.add_argument("--rounds", type=int, help="rounds of each attack; default: all")
    parser.add_argument("--seed", type=int, default=0, help="of the moments and the victims")
    parser.add_argument("--results", default="results/weather/attacks.jsonl", help="file of the rounds")
    parser.add_argument("--document", help="Markdown file with a marked place for the table; makes no attack")
    given = parser.parse_args()
    path = pathlib.Path(given.results).expanduser()
    if given.document:
        comparison.fill(pathlib.Path(given.document).expanduser(), "weather", table(json_lines.read(path)))
        return
    for line in rounds(path, given.only or list(ATTACKS), given.seed, given.rounds):
        print(line, flush=True)


if __name__ == "__main__":
    main()
