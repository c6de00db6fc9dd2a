"""What a feature network is: images in, features and class logits out."""

import dataclasses
import hashlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class Features(NamedTuple):
    """What a feature network gives for b images.

    pool: float32 [b, d], the features that distances are taken in.
    logits: float32 [b, classes], or None when the network is no classifier.
    """

    pool: np.ndarray
    logits: np.ndarray | None


@dataclasses.dataclass(frozen=True)
class FeatureNetwork:
    """A fixed network that figures are taken with.

    name: how results name it, such as `resnet20` or `small_classifier(fashion_mnist)`.
    is_inception: whether this is the 2015-12-05 Inception graph; only then are figures called FID, KID and IS.
    feature_size: d.
    image_size: height and width of the images it takes; None: any, the network resizes by itself.
    channels: the numbers of channels it takes.
    fingerprint: sha256 (hex) of the file the weights came from.
    function: uint8 [b, h, w, c] to `Features`; call the network instead, which checks its input.
    """

    name: str
    is_inception: bool
    feature_size: int
    image_size: tuple[int, int] | None
    channels: tuple[int, ...]
    fingerprint: str
    function: Callable[[np.ndarray], Features]

    def __call__(self, images) -> Features:
        """Returns the `Features` of images, uint8 [b, h, w, c] with values 0 to 255.

        Raises:
          ValueError: another type, rank or size than the network takes.
        """
        images = np.asarray(images)
        if images.dtype != np.uint8 or images.ndim != 4:
            raise ValueError(
                f"`images` must be uint8 [b, h, w, c]. Received: dtype={images.dtype}, shape={images.shape}"
            )
        if images.shape[3] not in self.channels or self.image_size not in (None, images.shape[1:3]):
            raise ValueError(f"`images` must be {self._accepts()} for {self.name}. Received: shape={images.shape}")
        return self.function(images)

    def _accepts(self):
        size = "of any size" if self.image_size is None else f"{self.image_size[0]} x {self.image_size[1]}"
        return f"{size} with {' or '.join(str(count) for count in self.channels)} channels"


def file_fingerprint(path: str) -> str:
    """Returns the sha256 (hex) of a file's bytes."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()
