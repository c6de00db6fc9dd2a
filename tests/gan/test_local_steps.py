"""Learned shifts through the real system, three replicas in one process, against the float64 simulator."""

import numpy as np
import pytest

from dqgan_tf.config import CompressionConfig, OptimizerConfig
from tests.gan import tiny_gan
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


TWO_STEP = {SIGN: padded(quantizers_numpy.sign(32)), TOPK: padded(quantizers_numpy.top_k(4))}  # ceil(.1 * 32)


def oracle_settings(optimizer, compression):
    rates = np.repeat([optimizer.learning_rate_g, optimizer.learning_rate_d], [size for _, size in tiny_gan.SIZES])
    names = ("beta_1", "beta_2", "epsilon", "second_moment")
    adam = dqgan.Adam(**{name: getattr(optimizer, name) for name in names}, period=optimizer.second_moment_period)
    two_step = compression.topology == "two_step"
    return oracle.Settings(
        SHARDS if two_step else PLAYERS,
        rates,
        quantizers_numpy.for_all_players((TWO_STEP if two_step else QUANTIZERS)[compression.compressor]),
        adam=adam if optimizer.direction == "adam" else None,
        shift=compression.shift,
        residual_in_half_step=compression.residual_in_half_step,
        two_step=two_step,
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
    rows = [(p, decoded) for p, decoded in zip(state.update, state.decoded, strict=True)]
    if settings.two_step:
        mean = state.decoded.mean(0)
        rows.append((mean, dqgan.quantize_pieces(mean, settings)))
    for row, decoded in rows:
        for sign in rng.choice([-1.0, 1.0], size=(4, len(row))):
            moved = [dqgan.quantize_pieces(row + side * scale * sign, settings) - decoded for side in (-1, 1)]
            if np.max(np.abs(moved)) > 10 * scale:
                return True
    return False


def assert_follows_oracle(strategy, optimizer, compression, steps=STEPS):
    """Follows both for `steps` steps of equal data and returns the oracle's last state."""
    optimizer, compression = OptimizerConfig(**optimizer), CompressionConfig(**compression)
    model = tiny_gan.build(strategy, optimizer, compression)
    batches = tiny_gan.real_batches(steps)
    iterator = tiny_gan.distributed_iterator(strategy, batches)
    settings = oracle_settings(optimizer, compression)
    states = oracle.run(gan_game(batches), tiny_gan.weights(model)[0], tiny_gan.REPLICAS, settings, steps)
    before = oracle.start(tiny_gan.weights(model)[0], tiny_gan.REPLICAS)
    for state in states:
        assert model.train_steps(iterator, state.t - before.t) == state.t - before.t
        weights, found = tiny_gan.weights(model), deviations(model, state)
        assert not decided_by_a_hair(state, settings), f"choose other inputs: step {state.t}"
        assert np.all(weights == weights[0]), f"replicas differ after step {state.t}"
        assert all(value < TOLERANCE for value in found.values()), f"step {state.t}: {found}"
        before = state
    return state


@pytest.mark.parametrize(
    ("optimizer", "compression"),
    [
        (SGD, {"compressor": SIGN, "topology": "two_step"}),
        pytest.param(ADAM, {"compressor": SIGN}, marks=pytest.mark.slow),
        pytest.param(SGD, {"compressor": TOPK}, marks=pytest.mark.slow),
        pytest.param(ADAM, {"compressor": TOPK, "topology": "two_step"}, marks=pytest.mark.slow),
    ],
)
def test_a_shift_follows_the_oracle(strategy, optimizer, compression):
    state = assert_follows_oracle(strategy, optimizer, compression | {"shift": 0.1})
    assert np.max(np.abs(state.shift - state.mean_shift)) > 1000 * TOLERANCE * np.max(np.abs(state.update))
