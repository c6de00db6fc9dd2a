"""Neither the size of packets or slices nor the runs of weights change a bit; state moves from one size to another.

Two replicas, four compressors: stochastic `linear` and `topk` in the generator, `adaptive` and `sign` in the
discriminator.
"""

import contextlib

import keras
import numpy as np
import pytest
import tensorflow as tf

from dqgan_tf.compressors import adaptive, blocks
from dqgan_tf.config import CompressionConfig, OptimizerConfig, RunConfig
from dqgan_tf.distribute import topologies
from dqgan_tf.distribute.message_board import MessageBoard
from dqgan_tf.gan import player
from dqgan_tf.gan.model import DQGAN
from dqgan_tf.training.checkpoint import Checkpoints
from tests.gan import model_state
from tests.gan.local_strategy import local_strategy

REPLICAS, BATCH, STEPS, SAVED = 2, 8, 4, 2
SPEC = "linear:bits=8,bucket=32,rounding=stochastic"
RULES = "/g3/=topk:fraction=0.1;/d2/=adaptive:bits=3,bucket=32;discriminator/=sign:bucket=32"
SIZES = {"generator.1": 42, "generator": 980, "discriminator.2": 308, "discriminator.1": 808}
BLOCK = 64
"""Values that are encoded at a time here: two-step slices are multiples of 128."""


# A name of a cut -> (values of a packet, threads that encode, values of a run of weights).
CUTS = {
    "whole": (0, 1, 10**6),
    "slices": (0, 4, 10**6),
    "packets": (400, 1, 1),
    "packets of slices": (400, 3, 1),
}


@contextlib.contextmanager
def cut(name):
    """While a model is compiled: the constants by which it is cut."""
    _, threads, run_values = CUTS[name]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "CPU_BLOCK", BLOCK)
        patch.setattr(adaptive, "_SAMPLED", 200)  # the histogram counts every fourth bucket
        patch.setattr(topologies, "_SMALLEST_SLICE", 1)
        patch.setattr("dqgan_tf.distribute.channel._intra_op_threads", lambda: threads * REPLICAS)
        patch.setattr(player, "_RUN_VALUES", run_values)
        yield


def config(topology, name):
    compression = CompressionConfig(
        SPEC, compressor_rules=RULES, topology=topology, packet_mb=4 * CUTS[name][0] / 2**20
    )
    return RunConfig(model_dir="here", compression=compression)


def dense(units, activation=None, **options):
    biases = keras.initializers.RandomNormal(stddev=0.3)
    return keras.layers.Dense(units, activation, bias_initializer=biases, **options)


class Run:
    """One training under one cut: the model, its checkpoint after `SAVED` steps and its state after `STEPS`."""

    def __init__(self, strategy, topology, name, folder):
        self.strategy, self.config, self.folder = strategy, config(topology, name), folder / name
        keras.utils.set_random_seed(8)
        with strategy.scope():
            generator = [keras.Input((3,)), dense(40, "tanh", name="g1"), dense(20, "tanh", name="g2")]
            discriminator = [keras.Input((2,)), dense(100, "tanh", name="d1"), dense(8, "tanh", name="d2")]
            self.model = DQGAN(
                keras.Sequential([*generator, dense(2, name="g3")]),
                keras.Sequential([*discriminator, dense(1, name="d3")]),
                seed=5,
            )
        optimizer = OptimizerConfig(direction="adam", learning_rate_g=0.02, learning_rate_d=0.01)
        with cut(name):
            self.model.compile(optimizer, self.config.compression)
        self.train(0, SAVED)
        self.checkpoints(self.folder).save(SAVED)
        self.train(SAVED, STEPS)
        self.bits, self.figures = model_state.bits(self.model), self.model.drain_metrics()
        self.values = model_state.values(self.model)

    def train(self, start, stop):
        data = np.random.default_rng(1).standard_normal((STEPS, REPLICAS, BATCH, 2)).astype(np.float32)
        flat = data[start:stop].reshape(-1, BATCH, 2)
        dataset = tf.data.Dataset.from_tensor_slices(flat)
        iterator = iter(self.strategy.distribute_datasets_from_function(lambda _: dataset))
        assert self.model.train_steps(iterator, stop - start) == stop - start

    def checkpoints(self, folder):
        return Checkpoints(folder, self.config, self.model, MessageBoard(0, 1), self.strategy, 3)

    @property
    def slices(self):
        """Per packet, the names of its slices' vectors."""
        vectors = self.model.channel.vectors
        return [[vectors[part.vector].name for part in packet.slices] for packet in self.model.channel.packets]


@pytest.fixture(scope="module")
def strategy():
    return local_strategy(REPLICAS)


@pytest.fixture(scope="module", params=["all_gather", "two_step"])
def runs(strategy, request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    return {name: Run(strategy, request.param, name, folder) for name in CUTS}


def test_the_cuts_are_those_that_are_meant(runs):
    channel = runs["whole"].model.channel
    assert {vector.name: vector.size for vector in channel.vectors} == SIZES
    strides = {coding.stride for packet in runs["slices"].model.channel.packets for coding in packet.codings}
    assert strides == {1, 4}
    assert runs["whole"].slices == [["generator.1", "generator", "discriminator.2", "discriminator.1"]]
    (only,) = runs["slices"].slices
    assert only.count("generator.1") == 1 and all(only.count(name) > 1 for name in SIZES if name != "generator.1")
    packets, both = runs["packets"].slices, runs["packets of slices"].slices
    assert len(packets) > 4 and all(names.count(name) <= 1 for names in packets for name in SIZES)
    assert any(names.count("generator") > 1 for names in both) and len(both) > 4
    assert [[len(run) for run in p._runs] for p in runs["packets"].model._players] == [[1] * 6, [1] * 6]


@pytest.mark.parametrize("name", [name for name in CUTS if name != "whole"])
def test_no_bit_depends_on_the_cut(runs, name):
    """Weights, averaged weights, moments, residuals by weight and what compressors have learned."""
    whole, other = runs["whole"], runs[name]
    assert {key for key, row in whole.bits.items() if other.bits[key] != row} == set()
    assert whole.bits.keys() == other.bits.keys()
    kinds = {key.split("/")[0] for key in whole.bits}
    assert {"generator", "discriminator", "ema", "residual", "previous_direction", "m", "v", "learned"} < kinds


def test_something_was_kept_back_of_every_weight_on_every_replica(runs):
    residuals = [row for key, row in runs["whole"].values.items() if key.startswith("residual/")]
    assert len(residuals) == 12 and all(np.any(value) for row in residuals for value in row)


def test_figures_are_those_of_the_whole(runs):
    """Sums of squares in another order; norms of some hundred values, in float32."""
    for name, run in runs.items():
        for key, value in runs["whole"].figures.items():
            if not key.startswith("milliseconds"):
                assert run.figures[key] == pytest.approx(value, rel=1e-5, abs=1e-7), (name, key)


@pytest.mark.parametrize(
    ("saved", "resumed"), [("whole", "packets of slices"), ("packets of slices", "whole"), ("packets", "slices")]
)
def test_a_run_saved_under_one_cut_continues_under_another_to_the_bit(runs, saved, resumed):
    old, new = runs[saved], runs[resumed]
    assert new.checkpoints(old.folder).restore() == (SAVED, REPLICAS)
    assert model_state.bits(new.model) != old.bits
    new.train(SAVED, STEPS)
    assert model_state.bits(new.model) == old.bits
