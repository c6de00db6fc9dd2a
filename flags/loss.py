"""Flags of `LossConfig`."""

from dqgan_tf.config import LossConfig
from flags.define import define, positive

define(
    LossConfig,
    "loss",
    "The game. wgan_clip is a projection that error feedback's analysis does not cover (arXiv 2510.03507).",
    choices=("non_saturating", "wgan_gp", "hinge", "wgan_clip"),
)
define(
    LossConfig,
    "r1_gamma",
    "gamma of the R1 penalty gamma/2 E||grad D||^2 of non_saturating and hinge; 0 for none (arXiv 1801.04406).",
    lower=0.0,
)
define(LossConfig, "gradient_penalty", "Weight of E(||grad D|| - 1)^2 of wgan_gp (10 in arXiv 1704.00028).", lower=0.0)
define(LossConfig, "clip_value", "Bound on the absolute discriminator weights of wgan_clip.")
positive("clip_value")
