"""What a worker measures is what it says: the channel, a copy, the library's step, a plain Keras step."""

import functools

import numpy as np
import pytest
import tensorflow as tf

from benchmarks import variants, worker
from dqgan_tf.config import CompressionConfig, LossConfig, NetworkConfig, OptimizerConfig
from dqgan_tf.gan import networks

EIGHT_BIT = "linear:bits=8,bucket=64"


def exchange(*names, values=1000):
    described = [variants.settings(name, values, whole_step=False) for name in names]
    return worker.exchange({"index": 3, "values": values, "variants": described})


@pytest.fixture
def vector():
    """The exchange's payload of worker 3."""
    return 1e-3 * np.random.RandomState(3).standard_normal(1000).astype(np.float32)


def test_an_exchange_of_one_worker_gives_its_own_values_back(vector):
    exact, compressed = exchange("float32", f"{EIGHT_BIT}@auto@0.001")
    # Half a step of 8 bits over the largest value of a bucket; the mean is that of one worker.
    tolerance = np.abs(vector[:64]).max() / 254 * 1.01
    assert float(exact.step()) == vector[0]
    assert abs(float(compressed.step()) - vector[0]) <= tolerance
    # Error feedback: what one step drops the next one sends, so the sum over steps stays as close.
    assert abs(float(compressed.step()) + float(compressed.step()) - 2 * vector[0]) <= 2 * tolerance


def test_phases_and_bytes_of_an_exchange():
    exact, compressed = exchange("float32", EIGHT_BIT)
    steps = []
    for _ in range(10):
        compressed.step()
        steps.append(compressed.phases())
    # Nothing orders the clock's operation for an input before the phase that uses it. With 1000 values a phase takes
    # microseconds, so TensorFlow's scheduler may run the clock after it, and a single step then has 0.
    assert all(np.median([step[phase] for step in steps]) > 0.0 for phase in ("encode", "decode", "reduction"))
    assert all(value >= 0.0 for step in steps for value in step.values())
    assert compressed.phases().keys() == set(worker.TIMES)
    assert compressed.describe() == {"declared_bytes": 0, "topology": "all_gather"}  # nobody to send to
    assert exact.phases() == {} and exact.describe() == {"declared_bytes": 0}


def test_a_copy_is_a_new_vector(vector):
    [copy] = exchange("copy")
    np.testing.assert_array_equal(copy.step(), 0.5 * vector)


def test_shapes_that_do_not_fill_the_vector_are_refused():
    settings = variants.settings("sign", 900, whole_step=False)
    with pytest.raises(ValueError, match="must hold 1000 values: .*900"):
        worker.exchange({"index": 0, "values": 1000, "variants": [settings]})


@pytest.mark.slow
def test_a_whole_step_trains_and_names_its_phases():
    described = [variants.settings("sign:bucket=64@auto@4", 1 << 20, whole_step=True), {"name": "plain"}]
    fields = {"network": {}, "data_shape": [2], "batch_size": 4, "steps_per_call": 2}
    ours, plain = worker.whole_step({"variants": described, **fields})
    assert ours.step() == 2 and plain.step() is None
    assert {"compute", "encode", "exchange", "decode"} <= ours.phases().keys()
    weights = networks.build(NetworkConfig(), (2,), seed=0)
    count = sum(
        v.numpy().size for v in weights.generator.trainable_variables + weights.discriminator.trainable_variables
    )
    assert ours.describe()["values"] == count
    assert (ours.steps, plain.steps) == (2, 2)


def test_a_plain_step_is_adam_on_the_game_of_the_defaults():
    """Oracle: the discriminator's first Adam step has the sign of its gradient and the length of the rate."""
    players = networks.build(NetworkConfig(), (2,), seed=0)
    before = [variable.numpy() for variable in players.discriminator.trainable_variables]
    real = tf.constant(np.random.RandomState(0).uniform(-1, 1, (8, 2)).astype(np.float32))
    tf.random.set_seed(5)
    latent = tf.random.normal([8, players.latent_dim])
    fake = players.generator(latent, training=True)
    with tf.GradientTape() as tape:
        with tf.GradientTape() as inner:
            inner.watch(real)
            logits = players.discriminator(real)
        norms = tf.reduce_sum(inner.gradient(logits, real) ** 2, 1)
        loss = tf.reduce_mean(tf.math.softplus(-logits)) + tf.reduce_mean(tf.math.softplus(players.discriminator(fake)))
        loss += LossConfig().r1_gamma / 2 * tf.reduce_mean(norms)
    gradients = tape.gradient(loss, players.discriminator.trainable_variables)
    run = worker.plain_steps(players, tf.data.Dataset.from_tensors(real).repeat(), 1)
    draw = functools.partial(tf.identity, latent)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tf.random, "normal", lambda shape: draw())
        run()
    rate = OptimizerConfig().learning_rate_d
    for variable, old, gradient in zip(players.discriminator.trainable_variables, before, gradients, strict=True):
        large = np.abs(gradient) > 1e-4  # far above epsilon, 1e-8
        moved = variable.numpy() - old
        np.testing.assert_allclose(moved[large], -rate * np.sign(gradient)[large], rtol=1e-2)
        assert large.mean() > 0.5


def test_settings_have_the_names_that_the_library_knows():
    def today(*, packet_mb, topology):
        return packet_mb, topology

    def at_00c0494(*, bucket_mb, topology):
        return bucket_mb, topology

    for function in (today, at_00c0494):
        assert worker.renamed(function, packet_mb=4.0, topology="auto") == (4.0, "auto")


def test_a_setting_that_the_library_does_not_know_is_an_error():
    with pytest.raises(TypeError, match="depth"):
        worker.renamed(CompressionConfig, depth=1)


def test_bytes_that_an_interface_has_sent(monkeypatch):
    lines = [
        "Inter-| Receive | Transmit",
        "    lo: 11 2 0 0 0 0 0 0 33 4 0 0 0 0 0 0",
        " link0:5 6 0 0 0 0 0 0 77 8 0 0 0 0 0 0",
    ]
    monkeypatch.setattr(worker.pathlib.Path, "read_text", lambda path: "\n".join(lines) + "\n")
    assert [worker.sent_bytes(name) for name in ("lo", "link0")] == [33, 77]


def test_bytes_of_an_interface_that_does_not_exist():
    with pytest.raises(ValueError, match="nowhere0"):
        worker.sent_bytes("nowhere0")
