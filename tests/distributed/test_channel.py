"""A channel of two replicas in one process: streams of random numbers, refusals, state by weight, shapes."""

import types

import numpy as np
import pytest
import tensorflow as tf

from dqgan_tf import compressors
from dqgan_tf.compressors import blocks
from dqgan_tf.distribute import replica_local
from dqgan_tf.distribute.layout import Vector
from dqgan_tf.errors import UsageError
from tests.gan.local_strategy import local_strategy

REPLICAS, N = 2, 96
STOCHASTIC = "linear:bits=2,bucket=32,rounding=stochastic"


def vector(spec, *shapes, first=0, order=0):
    positions = tuple(range(first, first + len(shapes)))
    return Vector(f"v{first}", compressors.get(spec), shapes, positions, order)


@pytest.fixture(scope="module")
def strategy():
    return local_strategy(REPLICAS)


@pytest.fixture
def opened(strategy):
    """Returns a function that opens a channel, which ends with the test."""
    channels = []

    def open_channel(*vectors, **settings):
        channels.append(strategy.open_channel(f"channel {len(channels)}", vectors, **settings))
        return channels[-1]

    yield open_channel
    for channel in channels:
        strategy.close_channel(channel.name)


def reduction(strategy, channel):
    """Returns a function: per replica a list of tensors -> per replica the list of their means."""

    def replica(*values):
        return tf.distribute.get_replica_context().all_reduce("mean", list(values), options=channel.options)

    run = tf.function(lambda *values: strategy.run(replica, args=values), autograph=False)

    def mean(rows):
        values = [
            strategy.experimental_distribute_values_from_function(
                lambda context, index=index: tf.constant(rows[context.replica_id_in_sync_group][index], tf.float32)
            )
            for index in range(len(rows[0]))
        ]
        means = run(*values)
        return [[mean.values[replica].numpy() for mean in means] for replica in range(REPLICAS)]

    return mean


