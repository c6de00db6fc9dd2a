"""Everything that determines a run, as frozen dataclasses that are saved with it as JSON.

A flag becomes one field here and is read nowhere else. `RunConfig.fingerprint` is what the workers of a job
compare at start: two configurations with the same fingerprint compute the same weights.
"""

import dataclasses
import hashlib
import json
import math
from typing import Any, get_type_hints


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """What is learned.

    dataset: `gaussian_ring`, `gaussian_grid`, or the name of any image set of TensorFlow Datasets.
    data_dir: prepared TFDS directory (None: the TFDS default). Local to a machine: not part of the fingerprint.
    image_size: height and width in pixels after resizing (None: the reference size for the data set).
    split: TFDS split used for training.
    """

    dataset: str = "gaussian_ring"
    data_dir: str | None = None
    image_size: int | None = None
    split: str = "train"


@dataclasses.dataclass(frozen=True)
class NetworkConfig:
    """Both players' architectures.

    network: `mlp` or `dcgan`.
    latent_dim: dimension of the standard normal latent z (None: the network's reference value).
    width: units of an MLP's hidden layers, or filters of DCGAN's widest-resolution layer (None: the reference value).
    batch_norm: batch normalisation in the generator of `dcgan` (never in the discriminator).
    """

    network: str = "mlp"
    latent_dim: int | None = None
    width: int | None = None
    batch_norm: bool = True


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """The game.

    loss: `non_saturating`, `wgan_gp`, `hinge` or `wgan_clip`.
    r1_gamma: weight gamma of the R1 penalty gamma/2 E||grad_x D(x)||^2; used by `non_saturating` and `hinge`.
    gradient_penalty: weight of E(||grad D|| - 1)^2; used by `wgan_gp`.
    clip_value: bound on the absolute discriminator weights; used by `wgan_clip`.
    """

    loss: str = "non_saturating"
    r1_gamma: float = 0.1
    gradient_penalty: float = 10.0
    clip_value: float = 0.01


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """How a gradient becomes a step.

    direction: `sgd` (u = g, optimistic mirror descent) or `adam` (u = preconditioned momentum).
    learning_rate_g, learning_rate_d: eta of each player, in units of parameters per unit of u.
    learning_rate_schedule: `constant`, `linear` or `cosine` (both to 0 at the last step).
    warmup_steps: steps over which eta rises linearly from 0.
    beta_1, beta_2, epsilon: Adam's.
    second_moment: `local`, `averaged` or `guarded` (see dqgan_tf/optimizers/adam.py); used by `adam`.
    second_moment_period: K, steps between two exact averages of the second moment.
    half_step: evaluate gradients at w - (eta u_prev + e) rather than at w.
    """

    direction: str = "adam"
    learning_rate_g: float = 1e-3
    learning_rate_d: float = 1e-3
    learning_rate_schedule: str = "constant"
    warmup_steps: int = 0
    beta_1: float = 0.5
    beta_2: float = 0.9
    epsilon: float = 1e-8
    second_moment: str = "local"
    second_moment_period: int = 100
    half_step: bool = True


