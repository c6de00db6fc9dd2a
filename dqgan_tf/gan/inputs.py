"""The networks and batches of a user: what `DQGAN` asks of them, and what they say about themselves."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import logging

from dqgan_tf.config import check_setting
from dqgan_tf.distribute.replica_local import ReplicaLocal
from dqgan_tf.distribute.strategy import CompressedStrategy
from dqgan_tf.errors import UsageError
from dqgan_tf.private_keras import flat_layers

# Layers that move values and change none.
_MOVES = (
    *("Reshape", "Flatten", "Permute", "Identity", "Cropping1D", "Cropping2D", "RepeatVector"),
    *("Squeeze", "ExpandDims", "Transpose", "GetItem"),
)
# Range of the values behind an activation.
_RANGES = {
    "tanh": (-1.0, 1.0),
    "soft_sign": (-1.0, 1.0),
    "softsign": (-1.0, 1.0),
    "hard_tanh": (-1.0, 1.0),
    "sigmoid": (0.0, 1.0),
    "hard_sigmoid": (0.0, 1.0),
}


def check_networks(generator: keras.Model, discriminator: keras.Model, strategy: CompressedStrategy) -> None:
    """Refuses networks that cannot be trained, or not against each other.

    Raises:
      UsageError: see `_check_network`; or both are one network, or share a weight, or the discriminator takes samples
        of another shape than the generator draws, as when they are swapped.
    """
    _check_network(generator, "generator", strategy)
    _check_network(discriminator, "discriminator", strategy)
    if generator is discriminator:
        raise UsageError(
            f"The generator and the discriminator must be two networks. Received: {generator.name} for both"
        )
    ids = {id(variable) for variable in discriminator.variables}
    shared = [variable.path for variable in generator.trainable_variables if id(variable) in ids]
    if shared:
        raise UsageError(
            "Each network of a DQGAN needs trainable weights of its own, since the players move apart: make a second "
            f"layer, or freeze it (layer.trainable = False). Received: {shared[0]} in both networks"
        )
    outputs, inputs = getattr(generator, "outputs", None), getattr(discriminator, "inputs", None)
    if outputs and inputs and not _fits(outputs[0].shape[1:], inputs[0].shape[1:]):
        raise UsageError(
            "The discriminator must take what the generator draws: DQGAN(generator, discriminator). Received: a "
            f"generator that draws {_batch_of(outputs[0].shape[1:])} and a discriminator that takes "
            f"{_batch_of(inputs[0].shape[1:])}"
        )


def _fits(shape, other) -> bool:
    """Whether two shapes without the batch are equal, up to dimensions of 1 at the end, which Keras adds and drops."""
    shapes = []
    for dimensions in (list(shape), list(other)):
        while dimensions and dimensions[-1] == 1:
            dimensions.pop()
        shapes.append(tf.TensorShape(dimensions))
    return shapes[0].is_compatible_with(shapes[1])


def _batch_of(shape) -> str:
    return f"[{', '.join(map(str, ['batch', *shape]))}]"


def _check_network(network: keras.Model, name: str, strategy: CompressedStrategy) -> None:
    """Refuses a network that cannot be trained.

    Raises:
      UsageError: it is no Keras model, is not built, or was built outside of the scope of a strategy of several
        replicas; it has a weight that is not float32, or a layer that computes in float16 or float64; a generator with
        spectral normalization.
    """
    if not isinstance(network, keras.Layer):
        raise UsageError(f"The {name} must be a built Keras model. Received: {name}={network!r}")
    if not network.built:
        raise UsageError(f"The {name} must be built before training: call it once or give it an Input.")
    strategy.check_scope(network.weights, f"the {name}")
    for weight in network.trainable_variables:
        if weight.dtype != "float32":
            raise UsageError(f"Weights must be float32. Received: {name} weight {weight.path} of {weight.dtype}")
    for layer in flat_layers(network):
        if layer.compute_dtype not in ("float32", "bfloat16"):
            raise UsageError(
                f"Layers must compute in float32 or, by the dtype policy mixed_bfloat16, in bfloat16. Received: "
                f"{name} layer {layer.name} with the dtype policy {layer.dtype_policy.name}; float16 would need a "
                "loss scale"
            )
        if name == "generator" and isinstance(layer, keras.layers.SpectralNormalization):
            raise UsageError(
                f"The generator's layer {layer.name} assigns its kernel while it trains, so samples would come "
                "from another network than the one that is trained. Use SpectralNormalization in the discriminator "
                "only."
            )


def drawn_shape(network: keras.Model, weights, non_trainable, inputs) -> tf.TensorShape:
    """Returns the shape that a generator draws, without the batch.

    Refuses a generator that assigns its own weights while it runs: samples would come from another network.

    Args:
      network: the generator.
      weights, non_trainable: its values.
      inputs: a batch of latents, or of latents and labels.

    Raises:
      UsageError: names the weight.
    """
    variables = [*network.trainable_variables, *network.non_trainable_variables]
    with keras.StatelessScope(state_mapping=list(zip(variables, [*weights, *non_trainable], strict=True))) as scope:
        drawn = network(inputs, training=True)
        for variable, value in zip(network.trainable_variables, weights, strict=True):
            if scope.get_current_value(variable) is not value:
                raise UsageError(
                    f"The generator assigns its weight {variable.path} while it trains, as SpectralNormalization does. "
                    "Its samples would come from another network than the one that is trained: remove that layer from "
                    "the generator. The discriminator may have it."
                )
    return drawn.shape[1:]


def of_shape(real: tf.Tensor, shape: tf.TensorShape) -> tf.Tensor:
    """Returns real samples of the shape that the generator draws.

    Raises:
      UsageError: the samples have another shape. One that is known at run time only is refused by TensorFlow.
    """
    if not real.shape[1:].is_compatible_with(shape):
        raise UsageError(
            f"Real samples must have the shape that the generator draws, {_batch_of(shape)}; images are "
            f"[batch, height, width, channels]. Received: {_batch_of(real.shape[1:])}"
        )
    if shape.rank is None or real.shape[1:].is_fully_defined():
        return real
    return tf.ensure_shape(real, [None, *shape])


def latent_dim(generator: keras.Model, received: int | None) -> int:
    """Returns the dimension of the latents: what the user gave, or that of the generator's input.

    Raises:
      UsageError: the generator takes latents of another shape, or its input is not known.
    """
    if received is not None:
        received = check_setting("network.latent_dim", received)
    inputs = getattr(generator, "inputs", None)
    shape = inputs[0].shape[1:] if inputs else [None]
    dimension = received or (shape[-1] if shape else 1)
    if dimension is None:
        raise UsageError(
            "The generator's input does not say how many dimensions the latents have: give it, as in latent_dim=64. "
            f"Received: latent_dim={received}"
        )
    if not _fits([dimension], shape):
        raise UsageError(
            f"The generator takes latents {_batch_of(shape)}, and DQGAN draws [batch, latent_dim]. Received: "
            f"latent_dim={dimension}"
        )
    return dimension


def latents(values: Any, dimension: int) -> tf.Tensor:
    """Returns a user's latents, float32 [batch, dimension].

    Raises:
      UsageError: they are no numbers, or have another shape.
    """
    try:
        tensor = tf.cast(tf.convert_to_tensor(values), tf.float32)
    except (TypeError, ValueError, tf.errors.OpError):
        tensor = None
    if tensor is None or not tensor.shape.rank or not _fits(tensor.shape[1:], [dimension]):
        received = repr(values) if tensor is None else f"shape {tuple(tensor.shape)}"
        raise UsageError(
            f"`latent` must be numbers [batch, {dimension}], such as tf.random.normal([16, {dimension}]). Received: "
            f"{received}"
        )
    return tensor


def takes_labels(generator: keras.Model, discriminator: keras.Model, received: bool | None = None) -> bool:
    """Returns whether both networks take [x, labels]: what the user gave, or by their inputs.

    Raises:
      UsageError: one does and the other does not, a network has other inputs, or the user says otherwise.
    """
    if received not in (None, True, False):
        raise UsageError(f"`conditional` must be True, False or None. Received: conditional={received!r}")
    counts = []
    for name, network in (("generator", generator), ("discriminator", discriminator)):
        inputs = getattr(network, "inputs", None) or [None] * (2 if received else 1)
        if len(inputs) > 2 or (len(inputs) == 2 and received is None and isinstance(network.input, dict)):
            raise UsageError(
                f"The {name} must take one tensor, or a list [{'latents' if name == 'generator' else 'samples'}, "
                f"labels]. Received: inputs={network.input}"
            )
        counts.append(len(inputs))
    if counts[0] != counts[1]:
        raise UsageError(
            "A conditional GAN has labels in both networks: the generator takes [latents, labels], the discriminator "
            f"[samples, labels]. Received: {counts[0]} and {counts[1]} inputs"
        )
    if received is not None and received != (counts[0] == 2):
        raise UsageError(
            f"The networks take {'[x, labels]' if counts[0] == 2 else 'x alone'}: leave `conditional` out. Received: "
            f"conditional={received}"
        )
    return counts[0] == 2


def num_labels(generator: keras.Model, discriminator: keras.Model) -> int | None:
    """Returns the number of labels of two networks that take [x, labels]: the fewest rows of an `Embedding` that takes
    the labels themselves. None if no such layer is known, as with one-hot labels or in subclassed networks."""
    rows = [
        layer.input_dim
        for network in (generator, discriminator)
        for layer in getattr(network, "layers", [])
        if isinstance(layer, keras.layers.Embedding) and _takes_labels(layer, network)
    ]
    return min(rows, default=None)


def _takes_labels(layer: keras.layers.Layer, network: keras.Model) -> bool:
    """Whether a layer takes the labels of a network themselves. False in a subclassed network, where nobody knows."""
    try:
        return layer.input is network.inputs[1]
    except (AttributeError, TypeError):  # the layer, or the network, has no symbolic inputs
        return False


def check_labels(labels: Any, count: int) -> None:
    """Raises UsageError for a label that is not one of 0 to count - 1."""
    values = np.asarray(labels)
    if values.dtype.kind in "biuf":
        strange = values[~((values >= 0) & (values < count) & (values == np.floor(values)))]
    else:
        strange = values
    if strange.size:
        received = float(strange.flat[0]) if values.dtype.kind in "biuf" else strange.flat[0]
        raise UsageError(
            f"Labels must be whole numbers from 0 to {count - 1}: an Embedding of the networks has {count} rows. "
            f"Received: label {format(received, '.15g') if isinstance(received, float) else repr(received)}"
        )


def last_activation(network: keras.Model) -> str | None:
    """Returns the name of the activation that a network ends in, such as `tanh`; None if there is none, or unknown.

    It may be that of the last layer, a layer of its own or a function of `keras.ops`, also in a nested model, and
    layers that only move values may follow it. Of a subclass of `keras.Model`, the last layer counts.
    """
    operations = list(getattr(network, "operations", None) or getattr(network, "layers", []))
    while operations:
        last = operations[-1]
        if isinstance(last, keras.Model):
            return last_activation(last)
        if type(last).__name__ not in _MOVES:
            return _activation_name(last)
        sources = [i for i, before in enumerate(operations[:-1]) if before.output is last.input]
        operations = operations[: sources[-1] + 1] if sources else operations[:-1]  # a nested model has other tensors
    return None


def _activation_name(operation: Any) -> str | None:
    activation = getattr(operation, "activation", None)
    name = getattr(activation, "__name__", None) or type(activation or operation).__name__
    return {"Tanh": "tanh", "Sigmoid": "sigmoid", "HardSigmoid": "hard_sigmoid", "Softmax": "softmax"}.get(name, name)


def check_range(generator: keras.Model, ranges: np.ndarray) -> None:
    """Compares samples with what the generator can draw, if its last activation bounds that.

    Samples without a negative value, for a generator that draws in [-1, 1], are logged as a warning.

    Args:
      generator: the network.
      ranges: float32 [n, 2], smallest and largest value of n batches. A range that is not finite, or of one value, is
        not looked at.

    Raises:
      UsageError: samples exceed the range of the generator by more than 5 % of its half.
    """
    last = last_activation(generator)
    ranges = ranges[np.isfinite(ranges).all(axis=1) & (ranges[:, 0] < ranges[:, 1])]
    if last not in _RANGES or not len(ranges):
        return
    (low, high), smallest, largest = _RANGES[last], ranges[:, 0].min(), ranges[:, 1].max()
    slack, seen = 0.025 * (high - low), f"from {smallest:.4g} to {largest:.4g}"
    draws = f"The generator ends in {last} and draws values in [{low:g}, {high:g}]"
    if smallest < low - slack or largest > high + slack:
        advice = (
            "or give bytes, uint8, which are scaled to it" if low else "or end it in tanh, since bytes become [-1, 1]"
        )
        raise UsageError(
            f"{draws}, but the first batch has values {seen}. Scale the samples to that range, {advice}. Then make the "
            "model again: it has taken its first steps on them."
        )
    if low < 0.0 <= smallest:
        logging.warning(
            "%s, but the first batch has values %s, none of them negative. If the samples are in [0, 1], scale them by "
            "2 x - 1.",
            draws,
            seen,
        )


def network_inputs(samples: tf.Tensor, labels: tf.Tensor | None):
    """Returns what a network is called with: samples or latents alone, or with labels."""
    return samples if labels is None else [samples, labels]


def real_samples(data) -> tf.Tensor:
    """Returns the real samples of a data set's element, float32.

    The element is a tensor, a tuple that begins with one, or a dict with the key `image`. Bytes, 0 to 255, are scaled
    to [-1, 1]; other floating types are cast.

    Raises:
      UsageError: the element has another form or dtype, or sample weights.
    """
    if isinstance(data, (tuple, list)) and any(map(_is_present, data[2:])):
        raise UsageError(
            "DQGAN has no use for sample weights: give batches (samples, labels), as of "
            f"dataset.map(lambda x, y, *_: (x, y)). Received: a batch of {len(data)} parts"
        )
    data = data[0] if isinstance(data, (tuple, list)) and data else data
    if isinstance(data, dict):
        if "image" not in data:
            raise UsageError(
                "A batch must be a tensor, a tuple that begins with one, or a dict with the key 'image', as of "
                f"dataset.map(lambda batch: batch[...]). Received: a dict with the keys {sorted(data)}"
            )
        data = data["image"]
    if not tf.is_tensor(data):
        raise UsageError(f"A batch must hold a tensor of real samples, such as float32 images. Received: {data!r}")
    if data.shape.rank is None:
        raise UsageError(
            "The data set must say how many dimensions its batches have, as in dataset.map(lambda x: "
            "tf.ensure_shape(x, [None, 32, 32, 3])). Received: a batch of unknown rank"
        )
    if data.dtype == tf.uint8:
        return tf.cast(data, tf.float32) / 127.5 - 1.0
    if not data.dtype.is_floating:
        raise UsageError(
            f"Real samples must be floating, or uint8, which is scaled to [-1, 1]. Received: dtype={data.dtype.name}"
        )
    return tf.cast(data, tf.float32)


def _is_present(part) -> bool:
    """Whether a part of a batch holds anything: Keras hands over an absent one as an empty Optional."""
    return any(v is not None and not isinstance(v, tf.experimental.Optional) for v in tf.nest.flatten(part))


def class_labels(data) -> tf.Tensor:
    """Returns the labels of a data set's element for networks that take labels, [batch, ...].

    The element is a tuple (samples, labels) or a dict with the keys `image` and `label`.

    Raises:
      UsageError: the element has another form, or labels that are texts.
    """
    labels: Any = None
    if isinstance(data, dict):
        labels = data.get("label")
    elif isinstance(data, (tuple, list)) and len(data) > 1:
        labels = data[1]
    if not tf.is_tensor(labels):
        form = sorted(data) if isinstance(data, dict) else type(data).__name__
        raise UsageError(
            "The networks take labels: a batch must be (samples, labels), or a dict with the keys 'image' and 'label'. "
            f"Received: {form}"
        )
    if labels.dtype == tf.string:
        raise UsageError("Labels must be numbers, such as the index of a class from 0. Received: texts")
    return labels


def one_label_at_least(labels: tf.Tensor) -> tf.Tensor:
    """Returns `labels`; if they are empty, one label 0, for `one_sample_at_least`."""
    if labels.shape[0]:
        return labels
    shape = tf.concat([[1], tf.shape(labels)[1:]], 0)
    return tf.cond(tf.shape(labels)[0] > 0, lambda: labels, lambda: tf.zeros(shape, labels.dtype))


def one_sample_at_least(real: tf.Tensor) -> tf.Tensor:
    """Returns `real`; if it is empty, one NaN sample. Convolutions fail on an empty batch, and a NaN makes all replicas
    skip the step."""
    if real.shape[0]:
        return real
    shape = tf.concat([[1], tf.shape(real)[1:]], 0)
    return tf.cond(tf.shape(real)[0] > 0, lambda: real, lambda: tf.fill(shape, tf.constant(float("nan"), real.dtype)))


class BatchChecks:
    """Labels and ranges of the samples of all replicas, which all workers check together.

    If a replica raised an error alone, the others would wait for it. So a replica notes in variables what it sees, and
    `check_labels` and `check_range`, which every worker calls, gather the notes and raise the error everywhere.

    Args:
      strategy: the strategy of the networks.
      generator: the network whose range is compared with that of the samples.
      num_labels: number of labels, if it is known; see `num_labels`.
    """

    def __init__(self, strategy: CompressedStrategy, generator: keras.Model, num_labels: int | None):
        self._strategy, self._generator, self._num_labels = strategy, generator, num_labels
        self._range = ReplicaLocal(strategy.local_devices, [2], "sample_range")
        self._range_is_checked = False
        # [1, the last label that is no class], or zeros.
        self._strange_label = ReplicaLocal(strategy.local_devices, [2], "strange_label", tf.float64)
        self._all_ranges, self._all_strange_labels = self._gathered(self._range), self._gathered(self._strange_label)

    def known_labels(self, real: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns samples and labels. If a label is no class, which are whole numbers, all samples are NaN, so that all
        replicas skip the step, and the label is 0. Replica context.

        An Embedding fails on such a label on one replica alone, or returns zeros on a GPU.
        """
        if not self._num_labels:
            return real, labels
        values = tf.cast(labels, tf.float64)
        is_class = (values >= 0) & (values < self._num_labels) & tf.equal(values, tf.floor(values))
        is_strange = tf.logical_not(is_class)  # true for NaN
        strange = tf.boolean_mask(values, is_strange)
        is_any = tf.size(strange) > 0
        seen = self._strange_label.local()
        seen.assign(tf.cond(is_any, lambda: tf.stack([tf.ones([], tf.float64), strange[0]]), seen.read_value))
        real = tf.where(is_any, tf.constant(float("nan"), real.dtype), real)
        return real, tf.where(is_strange, tf.zeros_like(labels), labels)

    def check_labels(self) -> None:
        """Raises UsageError if any replica has seen a label that is no class since the last call; on all workers."""
        noted = self._all_strange_labels()
        for variable in self._strange_label.variables:
            variable.assign([0, 0])
        check_labels(noted[noted[:, 0] > 0, 1], self._num_labels or 0)

    def note_range(self, real: tf.Tensor, is_first: tf.Tensor) -> None:
        """Notes the smallest and the largest value of the first batch. Replica context.

        Args:
          real: samples of the batch.
          is_first: whether it is the first batch, bool scalar.
        """

        def store():
            self._range.local().assign(tf.stack([tf.reduce_min(real), tf.reduce_max(real)]))
            return is_first

        tf.cond(is_first, store, lambda: is_first)

    def check_range(self) -> None:
        """Raises UsageError, at its first call, if samples exceed what the generator can draw. All workers call it."""
        if not self._range_is_checked:
            self._range_is_checked = True
            check_range(self._generator, self._all_ranges())

    def _gathered(self, notes):
        """Returns a function () -> the notes of all replicas, an array [M, 2]."""

        def gather():
            return tf.distribute.get_replica_context().all_gather(notes.local().read_value()[tf.newaxis], axis=0)

        gather_all = tf.function(lambda: self._strategy.run(gather), autograph=False)
        return lambda: self._strategy.experimental_local_results(gather_all())[0].numpy()
