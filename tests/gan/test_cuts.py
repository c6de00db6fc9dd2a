"""Neither the size of packets or slices nor the chunks of weights change a bit; state moves from one size to another.

Four compressors: stochastic `linear` and `topk` in the generator, `adaptive` and `sign` in the discriminator. One
replica: tests/distributed/test_packets.py has three, and numpy in place of the game.
"""

import contextlib
import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

from dqgan_tf.compressors import blocks
from dqgan_tf.compressors.contrib import adaptive
from dqgan_tf.config import CompressionConfig, OptimizerConfig, RunConfig
from dqgan_tf.distribute.message_board import MessageBoard
from dqgan_tf.distribute.topologies import choice
from dqgan_tf.gan import player
from dqgan_tf.gan.model import DQGAN
from dqgan_tf.training.checkpoint import Checkpoints
from dqgan_tf.training.job import Job
from tests.gan import model_state
from tests.gan.local_strategy import local_strategy

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # two models are compiled
BATCH, STEPS, SAVED = 8, 4, 2
SPEC = "linear:bits=8,bucket=32,rounding=stochastic"
RULES = "/g2/=topk:fraction=0.1;/d2/=adaptive:bits=3,bucket=32;discriminator/=sign:bucket=32"
SIZES = {"generator.1": 130, "generator": 256, "discriminator.3": 161, "discriminator.2": 784}
BLOCK = 64  # values that are encoded at a time, and the granule of all vectors but that of `topk` and of `adaptive`
# Name of a cut -> (values of a packet, threads that encode, values of a run of weights).
CUTS = {"whole": (0, 1, 10**6), "cut": (256, 4, 1)}


@contextlib.contextmanager
def cut(strategy, name):
    """While a model is compiled: the constants by which it is cut."""
    _, threads, run_values = CUTS[name]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "CPU_BLOCK", BLOCK)
        patch.setattr(adaptive, "_SAMPLE", 200)  # the histogram counts every second bucket
        patch.setattr(choice, "_SMALLEST_SLICE", 1)
        patch.setattr(strategy, "_threads", max(1, threads // len(strategy.local_devices)))
        patch.setattr(player, "_CHUNK_VALUES", run_values)
        yield


def config(topology, name):
    compression = CompressionConfig(
        SPEC, compressor_rules=RULES, topology=topology, packet_mb=4 * CUTS[name][0] / 2**20
    )
    return RunConfig(model_dir="here", compression=compression)


def dense(units, activation=None, **options):
    biases = keras.initializers.RandomNormal(stddev=0.3)
    return keras.layers.Dense(units, activation, bias_initializer=biases, **options)


def test_chunks_begin_with_the_last_layers_and_hold_a_hundred_values_or_more(monkeypatch):
    monkeypatch.setattr(player, "_CHUNK_VALUES", 100)
    assert player._chunks([100, 10, 100, 10, 10]) == [[2, 3, 4], [0, 1]]
    assert player._chunks([10, 100]) == [[1], [0]]
    assert player._chunks([10, 90, 9]) == [[0, 1, 2]]


class Run:
    """One training under one cut: the model, its checkpoint after `SAVED` steps and its state after `STEPS`."""

    def __init__(self, strategy, topology, name, folder):
        self.strategy, self.config, self.folder = strategy, config(topology, name), folder / name
        keras.utils.set_random_seed(8)
        with strategy.scope():
            generator = [keras.Input((3,)), dense(64, "tanh", name="g1"), dense(2, name="g2")]
            discriminator = [keras.Input((2,)), dense(48, "tanh", name="d1"), dense(16, "tanh", name="d2")]
            discriminator += [dense(1, name="d3")]
            self.model = DQGAN(keras.Sequential(generator), keras.Sequential(discriminator), seed=5)
        optimizer = OptimizerConfig(direction="adam", learning_rate_g=0.02, learning_rate_d=0.01)
        with cut(strategy, name):
            self.model.compile(optimizer, self.config.compression)
        self.train(0, SAVED)
        self.checkpoints(self.folder).save(SAVED)
        self.train(SAVED, STEPS)
        self.bits, self.figures = model_state.bits(self.model), self.model.drain_metrics()
        self.values = model_state.values(self.model)

    def train(self, start, stop):
        data = np.random.default_rng(1).standard_normal((STEPS, BATCH, 2)).astype(np.float32)
        dataset = tf.data.Dataset.from_tensor_slices(data[start:stop])
        iterator = iter(self.strategy.distribute_datasets_from_function(lambda _: dataset))
        assert self.model.train_steps(iterator, stop - start) == stop - start

    def checkpoints(self, folder):
        config = dataclasses.replace(self.config, model_dir=str(folder))
        return Checkpoints(Job(config, self.strategy, MessageBoard(0, 1), data_spec=None, model=self.model))

    @property
    def slices(self):
        """Per packet, the names of its slices' vectors."""
        vectors = self.model.channel.vectors
        return [[vectors[part.vector].name for part in packet.slices] for packet in self.model.channel.packets]


@pytest.fixture(scope="module")
def strategy():
    return local_strategy(1)


@pytest.fixture(scope="module", params=["all_gather", pytest.param("two_step", marks=pytest.mark.slow)])
def runs(strategy, request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    return {name: Run(strategy, request.param, name, folder) for name in CUTS}


def test_the_cuts_are_those_that_are_meant(runs):
    channel = runs["cut"].model.channel
    assert {vector.name: vector.size for vector in channel.vectors} == SIZES
    assert {key.stride for packet in channel.packets for key in packet.keys} == {1, 2}
    assert runs["whole"].slices == [["generator.1", "generator", "discriminator.2", "discriminator.3"]]
    slices = runs["cut"].slices
    counts = {name: sum(names.count(name) for names in slices) for name in SIZES}
    assert counts.pop("generator.1") == 1 and all(count > 1 for count in counts.values())
    assert len(slices) > 3 and any(names.count("generator") > 1 for names in slices)
    assert [[len(chunk) for chunk in player._chunks] for player in runs["cut"].model._players] == [[1] * 4, [1] * 6]


def test_no_bit_depends_on_the_cut(runs):
    """Weights, averaged weights, moments, residuals by weight and what compressors have learned."""
    whole, cut = runs["whole"].bits, runs["cut"].bits
    assert whole.keys() == cut.keys()
    assert {name for name, row in whole.items() if cut[name] != row} == set()
    kinds = {name.split("/")[0] for name in whole}
    assert {"generator", "discriminator", "ema", "residual", "previous_direction", "m", "v", "learned"} < kinds


def test_something_was_kept_back_of_every_kernel(runs):
    residuals = {name: row for name, row in runs["whole"].values.items() if name.startswith("residual/")}
    assert len(residuals) == 10
    assert all(np.any(value) for name, (value,) in residuals.items() if name.endswith("kernel"))


def test_figures_are_those_of_the_whole(runs):
    """Sums of squares in another order; norms of some hundred values, in float32."""
    figures = runs["cut"].figures
    for name, value in runs["whole"].figures.items():
        if not name.startswith("milliseconds"):
            assert figures[name] == pytest.approx(value, rel=1e-5, abs=1e-7), name


@pytest.mark.parametrize(("saved", "resumed"), [("whole", "cut"), ("cut", "whole")])
def test_a_run_saved_under_one_cut_continues_under_another_to_the_bit(runs, saved, resumed):
    old, new = runs[saved], runs[resumed]
    assert new.checkpoints(old.folder).restore() == (SAVED, 1)
    assert model_state.bits(new.model) != old.bits
    new.train(SAVED, STEPS)
    assert model_state.bits(new.model) == old.bits
