"""Bytes on the wire as the kernel counts them, against those that a channel reports; also each worker's program."""

import functools
import json
import pathlib
import subprocess
import sys
import time

import pytest

from tests.distributed import cluster

pytestmark = pytest.mark.timeout(900)
COUNTERS = pathlib.Path("/proc/net/dev")
VALUES, STEPS, IDLE_SECONDS = 2_000_000, 50, 3.0
LINEAR, SIGN = "linear:bits=4,bucket=512@all_gather", "sign:bucket=512@all_gather"
SPECS = (LINEAR, SIGN, "none@auto", "ternary:bucket=512@two_step", "adaptive:bits=3,bucket=512@two_step")
# TCP, HTTP/2 and gRPC put headers of some 100 bytes on segments of up to 64 kB, and acknowledge them.
OVERHEAD = 0.02
# In a network namespace of its own, where the system allows it, no other program's traffic is counted.
ALONE = ["unshare", "--map-root-user", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]


def loopback_bytes():
    """Bytes sent through `lo` since the system started: what one process sends another here is counted once."""
    for line in COUNTERS.read_text().splitlines():
        name, _, figures = line.partition(":")
        if name.strip() == "lo":
            return int(figures.split()[8])
    return None


def countable():
    try:
        return loopback_bytes() is not None
    except OSError:
        return False


@pytest.fixture(scope="module", params=[3])
def measured(request, tmp_path_factory):
    """{spec: (bytes counted, without those of an idle cluster; bytes reported)}."""
    if not countable():
        pytest.skip(f"no counters of the interface lo in {COUNTERS}")
    folder = tmp_path_factory.mktemp("wire")
    command = [sys.executable, "-m", "tests.distributed.test_wire_bytes", str(folder), str(request.param)]
    if subprocess.run([*ALONE, "true"], capture_output=True, check=False).returncode == 0:
        command = [*ALONE, *command]
    subprocess.run(command, cwd=cluster.ROOT, check=True, timeout=850)
    return json.loads((folder / "measured.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("spec", SPECS)
def test_the_kernel_counts_what_the_channel_reports(measured, spec):
    counted, reported = measured[spec]
    assert reported > 20e6  # other traffic through lo is small beside it
    assert reported <= counted * 1.002  # 0.2 %: other traffic in the idle time may be subtracted too much
    assert counted == pytest.approx(reported, rel=OVERHEAD)


@pytest.mark.slow
def test_compression_is_what_it_says(measured):
    """4 + 32/512 and 1 + 32/512 bits a value instead of 32."""
    dense, workers = measured["none@auto"][0], measured["workers"]
    for spec, bits in ((LINEAR, 4), (SIGN, 1)):
        # A ring sends each worker's vector 2 (M-1)/M times, an all-gather the packet M-1 times.
        ratio = 2 / workers * 32 / (bits + 32 / 512)
        assert dense / measured[spec][0] == pytest.approx(ratio, rel=2 * OVERHEAD)


def main(folder):
    from dqgan_tf import compressors
    from dqgan_tf.distribute.layout import Vector
    from dqgan_tf.distribute.message_board import MessageBoard
    from dqgan_tf.distribute.strategy import CompressedStrategy

    strategy = CompressedStrategy()
    board = MessageBoard(strategy.worker_index, strategy.num_workers)
    figures = {"workers": strategy.num_workers}
    for spec in SPECS:
        name, _, topology = spec.partition("@")
        channel = strategy.open_channel(
            spec, [Vector("values", compressors.get(name), ((VALUES,),), (0,))], topology=topology
        )
        exchange = exchange_function(strategy, channel)
        exchange(1)  # traces, connects
        idle, idle_seconds = count(board, lambda: time.sleep(IDLE_SECONDS))
        busy, busy_seconds = count(board, functools.partial(exchange, STEPS))
        counted = busy - idle * busy_seconds / idle_seconds
        figures[spec] = counted, channel.sent_bytes * strategy.num_replicas_in_sync * STEPS
    if strategy.is_chief:
        (pathlib.Path(folder) / "measured.json").write_text(json.dumps(figures))
    board.leave(60.0)


def exchange_function(strategy, channel):
    """Returns a function that sends `num_steps` updates through the channel on every replica."""
    import tensorflow as tf

    def replica():
        update = tf.random.stateless_normal([VALUES], [1, strategy.worker_index])
        tf.distribute.get_replica_context().all_reduce("mean", [update], options=channel.options)

    @tf.function(autograph=False)
    def exchange(num_steps):
        def body(step):
            strategy.run(replica)
            return step + 1

        return tf.while_loop(lambda step: step < num_steps, body, [tf.constant(0)])

    return lambda num_steps: exchange(tf.constant(num_steps))


def count(board, action):
    """Returns bytes through lo and seconds from before the first worker's `action` to after the last one's."""
    board.exchange("before", "")
    sent, started = loopback_bytes(), time.monotonic()
    board.exchange("start", "")
    action()
    board.exchange("after", "")
    return loopback_bytes() - sent, time.monotonic() - started


if __name__ == "__main__":
    folder, *num_workers = sys.argv[1:]
    if num_workers:
        program = ["-m", "tests.distributed.test_wire_bytes", folder]
        cluster.run(program, pathlib.Path(folder) / "logs", int(*num_workers), timeout=800)
    else:
        main(folder)
