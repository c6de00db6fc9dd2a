"""Specs to compressors and back."""

import pytest

from dqgan_tf import compressors
from dqgan_tf.compressors import Identity, Linear, PowerSGD, Sign, TopK
from dqgan_tf.errors import UsageError


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
        ("topk:fraction=0.01+linear:bits=8,bucket=64", TopK(0.01, Linear(8, 64))),
        ("topk+sign", TopK(0.01, Sign())),
        ("topk:fraction=1.5E-2", TopK(0.015)),
        ("topk:fraction=1", TopK(1.0)),
        ("sign:bucket=16777216", Sign(1 << 24)),
        ("powersgd:rank=1024,explore=0", PowerSGD(1024, 0)),
    ],
)
def test_get(spec, compressor):
    assert compressors.get(spec) == compressor
    assert compressors.get(compressor.spec) == compressor


def test_canonical_specs():
    assert compressors.available() == (
        *("none", "fp16", "bf16"),
        *("linear:bits=4,bucket=512", "ternary:bucket=512", "sign:bucket=512"),
        "natural:bits=8,bucket=512,rounding=stochastic",
        *("qsgd:bits=4,bucket=512", "nuqsgd:bits=4,bucket=512", "terngrad:bucket=512"),
        *("topk:fraction=0.01", "blocktopk:fraction=0.01,block=256", "randomk:fraction=0.01"),
        *("adaptive:bits=3,bucket=512", "powersgd:rank=2,explore=1"),
    )
    assert Linear(rounding="stochastic").spec == "linear:bits=4,bucket=512,rounding=stochastic"


@pytest.mark.parametrize("spec", compressors.available())
def test_what_is_available_works(spec):
    assert compressors.get(spec).spec == spec
    assert compressors.get(spec.partition(":")[0]) == compressors.get(spec)


@pytest.mark.parametrize(
    "spec, message",
    [
        ("", "must be like one of none, .*linear:bits=4,bucket=512"),
        ("power", "Received: 'power'"),
        ("powersgd:rank=0", "`rank` must be an integer from 1 to 1024. Received: rank=0.* 'powersgd:rank=2,explore=1'"),
        ("powersgd:explore=-1", "`explore` must be an integer from 0 to 1024. Received: explore=-1"),
        ("powersgd:rank=1000000000000", "`rank` must be an integer from 1 to 1024.* 'powersgd:rank=2,explore=1'"),
        ("powersgd:explore=1025", "`explore` must be an integer from 0 to 1024.* 'powersgd:rank=2,explore=1'"),
        ("powersgd+linear", "`powersgd` sends every value: no compressor may follow it"),
        ("topk+powersgd", "`values` must be a compressor. Received: values=PowerSGD"),
        ("topk+topk+topk", r"`values` must send every value, .* 'topk:fraction=0.01\+linear:bits=8,bucket=512'"),
        ("blocktopk+randomk", r"'blocktopk:fraction=0.01,block=256\+linear:.*Received: values=randomk"),
        ("qsgd:rounding=nearest", r"`qsgd` has the parameters \(bits, bucket\)"),
        (
            "linear:bits=4+sign",
            "`linear` sends every value: no compressor may follow it after '\\+'. A spec that works",
        ),
        ("topk:fraction=0.1+", "must be like one of none.* 'topk:fraction=0.01'"),
        ("topk:fraction=0.1+linear:bits=1", "`bits` must be 2 to 8 or 16. Received: bits=1.* 'topk:fraction=0.01'"),
        ("topk:values=linear", r"`topk` has the parameters \(fraction\)"),
        ("fp16:bits=8", r"`fp16` has the parameters \(\)"),
        ("adaptive:bits=2", "`bits` must be 3, 4 or 5. Received: bits=2.* 'adaptive:bits=3,bucket=512'"),
        ("natural:bits=9", "`bits` must be 3 to 8. Received: bits=9"),
        ("blocktopk:block=8", "`block` must be a multiple of 32 up to 256. Received: block=8"),
        ("linear:", "Received: 'linear:'"),
        ("linear:bits=9", "`bits` must be 2 to 8 or 16. Received: bits=9.* 'linear:bits=4,bucket=512'"),
        ("linear:bits=4.5", "`bits` must be a whole number in plain digits. Received: bits=4.5"),
        ("linear:bits", "`bits` must be a whole number in plain digits. Received: bits="),
        ("linear:bits=\u0664", "`bits` must be a whole number in plain digits.* 'linear:bits=4,bucket=512'"),
        ("linear:bits=0_4", "`bits` must be a whole number in plain digits"),
        ("linear:bits=+4", "`bits` must be a whole number in plain digits"),
        ("linear:bits= 4", "`bits` must be a whole number in plain digits"),
        ("linear:bits=4 ", "`bits` must be a whole number in plain digits"),
        ("linear:bits=4\n", "`bits` must be a whole number in plain digits"),
        ("linear:bits=4e0", "`bits` must be a whole number in plain digits"),
        ("linear:level=4", r"`linear` has the parameters \(bits, bucket, rounding\). Received: 'level=4'"),
        ("linear:bits=4,bits=8", "`bits` must appear once"),
        ("linear:bits=4,", "Received: ''"),
        ("none:bits=4", "has the parameters"),
        ("topk:fraction=0", r"`fraction` must be in \(0, 1\]"),
        ("topk:fraction=-0.1", r"`fraction` must be in \(0, 1\]"),
        ("topk:fraction=nan", "`fraction` must be a number in plain digits.* 'topk:fraction=0.01'"),
        ("topk:fraction=0_1.0", "`fraction` must be a number in plain digits"),
        ("topk:fraction=\u0660.\u0661", "`fraction` must be a number in plain digits"),
        ("topk:fraction= 0.1", "`fraction` must be a number in plain digits"),
        ("topk:fraction=+0.1", "`fraction` must be a number in plain digits"),
        ("topk:fraction=.", "`fraction` must be a number in plain digits"),
        ("topk:fraction=1e", "`fraction` must be a number in plain digits"),
        ("sign:bucket=0", "'sign:bucket=512'"),
        (
            "sign:bucket=99999999999999999999968",
            "`bucket` must be a positive multiple of 32 up to 16777216.* 'sign:buck",
        ),
        ("terngrad:bucket=16777248", "`bucket` must be a positive multiple of 32 up to 16777216"),
        (f"sign:bucket={'9' * 5000}", "`bucket` must be"),
        (None, "must be like one of none, .*linear:bits=4,bucket=512.*Received: None"),
        (4, "must be like one of none, .*linear:bits=4,bucket=512.*Received: 4"),
        (Sign(), r"must be like one of none, .*Received: Sign\(bucket=512\)"),
    ],
)
def test_refuses_and_says_what_works(spec, message):
    with pytest.raises(UsageError, match=message):
        compressors.get(spec)
