"""Oracle: the formula in Python's floats. By hand: first, middle and last step."""

import math

import pytest
import tensorflow as tf

from dqgan_tf.errors import UsageError
from dqgan_tf.optimizers import learning_rate


def rate(step, **settings):
    return float(learning_rate(tf.constant(step, tf.int64), 0.01, **settings))


def oracle(step, schedule, warmup, total):
    progress = (step - 1) / total
    decay = {"constant": 1.0, "linear": 1 - progress, "cosine": (1 + math.cos(math.pi * progress)) / 2}[schedule]
    return 0.01 * (min(1.0, step / warmup) if warmup else 1.0) * decay


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
@pytest.mark.parametrize("warmup", [0, 1, 10])
def test_against_the_formula(schedule, warmup):
    for step in (1, 2, 9, 10, 11, 50, 99, 100):
        actual = rate(step, schedule=schedule, warmup_steps=warmup, total_steps=100)
        # float32, and a cosine near -1 whose sum with 1 keeps an absolute error of 1e-7 of the base.
        assert actual == pytest.approx(oracle(step, schedule, warmup, 100), rel=1e-6, abs=2e-9)


def test_by_hand():
    assert rate(1) == rate(10**6) == pytest.approx(0.01)
    assert rate(51, schedule="linear", total_steps=100) == pytest.approx(0.005)
    assert rate(51, schedule="cosine", total_steps=100) == pytest.approx(0.005)
    assert rate(5, warmup_steps=10) == pytest.approx(0.005)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_every_step_of_the_run_moves_and_none_turns_back(schedule):
    """The last step is t = T: its rate is above 0. What comes after has none, and never a negative one."""
    rates = [rate(step, schedule=schedule, total_steps=10) for step in range(1, 15)]
    assert rates == sorted(rates, reverse=True)
    assert rates[9] > 0 and rates[10:] == pytest.approx([0.0] * 4, abs=1e-9)
    assert min(rates) >= 0


def test_a_late_step_is_counted_exactly():
    """float32 holds whole numbers up to 2^24 = 16,777,216."""
    total = 2**24
    assert rate(total, schedule="linear", total_steps=total) == pytest.approx(0.01 / total, rel=0.01)


def test_the_traced_function_takes_the_step_as_an_argument():
    traces = []

    @tf.function
    def traced(step):
        traces.append(step)
        return learning_rate(step, 0.01, schedule="cosine", total_steps=10)

    first, second = traced(tf.constant(1)), traced(tf.constant(6))
    assert (len(traces), float(first), float(second)) == (1, pytest.approx(0.01), pytest.approx(0.005))


def test_bad_settings_are_refused():
    with pytest.raises(UsageError, match="one of constant, linear, cosine. .*schedule='step'"):
        rate(1, schedule="step")
    for schedule in ("linear", "cosine"):
        with pytest.raises(UsageError, match="such as total_steps=4000. Received: total_steps=0"):
            rate(1, schedule=schedule)
