"""By hand: the pixels of single points and crosses."""

import numpy as np
import pytest

from dqgan_tf.telemetry.scatter import scatter

WHITE, BLUE, RED = (255, 255, 255), (31, 119, 180), (214, 39, 40)


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
