"""The tag of a compressed reduction: it survives merging, is looked up, and never turns up uninvited."""

import copy
import inspect
import types

import numpy as np
import pytest
import tensorflow as tf

from dqgan_tf import compressors, config, private_tensorflow
from dqgan_tf.distribute.channel import CompressionOptions
from dqgan_tf.distribute.layout import Vector
from dqgan_tf.distribute.strategy import CompressedStrategy, plain_options
from dqgan_tf.errors import UsageError
from tests.gan.local_strategy import local_strategy

RING = tf.distribute.experimental.CommunicationImplementation.RING
NCCL = tf.distribute.experimental.CommunicationImplementation.NCCL


def vector(spec):
    return Vector("w", compressors.get(spec), ((4,),), (0,))


@pytest.fixture(scope="module")
def strategy():
    """Two replicas with one open channel, `sign`, of 4 values."""
    strategy = local_strategy(2)
    strategy.open_channel("sign", [vector("sign:bucket=32")], error_feedback=False)
    return strategy


class TestMerge:
    def test_the_tag_of_the_call_wins(self):
        merged = CompressionOptions("first").merge(CompressionOptions("second"))
        assert isinstance(merged, CompressionOptions) and merged.channel == "second"

    def test_the_tag_survives_options_without_one(self):
        plain = tf.distribute.experimental.CommunicationOptions(timeout_seconds=7.0)
        for options in (plain, CompressionOptions(timeout_seconds=7.0)):
            merged = CompressionOptions("first", implementation=RING).merge(options)
            assert merged.channel == "first"
            assert merged.timeout_seconds == 7.0 and merged.implementation == RING

    def test_plain_options_take_no_tag(self):
        """As `CollectiveAllReduce` merges every call: its own options with those of the call."""
        own = plain_options(None)
        assert own.merge(tf.distribute.experimental.CommunicationOptions()).channel is None
        assert own.channel is None

    def test_merging_changes_neither(self):
        first, second = CompressionOptions("first", bytes_per_pack=1), CompressionOptions("second", bytes_per_pack=2)
        first.merge(second)
        assert (first.channel, first.bytes_per_pack, second.channel, second.bytes_per_pack) == ("first", 1, "second", 2)

    def test_the_tag_survives_a_copy(self):
        assert copy.deepcopy(CompressionOptions("first")).channel == "first"

    def test_plain_options_drop_the_tag_alone(self):
        plain = plain_options(CompressionOptions("first", bytes_per_pack=3, timeout_seconds=7.0, implementation=NCCL))
        assert plain.channel is None
        assert (plain.bytes_per_pack, plain.timeout_seconds, plain.implementation) == (3, 7.0, NCCL)


def reduce(strategy, kind, options, values=((1.0, 2.0, 3.0, 10.0), (2.0, 4.0, 6.0, 8.0))):
    """What each replica receives for its row of `values`."""

    def replica(value):
        return tf.distribute.get_replica_context().all_reduce(kind, [tf.identity(value)], options=options)[0]

    rows = strategy.experimental_distribute_values_from_function(
        lambda context: tf.constant(values[context.replica_id_in_sync_group])
    )
    results = tf.function(lambda: strategy.run(replica, args=(rows,)), autograph=False)()
    return np.array([value.numpy() for value in strategy.experimental_local_results(results)])


