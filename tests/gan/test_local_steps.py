"""Local steps, shifts and half steps: the real system, three replicas in one process, against the float64 simulator."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.eager import context

from dqgan_tf.config import CompressionConfig, OptimizerConfig
from dqgan_tf.distribute import loop
from dqgan_tf.errors import UsageError
from dqgan_tf.gan.model import DQGAN
from tests.gan import model_state, tiny_gan
from tests.gan.local_strategy import local_strategy
from tests.gan.test_against_oracle import ADAM, HAIR, QUANTIZERS, SGD, SIGN, STEPS, TOLERANCE, TOPK, gan_game
from tests.oracles import dqgan_numpy as dqgan
from tests.oracles import local_steps as oracle
from tests.oracles import quantizers_numpy

KINDS = {
    "previous_direction": "direction",
    "residual": "residual",
    "shift": "shift",
    "mean_shift": "mean_shift",
    "m": "first",
    "v": "second",
    "averaged": "averaged",
    "look_ahead": "look_ahead",
}
PLAYERS = dqgan.players(*tiny_gan.SIZES)
# 38 and 33 values are two buckets, or two shards, of 32 of the two-step exchange: the second is padded with zeros.
SHARDS = tuple(
    dqgan.Piece(piece.player, start, min(start + 32, piece.stop), owner)
    for piece in PLAYERS
    for owner, start in enumerate((piece.start, piece.start + 32))
)


@pytest.fixture(scope="module")
def strategy():
    return local_strategy(tiny_gan.REPLICAS)


def padded(quantize):
    return lambda x: quantize(np.pad(x, (0, 32 - len(x))))[: len(x)]


FOUR_BIT = "linear:bits=4,bucket=32"
MEANS = {"": None, FOUR_BIT: quantizers_numpy.for_all_players(padded(quantizers_numpy.linear(4, 32)))}
TWO_STEP = {SIGN: padded(quantizers_numpy.sign(32)), TOPK: padded(quantizers_numpy.top_k(4))}  # ceil(.1 * 32)


def oracle_settings(optimizer, compression, schedule):
    rates = np.repeat([optimizer.learning_rate_g, optimizer.learning_rate_d], [size for _, size in tiny_gan.SIZES])
    names = ("beta_1", "beta_2", "epsilon", "second_moment")
    adam = dqgan.Adam(**{name: getattr(optimizer, name) for name in names}, period=optimizer.second_moment_period)
    two_step = compression.topology == "two_step"
    return oracle.Settings(
        SHARDS if two_step else PLAYERS,
        lambda t: rates * schedule(t),
        quantizers_numpy.for_all_players((TWO_STEP if two_step else QUANTIZERS)[compression.compressor]),
        adam=adam if optimizer.direction == "adam" else None,
        local_steps=compression.local_steps,
        shift=compression.shift,
        half_step=optimizer.half_step,
        residual_in_half_step=compression.residual_in_half_step,
        two_step=two_step,
        mean_quantizer=MEANS[compression.mean_compressor],
    )


def deviations(model, state):
    """max |system - oracle| of every variable, over the largest value of its kind; of e and s, over the largest p."""
    kinds = {name.split("/")[0] for name in model.replica_values(0)} & set(KINDS)
    assert {"shift", "mean_shift"} <= kinds or not np.any(state.shift)
    pairs = {kind: (tiny_gan.replica_state(model, kind), getattr(state, KINDS[kind])) for kind in kinds}
    pairs["weights"] = (tiny_gan.weights(model), state.w)
    scales = {kind: np.max(np.abs(expected)) for kind, (_, expected) in pairs.items()}
    scales |= dict.fromkeys(("residual", "shift", "mean_shift"), np.max(np.abs(state.update)))
    return {kind: np.max(np.abs(a - b)) / scales[kind] for kind, (a, b) in pairs.items()}


def decided_by_a_hair(state, settings):
    """Whether a compressor would decide otherwise on values that differ by rounding: such inputs judge nothing."""
    rng, scale = np.random.default_rng(0), HAIR * np.max(np.abs(state.update))
    rows = [(p, dqgan.quantize_pieces(p, settings), dqgan.quantize_pieces) for p in state.update]
    if settings.two_step:
        mean = state.decoded.mean(0)
        rows.append((mean, dqgan.quantize_mean(mean, settings), dqgan.quantize_mean))
    for row, decoded, quantize in rows:
        for sign in rng.choice([-1.0, 1.0], size=(4, len(row))):
            moved = [quantize(row + side * scale * sign, settings) - decoded for side in (-1, 1)]
            if np.max(np.abs(moved)) > 10 * scale:
                return True
    return False


def assert_follows_oracle(strategy, optimizer, compression, schedule=lambda t: 1.0, **compile_options):
    """Follows both for 20 exchanges, the last one after a shorter round, and returns the oracle's last state."""
    optimizer, compression = OptimizerConfig(**optimizer), CompressionConfig(**compression)
    steps = STEPS * compression.local_steps - (compression.local_steps > 1)
    model = tiny_gan.build(strategy, optimizer, compression, **compile_options)
    batches = tiny_gan.real_batches(steps)
    iterator = tiny_gan.distributed_iterator(strategy, batches)
    settings = oracle_settings(optimizer, compression, schedule)
    states = oracle.run(gan_game(batches), tiny_gan.weights(model)[0], tiny_gan.REPLICAS, settings, steps)
    before = oracle.start(tiny_gan.weights(model)[0], tiny_gan.REPLICAS)
    for state in states:
        moved = state.moved.mean(0)
        np.testing.assert_allclose(oracle.virtual_iterate(state), oracle.virtual_iterate(before) - moved, atol=1e-12)
        assert model.train_steps(iterator, state.t - before.t) == state.t - before.t
        weights, found = tiny_gan.weights(model), deviations(model, state)
        assert not decided_by_a_hair(state, settings), f"choose other inputs: step {state.t}"
        assert np.all(weights == weights[0]), f"replicas differ after step {state.t}"
        assert all(value < TOLERANCE for value in found.values()), f"step {state.t}: {found}"
        before = state
    return state


