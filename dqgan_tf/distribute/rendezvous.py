"""Waits until every worker of TF_CONFIG is there, before TensorFlow starts.

TensorFlow waits for missing workers without a limit, names none of them, and takes the signals of the process. A
cluster that two workers describe differently hangs it. So the workers meet first, in Python: every worker listens at
its own address of TF_CONFIG, and all others report to worker 0, which compares what they say and calls them back. If
one does not fit, worker 0 tells all that have reported, and all end: the others would wait in vain.
"""

import contextlib
import ctypes
import errno
import hmac
import ipaddress
import json
import os
import secrets
import select
import signal
import socket
import sys
import threading
import time

from dqgan_tf.distribute import tf_config
from dqgan_tf.distribute.tf_config import TfConfig
from dqgan_tf.errors import EXIT_PEER_LOST, PeerLostError, UsageError

_NOTICE_SECONDS = 30.0  # time between two lines that say who is missing
_PATIENCE_SECONDS = 5.0  # limit for opening a connection, and for reading each line of it
_PORT_SECONDS = 10.0  # a worker that is started again may find its port still in use by the last one
_NAME_SECONDS = 60.0  # name servers may give the old address of a pod that has moved for this long
_GONE_SECONDS = 10.0  # limit for a host to confirm what worker 0 has written; then it counts as cut off
_RETRY_SECONDS = 0.3
_MAX_LINE = 1 << 16
_WATCH_SECONDS = 0.1


def meet(place: TfConfig, timeout_seconds: float) -> None:
    """Returns once all workers have reported to worker 0. All workers must call it, before they listen at their ports.

    Prints every 30 s for whom this worker waits.

    Args:
      place: place of this worker in the cluster.
      timeout_seconds: how long to wait for the other workers.

    Raises:
      UsageError: this worker's host is not this machine or its port is in use, two workers claim one index, workers
        describe different clusters, or an address leads to another process or nowhere: on all workers that have
        reported to worker 0. Or this worker's secret is not that of worker 0.
      PeerLostError: a worker is missing when the time is over.
    """
    if place.num_workers < 2:
        return
    notice = _Notice(place.worker_index, timeout_seconds)
    try:
        with _Meeting(place) as meeting:
            meeting.check_own_address()
            if place.worker_index:
                meeting.report(notice)
            else:
                meeting.gather(notice)
    except _RefusedError:
        raise
    except UsageError as error:
        _announce(place, str(error))
        raise


class _RefusedError(UsageError):
    """The workers cannot meet, as another one has said."""


def _announce(place, mistake):
    """Tells another process at this worker's address, and worker 0, why this worker cannot come.

    Worker 0 may start a little later than this one.
    """
    me, end = place.worker_index, time.monotonic() + _PORT_SECONDS
    _tell_mistake(place.addresses[me], me, mistake)
    while me and not _tell_mistake(place.addresses[0], me, mistake) and time.monotonic() < end:
        time.sleep(_RETRY_SECONDS)


def _tell_mistake(address, worker, mistake):
    """Tells the worker at `address` that another one cannot come. Returns whether it listened."""
    with contextlib.suppress(OSError, ValueError), _connect(address) as connection:
        proof = _proof(str(_read(connection).get("token")), worker, mistake)
        _tell(connection, {"worker": worker, "mistake": mistake, "proof": proof})
        return True
    return False


@contextlib.contextmanager
def limit(timeout_seconds: float):
    """Ends this process with code 4 and a sentence if the body takes longer than `timeout_seconds`.

    For TensorFlow's own connecting, which no exception can interrupt: if a worker dies or freezes right after the
    meeting, the others would wait for an hour. TensorFlow's notifier of preemptions, which starts then, would also take
    a SIGTERM, which would be lost. With the default handler it ends the process at once here; a handler of Python's
    runs after the body.
    Only in the main thread, whose handlers and mask count, and where Python has `sigtimedwait`.
    """
    if threading.current_thread() is threading.main_thread() and hasattr(signal, "sigtimedwait"):
        with _sigterm_held(), _watched(timeout_seconds, signal.getsignal(signal.SIGTERM) == signal.SIG_DFL):
            yield
    else:
        with _watched(timeout_seconds, takes_signal=False):
            yield


@contextlib.contextmanager
def _sigterm_held():
    """Holds SIGTERM back from this thread while the body runs."""
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    try:
        yield
    finally:
        if signal.SIGTERM in signal.sigpending():
            # Puts back what Python knows of, in place of TensorFlow's handler.
            signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM) or signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


@contextlib.contextmanager
def _watched(timeout_seconds, takes_signal):
    """Runs `_watch` beside the body."""
    done = threading.Event()
    watch = threading.Thread(target=_watch, args=[done, timeout_seconds, takes_signal], daemon=True)
    watch.start()
    try:
        yield
    finally:
        done.set()
        watch.join()


