"""What a packet waits for, read from the graph: everything that an operation can be reached from."""

import pytest
import tensorflow as tf

from dqgan_tf import compressors, private_tensorflow
from dqgan_tf.distribute import clock
from dqgan_tf.distribute.channel import Channel
from dqgan_tf.distribute.options import CompressionOptions
from dqgan_tf.distribute.segment import Segment
from dqgan_tf.distribute.transport.sockets import SocketCollectives

N = 4096
DEVICE = "/job:localhost/replica:0/task:0/device:CPU:0"


def graph_of(topology):
    """The graph of a mean of two segments in a bucket each, of which the second comes late, with a clock before it."""
    segments = [Segment(name, N, compressors.get("linear:bits=4,bucket=512")) for name in ("first", "second")]
    channel = Channel(
        "updates",
        segments,
        error_feedback=True,
        topology=topology,
        devices=[DEVICE],
        groups=[SocketCollectives(None, [0, 1], 0)],  # nothing is sent: the graph is built, not run
        streams=[0],
        bucket_mb=4 * N / 2**20,
    )
    assert len(channel.reductions) == 2

    @tf.function(autograph=False)
    def mean(first, second):
        values = [tf.identity(first, name="early"), tf.identity(second, name="late")]
        computed = clock.now(values)
        return channel.mean(values, 0, CompressionOptions(channel="updates")), computed

    return mean.get_concrete_function(*[tf.TensorSpec([N])] * 2).graph


def sockets_of(graph):
    """The operations of sockets, in order; a clock gives a float64."""
    return [one for one in graph.get_operations() if one.type == "PyFunc" and one.outputs[0].dtype == tf.float32]


def waits_for(operation):
    """The names of all operations that run before this one."""
    seen, todo = set(), [operation]
    while todo:
        for one in [*[tensor.op for tensor in todo[-1].inputs], *todo.pop().control_inputs]:
            if one.name not in seen:
                seen.add(one.name)
                todo.append(one)
    return seen


@pytest.fixture(params=[False, True], ids=["timestamp", "deterministic"])
def deterministic(monkeypatch, request):
    """Other operations read the clock then."""
    monkeypatch.setattr(private_tensorflow, "is_op_determinism_enabled", lambda: request.param)
    return request.param


@pytest.mark.usefixtures("deterministic")
@pytest.mark.parametrize("topology", ["all_gather", "two_step"])
def test_a_packet_leaves_before_later_values_exist(topology):
    packets = sockets_of(graph_of(topology))
    first, second = packets[0], packets[1]
    assert "early" in waits_for(first) and "late" not in waits_for(first)
    assert {"early", "late", first.name} <= waits_for(second)
    assert all(first.name in waits_for(one) for one in packets[1:]), "in one order on all workers"


def test_what_has_arrived_is_decoded_before_the_next_packet_is_awaited():
    *_, last = sockets_of(graph_of("all_gather"))
    kernels = [name for name in waits_for(last) if "PartitionedCall" in name]
    assert len(kernels) == 3, "two encodings and the first decoding"
