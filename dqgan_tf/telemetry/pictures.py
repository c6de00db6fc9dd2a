"""Pictures as uint8 arrays [height, width, channels]: grids of images, scatter plots, timelines, and PNG files."""

import math
import os
from collections.abc import Sequence

import numpy as np
import PIL.Image
import PIL.ImageDraw
import tensorflow as tf

from dqgan_tf.telemetry.json_lines import write_atomically

_WHITE, _BLACK, _BLUE, _RED, _ORANGE = (255, 255, 255), (0, 0, 0), (31, 119, 180), (214, 39, 40), (255, 127, 14)
_LEFT, _ROW = 80, 20  # of a timeline: width of the names and height of a row, in pixels
_SQUARE = [(0, 0), (0, 1), (1, 0), (1, 1)]  # (row, column) offsets of the pixels of one point
_CROSS = [(k, 0) for k in range(-3, 4)] + [(0, k) for k in range(-3, 4)]


def to_uint8(images: np.ndarray) -> np.ndarray:
    """Returns images as uint8, 0 to 255.

    Floats are expected in [-1, 1], the range of tanh, and become `round(127.5 (x + 1))`. Values outside are clipped and
    values that are not finite become 0. uint8 images are returned unchanged.

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
    """Arranges images in rows: image k in row k // columns, with `padding` black pixels between neighbours.

    Images of three channels or more are drawn in colour by their first three channels, so that an alpha channel is
    ignored. Images of one or two channels are drawn in grey by their first channel.

    Args:
      images: float [N, H, W, C] in [-1, 1], or uint8, with N, H, W, C >= 1.
      columns: images per row. None takes the smallest square that holds all images.
      padding: pixels between two images. There is no border.

    Returns:
      uint8 [R H + (R - 1) padding, K W + (K - 1) padding, 1 or 3] with K columns and R = ceil(N / K) rows. Cells
      without an image are black.

    Raises:
      ValueError: the shape is not that of a batch of images, or `columns` is below 1.
    """
    images = to_uint8(images)
    if images.ndim != 4 or not images.size:
        raise ValueError(f"`images` must have shape [N, H, W, C], none of them 0. Received: shape={images.shape}")
    images = images[..., :3] if images.shape[3] >= 3 else images[..., :1]
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


def scatter(
    points: np.ndarray, centres: np.ndarray | None = None, size: int = 256, limit: float | None = None
) -> np.ndarray:
    """Draws points as blue squares of 2 x 2 pixels and mode centres as red crosses on white.

    The picture shows the square [-limit, limit]^2, x to the right and y upwards: point (x, y) has its pixel in row
    `floor((limit - y) s)` and column `floor((x + limit) s)` with `s = size / (2 limit)`.

    Args:
      points: float [N, 2]. Points outside the square, or not finite, are not drawn.
      centres: float [K, 2] or None.
      size: height and width in pixels.
      limit: half the side of the square, in units of the points. None takes 1.25 times the largest absolute coordinate
        of the centres, or of the points if there are no centres: one wild sample does not shrink the picture.

    Returns:
      uint8 [size, size, 3].

    Raises:
      ValueError: the shape of points or centres is not [N, 2], or `size` or `limit` is not positive.
    """
    points, centres = np.asarray(points, np.float64), np.asarray([] if centres is None else centres, np.float64)
    centres = centres if centres.size else np.zeros((0, 2))
    for name, array in (("points", points), ("centres", centres)):
        if array.ndim != 2 or array.shape[1] != 2:
            raise ValueError(f"`{name}` must have shape [N, 2]. Received: shape={array.shape}")
    if limit is None:
        reference = centres if centres.size else points
        limit = 1.25 * float(np.abs(reference[np.isfinite(reference).all(axis=1)]).max(initial=0.0)) or 1.0
    if size < 1 or not limit > 0:
        raise ValueError(f"`size` and `limit` must be above 0. Received: size={size}, limit={limit}")
    image = np.full((size, size, 3), _WHITE, np.uint8)
    _stamp(image, points, limit, _SQUARE, _BLUE)
    _stamp(image, centres, limit, _CROSS, _RED)
    return image


def timeline(spans: Sequence[tuple[str, float, float]], rows: Sequence[str], width: int = 640) -> np.ndarray:
    """Draws spans of time as bars, a row for each name, from 0 to the last end; bars of one row take turns in colour.

    Second t has its pixel in column `left + floor(t s)`, where `left` is the place of the names and
    `s = (width - left) / (last end)`. The last end is written above.

    Args:
      spans: (name of the row, beginning, end), in seconds from 0 on.
      rows: names, from the top.
      width: width in pixels.

    Returns:
      uint8 [20 (1 + len(rows)), width, 3].
    """
    last = max((end for _, _, end in spans), default=0.0)
    scale = (width - _LEFT) / last if last > 0 else 0.0
    picture = PIL.Image.new("RGB", (width, _ROW * (1 + len(rows))), _WHITE)
    draw, text = PIL.ImageDraw.Draw(picture), f"{1e3 * last:.3g} ms"
    draw.text((width - 8 - draw.textlength(text), 4), text, _BLACK)
    for index, row in enumerate(rows):
        top = _ROW * (1 + index)
        draw.text((4, top + 4), row, _BLACK)
        for number, (_, begin, end) in enumerate(span for span in spans if span[0] == row):
            columns = [_LEFT + math.floor(scale * time) for time in (begin, end)]
            if columns[1] > columns[0]:
                corners = [columns[0], top + 2, columns[1] - 1, top + _ROW - 3]
                draw.rectangle(corners, fill=(_BLUE, _ORANGE)[number % 2])
    return np.asarray(picture)


def write_png(path: str | os.PathLike, image: np.ndarray) -> None:
    """Writes one image, uint8 [H, W, 1 or 3], atomically. A missing folder is created.

    Raises:
      TypeError: the image is not uint8.
    """
    image = np.asarray(image)
    if image.dtype != np.uint8:
        raise TypeError(f"`image` must be uint8. Received: dtype={image.dtype}")
    write_atomically(path, tf.io.encode_png(image).numpy())


def _stamp(image, points, limit, offsets, colour):
    """Paints the pixels at `offsets` from each point; what lies outside the image is cut off."""
    # Points outside (and NaN) must go before the cast to integers, which wraps huge values around.
    points = points[(np.abs(points) <= limit).all(axis=1)]
    size = image.shape[0]
    pixels = np.floor(np.stack([limit - points[:, 1], points[:, 0] + limit], 1) * (size / (2 * limit))).astype(int)
    pixels = (pixels[:, None, :] + np.array(offsets)).reshape(-1, 2)
    inside = ((pixels >= 0) & (pixels < size)).all(axis=1)
    image[pixels[inside, 0], pixels[inside, 1]] = colour