def _watch(done, timeout_seconds, takes_signal):
    """The thread of `limit`."""
    end = time.monotonic() + timeout_seconds
    while not done.wait(0.0 if takes_signal else _WATCH_SECONDS):
        if takes_signal and signal.sigtimedwait([signal.SIGTERM], _WATCH_SECONDS):
            ctypes.CDLL(None).signal(signal.SIGTERM, ctypes.c_void_p(0))  # SIG_DFL; Python sets it in its main thread
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
            os.kill(os.getpid(), signal.SIGTERM)
        if time.monotonic() > end:
            print(
                f"ERROR: After the meeting of all workers, TensorFlow could not connect them in {timeout_seconds:g} s: "
                "a worker has died or is frozen. Start all workers again. --start_timeout sets the limit.",
                file=sys.stderr,
                flush=True,
            )
            os._exit(EXIT_PEER_LOST)


class _Meeting:
    """One worker's part. It tells its token to whoever connects, so that worker 0 knows where an address leads.

    Every connection has a thread and a few seconds: a stranger that says nothing delays nobody. What ends the meeting,
    the mistake of a worker or a refusal, needs a proof of the secret.
    """

    def __init__(self, place):
        self._me, self._addresses = place.worker_index, list(place.addresses)
        self._token = secrets.token_hex(16)
        self._mistake = ""  # why the workers cannot meet
        self._lock = threading.Lock()  # guards the next two, of worker 0
        self._members = {}  # worker index -> (open connection, token)
        self._unreached = {}  # worker index -> when its address first led nowhere
        self._listener = _listen(self._me, self._addresses[self._me])
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
        self._listener.close()
        with self._lock:
            for connection, _ in self._members.values():
                connection.close()

    def check_own_address(self):
        """Raises UsageError if this worker's address is of another machine.

        It is of this one if its host is, or if it leads here, as behind NAT. A name that is not known yet passes: a pod
        may start before its name.
        """
        address, start = self._addresses[self._me], time.monotonic()
        while True:
            hosts = _resolve(address)
            if not hosts or any(map(_is_own, hosts)):
                return
            answer = ""
            with contextlib.suppress(OSError, ValueError):
                answer = self._call(self._me).get("token")
            if answer == self._token:
                return
            if not _is_name(address) or time.monotonic() - start > _NAME_SECONDS:
                leads = "leads to another process" if answer else "does not lead here"
                raise UsageError(
                    f"The host of {address}, the address of worker {self._me} in TF_CONFIG, is not this machine "
                    f"({', '.join(hosts)}), and the address {leads}. task.index must be that of this machine's address."
                )
            time.sleep(_RETRY_SECONDS)

    def gather(self, notice):
        """Worker 0: waits for the reports of all others."""
        while True:
            mistake = self._mistake
            with self._lock:
                self._members = {w: member for w, member in self._members.items() if not _is_closed(member[0])}
                missing = [worker for worker in range(1, len(self._addresses)) if worker not in self._members]
                for worker, (connection, token) in self._members.items():
                    with contextlib.suppress(OSError):
                        _tell(connection, _refusal(token, worker, mistake) if mistake else {"missing": missing})
            if mistake:
                raise _RefusedError(mistake)
            if not missing:
                return
            notice.wait(self._names(missing))

    def report(self, notice):
        """Another worker: reports to worker 0 until that one misses nobody."""
        while True:
            try:
                with _connect(self._addresses[0]) as connection:
                    greeting = _read(connection)
                    if greeting.get("token") == self._token:
                        raise UsageError(
                            f"The addresses of worker 0 and worker {self._me} in TF_CONFIG, {self._addresses[0]} and "
                            f"{self._addresses[self._me]}, are two names of one address."
                        )
                    if greeting.get("worker") != 0:
                        raise ValueError
                    self._follow(connection, str(greeting.get("token")), notice)
                    return
            except UsageError:
                raise
            except ValueError:
                reason = "what answers there is not a worker 0 that waits"
            except OSError as error:
                reason = error.strerror or str(error) or "it does not answer"
            self._wait(notice, f"{self._names([0])}: {reason}")

    def _wait(self, notice, missing):
        """As `_Notice.wait`. Raises UsageError once it is known that the workers cannot meet."""
        if self._mistake:
            raise _RefusedError(self._mistake)
        notice.wait(missing)

    def _follow(self, connection, token, notice):
        """Returns once worker 0, which has told its `token`, has all reports."""
        _tell(connection, _report(token, self._me, self._token, self._addresses))
        while (answer := _read(connection)).get("missing") != []:
            if "refused" in answer:
                if answer != _refusal(self._token, self._me, answer["refused"]):
                    raise _RefusedError(
                        f"The {tf_config.SECRET} of worker {self._me} is not that of worker 0, or of the process that "
                        f"answers at {self._addresses[0]} in its place. Give all workers the same one."
                    )
                raise _RefusedError(answer["refused"])
            if "later" in answer:
                raise ConnectionError(answer["later"])
            if not isinstance(answer.get("missing"), list):
                raise ValueError(f"not an answer of worker 0: {answer!r}")
            self._wait(notice, self._names([worker for worker in answer["missing"] if worker != self._me] or [0]))

    def _accept(self):
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError as error:
                if error.errno in (errno.EINVAL, errno.EBADF):  # shut down, closed
                    return
                time.sleep(_RETRY_SECONDS)  # too many open files, for example
                continue
            try:
                threading.Thread(target=self._answer, args=[connection], daemon=True).start()
            except RuntimeError:  # no more threads
                connection.close()

    def _answer(self, connection):
        stays = False
        try:
            _tell(connection, {"worker": self._me, "token": self._token})
            message = _read(connection)
            if "mistake" in message:
                self._note(str(message["mistake"]), message)
            elif self._me == 0:
                stays = self._admit(connection, message)
        except (OSError, ValueError, LookupError, TypeError):  # a stranger
            pass
        finally:
            if not stays:
                connection.close()

    def _note(self, mistake, message):
        """Takes the mistake of a worker, which ends this one, too."""
        worker = message["worker"]
        if _is_proof(message, _proof(self._token, worker, mistake)):
            self._mistake = self._mistake or mistake

    def _admit(self, connection, report):
        """Keeps the connection of a worker that fits. Returns whether it does."""
        worker, token, cluster = report["worker"], report["token"], report["cluster"]
        if not _is_proof(report, _report(self._token, worker, token, cluster)["proof"]):
            refused = f"its {tf_config.SECRET} is not that of worker 0. Give all workers the same one."
            print(f"Worker 0 refuses worker {worker}: {refused}", file=sys.stderr, flush=True)
            _tell(connection, {"refused": refused})  # without a proof: who sent the report may be a stranger
            return False
        try:
            mistake = self._mistake_of(worker, token, cluster)
        except ConnectionError as error:
            _tell(connection, {"later": str(error)})
            return False
        if mistake:
            time.sleep(_RETRY_SECONDS)
            if not _is_closed(connection):  # else it has died, and that was why its address led nowhere
                mistake = f"Worker 0 refuses worker {worker}: {mistake}"
                _tell(connection, _refusal(token, worker, mistake))
                self._mistake = self._mistake or mistake
            return False
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux
            # Worker 0 writes all the time: a host that is cut off is missed, and another process may take its place.
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(1e3 * _GONE_SECONDS))
        with self._lock:
            if worker in self._members:  # its process is gone: its address leads to this one
                self._members[worker][0].close()
            self._members[worker] = connection, token
        return True

    def _mistake_of(self, worker, token, cluster):
        """Returns why a worker does not fit; empty if it does. Raises ConnectionError if that cannot be said yet."""
        if cluster != self._addresses:
            return f"its TF_CONFIG holds the cluster {cluster}, that of worker 0 holds {self._addresses}."
        named = f"{self._addresses[worker]}, its address in TF_CONFIG"
        try:
            answer = self._call(worker).get("token")
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            return self._unless_stale(worker, f"worker 0 cannot reach it at {named}: {reason}.", error)
        if answer == token:
            with self._lock:
                self._unreached.pop(worker, None)
            return ""
        with self._lock:
            if worker in self._members and self._members[worker][1] == answer:
                return f"another process is worker {worker} already."
        return self._unless_stale(worker, f"{named}, leads to another process.")

    def _unless_stale(self, worker, mistake, error=None):
        """Returns the mistake, unless another attempt may end otherwise.

        The worker's name may be that of a machine that it has just left, and a machine that is busy or far away may not
        have answered in time.
        """
        now = time.monotonic()
        with self._lock:
            seconds = now - self._unreached.setdefault(worker, now)
        patience = _GONE_SECONDS if isinstance(error, TimeoutError) else 0.0
        if seconds < (_NAME_SECONDS if _is_name(self._addresses[worker]) else patience):
            raise ConnectionError(mistake)
        return mistake

    def _call(self, worker):
        # Less than the patience of the worker that waits for what comes of it.
        with _connect(self._addresses[worker], _PATIENCE_SECONDS / 3) as connection:
            return _read(connection, _PATIENCE_SECONDS / 3)

    def _names(self, workers):
        shown = ", ".join(f"worker {worker} at {self._addresses[worker]}" for worker in workers[:8])
        return shown + (f" and {len(workers) - 8} more" if len(workers) > 8 else "")


