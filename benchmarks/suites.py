"""The suites of `trainers.compare`: their rows, seeds, figures and settings.

Cells come seed by seed, so that a suite that is stopped early has whole tables of fewer seeds. This file imports no
TensorFlow.
"""

import re

from benchmarks import suites_local
from benchmarks.cells import DATA, GAMES, Cell, Group, Suite
from benchmarks.suite_parts import (
    COVERAGE,
    EIGHT_BIT,
    FALLING,
    FASTER,
    FIELD,
    FOUR_BIT,
    HALF,
    IMAGES,
    LONG,
    NONE,
    SHORT_CIFAR,
    SHORT_IMAGES,
    SIGN,
    SLOW,
    SLOWER,
    SMALL_IMAGES,
    TERNARY,
    TOP_1,
    TOP_5,
    distances,
    rows,
    with_setting,
)
from dqgan_tf.errors import UsageError

_SHARP = (TERNARY, SIGN, TOP_5)
# What the tables judge has five seeds; what they compare it with has fewer, where one seed shows the difference.
_NONLINEAR = rows(["dqgan", "dqgan_adam"], (NONE, FOUR_BIT, *_SHARP))
_NONLINEAR_BASELINES = [
    *rows(["dqgan"], (f"{SIGN}@two_step", f"{TOP_5}@two_step")),
    *rows(["cpoadam", "extra_adam"], (NONE,)),
    *rows(["cpoadam_gq", "cpoadam_ef"], _SHARP),
    *rows(["dqgan_residual_out", "dqgan_no_error_feedback"], (SIGN,)),
]
_NONLINEAR_ABLATIONS = [
    *rows(["dqgan_residual_out", "dqgan_no_error_feedback"], (TERNARY, TOP_5)),
    *rows(["dqgan_adam_residual_out", "dqgan_adam_no_error_feedback"], _SHARP),
    *rows(["dqgan_no_half_step"], (NONE, SIGN)),
    *rows(["sgda", "sim_adam"], (NONE,)),
    *rows(["ef21_sgdm"], (NONE, *_SHARP)),
]
_DIFFERENT = [
    *rows(["dqgan_adam"], (NONE, *_SHARP)),
    *rows(["dqgan_residual_out", "dqgan_no_error_feedback"], _SHARP),
    *rows(["cpoadam"], (NONE,)),
    *rows(["cpoadam_gq", "cpoadam_ef"], _SHARP),
]
_AFFINE = [
    *rows(["dqgan"], (NONE, *_SHARP)),
    *rows(["dqgan_residual_out", "dqgan_no_error_feedback"], _SHARP),
    *rows(["dqgan_no_half_step"], (NONE,)),
]
_FEW = rows(["dqgan"], (NONE, SIGN, TOP_5))
_SPEEDUP = rows(["dqgan"], (NONE, SIGN))
_OTHER_BASELINES = [
    *rows(["sim_adam", "extra_adam"], (NONE,)),
    *rows(["cpoadam_gq"], (FOUR_BIT, TERNARY, SIGN, TOP_1)),
    *rows(["cpoadam_ef"], (SIGN, TOP_1)),
]
_BASELINES = [("cpoadam", NONE), *_OTHER_BASELINES]
_HEADLINE = rows(["dqgan_adam"], (NONE, FOUR_BIT, TERNARY, SIGN, TOP_1))
_ABLATIONS = [
    *rows(["dqgan_adam_residual_out"], (SIGN, TOP_1)),
    *rows(["dqgan_adam_no_error_feedback"], (TERNARY, SIGN, TOP_1)),
]
_SHORT = [*rows(["dqgan_adam"], (NONE, SIGN, TOP_1)), *rows(["dqgan_adam_no_error_feedback"], (SIGN, TOP_1))]
_OTHER_RATES = [
    *rows([f"dqgan_adam{rate}" for rate in (SLOWER, SLOW, FASTER)], (NONE, FOUR_BIT)),
    *rows([f"cpoadam{rate}" for rate in (SLOWER, SLOW, FASTER)], (NONE,)),
]
# The networks and the batch of `benchmarks.links`, which measures the steps on links.
_TIME = [*rows(["dqgan_adam"], (NONE, SIGN)), ("dqgan_adam,local_steps=8", SIGN)]
_TIME_MORE = [
    *rows(["dqgan_adam"], (EIGHT_BIT, FOUR_BIT)),
    ("dqgan_adam_no_error_feedback", HALF),  # a cast is not contractive where values overflow
]

