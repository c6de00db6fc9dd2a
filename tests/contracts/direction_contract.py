"""What every direction promises, as tests to inherit: subclass `DirectionContract` and set `direction`."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

STEPS, SHAPE = 5, (6, 8)


def gradients():
    """float32 [STEPS, *SHAPE] over six orders of magnitude; the first value is always zero."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(STEPS, *SHAPE)) * 10.0 ** rng.integers(-3, 3, SHAPE)
    values[:, 0, 0] = 0.0
    return values.astype(np.float32)


class DirectionContract:
    """Inherit and set `direction`."""

    direction: object

    def run(self, sequence, jit=False):
        """Returns the directions u_t and the slots after each of a sequence of gradients, as numpy.

        At averaging steps the averaged slot takes this replica's own `corrected`, as with one replica.
        """
        slots, results = self.zeros(sequence[0].shape), []
        accumulate, step = self.direction.accumulate, self.direction.direction
        if jit:
            accumulate, step = (tf.function(f, jit_compile=True, autograph=False) for f in (accumulate, step))
        for count, gradient in enumerate(sequence, 1):
            count_tensor = tf.constant(float(count))
            slots = accumulate(tf.constant(gradient), slots)
            if self.direction.averages_at(count):
                slots = slots | {self.direction.averaged_slot: self.direction.corrected(slots, count_tensor)}
            results.append((step(tf.constant(gradient), slots, count_tensor).numpy(), slots))
        return [u for u, _ in results], [{name: s.numpy() for name, s in one.items()} for _, one in results]

    def zeros(self, shape):
        return {name: tf.zeros(shape) for name in self.direction.slots}

    def test_is_a_value(self):
        """Equal settings are equal directions, and nothing changes them."""
        again = dataclasses.replace(self.direction)
        assert again == self.direction and hash(again) == hash(self.direction)
        for field in dataclasses.fields(self.direction):
            with pytest.raises(dataclasses.FrozenInstanceError):
                setattr(self.direction, field.name, None)

    def test_slots_start_at_zero_and_stay_there_without_a_gradient(self):
        directions, slots = self.run(np.zeros((2, *SHAPE), np.float32))
        assert not any(np.any(u) for u in directions)
        assert not any(np.any(value) for one in slots for value in one.values())

    def test_slots_are_shaped_like_the_gradient(self):
        directions, slots = self.run(gradients())
        for u, named in zip(directions, slots, strict=True):
            assert u.shape == SHAPE and u.dtype == np.float32
            assert set(named) == set(self.direction.slots)
            assert all(value.shape == SHAPE and value.dtype == np.float32 for value in named.values())

    def test_is_pure(self):
        """Arguments stay as they were, and the same arguments give the same results."""
        gradient = tf.constant(gradients()[0])
        slots = {name: tf.fill(SHAPE, 0.5 + index) for index, name in enumerate(self.direction.slots)}
        before = dict(slots)
        first, second = (self.direction.accumulate(gradient, slots) for _ in range(2))
        assert first is not slots and slots.keys() == before.keys() and all(slots[k] is before[k] for k in slots)
        assert all(np.array_equal(first[name], second[name]) for name in slots)
        kept, count = dict(first), tf.constant(3.0)
        one, other = (self.direction.direction(gradient, first, count) for _ in range(2))
        assert all(first[name] is kept[name] for name in kept) and np.array_equal(one, other)

    def test_works_value_by_value(self):
        """Pieces of a tensor, flattened, give the pieces of its direction: weights may be grouped in any way."""
        sequence = gradients()
        whole, whole_slots = self.run(sequence)
        flat = sequence.reshape(STEPS, -1)
        pieces = [self.run(flat[:, cut]) for cut in (slice(0, 1), slice(1, 30), slice(30, None))]
        for t in range(STEPS):
            joined = np.concatenate([directions[t] for directions, _ in pieces])
            np.testing.assert_array_equal(joined, whole[t].ravel())
            for name in self.direction.slots:
                joined = np.concatenate([slots[t][name] for _, slots in pieces])
                np.testing.assert_array_equal(joined, whole_slots[t][name].ravel())

    def test_compiled_is_eager(self):
        for eager, compiled in zip(self.run(gradients())[0], self.run(gradients(), jit=True)[0], strict=True):
            # A fused product rounds once instead of twice.
            np.testing.assert_allclose(compiled, eager, rtol=1e-6, atol=1e-6)

    def test_a_value_without_gradient_stays_where_it_is(self):
        directions, _ = self.run(gradients())
        assert all(u[0, 0] == 0.0 and np.all(np.isfinite(u)) for u in directions)

    @pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
    def test_a_gradient_that_is_not_finite_shows(self, poison):
        """A step is skipped for its update: the direction must not hide the cause; other values do not see it."""
        sequence = gradients()
        clean, _ = self.run(sequence)
        sequence[2, 3, 4] = poison
        directions, _ = self.run(sequence)
        assert not np.isfinite(directions[2][3, 4])
        elsewhere = np.ones(SHAPE, bool)
        elsewhere[3, 4] = False
        assert all(np.array_equal(u[elsewhere], v[elsewhere]) for u, v in zip(directions, clean, strict=True))

    def test_the_averaged_slot_is_a_slot_and_the_first_step_averages(self):
        """Or there is no such slot, and no step that averages."""
        slot, steps = self.direction.averaged_slot, [self.direction.averages_at(t) for t in range(1, 1000)]
        if slot is None:
            assert not any(steps)
            return
        assert slot in self.direction.slots and steps[0] and not all(steps)
        slots = self.direction.accumulate(tf.constant(gradients()[0]), self.zeros(SHAPE))
        assert not np.any(slots[slot]), "only the average is written there"
        corrected = self.direction.corrected(slots, tf.constant(1.0))
        assert corrected.shape == SHAPE and corrected.dtype == tf.float32