class _Notice:
    """Says from time to time for whom a worker waits, and ends the waiting."""

    def __init__(self, worker, timeout_seconds):
        self._worker, self._timeout = worker, timeout_seconds
        self._start = time.monotonic()
        self._next = self._start + _NOTICE_SECONDS

    def wait(self, missing):
        """Waits a moment for `missing`, a text.

        Raises:
          PeerLostError: the time is over.
        """
        now = time.monotonic()
        if now - self._start > self._timeout:
            raise PeerLostError(
                f"Worker {self._worker} has waited {self._timeout:g} s for {missing}. --start_timeout sets the limit."
            )
        if now >= self._next:
            self._next += _NOTICE_SECONDS
            seconds = round(now - self._start)
            print(f"Worker {self._worker} waits for {missing}, for {seconds} s.", file=sys.stderr, flush=True)
        time.sleep(_RETRY_SECONDS)


def _report(token_0, worker, token, cluster):
    """What a worker tells worker 0, whose token it has read."""
    proof = _proof(token_0, worker, token, json.dumps(cluster))
    return {"worker": worker, "token": token, "cluster": cluster, "proof": proof}


def _refusal(token, worker, mistake):
    """What worker 0 tells a worker: why the workers cannot meet."""
    return {"refused": mistake, "proof": _proof(token, worker, "refused", mistake)}


