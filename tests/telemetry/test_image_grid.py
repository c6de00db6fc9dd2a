"""By hand: single pixels in their places."""

import numpy as np
import pytest

from dqgan_tf.telemetry.image_grid import image_grid, to_uint8


def test_floats_become_pixels():
    # 127.5 (x + 1): -1 -> 0, -.5 -> 63.75, 0 -> 127.5 (to even: 128), 1 -> 255; clipped outside, black if not finite.
    values = np.array([-1.0, -0.5, 0.0, 1.0, -7.0, 7.0, np.nan, np.inf, -np.inf], np.float32)
    assert to_uint8(values).tolist() == [0, 64, 128, 255, 0, 255, 0, 0, 0]


def test_uint8_stays():
    assert to_uint8(np.array([0, 7, 255], np.uint8)).tolist() == [0, 7, 255]


def test_other_integers_are_refused():
    with pytest.raises(TypeError, match="int64"):
        to_uint8(np.array([1, 2], np.int64))


def images(count, height=1, width=1, channels=1):
    """Image k is filled with k + 1."""
    return np.arange(1, count + 1, dtype=np.uint8).reshape(-1, 1, 1, 1) * np.ones(
        (1, height, width, channels), np.uint8
    )


def test_rows_and_padding():
    assert image_grid(images(5), columns=3, padding=1)[..., 0].tolist() == [
        [1, 0, 2, 0, 3],
        [0, 0, 0, 0, 0],
        [4, 0, 5, 0, 0],
    ]


def test_no_padding():
    assert image_grid(images(4), columns=2, padding=0)[..., 0].tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize(("count", "cells"), [(1, (1, 1)), (4, (2, 2)), (5, (2, 3)), (9, (3, 3)), (10, (3, 4))])
def test_the_smallest_square_that_holds_all(count, cells):
    assert image_grid(images(count), padding=0).shape == (*cells, 1)


def test_height_width_and_colours_keep_their_axes():
    picture = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(1, 2, 3, 3)
    assert image_grid(picture).tolist() == picture[0].tolist()
    assert image_grid(images(2, 2, 3, 3), columns=2, padding=2).shape == (2, 3 + 2 + 3, 3)


@pytest.mark.parametrize("shape", [(4, 4), (0, 4, 4, 1), (2, 4, 4, 2), (2, 4, 4)])
def test_what_is_no_batch_of_images_is_refused(shape):
    with pytest.raises(ValueError, match="shape"):
        image_grid(np.zeros(shape, np.uint8))


def test_no_columns_are_refused():
    with pytest.raises(ValueError, match="columns=0"):
        image_grid(images(1), columns=0)
