"""Weights become vectors, vectors are cut into slices, slices fill packets: by hand."""

import pytest

from dqgan_tf import compressors
from dqgan_tf.compressors import rules
from dqgan_tf.distribute import layout
from dqgan_tf.distribute.layout import Slice, Vector, check_contraction
from dqgan_tf.distribute.topologies import choice
from dqgan_tf.distribute.topologies.packet import PacketSettings, encoding_key
from dqgan_tf.errors import UsageError
from tests.distributed import lockstep

SIGN = compressors.get("sign:bucket=32")


def vector(*sizes, first=0, order=0, spec="sign:bucket=32"):
    """A vector of weights of these sizes, of which the first one has position `first`."""
    positions = tuple(range(first, first + len(sizes)))
    return Vector(f"v{first}", compressors.get(spec), tuple((size,) for size in sizes), positions, order)


def packets(vectors, packet_values=10**9, cut_multiples=None, slice_values=10**9):
    """`layout.packets` with tuples in place of slices; granules of 64."""
    cut_multiples = [64] * len(vectors) if cut_multiples is None else cut_multiples
    packed = layout.packets(vectors, packet_values, cut_multiples, slice_values)
    return [[tuple(slice_) for slice_ in packet] for packet in packed]


class TestVectors:
    NAMES = ["g/dense/kernel", "g/dense/bias", "g/dense_1/kernel", "g/dense_1/bias"]
    SHAPES = [(3, 4), (4,), (4, 2), (2,)]

    def test_a_player_without_rules_is_one_vector(self):
        (one,) = layout.vectors("generator", self.NAMES, self.SHAPES, SIGN, first=5, order=1)
        assert one == Vector("generator", SIGN, tuple(self.SHAPES), (5, 6, 7, 8), 1)
        assert (one.sizes, one.size) == ([12, 4, 8, 2], 26)

    def test_weights_of_one_rule_share_a_vector_and_the_last_comes_first(self):
        made = layout.vectors("generator", self.NAMES, self.SHAPES, SIGN, rules.parse("bias=none"), first=1)
        assert [(v.name, v.compressor.name, v.weights, v.shapes) for v in made] == [
            ("generator.1", "none", (2, 4), ((4,), (2,))),
            ("generator", "sign", (1, 3), ((3, 4), (4, 2))),
        ]

    def test_the_first_rule_that_names_a_weight_holds(self):
        chosen = rules.parse("dense_1=none;kernel=bf16")
        made = layout.vectors("g", self.NAMES, self.SHAPES, SIGN, chosen)
        assert [(v.name, v.weights) for v in made] == [("g.1", (2, 3)), ("g", (1,)), ("g.2", (0,))]

    def test_what_is_exact_and_what_travels_as_matrices(self):
        assert vector(4, spec="none").is_exact and not vector(4).is_exact
        low_rank = vector(4, spec="powersgd:rank=1")
        assert low_rank.is_low_rank and not low_rank.is_exact and not vector(4, spec="none").is_low_rank
        assert low_rank.stride == 1

    def test_only_a_compressor_that_learns_has_a_state(self):
        assert vector(4, spec="adaptive:bits=3,bucket=32").initial_state().shape == (4 + 64,)
        assert vector(4).initial_state() is None

    def test_a_weight_without_values_is_refused(self):
        with pytest.raises(UsageError, match=r"must have values: .* Received: g/empty of shape \(0, 4\)"):
            layout.vectors("generator", ["g/kernel", "g/empty"], [(3, 4), (0, 4)], SIGN)


class TestSlices:
    def test_one_packet_of_whole_vectors_where_no_size_is_given(self):
        assert packets([vector(100), vector(7, first=1)], cut_multiples=[32, None]) == [[(1, 0, 7), (0, 0, 100)]]

    def test_slices_are_multiples_of_the_granule(self):
        assert packets([vector(1000)], slice_values=300) == [[(0, 0, 256), (0, 256, 256), (0, 512, 256), (0, 768, 232)]]

    def test_slices_are_as_equal_as_granules_allow(self):
        """Three slices of at most 256 values are needed; threads that share them end at about the same time."""
        assert packets([vector(575)], slice_values=256) == [[(0, 0, 192), (0, 192, 192), (0, 384, 191)]]

    @pytest.mark.parametrize(("size", "last"), [(640 + 63, (512, 191)), (640 + 64, (640, 64)), (640, (512, 128))])
    def test_the_last_slice_holds_a_whole_granule_before_the_tail(self, size, last):
        (parts,) = packets([vector(size)], slice_values=128)
        assert parts[-1] == (0, *last)
        assert sum(part[2] for part in parts) == size

    @pytest.mark.parametrize(("size", "count"), [(128, 1), (129, 2), (64, 1), (1, 1)])
    def test_a_slice_is_a_granule_at_least(self, size, count):
        """Two granules may not be cut where the limit is below: the first would be no larger than the granule."""
        (parts,) = packets([vector(size)], slice_values=1)
        assert len(parts) == count

    def test_what_may_not_be_cut_stays_whole(self):
        assert packets([vector(1000)], 256, [None], 256) == [[(0, 0, 1000)]]