@pytest.mark.slow
@pytest.mark.parametrize(
    ("optimizer", "compression"),
    [
        (SGD, {"compressor": SIGN}),
        (SGD, {"compressor": SIGN, "topology": "two_step"}),
        (ADAM, {"compressor": SIGN}),
        (ADAM, {"compressor": TOPK, "topology": "two_step"}),
    ],
)
def test_a_shift_follows_the_oracle(strategy, optimizer, compression):
    state = assert_follows_oracle(strategy, optimizer, compression | {"shift": 0.1})
    assert np.max(np.abs(state.shift - state.mean_shift)) > 1000 * TOLERANCE * np.max(np.abs(state.update))


@pytest.mark.slow
def test_a_corrected_half_step_without_a_compressor_follows_the_oracle(strategy):
    """The shift of weights that are not compressed is learned, too: a replica's drift is taken out of its point."""
    state = assert_follows_oracle(strategy, SGD | {"half_step": "corrected"}, {"compressor": "none", "shift": 0.3})
    assert np.max(np.abs(state.shift - state.mean_shift)) > 1000 * TOLERANCE * np.max(np.abs(state.update))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("half_step", "compression"),
    [
        ("corrected", {"shift": 0.3}),
        ("common", {}),
        ("common", {"residual_in_half_step": False, "shift": 0.1}),
        ("none", {"shift": 0.1}),
    ],
)
def test_half_steps_follow_the_oracle(strategy, half_step, compression):
    assert_follows_oracle(strategy, SGD | {"half_step": half_step}, {"compressor": SIGN} | compression)


