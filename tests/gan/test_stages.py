"""By hand."""

import pytest

from dqgan_tf import compressors
from dqgan_tf.compressors.rules import Group
from dqgan_tf.gan.stages import STAGE_VALUES, stages

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