class TestOrder:
    def test_the_last_weights_come_first_within_an_order(self):
        vectors = [vector(10), vector(10, first=1), vector(10, first=2, order=1), vector(10, first=3, order=1)]
        assert packets(vectors) == [[(1, 0, 10), (0, 0, 10), (3, 0, 10), (2, 0, 10)]]

    def test_slices_follow_their_weights_and_not_their_vectors(self):
        """The vector of weights 0 and 2 is cut between them; weight 1 stands in between."""
        cut = Vector("cut", SIGN, ((128,), (128,)), (0, 2))
        assert packets([cut, vector(10, first=1)], slice_values=128) == [[(0, 128, 128), (1, 0, 10), (0, 0, 128)]]

    def test_a_slice_exists_when_its_first_weight_does(self):
        """Values 64 to 191 begin in weight 0, which backpropagation reaches last, though most are of weight 2."""
        cut = Vector("cut", SIGN, ((65,), (191,)), (0, 2))
        order = packets([cut, vector(10, first=1)], slice_values=64)
        assert order == [[(0, 128, 64), (0, 192, 64), (1, 0, 10), (0, 0, 64), (0, 64, 64)]]

    def test_slices_of_one_weight_keep_their_order(self):
        (parts,) = packets([vector(256)], slice_values=64)
        assert [start for _, start, _ in parts] == [0, 64, 128, 192]


class TestPackets:
    def test_what_is_left_of_a_vector_shares_a_packet(self):
        vectors = [vector(20), vector(10, first=1), vector(1000, first=2)]
        assert packets(vectors, 256, [None, None, 64]) == [
            [(2, 0, 256)],
            [(2, 256, 256)],
            [(2, 512, 256)],
            [(2, 768, 232), (1, 0, 10)],
            [(0, 0, 20)],
        ]

    def test_a_packet_holds_several_slices_of_one_vector(self):
        assert packets([vector(512)], 256, slice_values=128) == [
            [(0, 0, 128), (0, 128, 128)],
            [(0, 256, 128), (0, 384, 128)],
        ]

    def test_a_slice_larger_than_a_packet_fills_one_of_its_own(self):
        assert packets([vector(10), vector(300, first=1)], 100, [None, None]) == [[(1, 0, 300)], [(0, 0, 10)]]