AVERAGED = ADAM | {"second_moment": "averaged", "second_moment_period": 5}
SHIFTED = {"shift": 0.1, "topology": "two_step"}
ROUNDS_OF_THREE = [
    (ADAM | {"half_step": "corrected"}, {"compressor": SIGN} | SHIFTED),
    (SGD, {"compressor": SIGN}),
    (SGD | {"half_step": "corrected"}, {"compressor": TOPK, "shift": 0.1}),
    (AVERAGED, {"compressor": SIGN} | SHIFTED),
    (ADAM, {"compressor": SIGN}),
    (ADAM | {"learning_rate_d": 0.009}, {"compressor": SIGN, "topology": "two_step"}),
    (ADAM, {"compressor": SIGN, "shift": 0.1}),
    (SGD | {"learning_rate_d": 0.09}, {"compressor": SIGN, "shift": 0.1}),
    (SGD, {"compressor": SIGN, "topology": "two_step"}),
    (ADAM | {"learning_rate_d": 0.009}, {"compressor": SIGN, "mean_compressor": FOUR_BIT} | SHIFTED),
    (SGD, {"compressor": "none"}),
    (SGD, {"compressor": SIGN, "residual_in_half_step": False}),
    (SGD | {"half_step": "common"}, {"compressor": SIGN, "shift": 0.1}),
    (SGD | {"half_step": "none"}, {"compressor": SIGN}),
    (SGD | {"half_step": "corrected"}, {"compressor": "none", "shift": 0.3}),
]


@pytest.mark.parametrize(
    ("optimizer", "compression"),
    [
        (SGD | {"learning_rate_d": 0.09}, {"compressor": SIGN} | SHIFTED),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in ROUNDS_OF_THREE),
    ],
)
def test_three_local_steps_follow_the_oracle(strategy, optimizer, compression):
    state = assert_follows_oracle(strategy, optimizer, compression | {"local_steps": 3})
    assert len(state.points) == 2 and state.t == 59


@pytest.mark.slow
def test_schedules_count_gradient_steps(strategy):
    """A warm-up of five steps ends within the second round; the rate falls at every step, not at every exchange."""
    optimizer = SGD | {"learning_rate_schedule": "linear", "warmup_steps": 5}
    schedule = lambda t: min(1, t / 5) * (1 - (t - 1) / 60)  # noqa: E731
    assert_follows_oracle(strategy, optimizer, {"compressor": SIGN, "local_steps": 3}, schedule, total_steps=60)


def bits_after(strategy, optimizer, compression, *lengths):
    """Bits of all state after calls of these lengths."""
    model = tiny_gan.build(strategy, OptimizerConfig(**optimizer), CompressionConfig(**compression))
    iterator = tiny_gan.distributed_iterator(strategy, tiny_gan.real_batches(sum(lengths)))
    for length in lengths:
        model.train_steps(iterator, length)
    return model_state.bits(model)


@pytest.mark.parametrize(
    ("optimizer", "compression"),
    [
        (ADAM, {"compressor": SIGN}),
        pytest.param(SGD, {"compressor": SIGN, "topology": "two_step"}, marks=pytest.mark.slow),
        pytest.param(ADAM, {"compressor": TOPK, "topology": "two_step"}, marks=pytest.mark.slow),
    ],
)
def test_rounds_of_one_step_have_the_bits_of_steps(strategy, optimizer, compression):
    """A call of one step is a round of one step, whatever `local_steps` is. Rounds have code of their own."""
    steps = bits_after(strategy, optimizer, compression, 1, 1, 1, 1, 1)
    rounds = bits_after(strategy, optimizer, compression | {"local_steps": 3}, 1, 1, 1, 1, 1)
    assert set(steps) <= set(rounds)
    assert not [name for name in steps if rounds[name] != steps[name]]


