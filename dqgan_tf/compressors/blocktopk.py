"""The largest absolute values of every block of neighbours: no search over the whole vector."""

import dataclasses
import math
from typing import ClassVar, NamedTuple

import tensorflow as tf

from dqgan_tf.compressors import buckets, float_bits, packing, reductions
from dqgan_tf.compressors.base import Compressor
from dqgan_tf.compressors.identity import Identity
from dqgan_tf.compressors.sparse import Sparse

_INDEX_BITS = 8
_BLOCK_MAX = 1 << _INDEX_BITS
_CHOSEN_MAX = 32


class BlockTopKPayload(NamedTuple):
    """indices: int32 [blocks, words], a byte each. values: float32 [words], as they are encoded."""

    indices: tf.Tensor
    values: tf.Tensor


@dataclasses.dataclass(frozen=True)
class BlockTopK(Sparse):
    """Spec `blocktopk:fraction=0.01,block=256[+linear:bits=8,bucket=512]`: ceil(fraction block) values of each block.

    Magnitudes are compared without their last 8 significand bits, which hold the index instead: one maximum a value.
    What is sent of a block holds at least 1 - 2^-14 of the energy of its m largest values, so that
    delta = m / block (1 - 2^-14), times that of the second compressor. Of equals the first is sent; NaN counts as inf.
    """

    fraction: float = 0.01
    block: int = 256
    values: Compressor = Identity()

    name: ClassVar[str] = "blocktopk"

    def __post_init__(self):
        super().__post_init__()
        if type(self.block) is not int or not 0 < self.block <= _BLOCK_MAX or self.block % buckets.LANE:
            raise ValueError(
                f"`block` must be a multiple of {buckets.LANE} up to {_BLOCK_MAX}. Received: block={self.block}"
            )
        if self.chosen > _CHOSEN_MAX:
            raise ValueError(
                f"`fraction` times `block` must be at most {_CHOSEN_MAX}. "
                f"Received: fraction={self.fraction}, block={self.block}"
            )

    @property
    def unbiased(self) -> bool:
        return False

    @property
    def chosen(self) -> int:
        """Values sent of each block."""
        return math.ceil(self.fraction * self.block)

    def k(self, n):
        return buckets.shape(n, self.block)[0] * self.chosen

    def encode_sparse(self, vector, seed):
        n = vector.shape[0]
        rows = buckets.split(vector, self.block)
        lanes = self._largest(rows)
        sent = tf.gather(rows, lanes, batch_dims=1)
        words, decoded = self._encode_values(tf.reshape(sent, [-1]), seed)
        missing = -self.chosen % 4
        indices = packing.pack(tf.pad(lanes, [[0, 0], [0, missing]]), _INDEX_BITS)
        return BlockTopKPayload(indices, words), decoded, self._indices(lanes, n)

    def decode_sparse(self, payload, n):
        lanes = packing.unpack(payload.indices, _INDEX_BITS)[:, : self.chosen]
        return self._decode_values(payload.values, self.k(n)), self._indices(lanes, n)

    def extent(self, n):
        blocks, width = buckets.shape(n, self.block)
        return blocks * width

    def payload_spec(self, n):
        blocks = buckets.shape(n, self.block)[0]
        return BlockTopKPayload(tf.TensorSpec([blocks, -(-self.chosen // 4)], tf.int32), self._values_spec(self.k(n)))

    def delta(self, n):
        count = min(self.block, n)
        share = 1.0 if self.chosen >= count else self.chosen / count * (1.0 - 2.0**-14)
        return self._delta(share, self.k(n))

    def _largest(self, rows):
        """Returns int32 [rows, chosen] lanes, the largest first: maxima of distinct keys, each below the one before."""
        magnitude = tf.minimum(float_bits.magnitude(rows), float_bits.INFINITY_BITS)
        lane = tf.range(rows.shape[1])
        keys = tf.bitwise.bitwise_or(tf.bitwise.bitwise_and(magnitude, -_BLOCK_MAX), _BLOCK_MAX - 1 - lane)
        found = [reductions.row_max(keys)]
        for _ in range(self.chosen - 1):
            found.append(reductions.row_max(tf.where(keys < found[-1][:, None], keys, 0)))
        return _BLOCK_MAX - 1 - tf.bitwise.bitwise_and(tf.stack(found, axis=1), _BLOCK_MAX - 1)

    def _indices(self, lanes, n):
        blocks, width = buckets.shape(n, self.block)
        return tf.reshape(lanes + (tf.range(blocks) * width)[:, None], [-1])
