"""Points of the plane drawn into an image, without a plotting library."""

import numpy as np

_WHITE, _POINT, _CENTRE = (255, 255, 255), (31, 119, 180), (214, 39, 40)


def scatter(
    points: np.ndarray, centres: np.ndarray | None = None, size: int = 256, limit: float | None = None
) -> np.ndarray:
    """Draws points as blue squares of 2 x 2 pixels and mode centres as red crosses on white.

    The square [-limit, limit]^2 fills the image; pixel (row, column) of a point (x, y) is
    `floor((limit - y) s), floor((x + limit) s)` with `s = size / (2 limit)`: x to the right, y upwards.

    Args:
      points: float [N, 2]; those outside the square or not finite are not drawn.
      centres: float [K, 2] or None.
      size: pixels of each side.
      limit: half the side of the square in units of the points (None: 1.25 times the largest absolute coordinate of the
        centres, or of the points where there are none, so that one wild sample does not shrink the picture).

    Returns:
      uint8 [size, size, 3].

    Raises:
      ValueError: the shape of points or centres is not [N, 2], or `size` or `limit` is not positive.
    """
    points, centres = _plane(points, "points"), _plane(np.zeros((0, 2)) if centres is None else centres, "centres")
    limit = _default_limit(points, centres) if limit is None else limit
    if size < 1 or not limit > 0:
        raise ValueError(f"`size` and `limit` must be above 0. Received: size={size}, limit={limit}")
    image = np.full((size, size, 3), _WHITE, np.uint8)
    _stamp(image, points, limit, _square(2), _POINT)
    _stamp(image, centres, limit, _cross(3), _CENTRE)
    return image


def _plane(points, name):
    points = np.asarray(points, np.float64)
    if points.ndim != 2 or points.shape[1] != 2:
        raise ValueError(f"`{name}` must have shape [N, 2]. Received: shape={points.shape}")
    return points[np.isfinite(points).all(axis=1)]


def _default_limit(points, centres):
    reference = centres if centres.size else points
    return 1.25 * float(np.abs(reference).max(initial=0.0)) or 1.0


def _square(side):
    return np.stack(np.meshgrid(np.arange(side), np.arange(side)), -1).reshape(-1, 2)


def _cross(arm):
    offsets, zeros = np.arange(-arm, arm + 1), np.zeros(2 * arm + 1, int)
    return np.concatenate([np.stack([offsets, zeros], 1), np.stack([zeros, offsets], 1)])


def _stamp(image, points, limit, offsets, colour):
    # Outside points go before the cast to integers, which would wrap for huge values.
    points = points[(np.abs(points) <= limit).all(axis=1)]
    size = image.shape[0]
    pixels = np.floor(np.stack([limit - points[:, 1], points[:, 0] + limit], 1) * (size / (2 * limit))).astype(int)
    pixels = (pixels[:, None, :] + offsets[None]).reshape(-1, 2)
    inside = ((pixels >= 0) & (pixels < size)).all(axis=1)
    image[pixels[inside, 0], pixels[inside, 1]] = colour
