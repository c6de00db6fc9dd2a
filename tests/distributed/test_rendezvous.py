"""The meeting of all workers before TensorFlow starts, by real connections among threads."""

import concurrent.futures
import contextlib
import errno
import socket
import threading
import time

import pytest

from dqgan_tf.distribute import rendezvous, tf_config
from dqgan_tf.distribute.tf_config import TfConfig
from dqgan_tf.errors import PeerLostError, UsageError


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(rendezvous, "_PATIENCE_SECONDS", 1.0)
    monkeypatch.setattr(rendezvous, "_PORT_SECONDS", 0.5)
    monkeypatch.setattr(rendezvous, "_RETRY_SECONDS", 0.02)


@pytest.fixture
def addresses():
    with contextlib.ExitStack() as stack:
        ports = [stack.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1] for _ in range(3)]
    return tuple(f"127.0.0.1:{port}" for port in ports)


class Workers:
    """Calls of `meet` in threads."""

    def __init__(self):
        self.pool = concurrent.futures.ThreadPoolExecutor()

    def start(self, addresses, worker, seconds=20.0):
        return self.pool.submit(rendezvous.meet, TfConfig(addresses, worker), seconds)


@pytest.fixture
def workers():
    made = Workers()
    yield made
    made.pool.shutdown()


def answer_to(address, report):
    """What worker 0, once it listens at `address`, answers to a report. The report is proved, unless it has a proof."""
    with greeted(address) as (connection, token):
        proved = rendezvous._report(token, report["worker"], report["token"], report["cluster"])
        rendezvous._tell(connection, proved | report)
        return rendezvous._read(connection)


@contextlib.contextmanager
def greeted(address):
    """Yields a connection to a worker, once it listens at `address`, and its token."""
    end = time.monotonic() + 10
    while True:
        try:
            connection = rendezvous._connect(address)
            break
        except ConnectionRefusedError:
            assert time.monotonic() < end
            time.sleep(0.02)
    with connection:
        yield connection, rendezvous._read(connection)["token"]


def same_mistake(*calls):
    """Asserts that all calls end at once by the same sentence; returns it."""
    sentences = set()
    for call in calls:
        with pytest.raises(UsageError) as caught:
            call.result(10)
        sentences.add(str(caught.value))
    [sentence] = sentences
    return sentence


class TestMeeting:
    def test_all_return_once_the_last_is_there(self, addresses, workers):
        calls = [workers.start(addresses, worker) for worker in (2, 0)]
        time.sleep(0.3)
        assert not any(call.done() for call in calls)
        for call in [*calls, workers.start(addresses, 1)]:
            call.result(10)

    def test_ports_are_free_afterwards(self, addresses, workers):
        for _ in range(2):  # as after a restart of all
            for call in [workers.start(addresses, worker) for worker in range(3)]:
                call.result(10)

    def test_one_worker_meets_nobody(self, addresses):
        rendezvous.meet(TfConfig(addresses[:1], 0), 0.0)

    def test_worker_0_may_come_last_and_a_worker_may_come_again(self, addresses, workers):
        leaves = workers.start(addresses, 1, seconds=0.2)
        with pytest.raises(PeerLostError):
            leaves.result(10)
        for call in [workers.start(addresses, worker) for worker in (1, 2, 0)]:
            call.result(10)

    def test_a_member_that_left_is_missed_again(self, addresses, workers):
        chief = workers.start(addresses, 0, seconds=3.0)
        with pytest.raises(PeerLostError):
            workers.start(addresses, 1, seconds=0.5).result(10)  # reports, waits for worker 2 and leaves
        second = workers.start(addresses, 2, seconds=3.0)
        with pytest.raises(PeerLostError, match="worker 1 at"):
            chief.result(10)
        with pytest.raises(PeerLostError):
            second.result(10)

    @pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="only Linux has this limit")
    def test_a_member_whose_host_is_cut_off_is_given_up(self, addresses):
        """The kernel ends a connection whose data nobody confirms; then select says that it is closed."""
        chief, member = (rendezvous._Meeting(TfConfig(addresses, worker)) for worker in (0, 1))
        with chief, member:
            with greeted(addresses[0]) as (connection, token):
                rendezvous._tell(connection, rendezvous._report(token, 1, member._token, list(addresses)))
                end = time.monotonic() + 10
                while 1 not in chief._members and time.monotonic() < end:
                    time.sleep(0.02)
                kept, _ = chief._members[1]
                assert kept.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 10_000


