"""What the suites share: compressors, settings of methods, columns of tables. No TensorFlow."""

from benchmarks.cells import Figure

IMAGES, SMALL_IMAGES = 10_000, 200
"""Generated images of an evaluation, and of one in the small form of a suite."""


def rows(methods, compressors):
    """Returns a row, (method, compressor), for each pair."""
    return [(method, compressor) for method in methods for compressor in compressors]


NONE, FOUR_BIT, TERNARY, SIGN = "none", "linear:bits=4,bucket=512", "ternary:bucket=512", "sign:bucket=512"
LARGE_SIGN = "sign:bucket=2240"
HALF, EIGHT_BIT = "fp16", "linear:bits=8,bucket=512"
TOP_5, TOP_1 = "topk:fraction=0.05", "topk:fraction=0.01"
SPREAD = Figure("spread", "spread of the residuals", 1.0, 3)
FIELD = (Figure("field", "norm of the field", 1.0, 4, "percent"),)
COVERAGE = (
    Figure("high_quality_fraction_3_sd", "samples within 3 sd of a mode, %", 100.0, 1, "points"),
    Figure("modes_3_sd", "modes at 3 sd", 1.0, 1),
    Figure("high_quality_fraction", "samples within the wide radius, %", 100.0, 1, "points"),
    Figure("mode_distance", "distance of the modes' shares", 1.0, 3),
    Figure("raw_high_quality_fraction_3_sd", "raw generator within 3 sd, %", 100.0, 1),
)
# The ring's preset has 3,000 steps and the grid's 4,000. In more, settings differ less by their speed.
LONG = ",steps=6144"


def rate(value):
    """Returns the settings of a method with this rate of both players."""
    return f",learning_rate_g={value},learning_rate_d={value}"


# A mean of the workers' own Adam directions is shorter than the direction of their mean gradient, so at equal rates
# DQGAN takes shorter steps than the central baselines; rows of other rates tell this from the method.
SLOW, SLOWER, FASTER = rate(0.0004), rate(0.0002), rate(0.0016)
# Rates that fall to 0 take the noise of the last steps out of the end; runs of one seed still differ by some 10 %.
FALLING = f",learning_rate_schedule=linear{FASTER}"


def with_setting(setting, of):
    """Returns the rows `of` with a setting behind the method's name, such as `SLOW`."""
    return [(method + setting, compressor) for method, compressor in of]


def distances(count):
    """Returns the columns of images, by `count` generated samples."""
    return (
        Figure("frechet_distance", f"Frechet distance, {count:,} samples", 1.0, 1, "percent"),
        Figure("raw_frechet_distance", f"raw generator: Frechet distance, {count:,} samples", 1.0, 1),
        Figure("precision", f"precision, {count:,} samples", 1.0, 3),
        Figure("recall", f"recall, {count:,} samples", 1.0, 3),
    )


# A quarter of the published width and few steps, so that a run on one thread takes about five minutes. In so few steps
# a large rate is better for every method.
SHORT_IMAGES = {
    "network.width": 16,
    "loss.loss": "non_saturating",
    "loss.r1_gamma": 1.0,
    "optimizer.learning_rate_g": 8e-4,
    "optimizer.learning_rate_d": 8e-4,
    "train.steps": 2000,
    "train.ema_decay": 0.99,
}
# Images in colours take more steps than those of clothes.
SHORT_CIFAR = SHORT_IMAGES | {
    "loss.r1_gamma": 0.1,
    "optimizer.learning_rate_g": 4e-4,
    "optimizer.learning_rate_d": 4e-4,
    "train.steps": 6000,
}