SUITES = {
    "games": Suite(
        GAMES,
        "Do few bits reach the float32 figure on games whose field is known?",
        [
            Group("nonlinear", 8, "homogeneous", _NONLINEAR, seeds=5),
            Group("nonlinear", 8, "homogeneous", _NONLINEAR_BASELINES, seeds=3),
            Group("nonlinear", 8, "homogeneous", _NONLINEAR_ABLATIONS, seeds=2),
            Group("nonlinear", 8, "heterogeneous", rows(["dqgan_adam_averaged"], (NONE, *_SHARP)), seeds=5),
            Group("nonlinear", 8, "heterogeneous", rows(["dqgan_adam_averaged,shift=0.1"], (NONE, *_SHARP)), seeds=3),
            Group("nonlinear", 8, "heterogeneous", rows(["dqgan", "dqgan,shift=0.1"], (NONE, *_SHARP)), seeds=3),
            Group("nonlinear", 8, "heterogeneous", _DIFFERENT, seeds=1),
            Group("affine", 8, "homogeneous", _AFFINE, seeds=2),
            Group("nonlinear_noise_free", 8, "heterogeneous", _AFFINE, seeds=2),
            Group("nonlinear_noise_free", 8, "heterogeneous", rows(["dqgan,shift=0.1"], _SHARP), seeds=2),
            Group("bilinear_noise_free", 4, "homogeneous", _AFFINE, seeds=2),
            Group("nonlinear", 2, "homogeneous", _FEW, seeds=2),
            Group("nonlinear", 32, "homogeneous", _FEW[:1], seeds=2),
            Group("nonlinear", 32, "homogeneous", _FEW[1:], seeds=1),
        ],
        FIELD,
        {},
    ),
    "mixture": Suite(
        DATA,
        "Do few bits cost modes or quality on mixtures of Gaussians?",
        [
            Group("mixture_ring", 4, "iid", with_setting(LONG, _HEADLINE), seeds=5),
            Group("mixture_ring", 4, "iid", with_setting(LONG, _ABLATIONS), seeds=2),
            Group("mixture_ring", 4, "iid", with_setting(LONG, _BASELINES), seeds=1),
            Group("mixture_grid", 4, "iid", with_setting(LONG, _HEADLINE), seeds=5),
            Group("mixture_grid", 4, "iid", with_setting(LONG, _SHORT[3:]), seeds=1),
            Group("mixture_ring", 8, "iid", with_setting(LONG, _HEADLINE), seeds=5),
            Group("mixture_ring", 8, "iid", with_setting(LONG, _SHORT[3:4]), seeds=3),
            Group("mixture_ring", 8, "iid", with_setting(LONG, _SHORT[4:]), seeds=1),
            Group("mixture_grid", 8, "iid", with_setting(LONG, _HEADLINE), seeds=5),
            Group("mixture_ring", 4, "iid", _HEADLINE, seeds=4),
            Group("mixture_ring", 4, "iid", _ABLATIONS, seeds=2),
        ],
        COVERAGE,
        {},
        worker_batch=64,
        marks=15,
    ),
    "fashion_mnist": Suite(
        DATA,
        "What does compression cost on fashion_mnist?",
        [
            Group("fashion_mnist", 4, "iid", [*_HEADLINE, ("cpoadam", NONE)], seeds=3),
            Group("fashion_mnist", 4, "iid", with_setting(FALLING, _HEADLINE), seeds=5),
            Group("fashion_mnist", 4, "iid", _ABLATIONS + _OTHER_BASELINES, seeds=2),
            Group("fashion_mnist", 4, "iid", _OTHER_RATES, seeds=3),
            Group("fashion_mnist", 2, "iid", _HEADLINE, seeds=3),
            Group("fashion_mnist", 4, "dirichlet:0.3", rows(["dqgan_adam"], (NONE, SIGN, TOP_1)), seeds=1),
            Group("fashion_mnist", 2, "iid", with_setting(SLOWER, [*_SHORT, _ABLATIONS[1]]), seeds=3),
        ],
        distances(IMAGES),
        SHORT_IMAGES,
        worker_batch=32,
        marks=4,
    ),
    "cifar10": Suite(
        DATA,
        "What does compression cost on cifar10?",
        [
            Group("cifar10", 4, "iid", [*_HEADLINE, ("cpoadam", NONE)], seeds=3),
            Group("cifar10", 4, "iid", _ABLATIONS[1:] + _OTHER_BASELINES, seeds=1),
            Group("cifar10", 2, "iid", _HEADLINE, seeds=3),
            Group("cifar10", 2, "iid", _SHORT[3:], seeds=1),
        ],
        distances(IMAGES),
        SHORT_CIFAR,
        worker_batch=16,
        marks=4,
    ),
    "speedup": Suite(
        GAMES,
        "Does the error fall with the square root of the number of workers?",
        [
            *(Group("nonlinear_near", workers, "homogeneous", _SPEEDUP, seeds=5) for workers in (1, 2, 4, 8, 16)),
            Group("nonlinear_near", 32, "homogeneous", _SPEEDUP, seeds=3),
        ],
        FIELD,
        {},
    ),
    "time": Suite(
        DATA,
        "How long does a quality take on slow links?",
        [
            Group("fashion_mnist", 2, "iid", _TIME, seeds=2),
            Group("fashion_mnist", 2, "iid", _TIME_MORE, seeds=1),
        ],
        distances(IMAGES),
        {"train.steps": 2048, "train.steps_per_call": 8, "train.ema_decay": 0.99},
        worker_batch=32,
        marks=8,
    ),
    **suites_local.SUITES,
}


