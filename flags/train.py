"""Flags of `TrainConfig`."""

from dqgan_tf.config import TrainConfig
from flags.define import below_one, define

define(TrainConfig, "batch_size", "Samples per step over ALL replicas together; a multiple of their number.", lower=1)
define(TrainConfig, "steps", "Steps of the whole run; a resumed run counts from its start.", lower=1)
define(TrainConfig, "seed", "Of initial weights, data order, latent noise and stochastic rounding.", lower=0)
define(TrainConfig, "ema_decay", "Decay of the averaged generator.")
define(TrainConfig, "steps_per_call", "Steps inside one call of the compiled function, between two looks.", lower=1)
define(
    TrainConfig,
    "replicas_per_worker",
    "Replicas on one CPU worker, for tests; with GPUs every visible one is a replica.",
    lower=1,
)
define(TrainConfig, "log_every", "Steps between two lines of progress; 0: never.", lower=0)
define(TrainConfig, "sample_every", "Steps between two pictures; 0: only at the end.", lower=0)
define(TrainConfig, "checkpoint_every", "Steps between two checkpoints; 0: only at the end.", lower=0)
define(
    TrainConfig,
    "weight_check_every",
    "Steps between two comparisons of the weights across replicas; 0: only at the end.",
    lower=0,
)
define(
    TrainConfig,
    "max_skipped_in_row",
    "Stop after so many consecutive steps that were skipped for a non-finite update; 0: never.",
    lower=0,
)
define(TrainConfig, "keep_checkpoints", "Complete checkpoints that stay on disk.", lower=1)
define(TrainConfig, "deterministic", "TensorFlow's deterministic kernels: exact resume on GPUs, at some cost in speed.")
below_one("ema_decay")
