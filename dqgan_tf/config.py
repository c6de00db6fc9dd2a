"""Every setting of a run: its type, default, bounds, choices and help stand here once.

`RunConfig` holds all settings of a run and is saved as JSON in the model_dir. The flags of trainers.train and the table
in docs/settings.md are made from these fields (`flags/run.py`, `flags/table.py`). A dataclass checks its values when it
is constructed, by the function that the flags use (flags of paths add a hint). This file imports no TensorFlow.
"""

import dataclasses
import hashlib
import json
from typing import Any

from dqgan_tf.errors import UsageError
from dqgan_tf.fields import Settings, check, group_class, setting, warn_once


@dataclasses.dataclass(frozen=True)
class DataConfig(Settings):
    """The training data."""

    dataset: str = setting(
        "gaussian_ring",
        "Data set: gaussian_ring (8 modes), gaussian_grid (25 modes); the name of an image set of TensorFlow Datasets, "
        "such as cifar10, celeb_a or NAME/CONFIG:VERSION; a folder of images such as ./pictures, an .npz or .npy file, "
        "or MODULE:FUNCTION that returns a tf.data.Dataset (docs/data.md).",
    )
    data_dir: str | None = setting(
        None,
        "Prepared TensorFlow Datasets directory on this machine. Default: that of TensorFlow Datasets.",
        is_path=True,
        is_local=True,
    )
    image_size: int | None = setting(
        None, "Height and width in pixels after resizing. Default: the data set's own.", lower=1, example=64
    )
    split: str = setting(
        "train",
        "Split of the image set to train on, for example train or train[:90%]. In a folder of images: all of it, or a "
        "subfolder of that name.",
    )
    shards: str = setting(
        "iid",
        "Training data of each replica: equal in distribution (iid); consecutive modes or classes, in equal shares "
        "(by_class); or shares of every class from a Dirichlet distribution, the more unequal the smaller ALPHA is "
        "(dirichlet:ALPHA, such as dirichlet:0.3; arXiv 1909.06335). Mixtures take iid and by_class; images with "
        "labels take all three.",
        choices=("iid", "by_class", "dirichlet:ALPHA"),
    )
    conditional: bool = setting(
        False,
        "Conditional GAN: both networks also get the class of a sample: the label of an image or the mode of a point.",
    )


@dataclasses.dataclass(frozen=True)
class NetworkConfig(Settings):
    """Architecture of both players."""

    network: str = setting(
        "mlp",
        "Architecture of both players. resnet: the residual networks of WGAN-GP; sn_resnet: those of SNGAN, with "
        "spectral normalisation in the discriminator.",
        choices=("mlp", "dcgan", "resnet", "sn_resnet"),
    )
    latent_dim: int | None = setting(
        None, "Dimension of the normal latent z. Default: the network's reference value.", lower=1, example=128
    )
    width: int | None = setting(
        None,
        "Hidden units (mlp), filters of the layer next to the image (dcgan) or of the discriminator's blocks (resnet). "
        "Default: the network's reference value.",
        lower=1,
        example=64,
    )
    batch_norm: bool = setting(
        True,
        "Batch normalisation in the generator of images; the discriminator has none. Its statistics are averaged over "
        "the replicas.",
        used_with=("network", ("dcgan", "resnet", "sn_resnet")),
    )


@dataclasses.dataclass(frozen=True)
class LossConfig(Settings):
    """Losses of both players."""

    loss: str = setting(
        "non_saturating",
        "Losses of both players. wgan_clip clips the discriminator's weights after each step; the analysis of error "
        "feedback does not cover this projection (arXiv 2510.03507).",
        choices=("non_saturating", "wgan_gp", "hinge", "wgan_clip"),
    )
    r1_gamma: float = setting(
        0.1,
        "Weight gamma of the R1 penalty gamma/2 E||grad D||^2 of non_saturating and hinge; 0 turns it off "
        "(arXiv 1801.04406).",
        lower=0,
        used_with=("loss", ("non_saturating", "hinge")),
    )
    gradient_penalty: float = setting(
        10.0,
        "Weight of the penalty E(||grad D|| - 1)^2 of wgan_gp (10 in arXiv 1704.00028).",
        above=0,
        used_with=("loss", ("wgan_gp",)),
    )
    clip_value: float = setting(
        0.01,
        "Bound on the absolute discriminator weights of wgan_clip.",
        above=0,
        used_with=("loss", ("wgan_clip",)),
    )


