"""The suites of `trainers.compare`: their rows, seeds, figures and settings.

Cells come seed by seed, so that a suite that is stopped early has whole tables of fewer seeds. This file imports no
TensorFlow.
"""

import re

from benchmarks.cells import DATA, GAMES, Cell, Figure, Group, Suite
from dqgan_tf.errors import UsageError

IMAGES, SMALL_IMAGES = 10_000, 200
"""Generated images of an evaluation, and of one in the small form of a suite."""


def _rows(methods, compressors):
    return [(method, compressor) for method in methods for compressor in compressors]


NONE, FOUR_BIT, TERNARY, SIGN = "none", "linear:bits=4,bucket=512", "ternary:bucket=512", "sign:bucket=512"
HALF, EIGHT_BIT = "fp16", "linear:bits=8,bucket=512"
TOP_5, TOP_1 = "topk:fraction=0.05", "topk:fraction=0.01"
_SHARP = (TERNARY, SIGN, TOP_5)
# What the tables judge has five seeds; what they compare it with has fewer, where one seed shows the difference.
_NONLINEAR = _rows(["dqgan", "dqgan_adam"], (NONE, FOUR_BIT, *_SHARP))
_NONLINEAR_BASELINES = [
    *_rows(["dqgan"], (f"{SIGN}@two_step", f"{TOP_5}@two_step")),
    *_rows(["cpoadam", "extra_adam"], (NONE,)),
    *_rows(["cpoadam_gq", "cpoadam_ef"], _SHARP),
    *_rows(["dqgan_residual_out", "dqgan_no_error_feedback"], (SIGN,)),
]
_NONLINEAR_ABLATIONS = [
    *_rows(["dqgan_residual_out", "dqgan_no_error_feedback"], (TERNARY, TOP_5)),
    *_rows(["dqgan_adam_residual_out", "dqgan_adam_no_error_feedback"], _SHARP),
    *_rows(["dqgan_no_half_step"], (NONE, SIGN)),
    *_rows(["sgda", "sim_adam"], (NONE,)),
    *_rows(["ef21_sgdm"], (NONE, *_SHARP)),
]
_DIFFERENT = [
    *_rows(["dqgan_adam"], (NONE, *_SHARP)),
    *_rows(["dqgan_residual_out", "dqgan_no_error_feedback"], _SHARP),
    *_rows(["cpoadam"], (NONE,)),
    *_rows(["cpoadam_gq", "cpoadam_ef"], _SHARP),
]
_AFFINE = [
    *_rows(["dqgan"], (NONE, *_SHARP)),
    *_rows(["dqgan_residual_out", "dqgan_no_error_feedback"], _SHARP),
    *_rows(["dqgan_no_half_step"], (NONE,)),
]
_FEW = _rows(["dqgan"], (NONE, SIGN, TOP_5))
_SPREAD = Figure("spread", "spread of the residuals", 1.0, 3)
_FIELD = (Figure("field", "norm of the field", 1.0, 4, "percent"),)
_SPEEDUP = _rows(["dqgan"], (NONE, SIGN))
_OTHER_BASELINES = [
    *_rows(["sim_adam", "extra_adam"], (NONE,)),
    *_rows(["cpoadam_gq"], (FOUR_BIT, SIGN, TOP_1)),
    *_rows(["cpoadam_ef"], (SIGN, TOP_1)),
]
_BASELINES = [("cpoadam", NONE), *_OTHER_BASELINES]
_HEADLINE = _rows(["dqgan_adam"], (NONE, FOUR_BIT, TERNARY, SIGN, TOP_1))
_ABLATIONS = [
    *_rows(["dqgan_adam_residual_out"], (SIGN, TOP_1)),
    *_rows(["dqgan_adam_no_error_feedback"], (TERNARY, SIGN, TOP_1)),
]
_SHORT = [*_rows(["dqgan_adam"], (NONE, SIGN, TOP_1)), *_rows(["dqgan_adam_no_error_feedback"], (SIGN, TOP_1))]
# The ring's preset has 3,000 steps and the grid's 4,000. In more, settings differ less by their speed.
LONG = ",steps=6144"
# Where gradients are taken: the direction that looks ahead, and what else is in the point. Workers have different data.
_SPLIT = [
    f"dqgan_adam_split{changes}"
    for changes in (
        "",
        ",residual_in_half_step=false",
        ",shift=0.3",
        ",half_step=common",
        ",half_step=common,residual_in_half_step=false",
        ",half_step=common,residual_in_half_step=false,shift=0.1",
        ",half_step=corrected,shift=0.3",
        ",half_step=corrected,shift=1",
        ",half_step=corrected,residual_in_half_step=false,shift=0.1",
        ",half_step=none",
    )
]
_COMMON = ",half_step=common,residual_in_half_step=false"


