"""How vectors are cut into buckets."""

import pytest

from dqgan_tf import compressors
from dqgan_tf.distribute.segment import Segment, check_contraction, cut


def segments(*sizes):
    return [Segment(f"s{index}", size, compressors.get("sign")) for index, size in enumerate(sizes)]


def ranges(buckets):
    return [[(part.segment, part.start, part.size) for part in bucket] for bucket in buckets]


def test_one_bucket_holds_everything_where_no_size_is_given():
    assert ranges(cut(segments(100, 7), 0, [32, None])) == [[(0, 0, 100), (1, 0, 7)]]


def test_cuts_are_multiples_and_what_is_left_is_shared():
    buckets = cut(segments(1000, 10, 20), 4 * 256, [64, None, None])
    assert ranges(buckets) == [
        [(0, 0, 256)],
        [(0, 256, 256)],
        [(0, 512, 256)],
        [(0, 768, 232), (1, 0, 10)],
        [(2, 0, 20)],
    ]


@pytest.mark.parametrize(("size", "last"), [(512 + 63, (256, 319)), (512 + 64, (512, 64)), (512, (256, 256))])
def test_the_last_part_holds_a_whole_granule_before_the_tail(size, last):
    parts = ranges(cut(segments(size), 4 * 256, [64]))
    assert parts[-1] == [(0, *last)]
    assert sum(part[2] for bucket in parts for part in bucket) == size


def test_what_may_not_be_cut_stays_whole():
    assert ranges(cut(segments(1000), 4 * 256, [None])) == [[(0, 0, 1000)]]


def test_a_part_that_is_a_whole_segment_knows_its_shapes():
    segment = Segment("matrix", 12, compressors.get("sign"), ((3, 4),))
    assert cut([segment], 0, [None])[0][0].coding.shapes == ((3, 4),)


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
def test_what_proves_no_contraction_is_refused_with_a_relative_that_does(spec, advice):
    segment = Segment("w", 4096 * 2048, compressors.get(spec), ((4096, 2048),))
    with pytest.raises(ValueError, match="contractive compressor: .*'w'.* allow_non_contractive") as caught:
        check_contraction([segment])
    assert repr(spec) in str(caught.value) and f"take {advice!r}" in str(caught.value)
    assert "nearest rounding" not in str(caught.value)
    check_contraction([segment._replace(compressor=compressors.get(advice))])
