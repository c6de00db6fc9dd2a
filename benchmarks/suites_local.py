"""The suites of local steps and of workers with different data: `trainers.compare --suite=local/NAME`."""

from benchmarks.cells import DATA, GAMES, Group, Suite
from benchmarks.suite_parts import (
    COVERAGE,
    FALLING,
    FASTER,
    FIELD,
    FOUR_BIT,
    IMAGES,
    LARGE_SIGN,
    LONG,
    NONE,
    SHORT_CIFAR,
    SHORT_IMAGES,
    SIGN,
    SPREAD,
    TOP_1,
    TOP_5,
    distances,
    rate,
    rows,
    with_setting,
)

# Where gradients are taken: the direction that looks ahead, and what else is in the point. Workers have different data.
_SPLIT_HALF_STEPS = [
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
# The averaged second moment of workers with different data is larger than that of their mean gradient, so steps are
# shorter: a larger rate. A central Adam of compressed gradients sees their mean alone; it needs a larger rate too, and
# a shift unless packets are sparse: there a value waits for many steps, but moves once by about the rate.
_FAST = rate(0.01)
_SPLIT_CENTRAL = [
    ("cpoadam", NONE),
    (f"cpoadam_ef,shift=0.1{rate(0.008)}", SIGN),
    (f"cpoadam_ef{rate(0.02)}", TOP_1),
]
_SPLIT_THREE_SEEDS = [
    (f"dqgan_adam_split{_COMMON}", NONE),
    (f"dqgan_adam_split{_COMMON}", SIGN),
    ("dqgan_adam_split,half_step=corrected,shift=1", SIGN),
    (f"cpoadam_ef{rate(0.02)}", SIGN),
    (f"cpoadam_ef,beta_2=0.99{rate(0.012)}", TOP_1),
]
# Twice the steps. A warm-up, since the first steps at these rates can throw the generator onto one mode.
_SPLIT_LONG_CENTRAL = [
    (f"cpoadam_ef{LONG},shift=0.1,warmup_steps=300{rate(0.008)}", SIGN),
    (f"cpoadam_ef{LONG},warmup_steps=300{rate(0.02)}", TOP_1),
]
# Runs lost modes within their first thousand steps, before all modes were found: a warm-up through all of these, or
# float32 until it has found all modes.
_SPLIT_WARM_UP = (f"cpoadam_ef{LONG},warmup_steps=1000{rate(0.02)}", TOP_1)
_SPLIT_LATE = rows(
    [f"dqgan_adam_averaged_split{LONG},second_moment_period=1{_COMMON},start_step=1537{rate(0.008)}"], (SIGN, TOP_1)
)
_SPLIT_CENTRAL_LATE = f"cpoadam_ef{LONG},start_step=1537,warmup_steps=300{rate(0.008)}"
_SPLIT_WARM_UP_MORE = [
    (f"cpoadam_ef{LONG},warmup_steps=1000{rate(0.02)}", SIGN),
    (f"dqgan_adam_averaged_split{LONG},second_moment_period=1{_COMMON},warmup_steps=1000{rate(0.008)}", TOP_1),
    (f"dqgan_adam_averaged_split{LONG},second_moment_period=16{_COMMON},start_step=1537{rate(0.008)}", TOP_1),
]
# The bound of `--shift` for the largest 1 %: a quarter of the share.
_SPLIT_SMALL_SHIFT = [
    (f"cpoadam_ef{LONG},shift=0.0025,warmup_steps=300{rate(0.02)}", TOP_1),
    ("dqgan_adam_split,half_step=corrected,shift=0.0025", TOP_1),
    (f"dqgan_adam_split{_COMMON},shift=0.0025", TOP_1),
]
_SPLIT_LONG_ONE_SEED = [
    *rows([f"cpoadam{LONG}", f"dqgan_adam_split{LONG}"], (NONE,)),
    *rows([f"dqgan_adam_split{LONG}{_COMMON}{_FAST}"], (NONE, SIGN, TOP_1)),
]
# The mean of the workers' second moments at every exchange, and a common look-ahead.
_SPLIT_AVERAGED = rows([f"dqgan_adam_averaged_split,second_moment_period=1{_COMMON}"], (NONE, SIGN, TOP_1))
_SPLIT_AVERAGED_LONG = rows(
    [f"dqgan_adam_averaged_split{LONG},second_moment_period=1{_COMMON}{rate(0.008)}"], (NONE, SIGN, TOP_1)
)
# Every half step, with and without the residual in it, with and without a shift, around `_SPLIT_AVERAGED`. A corrected
# step needs a shift; without a half step the residual is in no point. In float32 there is no residual, and a shift
# changes corrected steps alone. A shift of .1 is forty times the bound of the largest 1 %: there also the bound itself.
_SPLIT_CHANGES = (
    "",
    ",residual_in_half_step=false",
    ",half_step=common",
    _COMMON,
    ",half_step=none",
    ",half_step=corrected",
    ",half_step=corrected,residual_in_half_step=false",
)


def _split_grid(changes, shift):
    return [f"dqgan_adam_averaged_split,second_moment_period=1{change}{shift}" for change in changes]


_SPLIT_GRID = [
    *rows(_split_grid(_SPLIT_CHANGES[:5], ""), (SIGN, TOP_1)),
    *rows(_split_grid(_SPLIT_CHANGES, ",shift=0.1"), (SIGN, TOP_1)),
    *rows(_split_grid(_SPLIT_CHANGES, ",shift=0.0025"), (TOP_1,)),
    *rows(_split_grid(("", ",half_step=none", ",half_step=corrected,shift=0.1"), ""), (NONE,)),
]
# In the grid corrected steps with the residual outside, with a shift within its bound, have all modes within the wide
# radius at both compressors. Here the steps and the rate are twice as large.
_SPLIT_CORRECTED_LONG = [
    (
        f"dqgan_adam_averaged_split{LONG},second_moment_period=1,half_step=corrected,residual_in_half_step=false,"
        f"shift={shift}{rate(0.008)}",
        compressor,
    )
    for shift, compressor in ((0.1, SIGN), (0.0025, TOP_1))
]
# What `_SPLIT_AVERAGED_LONG` needs of its second moments: here they hold the worker's own, or an older mean.
_SPLIT_OTHER_MOMENTS = [
    (f"dqgan_adam_split{LONG},second_moment_period=1{_COMMON}{rate(0.008)}", SIGN),
    (f"dqgan_adam_averaged_split{LONG},second_moment_period=16{_COMMON}{rate(0.008)}", SIGN),
    (f"dqgan_adam_averaged_split{LONG},second_moment_period=16{_COMMON},warmup_steps=300{rate(0.008)}", SIGN),
]
_SPLIT_TWO_SEEDS = [("dqgan_adam_split", NONE), (f"cpoadam_ef{rate(0.03)}", TOP_1)]
_SPLIT_ONE_SEED = [
    *rows(["dqgan_adam"], (NONE, SIGN)),
    *rows(_SPLIT_HALF_STEPS, (NONE, SIGN, TOP_1)),
    *rows(["cpoadam_ef", "cpoadam_ef,shift=0.1"], (SIGN, TOP_1)),
    (f"cpoadam_ef,shift=0.1{rate(0.008)}", TOP_1),
    (f"cpoadam_ef,beta_2=0.99{rate(0.012)}", SIGN),
    *rows([f"dqgan_adam_split{_COMMON}{_FAST}"], (NONE, SIGN, TOP_1)),
    (f"dqgan_adam_split,half_step=corrected,shift=1{_FAST}", SIGN),
]


def _local(name, steps, extra=""):
    """The method with every number of local steps; one step without a setting of it."""
    return [f"{name}{extra}" if count == 1 else f"{name},local_steps={count}{extra}" for count in steps]


_LOCAL_GAME = rows(_local("dqgan", (1, 4, 16, 64)), (NONE, SIGN, TOP_5))
_LOCAL_GAME_ABLATIONS = rows(_local("dqgan_residual_out", (1, 4, 16, 64)), (SIGN, TOP_5))
_LOCAL_GAME_ADAM = rows(_local("dqgan_adam", (1, 4, 16, 64)), (NONE, SIGN, TOP_5))
_LOCAL_GAME_ADAM_ABLATIONS = rows(
    [*_local("dqgan_adam_residual_out", (1, 4, 16, 64)), *_local("dqgan_adam_no_error_feedback", (1, 4, 16, 64))],
    (SIGN, TOP_5),
)
_LOCAL_SHIFT = rows(
    [
        *_local("dqgan", (1, 4, 16)),
        *_local("dqgan", (1, 4, 16), ",shift=0.1"),
        *_local("dqgan", (1, 4, 16), ",shift=0.1,half_step=corrected"),
    ],
    (NONE, SIGN, TOP_5),
)
# A quarter of the share that top-k sends: `--shift` has the bound.
_LOCAL_SMALL_SHIFT = rows(_local("dqgan", (1, 4, 16), ",shift=0.0125"), (TOP_5,))
_LOCAL = [("dqgan_adam", NONE), *rows(_local("dqgan_adam", (8, 32)), (SIGN,))]
_LOCAL_ABLATIONS = [
    ("dqgan_adam,local_steps=8", NONE),
    ("dqgan_adam,local_steps=8", TOP_1),
    ("dqgan_adam_residual_out,local_steps=8", SIGN),
    ("dqgan_adam_no_error_feedback,local_steps=8", SIGN),
]
_LOCAL_LONG_MIXTURE = [(f"dqgan_adam{LONG}", NONE), *rows(_local(f"dqgan_adam{LONG}", (8, 32)), (SIGN,))]
# What a replica looks ahead by, where all have the same data. It costs no byte.
_LOCAL_HALF_STEPS = rows(
    [
        f"dqgan_adam{LONG}{steps}{half_step}"
        for steps in ("", ",local_steps=8")
        for half_step in ("", ",half_step=common", ",half_step=none", ",half_step=corrected,shift=0.1")
    ],
    (SIGN,),
)
# `auto` takes the all-gather for so few values; the two-step exchange sends half of its bytes.
_LOCAL_TWO_STEP = rows(_local(f"dqgan_adam{LONG}", (8, 32)), (f"{SIGN}@two_step",))
# With eight workers the error of the second encoding takes the owner's point away from the others: a mean of more bits.
_LOCAL_MEAN = rows(_local(f"dqgan_adam{LONG}", (8, 32)), (f"{SIGN}@two_step@{FOUR_BIT}",))
# The weights lack what waits in the residuals, which is much with few exchanges of few bits: the end adds it.
FLUSH = ",flush_residuals=true"
_LOCAL_FLUSHED = with_setting(FLUSH, _LOCAL_LONG_MIXTURE[1:])
# Eight shards of these networks are no whole numbers of 512 values, and padding is sent: two large buckets fit better.
_LOCAL_LARGE_BUCKETS = rows([method for method, _ in _LOCAL_FLUSHED], (LARGE_SIGN,))
_LOCAL_RARE = rows(_local("dqgan_adam", (128,)), (SIGN, TOP_1))  # thousands of times fewer bytes
_LOCAL_SPLIT = [
    *rows(["dqgan_adam_split"], (NONE, SIGN)),
    ("cpoadam", NONE),
    (f"cpoadam_ef,shift=0.1{FASTER}", SIGN),
    (f"cpoadam_ef{rate(0.004)}", TOP_1),
]
_SPLIT_ROUNDS = "dqgan_adam_split,local_steps=8"
# Classes split, an exchange every 8 steps: what drifts apart within a round decides, so it is taken out of each step.
_CORRECTED = "dqgan_adam_averaged_split,local_steps=8,half_step=corrected,shift=1"
_LOCAL_SPLIT_CORRECTED = [
    *rows([_CORRECTED], (NONE, FOUR_BIT)),
    (f"{_SPLIT_ROUNDS},half_step=corrected,shift=1", FOUR_BIT),
]
_LOCAL_SPLIT_ROUNDS = [
    *rows(
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
    *rows([f"{_SPLIT_ROUNDS},half_step=corrected,shift=0.3"], (NONE, SIGN, f"{SIGN}@two_step@{FOUR_BIT}")),
    *rows([f"{_SPLIT_ROUNDS},half_step=corrected,shift=0.3{FASTER}"], (NONE, FOUR_BIT)),
    (f"{_SPLIT_ROUNDS},half_step=corrected,shift=0.1", SIGN),
]

SUITES = {
    "local/games": Suite(
        GAMES,
        "Do local steps and a learned shift reach the float32 figure on games whose field is known?",
        [
            Group("nonlinear", 8, "homogeneous", _LOCAL_GAME, seeds=3),
            Group("nonlinear", 8, "homogeneous", _LOCAL_GAME_ABLATIONS, seeds=2),
            Group("nonlinear", 8, "homogeneous", _LOCAL_GAME_ADAM, seeds=1),
            Group("nonlinear", 8, "homogeneous", _LOCAL_GAME_ADAM_ABLATIONS, seeds=1),
            Group("nonlinear", 8, "heterogeneous", _LOCAL_SHIFT, seeds=2),
            Group("nonlinear", 8, "heterogeneous", _LOCAL_SMALL_SHIFT, seeds=2),
            Group("nonlinear_long", 8, "homogeneous", _LOCAL_GAME, seeds=3),
        ],
        (*FIELD, SPREAD),
        {},
        marks=32,
    ),
    "local/mixture": Suite(
        DATA,
        "Do local steps cost modes or quality on mixtures of Gaussians, and do modes split among workers?",
        [
            Group("mixture_ring", 4, "iid", _LOCAL, seeds=5),
            Group("mixture_ring", 4, "iid", _LOCAL_ABLATIONS, seeds=2),
            Group("mixture_ring", 4, "by_class", _SPLIT_LONG_CENTRAL, seeds=5),
            Group("mixture_ring", 4, "by_class", [*_SPLIT_LATE, (_SPLIT_CENTRAL_LATE, TOP_1)], seeds=5),
            Group("mixture_ring", 4, "by_class", [(_SPLIT_CENTRAL_LATE, SIGN)], seeds=3),
            Group("mixture_ring", 4, "by_class", [_SPLIT_WARM_UP], seeds=3),
            Group("mixture_ring", 4, "by_class", _SPLIT_WARM_UP_MORE, seeds=2),
            Group("mixture_ring", 4, "by_class", _SPLIT_LONG_ONE_SEED, seeds=1),
            Group("mixture_ring", 4, "by_class", _SPLIT_CENTRAL, seeds=5),
            Group("mixture_ring", 4, "by_class", _SPLIT_THREE_SEEDS, seeds=3),
            Group("mixture_ring", 4, "by_class", _SPLIT_AVERAGED_LONG, seeds=5),
            Group("mixture_ring", 4, "by_class", _SPLIT_AVERAGED, seeds=5),
            Group("mixture_ring", 4, "by_class", _SPLIT_GRID, seeds=5),
            Group("mixture_ring", 4, "by_class", _SPLIT_CORRECTED_LONG, seeds=2),
            Group("mixture_ring", 4, "by_class", _SPLIT_OTHER_MOMENTS, seeds=2),
            Group("mixture_ring", 4, "by_class", _SPLIT_TWO_SEEDS, seeds=2),
            Group("mixture_ring", 4, "by_class", _SPLIT_ONE_SEED, seeds=1),
            Group("mixture_ring", 4, "by_class", _SPLIT_SMALL_SHIFT, seeds=1),
            Group("mixture_ring", 4, "iid", _LOCAL_LONG_MIXTURE, seeds=5),
            Group("mixture_ring", 4, "iid", _LOCAL_HALF_STEPS, seeds=3),
            Group("mixture_ring", 4, "iid", _LOCAL_TWO_STEP, seeds=1),
            Group("mixture_ring", 4, "iid", _LOCAL_FLUSHED, seeds=5),
            Group("mixture_ring", 4, "iid", with_setting(FLUSH, _LOCAL_TWO_STEP), seeds=3),
            Group("mixture_grid", 4, "iid", [_LOCAL_LONG_MIXTURE[0], *_LOCAL_FLUSHED], seeds=5),
            Group("mixture_ring", 8, "iid", [_LOCAL_LONG_MIXTURE[0], *_LOCAL_FLUSHED], seeds=5),
            Group("mixture_ring", 8, "iid", _LOCAL_LARGE_BUCKETS, seeds=3),
            Group("mixture_ring", 8, "iid", with_setting(FLUSH, _LOCAL_MEAN), seeds=2),
            Group("mixture_grid", 8, "iid", [_LOCAL_LONG_MIXTURE[0], *_LOCAL_FLUSHED], seeds=5),
        ],
        (*COVERAGE, SPREAD),
        {"train.steps": 3072, "train.steps_per_call": 64},
        worker_batch=64,
        marks=12,
    ),
    "local/fashion_mnist": Suite(
        DATA,
        "What do local steps cost on fashion_mnist?",
        [
            Group("fashion_mnist", 4, "iid", _LOCAL + _LOCAL_RARE, seeds=3),
            Group("fashion_mnist", 4, "iid", with_setting(FALLING, _LOCAL), seeds=5),
            Group("fashion_mnist", 4, "iid", _LOCAL_ABLATIONS, seeds=1),
            Group("fashion_mnist", 4, "by_class", _LOCAL_SPLIT, seeds=3),
            Group("fashion_mnist", 4, "by_class", [("cpoadam_ef", FOUR_BIT)], seeds=3),
            Group("fashion_mnist", 4, "by_class", [("cpoadam_ef,shift=0.1", SIGN)], seeds=1),
            Group("fashion_mnist", 4, "by_class", [(_SPLIT_ROUNDS, SIGN)], seeds=3),
            Group("fashion_mnist", 4, "by_class", _LOCAL_SPLIT_CORRECTED, seeds=3),
            Group("fashion_mnist", 4, "by_class", rows([f"{_CORRECTED}{FALLING}"], (FOUR_BIT,)), seeds=3),
            Group("fashion_mnist", 4, "by_class", _LOCAL_SPLIT_ROUNDS, seeds=1),
        ],
        (*distances(IMAGES), SPREAD),
        SHORT_IMAGES | {"train.steps": 2048, "train.steps_per_call": 64},
        worker_batch=32,
        marks=4,
    ),
    "local/cifar10": Suite(
        DATA,
        "What do local steps cost on cifar10?",
        [Group("cifar10", 4, "iid", _LOCAL[:2], seeds=1)],
        (*distances(IMAGES), SPREAD),
        SHORT_CIFAR | {"train.steps": 6144, "train.steps_per_call": 64},
        worker_batch=16,
        marks=4,
    ),
}
"""In every suite, two marks are a whole number of rounds of local steps apart."""