def _rate(value):
    """Returns the settings of a method with this rate of both players."""
    return f",learning_rate_g={value},learning_rate_d={value}"


# The averaged second moment of workers with different data is larger than that of their mean gradient, so steps are
# shorter: a larger rate. A central Adam of compressed gradients sees their mean alone; it needs a larger rate too, and
# a shift unless packets are sparse: there a value waits for many steps, but moves once by about the rate.
_FAST = _rate(0.01)
_SPLIT_BEST = [
    ("cpoadam", NONE),
    (f"cpoadam_ef,shift=0.1{_rate(0.008)}", SIGN),
    (f"cpoadam_ef{_rate(0.02)}", TOP_1),
]
_SPLIT_NEXT = [
    (f"dqgan_adam_split{_COMMON}", NONE),
    (f"dqgan_adam_split{_COMMON}", SIGN),
    ("dqgan_adam_split,half_step=corrected,shift=1", SIGN),
    (f"cpoadam_ef{_rate(0.02)}", SIGN),
    (f"cpoadam_ef,beta_2=0.99{_rate(0.012)}", TOP_1),
]
# Twice the steps. A warm-up, since the first steps at these rates can throw the generator onto one mode.
_SPLIT_LONG = [
    (f"cpoadam_ef{LONG},shift=0.1,warmup_steps=300{_rate(0.008)}", SIGN),
    (f"cpoadam_ef{LONG},warmup_steps=300{_rate(0.02)}", TOP_1),
]
_SPLIT_LONG_NEXT = [
    *_rows([f"cpoadam{LONG}", f"dqgan_adam_split{LONG}"], (NONE,)),
    *_rows([f"dqgan_adam_split{LONG}{_COMMON}{_FAST}"], (NONE, SIGN, TOP_1)),
]
# The mean of the workers' second moments at every exchange, and a common look-ahead.
_SPLIT_AVERAGED = _rows([f"dqgan_adam_averaged_split,second_moment_period=1{_COMMON}"], (NONE, SIGN, TOP_1))
_SPLIT_AVERAGED_LONG = _rows(
    [f"dqgan_adam_averaged_split{LONG},second_moment_period=1{_COMMON}{_rate(0.008)}"], (NONE, SIGN, TOP_1)
)
_SPLIT_TWICE = [("dqgan_adam_split", NONE), (f"cpoadam_ef{_rate(0.03)}", TOP_1)]
_SPLIT_ROWS = [
    *_rows(["dqgan_adam"], (NONE, SIGN)),
    *_rows(_SPLIT, (NONE, SIGN, TOP_1)),
    *_rows(["cpoadam_ef", "cpoadam_ef,shift=0.1"], (SIGN, TOP_1)),
    (f"cpoadam_ef,shift=0.1{_rate(0.008)}", TOP_1),
    (f"cpoadam_ef,beta_2=0.99{_rate(0.012)}", SIGN),
    *_rows([f"dqgan_adam_split{_COMMON}{_FAST}"], (NONE, SIGN, TOP_1)),
    (f"dqgan_adam_split,half_step=corrected,shift=1{_FAST}", SIGN),
]
_COVERAGE = (
    Figure("high_quality_fraction_3_sd", "samples within 3 sd of a mode, %", 100.0, 1, "points"),
    Figure("modes_3_sd", "modes at 3 sd", 1.0, 1),
    Figure("high_quality_fraction", "samples within the wide radius, %", 100.0, 1, "points"),
    Figure("mode_distance", "distance of the modes' shares", 1.0, 3),
    Figure("raw_high_quality_fraction_3_sd", "raw generator within 3 sd, %", 100.0, 1),
)
# A mean of the workers' own Adam directions is shorter than the direction of their mean gradient, so at equal rates
# DQGAN takes shorter steps than the central baselines; rows of other rates tell this from the method.
SLOW, SLOWER, _FASTER = _rate(0.0004), _rate(0.0002), _rate(0.0016)
# Rates that fall to 0 take the noise of the last steps out of the end; runs of one seed still differ by some 10 %.
FALLING = f",learning_rate_schedule=linear{_FASTER}"
_OTHER_RATES = [
    *_rows([f"dqgan_adam{rate}" for rate in (SLOWER, SLOW)], (NONE, FOUR_BIT)),
    *_rows([f"cpoadam{rate}" for rate in (SLOWER, SLOW)], (NONE,)),
]


