"""A payload as one flat float32 tensor, the form in which it crosses a collective.

float32 because every collective and every GPU kernel moves it; nothing is converted, only bitcast.
"""

import math

import tensorflow as tf


def wire_words(payload_spec) -> int:
    """Returns the number of 32-bit words of a payload of these `tf.TensorSpec`s."""
    return sum(_size(field) for field in payload_spec)


def to_wire(payload) -> tf.Tensor:
    """Returns float32 [wire_words]: the fields flattened in order, bit for bit.

    Args:
      payload: NamedTuple of int32 and float32 tensors of static shapes.
    """
    flat = [tf.reshape(tf.bitcast(field, tf.float32), [-1]) for field in payload]
    return flat[0] if len(flat) == 1 else tf.concat(flat, axis=0)


def from_wire(words: tf.Tensor, payload_spec):
    """Inverse of `to_wire`.

    Args:
      words: float32 [wire_words(payload_spec)].
      payload_spec: NamedTuple of `tf.TensorSpec`, see `Compressor.payload_spec`.

    Returns:
      A NamedTuple of the type of `payload_spec`.

    Raises:
      ValueError: the static size of `words` is another.
    """
    expected = wire_words(payload_spec)
    if words.shape.rank != 1 or words.shape[0] != expected:
        raise ValueError(f"`words` must be float32 [{expected}]. Received: shape={words.shape}")
    fields, start = [], 0
    for field in payload_spec:
        stop = start + _size(field)
        fields.append(tf.bitcast(tf.reshape(words[start:stop], field.shape), field.dtype))
        start = stop
    return type(payload_spec)(*fields)


def _size(field: tf.TensorSpec) -> int:
    return math.prod(field.shape.as_list())