@dataclasses.dataclass(frozen=True)
class OptimizerConfig(Settings):
    """Directions, learning rates and the point of the gradient."""

    direction: str = setting(
        "adam",
        "Direction u of an update, computed from the gradient g: sgd (u = g, optimistic mirror descent), momentum (u = "
        "(1-b) sum_k b^k g_{t-k} / (1-b^t), b = beta_1) or adam. Each replica has its own moments if updates are "
        "exchanged.",
        choices=("sgd", "momentum", "adam"),
    )
    learning_rate_g: float = setting(
        1e-3, "Learning rate eta of the generator, in parameters per unit of direction.", above=0
    )
    learning_rate_d: float = setting(
        1e-3, "Learning rate eta of the discriminator, in parameters per unit of direction.", above=0
    )
    learning_rate_schedule: str = setting(
        "constant",
        "Learning rates over the run: constant, or decreasing towards 0 (linear, cosine).",
        choices=("constant", "linear", "cosine"),
    )
    warmup_steps: int = setting(0, "Steps over which the learning rates rise linearly from 0.", lower=0)
    beta_1: float = setting(
        0.5, "Decay rate of the first moment.", lower=0, below=1, used_with=("direction", ("momentum", "adam"))
    )
    beta_2: float = setting(
        0.9, "Decay rate of the second moment.", lower=0, below=1, used_with=("direction", ("adam",))
    )
    epsilon: float = setting(
        1e-8, "Term added to the square root of the second moment.", above=0, used_with=("direction", ("adam",))
    )
    second_moment: str = setting(
        "local",
        "Second moment of adam: the replica's own (local), an exact average over replicas, taken at t = 1, 2, 4, ..., "
        "64 and every second_moment_period steps (averaged), or the larger of both (guarded). Use guarded if replicas "
        "have different data.",
        choices=("local", "averaged", "guarded"),
        used_with=("direction", ("adam",)),
    )
    second_moment_period: int = setting(
        100,
        "Steps between two exact averages of the second moment.",
        lower=1,
        used_with=("second_moment", ("averaged", "guarded")),
    )
    global_clipnorm: float | None = setting(
        None,
        "Largest Euclidean norm of a player's whole gradient on a replica, before the direction; a longer gradient is "
        "scaled down to it. Default: no limit.",
        above=0,
        example=1,
    )
    micro_batches: int = setting(
        1,
        "Parts into which each replica cuts its batch. Their gradients are taken one after another at the same point "
        "and averaged, in the memory of one part.",
        lower=1,
    )
    half_step: str = setting(
        "own",
        "Point at which a replica takes its gradient. own: w minus its residual and its own last step (DQGAN). common: "
        "w minus its residual and the last mean update. corrected: as own, but its drift (its shift minus the mean "
        "shift) is subtracted from its last step; its local steps are corrected too. none: w itself (simultaneous "
        "gradient descent). If replicas have different data, try common or corrected, with Adam and "
        "local_steps=1 also residual_in_half_step=False, second_moment=averaged and second_moment_period=1 "
        "(docs/operations.md).",
        choices=("own", "common", "corrected", "none"),
    )
    exchange: str = setting(
        "update",
        "What replicas exchange, compressed or not: update (each replica computes a direction u, and eta u is "
        "averaged: DQGAN) or gradient (gradients are averaged, and all replicas compute u from the mean).",
        choices=("update", "gradient"),
    )
    step_rule: str = setting(
        "plain",
        "Form of a step. plain: w - eta u_t. optimistic: w - eta (2 u_t - u_{t-1}) with u_0 = u_1, so that the first "
        "step is a plain one. extragradient: an odd step moves the weights from w to w - eta u_t, the next one moves "
        "them from the same w to w - eta u_{t+1}; each has its own batch and exchange. optimistic and extragradient "
        "need half_step=none.",
        choices=("plain", "optimistic", "extragradient"),
    )
    discriminator_steps: int = setting(
        1,
        "Steps n of the discriminator for each step of the generator: the discriminator moves at every step, the "
        "generator at steps n, 2n and so on. All of them count as steps. Each player has its own residuals and number "
        "of updates.",
        lower=1,
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "half_step", _text_of_half_step(self.half_step))
        super().__post_init__()


def _text_of_half_step(value: Any) -> Any:
    """Returns the value of `half_step`; before it had four values, it was true or false."""
    return ("own" if value else "none") if isinstance(value, bool) else value


