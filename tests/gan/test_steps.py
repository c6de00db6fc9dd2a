"""How a number of steps is cut into calls."""

from dqgan_tf.gan.steps import StepKind, group_steps

EXACT, PLAIN, AVERAGE = StepKind(False, True), StepKind(False, False), StepKind(True, False)


def test_steps_of_one_kind_share_a_call():
    kinds = {4: EXACT, 5: EXACT, 6: PLAIN, 7: PLAIN, 8: PLAIN}
    assert list(group_steps(3, 5, kinds.get)) == [(2, EXACT), (3, PLAIN)]


def test_averaging_steps_stand_alone_even_one_after_the_other():
    kinds = {1: AVERAGE, 2: AVERAGE, 3: PLAIN, 4: AVERAGE, 5: PLAIN, 6: PLAIN}
    assert list(group_steps(0, 6, kinds.get)) == [(1, AVERAGE), (1, AVERAGE), (1, PLAIN), (1, AVERAGE), (2, PLAIN)]


def test_no_step_is_no_call():
    assert list(group_steps(7, 0, lambda t: PLAIN)) == []
