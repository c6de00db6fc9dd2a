"""Losses by hand on a few logits, penalties against closed forms of linear and quadratic discriminators."""

import math

import numpy as np
import pytest
import tensorflow as tf

from dqgan_tf.config import LossConfig
from dqgan_tf.errors import UsageError
from dqgan_tf.gan import losses

SEED = tf.constant([3, 4])
REAL = tf.constant([[1.0, 2.0], [3.0, -1.0], [0.5, 0.0]])  # squared norms 5, 10, .25
FAKE = tf.constant([[-7.0, 9.0], [4.0, 4.0], [11.0, -6.0]])


def column(*values):
    return tf.constant(values, tf.float32)[:, None]


def penalty_of(loss, discriminate, real=REAL, fake=FAKE):
    """Returns the penalty, with the gradient at the real samples taken from one evaluation as `gradients.py` does."""
    with tf.GradientTape() as input_tape:
        input_tape.watch(real)
        logits = discriminate(real)

    def real_gradient():
        return input_tape.gradient(logits, real)

    return loss.penalty(real_gradient, discriminate, real, fake, SEED)


def penalty_and_gradient(loss, discriminate, weight, real=REAL, fake=FAKE):
    """Returns the penalty and its gradient with respect to `weight`, through a compiled function."""

    @tf.function
    def compute():
        with tf.GradientTape() as tape:
            value = penalty_of(loss, discriminate, real, fake)
        return value, tape.gradient(value, weight, unconnected_gradients=tf.UnconnectedGradients.ZERO)

    return [tensor.numpy() for tensor in compute()]


class TestLogits:
    """By hand. softplus(0) = ln 2, softplus(ln 3) = ln 4, softplus(-ln 3) = ln 4/3."""

    def test_non_saturating(self):
        loss = losses.get(LossConfig(loss="non_saturating"))
        real, fake = column(0, math.log(3)), column(0, -math.log(3))
        assert loss.discriminator(real, fake).numpy() == pytest.approx(math.log(8 / 3), rel=1e-6)
        assert loss.generator(fake).numpy() == pytest.approx(1.5 * math.log(2), rel=1e-6)

    def test_non_saturating_of_extreme_logits_is_finite(self):
        loss = losses.get(LossConfig(loss="non_saturating"))
        assert loss.discriminator(column(-1e4), column(1e4)).numpy() == pytest.approx(2e4)
        assert loss.discriminator(column(1e4), column(-1e4)).numpy() == 0

    def test_hinge(self):
        loss = losses.get(LossConfig(loss="hinge"))
        real, fake = column(2, 0.5, -1), column(-2, 0, 1.75)  # max(0, 1 - r): 0 .5 2; max(0, 1 + f): 0 1 2.75
        assert loss.discriminator(real, fake).numpy() == pytest.approx(2.5 / 3 + 3.75 / 3, rel=1e-6)
        assert loss.generator(fake).numpy() == pytest.approx(0.25 / 3, rel=1e-6)

    @pytest.mark.parametrize("name", ["wgan_gp", "wgan_clip"])
    def test_wasserstein(self, name):
        loss = losses.get(LossConfig(loss=name))
        real, fake = column(2, 0.5, -1), column(-2, 0, 1.75)  # means .5 and -.25 / 3
        assert loss.discriminator(real, fake).numpy() == pytest.approx(-0.25 / 3 - 0.5, rel=1e-6)
        assert loss.generator(fake).numpy() == pytest.approx(0.25 / 3, rel=1e-6)

    @pytest.mark.parametrize("name", ["non_saturating", "hinge", "wgan_gp", "wgan_clip"])
    def test_players_pull_fake_logits_apart(self, name):
        loss = losses.get(LossConfig(loss=name))
        fake = tf.Variable(column(0.25, -0.5))
        with tf.GradientTape(persistent=True) as tape:
            generator = loss.generator(fake)
            discriminator = loss.discriminator(column(0.0, 0.0), fake)
        assert np.all(tape.gradient(generator, fake).numpy() < 0)
        assert np.all(tape.gradient(discriminator, fake).numpy() > 0)


class TestR1:
    @pytest.mark.parametrize("name", ["non_saturating", "hinge"])
    def test_linear_discriminator(self, name):
        """D(x) = a.x: P = gamma/2 ||a||^2 and dP/da = gamma a. a = (3, 4), gamma = .2: 2.5 and (.6, .8)."""
        a = tf.Variable([[3.0], [4.0]])
        value, gradient = penalty_and_gradient(
            losses.get(LossConfig(loss=name, r1_gamma=0.2)), lambda x: tf.matmul(x, a), a
        )
        assert value == pytest.approx(2.5, rel=1e-6)
        np.testing.assert_allclose(gradient[:, 0], [0.6, 0.8], rtol=1e-6)

    def test_quadratic_discriminator_sees_real_samples_only(self):
        """D(x) = k/2 ||x||^2: P = gamma/2 k^2 E||x||^2, dP/dk = gamma k E||x||^2, with E over the real samples."""
        k = tf.Variable(2.0)
        loss = losses.get(LossConfig(r1_gamma=0.5))
        value, gradient = penalty_and_gradient(loss, lambda x: k / 2 * tf.reduce_sum(x * x, axis=1, keepdims=True), k)
        mean = (5 + 10 + 0.25) / 3
        assert value == pytest.approx(0.25 * 4 * mean, rel=1e-6)
        assert gradient == pytest.approx(0.5 * 2 * mean, rel=1e-6)

    def test_image_norm_runs_over_all_pixels(self):
        """D(x) = sum of the 2*3*4 pixels: ||grad||^2 = 24."""
        real = tf.zeros([5, 2, 3, 4])
        loss = losses.get(LossConfig(r1_gamma=1.0))
        assert penalty_of(loss, lambda x: tf.reduce_sum(x, axis=[1, 2, 3])[:, None], real, real).numpy() == 12

    def test_costs_no_second_evaluation(self):
        loss = losses.get(LossConfig(r1_gamma=2.0))
        assert loss.penalty(lambda: REAL, None, REAL, FAKE, SEED).numpy() == pytest.approx((5 + 10 + 0.25) / 3)

    def test_gamma_0_costs_no_gradient(self):
        loss = losses.get(LossConfig(r1_gamma=0.0))
        assert loss.penalty(None, None, REAL, FAKE, SEED).numpy() == 0


