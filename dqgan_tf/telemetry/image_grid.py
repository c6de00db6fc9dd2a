"""A batch of images as one image."""

import math

import numpy as np


def to_uint8(images: np.ndarray) -> np.ndarray:
    """Returns images as uint8 in 0 to 255.

    Floats are taken in [-1, 1], the range of a generator's tanh: `round(127.5 (x + 1))`, values outside clipped, a
    non-finite one drawn as 0. uint8 images are returned as they are.

    Raises:
      TypeError: the images are neither floats nor uint8.
    """
    images = np.asarray(images)
    if images.dtype == np.uint8:
        return images
    if not np.issubdtype(images.dtype, np.floating):
        raise TypeError(f"`images` must be floats in [-1, 1] or uint8. Received: dtype={images.dtype}")
    scaled = np.rint(127.5 * (np.clip(images, -1.0, 1.0) + 1.0))
    return np.where(np.isfinite(images), scaled, 0.0).astype(np.uint8)


def image_grid(images: np.ndarray, columns: int | None = None, padding: int = 2) -> np.ndarray:
    """Returns the images in rows of `columns`, image k in row k // columns, `padding` black pixels between neighbours.

    Args:
      images: float [N, H, W, C] in [-1, 1], or uint8, N >= 1; C is 1 (grey) or 3 (RGB).
      columns: images a row (None: the smallest square that holds all).
      padding: pixels between two images; none at the border.

    Returns:
      uint8 [R H + (R - 1) padding, K W + (K - 1) padding, C] with K columns and R = ceil(N / K) rows; cells without
      an image are black.

    Raises:
      ValueError: the shape is no batch of grey or RGB images, or `columns` is below 1.
    """
    images = to_uint8(images)
    if images.ndim != 4 or not images.shape[0] or images.shape[3] not in (1, 3):
        raise ValueError(f"`images` must have shape [N, H, W, 1 or 3], N >= 1. Received: shape={images.shape}")
    count, height, width, channels = images.shape
    columns = math.ceil(math.sqrt(count)) if columns is None else columns
    if columns < 1:
        raise ValueError(f"`columns` must be at least 1. Received: columns={columns}")
    rows = math.ceil(count / columns)
    cells = np.zeros((rows * columns, height + padding, width + padding, channels), np.uint8)
    cells[:count, :height, :width] = images
    cells = cells.reshape(rows, columns, *cells.shape[1:]).swapaxes(1, 2)
    grid = cells.reshape(rows * (height + padding), columns * (width + padding), channels)
    return grid[: grid.shape[0] - padding, : grid.shape[1] - padding]