def update(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def residuals(channel):
    """Per replica one array per weight."""
    return [[np.asarray(e) for e in channel.residuals(replica)] for replica in range(REPLICAS)]


def remembered(channel):
    """Residuals, shifts and their means of all replicas and weights."""
    states = [channel.state(replica) for replica in range(REPLICAS)]
    return [np.asarray(value) for state in states for per_weight in state.values() for value in per_weight]


class TestStreams:
    """Random numbers are a function of (seed, stream, number of calls): one stream for each replica that encodes."""

    def test_replicas_round_by_numbers_of_their_own(self, strategy, opened):
        channel = opened(vector(STOCHASTIC, (N,)), allow_non_contractive=True)
        reduction(strategy, channel)([[update(0, N)]] * REPLICAS)
        (first,), (second,) = residuals(channel)
        assert not np.array_equal(first, second)

    def test_replicas_of_a_host_round_alike(self, strategy, opened):
        """They encode the same mean and must send the same words."""
        channel = opened(vector(STOCHASTIC, (N,)), allow_non_contractive=True, topology="hierarchical")
        reduction(strategy, channel)([[update(replica, N)] for replica in range(REPLICAS)])
        (first,), (second,) = residuals(channel)
        np.testing.assert_array_equal(first, second)

    def test_every_call_draws_anew_and_may_be_repeated(self, strategy, opened):
        channel = opened(vector(STOCHASTIC, (N,)), error_feedback=False, seed=4)
        mean, rows = reduction(strategy, channel), [[update(0, N)]] * REPLICAS
        first, second = (mean(rows)[0][0] for _ in range(2))
        assert not np.array_equal(first, second)
        assert [int(variable.numpy()) for variable in channel.calls.variables] == [2] * REPLICAS
        for variable in channel.calls.variables:
            variable.assign(0)
        np.testing.assert_array_equal(mean(rows)[0][0], first)

    def test_vectors_and_calls_never_share_a_seed(self, strategy, opened):
        """Of two equal vectors in two calls: with the second of the first call drawing as the first of the second."""
        channel = opened(*[vector(STOCHASTIC, (N,), first=i) for i in range(2)], error_feedback=False)
        mean, rows = reduction(strategy, channel), [[update(0, N)] * 2] * REPLICAS
        means = [part.tobytes() for _ in range(2) for part in mean(rows)[0]]
        assert len(set(means)) == 4

    def test_channels_of_other_seeds_draw_otherwise(self, strategy, opened):
        rows, means = [[update(0, N)]] * REPLICAS, []
        for seed in (4, 4, 5):
            channel = opened(vector(STOCHASTIC, (N,)), error_feedback=False, seed=seed)
            means.append(reduction(strategy, channel)(rows)[0][0])
        np.testing.assert_array_equal(means[0], means[1])
        assert not np.array_equal(means[0], means[2])

    def test_latents_and_dropout_are_numbered_over_all_workers(self, strategy, monkeypatch):
        """All other tests have their replicas in one process, which is worker 0."""
        place = types.SimpleNamespace(worker_index=3)
        monkeypatch.setattr(replica_local.private_tensorflow, "cluster_place", lambda strategy: place)
        ids = strategy.run(lambda: replica_local.global_replica_id(strategy))
        assert [int(one) for one in strategy.experimental_local_results(ids)] == [6, 7]

    def test_streams_are_numbered_over_all_workers(self, strategy, opened, monkeypatch):
        monkeypatch.setattr(type(strategy), "worker_index", 3)
        assert opened(vector(STOCHASTIC, (N,)), error_feedback=False)._streams == (6, 7)


class TestRefusal:
    @pytest.mark.parametrize("shift", [0.0, 0.5])
    def test_one_packet_of_one_replica_refuses_all(self, strategy, opened, shift):
        """State of all packets stays, in those that write in place too; the next call continues."""
        vectors = [vector("sign:bucket=32", (N,)), vector("topk:fraction=0.1", (N,), first=1, order=1)]
        channel = opened(*vectors, packet_mb=4 * N / 2**20, topology="all_gather", shift=shift)
        assert len(channel.packets) == 2
        mean = reduction(strategy, channel)
        rows = [[update(replica, N), update(2 + replica, N)] for replica in range(REPLICAS)]
        mean(rows)
        before, state = residuals(channel), remembered(channel)
        assert all(np.any(value) for value in state) and len(state) == REPLICAS * 2 * (3 if shift else 1)
        for weight in range(2):
            poisoned = [[own.copy() for own in row] for row in rows]
            poisoned[1][weight][5] = np.inf
            mean(poisoned)
            assert [bool(variable.numpy()) for variable in channel.accepted.variables] == [False] * REPLICAS
            np.testing.assert_array_equal(remembered(channel), state)
        received, kept = mean(rows), residuals(channel)
        assert all(bool(variable.numpy()) for variable in channel.accepted.variables)
        for weight in range(2):
            total = np.mean([x[weight] + e[weight] for x, e in zip(rows, before, strict=True)], 0)
            remaining = np.mean([e[weight] for e in kept], 0)
            np.testing.assert_allclose(received[0][weight] + remaining, total, atol=1e-6)


class TestState:
    @pytest.fixture
    def channel(self, opened, monkeypatch):
        """A vector of weights 0 and 2, one of weight 1 that is exact, in slices of 64, 3, 96 and 96 values."""
        monkeypatch.setattr(blocks, "CPU_BLOCK", 32)
        cut = Vector("cut", compressors.get("sign:bucket=32"), ((8, 16), (128,)), (0, 2))
        channel = opened(cut, vector("none", (3,), first=1), packet_mb=4 * 96 / 2**20)
        slices = [tuple(part) for packet in channel.packets for part in packet.slices]
        assert slices == [(0, 192, 64), (1, 0, 3), (0, 0, 96), (0, 96, 96)]
        return channel

    def test_residuals_have_the_shapes_of_their_weights(self, channel):
        for replica in range(REPLICAS):
            first, exact, second = channel.residuals(replica)
            assert first.shape == (8, 16) and exact is None and second.shape == (128,)

    def test_what_is_set_is_what_is_read(self, channel):
        values = [[update(replica, 8, 16), None, update(9 + replica, 128)] for replica in range(REPLICAS)]
        for replica, row in enumerate(values):
            channel.set_state(replica, {"residual": row})
        for replica, row in enumerate(values):
            np.testing.assert_array_equal(channel.residuals(replica)[0], row[0])
            np.testing.assert_array_equal(channel.residuals(replica)[2], row[2])
            flat = np.concatenate([row[0].ravel(), row[2]])
            for packet in channel.packets:
                for (index, start, size), residual in zip(packet.slices, packet.residuals, strict=True):
                    assert index or np.array_equal(residual.variables[replica], flat[start : start + size])

    def test_shifts_are_set_by_weight(self, opened):
        cut = Vector("cut", compressors.get("sign:bucket=32"), ((8, 16), (128,)), (0, 2))
        channel = opened(cut, vector("none", (3,), first=1), packet_mb=4 * 96 / 2**20, shift=0.1)
        kinds = "residual", "shift", "mean_shift"
        rows = {kind: [update(i, 8, 16), update(5 + i, 3), update(9 + i, 128)] for i, kind in enumerate(kinds)}
        rows["residual"][1] = None  # of weights that are not compressed
        channel.set_state(1, rows)
        assert list(channel.state(1)) == list(kinds)
        for kind, (first, exact, second) in channel.state(1).items():
            np.testing.assert_array_equal(first, rows[kind][0])
            np.testing.assert_array_equal(second, rows[kind][2])
            assert exact is rows[kind][1] or np.array_equal(exact, rows[kind][1])
            assert not np.any(channel.state(0)[kind][0])
        channel.set_state(1, {kind: [values[0], None, values[2]] for kind, values in rows.items()})
        assert not np.any(channel.shifts(1)[1]) and not np.any(channel.mean_shifts(1)[1])

    @pytest.mark.parametrize("topology", ["all_gather", pytest.param("two_step", marks=pytest.mark.slow)])
    def test_shifts_of_weights_that_are_not_compressed_are_learned(self, strategy, opened, topology):
        """s <- s + a (x - s) beside a compressed weight; the mean is that of x, and sbar the mean of s."""
        channel = opened(vector("sign:bucket=32", (N,)), vector("none", (3,), first=1), topology=topology, shift=0.25)
        mean, s = reduction(strategy, channel), np.zeros([REPLICAS, 3])
        for call in range(3):
            rows = [[update(9 * call + r, N), update(99 * call + r, 3)] for r in range(REPLICAS)]
            exact = np.array([row[1] for row in rows], np.float64)
            np.testing.assert_allclose(mean(rows)[1][1], exact.mean(0), rtol=1e-6)
            s += 0.25 * (exact - s)
        for replica in range(REPLICAS):
            state = channel.state(replica)
            np.testing.assert_allclose(state["shift"][1], s[replica], atol=1e-6)
            np.testing.assert_allclose(state["mean_shift"][1], s.mean(0), atol=1e-6)
            assert state["residual"][1] is None

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"shift": 0.1, "error_feedback": False}, "Turn error feedback on, or set shift=0. Received: shift=0.1"),
            ({"shift": -0.1}, "`shift` must be a number of at least 0 and at most 1. Received: shift=-0.1"),
            ({"shift": 1.1}, "Received: shift=1.1. A value that works is shift=0.1"),
        ],
    )
    def test_a_shift_that_makes_no_sense_is_refused(self, opened, settings, message):
        with pytest.raises(UsageError, match=message):
            opened(vector("sign:bucket=32", (N,)), **settings)

    def test_without_error_feedback_there_is_none(self, opened):
        channel = opened(vector("sign:bucket=32", (N,)), error_feedback=False)
        assert channel.residuals(0) == [None] and not channel.learned


class TestValues:
    def test_values_keep_their_shapes_and_places(self, strategy, opened):
        """Two weights in one vector, in an order that is not theirs."""
        channel = opened(Vector("w", compressors.get("none"), ((3,), (2, 2)), (1, 0)))
        values = np.arange(14, dtype=np.float32).reshape(2, 7)
        means = reduction(strategy, channel)([[row[:4].reshape(2, 2), row[4:]] for row in values])
        for matrix, row in means:
            np.testing.assert_array_equal(matrix, values.mean(0)[:4].reshape(2, 2))
            np.testing.assert_array_equal(row, values.mean(0)[4:])

    @pytest.mark.parametrize(
        ("vectors", "message"),
        [
            ([], "needs at least one vector"),
            ([vector("none", (0, 4))], r"'v0' must hold at least one value. Received: shapes=\(\(0, 4\),\)"),
            ([vector("none", (4,))] * 2, r"must hold each weight once. Received: \[0, 0\]"),
            ([vector("none", (4,), first=1)], r"must hold each weight once. Received: \[1\]"),
        ],
    )
    def test_vectors_that_do_not_fit_are_refused(self, strategy, vectors, message):
        with pytest.raises(ValueError, match=message):
            strategy.open_channel("other", vectors)
