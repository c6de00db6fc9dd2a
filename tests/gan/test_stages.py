"""The cuts by hand, and that they change nothing."""

import numpy as np
import pytest

from dqgan_tf import compressors
from dqgan_tf.compressors.rules import Group
from dqgan_tf.config import CompressionConfig, OptimizerConfig
from dqgan_tf.gan import stages as stages_module
from dqgan_tf.gan.stages import STAGE_VALUES, stages
from tests.gan import tiny_gan
from tests.gan.local_strategy import local_strategy

LARGE, SMALL = (STAGE_VALUES // 4, 4), (10,)
LOCAL = compressors.get("linear:bits=4,bucket=512")


def members(groups, shapes):
    return [(one.label, one.members) for one in stages(groups, shapes)]


def test_the_last_layers_come_first_and_a_stage_is_a_mebibyte_or_more():
    shapes = [LARGE, SMALL, LARGE, SMALL, SMALL]
    assert members([Group("", LOCAL, (0, 1, 2, 3, 4))], shapes) == [("0-1", (2, 3, 4)), ("0-2", (0, 1))]


def test_what_is_left_of_the_first_layers_is_a_stage_of_its_own():
    assert members([Group("", LOCAL, (0, 1))], [SMALL, LARGE]) == [("0-1", (1,)), ("0-2", (0,))]


def test_small_networks_are_not_cut():
    assert members([Group("", LOCAL, (0, 1, 2))], [SMALL, LARGE[:1], SMALL]) == [("", (0, 1, 2))]


def test_groups_take_turns_as_their_gradients_come():
    shapes = [LARGE, SMALL, LARGE, SMALL]
    groups = [Group("", LOCAL, (0, 2)), Group("1", compressors.get("none"), (1, 3))]
    assert members(groups, shapes) == [("0-1", (2,)), ("1", (1, 3)), ("0-2", (0,))]


@pytest.mark.parametrize(
    "spec, whole",
    [
        ("topk:fraction=0.01", True),
        ("powersgd:rank=2", True),
        ("randomk:fraction=0.01", True),
        ("none", False),
        ("sign:bucket=512", False),
        ("adaptive:bits=3", False),
    ],
)
def test_only_what_works_bucket_by_bucket_is_cut(spec, whole):
    found = stages([Group("", compressors.get(spec), (0, 1))], [LARGE, LARGE])
    assert len(found) == (1 if whole else 2)


class TestRuns:
    """Casts look at one value at a time: no bit of a run depends on how the players are cut."""

    @pytest.fixture(scope="class")
    def models(self):
        """The same run with a stage for every weight and with one for every player."""
        strategy = local_strategy(1)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(stages_module, "STAGE_VALUES", 1)
            cut = _trained(strategy)
        return cut, _trained(strategy)

    def test_every_weight_is_a_segment_the_last_first(self, models):
        cut, whole = ([(one.name, one.size) for one in model.channel.segments] for model in models)
        assert whole == [("generator", 38), ("discriminator", 33)]
        assert cut[:5] == [
            ("generator.0-1", 2),
            ("generator.0-2", 12),
            ("generator.0-3", 6),
            ("generator.0-4", 18),
            ("discriminator.0-1", 1),
        ]

    def test_weights_and_their_average_are_the_same(self, models):
        cut, whole = models
        np.testing.assert_array_equal(tiny_gan.weights(cut), tiny_gan.weights(whole))
        averages = [model.replicated_state()["ema/generator"].variables[0].numpy() for model in models]
        np.testing.assert_array_equal(*averages)

    def test_something_was_owed(self, models):
        state = models[0].channel.state()
        assert all(np.any(state[f"residual/generator.0-{number}"].variables[0].numpy()) for number in (1, 2, 3, 4))


def _trained(strategy):
    optimizer = OptimizerConfig(direction="adam", learning_rate_g=0.02, learning_rate_d=0.01)
    model = tiny_gan.build(strategy, optimizer, CompressionConfig(compressor="bf16"))
    model.train_steps(tiny_gan.distributed_iterator(strategy, tiny_gan.real_batches(4)), 4)
    return model