@pytest.mark.parametrize(
    ("optimizer", "compression"),
    [
        (ADAM, {"compressor": SIGN}),
        pytest.param(SGD, {"compressor": SIGN, "topology": "two_step"}, marks=pytest.mark.slow),
        pytest.param(ADAM, {"compressor": SIGN, "local_steps": 3}, marks=pytest.mark.slow),
    ],
)
def test_a_shift_below_rounding_changes_no_bit(strategy, optimizer, compression):
    """The recurrence with a shift tends to DQGAN as a goes to 0. Here s is about 1e-32, below the rounding of every
    value that it is added to or subtracted from."""
    without = bits_after(strategy, optimizer, compression, 3, 3)
    shifted = bits_after(strategy, optimizer, compression | {"shift": 1e-30}, 3, 3)
    assert {name.split("/")[0] for name in set(shifted) - set(without)} == {"shift", "mean_shift"}
    assert not [name for name in without if shifted[name] != without[name]]


def test_mirrored_weights_move_once_a_round(strategy, monkeypatch):
    """Reads replica 0's after each local step."""
    seen = []

    def fold_rounds(begin, step, end, *arguments):
        def step_and_look(batch, k):
            step(batch, k)
            values = [tf.reshape(v.value.values[0], [-1]) for v in variables]
            tf.numpy_function(lambda k, now: seen.append((k, now)), [k, tf.concat(values, 0)], [])

        return folded(begin, step_and_look, end, *arguments)

    folded = loop.fold_rounds
    monkeypatch.setattr(loop, "fold_rounds", fold_rounds)
    model = tiny_gan.build(strategy, OptimizerConfig(**ADAM), CompressionConfig(SIGN, local_steps=3))
    variables = model.generator.trainable_variables + model.discriminator.trainable_variables
    model.train_steps(tiny_gan.distributed_iterator(strategy, tiny_gan.real_batches(6)), 6)
    assert [k for k, _ in seen] == [1, 2, 3, 1, 2, 3]
    first, second = (np.array([values for _, values in seen[start : start + 3]]) for start in (0, 3))
    assert np.all(first == first[0]) and np.all(second == second[0])
    assert np.all(first[0] != second[0])


