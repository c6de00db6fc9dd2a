"""Oracle: the recurrences in numpy float64. By hand: single numbers."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from dqgan_tf import optimizers
from dqgan_tf.config import OptimizerConfig
from dqgan_tf.errors import UsageError
from dqgan_tf.optimizers import Adam, Momentum, Sgd
from tests.contracts.direction_contract import DirectionContract

# Directions are of order 1 and a step of Adam rounds some ten times in float32, whose unit is 6e-8.
TOLERANCE = 2e-6


class TestSgd(DirectionContract):
    direction = Sgd()


class TestMomentum(DirectionContract):
    direction = Momentum()


class TestAdam(DirectionContract):
    direction = Adam()


class TestAveragedAdam(DirectionContract):
    direction = Adam(second_moment="averaged", second_moment_period=3)


class TestGuardedAdam(DirectionContract):
    direction = Adam(0.9, 0.999, 1e-3, second_moment="guarded", second_moment_period=3)


def gradients(steps=6, size=50):
    rng = np.random.default_rng(0)
    values = rng.normal(size=(steps, size)) * 10.0 ** rng.integers(-3, 3, size)
    values[:, 0] = 0.0  # a coordinate without gradient
    return values.astype(np.float32)


def run(adam, sequence, averaged=None):
    """All directions of a sequence of gradients; `averaged` is put into its slot before each."""
    slots = {name: tf.zeros(sequence.shape[1]) for name in adam.slots}
    directions = []
    for count, gradient in enumerate(sequence, 1):
        slots = adam.accumulate(tf.constant(gradient), slots)
        if averaged is not None:
            slots["averaged"] = tf.constant(averaged, tf.float32)
        directions.append(adam.direction(tf.constant(gradient), slots, tf.constant(float(count))).numpy())
    return np.array(directions)


def adam_oracle(sequence, beta_1, beta_2, epsilon, choose=lambda own: own):
    """Kingma and Ba 2015, arXiv 1412.6980, algorithm 1, without the learning rate; `choose` gives V from v hat."""
    m = v = np.zeros(sequence.shape[1])
    directions = []
    for t, g in enumerate(sequence.astype(np.float64), 1):
        m = beta_1 * m + (1 - beta_1) * g
        v = beta_2 * v + (1 - beta_2) * g**2
        directions.append(m / (1 - beta_1**t) / (np.sqrt(choose(v / (1 - beta_2**t))) + epsilon))
    return np.array(directions)


@pytest.mark.parametrize(("beta_1", "beta_2", "epsilon"), [(0.5, 0.9, 1e-8), (0.9, 0.999, 1e-7), (0.0, 0.0, 1e-3)])
def test_adam_is_adam(beta_1, beta_2, epsilon):
    sequence = gradients()
    expected = adam_oracle(sequence, beta_1, beta_2, epsilon)
    np.testing.assert_allclose(run(Adam(beta_1, beta_2, epsilon), sequence), expected, rtol=TOLERANCE, atol=TOLERANCE)


def test_the_first_direction_by_hand():
    # m hat = g and v hat = g^2 at t = 1, whatever the betas: u = g / (|g| + epsilon).
    directions = run(Adam(epsilon=1.0), np.array([[3.0, -1.0, 0.0]], np.float32))
    np.testing.assert_allclose(directions, [[3 / 4, -1 / 2, 0.0]], rtol=TOLERANCE)


def test_the_second_direction_by_hand():
    # g = 1, 3 at betas .5: m = .5, 1.75, m hat = 7/3; v = .5, 4.75, v hat = 19/3.
    directions = run(Adam(0.5, 0.5, 1e-8), np.array([[1.0], [3.0]], np.float32))
    np.testing.assert_allclose(directions[1], [7 / 3 / np.sqrt(19 / 3)], rtol=TOLERANCE)


@pytest.mark.parametrize(("wait", "beta_2"), [(20, 0.9), (100, 0.9), (20, 0.999), (100, 0.999)])
def test_a_gradient_that_arrives_late_and_whole_moves_as_the_formula_says(wait, beta_2):
    """docs/algorithm.md, Adam behind a sparse compressor: n g arrives at every n-th step, and 0 in between."""
    sequence = np.zeros((60 * wait, 1), np.float32)
    sequence[wait - 1 :: wait] = 0.3 * wait
    moved = np.sum(run(Adam(0.5, beta_2), sequence)[-wait - 1 : -1])  # from one arrival to the next
    expected = 0.5 / (1 - 0.5 / np.sqrt(beta_2)) * np.sqrt((1 - beta_2**wait) / (1 - beta_2))
    assert moved == pytest.approx(expected, rel=2e-3)


def test_momentum_is_the_weighted_mean_of_the_gradients():
    # Weights 1, b, b^2, ... back from the last gradient, divided by their sum: g = 1, 3 at b = .5 gives (3 + .5) / 1.5.
    assert run(Momentum(0.5), np.array([[1.0], [3.0]], np.float32)).ravel() == pytest.approx([1.0, 3.5 / 1.5])
    sequence = gradients()
    means = [np.average(sequence[: t + 1], axis=0, weights=0.7 ** np.arange(t, -1, -1.0)) for t in range(len(sequence))]
    np.testing.assert_allclose(run(Momentum(0.7), sequence), means, rtol=TOLERANCE, atol=TOLERANCE * 1e3)
    with pytest.raises(UsageError, match="`beta_1` must be a number of at least 0 and below 1. Received: beta_1=1"):
        Momentum(1)


def test_late_steps_have_no_correction_left():
    adam = Adam(0.5, 0.9)
    slots = {"m": tf.constant([2.0]), "v": tf.constant([4.0])}
    assert adam.direction(None, slots, tf.constant(1e6)).numpy() == pytest.approx([1.0], rel=TOLERANCE)


def test_a_small_correction_is_exact():
    """1 - .9999 has four digits left in float32."""
    adam = Adam(beta_2=0.9999)
    corrected = adam.corrected({"v": tf.constant([1e-4])}, tf.constant(1.0)).numpy()
    assert corrected == pytest.approx([1.0], rel=TOLERANCE)


def test_averaged_takes_the_average():
    sequence, average = gradients(), np.full(50, 7.0)
    expected = adam_oracle(sequence, 0.5, 0.9, 1e-8, choose=lambda own: average)
    actual = run(Adam(second_moment="averaged"), sequence, average)
    np.testing.assert_allclose(actual, expected, rtol=TOLERANCE, atol=TOLERANCE)


def test_averaged_takes_its_own_where_the_average_is_zero():
    sequence, average = gradients(), np.zeros(50)
    average[25:] = 7.0
    expected = adam_oracle(sequence, 0.5, 0.9, 1e-8, choose=lambda own: np.where(average > 0, average, own))
    actual = run(Adam(second_moment="averaged"), sequence, average)
    np.testing.assert_allclose(actual, expected, rtol=TOLERANCE, atol=TOLERANCE)


def test_guarded_takes_the_larger():
    sequence, average = gradients(), np.full(50, 0.01)
    expected = adam_oracle(sequence, 0.5, 0.9, 1e-8, choose=lambda own: np.maximum(average, own))
    actual = run(Adam(second_moment="guarded"), sequence, average)
    np.testing.assert_allclose(actual, expected, rtol=TOLERANCE, atol=TOLERANCE)


def test_an_averaging_step_averages_the_corrected_moment():
    corrected = Adam(beta_2=0.9).corrected({"v": tf.constant([0.19])}, tf.constant(2.0)).numpy()
    assert corrected == pytest.approx([1.0], rel=TOLERANCE)  # 1 - .9^2 = .19


def test_averaging_steps():
    adam = Adam(second_moment="guarded", second_moment_period=50)
    assert [step for step in range(1, 201) if adam.averages_at(step)] == [1, 2, 4, 8, 16, 32, 50, 64, 100, 150, 200]
    assert not any(Adam(second_moment="local").averages_at(step) for step in range(1, 201))


def test_slots():
    assert (Adam().slots, Adam().averaged_slot) == (("m", "v"), None)
    for choice in ("averaged", "guarded"):
        adam = Adam(second_moment=choice)
        assert (adam.slots, adam.averaged_slot) == (("m", "v", "averaged"), "averaged")
    assert (Sgd().slots, Sgd().averaged_slot, Sgd().averages_at(1)) == ((), None, False)


def test_an_average_stays_until_the_next():
    slots = {"m": tf.zeros(1), "v": tf.zeros(1), "averaged": tf.constant([5.0])}
    assert float(Adam(second_moment="guarded").accumulate(tf.constant([1.0]), slots)["averaged"][0]) == 5.0


def test_sgd_is_the_gradient():
    gradient = tf.constant(gradients()[0])
    assert Sgd().direction(gradient, {}, tf.constant(1.0)) is gradient
    with pytest.raises(TypeError, match="Sgd averages nothing"):
        Sgd().corrected({}, tf.constant(1.0))


def test_get_hands_every_setting_on():
    config = OptimizerConfig(
        "adam", beta_1=0.1, beta_2=0.2, epsilon=0.3, second_moment="guarded", second_moment_period=4
    )
    assert optimizers.get(config) == Adam(0.1, 0.2, 0.3, "guarded", 4)
    assert optimizers.get(dataclasses.replace(config, direction="sgd")) == Sgd()
    assert optimizers.get(dataclasses.replace(config, direction="momentum")) == Momentum(0.1)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("beta_1", 1.0),
        ("beta_1", -0.1),
        ("beta_2", 1.0),
        ("beta_2", float("nan")),
        ("epsilon", 0.0),
        ("epsilon", -1e-8),
        ("second_moment", "global"),
        ("second_moment_period", 0),
    ],
)
def test_a_bad_setting_is_refused(setting, value):
    with pytest.raises(UsageError, match=f"`{setting}` must be .*{setting}={value!r}"):
        Adam(**{setting: value})


def test_an_unknown_direction_is_refused():
    with pytest.raises(UsageError, match="one of sgd, momentum, adam. Received: direction='lion'"):
        optimizers.get(OptimizerConfig(direction="lion"))