class TestGradientPenalty:
    LOSS = losses.get(LossConfig(loss="wgan_gp", gradient_penalty=10.0))

    def test_linear_discriminator(self):
        """D(x) = a.x: P = w (||a|| - 1)^2, dP/da = 2 w (||a|| - 1) a / ||a||. a = (3, 4): 160 and (48, 64)."""
        a = tf.Variable([[3.0], [4.0]])
        value, gradient = penalty_and_gradient(self.LOSS, lambda x: tf.matmul(x, a), a)
        assert value == pytest.approx(160, rel=1e-6)
        np.testing.assert_allclose(gradient[:, 0], [48, 64], rtol=1e-6)

    def test_norm_is_per_sample(self):
        """D(x) = k/2 ||x||^2 at real = fake = x: P = w E(k ||x|| - 1)^2 and dP/dk = 2 w E(k ||x|| - 1) ||x||."""
        k = tf.Variable(2.0)
        value, gradient = penalty_and_gradient(
            self.LOSS, lambda x: k / 2 * tf.reduce_sum(x * x, axis=1, keepdims=True), k, REAL, REAL
        )
        norm = np.sqrt([5, 10, 0.25])
        assert value == pytest.approx(10 * np.mean((2 * norm - 1) ** 2), rel=1e-5)
        assert gradient == pytest.approx(20 * np.mean((2 * norm - 1) * norm), rel=1e-5)

    def test_is_taken_between_real_and_fake(self):
        """D(x) = ||x||^2 / 2 has gradient x; with fake = 0 its norm is a ||real||."""
        share = losses.interpolate(tf.ones([3, 1]), tf.zeros([3, 1]), SEED).numpy()[:, 0]
        norm = share * np.sqrt([5, 10, 0.25])
        value = penalty_of(self.LOSS, lambda x: tf.reduce_sum(x * x, axis=1, keepdims=True) / 2, REAL, 0 * FAKE)
        assert value.numpy() == pytest.approx(10 * np.mean((norm - 1) ** 2), rel=1e-5)

    def test_flat_discriminator_has_a_finite_gradient(self):
        a = tf.Variable([[0.0], [0.0]])
        value, gradient = penalty_and_gradient(self.LOSS, lambda x: tf.matmul(x, a), a)
        assert value == pytest.approx(10, rel=1e-5)
        assert np.all(np.isfinite(gradient))

    def test_does_not_reach_the_generator(self):
        offset = tf.Variable([1.0, 1.0])
        with tf.GradientTape() as tape:
            value = penalty_of(self.LOSS, lambda x: tf.reduce_sum(x * x, axis=1, keepdims=True), REAL, FAKE + offset)
        assert tape.gradient(value, offset) is None


class TestInterpolate:
    def test_one_share_per_sample(self):
        share = losses.interpolate(tf.ones([1000, 2, 3, 1]), tf.zeros([1000, 2, 3, 1]), SEED).numpy()
        np.testing.assert_array_equal(share, np.broadcast_to(share[:, :1, :1], share.shape))
        share = share[:, 0, 0, 0]
        assert len(set(share)) > 990
        assert share.min() >= 0 and share.max() < 1
        assert share.mean() == pytest.approx(0.5, abs=4 / math.sqrt(12 * 1000))  # four standard errors of U[0, 1)

    def test_is_a_function_of_the_seed(self):
        first, again, other = (losses.interpolate(REAL, FAKE, seed).numpy() for seed in ([1, 2], [1, 2], [1, 3]))
        np.testing.assert_array_equal(first, again)
        assert np.all(first != other)


class TestGet:
    def test_unknown_name_lists_the_known(self):
        with pytest.raises(UsageError, match="non_saturating, wgan_gp, hinge, wgan_clip. Received: loss='lsgan'"):
            losses.get(LossConfig(loss="lsgan"))

    @pytest.mark.parametrize(
        ("loss", "field", "value"),
        [
            ("non_saturating", "r1_gamma", -0.1),
            ("hinge", "r1_gamma", float("nan")),
            ("wgan_gp", "gradient_penalty", 0.0),
            ("wgan_clip", "clip_value", 0.0),
            ("wgan_clip", "clip_value", float("inf")),
        ],
    )
    def test_weight_out_of_range(self, loss, field, value):
        with pytest.raises(UsageError, match=f"`{field}` must be .* Received: {field}={value}"):
            losses.get(LossConfig(**{"loss": loss, field: value}))

    @pytest.mark.parametrize("name", ["non_saturating", "hinge", "wgan_gp"])
    def test_only_clipping_clips(self, name):
        assert losses.get(LossConfig(loss=name)).clip_value is None

    def test_clipping_warns(self, caplog):
        with caplog.at_level("WARNING", logger="absl"):
            loss = losses.get(LossConfig(loss="wgan_clip", clip_value=0.03))
        assert loss.clip_value == 0.03
        assert loss.penalty(None, None, REAL, FAKE, SEED).numpy() == 0
        assert [record for record in caplog.records if "arXiv:2510.03507" in record.getMessage()]