class TestRounds:
    """One model of rounds of three steps."""

    COMPRESSION = CompressionConfig(SIGN, local_steps=3, shift=0.1)
    OPTIMIZER = OptimizerConfig(**ADAM)

    @pytest.fixture(scope="class")
    @classmethod
    def model(cls, strategy):
        return tiny_gan.build(strategy, cls.OPTIMIZER, cls.COMPRESSION)

    @pytest.fixture
    def run(self, strategy, model):
        """Returns a function: (batches, lengths of calls) -> bits of all state after each call, from equal starts."""
        start = snapshot(model)

        def train(batches, *lengths):
            restore(model, start)
            iterator, states = tiny_gan.distributed_iterator(strategy, batches), []
            for length in lengths:
                taken = model.train_steps(iterator, length)
                states.append((taken, model_state.bits(model)))
            return states

        yield train
        restore(model, start)

    def test_rounds_of_one_call_are_those_of_several(self, run):
        batches = tiny_gan.real_batches(6)
        [(taken, together)], [_, (_, apart)] = run(batches, 6), run(batches, 3, 3)
        assert taken == 6 and together == apart

    def test_a_resumed_run_has_the_same_bits(self, strategy, model, run):
        batches = tiny_gan.real_batches(6)
        [_, (_, expected)] = run(batches, 3, 3)
        run(batches[:3], 3)
        saved = snapshot(model)
        run(batches[::-1], 6)
        restore(model, saved)
        model.train_steps(tiny_gan.distributed_iterator(strategy, batches[3:]), 3)
        assert model_state.bits(model) == expected

    def test_a_round_with_a_nan_on_one_replica_changes_nothing_on_any(self, model, run):
        batches = tiny_gan.real_batches(9)
        batches[4, 1, 0, 0] = np.nan  # replica 1, the second step of the second round
        (_, first), (_, second), (_, third) = run(batches, 3, 3, 3)
        changed = {name for name in first if second[name] != first[name]}
        assert changed == {"step", "skipped", "skipped_in_row", "calls"}
        values = model_state.values(model)
        assert [int(values[name][0]) for name in ("step", "skipped", "skipped_in_row")] == [9, 3, 0]
        assert all(third[name] != second[name] for name in third if name.startswith(("m/", "ema/")))

    def test_a_short_round_with_a_nan_changes_nothing(self, run):
        batches = tiny_gan.real_batches(5)
        batches[4, 2, 0, 0] = np.nan  # replica 2, the second step of a round of two
        (_, first), (_, second) = run(batches, 3, 2)
        changed = {name for name in first if second[name] != first[name]}
        assert changed == {"step", "skipped", "skipped_in_row", "calls"}

    @pytest.mark.parametrize(
        ("half_step", "topology"),
        [("own", "auto"), pytest.param("corrected", "two_step", marks=pytest.mark.slow)],
    )
    def test_sums_that_all_replicas_share_have_one_order(self, strategy, half_step, topology):
        """The graph optimiser makes one AddN of a sum of three. If a variable's value comes first in it, AddN begins
        with another input whenever that value is still in use, and the last bit depends on time."""
        optimizer = OptimizerConfig(**ADAM, half_step=half_step)
        compression = CompressionConfig(SIGN, local_steps=3, shift=0.1, topology=topology)
        model = tiny_gan.build(strategy, optimizer, compression)
        context.enable_graph_collection()
        model.train_steps(tiny_gan.distributed_iterator(strategy, tiny_gan.real_batches(2)), 2)
        graphs = [of_function.post_optimization_graph for of_function in context.export_run_metadata().function_graphs]
        context.disable_graph_collection()
        nodes = {node.name: node for graph in graphs for node in graph.node}
        sums = [node for node in nodes.values() if node.op == "AddN"]
        assert sums, "the gradients have some"
        assert not [node.name for node in sums if value_of(nodes, node.input[0]).op == "ReadVariableOp"]

    def test_data_that_end_shorten_a_round(self, model, run):
        [(taken, _)] = run(tiny_gan.real_batches(5), 9)
        assert taken == 5 and int(model_state.values(model)["step"][0]) == 5
        assert [int(calls) for calls in model_state.values(model)["calls"]] == [2, 2, 2]

    def test_the_average_moves_once_by_the_decay_of_all_steps(self, model, run):
        before = model_state.values(model)
        run(tiny_gan.real_batches(3), 3)
        after, decay = model_state.values(model), (2 / 11) * (3 / 12) * (4 / 13)
        for name in before:
            if name.startswith("ema/"):
                expected = decay * before[name][0] + (1 - decay) * after[name.removeprefix("ema/")][0]
                np.testing.assert_allclose(after[name][0], expected, rtol=1e-6, atol=1e-7)

    def test_figures_are_per_gradient_step(self, model, run):
        model.drain_metrics()
        run(tiny_gan.real_batches(6), 6)
        figures, channel = model.drain_metrics(), model.channel
        assert figures["wire_bytes"] == channel.wire_bytes / 3
        assert figures["compression_ratio"] == pytest.approx(3 * channel.dense_bytes / channel.wire_bytes)
        assert model.bytes_per_step()["sent_bytes"] == channel.sent_bytes / 3
        sizes = np.cumsum([0] + [size for _, size in tiny_gan.SIZES])
        residual = tiny_gan.replica_state(model, "residual")
        for (player, _), start, stop in zip(tiny_gan.SIZES, sizes[:-1], sizes[1:], strict=True):
            e = residual[:, start:stop]
            spread = np.sqrt(np.mean(np.sum((e - e.mean(0)) ** 2, 1)))
            assert figures[f"spread/{player}"] == pytest.approx(spread, rel=1e-4)
            assert figures[f"lag/{player}"] == pytest.approx(np.linalg.norm(e.mean(0)), rel=1e-4)
            assert 0 < figures[f"shift_ratio/{player}"] < figures[f"residual_ratio/{player}"] < 3
            # |u| of Adam is about 1 for each value; p has three such steps of eta, of either sign.
            rate = {"generator": 0.02, "discriminator": 0.01}[player]
            assert 0.3 < figures[f"update_norm/{player}"] / (3 * rate * (stop - start) ** 0.5) < 3

    def test_calls_that_are_not_rounds_are_refused(self, model):
        batch = np.zeros((3, 2), np.float32)
        with pytest.raises(UsageError, match="steps_per_execution must be a multiple of local_steps, such as 3"):
            model.compile(self.OPTIMIZER, self.COMPRESSION, steps_per_execution=4)
        with pytest.raises(UsageError, match="call fit, or compile with local_steps=1. Received: local_steps=3"):
            model.train_on_batch(batch)
        with pytest.raises(UsageError, match="call fit or train_steps instead of train_step. .*local_steps=3"):
            model.train_step(batch)


