"""By hand: single pixels of grids, points and crosses; PNG files."""

import numpy as np
import pytest
import tensorflow as tf

from dqgan_tf.telemetry.pictures import image_grid, scatter, timeline, to_uint8, write_png

WHITE, BLUE, RED = (255, 255, 255), (31, 119, 180), (214, 39, 40)


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


@pytest.mark.parametrize("shape", [(4, 4), (0, 4, 4, 1), (2, 4, 4, 0), (2, 4, 4)])
def test_what_is_no_batch_of_images_is_refused(shape):
    with pytest.raises(ValueError, match="shape"):
        image_grid(np.zeros(shape, np.uint8))


@pytest.mark.parametrize(("channels", "drawn"), [(1, 1), (2, 1), (3, 3), (4, 3), (13, 3)])
def test_any_number_of_channels_is_drawn(tmp_path, channels, drawn):
    """Grey by the first channel, in colour by the first three; alpha is ignored. A PNG holds both."""
    batch = np.random.default_rng(0).integers(0, 256, (2, 3, 3, channels), np.uint8)
    grid = image_grid(batch, columns=1, padding=0)
    np.testing.assert_array_equal(grid, batch.reshape(6, 3, channels)[..., :drawn])
    write_png(tmp_path / "grid.png", grid)
    np.testing.assert_array_equal(tf.io.decode_png((tmp_path / "grid.png").read_bytes()), grid)


def test_no_columns_are_refused():
    with pytest.raises(ValueError, match="columns=0"):
        image_grid(images(1), columns=0)


def pixels(image, colour):
    return {tuple(where) for where in np.argwhere((image == colour).all(-1)).tolist()}


def test_x_to_the_right_and_y_upwards():
    # Ten pixels over [-1, 1]: 5 a unit. (.5, .9): row floor((1 - .9) 5) = 0, column floor((.5 + 1) 5) = 7; 2 x 2.
    image = scatter(np.array([[0.5, 0.9]]), size=10, limit=1.0)
    assert pixels(image, BLUE) == {(0, 7), (0, 8), (1, 7), (1, 8)}
    assert image.shape == (10, 10, 3) and image.dtype == np.uint8
    assert len(pixels(image, WHITE)) == 96


def test_centres_are_crosses_over_the_points():
    image = scatter(np.array([[0.0, 0.0]]), np.array([[0.0, 0.0]]), size=20, limit=1.0)
    cross = {(10 + k, 10) for k in range(-3, 4)} | {(10, 10 + k) for k in range(-3, 4)}
    assert pixels(image, RED) == cross
    assert pixels(image, BLUE) == {(11, 11)}


def test_a_stamp_at_the_edge_is_cut_off():
    assert pixels(scatter(np.array([[0.99, -0.99]]), size=10, limit=1.0), BLUE) == {(9, 9)}


@pytest.mark.parametrize("point", [[2.0, 0.0], [np.nan, 0.0], [0.0, np.inf], [1e300, -1e300]])
def test_what_lies_outside_is_not_drawn(point):
    assert not pixels(scatter(np.array([point]), size=10, limit=1.0), BLUE)


def test_the_frame_is_that_of_the_centres():
    """Limit 1.25 x 4 = 5: the wild point is outside, the centre at 4 / 5 of the half side."""
    image = scatter(np.array([[100.0, 0.0]]), np.array([[4.0, 0.0]]), size=100)
    assert not pixels(image, BLUE)
    assert (50, 90) in pixels(image, RED)


@pytest.mark.parametrize("points", [np.zeros((0, 2)), np.zeros((3, 2)), np.full((2, 2), np.nan)])
def test_points_without_extent_draw(points):
    assert scatter(points, size=8).shape == (8, 8, 3)


@pytest.mark.parametrize("arguments", [{"size": 0}, {"limit": 0.0}, {"limit": -1.0}, {"limit": np.nan}])
def test_no_square_is_refused(arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        scatter(np.zeros((1, 2)), **arguments)


@pytest.mark.parametrize("shape", [(2,), (3, 3), (1, 2, 2)])
def test_what_is_not_of_the_plane_is_refused(shape):
    with pytest.raises(ValueError, match="shape"):
        scatter(np.zeros(shape))


class TestTimeline:
    ROWS = ("compute", "encode")

    def row(self, spans, index, width=180):
        """The colours of the middle of a row, beside the names: 100 pixels."""
        drawn = timeline(spans, self.ROWS, width)
        assert drawn.shape == (60, width, 3) and drawn.dtype == np.uint8
        return [tuple(pixel) for pixel in drawn[20 * (1 + index) + 10, 80:].tolist()]

    def test_bars_have_the_places_of_their_times(self):
        """2 s in 100 pixels: 0.5 s to 1.25 s are 25 to 62.5."""
        spans = [("compute", 0.0, 2.0), ("encode", 0.5, 1.25), ("encode", 1.25, 1.5)]
        blue, orange, white = (31, 119, 180), (255, 127, 14), (255, 255, 255)
        assert self.row(spans, 0) == [blue] * 100
        assert self.row(spans, 1) == [white] * 25 + [blue] * 37 + [orange] * 13 + [white] * 25

    def test_what_takes_no_time_is_not_drawn(self):
        for spans in ([], [("compute", 0.0, 0.0)]):
            assert set(self.row(spans, 0)) == {(255, 255, 255)}