def _with(setting, rows):
    """Returns the rows with a setting behind the method's name, such as `SLOW`."""
    return [(method + setting, compressor) for method, compressor in rows]


def _distances(count):
    return (
        Figure("frechet_distance", f"Frechet distance, {count:,} samples", 1.0, 1, "percent"),
        Figure("raw_frechet_distance", f"raw generator: Frechet distance, {count:,} samples", 1.0, 1),
        Figure("precision", f"precision, {count:,} samples", 1.0, 3),
        Figure("recall", f"recall, {count:,} samples", 1.0, 3),
    )


# A quarter of the published width and few steps, so that a run on one thread takes about five minutes. In so few steps
# a large rate is better for every method.
_SHORT_IMAGES = {
    "network.width": 16,
    "loss.loss": "non_saturating",
    "loss.r1_gamma": 1.0,
    "optimizer.learning_rate_g": 8e-4,
    "optimizer.learning_rate_d": 8e-4,
    "train.steps": 2000,
    "train.ema_decay": 0.99,
}


# Images in colours take more steps than those of clothes.
_SHORT_CIFAR = _SHORT_IMAGES | {
    "loss.r1_gamma": 0.1,
    "optimizer.learning_rate_g": 4e-4,
    "optimizer.learning_rate_d": 4e-4,
    "train.steps": 6000,
}


def _local(name, steps, extra=""):
    """The method with every number of local steps; one step without a setting of it."""
    return [f"{name}{extra}" if count == 1 else f"{name},local_steps={count}{extra}" for count in steps]