class TestNotices:
    def test_who_is_missing(self, addresses, workers, monkeypatch, capsys):
        monkeypatch.setattr(rendezvous, "_NOTICE_SECONDS", 0.2)
        chief, worker = (workers.start(addresses, index, seconds=1.5) for index in (0, 1))
        missing = f"worker 2 at {addresses[2]}"
        with pytest.raises(PeerLostError, match=rf"Worker 0 has waited 1.5 s for .*{missing}\. --start_timeout"):
            chief.result(10)
        with pytest.raises(PeerLostError):
            worker.result(10)
        lines = capsys.readouterr().err.splitlines()
        for index in (0, 1):
            assert any(line.startswith(f"Worker {index} waits for {missing}, for") for line in lines)

    def test_a_chief_that_is_not_there(self, addresses, workers):
        with pytest.raises(PeerLostError, match=f"for worker 0 at {addresses[0]}: Connection refused"):
            workers.start(addresses, 1, seconds=0.3).result(10)

    def test_a_name_that_does_not_exist(self, addresses, workers):
        with pytest.raises(PeerLostError, match="worker 0 at chief.invalid:2222: .*(not known|resolution)"):
            workers.start(("chief.invalid:2222", *addresses[1:]), 1, seconds=0.3).result(30)

    @pytest.mark.parametrize(
        "lines", [b"\x00\x00\x06\x04\n", b'{"worker": 0}\n{}\n', b'{"worker": 0}\n{"missing": 1}\n']
    )
    def test_another_program_at_the_address_of_worker_0(self, addresses, workers, lines):
        host, _, port = addresses[0].rpartition(":")

        def answer(other):
            with contextlib.suppress(OSError):
                while True:
                    other.accept()[0].sendall(lines)

        with socket.create_server((host, int(port))) as other:
            threading.Thread(target=answer, args=[other], daemon=True).start()
            with pytest.raises(PeerLostError, match="what answers there is not a worker 0 that waits"):
                workers.start(addresses, 1, seconds=0.4).result(10)


@pytest.mark.parametrize(
    ("host", "opened", "closed"),
    [
        ("127.0.0.1", ["127.0.0.1"], ["127.0.0.2"]),
        ("localhost", ["127.0.0.1"], ["127.0.0.2"]),
        ("127.0.0.2", ["127.0.0.2"], ["127.0.0.1"]),
        ("host0", ["127.0.0.1", "127.0.0.2"], []),
    ],
)
def test_where_a_worker_listens(addresses, host, opened, closed):
    port = addresses[0].rpartition(":")[2]
    with rendezvous._listen(0, f"{host}:{port}"):
        for address in opened:
            rendezvous._connect(f"{address}:{port}").close()
        for address in closed:
            with pytest.raises(ConnectionRefusedError):
                rendezvous._connect(f"{address}:{port}")


