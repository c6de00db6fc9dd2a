"""Delayed exchanges: the recurrence against an oracle, identities to rounding, networks against Keras."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from benchmarks import delayed, games
from dqgan_tf.config import NetworkConfig
from dqgan_tf.gan import networks
from tests.oracles import compressors_numpy, local_steps
from tests.oracles import dqgan_numpy as dqgan
from tests.oracles import quantizers_numpy as quantizers

WORKERS, ROUNDING = 3, 1e-12  # float64: 2e-16 times some hundred sums of size 1
AFFINE = dataclasses.replace(games.GAMES["affine"], dimension=10)
NONLINEAR = dataclasses.replace(games.GAMES["nonlinear_noise_free"], dimension=10)


def run(game, compressor, share, *, direction="sgd", workers=WORKERS, local_steps=3, shift=0.0, steps=20):
    instance = games.Instance(game, direction, workers, "heterogeneous", seed=1)
    field = delayed.worker_field(instance)
    size = 2 * game.dimension
    take_steps = delayed.GameSteps(field, 0.0, 0.1, direction, workers, size, seed=1)
    quantize = delayed.quantizer(compressor, [game.dimension] * 2)
    settings = {"share": share, "local_steps": local_steps, "steps": steps, "shift": shift}
    return instance, list(delayed.rounds(take_steps, instance.start, workers, quantize, **settings))


@pytest.mark.parametrize("shift", [0.0, 0.1])
@pytest.mark.parametrize("direction", ["sgd", "adam"])
@pytest.mark.parametrize("count", [1, 3])
def test_without_a_delay_it_is_the_oracle_of_local_steps(count, direction, shift):
    instance, states = run(NONLINEAR, "top5%", None, direction=direction, local_steps=count, shift=shift)
    field = delayed.worker_field(instance)
    settings = local_steps.Settings(
        pieces=dqgan.players(("g", 10), ("d", 10)),
        eta=np.full(20, 0.1),
        quantizer=lambda x, player: delayed.top_5_percent(x[None])[0],
        adam=dqgan.Adam() if direction == "adam" else None,
        local_steps=count,
        shift=shift,
    )
    game = lambda w, t, m: field(np.tile(w, (WORKERS, 1)))[m]  # noqa: E731
    expected = list(local_steps.run(game, instance.start, WORKERS, settings, 20))
    assert [state.steps for state in states] == [state.t for state in expected]
    for ours, oracle in zip(states, expected, strict=True):
        np.testing.assert_allclose(ours.w, oracle.w, atol=ROUNDING)
        np.testing.assert_allclose(ours.z, local_steps.virtual_iterate(oracle), atol=ROUNDING)


@pytest.mark.parametrize("shift", [0.0, 0.1])
@pytest.mark.parametrize("direction", ["sgd", "adam"])
@pytest.mark.parametrize("mean", delayed.SHARES)
def test_the_virtual_iterate_moves_at_once_and_own_packets_keep_the_mean_start_on_it(mean, direction, shift):
    share = delayed.SHARES[mean]
    _, states = run(NONLINEAR, "sign", share, direction=direction, shift=shift)
    for before, after in zip(states[1:], states[2:], strict=False):
        np.testing.assert_allclose(after.z, before.z - after.moved.mean(axis=0), atol=ROUNDING)
        missed = after.starts.mean(axis=0) - before.z
        if mean in ("exact", "own"):
            np.testing.assert_allclose(missed, 0, atol=ROUNDING)
        else:
            assert np.linalg.norm(missed) > 1e-3


@pytest.mark.parametrize("compressor", delayed.COMPRESSORS)
def test_on_an_affine_game_a_delay_changes_nothing_for_the_virtual_iterate(compressor):
    """Mean of gradients = gradient of the mean point, so z takes K steps of OMD whatever is under way."""
    _, at_once = run(AFFINE, "float32", None)
    _, waiting = run(AFFINE, compressor, 1.0)
    _, late = run(AFFINE, compressor, 0.0)
    for one, other in zip(at_once, waiting, strict=True):
        np.testing.assert_allclose(other.z, one.z, atol=ROUNDING)
    assert np.linalg.norm(late[-1].z - at_once[-1].z) > 1e-2


def test_a_single_worker_that_counts_on_its_own_packet_waits_for_nothing():
    _, at_once = run(NONLINEAR, "sign", None, workers=1)
    _, waiting = run(NONLINEAR, "sign", 1.0, workers=1)
    for one, other in zip(at_once, waiting, strict=True):
        np.testing.assert_allclose(other.w, one.w, atol=ROUNDING)


def test_a_mean_is_used_only_after_it_has_arrived():
    """Worker 0 alone changes its first update; worker 1 starts its second round where it did, its third elsewhere."""

    def starts_of_worker_1(first):
        taken = []

        def take_steps(x, count):
            taken.append(x[1].copy())
            return np.array([[first if len(taken) == 1 else 0.0], [1.0]])

        list(delayed.rounds(take_steps, np.zeros(1), 2, lambda x: x, share=1.0, local_steps=1, steps=3))
        return np.ravel(taken)

    # x_0 = 0; round 2: w = 0, less its own packet 1; round 3: w = -(first + 1) / 2, less 1.
    np.testing.assert_allclose(starts_of_worker_1(5.0), [0, -1, -4])
    np.testing.assert_allclose(starts_of_worker_1(1.0), [0, -1, -2])


def test_the_compressors_are_those_of_the_oracles():
    rows = np.random.default_rng(0).standard_normal((2, 700)).astype(np.float32).astype(np.float64)
    for ours, oracle in ((delayed.sign, quantizers.sign(512)), (delayed.top_5_percent, quantizers.top_k(35))):
        expected = np.stack([oracle(row) for row in rows])
        np.testing.assert_allclose(ours(rows), expected, rtol=1e-6)
    assert compressors_numpy.sign(rows[0].astype(np.float32), 512).shape == (700,)


def test_the_networks_of_all_workers_are_those_of_the_product():
    steps = delayed.RingSteps(2, seed=3, batch=4)
    players = networks.build(NetworkConfig(), (2,), seed=3)
    random = np.random.default_rng(0)
    latent, points = random.standard_normal((2, 5, 16)), random.standard_normal((2, 5, 2))
    x = tf.constant(np.stack([steps.first] * 2), tf.float32)
    for worker in range(2):
        samples, logits = (
            steps.generate(x, tf.constant(latent, tf.float32)),
            steps.judge(x, tf.constant(points, tf.float32)),
        )
        np.testing.assert_allclose(samples[worker], players.generator(latent[worker].astype(np.float32)), atol=1e-5)
        expected = players.discriminator(points[worker].astype(np.float32))[:, 0]
        np.testing.assert_allclose(logits[worker], expected, atol=1e-5)


def test_every_cell_is_run_once_and_stands_in_the_table(tmp_path, monkeypatch):
    monkeypatch.setattr(delayed, "cells", lambda problem: CELLS)
    monkeypatch.setitem(delayed._STEPS, delayed.NONLINEAR, 64)
    lines = []
    for _ in range(2):
        delayed.run(delayed.NONLINEAR, tmp_path / "runs.jsonl", lines.append)
    rows = delayed.json_lines.read(tmp_path / "runs.jsonl")
    assert [row["cell"] for row in rows] == [cell.name for cell in CELLS]
    assert "0 runs are missing" in lines[-1] and {"commit", "command", "hardware", "seeds"} <= rows[0].keys()
    shown = delayed.table(rows)
    for row in rows:
        assert f"{row['field']:.4f}" in shown
    assert "| 8 | sign | 1 |" in shown and "64 gradient steps" in shown


CELLS = [
    delayed.Cell(delayed.NONLINEAR, "homogeneous", "sgd", 8, "sign", mean, 0.0, 0) for mean in ("exact", "own", "late")
]


@pytest.mark.parametrize("angle", [0.6, 1.3])
def test_in_a_rotation_the_spread_of_the_starts_changes_by_the_factor_of_the_derivation(angle):
    """x_K = exp(-i angle) x_0 of every worker, so a deviation is multiplied by 1 - exp(-i angle) in a round; OMD steps
    of angle / 100 are close to it. Below pi / 3 the factor is less than 1, above it the spread grows without bound."""
    take_steps = delayed.GameSteps(lambda w: np.stack([w[:, 1], -w[:, 0]], 1), 0.0, angle / 100, "sgd", 2, 2, seed=0)
    kicks = [np.array([[1.0, 0.0], [-1.0, 0.0]])]

    def kicked(x, count):
        return take_steps(x, count) + (kicks.pop() if kicks else 0.0)

    settings = {"share": 1.0, "local_steps": 100, "steps": 3000}
    states = list(delayed.rounds(kicked, np.zeros(2), 2, lambda rows: rows, **settings))
    spreads = [delayed.spread_of(state.starts) for state in states]
    assert (spreads[29] / spreads[9]) ** (1 / 20) == pytest.approx(abs(1 - np.exp(-1j * angle)), rel=0.01)
