"""No compression: the exact exchange behind the same interface."""

import dataclasses
from typing import ClassVar, NamedTuple

import tensorflow as tf

from dqgan_tf.compressors.base import Compressor


class IdentityPayload(NamedTuple):
    """values: float32 [n]."""

    values: tf.Tensor


@dataclasses.dataclass(frozen=True)
class Identity(Compressor):
    """Spec `none`: the payload is the vector, 4 n bytes, delta = 1."""

    name: ClassVar[str] = "none"

    @property
    def unbiased(self) -> bool:
        return True

    @property
    def is_identity(self) -> bool:
        return True

    def encode(self, vector, seed):
        return IdentityPayload(tf.identity(vector))

    def decode(self, payload, n):
        return tf.identity(payload.values)

    def encode_and_error(self, vector, seed):
        return self.encode(vector, seed), tf.zeros_like(vector)

    def payload_spec(self, n):
        return IdentityPayload(tf.TensorSpec([n], tf.float32))

    def delta(self, n):
        return 1.0
