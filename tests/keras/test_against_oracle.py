"""`fit` with replicas in one process against the float64 simulator: weights, slots and residuals, step by step."""

import functools
import itertools

import keras
import numpy as np
import pytest

import dqgan_tf
from tests.gan.local_strategy import local_strategy
from tests.keras import small_models
from tests.oracles import dqgan_numpy, local_steps, quantizers_numpy
from tests.oracles import optimizers_numpy as oracle

STEPS = 10
SIGN, LINEAR, TOPK = "sign:bucket=32", "linear:bits=4,bucket=32", "topk:fraction=0.1"
QUANTIZERS = {
    "none": quantizers_numpy.identity,
    SIGN: quantizers_numpy.sign(32),
    LINEAR: quantizers_numpy.linear(4, 32),
    TOPK: quantizers_numpy.top_k(5),  # ceil(0.1 * 44)
}
# A large epsilon keeps Adam's first step, |u| = eta everywhere, from a tie.
OPTIMIZERS = {
    "sgd": (lambda: keras.optimizers.SGD(0.1, momentum=0.9), oracle.sgd(0.1, 0.9)),
    "adam": (lambda: keras.optimizers.Adam(0.02, epsilon=0.05), oracle.adam(0.02, epsilon=0.05)),
}
# float32 rounds to 6e-8 of a value; ten steps amplify little. An update is a difference of weights, which are some
# hundred times as large: it carries their rounding.
TOLERANCE = {"gradient": 1e-5, "update": 1e-4}


@functools.cache
def follow(replicas, name, compressor, where, steps=STEPS, **settings):
    """Returns what `fit` computed after every step, and the simulator's states."""
    make, rule = OPTIMIZERS[name]
    strategy = local_strategy(replicas)
    model = small_models.mlp(strategy, lambda: dqgan_tf.compressed(make(), compressor, where=where, **settings))
    x, y = small_models.batches(steps, replicas)
    start = small_models.values(strategy, model.trainable_variables)[0]
    slots = {"sgd": ["momentum"], "adam": ["momentum", "velocity"]}[name]

    def look():
        named = {slot: [v for v in model.optimizer.variables if v.path.endswith(slot)] for slot in slots} | {
            "w": model.trainable_variables
        }
        found = {key: small_models.values(strategy, variables) for key, variables in named.items()}
        return found | {"residual": small_models.residuals(model.optimizer, replicas)}

    recorder = small_models.Recorder(look)
    model.fit(small_models.dataset(x, y), shuffle=False, callbacks=[recorder], verbose=0)
    states = oracle.run(
        small_models.gradient(x, y, replicas),
        start,
        replicas,
        rule,
        QUANTIZERS[compressor],
        where=where,
        feedback=settings.get("error_feedback", True),
        steps=steps,
        **{key: value for key, value in settings.items() if key in ("optimistic", "local_steps", "shift")},
    )
    return recorder.seen, list(states)


CASES = [
    (replicas, name, compressor, where)
    for replicas in (2, 3)
    for name, compressor, where in [
        ("sgd", LINEAR, "gradient"),
        ("sgd", SIGN, "update"),
        ("adam", LINEAR, "update"),
        ("sgd", SIGN, "gradient"),
        ("sgd", TOPK, "gradient"),
        ("sgd", TOPK, "update"),
        ("sgd", "none", "update"),
        ("adam", SIGN, "update"),
        ("adam", LINEAR, "gradient"),
    ]
]
QUICK = [(2, "adam", LINEAR, "update")]


@pytest.mark.parametrize(
    "replicas, name, compressor, where",
    [pytest.param(*case, marks=() if case in QUICK else pytest.mark.slow) for case in CASES],
)
def test_every_variable_follows_the_oracle(replicas, name, compressor, where):
    assert_follows(*follow(replicas, name, compressor, where), where)


