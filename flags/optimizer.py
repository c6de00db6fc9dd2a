"""Flags of `OptimizerConfig`."""

from dqgan_tf.config import OptimizerConfig
from flags.define import below_one, define, positive

define(
    OptimizerConfig,
    "direction",
    "How a gradient becomes a direction: sgd (optimistic mirror descent) or adam (preconditioned on every worker).",
    choices=("sgd", "adam"),
)
define(OptimizerConfig, "learning_rate_g", "eta of the generator, in parameters per unit of direction.")
define(OptimizerConfig, "learning_rate_d", "eta of the discriminator, in parameters per unit of direction.")
define(
    OptimizerConfig,
    "learning_rate_schedule",
    "constant, or a fall to 0 at the last step.",
    choices=("constant", "linear", "cosine"),
)
define(OptimizerConfig, "warmup_steps", "Steps over which eta rises linearly from 0.", lower=0)
define(OptimizerConfig, "beta_1", "Decay of adam's first moment (.5 in the reference runs).")
define(OptimizerConfig, "beta_2", "Decay of adam's second moment (.9 in the reference runs).")
define(OptimizerConfig, "epsilon", "Added to the root of adam's second moment.")
define(
    OptimizerConfig,
    "second_moment",
    "adam's second moment: the worker's own (local), an exact average over workers at t = 1, 2, 4, ..., 64 and every "
    "--second_moment_period steps (averaged), or the larger of both (guarded). Take guarded where workers see "
    "different data.",
    choices=("local", "averaged", "guarded"),
)
define(OptimizerConfig, "second_moment_period", "Steps between two exact averages of the second moment.", lower=1)
define(
    OptimizerConfig,
    "half_step",
    "Take the gradient at w - (eta u_prev + e), as DQGAN does; false is simultaneous descent, a baseline.",
)
for _name in ("learning_rate_g", "learning_rate_d", "epsilon"):
    positive(_name)
for _name in ("beta_1", "beta_2"):
    below_one(_name)
