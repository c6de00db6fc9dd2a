"""Every compressor, at every setting, against the contract."""

import pytest

from dqgan_tf import compressors
from tests.contracts.compressor_contract import CompressorContract, StochasticContract
from tests.oracles import codecs_numpy


def _linear(bits, contract=CompressorContract, rounding="nearest"):
    compressor = compressors.get(f"linear:bits={bits},rounding={rounding}")
    return type(f"TestLinear{bits}{rounding}", (contract,), {"compressor": compressor})


TestLinear3, TestLinear4, TestLinear8 = _linear(3), _linear(4), _linear(8)
TestLinear2, TestLinear5, TestLinear6, TestLinear7, TestLinear16 = (
    pytest.mark.slow(_linear(bits)) for bits in (2, 5, 6, 7, 16)
)


@pytest.mark.slow
class TestLinearBucket96(CompressorContract):
    compressor = compressors.get("linear:bits=3,bucket=96")
    bucket = 96


TestStochastic2, TestStochastic3, TestStochastic4, TestStochastic5, TestStochastic6, TestStochastic7 = (
    pytest.mark.slow(_linear(bits, StochasticContract, "stochastic")) for bits in range(2, 8)
)
TestStochastic8 = _linear(8, StochasticContract, "stochastic")


class TestSign(CompressorContract):
    compressor = compressors.get("sign:bucket=512")


class TestTopK(CompressorContract):
    compressor = compressors.get("topk:fraction=0.01")
    bucket = None


@pytest.mark.slow
class TestTopKHalf(CompressorContract):
    compressor = compressors.get("topk:fraction=0.5")
    bucket = None


@pytest.mark.slow
class TestTopKLinear(CompressorContract):
    compressor = compressors.get("topk:fraction=0.1+linear:bits=8,bucket=512")
    bucket = None


@pytest.mark.slow
class TestTopKStochastic(StochasticContract):
    compressor = compressors.get("topk:fraction=0.1+terngrad:bucket=32")
    bucket = None


class TestIdentity(CompressorContract):
    compressor = compressors.get("none")
    bucket = 1


class TestFloat16(CompressorContract):
    compressor = compressors.get("fp16")
    bucket = 1


class TestBFloat16(CompressorContract):
    compressor = compressors.get("bf16")
    bucket = 1


class TestTernary(CompressorContract):
    compressor = compressors.get("ternary:bucket=512")


@pytest.mark.slow
class TestTernaryBucket32(CompressorContract):
    compressor = compressors.get("ternary:bucket=32")
    bucket = 32


@pytest.mark.slow
class TestTernGrad(StochasticContract):
    compressor = compressors.get("terngrad:bucket=512")


class TestNatural(StochasticContract):
    compressor = compressors.get("natural:bits=8,bucket=512")


@pytest.mark.slow
class TestNaturalNearest4(CompressorContract):
    compressor = compressors.get("natural:bits=4,bucket=512,rounding=nearest")


class TestQSGD(StochasticContract):
    compressor = compressors.get("qsgd:bits=8,bucket=512")


@pytest.mark.slow
class TestQSGDUnproven(StochasticContract):
    compressor = compressors.get("qsgd:bits=3,bucket=96")
    bucket = 96


@pytest.mark.slow  # levels as `natural`'s, norms as `qsgd`'s
class TestNUQSGD(StochasticContract):
    compressor = compressors.get("nuqsgd:bits=4,bucket=512")


class TestRandomK(StochasticContract):
    compressor = compressors.get("randomk:fraction=0.5")
    bucket = None


@pytest.mark.slow
class TestRandomKLinear(StochasticContract):
    compressor = compressors.get("randomk:fraction=0.5+linear:bits=8,bucket=64")
    bucket = None


class TestBlockTopK(CompressorContract):
    compressor = compressors.get("blocktopk:fraction=0.01,block=256")
    bucket = 256


@pytest.mark.slow
class TestBlockTopKSign(CompressorContract):
    compressor = compressors.get("blocktopk:fraction=0.1,block=64+sign:bucket=32")
    bucket = None


class TestAdaptive(CompressorContract):
    compressor = compressors.get("adaptive:bits=3,bucket=512")


@pytest.mark.slow
class TestAdaptive5Bucket96(CompressorContract):
    compressor = compressors.get("adaptive:bits=5,bucket=96")
    bucket = 96


def test_no_compressor_is_left_out():
    tested = {value.compressor.name for name, value in globals().items() if name.startswith("Test")}
    registered = {spec.partition(":")[0] for spec in compressors.available()}
    # Matrices travel in two rounds of an all-reduce, not as one payload: tests/compressors/test_powersgd.py.
    assert registered - tested == {"powersgd"}
    # The oracle of the exchange takes the library's code for a name that it does not have.
    assert registered - set(codecs_numpy._CODECS) == {"powersgd"}