class TestGranules:
    """What `choice.build` cuts, by the slices of its packets; blocks of 64 values, buckets of 32."""

    def slices(self, vectors, topology="all_gather", replicas=1, packet_values=10**9, threads=1, block=64):
        settings = PacketSettings(replicas, True, block, ("/cpu:0",))
        made, _ = lockstep.build(topology, vectors, settings, packet_values, threads)
        return [[tuple(part) for part in packet.slices] for packet in made]

    @pytest.fixture(autouse=True)
    def small_slices(self, monkeypatch):
        monkeypatch.setattr(choice, "_SMALLEST_SLICE", 1)

    def test_slices_are_for_threads(self):
        assert self.slices([vector(1024)], threads=4) == [[(0, 256 * i, 256) for i in range(4)]]
        assert self.slices([vector(1024)], threads=1) == [[(0, 0, 1024)]]

    def test_a_thread_shares_all_vectors_of_a_packet(self):
        """1024 values in 4 threads are 256 each: the larger vector is cut and the smaller is not."""
        assert self.slices([vector(256), vector(768, first=1)], threads=4) == [
            [(1, 0, 256), (1, 256, 256), (1, 512, 256), (0, 0, 256)]
        ]

    def test_slices_of_a_packet_are_for_threads(self):
        assert self.slices([vector(1024)], packet_values=512, threads=2) == [
            [(0, 0, 256), (0, 256, 256)],
            [(0, 512, 256), (0, 768, 256)],
        ]

    def test_small_vectors_are_not_cut(self, monkeypatch):
        monkeypatch.setattr(choice, "_SMALLEST_SLICE", 512)
        assert self.slices([vector(1024)], threads=8) == [[(0, 0, 512), (0, 512, 512)]]

    def test_whole_blocks(self):
        packets = self.slices([vector(1024)], packet_values=200)
        assert packets == [*[[(0, 192 * i, 192)] for i in range(5)], [(0, 960, 64)]]

    def test_as_many_blocks_for_every_owner(self):
        """Three owners: a cut is a multiple of 192."""
        assert self.slices([vector(1024)], "two_step", 3, packet_values=200) == [
            *[[(0, 192 * i, 192)] for i in range(4)],
            [(0, 768, 256)],
        ]

    def test_without_blocks_whole_buckets(self):
        assert self.slices([vector(128)], packet_values=32, block=None) == [[(0, 32 * i, 32)] for i in range(4)]

    def test_cuts_leave_every_kth_bucket_in_the_histogram(self):
        """A stride of 4 buckets of 32, of which two make a block."""
        one = vector(4 * 65536, spec="adaptive:bits=3,bucket=32")
        assert one.stride == 4
        starts = [start for packet in self.slices([one], packet_values=4050) for _, start, _ in packet]
        assert starts[1] == 4050 // 128 * 128 != 4050 // 64 * 64
        assert all(start % (4 * 32) == 0 for start in starts)

    @pytest.mark.parametrize("spec", ["topk:fraction=0.1", "randomk:fraction=0.1", "powersgd:rank=2,explore=1"])
    def test_what_looks_at_a_whole_vector_stays_whole(self, spec):
        one = Vector("matrix", compressors.get(spec), ((40, 50),), (0,))
        assert self.slices([one], packet_values=100, threads=4) == [[(0, 0, 2000)]]

    @pytest.mark.parametrize("spec", ["bf16", "sign:bucket=32", "adaptive:bits=3,bucket=32", "none"])
    def test_what_works_bucket_by_bucket_is_cut(self, spec):
        assert len(self.slices([vector(8192, spec=spec)], packet_values=2048)) > 1

    def test_exact_vectors_are_cut_for_packets_and_not_for_threads(self):
        """Nothing is encoded."""
        one = vector(8192, spec="none")
        assert self.slices([one], None, packet_values=4096, threads=4) == [[(0, 0, 4096)], [(0, 4096, 4096)]]

    def test_low_rank_vectors_travel_apart_and_first(self):
        vectors = [vector(64), Vector("matrix", compressors.get("powersgd:rank=1"), ((8, 8),), (1,))]
        assert self.slices([*vectors, vector(64, first=2)]) == [[(1, 0, 64)], [(2, 0, 64), (0, 0, 64)]]


def test_a_slice_has_the_stride_of_its_vector():
    """Its histogram counts the buckets that the histogram of the whole vector counts."""
    one = vector(4 * 65536, spec="adaptive:bits=3,bucket=32")
    assert encoding_key(one, 128).stride == one.stride == 4


def test_only_a_whole_vector_of_matrices_has_shapes_in_its_coding():
    """Slices of equal size share compiled functions, whatever their weights."""
    low_rank = Vector("matrix", compressors.get("powersgd:rank=1"), ((3, 4),), (0,))
    assert encoding_key(low_rank, 12).shapes == ((3, 4),)
    assert encoding_key(vector(5, 7), 12) == encoding_key(vector(12, first=3), 12)


def test_a_slice_is_a_range():
    assert Slice(vector=1, start=2, size=3) == (1, 2, 3)


@pytest.mark.parametrize(
    ("spec", "advice"),
    [
        ("powersgd:rank=2,explore=0", "powersgd:rank=2,explore=1"),
        ("linear:bits=4,bucket=512,rounding=stochastic", "linear:bits=4,bucket=512"),
        ("fp16", "bf16"),
        ("qsgd:bits=4,bucket=512", "qsgd:bits=8,bucket=512"),
        ("nuqsgd:bits=3,bucket=512", "nuqsgd:bits=4,bucket=512"),
        ("natural:bits=3,bucket=1024,rounding=nearest", "natural:bits=4,bucket=512,rounding=nearest"),
        ("terngrad:bucket=512", "ternary:bucket=512"),
        ("sign:bucket=16777216", "sign:bucket=512"),
        ("topk:fraction=0.01+terngrad:bucket=64", "topk:fraction=0.01+ternary:bucket=64"),
        ("randomk:fraction=1e-08", "randomk:fraction=0.001"),
    ],
)
def test_what_proves_no_contraction_is_refused_with_a_variant_that_does(spec, advice):
    one = Vector("w", compressors.get(spec), ((4096, 2048),), (0,))
    with pytest.raises(ValueError, match="contractive compressor: .*'w'.* allow_non_contractive") as caught:
        check_contraction([one])
    assert repr(spec) in str(caught.value) and f"take {advice!r}" in str(caught.value)
    assert "nearest rounding" not in str(caught.value)
    check_contraction([one._replace(compressor=compressors.get(advice))])
