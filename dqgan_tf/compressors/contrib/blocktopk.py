"""The largest magnitudes of every block of consecutive values: no search over the whole vector."""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar

from dqgan_tf.compressors import float_bits, packing, quantizer
from dqgan_tf.compressors.base import Compressor
from dqgan_tf.compressors.casts import Identity
from dqgan_tf.compressors.sparse import Sparse, SparsePayload
from dqgan_tf.errors import UsageError
from dqgan_tf.lazy_tensorflow import tf

_INDEX_BITS = 8
_BLOCK_MAX = 1 << _INDEX_BITS
_VALUES_MAX = 32
"""Largest number of values sent of a block: each needs one more pass over the block."""


@dataclasses.dataclass(frozen=True)
class BlockTopK(Sparse):
    """The largest magnitudes of every block.

    Spec `blocktopk:fraction=0.01,block=256[+linear:bits=8,bucket=512]`: m = ceil(fraction block) values of each block.
    An index is a byte, the position in the block. Of equal magnitudes the first is sent; NaN counts as inf.

    Magnitudes are compared without their last 8 significand bits. The values sent of a block have at least 1 - 2^-14 of
    the squared norm of its m largest values, so delta = m / block (1 - 2^-14), times delta of the second compressor.
    """

    fraction: float = 0.01
    block: int = 256
    values: Compressor = Identity()

    name: ClassVar[str] = "blocktopk"
    use: ClassVar[str] = "as `topk`, without a search of the whole vector"

    def __post_init__(self):
        super().__post_init__()
        if type(self.block) is not int or not 0 < self.block <= _BLOCK_MAX or self.block % packing.LANE:
            raise UsageError(
                f"`block` must be a multiple of {packing.LANE} up to {_BLOCK_MAX}. Received: block={self.block}"
            )
        if self.values_per_block > _VALUES_MAX:
            raise UsageError(
                f"`fraction` times `block` must be at most {_VALUES_MAX}, for example fraction=0.1, block=256. "
                f"Received: fraction={self.fraction}, block={self.block}"
            )

    @property
    def values_per_block(self) -> int:
        """m, the number of values sent of each block."""
        return math.ceil(self.fraction * self.block)

    def k(self, n):
        return quantizer.rows_shape(n, self.block)[0] * self.values_per_block

    def extent(self, n):
        blocks, width = quantizer.rows_shape(n, self.block)
        return blocks * width

    def delta(self, n):
        count = min(self.block, n)
        m = self.values_per_block
        return self._delta(1.0 if m >= count else m / count * (1.0 - 2.0**-14), self.k(n))

    def payload_spec(self, n):
        blocks = quantizer.rows_shape(n, self.block)[0]
        indices = tf.TensorSpec([blocks, -(-self.values_per_block // 4)], tf.int32)
        return SparsePayload(indices, self._values_spec(self.k(n)))

    def encode_sparse(self, vector, seed):
        rows = quantizer.to_rows(vector, self.block)
        lanes = self._largest(rows)
        sent = tf.gather(rows, lanes, batch_dims=1)
        words, decoded = self._encode_values(tf.reshape(sent, [-1]), seed)
        padding = -self.values_per_block % 4  # to whole words of four indices
        indices = packing.pack(tf.pad(lanes, [[0, 0], [0, padding]]), _INDEX_BITS)
        return SparsePayload(indices, words), decoded, self._indices(lanes, vector.shape[0])

    def decode_sparse(self, payload, n):
        lanes = packing.unpack(payload.indices, _INDEX_BITS)[:, : self.values_per_block]
        return self._decode_values(payload.values, self.k(n)), self._indices(lanes, n)

    def _largest(self, rows):
        """Returns int32 [rows, m], the lanes of the m largest magnitudes, the largest first.

        A key is the bit pattern of the magnitude, with 255 - lane in place of its last 8 bits. So keys are distinct,
        and of equal magnitudes the first lane has the largest key. Each pass finds the largest key below the one
        before; its last 8 bits give the lane.
        """
        magnitude = tf.minimum(float_bits.magnitude_bits(rows), float_bits.INFINITY_BITS)
        last = _BLOCK_MAX - 1
        keys = tf.bitwise.bitwise_or(tf.bitwise.bitwise_and(magnitude, ~last), last - tf.range(rows.shape[1]))
        maxima = [float_bits.row_max(keys)]
        for _ in range(self.values_per_block - 1):
            maxima.append(float_bits.row_max(tf.where(keys < maxima[-1][:, None], keys, 0)))
        return last - tf.bitwise.bitwise_and(tf.stack(maxima, axis=1), last)

    def _indices(self, lanes, n):
        """Returns int32 [blocks * m], indices in the vector of lanes of blocks."""
        blocks, width = quantizer.rows_shape(n, self.block)
        return tf.reshape(lanes + (tf.range(blocks) * width)[:, None], [-1])