class TestRefusals:
    def test_a_port_in_use(self, addresses):
        with socket.create_server(("", int(addresses[1].rpartition(":")[2]))):
            with pytest.raises(UsageError, match="Port .* of worker 1 in TF_CONFIG, is in use"):
                rendezvous.meet(TfConfig(addresses, 1), 5.0)

    def test_another_cluster(self, addresses, workers):
        """All that have reported end at once: nobody else can come."""
        calls = [workers.start(addresses, worker) for worker in (0, 2)]
        time.sleep(0.3)
        sentence = same_mistake(*calls, workers.start((*addresses[:2], "127.0.0.1:9"), 1))
        start = "Worker 0 refuses worker 1: its TF_CONFIG holds the cluster ['127.0.0.1:"
        assert sentence.startswith(start) and f", that of worker 0 holds {list(addresses)}." in sentence

    def test_an_address_that_leads_to_another_worker(self, addresses, workers):
        """Worker 2 runs where worker 1 should: its own port is another one."""
        named = (*addresses[:2], addresses[1])  # two names of one address; `tf_config` refuses equal texts
        chief, first = (workers.start(named, index) for index in (0, 1))
        report = {"worker": 2, "token": "of another process", "cluster": list(named)}
        with greeted(named[1]):  # before it listens, its address leads nowhere
            refused = answer_to(named[0], report)["refused"]
        assert "leads to another process" in refused
        assert same_mistake(chief, first) == refused

    def test_two_names_of_one_address(self, addresses):
        """`tf_config` refuses equal texts."""
        named = (addresses[0].replace("127.0.0.1", "localhost"), addresses[0])
        with pytest.raises(UsageError, match=r"localhost:\d+ and 127.0.0.1:\d+, are two names of one address"):
            rendezvous.meet(TfConfig(named, 1), 5.0)

    def test_an_address_that_nobody_answers(self, addresses, workers):
        chief = workers.start(addresses, 0)
        refused = answer_to(addresses[0], {"worker": 1, "token": "t", "cluster": list(addresses)})["refused"]
        assert refused.startswith(f"Worker 0 refuses worker 1: worker 0 cannot reach it at {addresses[1]}, its address")
        assert same_mistake(chief) == refused

    def test_an_address_that_does_not_answer_in_time_is_asked_again(self, addresses, workers, monkeypatch):
        """As that of a busy machine. A firewall never answers, so this ends."""
        monkeypatch.setattr(rendezvous, "_GONE_SECONDS", 0.5)
        chief = workers.start(addresses, 0)

        def late(*_):
            raise TimeoutError("timed out")

        monkeypatch.setattr(rendezvous._Meeting, "_call", late)
        report = {"worker": 1, "token": "t", "cluster": list(addresses)}
        assert "its address in TF_CONFIG: timed out." in answer_to(addresses[0], report)["later"]
        time.sleep(0.5)
        refused = answer_to(addresses[0], report)["refused"]
        assert same_mistake(chief) == refused

    def test_a_worker_that_dies_at_its_report_ends_nobody(self, addresses, workers):
        """Its address leads nowhere, and that is no mistake."""
        chief = workers.start(addresses, 0, seconds=1.0)
        with greeted(addresses[0]) as (connection, token):
            rendezvous._tell(connection, rendezvous._report(token, 1, "t", list(addresses)))
        with pytest.raises(PeerLostError, match="worker 1 at"):
            chief.result(10)

    def test_a_worker_takes_the_place_of_one_whose_host_has_vanished(self, addresses, workers):
        """The last connection of the lost one is still open; its address leads to the new process."""
        chief = workers.start(addresses, 0)
        with rendezvous._Meeting(TfConfig(addresses, 1)) as lost, greeted(addresses[0]) as (connection, token):
            rendezvous._tell(connection, rendezvous._report(token, 1, lost._token, list(addresses)))
            assert rendezvous._read(connection) == {"missing": [2]}
            lost.__exit__()
            second = workers.start(addresses, 1)
            with pytest.raises(ConnectionError):  # closed for the new one; earlier, worker 2 would be the last
                while True:
                    assert rendezvous._read(connection) == {"missing": [2]}
            for call in (second, workers.start(addresses, 2), chief):
                call.result(10)

    def test_a_name_may_lead_to_the_machine_before_for_a_while(self, addresses, workers, monkeypatch):
        """A pod that starts again has another address, and name servers give the old one for some time."""
        monkeypatch.setattr(rendezvous, "_NAME_SECONDS", 1.0)
        named = (addresses[0], addresses[1].replace("127.0.0.1", "localhost"))
        report = {"worker": 1, "token": "t", "cluster": list(named)}
        chief = workers.start(named, 0)
        assert "cannot reach it at localhost" in answer_to(named[0], report)["later"]
        with socket.create_server(("127.0.0.1", int(named[1].rpartition(":")[2]))) as other:
            threading.Thread(target=lambda: rendezvous._tell(other.accept()[0], {"token": "x"})).start()
            assert "leads to another process" in answer_to(named[0], report)["later"]
        time.sleep(1.0)
        refused = answer_to(named[0], report)["refused"]
        assert "cannot reach it at localhost" in refused
        assert same_mistake(chief) == refused

    def test_a_worker_that_cannot_be_reached_yet_asks_again(self, addresses, workers, monkeypatch):
        mistake_of, asked = rendezvous._Meeting._mistake_of, []

        def not_yet(*arguments):
            asked.append(arguments)
            if len(asked) < 3:
                raise ConnectionError("worker 0 cannot reach it yet")
            return mistake_of(*arguments)

        monkeypatch.setattr(rendezvous._Meeting, "_mistake_of", not_yet)
        for call in [workers.start(addresses[:2], worker) for worker in (0, 1)]:
            call.result(10)
        assert len(asked) == 3

    @pytest.mark.parametrize("worker", [0, 1])
    @pytest.mark.parametrize("listens", [True, False])
    def test_a_host_that_is_not_this_machine(self, addresses, monkeypatch, worker, listens):
        """203.0.113.0/24 is reserved for documents. Whoever answers there is another process."""
        named = [*addresses]
        named[worker] = "203.0.113.7:" + named[worker].rpartition(":")[2]
        answer = (lambda *_: {"token": "of another"}) if listens else (lambda *_: rendezvous._connect("127.0.0.1:1"))
        monkeypatch.setattr(rendezvous._Meeting, "_call", answer)
        monkeypatch.setattr(rendezvous, "_announce", lambda *_: None)  # to that address
        end = "leads to another process" if listens else "does not lead here"
        with pytest.raises(UsageError, match=rf"The host of 203.0.113.7:\d+, .* of worker {worker} .*, and .* {end}"):
            rendezvous.meet(TfConfig(tuple(named), worker), 5.0)
        with socket.create_server(("", int(named[worker].rpartition(":")[2]))):
            pass  # nobody listens there any more

    def test_a_host_behind_nat_that_leads_here(self, addresses, workers, monkeypatch):
        monkeypatch.setattr(rendezvous, "_is_own", lambda host: False)
        for call in [workers.start(addresses, worker) for worker in (0, 1, 2)]:
            call.result(10)

    def test_a_name_that_is_not_known_yet(self, addresses, monkeypatch):
        monkeypatch.setattr(rendezvous, "_resolve", lambda address: [])
        monkeypatch.setattr(rendezvous, "_is_own", lambda host: False)
        with pytest.raises(PeerLostError, match="worker 1 at"):
            rendezvous.meet(TfConfig(addresses, 0), 0.1)

    @pytest.mark.parametrize("proof", ["", "00" * 32, 7, None])
    def test_a_worker_that_does_not_know_the_secret(self, addresses, workers, monkeypatch, proof):
        monkeypatch.setenv("DQGAN_SECRET", "of this cluster")
        chief = workers.start(addresses, 0, seconds=1.0)
        report = {"worker": 1, "token": "t", "cluster": list(addresses), "proof": proof}
        assert "its DQGAN_SECRET is not that of worker 0" in answer_to(addresses[0], report)["refused"]
        with pytest.raises(PeerLostError, match="worker 1 at"):
            chief.result(10)

    @pytest.mark.parametrize("change", [{"worker": 2}, {"token": "u"}, {"cluster": ["127.0.0.1:9"]}])
    def test_a_proof_is_of_one_report(self, addresses, workers, monkeypatch, change):
        """Who has heard a report of this cluster cannot refuse it in the name of its worker."""
        monkeypatch.setenv("DQGAN_SECRET", "of this cluster")
        chief = workers.start(addresses, 0, seconds=1.0)
        with greeted(addresses[0]) as (connection, token):
            rendezvous._tell(connection, rendezvous._report(token, 1, "t", list(addresses)) | change)
            assert "its DQGAN_SECRET is not that of worker 0" in rendezvous._read(connection)["refused"]
        with pytest.raises(PeerLostError, match="worker 1 at"):
            chief.result(10)

    def test_a_stranger_ends_no_meeting(self, addresses, workers, monkeypatch):
        """It knows all addresses and the protocol, but not the secret: no report and no mistake of it has an effect."""
        calls = [workers.start(addresses, worker) for worker in (0, 1)]
        monkeypatch.setenv("DQGAN_SECRET", "of this cluster")
        for address in addresses[:2]:
            for worker in (0, 1, 2):
                with greeted(address) as (connection, token):
                    proof = tf_config.proof({}, "meeting", token, str(worker), "none can come")
                    rendezvous._tell(connection, {"worker": worker, "mistake": "none can come", "proof": proof})
        with greeted(addresses[0]) as (connection, token):
            proof = tf_config.proof({}, "meeting", token, "2", "t", "[]")
            rendezvous._tell(connection, {"worker": 2, "token": "t", "cluster": [], "proof": proof})
            assert "proof" not in rendezvous._read(connection)
        for call in [*calls, workers.start(addresses, 2)]:
            call.result(10)

    @pytest.mark.parametrize("answer", [{"refused": "no"}, {"refused": "no", "proof": "00" * 32}])
    def test_a_refusal_of_a_stranger_in_the_place_of_worker_0(self, addresses, workers, answer):
        """Its words are not repeated."""
        host, _, port = addresses[0].rpartition(":")

        def refuse(other):
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = other.accept()
                    rendezvous._tell(connection, {"worker": 0, "token": "of a stranger"})
                    rendezvous._tell(connection, answer)

        with socket.create_server((host, int(port))) as other:
            threading.Thread(target=refuse, args=[other], daemon=True).start()
            with pytest.raises(UsageError, match="DQGAN_SECRET of worker 1 is not that of worker 0, or of the process"):
                workers.start(addresses, 1).result(10)

    def test_with_a_secret_that_all_know(self, addresses, workers, monkeypatch):
        monkeypatch.setenv("DQGAN_SECRET", "of this cluster")
        for call in [workers.start(addresses, worker) for worker in (0, 1, 2)]:
            call.result(10)

    def test_two_processes_of_one_index(self, addresses, workers, monkeypatch):
        admitted, admit = threading.Event(), rendezvous._Meeting._admit

        def admit_and_tell(*arguments):
            stays = admit(*arguments)
            if stays:
                admitted.set()
            return stays

        monkeypatch.setattr(rendezvous._Meeting, "_admit", admit_and_tell)
        chief, first = (workers.start(addresses, index) for index in (0, 1))
        assert admitted.wait(10)
        refused = answer_to(addresses[0], {"worker": 1, "token": "t", "cluster": list(addresses)})["refused"]
        assert refused == "Worker 0 refuses worker 1: another process is worker 1 already."
        assert same_mistake(chief, first) == refused

    @pytest.mark.parametrize("index", [0, 1])
    def test_two_processes_of_one_index_on_one_machine(self, addresses, workers, index):
        """The second one cannot listen, and tells the first one and worker 0, if it is there."""
        first = [workers.start(addresses, worker) for worker in range(index, 2)]
        for address in addresses[index:2]:
            with greeted(address):  # it listens
                pass
        sentence = same_mistake(workers.start(addresses, index), *first)
        assert sentence.startswith(f"Port {addresses[index].rpartition(':')[2]}, the port of worker {index} in TF_CON")


