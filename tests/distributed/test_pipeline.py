"""What a packet waits for, read from the graph: everything that an operation can be reached from. Times, by hand."""

import types

import pytest
import tensorflow as tf

from dqgan_tf import compressors, private_tensorflow
from dqgan_tf.distribute import pipeline
from dqgan_tf.distribute.channel import Channel, CompressionOptions
from dqgan_tf.distribute.layout import Vector
from dqgan_tf.distribute.topologies import choice
from dqgan_tf.distribute.transport.collectives import SocketCollectives

N = 4096
DEVICE = "/job:localhost/replica:0/task:0/device:CPU:0"


def graph_of(topology, packet_mb=4 * N / 2**20, threads=1):
    """The graph of a mean of two vectors, a packet each, of which the second exists late, with a clock before it."""
    compressor = compressors.get("linear:bits=4,bucket=512")
    channel = Channel(
        "updates",
        [Vector(name, compressor, ((N,),), (i,), order=i) for i, name in enumerate(("first", "second"))],
        error_feedback=True,
        topology=topology,
        devices=[DEVICE],
        collectives=[SocketCollectives({}, [0, 1], 0)],  # nothing is sent: the graph is built, not run
        streams=[0],
        seed=0,
        packet_mb=packet_mb,
        allow_non_contractive=False,
        threads=threads,
        options=CompressionOptions(),
    )
    assert len(channel.packets) == (2 if packet_mb else 1)

    @tf.function(autograph=False)
    def mean(first, second):
        values = [tf.identity(first, name="early"), tf.identity(second, name="late")]
        computed = pipeline.now(values)
        return channel.mean(values, 0, CompressionOptions(channel="updates")), computed

    return mean.get_concrete_function(*[tf.TensorSpec([N])] * 2).graph


def sockets_of(graph):
    """The operations of sockets, in order: one that sends gives its tag, int64; a clock gives a float64."""
    found = (tf.int64, tf.float32)
    return [op for op in graph.get_operations() if op.type == "PyFunc" and op.outputs[0].dtype in found]


def kernels_before(graph, operation):
    """The calls of compiled functions that run before an operation, in the order of construction."""
    before = waits_for(operation)
    return [op for op in graph.get_operations() if "PartitionedCall" in op.type and op.name in before]


def waits_for(operation):
    """The names of all operations that run before this one."""
    seen, todo = set(), [operation]
    while todo:
        for op in [*[tensor.op for tensor in todo[-1].inputs], *todo.pop().control_inputs]:
            if op.name not in seen:
                seen.add(op.name)
                todo.append(op)
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
    assert all(first.name in waits_for(op) for op in packets[1:]), "in one order on all workers"


@pytest.mark.parametrize("topology", ["all_gather", "two_step"])
def test_encodings_are_chained(topology):
    """Two at once would share the cores: the first packet would leave when the last is encoded."""
    graph = graph_of(topology)
    first, second = kernels_before(graph, sockets_of(graph)[1])
    assert first.name in waits_for(second)
    assert second.name not in waits_for(first) and "late" not in waits_for(first)


def test_slices_of_one_packet_are_encoded_at_once(monkeypatch):
    """On as many threads as there are: a slice that waited for another one would leave a thread idle."""
    monkeypatch.setattr(choice, "_SMALLEST_SLICE", 512)
    monkeypatch.setattr(choice.blocks, "CPU_BLOCK", 512)
    graph = graph_of("all_gather", packet_mb=0, threads=4)
    encodings = kernels_before(graph, sockets_of(graph)[0])
    assert len(encodings) == 4
    for op in encodings:
        assert not {other.name for other in encodings} & waits_for(op)


def test_what_has_arrived_is_decoded_before_the_next_packet_is_awaited():
    graph = graph_of("all_gather")
    *_, last = sockets_of(graph)
    assert len(kernels_before(graph, last)) == 3, "two encodings and the first decoding"


@pytest.mark.parametrize(
    ("ends", "expected", "hidden"),
    [
        # Phases: 0-1 encode, 1-6 exchange, 6-7 decode of the first packet; 4-5, 6-9, 9-10 of the second. Until 4, when
        # the last update exists, 1 + 3 are hidden by its computation; then 4-5 encode by exchange, 6-7 decode by it.
        ([(0, 1, 6, 7), (4, 5, 9, 10)], (2, 8, 2, 6), 6),
        # The first packet is decoded before the second exists: nothing is done from 3 to 10.
        ([(0, 1, 2, 3), (10, 11, 13, 17)], (2, 3, 5, 7), 3),
        ([(2, 3, 5, 9)], (1, 2, 4, 7), 0),
    ],
)
def test_phases_are_what_a_step_waits_for_and_what_is_hidden(monkeypatch, ends, expected, hidden):
    """ends: for each packet, when its update, its words, those of all ranks and the mean exist."""
    monkeypatch.setattr(pipeline, "now", lambda after: tf.constant(max(map(float, after)), tf.float64))

    class Packet:
        def __init__(self, times):
            self.update, self.words, self.of_all_ranks, self.mean = (tf.constant(float(time)) for time in times)

        def reduce(self, updates, replica, rank, seeds):
            received = yield types.SimpleNamespace(kind="all_gather", value=self.words)
            assert received is self.of_all_ranks
            return types.SimpleNamespace(bounded=self.mean)

    packets = [Packet(times) for times in ends]
    received = {id(packet.words): packet.of_all_ranks for packet in packets}
    begin = lambda kind, value, options: lambda: received[id(value)]  # noqa: E731
    updates = [[types.SimpleNamespace(vector=packet.update)] for packet in packets]
    collectives = types.SimpleNamespace(rank=0, begin=begin)
    outcomes, seconds, spans = pipeline.reduce_packets(packets, updates, 0, None, collectives, None)
    assert [outcome.bounded for outcome in outcomes] == [packet.mean for packet in packets]
    assert seconds.numpy().tolist() == list(expected)
    assert pipeline.hidden(dict(zip(pipeline.TIMES, expected, strict=True))) == hidden
    first, last = ends[0][0], ends[-1][0]
    assert spans[0].numpy().tolist() == [0, 0, last - first]  # until the last update exists
    drawn = {name: 0.0 for name in pipeline.PHASES}
    for index, begin, end in spans.numpy()[1:].tolist():
        assert 0 <= begin <= end <= ends[-1][3] - first
        drawn[pipeline.SPANS[int(index)]] += end - begin
    assert list(drawn.values()) == list(expected[:3])
