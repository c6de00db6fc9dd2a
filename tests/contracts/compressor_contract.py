"""What every compressor promises, as tests to inherit: subclass `CompressorContract` and set `compressor`."""

import functools

import numpy as np
import pytest
import tensorflow as tf

from dqgan_tf import compressors
from dqgan_tf.compressors import base as wire
from tests.oracles import compressors_numpy as oracle

N = 1100
"""Two buckets of 512 and a partial one of 76 values."""

FLT_MAX = np.finfo(np.float32).max
SEED = (3, 7)


def vectors():
    """Returns {name: float32 [n]}: shapes of real updates, and the ends of the float32 range."""
    rng = np.random.default_rng(1)
    gaussian = rng.standard_normal(N).astype(np.float32)
    named = oracle.distributions(N) | {
        "constant": np.full(N, -0.3, np.float32),
        "zero": np.zeros(N, np.float32),
        "spike": np.eye(1, N, 700, dtype=np.float32)[0],
        "mixed_scales": (gaussian * np.exp(8 * rng.standard_normal(N))).astype(np.float32),
        "huge": gaussian * np.float32(1e30),
        "largest": np.where(gaussian > 0, FLT_MAX, -FLT_MAX).astype(np.float32),
        "largest_and_small": np.where(np.arange(N) == 5, FLT_MAX, gaussian).astype(np.float32),
        "tiny": gaussian * np.float32(1e-25),
        "one": np.array([-0.7], np.float32),
        "one_zero": np.zeros(1, np.float32),
        "few": gaussian[:33],
    }
    return named


@functools.cache
def encoder(compressor, mode):
    """Returns (vector, seed) -> payload in the mode `eager`, `graph` or `xla`."""
    return _in_mode(compressor.encode, mode)


@functools.cache
def decoder(compressor, n, mode):
    """Returns payload -> vector in the mode `eager`, `graph` or `xla`."""
    return _in_mode(lambda payload: compressor.decode(payload, n), mode)


def _in_mode(function, mode):
    if mode == "eager":
        return function
    # `xla` as in the library. AutoGraph, which a user's `tf.function` has, takes longer than the rest of a trace.
    return tf.function(function, jit_compile=mode == "xla", autograph=mode == "graph", reduce_retracing=False)


def encode(compressor, x, seed=SEED, mode="xla"):
    return encoder(compressor, mode)(tf.constant(x), tf.constant(seed, tf.int32))


def round_trip(compressor, x, seed=SEED, mode="xla"):
    """Returns decode(encode(x)), float32 numpy."""
    return decoder(compressor, len(x), mode)(encode(compressor, x, seed, mode)).numpy()


def bits(tensor):
    """Returns the int32 bit patterns of a 32-bit tensor."""
    return np.asarray(tensor).view(np.int32)


