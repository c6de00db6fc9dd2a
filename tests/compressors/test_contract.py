"""Every compressor, at every setting, against the contract."""

import numpy as np

from dqgan_tf import compressors
from tests.contracts.compressor_contract import CompressorContract, round_trip


def _linear(bits):
    return type(f"TestLinear{bits}", (CompressorContract,), {"compressor": compressors.get(f"linear:bits={bits}")})


TestLinear2, TestLinear3, TestLinear4, TestLinear5 = _linear(2), _linear(3), _linear(4), _linear(5)
TestLinear6, TestLinear7, TestLinear8, TestLinear16 = _linear(6), _linear(7), _linear(8), _linear(16)


class TestLinearBucket96(CompressorContract):
    compressor = compressors.get("linear:bits=3,bucket=96")
    bucket = 96


class StochasticContract(CompressorContract):
    """delta bounds the expectation, here the mean of 16 seeds; where none is proven (delta 0) nothing is asked."""

    def _mean_squared_error(self, x):
        if not self.compressor.contractive(len(x)):
            return 0.0
        decoded = [round_trip(self.compressor, x, seed=(k, 5)).astype(np.float64) for k in range(16)]
        return np.mean([np.sum((values - x) ** 2) for values in decoded])


class TestStochastic4(StochasticContract):
    compressor = compressors.get("linear:bits=4,rounding=stochastic")


class TestStochastic8(StochasticContract):
    compressor = compressors.get("linear:bits=8,rounding=stochastic")


class TestSign(CompressorContract):
    compressor = compressors.get("sign:bucket=512")


class TestTopK(CompressorContract):
    compressor = compressors.get("topk:fraction=0.01")
    bucket = None


class TestTopKHalf(CompressorContract):
    compressor = compressors.get("topk:fraction=0.5")
    bucket = None


class TestIdentity(CompressorContract):
    compressor = compressors.get("none")
    bucket = 1
