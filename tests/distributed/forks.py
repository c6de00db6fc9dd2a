"""Programs in forks of one process that has imported what takes long and has called nothing of it.

Importing TensorFlow keeps a core busy for 2.6 s; a fork has it at once, and otherwise runs and ends as behind
`python -m`. `Forks` is the side of the tests; `python -m tests.distributed.forks MODULE...` is the process that forks.
"""

import ctypes
import faulthandler
import importlib
import json
import os
import pathlib
import queue
import runpy
import signal
import subprocess
import sys
import threading

ROOT = pathlib.Path(__file__).resolve().parents[2]
_PR_SET_PDEATHSIG = 1
_SECONDS_FOR_IMPORTS = 120  # on a loaded machine


class Forks:
    """A process that forks.

    Args:
      modules: that it imports. None of them may start threads or read settings from the environment when imported.
      environment: of it; that of a program is given at its start.
    """

    def __init__(self, *modules, environment):
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.distributed.forks", *modules],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=die_with_parent,  # a test run that is killed leaves no process behind
        )
        self._starting, self._started = threading.Lock(), queue.Queue()
        self._codes, self._changed = {}, threading.Condition()
        threading.Thread(target=self._listen, daemon=True).start()

    def start(self, arguments, environment, log):
        """Starts `python *arguments`, of the form `-m MODULE ...` or `-c CODE ...`. Returns its `Fork`.

        Args:
          arguments: after the interpreter.
          environment: all variables.
          log: path of a file that takes what it prints.
        """
        request = {"arguments": list(map(str, arguments)), "environment": environment, "log": str(log)}
        pathlib.Path(log).touch()  # the fork opens it later than a test may read it
        with self._starting:
            print(json.dumps(request), file=self._server.stdin, flush=True)
            return Fork(self._started.get(timeout=_SECONDS_FOR_IMPORTS), self)

    def wait(self, pid, timeout):
        """Returns the exit code of a program as `subprocess` does, minus the signal that killed it."""
        with self._changed:
            if not self._changed.wait_for(lambda: pid in self._codes, timeout):
                raise subprocess.TimeoutExpired(str(pid), timeout)
        return self._codes[pid]

    def has_ended(self, pid):
        return pid in self._codes

    def close(self):
        """Ends the process that forks, and with it its forks."""
        self._server.stdin.close()
        self._server.wait()

    def _listen(self):
        for line in self._server.stdout:
            pid, code = json.loads(line)
            if code is None:
                self._started.put(pid)
                continue
            with self._changed:
                self._codes[pid] = code
                self._changed.notify_all()


class Fork:
    """A program under way, with the methods of `subprocess.Popen` that tests use."""

    def __init__(self, pid, forks):
        self.pid, self._forks = pid, forks

    def wait(self, timeout=None):
        return self._forks.wait(self.pid, timeout)

    def has_ended(self):
        return self._forks.has_ended(self.pid)

    def send_signal(self, number):
        if not self.has_ended():
            os.kill(self.pid, number)


def die_with_parent():
    """As the launcher's function, which is not imported: a program may bring a library of its own."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def serve(*modules):
    """Forks once per line of stdin. Writes [pid, null] of each program that started, [pid, code] of each that ended."""
    for module in modules:
        importlib.import_module(module)
    signal.signal(signal.SIGCHLD, report)
    for line in sys.stdin:
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
        child = os.fork()
        if child:
            tell(child, None)
        else:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])
        if not child:
            become(**json.loads(line))
            return  # the interpreter ends as it does behind `python -m`


def report(*_):
    """Tells of all programs that have ended."""
    try:
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            tell(ended[0], os.waitstatus_to_exitcode(ended[1]))
    except ChildProcessError:
        return


def tell(pid, code):
    os.write(1, (json.dumps([pid, code]) + "\n").encode())


def become(arguments, environment, log):
    """Runs a program in this process."""
    die_with_parent()
    output, nothing = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0), os.dup2(output, 1), os.dup2(output, 2)
    os.environ.clear()
    os.environ.update(environment)
    if environment.get("PYTHONFAULTHANDLER"):
        faulthandler.enable()
    form, program, *rest = arguments
    sys.argv = [form if form == "-c" else program, *rest]
    if form == "-m":
        runpy.run_module(program, run_name="__main__", alter_sys=True)
    else:
        exec(compile(program, "<string>", "exec"), {"__name__": "__main__"})


if __name__ == "__main__":
    serve(*sys.argv[1:])