class CompressorContract:
    """Inherit and set `compressor`. `bucket`: how far a non-finite value may spread (None: anywhere).

    `stochastic`: whether the seed matters.
    """

    compressor: compressors.Compressor
    bucket: int | None = 512
    stochastic: bool = False

    def test_spec_is_canonical(self):
        parsed = compressors.get(self.compressor.spec)
        assert parsed == self.compressor and hash(parsed) == hash(self.compressor)
        assert parsed.spec == self.compressor.spec

    @pytest.mark.parametrize("name", list(vectors()))
    def test_loses_at_most_one_minus_delta(self, name):
        x = vectors()[name]
        decoded = self._mean_squared_error(x)
        assert decoded <= (1.0 - self.compressor.delta(len(x))) * np.sum(x.astype(np.float64) ** 2)

    def _mean_squared_error(self, x):
        decoded = round_trip(self.compressor, x).astype(np.float64)
        return np.sum((decoded - x) ** 2)

    def test_delta_is_a_share(self):
        for n in (1, 33, N, 10**7):
            assert 0.0 <= self.compressor.delta(n) <= 1.0
            assert self.compressor.contractive_variant().delta(n) > 0.0

    @pytest.mark.parametrize("n", [1, 32, 33, 511, 513, N])
    def test_declared_bytes_are_the_real_ones(self, n):
        payload = encode(self.compressor, np.linspace(-1, 1, n, dtype=np.float32), mode="eager")
        spec = self.compressor.payload_spec(n)
        assert [(f.shape, f.dtype) for f in payload] == [(f.shape, f.dtype) for f in spec]
        assert all(field.dtype in (tf.int32, tf.float32) for field in payload)
        real = sum(np.asarray(field).nbytes for field in payload)
        assert self.compressor.wire_bytes(n) == real == 4 * int(wire.to_wire(payload).shape[0])

    def test_wire_returns_every_bit(self):
        x = vectors()["gaussian"]
        x[3], x[900] = np.nan, -np.inf
        payload, spec = encode(self.compressor, x), self.compressor.payload_spec(N)
        there_and_back = tf.function(lambda p: wire.from_wire(wire.to_wire(p), spec), jit_compile=True, autograph=False)
        returned = there_and_back(payload)
        assert type(returned) is type(payload)
        for field, sent in zip(returned, payload, strict=True):
            np.testing.assert_array_equal(bits(field), bits(sent))

    @pytest.mark.parametrize("name", ["gaussian", "mixed_scales", "largest", "tiny", "few", "one"])
    def test_decode_is_bitwise_equal_in_all_modes(self, name):
        x = vectors()[name]
        payload = encode(self.compressor, x)
        decoded = [bits(decoder(self.compressor, len(x), mode)(payload)) for mode in ("eager", "graph", "xla")]
        np.testing.assert_array_equal(decoded[0], decoded[1])
        np.testing.assert_array_equal(decoded[0], decoded[2])

    def test_encodes_in_all_modes(self):
        x = vectors()["gaussian"]
        for mode in ("eager", "graph"):
            np.testing.assert_allclose(
                round_trip(self.compressor, x, mode=mode), round_trip(self.compressor, x), rtol=1e-5, atol=1e-6
            )

    def test_encode_and_decode_is_both(self):
        x, seed = tf.constant(vectors()["gaussian"]), tf.constant(SEED)

        @functools.partial(tf.function, jit_compile=True, autograph=False)
        def encode_and_subtract(x, seed):
            payload, decoded = self.compressor.encode_and_decode(x, seed)
            return payload, x - decoded

        payload, error = encode_and_subtract(x, seed)
        for field, sent in zip(payload, encode(self.compressor, x.numpy()), strict=True):
            np.testing.assert_array_equal(bits(field), bits(sent))
        np.testing.assert_array_equal(bits(error), bits(x - self.compressor.decode(payload, N)))

    def test_zeros_stay_zeros(self):
        x = vectors()["zero"]
        np.testing.assert_array_equal(round_trip(self.compressor, x), x)

    @pytest.mark.parametrize("mode, position", [("xla", 700), ("xla", N - 1), ("eager", 700)])
    @pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf, np.uint32(0x7FFFFFFF).view(np.float32)])
    def test_poison_stays_in_its_bucket(self, poison, mode, position):
        x = vectors()["gaussian"]
        clean = round_trip(self.compressor, x, mode=mode)
        x[position] = poison
        decoded = round_trip(self.compressor, x, mode=mode)
        assert not np.isfinite(decoded).all()
        if self.bucket is not None:
            elsewhere = np.arange(N) // self.bucket != position // self.bucket
            np.testing.assert_array_equal(bits(decoded)[elsewhere], bits(clean)[elsewhere])

    def test_seed_matters_only_to_the_stochastic(self):
        x = vectors()["gaussian"]
        same = np.array_equal(round_trip(self.compressor, x, seed=(1, 2)), round_trip(self.compressor, x, seed=(1, 3)))
        assert same != self.stochastic


class StochasticContract(CompressorContract):
    """delta bounds the expectation: the mean of 16 seeds may not exceed it by three standard errors.

    Where none is proven (delta 0) nothing is asked.
    """

    stochastic = True

    def _mean_squared_error(self, x):
        if self.compressor.delta(len(x)) == 0.0:
            return 0.0
        decoded = [round_trip(self.compressor, x, seed=(k, 5)).astype(np.float64) for k in range(16)]
        lost = [np.sum((values - x) ** 2) for values in decoded]
        return np.mean(lost) - 3.0 * np.std(lost, ddof=1) / np.sqrt(16)