def check_bucket_mb(value: float) -> None:
    """Raises ValueError unless `value` is a number of MiB: finite, 0 or more."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or value < 0:
        raise ValueError(
            "`bucket_mb` must be 0, which sends everything at once, or a positive number of MiB. A value that works is "
            f"bucket_mb=4.0. Received: bucket_mb={value!r}"
        )


@dataclasses.dataclass(frozen=True)
class CompressionConfig:
    """How updates travel.

    compressor: a spec such as `none`, `linear:bits=4,bucket=512`, `sign:bucket=512`, `topk:fraction=0.01`.
    compressor_rules: other specs by weight name, `PATTERN=SPEC;PATTERN=SPEC`; see `compressors.rules`.
    start_step: the first step that is compressed; earlier ones are exact (0 and 1: all are compressed).
    error_feedback: keep what a compressor drops and add it to the next update.
    residual_in_half_step: let the half step contain the residual (False is an ablation).
    allow_non_contractive: permit error feedback with a compressor that proves no contraction.
    topology: `auto`, `all_gather`, `two_step` or `hierarchical`: how packets travel.
    bucket_mb: float32 MiB that are encoded and sent at a time (0: all at once); changes no result. Checked here, since
        others would end in arithmetic far away.
    communication: `auto`, `sockets`, `ring` or `nccl`: what carries packets between processes; see
        `distribute.transport`. `ring` and `nccl` are TensorFlow's collectives.
    """

    compressor: str = "linear:bits=4,bucket=512"
    compressor_rules: str = ""
    start_step: int = 0
    error_feedback: bool = True
    residual_in_half_step: bool = True
    allow_non_contractive: bool = False
    topology: str = "auto"
    bucket_mb: float = 4.0
    communication: str = "auto"

    def __post_init__(self):
        check_bucket_mb(self.bucket_mb)


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """How long, how much at a time, how often something is looked at. Periods are in steps; 0 means never.

    batch_size: samples per step over all replicas together.
    steps: total steps of the run.
    seed: of initial weights, data order, latent noise and stochastic rounding.
    ema_decay: of the averaged generator.
    steps_per_call: steps inside one call of the compiled function.
    replicas_per_worker: local replicas of one worker on CPU (on GPU: one per visible GPU).
    weight_check_every: period of comparing a hash of the weights across replicas.
    max_skipped_in_row: consecutive non-finite steps after which the run stops.
    keep_checkpoints: how many complete checkpoints stay on disk.
    deterministic: TensorFlow's op determinism: exact resume at some cost in speed.
    """

    batch_size: int = 256
    steps: int = 4000
    seed: int = 0
    ema_decay: float = 0.999
    steps_per_call: int = 20
    replicas_per_worker: int = 1
    log_every: int = 100
    sample_every: int = 1000
    checkpoint_every: int = 1000
    weight_check_every: int = 1000
    max_skipped_in_row: int = 10
    keep_checkpoints: int = 3
    deterministic: bool = True


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """One run. `model_dir` and what `LOCAL_FIELDS` names may differ between workers."""

    model_dir: str = ""
    data: DataConfig = DataConfig()
    network: NetworkConfig = NetworkConfig()
    loss: LossConfig = LossConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    compression: CompressionConfig = CompressionConfig()
    train: TrainConfig = TrainConfig()

    def to_json(self) -> str:
        """Returns the configuration as indented JSON with sorted keys."""
        return json.dumps(dataclasses.asdict(self), indent=2, sort_keys=True)

    def flat(self) -> dict[str, Any]:
        """Returns `{"model_dir": ..., "data.dataset": ..., ...}`: one entry per field, groups joined by a dot."""
        return flatten(dataclasses.asdict(self))

    def shared(self) -> dict[str, Any]:
        """Returns `flat()` without the fields that may differ between workers."""
        return {key: value for key, value in self.flat().items() if key not in LOCAL_FIELDS}

    def fingerprint(self) -> str:
        """Returns the sha256 (hex) of `shared()`."""
        return hashlib.sha256(json.dumps(self.shared(), sort_keys=True).encode()).hexdigest()


LOCAL_FIELDS = frozenset({"model_dir", "data.data_dir"})


def flatten(groups: dict[str, Any]) -> dict[str, Any]:
    """Returns `RunConfig.flat` of a configuration as it stands in its JSON, of whatever version."""
    flat = {}
    for name, value in groups.items():
        flat |= {f"{name}.{key}": inner for key, inner in value.items()} if isinstance(value, dict) else {name: value}
    return flat


def from_json(text: str) -> RunConfig:
    """Inverse of `RunConfig.to_json`.

    Raises:
      ValueError: a key is unknown, with the key's name, or a value is refused by its dataclass.
    """
    return _build(RunConfig, json.loads(text), prefix="")


def _build(cls, values, prefix):
    types = get_type_hints(cls)
    unknown = sorted(set(values) - set(types))
    if unknown:
        raise ValueError(f"Unknown configuration key {prefix + unknown[0]!r}; known: {sorted(types)}")
    built = {}
    for name, value in values.items():
        nested = dataclasses.is_dataclass(types[name])
        built[name] = _build(types[name], value, f"{prefix}{name}.") if nested else value
    return cls(**built)
