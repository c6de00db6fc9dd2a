"""How a number of steps is cut into calls."""

from dqgan_tf.config import OptimizerConfig
from dqgan_tf.gan.steps import StepKind, group_rounds, group_steps, kind_of
from dqgan_tf.optimizers import Adam, Sgd

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


def kinds(optimizer, direction, start_step=0, last=8):
    return [kind_of(step, optimizer, direction, start_step) for step in range(1, last + 1)]


def test_kinds_of_dqgan():
    found = kinds(OptimizerConfig(), Adam(second_moment="guarded", second_moment_period=6), start_step=3)
    assert found == [StepKind(t in (1, 2, 4, 6, 8), t < 3) for t in range(1, 9)]


def test_the_generator_moves_at_multiples_and_averaging_steps_are_counted_in_its_moves():
    direction = Adam(second_moment="averaged", second_moment_period=3)
    found = kinds(OptimizerConfig(discriminator_steps=3), direction, last=15)
    assert [t for t, kind in enumerate(found, 1) if kind.generator] == [3, 6, 9, 12, 15]
    assert [t for t, kind in enumerate(found, 1) if kind.average] == [3, 6, 9, 12]  # its moves 1, 2, 3 and 4


def test_odd_steps_of_extragradient_look_ahead():
    found = kinds(OptimizerConfig(step_rule="extragradient"), Sgd())
    assert [t for t, kind in enumerate(found, 1) if kind.looks_ahead] == [1, 3, 5, 7]
    assert not any(kind.looks_ahead for kind in kinds(OptimizerConfig(), Sgd()))