def value_of(nodes, name):
    """The node whose memory an input has."""
    node = nodes[name.partition(":")[0]]
    while node.op in ("Identity", "Reshape", "Split", "SplitV", "Squeeze"):
        node = nodes[node.input[1 if node.op == "Split" else 0].partition(":")[0]]
    return node


def snapshot(model):
    """All state of a model, to `restore`."""
    return model.shared_values(), [model.replica_values(replica) for replica in range(tiny_gan.REPLICAS)]


def restore(model, state):
    model.set_shared_values(state[0])
    for replica, values in enumerate(state[1]):
        model.set_replica_values(replica, values)


@pytest.mark.slow
def test_fit_exchanges_at_the_end_of_every_epoch(strategy):
    model = tiny_gan.build(strategy, OptimizerConfig(**ADAM), CompressionConfig(SIGN, local_steps=3))
    dataset = tf.data.Dataset.from_tensor_slices(tiny_gan.real_batches(7).reshape(7, -1, 2))
    history = model.fit(dataset, epochs=2, verbose=0).history
    values = model_state.values(model)
    assert int(values["step"][0]) == 14 and int(values["calls"][0]) == 6  # 3, 3 and 1 steps, twice
    assert all(np.isfinite(loss) for loss in history["generator_loss"])
    assert all(len(set(one)) == 1 for name, one in model_state.bits(model).items() if name.startswith("generator/"))


@pytest.mark.slow
def test_batch_statistics_are_averaged_once_a_round(strategy):
    """The first layer normalises the latents, so that its statistics depend on nothing else."""
    keras.utils.set_random_seed(8)
    with strategy.scope():
        layers = [keras.layers.BatchNormalization(momentum=0.5), keras.layers.Dense(2)]
        generator = keras.Sequential([keras.Input((tiny_gan.LATENT,)), *layers])
        discriminator = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        model = DQGAN(generator, discriminator, seed=tiny_gan.SEED)
    model.compile(OptimizerConfig(**SGD), CompressionConfig(SIGN, local_steps=3))
    model.train_steps(tiny_gan.distributed_iterator(strategy, tiny_gan.real_batches(6)), 6)
    moving = np.zeros((tiny_gan.REPLICAS, tiny_gan.LATENT))
    for step, replica in np.ndindex(6, tiny_gan.REPLICAS):
        stream = [8 * tiny_gan.SEED, (step + 1) * tiny_gan.REPLICAS + replica]
        latent = tf.random.stateless_normal([tiny_gan.BATCH, tiny_gan.LATENT], stream).numpy()
        moving[replica] = 0.5 * moving[replica] + 0.5 * latent.mean(0)
        if step % 3 == 2 and replica == tiny_gan.REPLICAS - 1:
            moving[:] = moving.mean(0)
    for values in layers[0].moving_mean.value.values:
        np.testing.assert_allclose(values, moving[0], atol=1e-6)