def assert_follows(seen, states, where):
    assert len(seen) == len(states)
    for found, state in zip(seen, states, strict=True):
        assert np.all(found["w"] == found["w"][0]), f"replicas differ after step {state.t}"
        expected = {"w": state.w, "residual": state.residual} | state.slots
        scales = expected | {"residual": state.p}
        for key, value in expected.items():
            deviation = np.max(np.abs(found[key] - value)) / max(np.max(np.abs(scales[key])), 1e-30)
            assert deviation < TOLERANCE[where], f"{key} after step {state.t}: {deviation}"


@pytest.mark.parametrize(
    "name, compressor, where, settings",
    [
        pytest.param(
            "adam", LINEAR, "update", {"optimistic": True, "local_steps": 3, "shift": 0.1}, marks=pytest.mark.slow
        ),
        pytest.param("sgd", SIGN, "update", {"optimistic": True}, marks=pytest.mark.slow),
        pytest.param("sgd", TOPK, "update", {"optimistic": True, "shift": 0.05}, marks=pytest.mark.slow),
        pytest.param("adam", SIGN, "update", {"optimistic": True}, marks=pytest.mark.slow),
        pytest.param("adam", SIGN, "update", {"local_steps": 4}, marks=pytest.mark.slow),
        pytest.param("sgd", "none", "update", {"local_steps": 2, "optimistic": True}, marks=pytest.mark.slow),
        pytest.param("sgd", LINEAR, "gradient", {"shift": 0.1}, marks=pytest.mark.slow),
    ],
)
def test_points_of_their_own_and_shifts_follow_the_oracle(name, compressor, where, settings):
    """Three replicas: the variables hold w after every step, also inside a round."""
    steps = 20 if where == "update" else STEPS
    seen, states = follow(3, name, compressor, where, steps=steps, **settings)
    assert_follows(seen, states, where)
    kept = [np.array_equal(before["w"], after["w"]) for before, after in itertools.pairwise(seen)]
    assert kept == [t % settings.get("local_steps", 1) != 0 for t in range(2, steps + 1)]
    assert where == "gradient" or np.max(np.abs(states[-1].points - states[-2].w)) > 100 * TOLERANCE[where]


def test_the_oracle_takes_the_steps_of_dqgan():
    """SGD without momentum: the same numbers as the simulator of DQGAN, which was written from other equations."""
    x, y = small_models.batches(12, 3)
    game, w0 = small_models.gradient(x, y, 3), np.linspace(-0.5, 0.5, 44)
    settings = {"local_steps": 3, "shift": 0.1}
    piece = dqgan_numpy.players(("w", 44))
    quantizer = quantizers_numpy.for_all_players(QUANTIZERS[SIGN])
    dqgan = local_steps.run(game, w0, 3, local_steps.Settings(piece, np.full(44, 0.1), quantizer, **settings), 12)
    options = {"where": "update", "feedback": True, "steps": 12, "optimistic": True} | settings
    states = list(oracle.run(game, w0, 3, oracle.sgd(0.1, 0.0), QUANTIZERS[SIGN], **options))
    for expected, state in zip(dqgan, states[2::3], strict=True):
        for found, value in ((state.w, expected.w), (state.residual, expected.residual), (state.shift, expected.shift)):
            np.testing.assert_allclose(found, value, atol=1e-12)
        np.testing.assert_allclose(state.points, expected.points[-1], atol=1e-12)


@pytest.mark.slow  # of the oracle
def test_without_error_feedback_the_oracle_keeps_no_residual():
    seen, states = follow(2, "sgd", SIGN, "gradient", error_feedback=False)
    np.testing.assert_allclose(seen[-1]["w"][0], states[-1].w, rtol=0, atol=1e-5)
    assert not np.any(seen[-1]["residual"])


def test_slots_differ_between_replicas_only_where_updates_are_compressed():
    for where in ("gradient", "update"):
        seen, _ = follow(2, "adam", LINEAR, where)
        assert np.array_equal(*seen[-1]["velocity"]) == (where == "gradient")
