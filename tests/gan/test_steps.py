"""How a number of steps is cut into calls."""

from dqgan_tf.gan.steps import StepKind, group_rounds, group_steps

EXACT, PLAIN, AVERAGE = StepKind(False, True), StepKind(False, False), StepKind(True, False)


def test_steps_of_one_kind_share_a_call():
    kinds = {4: EXACT, 5: EXACT, 6: PLAIN, 7: PLAIN, 8: PLAIN}
    assert list(group_steps(3, 5, kinds.get)) == [(2, EXACT), (3, PLAIN)]


def test_averaging_steps_stand_alone_even_one_after_the_other():
    kinds = {1: AVERAGE, 2: AVERAGE, 3: PLAIN, 4: AVERAGE, 5: PLAIN, 6: PLAIN}
    assert list(group_steps(0, 6, kinds.get)) == [(1, AVERAGE), (1, AVERAGE), (1, PLAIN), (1, AVERAGE), (2, PLAIN)]


def test_rounds_of_one_kind_share_a_call():
    # Steps 1 to 11 in rounds of 3: 1-3, 4-6, 7-9, 10-11. Steps 2 and 11 average; steps before 5 are uncompressed.
    kinds = {t: StepKind(average=t in (2, 11), exact=t < 5) for t in range(1, 12)}
    both, exact = StepKind(True, True), StepKind(False, True)
    assert list(group_rounds(0, 11, 3, kinds.get)) == [(3, both), (3, exact), (3, PLAIN), (2, AVERAGE)]
    kinds = {t: PLAIN for t in range(8, 15)}
    assert list(group_rounds(7, 7, 3, kinds.get)) == [(7, PLAIN)]


def test_no_step_is_no_call():
    assert list(group_steps(7, 0, lambda t: PLAIN)) == []
