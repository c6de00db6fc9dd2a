"""Which compressor a weight gets."""

import pytest

from dqgan_tf import compressors
from dqgan_tf.compressors import rules

NAMES = ["generator/dense/kernel", "generator/dense/bias", "discriminator/dense/kernel", "discriminator/dense/bias"]
DEFAULT = compressors.get("linear:bits=4")


def assigned(text):
    return [(g.label, g.compressor.spec, g.members) for g in rules.assign(NAMES, DEFAULT, rules.parse(text))]


def test_without_rules_all_weights_are_one_group():
    assert assigned("") == [("", DEFAULT.spec, (0, 1, 2, 3))]


def test_the_first_pattern_that_occurs_wins():
    exact, sign = compressors.get("none").spec, compressors.get("sign:bucket=512").spec
    assert assigned("bias=none;discriminator/=sign:bucket=512") == [
        ("", DEFAULT.spec, (0,)),
        ("1", exact, (1, 3)),
        ("2", sign, (2,)),
    ]
    assert assigned("discriminator/=sign:bucket=512; bias=none") == [
        ("", DEFAULT.spec, (0,)),
        ("1", sign, (2, 3)),
        ("2", exact, (1,)),
    ]


def test_equal_compressors_of_two_rules_stay_two_groups():
    assert [group[2] for group in assigned("kernel=sign;bias=sign")] == [(0, 2), (1, 3)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("bias", "A rule is PATTERN=SPEC"),
        ("=none", "A rule is PATTERN=SPEC"),
        ("bias=", "A rule is PATTERN=SPEC"),
        ("(=none", "no regular expression"),
        ("bias=linear:bits=99", "`bits` must be"),
        ("bias=quantum", "The compressor must be like one of"),
    ],
)
def test_a_bad_rule_is_refused_with_a_good_one(text, message):
    with pytest.raises(ValueError, match=message) as caught:
        rules.parse(text)
    assert "=none" in str(caught.value) or "linear:bits=4,bucket=512" in str(caught.value)