_LOCAL_GAME = _rows(_local("dqgan", (1, 4, 16, 64)), (NONE, SIGN, TOP_5))
_LOCAL_GAME_ABLATIONS = _rows(_local("dqgan_residual_out", (1, 4, 16, 64)), (SIGN, TOP_5))
_LOCAL_GAME_ADAM = _rows(_local("dqgan_adam", (1, 4, 16, 64)), (NONE, SIGN, TOP_5))
_LOCAL_SHIFT = _rows(
    [
        *_local("dqgan", (1, 4, 16)),
        *_local("dqgan", (1, 4, 16), ",shift=0.1"),
        *_local("dqgan", (1, 4, 16), ",shift=0.1,half_step=corrected"),
    ],
    (NONE, SIGN, TOP_5),
)
# A quarter of the share that top-k sends: `--shift` has the bound.
_LOCAL_SMALL_SHIFT = _rows(_local("dqgan", (1, 4, 16), ",shift=0.0125"), (TOP_5,))
_LOCAL = [("dqgan_adam", NONE), *_rows(_local("dqgan_adam", (8, 32)), (SIGN,))]
_LOCAL_MORE = [
    ("dqgan_adam,local_steps=8", NONE),
    ("dqgan_adam,local_steps=8", TOP_1),
    ("dqgan_adam_residual_out,local_steps=8", SIGN),
    ("dqgan_adam_no_error_feedback,local_steps=8", SIGN),
]
_LOCAL_LONG_MIXTURE = [(f"dqgan_adam{LONG}", NONE), *_rows(_local(f"dqgan_adam{LONG}", (8, 32)), (SIGN,))]
# `auto` takes the all-gather for so few values; the two-step exchange sends half of its bytes.
_LOCAL_TWO_STEP = _rows(_local(f"dqgan_adam{LONG}", (8, 32)), (f"{SIGN}@two_step",))
# With eight workers the error of the second encoding takes the owner's point away from the others: a mean of more bits.
_LOCAL_MEAN = _rows(_local(f"dqgan_adam{LONG}", (8, 32)), (f"{SIGN}@two_step@{FOUR_BIT}",))
# The weights lack what waits in the residuals, which is much with few exchanges of few bits: the end adds it.
FLUSH = ",flush_residuals=true"
_LOCAL_FLUSHED = _with(FLUSH, _LOCAL_LONG_MIXTURE[1:])
_LOCAL_RARE = _rows(_local("dqgan_adam", (128,)), (SIGN, TOP_1))  # thousands of times fewer bytes
_LOCAL_SPLIT = [
    *_rows(["dqgan_adam_split"], (NONE, SIGN)),
    ("cpoadam", NONE),
    (f"cpoadam_ef,shift=0.1{_FASTER}", SIGN),
    (f"cpoadam_ef{_rate(0.004)}", TOP_1),
]
_SPLIT_ROUNDS = "dqgan_adam_split,local_steps=8"
# Classes split, an exchange every 8 steps: what drifts apart within a round decides, so it is taken out of each step.
_CORRECTED = "dqgan_adam_averaged_split,local_steps=8,half_step=corrected,shift=1"
_LOCAL_SPLIT_BEST = [
    *_rows([_CORRECTED], (NONE, FOUR_BIT)),
    (f"{_SPLIT_ROUNDS},half_step=corrected,shift=1", FOUR_BIT),
]
_LOCAL_SPLIT_ROUNDS = [
    *_rows(
        [
            "dqgan_adam_split,half_step=common",
            f"{_SPLIT_ROUNDS},half_step=common",
            f"{_SPLIT_ROUNDS},half_step=none",
            "dqgan_adam_split,half_step=corrected,shift=0.3",
        ],
        (NONE,),
    ),
    (f"{_SPLIT_ROUNDS},half_step=corrected,shift=1", NONE),
    (f"{_SPLIT_ROUNDS},half_step=corrected,shift=1{FALLING}", FOUR_BIT),
    *_rows([f"{_SPLIT_ROUNDS},half_step=corrected,shift=0.3"], (NONE, SIGN, f"{SIGN}@two_step@{FOUR_BIT}")),
    *_rows([f"{_SPLIT_ROUNDS},half_step=corrected,shift=0.3{_FASTER}"], (NONE, FOUR_BIT)),
    (f"{_SPLIT_ROUNDS},half_step=corrected,shift=0.1", SIGN),
]
# The networks and the batch of `benchmarks.links`, which measures the steps on links.
_TIME = [*_rows(["dqgan_adam"], (NONE, SIGN)), ("dqgan_adam,local_steps=8", SIGN)]
_TIME_MORE = [
    *_rows(["dqgan_adam"], (EIGHT_BIT, FOUR_BIT)),
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
            Group("nonlinear", 8, "heterogeneous", _rows(["dqgan_adam_averaged"], (NONE, *_SHARP)), seeds=5),
            Group("nonlinear", 8, "heterogeneous", _rows(["dqgan", "dqgan,shift=0.1"], (NONE, *_SHARP)), seeds=3),
            Group("nonlinear", 8, "heterogeneous", _DIFFERENT, seeds=1),
            Group("affine", 8, "homogeneous", _AFFINE, seeds=2),
            Group("nonlinear_noise_free", 8, "heterogeneous", _AFFINE, seeds=2),
            Group("nonlinear_noise_free", 8, "heterogeneous", _rows(["dqgan,shift=0.1"], _SHARP), seeds=2),
            Group("bilinear_noise_free", 4, "homogeneous", _AFFINE, seeds=2),
            Group("nonlinear", 2, "homogeneous", _FEW, seeds=2),
            Group("nonlinear", 32, "homogeneous", _FEW, seeds=2),
        ],
        _FIELD,
        {},
    ),
    "mixture": Suite(
        DATA,
        "Do few bits cost modes or quality on mixtures of Gaussians?",
        [
            Group("mixture_ring", 4, "iid", _with(LONG, _HEADLINE), seeds=5),
            Group("mixture_ring", 4, "iid", _with(LONG, _ABLATIONS), seeds=2),
            Group("mixture_ring", 4, "iid", _with(LONG, _BASELINES), seeds=1),
            Group("mixture_grid", 4, "iid", _with(LONG, _HEADLINE), seeds=5),
            Group("mixture_grid", 4, "iid", _with(LONG, _SHORT[3:]), seeds=1),
            Group("mixture_ring", 8, "iid", _with(LONG, [*_HEADLINE[:-1], _SHORT[3]]), seeds=3),
            Group("mixture_ring", 8, "iid", _with(LONG, [_HEADLINE[-1], _SHORT[4]]), seeds=1),  # 15 minutes each
            Group("mixture_ring", 4, "iid", _HEADLINE, seeds=4),
            Group("mixture_ring", 4, "iid", _ABLATIONS, seeds=2),
        ],
        _COVERAGE,
        {},
        worker_batch=64,
        marks=15,
    ),
    "fashion_mnist": Suite(
        DATA,
        "What does compression cost on fashion_mnist?",
        [
            Group("fashion_mnist", 4, "iid", [*_HEADLINE, ("cpoadam", NONE)], seeds=3),
            Group("fashion_mnist", 4, "iid", _with(FALLING, _HEADLINE), seeds=5),
            Group("fashion_mnist", 4, "iid", _ABLATIONS + _OTHER_BASELINES, seeds=2),
            Group("fashion_mnist", 4, "iid", _OTHER_RATES, seeds=3),
            Group("fashion_mnist", 4, "iid", [(f"dqgan_adam{_FASTER}", NONE)], seeds=1),
            Group("fashion_mnist", 2, "iid", _HEADLINE, seeds=3),
            Group("fashion_mnist", 4, "dirichlet:0.3", _rows(["dqgan_adam"], (NONE, SIGN, TOP_1)), seeds=1),
            Group("fashion_mnist", 2, "iid", _with(SLOWER, [*_SHORT, _ABLATIONS[1]]), seeds=3),
        ],
        _distances(IMAGES),
        _SHORT_IMAGES,
        worker_batch=32,
        marks=4,
    ),
    "cifar10": Suite(
        DATA,
        "What does compression cost on cifar10?",
        [
            Group("cifar10", 4, "iid", [*_HEADLINE, ("cpoadam", NONE)], seeds=3),
            Group("cifar10", 4, "iid", [*_ABLATIONS[1:], *_OTHER_BASELINES[2:]], seeds=1),
            Group("cifar10", 2, "iid", _SHORT, seeds=1),
        ],
        _distances(IMAGES),
        _SHORT_CIFAR,
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
        _FIELD,
        {},
    ),
    "time": Suite(
        DATA,
        "How long does a quality take on slow links?",
        [
            Group("fashion_mnist", 2, "iid", _TIME, seeds=2),
            Group("fashion_mnist", 2, "iid", _TIME_MORE, seeds=1),
        ],
        _distances(IMAGES),
        {"train.steps": 2048, "train.steps_per_call": 8, "train.ema_decay": 0.99},
        worker_batch=32,
        marks=8,
    ),
    "local/games": Suite(
        GAMES,
        "Do local steps and a learned shift reach the float32 figure on games whose field is known?",
        [
            Group("nonlinear", 8, "homogeneous", _LOCAL_GAME, seeds=3),
            Group("nonlinear", 8, "homogeneous", _LOCAL_GAME_ABLATIONS, seeds=2),
            Group("nonlinear", 8, "homogeneous", _LOCAL_GAME_ADAM, seeds=1),
            Group("nonlinear", 8, "heterogeneous", _LOCAL_SHIFT, seeds=2),
            Group("nonlinear", 8, "heterogeneous", _LOCAL_SMALL_SHIFT, seeds=2),
            Group("nonlinear_long", 8, "homogeneous", _LOCAL_GAME, seeds=3),
        ],
        (*_FIELD, _SPREAD),
        {},
        marks=32,
    ),
    "local/mixture": Suite(
        DATA,
        "Do local steps cost modes or quality on mixtures of Gaussians, and do modes split among workers?",
        [
            Group("mixture_ring", 4, "iid", _LOCAL, seeds=5),
            Group("mixture_ring", 4, "iid", _LOCAL_MORE, seeds=2),
            Group("mixture_ring", 4, "by_class", _SPLIT_LONG, seeds=5),
            Group("mixture_ring", 4, "by_class", _SPLIT_LONG_NEXT, seeds=1),
            Group("mixture_ring", 4, "by_class", _SPLIT_BEST, seeds=5),
            Group("mixture_ring", 4, "by_class", _SPLIT_NEXT, seeds=3),
            Group("mixture_ring", 4, "by_class", _SPLIT_AVERAGED_LONG, seeds=5),
            Group("mixture_ring", 4, "by_class", _SPLIT_AVERAGED, seeds=5),
            Group("mixture_ring", 4, "by_class", _SPLIT_TWICE, seeds=2),
            Group("mixture_ring", 4, "by_class", _SPLIT_ROWS, seeds=1),
            Group("mixture_ring", 4, "iid", _LOCAL_LONG_MIXTURE, seeds=5),
            Group("mixture_ring", 4, "iid", _LOCAL_TWO_STEP, seeds=1),
            Group("mixture_ring", 4, "iid", _LOCAL_FLUSHED, seeds=5),
            Group("mixture_ring", 4, "iid", _with(FLUSH, _LOCAL_TWO_STEP), seeds=3),
            Group("mixture_grid", 4, "iid", [_LOCAL_LONG_MIXTURE[0], *_LOCAL_FLUSHED], seeds=5),
            Group("mixture_ring", 8, "iid", [_LOCAL_LONG_MIXTURE[0], *_LOCAL_FLUSHED], seeds=5),
            Group("mixture_ring", 8, "iid", _with(FLUSH, _LOCAL_MEAN), seeds=2),
            Group("mixture_grid", 8, "iid", [_LOCAL_LONG_MIXTURE[0], *_LOCAL_FLUSHED], seeds=5),
        ],
        (*_COVERAGE, _SPREAD),
        {"train.steps": 3072, "train.steps_per_call": 64},
        worker_batch=64,
        marks=12,
    ),
    "local/fashion_mnist": Suite(
        DATA,
        "What do local steps cost on fashion_mnist?",
        [
            Group("fashion_mnist", 4, "iid", _LOCAL + _LOCAL_RARE, seeds=3),
            Group("fashion_mnist", 4, "iid", _with(FALLING, _LOCAL), seeds=5),
            Group("fashion_mnist", 4, "iid", _LOCAL_MORE, seeds=1),
            Group("fashion_mnist", 4, "by_class", _LOCAL_SPLIT, seeds=3),
            Group("fashion_mnist", 4, "by_class", [("cpoadam_ef", FOUR_BIT)], seeds=3),
            Group("fashion_mnist", 4, "by_class", _rows(["cpoadam_ef,shift=0.1", _SPLIT_ROUNDS], (SIGN,)), seeds=1),
            Group("fashion_mnist", 4, "by_class", _LOCAL_SPLIT_BEST, seeds=3),
            Group("fashion_mnist", 4, "by_class", _rows([f"{_CORRECTED}{FALLING}"], (FOUR_BIT,)), seeds=3),
            Group("fashion_mnist", 4, "by_class", _LOCAL_SPLIT_ROUNDS, seeds=1),
        ],
        (*_distances(IMAGES), _SPREAD),
        _SHORT_IMAGES | {"train.steps": 2048, "train.steps_per_call": 64},
        worker_batch=32,
        marks=4,
    ),
}
"""Every suite is a whole number of rounds of local steps between two marks."""


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
        small_networks = [key for key, other in SUITES.items() if other.settings in (_SHORT_IMAGES, _SHORT_CIFAR)]
        if name not in small_networks:
            names = " or ".join(small_networks)
            raise UsageError(f"--published is for --suite={names}. Received: --suite={name}")
        suite = suite._replace(settings={})
    if not small:
        return suite
    first, settings = suite.groups[0], suite.settings | {"train.steps": 32}
    rows = [first.rows[0], next(row for row in first.rows if row[1] == SIGN)]
    rows = [(re.sub(",steps=[0-9]+", "", method), compressor) for method, compressor in rows]
    figures = _distances(SMALL_IMAGES) if suite.figures == _distances(IMAGES) else suite.figures
    seeds = 2 if suite.kind == GAMES else 1
    groups = [first._replace(workers=min(first.workers, 2), rows=rows, seeds=seeds)]
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
