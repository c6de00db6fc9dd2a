"""What every transport promises, as tests to inherit: subclass `CollectivesContract` and define `run` and `alone`."""

import numpy as np
import tensorflow as tf

WIDTH = 37  # divides among neither two nor three replicas
PATTERNS = np.array([0x7FC00001, 0xFF800001, 0x7FBFFFFF, 0x7F800000, 0x80000000, 0x00000001, 0xFFFFFFFF], np.uint32)
"""A quiet and two signalling NaNs with payloads, infinity, -0, the smallest denormal, all ones."""


def draw(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def patterned(ranks, seed=0):
    """Returns float32 [ranks, WIDTH]: other bits in every place, with every pattern of `PATTERNS`."""
    bits = draw(ranks, WIDTH, seed=seed).view(np.uint32)
    for rank in range(ranks):
        bits[rank, rank : rank + len(PATTERNS)] = PATTERNS
    return bits.view(np.float32)


class CollectivesContract:
    """ranks: M. replicas_per_rank: of each."""

    ranks: int
    replicas_per_rank = 1

    def run(self, act):
        """Calls `act(collectives)` for all replicas at once. Returns a numpy structure for each, rank by rank."""
        raise NotImplementedError

    def alone(self):
        """Returns the collectives of a single rank. They must not touch what they send by."""
        raise NotImplementedError

    def test_ranks(self):
        places = self.run(lambda one: (one.rank, one.size, one.replicas_per_rank))
        expected = np.repeat(np.arange(self.ranks), self.replicas_per_rank)
        assert [rank for rank, _, _ in places] == expected.tolist()
        assert {place[1:] for place in places} == {(self.ranks, self.replicas_per_rank)}

    def test_all_gather_keeps_every_bit(self):
        words = patterned(self.ranks)
        for rows in self.run(lambda one: one.exchange("all_gather", tf.constant(words[one.rank]), None)):
            assert np.stack(rows).tobytes() == words.tobytes()

    def test_all_to_all_keeps_every_bit_in_the_order_of_ranks(self):
        rows = np.stack([patterned(self.ranks, seed=rank) for rank in range(self.ranks)])  # [from, to, W]
        for replica, received in enumerate(
            self.run(lambda one: one.exchange("all_to_all", tf.constant(rows[one.rank]), None))
        ):
            assert np.stack(received).tobytes() == rows[:, replica // self.replicas_per_rank].tobytes()

    def test_all_reduce_adds_exactly_and_keeps_shapes(self):
        """Whole numbers: every order of addition gives the same sum."""
        shapes = (3, 4), (WIDTH,), (1,)
        values = [np.rint(100 * draw(self.ranks, *shape, seed=i)) for i, shape in enumerate(shapes)]

        def act(one):
            return one.exchange("all_reduce", [tf.constant(value[one.rank]) for value in values], None)

        for sums in self.run(act):
            assert len(sums) == len(values)
            for total, value in zip(sums, values, strict=True):
                np.testing.assert_array_equal(total, value.sum(0), strict=True)

    def test_all_reduce_gives_the_same_bits_everywhere(self):
        """Long enough for every way of adding: pieces, ranges, rings."""
        value = draw(self.ranks, 300_001)
        sums = [
            total for (total,) in self.run(lambda one: one.exchange("all_reduce", [tf.constant(value[one.rank])], None))
        ]
        assert len({total.tobytes() for total in sums}) == 1
        # Tolerance: M - 1 roundings of sums of magnitude up to 10.
        np.testing.assert_allclose(sums[0], value.sum(0, np.float64), rtol=0, atol=5e-6)

    def test_every_collective_returns_a_list_of_tensors_of_known_shape(self):
        def act(one):
            begun = [
                one.begin("all_gather", tf.zeros([WIDTH]), None),
                one.begin("all_to_all", tf.zeros([self.ranks, WIDTH]), None),
                one.begin("all_reduce", [tf.zeros([2, 3]), tf.zeros([WIDTH])], None),
            ]
            assert all(callable(finish) for finish in begun)
            results = [finish() for finish in begun]
            assert [type(result) for result in results] == [list] * 3
            assert all(tensor.dtype == tf.float32 for result in results for tensor in result)
            rows = [[WIDTH]] * self.ranks
            assert [[t.shape.as_list() for t in result] for result in results] == [rows, rows, [[2, 3], [WIDTH]]]
            return results

        self.run(act)

    def test_several_are_under_way_at_once(self):
        """Begun one after the other, finished in another order, three times."""
        words = draw(3, self.ranks, WIDTH)

        def act(one):
            results = []
            for step in range(3):
                own = tf.constant(words[step, one.rank])
                first, second = one.begin("all_gather", own, None), one.begin("all_reduce", [own], None)
                third = one.begin("all_to_all", tf.tile(own[tf.newaxis], [self.ranks, 1]), None)
                results.append((second(), third(), first()))
            return results

        for results in self.run(act):
            for step, ((total,), exchanged, gathered) in enumerate(results):
                np.testing.assert_array_equal(np.stack(gathered), words[step])
                np.testing.assert_array_equal(np.stack(exchanged), words[step])
                np.testing.assert_allclose(total, words[step].sum(0), rtol=0, atol=5e-6)

    def test_a_rank_encodes_the_mean_of_its_replicas(self):
        """Whole numbers times the number of replicas: the means are exact."""
        count = self.ranks * self.replicas_per_rank
        values = np.rint(9 * draw(count, 5)) * self.replicas_per_rank
        means = values.reshape(self.ranks, -1, 5).mean(1)
        numbers = iter(range(count))  # replicas come rank by rank, if not at once
        found = self.run(lambda one: one.rank_mean([self._own(one, values, numbers)], None))
        for replica, (mean,) in enumerate(found):
            np.testing.assert_array_equal(mean, means[replica // self.replicas_per_rank])

    def _own(self, one, values, numbers):
        return tf.constant(values[one.rank if self.replicas_per_rank == 1 else next(numbers)])

    def test_a_single_rank_sends_nothing(self):
        alone = self.alone()
        assert (alone.size, alone.rank) == (1, 0)
        words = tf.constant(draw(WIDTH))
        (gathered,) = alone.exchange("all_gather", words, None)
        (exchanged,) = alone.exchange("all_to_all", words[tf.newaxis], None)
        reduced = alone.exchange("all_reduce", [words, 2 * words], None)
        for result, expected in zip([gathered, exchanged, *reduced], [words, words, words, 2 * words], strict=True):
            np.testing.assert_array_equal(result, expected)
