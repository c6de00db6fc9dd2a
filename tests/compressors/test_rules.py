"""Which compressor a weight gets."""

import pytest

from dqgan_tf import compressors
from dqgan_tf.compressors import rules
from dqgan_tf.errors import UsageError

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
        (";", "A rule is PATTERN=SPEC"),
        (" ", "A rule is PATTERN=SPEC"),
        ("bias=none;", "A rule is PATTERN=SPEC.* Received: ''"),
        ("bias=none;;gamma=none", "A rule is PATTERN=SPEC"),
        ("gamma|=none", r"'gamma\|' matches every name, because it matches the empty text"),
        ("|gamma=none", "matches every name"),
        ("bias||gamma=none", "matches every name"),
        ("(gamma|)=none", "matches every name"),
        ("b*=none", "matches every name"),
        ("^=none", "matches every name"),
        (None, "The rules must be a text such as .*Received: None"),
    ],
)
def test_a_bad_rule_is_refused_with_a_good_one(text, message):
    with pytest.raises(UsageError, match=message) as caught:
        rules.parse(text)
    is_of_spec = text in ("bias=linear:bits=99", "bias=quantum")
    good = "linear:bits=4,bucket=512" if is_of_spec else rules.EXAMPLE
    assert good in str(caught.value)


@pytest.mark.parametrize("pattern", ["(batch_)?norm/gamma|beta", ".*", "^(?!discriminator/)", r"dense(_\d+)?/bias$"])
def test_a_pattern_with_a_part_that_may_be_missing_is_none_that_matches_nothing(pattern):
    assert rules.parse(f"{pattern}=none")[0].pattern.pattern == pattern


def test_a_pattern_that_names_no_weight_is_refused_with_weights_that_exist():
    with pytest.raises(UsageError, match="'biass' of the compressor rules matches no weight's name") as caught:
        rules.check_names(NAMES, rules.parse("kernel=sign;biass=none"))
    assert "generator/dense/kernel" in str(caught.value) and "discriminator/dense/bias" in str(caught.value)
    assert "kernel=sign" not in str(caught.value)


def test_the_names_shown_are_few_and_of_both_players():
    names = [f"{player}/dense_{i}/kernel" for player in ("generator", "discriminator") for i in range(40)]
    with pytest.raises(UsageError) as caught:
        rules.check_names(names, rules.parse("biass=none"))
    assert "generator/dense_0/kernel" in str(caught.value) and "discriminator/dense_39/kernel" in str(caught.value)
    assert ", ..., " in str(caught.value) and "(80 in all)" in str(caught.value) and len(str(caught.value)) < 400


@pytest.mark.parametrize("text", ["", "generator/.*bias=none", "discriminator/=sign", "bias=none;bias|kernel=sign"])
def test_a_pattern_of_one_player_or_of_what_another_rule_has_taken_is_fine(text):
    rules.check_names(NAMES, rules.parse(text))