def test_too_many_open_files_for_a_while(addresses, workers, monkeypatch):
    accept, failures, lock = socket.socket.accept, [errno.EMFILE] * 4, threading.Lock()

    def refuse(listener):
        with lock:
            failure = failures.pop() if failures else None
        if failure:
            raise OSError(failure, "Too many open files")
        return accept(listener)

    monkeypatch.setattr(socket.socket, "accept", refuse)
    for started in [workers.start(addresses, worker) for worker in range(3)]:
        assert started.result(30) is None
    assert not failures


def test_strangers_delay_nobody(addresses, workers):
    """Fifteen idle connections, one that sends a byte at a time, and some that send what is no report."""
    chief = workers.start(addresses, 0)
    time.sleep(0.2)
    host, _, port = addresses[0].rpartition(":")
    with contextlib.ExitStack() as stack:
        for _ in range(15):
            stack.enter_context(socket.create_connection((host, int(port))))
        for text in (
            b"[1]\n",
            b"{}\n",
            b"GET / HTTP/1.1\r\n\r\n",
            b'{"worker": "x", "token": 1, "cluster": 2}\n',
            b"\xff\n",
        ):
            stack.enter_context(socket.create_connection((host, int(port)))).sendall(text)
        slow = stack.enter_context(socket.create_connection((host, int(port))))
        slow.sendall(b"{")
        start = time.monotonic()
        for call in [chief, *(workers.start(addresses, worker) for worker in (1, 2))]:
            call.result(10)
        assert time.monotonic() - start < 3.0