def get(name: str, small: bool, published: bool = False) -> Suite:
    """Returns a suite.

    Args:
      name: of the suite.
      small: few rows, steps and seeds: a test of the whole way.
      published: the network, loss, rates and number of steps of the preset, flags/experiments/NAME.flags, which are
        those of the literature: for GPUs.

    Raises:
      UsageError: `published`, and the suite has no small network in the place of a published one.
    """
    suite = SUITES[name]
    if published:
        small_networks = [key for key, other in SUITES.items() if other.settings in (SHORT_IMAGES, SHORT_CIFAR)]
        if name not in small_networks:
            names = " or ".join(small_networks)
            raise UsageError(f"--published is for --suite={names}. Received: --suite={name}")
        suite = suite._replace(settings={})
    if not small:
        return suite
    first, settings = suite.groups[0], suite.settings | {"train.steps": 32}
    chosen = [first.rows[0], next(row for row in first.rows if row[1] == SIGN)]
    chosen = [(re.sub(",steps=[0-9]+", "", method), compressor) for method, compressor in chosen]
    figures = distances(SMALL_IMAGES) if suite.figures == distances(IMAGES) else suite.figures
    seeds = 2 if suite.kind == GAMES else 1
    numbers = [1, 2] if first.workers == 1 else [2]  # of workers; a slope needs two
    groups = [first._replace(workers=workers, rows=chosen, seeds=seeds) for workers in numbers]
    return suite._replace(groups=groups, figures=figures, settings=settings, marks=2)


def select(suite: Suite, only: str) -> list[Cell]:
    """Returns the cells of a suite whose name the regular expression `only` matches anywhere.

    Raises:
      UsageError: `only` is no regular expression, or matches no cell.
    """
    try:
        pattern = re.compile(only)
    except re.error as error:
        raise UsageError(f"--only must be a regular expression, such as M=4. Received: {only!r} ({error})") from None
    cells = [cell for cell in suite.cells() if pattern.search(cell.name)]
    if not cells:
        raise UsageError(f"--only must match a cell, such as {suite.cells()[0].name}. Received: {only!r}")
    return cells