@dataclasses.dataclass(frozen=True)
class CompressionConfig(Settings):
    """Compression of the updates and their exchange between the workers."""

    compressor: str = setting(
        "linear:bits=4,bucket=512",
        "Compressor of the updates: none, linear:bits=4,bucket=512[,rounding=stochastic], sign:bucket=512, "
        "topk:fraction=0.01, adaptive:bits=3,bucket=512, powersgd:rank=2, ...; README has the table.",
    )
    compressor_rules: str = setting(
        "",
        "Compressors by weight name, PATTERN=SPEC;PATTERN=SPEC, for example "
        "'bias|gamma|beta=none;discriminator/=sign:bucket=512'. The first pattern that occurs in a name applies; other "
        "weights use --compressor. Names begin with generator/ or discriminator/.",
    )
    mean_compressor: str = setting(
        "",
        "Compressor of the mean in the two-step exchange, where the owner of a range of values encodes their mean a "
        "second time; empty: that of the updates. Its error moves the owner's point by M times as much; where the "
        "spread of the replicas is large, a mean of more bits brings it back: linear:bits=4,bucket=512.",
    )
    local_steps: int = setting(
        1,
        "Gradient steps K of each replica between two exchanges; a step then sends 1/K of the bytes on average. All "
        "numbers of steps count gradient steps. Logs, pictures, checkpoints and checks wait for the next exchange. The "
        "last round is shorter if steps is no multiple of K. 1: every step is exchanged.",
        lower=1,
    )
    start_step: int = setting(
        0,
        "First step that is compressed; earlier steps are not. 0 and 1 compress every step. With local_steps, a "
        "round is compressed if its first step is.",
        lower=0,
    )
    error_feedback: bool = setting(
        True, "Error feedback: store what the compressor drops (the residual) and add it to the next update."
    )
    error_feedback_form: str = setting(
        "ef14",
        "Form of error feedback. ef14: add the residual to the next update. ef21: send the change of the update since "
        "the last step, plus the residual, and let each step apply the sum of all that was received (arXiv 2106.05203; "
        "with direction=momentum 2305.15155).",
        choices=("ef14", "ef21"),
    )
    residual_in_half_step: bool = setting(
        True,
        "Include the residual in the half-step point. False is an ablation. It helped where the modes of a mixture "
        "were split among workers, and failed with SGD on games of workers with different data (docs/evidence.md).",
    )
    flush_residuals: bool = setting(
        False,
        "At the end of a run, subtract the mean residual of all replicas from the weights, and the mean of its average "
        "from the averaged generator, by exchanges of float32. Error feedback trains w - mean(e); with few bits and "
        "local steps the weights w lag far behind it. Not if the spread of the replicas is large (docs/operations.md). "
        "After fit, call DQGAN.flush_residuals().",
    )
    shift: float = setting(
        0.0,
        "Learning rate a of a learned shift, for replicas with different data; 0: no shift. Each replica learns the "
        "mean of its own updates and sends only the difference from it. All replicas know the mean of the shifts "
        "without sending it, and add it. 0.1 suits 1 bit and more. Top-k of a share f needs less: f/4 keeps its "
        "residuals bounded.",
        lower=0,
        upper=1,
        example=0.1,
    )
    allow_non_contractive: bool = setting(
        False,
        "Permit error feedback with a compressor that has no proven contraction bound. Its residuals may grow without "
        "limit.",
    )
    topology: str = setting(
        "auto",
        "Exchange of the packets among M replicas: all_gather sends M-1 packets per replica; two_step (all-to-all, "
        "average, encode again, all-gather) sends about 2 for any M; hierarchical averages exactly inside a host and "
        "compresses between hosts, where it chooses as auto does. auto chooses hierarchical if there are several "
        "workers with several replicas each and a compressed weight; else two_step if it saves a quarter of the bytes "
        "and at least 16 KiB; else all_gather.",
        choices=("auto", "all_gather", "two_step", "hierarchical"),
    )
    packet_mb: float = setting(
        4.0,
        "Size of a packet, in MiB of float32 before compression; 0: one packet. The packets with the last layers are "
        "sent first, while the gradients of earlier layers are computed and the next packet is encoded. The size does "
        "not change the result of a compressor that works bucket by bucket.",
        lower=0,
        may_change=True,
    )
    transport: str = setting(
        "auto",
        "Transport of the packets between processes: TCP connections of the library (sockets), or TensorFlow's "
        "collectives over gRPC (ring) or NCCL (nccl). auto is nccl on GPUs, sockets if every process has one replica "
        "on a CPU, else ring.",
        choices=("auto", "sockets", "ring", "nccl"),
        may_change=True,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        from dqgan_tf import compressors  # here, so that `--help` loads no numpy
        from dqgan_tf.compressors import rules

        chosen = [compressors.get(self.compressor), *(rule.compressor for rule in rules.parse(self.compressor_rules))]
        check_shift(self.shift, self.error_feedback)
        for compressor in chosen:
            share = getattr(compressor, "fraction", 1.0)
            if self.shift > share / 4 and share < 1.0:  # delta is at most the share: see docs/algorithm.md, Why a shift
                warn_once(
                    f"shift={self.shift} is above {share / 4:g}, a quarter of the share of values that "
                    f"{compressor.spec} sends: beyond it the residuals can grow without bound"
                )
        if self.mean_compressor:
            _check_mean_compressor(self)

    @property
    def compressor_of_mean(self) -> Any:
        """The compressor of the mean in the two-step exchange, a `compressors.Compressor`; None: that of the values."""
        from dqgan_tf import compressors

        return compressors.get(self.mean_compressor) if self.mean_compressor else None


def _check_mean_compressor(config: CompressionConfig) -> None:
    """Raises UsageError for a compressor of the mean that cannot encode it, or would have no mean to encode."""
    from dqgan_tf import compressors
    from dqgan_tf.compressors import rules

    of_mean, all_others = compressors.get(config.mean_compressor), rules.parse(config.compressor_rules)
    of_updates = [compressors.get(config.compressor), *(rule.compressor for rule in all_others)]
    received = f"Received: mean_compressor={config.mean_compressor!r}, compressor={config.compressor!r}, "
    received += f"compressor_rules={config.compressor_rules!r}"
    if not isinstance(of_mean, compressors.Compressor) or of_mean.uses_common_seed or of_mean.histogram_size:
        raise UsageError(
            "The mean is encoded by its owner alone: mean_compressor must be a compressor that neither learns nor "
            f"draws the same random numbers on all replicas, such as linear:bits=4,bucket=512. {received}"
        )
    if config.topology == "all_gather":
        raise UsageError(
            "The all-gather sends no encoded mean: leave mean_compressor empty, or take topology='two_step'. "
            f"{received}, topology='all_gather'"
        )
    if not any(isinstance(one, compressors.Compressor) and not one.is_identity for one in of_updates):
        raise UsageError(
            "A mean_compressor needs updates that are encoded value by value: leave it empty, or take a compressor "
            f"such as sign:bucket=512. {received}"
        )


def check_shift(shift: float, error_feedback: bool) -> None:
    """Raises UsageError for a shift without error feedback."""
    if shift and not error_feedback:
        raise UsageError(
            "A shift is learned from what error feedback sends, and an update without error feedback would lose what "
            f"the compressor drops of the difference. Turn error feedback on, or set shift=0. Received: shift={shift}, "
            f"error_feedback={error_feedback}"
        )


@dataclasses.dataclass(frozen=True)
class TrainConfig(Settings):
    """Length and batch size of the run, and the periods of logs, pictures, checkpoints and checks, in steps."""

    batch_size: int = setting(
        256, "Samples per step, summed over all replicas; a multiple of the number of replicas.", lower=1
    )
    steps: int = setting(4000, "Steps of the run, including those before it was resumed.", lower=1, may_change=True)
    seed: int = setting(
        0, "Seed of initial weights, data order, latent noise and stochastic rounding.", lower=0, below=2**32
    )
    warm_start: str | None = setting(
        None,
        "Start from the networks and the averaged generator of another run's model_dir, or of a .weights.h5 or .keras "
        "file of a DQGAN. Everything else starts anew.",
        is_path=True,
    )
    ema_decay: float = setting(
        0.999, "Decay rate of the averaged generator (exponential moving average of the weights).", lower=0, below=1
    )
    steps_per_call: int = setting(
        20,
        "Steps in one call of the compiled function, rounded up to a multiple of local_steps. SIGTERM and SIGINT take "
        "effect between calls.",
        lower=1,
        may_change=True,
    )
    replicas_per_worker: int = setting(
        1, "Replicas on one CPU worker, for tests. On GPUs, every visible GPU is a replica.", lower=1, may_change=True
    )
    log_every: int = setting(100, "Steps between two lines of progress; 0: only at the end.", lower=0, may_change=True)
    sample_every: int = setting(1000, "Steps between two pictures; 0: only at the end.", lower=0, may_change=True)
    eval_every: int = setting(
        0,
        "Steps between two evaluations of the averaged generator; another one follows at the end. The chief evaluates, "
        "and the other workers wait. 0: none. A task `evaluator` evaluates beside the run instead.",
        lower=0,
        may_change=True,
    )
    checkpoint_every: int = setting(
        1000, "Steps between two checkpoints; 0: only at the end.", lower=0, may_change=True
    )
    weight_check_every: int = setting(
        1000,
        "Steps between two checks that all replicas have equal weights; 0: only at the end.",
        lower=0,
        may_change=True,
    )
    max_skipped_in_row: int = setting(
        10,
        "Stop the run after this many skipped steps in a row (with local_steps: skipped exchanges). A step is skipped "
        "if an update is not finite. 0: never stop.",
        lower=0,
        may_change=True,
    )
    start_timeout: float = setting(
        600.0,
        "Seconds that the workers of TF_CONFIG wait for each other before the run starts.",
        lower=1,
        upper=2_592_000,
        is_local=True,
    )
    silence_timeout: float = setting(
        30.0,
        "Seconds without a sign of life after which a worker counts as lost and the others end with code 4. An outage "
        "of the network of up to a quarter of this time, and at most 10 s, is survived. Equal on all workers, because "
        "each sends TensorFlow a heartbeat every half of its own value.",
        lower=5,
        upper=86_400,
        may_change=True,
    )
    keep_checkpoints: int = setting(3, "Number of complete checkpoints to keep.", lower=1, may_change=True)
    deterministic: bool = setting(
        True,
        "Use TensorFlow's deterministic kernels: a resumed run is bit-identical on GPUs too, but steps are slower.",
        may_change=True,
    )


BEST_OF_IMAGES = ("frechet_distance", "kernel_distance", "classifier_score", "precision", "recall")
BEST_OF_POINTS = (
    "modes_found",
    "high_quality_fraction",
    "modes_found_3_sd",
    "high_quality_fraction_3_sd",
    "mode_distance",
)


@dataclasses.dataclass(frozen=True)
class EvaluationConfig(Settings):
    """What an evaluation computes: inside the run (eval_every), in the task evaluator, and in trainers.evaluate."""

    eval_samples: int = setting(
        10000,
        "Generated samples of an evaluation and, if the data set has as many, real images to compare with.",
        lower=2,
        may_change=True,
    )
    feature_network: str | None = setting(
        None,
        "npz of a CIFAR-10 ResNet or a frozen graph, to compare images of any size. Default: a small classifier, which "
        "is trained on the data set.",
        is_path=True,
        is_local=True,
    )
    inception_weights: str | None = setting(
        None, "Frozen graph of the Inception network of 2015-12-05.", is_path=True, is_local=True
    )
    cache_dir: str | None = setting(
        None, "Folder of the small classifier. Default: ~/.cache/dqgan_tf.", is_path=True, is_local=True
    )
    best_figure: str = setting(
        "none",
        "Keep the checkpoint whose evaluation has the best value of this figure, in checkpoints/best: the largest one, "
        "or the smallest one of a distance. Images have frechet_distance, kernel_distance (of Inception: FID and KID), "
        "classifier_score (IS), precision and recall, points the others.",
        choices=("none", *BEST_OF_IMAGES, *BEST_OF_POINTS),
        may_change=True,
    )


_METHOD = {  # the settings that make a method what it is
    "optimizer.direction": "adam",
    "optimizer.exchange": "update",
    "optimizer.step_rule": "plain",
    "optimizer.half_step": "own",
    "compression.error_feedback": True,
    "compression.error_feedback_form": "ef14",
}
_DQGAN = _METHOD | {"compression.residual_in_half_step": True}
_DQGAN_OMD = _DQGAN | {"optimizer.direction": "sgd"}
_DQGAN_ADAM = _DQGAN | {"optimizer.second_moment": "local"}
_ABLATIONS: dict[str, dict[str, Any]] = {
    "residual_out": {"compression.residual_in_half_step": False},
    "no_half_step": {"optimizer.half_step": "none"},
    "no_error_feedback": {"compression.error_feedback": False},
}
_CENTRAL = _METHOD | {  # one optimizer after the average
    "optimizer.exchange": "gradient",
    "optimizer.half_step": "none",
    "optimizer.second_moment": "local",
    "compression.error_feedback": False,
}
_EXACT = {"compression.compressor": "none", "compression.compressor_rules": ""}
_OPTIMISTIC = _CENTRAL | {"optimizer.step_rule": "optimistic"}

ALGORITHMS: dict[str, dict[str, Any]] = {
    "sgda": _CENTRAL | _EXACT | {"optimizer.direction": "sgd"},
    "sim_adam": _CENTRAL | _EXACT,
    "cpoadam": _OPTIMISTIC | _EXACT,
    "cpoadam_gq": _OPTIMISTIC,
    "cpoadam_ef": _OPTIMISTIC | {"compression.error_feedback": True},
    "extra_adam": _CENTRAL | _EXACT | {"optimizer.step_rule": "extragradient"},
    "ef21_sgdm": _METHOD
    | {
        "optimizer.direction": "momentum",
        "optimizer.half_step": "none",
        "compression.error_feedback_form": "ef21",
    },
    "dqgan": _DQGAN_OMD,
    "dqgan_adam": _DQGAN_ADAM,
    "dqgan_adam_averaged": _DQGAN_ADAM | {"optimizer.second_moment": "averaged"},
    "dqgan_adam_guarded": _DQGAN_ADAM | {"optimizer.second_moment": "guarded"},
    **{f"dqgan_{name}": _DQGAN_OMD | change for name, change in _ABLATIONS.items()},
    **{f"dqgan_adam_{name}": _DQGAN_ADAM | change for name, change in _ABLATIONS.items()},
}
"""The settings of every method by its name, each by its key in `settings()`; docs/methods.md has the equations."""


def check_method(optimizer: OptimizerConfig, compression: CompressionConfig) -> None:
    """Refuses settings that make no sense together.

    Raises:
      UsageError: names the settings, and values that work.
    """
    received = ", ".join(
        f"{name}={getattr(group, name)!r}"
        for group, names in (
            (optimizer, ("exchange", "step_rule", "half_step", "direction", "second_moment", "discriminator_steps")),
            (compression, ("error_feedback", "error_feedback_form", "residual_in_half_step")),
            (compression, ("shift", "local_steps", "flush_residuals")),
        )
        for name in names
    )
    for is_refused, sentence in _method_rules(optimizer, compression):
        if is_refused:
            raise UsageError(f"{sentence}. Received: {received}")
    optimizer.warn_of_unused()
    for is_unused, sentence in _unused(optimizer, compression):
        if is_unused:
            warn_once(sentence)


def _unused(optimizer: OptimizerConfig, compression: CompressionConfig) -> list[tuple[bool, str]]:
    """Returns every rule about settings without an effect beside those of another group, as `_method_rules` does."""
    is_exact = compression.compressor == "none" and not compression.compressor_rules
    return [
        (
            not compression.residual_in_half_step and optimizer.half_step == "none",
            "residual_in_half_step=False has no effect with half_step=none, which takes gradients at the weights",
        ),
        (
            not compression.residual_in_half_step and not compression.error_feedback,
            "residual_in_half_step=False has no effect with error_feedback=False: there is no residual",
        ),
        (
            compression.shift > 0 and is_exact and optimizer.half_step != "corrected",
            "shift has no effect with compressor=none, but for half_step=corrected",
        ),
        (compression.flush_residuals and is_exact, "flush_residuals has no effect with compressor=none"),
        (compression.start_step > 1 and is_exact, "start_step has no effect with compressor=none"),
    ]


def _method_rules(optimizer: OptimizerConfig, compression: CompressionConfig) -> list[tuple[bool, str]]:
    """Returns every rule about settings that depend on each other: whether it refuses these, and what works."""
    looks_ahead = optimizer.half_step != "none"
    has_residual_in_half_step = looks_ahead and compression.error_feedback and compression.residual_in_half_step
    extragradient, gradients = optimizer.step_rule == "extragradient", optimizer.exchange == "gradient"
    ef21 = compression.error_feedback_form == "ef21"
    own_moment = optimizer.direction == "adam" and optimizer.second_moment != "local"
    residual_out = "half_step='none' or residual_in_half_step=False"
    return [
        (
            gradients and has_residual_in_half_step,
            f"Residuals of exchange='gradient' are gradients, so no half-step point contains them: set {residual_out}",
        ),
        (
            gradients and own_moment,
            "With exchange='gradient' all workers have the second moment of the mean gradient: set "
            "second_moment='local'",
        ),
        (
            optimizer.step_rule != "plain" and looks_ahead,
            "An optimistic or extragradient step looks ahead without the half step: set half_step='none'",
        ),
        (
            extragradient and not gradients,
            "Both exchanges of extragradient average gradients: set exchange='gradient'",
        ),
        (
            extragradient and compression.error_feedback,
            "With step_rule='extragradient', error feedback would add what the first exchange drops to the second, "
            "which is of another point: set error_feedback=False",
        ),
        (
            extragradient and optimizer.discriminator_steps > 1,
            "With step_rule='extragradient' both players take every step: set discriminator_steps=1",
        ),
        (
            compression.flush_residuals and (gradients or ef21 or not compression.error_feedback),
            "Residuals can be flushed into the weights if they are parts of updates: set exchange='update', "
            "error_feedback=True and error_feedback_form='ef14', as in dqgan_adam, or flush_residuals=False",
        ),
        (
            ef21 and not compression.error_feedback,
            "error_feedback_form='ef21' is a form of error feedback: set error_feedback=True or "
            "error_feedback_form='ef14'",
        ),
        (
            ef21 and has_residual_in_half_step,
            "With error_feedback_form='ef21' the weights lack no residual, so the half-step point must not contain it: "
            f"set {residual_out}",
        ),
        (
            ef21 and compression.shift > 0,
            "error_feedback_form='ef21' sends changes of updates, which need no shift: set shift=0 or "
            "error_feedback_form='ef14'",
        ),
        (
            compression.local_steps > 1
            and (gradients or ef21 or optimizer.step_rule != "plain" or optimizer.discriminator_steps > 1),
            "Between two exchanges each worker takes plain steps of both players: with local_steps above 1 set "
            "exchange='update', step_rule='plain', discriminator_steps=1 and error_feedback_form='ef14'",
        ),
        (
            optimizer.half_step == "corrected" and (not compression.shift or gradients),
            "half_step='corrected' needs the drift of every worker's updates, which a shift learns: set shift=0.1 and "
            "exchange='update', or half_step='own'",
        ),
    ]


def algorithm(
    name: str, optimizer: OptimizerConfig | None = None, compression: CompressionConfig | None = None
) -> tuple[OptimizerConfig, CompressionConfig]:
    """Returns both groups of settings with those that the method `name` consists of.

    >>> optimizer, compression = algorithm("sgda", OptimizerConfig(learning_rate_g=0.1))
    >>> optimizer.direction, optimizer.learning_rate_g, compression.compressor
    ('sgd', 0.1, 'none')
    >>> algorithm("sgda", compression=CompressionConfig(compressor="sign:bucket=512"))
    Traceback (most recent call last):
    dqgan_tf.errors.UsageError: algorithm='sgda' means compressor='none'. Received: compressor='sign:bucket=512'. Leave
      one of the two out; docs/methods.md lists the settings of every method.

    Args:
      name: a key of `ALGORITHMS`.
      optimizer, compression: the other settings; None: the defaults. A setting of the method that has its default here
        counts as not given.

    Raises:
      UsageError: no such method, or a setting contradicts it.
    """
    check(settings()["algorithm"], name)
    groups: dict[str, Any] = {"optimizer": optimizer or OptimizerConfig()}
    groups["compression"] = compression or CompressionConfig()
    changes: dict[str, dict[str, Any]] = {group: {} for group in groups}
    for key, value in ALGORITHMS.get(name, {}).items():
        group, _, setting_name = key.partition(".")
        received = getattr(groups[group], setting_name)
        if received not in (value, settings()[key].default):
            refuse_contradiction(name, key, received)
        changes[group][setting_name] = value
    optimizer, compression = (dataclasses.replace(groups[group], **changes[group]) for group in groups)
    return optimizer, compression


def refuse_contradiction(name: str, key: str, received: Any) -> None:
    """Raises the UsageError for a setting that contradicts the method `name`."""
    setting_name = key.rpartition(".")[2]
    raise UsageError(
        f"algorithm={name!r} means {setting_name}={ALGORITHMS[name][key]!r}. Received: {setting_name}={received!r}. "
        "Leave one of the two out; docs/methods.md lists the settings of every method."
    )


@dataclasses.dataclass(frozen=True)
class RunConfig(Settings):
    """All settings of a run. Two runs have the same `fingerprint` iff all but their worker-local settings are equal."""

    model_dir: str = setting(
        "",
        "Folder of the run: configuration, metrics, checkpoints, pictures, TensorBoard. All workers must share it. If "
        "it holds an unfinished run, that run is resumed.",
        is_path=True,
        is_local=True,
    )
    algorithm: str = setting(
        "custom",
        "Method, a name for several settings; docs/methods.md lists those of each method. A setting that contradicts "
        "the method is refused. custom: no method, all settings as given.",
        choices=("custom", *ALGORITHMS),
        may_change=True,
    )
    data: DataConfig = DataConfig()
    network: NetworkConfig = NetworkConfig()
    loss: LossConfig = LossConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    compression: CompressionConfig = dataclasses.field(default_factory=CompressionConfig)
    train: TrainConfig = TrainConfig()
    evaluation: EvaluationConfig = EvaluationConfig()

    def __post_init__(self) -> None:
        super().__post_init__()
        optimizer, compression = algorithm(self.algorithm, self.optimizer, self.compression)
        check_method(optimizer, compression)
        self.network.warn_of_unused()
        self.loss.warn_of_unused()
        object.__setattr__(self, "optimizer", optimizer)
        object.__setattr__(self, "compression", compression)

    def to_json(self) -> str:
        """Returns the configuration as indented JSON with sorted keys."""
        return json.dumps(dataclasses.asdict(self), indent=2, sort_keys=True)

    def flat(self) -> dict[str, Any]:
        """Returns `{"model_dir": ..., "data.dataset": ..., ...}`: the value of every setting by its key."""
        return flatten(dataclasses.asdict(self))

    def shared(self) -> dict[str, Any]:
        """Returns `flat()` without the settings that may differ between workers."""
        return {key: value for key, value in self.flat().items() if key not in LOCAL_FIELDS}

    def fingerprint(self) -> str:
        """Returns the sha256 (hex) of `shared()`."""
        return hashlib.sha256(json.dumps(self.shared(), sort_keys=True).encode()).hexdigest()


def settings() -> dict[str, dataclasses.Field]:
    """Returns the field of every setting by its key: `model_dir`, then `data.dataset` and so on, in order."""
    fields = {}
    for field in dataclasses.fields(RunConfig):
        if field.metadata:
            fields[field.name] = field
        else:
            fields |= {f"{field.name}.{inner.name}": inner for inner in dataclasses.fields(group_class(field))}
    return fields


def check_setting(key: str, value: Any) -> Any:
    """Returns a value of the setting `key` of `settings()` as a plain one; see `dqgan_tf.fields.check`.

    Raises:
      UsageError: the setting cannot have this value.
    """
    return check(settings()[key], value)


LOCAL_FIELDS = frozenset(key for key, field in settings().items() if field.metadata["is_local"])
# Settings that a resumed run may change; docs/operations.md says which of these can change the weights.
FREE_FIELDS = frozenset(key for key, field in settings().items() if field.metadata["may_change"])

# Keys that version 0.1.0 wrote under another name.
_RENAMED = {"compression.bucket_mb": "compression.packet_mb", "compression.communication": "compression.transport"}


def flatten(groups: dict[str, Any]) -> dict[str, Any]:
    """Returns the result of `RunConfig.flat` for a configuration parsed from JSON, of this version or an older one."""
    flat: dict[str, Any] = {}
    for name, value in groups.items():
        flat |= {f"{name}.{key}": inner for key, inner in value.items()} if isinstance(value, dict) else {name: value}
    flat = {_RENAMED.get(key, key): value for key, value in flat.items()}
    return {key: _text_of_half_step(value) if key == "optimizer.half_step" else value for key, value in flat.items()}


def from_json(text: str) -> RunConfig:
    """Inverse of `RunConfig.to_json`; a setting that is missing takes its default.

    >>> from_json('{"data": {"dataset": "cifar10"}}').data.dataset
    'cifar10'
    >>> from_json('{"compression": {"packet_mb": -1}}')
    Traceback (most recent call last):
    dqgan_tf.errors.UsageError: `packet_mb` must be a number of at least 0. Received: packet_mb=-1. A value that
      works is packet_mb=4.0

    Raises:
      UsageError: not a JSON object, an unknown key, or a value that its dataclass refuses.
    """
    try:
        values = flatten(json.loads(text))
    except (ValueError, AttributeError, RecursionError) as error:
        raise UsageError(f"A configuration must be a JSON object like that of RunConfig().to_json(): {error}") from None
    unknown = sorted(set(values) - set(settings()))
    if unknown:
        raise UsageError(f"Unknown configuration key {unknown[0]!r}. The keys are {', '.join(settings())}")
    return from_flat(values)


def from_flat(values: dict[str, Any]) -> RunConfig:
    """Inverse of `RunConfig.flat`; a setting that is missing takes its default.

    Raises:
      UsageError: a value that its dataclass refuses.
    """
    groups: dict[str, dict[str, Any]] = {}
    for key, value in values.items():
        group, _, name = key.rpartition(".")
        groups.setdefault(group, {})[name] = value
    classes = {field.name: group_class(field) for field in dataclasses.fields(RunConfig)}
    return RunConfig(**groups.pop("", {}), **{group: classes[group](**inner) for group, inner in groups.items()})