def _proof(token, worker, *parts):
    """Proof of the secret for a message to the process with that token."""
    return tf_config.proof(os.environ, "meeting", token, str(worker), *parts)


def _is_proof(message, proof):
    return hmac.compare_digest(str(message.get("proof")).encode(), proof.encode())


def _listen(worker, address):
    """Listens at the port of `address`, where TensorFlow will; if the host is localhost or 127.x, there alone."""
    host, _, port = address.rpartition(":")
    host = "127.0.0.1" if host == "localhost" else host
    port, end = int(port), time.monotonic() + _PORT_SECONDS
    dual = socket.has_dualstack_ipv6()
    while True:
        try:
            if host.startswith("127."):
                return socket.create_server((host, port), backlog=128)
            if dual:
                return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=128)
            return socket.create_server(("", port), backlog=128)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise UsageError(
                    f"Worker {worker} cannot listen at port {port}, its port in TF_CONFIG: {error.strerror}."
                ) from None
            if time.monotonic() > end:
                raise UsageError(
                    f"Port {port}, the port of worker {worker} in TF_CONFIG, is in use: by another program, or by a "
                    f"second process with the index {worker}."
                ) from None
        time.sleep(_RETRY_SECONDS)


def _resolve(address):
    """Returns the numeric addresses of the host; none if its name is not known."""
    try:
        infos = socket.getaddrinfo(_host(address), None, type=socket.SOCK_STREAM)
    except OSError:
        return []
    return list(dict.fromkeys(info[4][0] for info in infos))


def _is_own(host):
    """Whether a numeric address is of this machine: one can listen there."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family) as probe:
            probe.bind((host, 0))
    except OSError:
        return False
    return True


def _is_name(address):
    try:
        ipaddress.ip_address(_host(address))
    except ValueError:
        return True
    return False


def _host(address):
    return address.rpartition(":")[0].strip("[]")


def _connect(address, seconds=None):
    host, _, port = address.rpartition(":")
    return socket.create_connection((host.strip("[]"), int(port)), seconds or _PATIENCE_SECONDS)


def _tell(connection, message):
    connection.settimeout(_PATIENCE_SECONDS)
    connection.sendall(json.dumps(message).encode() + b"\n")


def _read(connection, seconds=None):
    """Returns the next message, a dict. It must come within `seconds`, by default `_PATIENCE_SECONDS`.

    Raises:
      OSError: it did not come in time.
      ValueError: it is no message.
    """
    end, line = time.monotonic() + (seconds or _PATIENCE_SECONDS), b""
    while not line.endswith(b"\n"):
        connection.settimeout(max(1e-3, end - time.monotonic()))
        byte = connection.recv(1)
        if not byte:
            raise ConnectionResetError("it was there and has left")
        line += byte
        if len(line) > _MAX_LINE:
            raise ValueError("a message without an end")
    message = json.loads(line)
    if not isinstance(message, dict):
        raise ValueError(f"not a message: {message!r}")
    return message


def _is_closed(connection):
    """Whether the other side has closed. It sends nothing after its report."""
    poll = select.poll()  # `select.select` fails at descriptor 1024
    poll.register(connection, select.POLLIN)
    return bool(poll.poll(0))