class TestReductions:
    def test_with_the_tag_it_is_compressed(self, strategy):
        """sign: every value becomes the mean magnitude of its bucket, 4 and 5 here; their mean is 4.5."""
        np.testing.assert_array_equal(reduce(strategy, "mean", CompressionOptions("sign")), np.full((2, 4), 4.5))

    @pytest.mark.parametrize("options", [None, CompressionOptions(), tf.distribute.experimental.CommunicationOptions()])
    def test_without_it_stays_exact(self, strategy, options):
        np.testing.assert_array_equal(reduce(strategy, "mean", options), [[1.5, 3.0, 4.5, 9.0]] * 2)
        np.testing.assert_array_equal(reduce(strategy, "sum", options), [[3.0, 6.0, 9.0, 18.0]] * 2)

    def test_an_unknown_channel_is_refused(self, strategy):
        with pytest.raises(ValueError, match=r"No channel 'other' is open. Open: \['sign'\]"):
            reduce(strategy, "mean", CompressionOptions("other"))

    def test_a_sum_is_refused(self, strategy):
        with pytest.raises(ValueError, match="means only. Received: reduce_op=.*SUM"):
            reduce(strategy, "sum", CompressionOptions("sign"))

    def test_a_vector_of_another_size_is_refused(self, strategy):
        with pytest.raises(ValueError, match=r"'sign' sends float32 values of shapes \[\(4,\)\]. Received: \[\(3,\)\]"):
            reduce(strategy, "mean", CompressionOptions("sign"), values=np.ones((2, 3), np.float32))

    def test_a_name_opens_once(self, strategy):
        vectors = [vector("none")]
        with pytest.raises(ValueError, match="'sign' is open already"):
            strategy.open_channel("sign", vectors)
        strategy.open_channel("again", vectors)
        strategy.close_channel("again")
        strategy.open_channel("again", vectors)
        strategy.close_channel("again")

    @pytest.mark.parametrize("packet_mb", [-1.0, float("nan"), float("inf")])
    def test_a_packet_of_no_size_is_refused(self, strategy, packet_mb):
        with pytest.raises(ValueError, match="`packet_mb` must be .* A value that works is packet_mb=4.0"):
            strategy.open_channel("other", [vector("none")], packet_mb=packet_mb)

    @pytest.mark.parametrize("name", ["topology", "transport"])
    def test_an_unknown_name_is_refused_with_those_that_exist(self, strategy, name):
        with pytest.raises(ValueError, match=f"`{name}` must be one of auto, .* Received: {name}='udp'"):
            strategy.open_channel("other", [vector("none")], **{name: "udp"})

    @pytest.mark.parametrize("topology", config.settings()["compression.topology"].metadata["choices"])
    def test_every_topology_of_the_configuration_works(self, strategy, topology):
        """A name that `choice.choose` does not know would mean `auto`, in silence."""
        channel = strategy.open_channel("other", [vector("sign:bucket=32")], topology=topology)
        strategy.close_channel("other")
        expected = {"auto": "all_gather", "hierarchical": "hierarchical all_gather"}.get(topology, topology)
        assert channel.topology == expected

    def test_settings_have_the_defaults_of_the_configuration(self):
        parameters = inspect.signature(CompressedStrategy.open_channel).parameters
        for name in ("topology", "packet_mb", "transport", "error_feedback", "allow_non_contractive"):
            assert parameters[name].default == getattr(config.CompressionConfig(), name)

    @pytest.mark.parametrize(("packet_mb", "packets"), [(0, 1), (1e-7, 2), (4e-6, 2), (2**-15, 1)])
    def test_a_packet_below_one_value_is_the_smallest_packet(self, strategy, packet_mb, packets):
        """Two vectors of 16 bytes, together 2^-15 MiB. Only 0 means one packet of everything."""
        first, second = vector("sign:bucket=32"), vector("sign:bucket=32")._replace(weights=(1,))
        channel = strategy.open_channel("other", [first, second], packet_mb=packet_mb)
        strategy.close_channel("other")
        assert len(channel.packets) == packets


class TestOneReplica:
    def test_the_tag_compresses_and_its_absence_does_not(self):
        strategy = local_strategy(1)
        channel = strategy.open_channel("sign", [vector("sign:bucket=32")])
        np.testing.assert_array_equal(reduce(strategy, "mean", channel.options), np.full((1, 4), 4.0))
        np.testing.assert_array_equal(reduce(strategy, "mean", None), [[1.0, 2.0, 3.0, 10.0]])
        with pytest.raises(ValueError, match="means only"):
            reduce(strategy, "sum", channel.options)


def test_a_strategy_refuses_limits_out_of_bounds():
    with pytest.raises(UsageError, match="silence_timeout. must be .*5.*=1"):
        CompressedStrategy(silence_timeout=1)
    with pytest.raises(UsageError, match="start_timeout. must be .*1.*=0"):
        CompressedStrategy(start_timeout=0)


def test_a_second_strategy_with_another_silence_timeout_is_refused(monkeypatch):
    """TensorFlow keeps the heartbeats that the first strategy of a process has set."""
    context = types.SimpleNamespace(coordination_service=types.SimpleNamespace(heartbeat_timeout_in_ms=20_000))
    monkeypatch.setattr(private_tensorflow.context, "context", lambda: context)
    with pytest.raises(UsageError, match="Received: silence_timeout=30 after silence_timeout=20"):
        CompressedStrategy()
    context.coordination_service.heartbeat_timeout_in_ms = int(1e3 * 8.2)  # 8199
    with pytest.raises(AttributeError):  # the stand-in has no more: 8.2 itself is no other limit
        CompressedStrategy(silence_timeout=8.2)
    context.coordination_service.heartbeat_timeout_in_ms = 0
    assert private_tensorflow.joined_silence_seconds() is None
