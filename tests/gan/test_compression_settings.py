"""Compressors by weight name and a late start, on two replicas: what each weight's update goes through, and when."""

import numpy as np
import pytest
import tensorflow as tf

from dqgan_tf.config import CompressionConfig, OptimizerConfig
from tests.gan import tiny_gan
from tests.gan.local_strategy import local_strategy

OPTIMIZER = OptimizerConfig(learning_rate_g=0.02, learning_rate_d=0.01)
REPLICAS, STEPS = 2, 4


@pytest.fixture(scope="module")
def strategy():
    return local_strategy(REPLICAS)


def trained(strategy, steps=STEPS, **compression):
    """Yields the model after each step."""
    model = tiny_gan.build(strategy, OPTIMIZER, CompressionConfig(**compression))
    batches = tiny_gan.real_batches(steps)[:, : strategy.num_replicas_in_sync]
    iterator = tiny_gan.distributed_iterator(strategy, batches)
    for _ in range(steps):
        model.train_steps(iterator, 1)
        yield model


class TestRules:
    @pytest.fixture(scope="class")
    @classmethod
    def model(cls, strategy):
        rules = "bias=none;discriminator/.*_2|discriminator/.*kernel=linear:bits=2,bucket=32"
        *_, model = trained(strategy, compressor="sign:bucket=32", compressor_rules=rules)
        return model

    def test_every_group_is_a_vector_with_its_compressor(self, model):
        found = [(v.name, v.size, v.compressor.name) for v in model.channel.vectors]
        assert found == [
            ("generator.1", 8, "none"),
            ("generator", 30, "sign"),
            ("discriminator.1", 9, "none"),
            ("discriminator.2", 24, "linear"),
        ]

    def test_exact_groups_keep_nothing_back(self, model):
        for replica in range(REPLICAS):
            residuals = model.channel.residuals(replica)
            assert [residual is None for residual in residuals] == [False, True] * 4  # kernel, bias
            assert all(np.any(residual) for residual in residuals[::2])
            names = [name for name in model.replica_values(replica) if name.startswith("residual/")]
            assert [name.split("_", 1)[1] for name in names] == ["kernel"] * 4

    def test_metrics_are_per_player(self, model):
        figures = model.drain_metrics()
        assert 0 < figures["compression_error/generator"] < 1 and 0 < figures["compression_error/discriminator"] < 1
        assert figures["wire_bytes"] == model.channel.wire_bytes

    def test_the_averaged_generator_is_in_the_weights_own_order(self, strategy, model):
        model.reset_ema()
        latent = tf.constant(np.random.default_rng(0).standard_normal((5, tiny_gan.LATENT)), tf.float32)
        np.testing.assert_array_equal(model.generate(latent, use_ema=True), model.generate(latent, use_ema=False))
        model.train_steps(tiny_gan.distributed_iterator(strategy, tiny_gan.real_batches(1)), 1)
        averaged, raw = (model.generate(latent, use_ema=ema).numpy() for ema in (True, False))
        # One step of Adam moves a weight by about 0.02; weights in a wrong order would draw something else entirely.
        assert 0 < np.max(np.abs(averaged - raw)) < 0.2


@pytest.mark.parametrize("rules", ["biass=none", "bias=none;generator/.*gamma=none"])
def test_a_rule_that_names_no_weight_of_any_player_is_refused(strategy, rules):
    with pytest.raises(ValueError, match="matches no weight's name. The names are generator/seq") as caught:
        tiny_gan.build(strategy, OPTIMIZER, CompressionConfig(compressor_rules=rules))
    assert repr(rules.split(";")[-1].partition("=")[0]) in str(caught.value)
    assert "discriminator/seq" in str(caught.value)


@pytest.mark.slow
def test_steps_before_the_first_compressed_one_are_exact():
    """One replica: that the mean of several is exact is proven in tests/gan/test_identities.py."""
    strategy = local_strategy(1)
    late, kept, sent = [], [], []
    for model in trained(strategy, compressor="sign:bucket=32", start_step=3):
        late.append(tiny_gan.weights(model))
        kept.append(np.any(tiny_gan.replica_state(model, "residual")))
        step = int(model.step.numpy()) + 1
        sent.append(model.bytes_per_step(range(step, step + 1))["wire_bytes"])
    assert kept == [False, False, True, True]
    dense = 4 * sum(size for _, size in tiny_gan.SIZES)
    assert sent[0] == dense and sent[1] == sent[2] == model.channel.wire_bytes < dense
    # Two exact steps of the same game from the same start, one step at a time and in the same order.
    *_, exact = trained(strategy, steps=2, compressor="none")
    np.testing.assert_array_equal(late[1], tiny_gan.weights(exact))


def test_bytes_of_steps_before_compression_starts_are_those_of_float32(strategy):
    """By hand: 2 of 3 steps are exact with start_step=3. Rounds of 4 whose first step is below 6 end with step 8."""
    dense = 4 * sum(size for _, size in tiny_gan.SIZES)
    compression = CompressionConfig(compressor="sign:bucket=32", start_step=3)
    model = tiny_gan.build(strategy, OPTIMIZER, compression)
    few = model.channel.wire_bytes
    wire = lambda *steps: model.bytes_per_step(*steps)["wire_bytes"]  # noqa: E731
    assert wire(range(1, 4)) == pytest.approx((2 * dense + few) / 3)
    assert [wire(range(1, 3)), wire(range(2, 4)), wire(range(3, 9)), wire()] == [dense, (dense + few) / 2, few, few]
    data = tf.data.Dataset.from_tensor_slices(tiny_gan.real_batches(4).reshape(-1, tiny_gan.BATCH, 2))
    history = model.fit(data, epochs=2, steps_per_epoch=2, verbose=0).history
    assert history["wire_bytes"] == pytest.approx([dense, few])
    assert history["compression_ratio"] == pytest.approx([1, dense / few])
    assert model.fit(data, epochs=1, steps_per_epoch=2, verbose=0).history["wire_bytes"] == pytest.approx([few])
    volume = model.bytes_per_step(range(1, 3))
    assert volume["sent_bytes"] == volume["dense_sent_bytes"] > model.bytes_per_step()["sent_bytes"]
    compression = CompressionConfig(compressor="sign:bucket=32", start_step=6, local_steps=4)
    model = tiny_gan.build(strategy, OPTIMIZER, compression)
    assert [wire(range(5, 9)), wire(range(9, 13)), wire(range(5, 13))] == [dense / 4, few / 4, (dense + few) / 8]
    exact = tiny_gan.build(strategy, OPTIMIZER, CompressionConfig(compressor="sign:bucket=32"))
    assert exact.bytes_per_step(range(1, 4)) == exact.bytes_per_step()
