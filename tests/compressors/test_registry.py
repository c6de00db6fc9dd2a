"""Specs to compressors and back."""

import pytest

from dqgan_tf import compressors
from dqgan_tf.compressors import Identity, Linear, Sign, TopK


@pytest.mark.parametrize(
    "spec, compressor",
    [
        ("none", Identity()),
        ("linear", Linear()),
        ("linear:bits=4,bucket=512", Linear(4, 512, "nearest")),
        ("linear:bucket=64,bits=8", Linear(8, 64)),
        ("linear:bits=3,rounding=stochastic", Linear(3, 512, "stochastic")),
        ("sign:bucket=1024", Sign(1024)),
        ("topk:fraction=0.25", TopK(0.25)),
        ("topk:fraction=1e-3", TopK(0.001)),
    ],
)
def test_get(spec, compressor):
    assert compressors.get(spec) == compressor
    assert compressors.get(compressor.spec) == compressor


def test_canonical_specs():
    assert compressors.available() == ("none", "linear:bits=4,bucket=512", "sign:bucket=512", "topk:fraction=0.01")
    assert Linear(rounding="stochastic").spec == "linear:bits=4,bucket=512,rounding=stochastic"


@pytest.mark.parametrize(
    "spec, message",
    [
        ("", "must be like one of none, linear:bits=4,bucket=512"),
        ("qsgd", "Received: 'qsgd'"),
        ("linear:", "Received: 'linear:'"),
        ("linear:bits=9", "`bits` must be 2 to 8 or 16. Received: bits=9.* 'linear:bits=4,bucket=512'"),
        ("linear:bits=4.5", "`bits` must be of type int. Received: bits=4.5"),
        ("linear:bits", "`bits` must be of type int. Received: bits="),
        ("linear:level=4", r"`linear` has the parameters \(bits, bucket, rounding\). Received: 'level=4'"),
        ("linear:bits=4,bits=8", "`bits` must be given once"),
        ("linear:bits=4,", "Received: ''"),
        ("none:bits=4", "has the parameters"),
        ("topk:fraction=0", r"`fraction` must be in \(0, 1\]"),
        ("topk:fraction=nan", r"`fraction` must be in \(0, 1\]"),
        ("sign:bucket=0", "'sign:bucket=512'"),
    ],
)
def test_refuses_and_says_what_works(spec, message):
    with pytest.raises(ValueError, match=message):
        compressors.get(spec)
