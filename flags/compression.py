"""Flags of `CompressionConfig`."""

from dqgan_tf import compressors
from dqgan_tf.compressors import rules
from dqgan_tf.config import CompressionConfig
from flags.define import define, validate

define(
    CompressionConfig,
    "compressor",
    "How updates are encoded: none, linear:bits=4,bucket=512[,rounding=stochastic], sign:bucket=512, "
    "topk:fraction=0.01, adaptive:bits=3,bucket=512, powersgd:rank=2, ...; README has the table.",
)
define(
    CompressionConfig,
    "compressor_rules",
    "Other compressors by weight name, the first pattern that occurs in it wins: "
    "'bias|gamma|beta=none;discriminator/=sign:bucket=512'. Names begin with generator/ or discriminator/.",
)
define(CompressionConfig, "start_step", "The first step that is compressed; steps before it are exact.", lower=0)
define(CompressionConfig, "error_feedback", "Keep what the compressor drops and add it to the next update.")
define(
    CompressionConfig,
    "residual_in_half_step",
    "Take the gradient at a point that contains the residual; false: ablation.",
)
define(
    CompressionConfig,
    "allow_non_contractive",
    "Permit error feedback with a compressor that proves no contraction: residuals may grow without bound.",
)
define(
    CompressionConfig,
    "topology",
    "How packets travel: all_gather sends (M-1) of them per worker, two_step about 2 for any number M of workers; "
    "hierarchical adds up exactly inside a host and compresses between hosts; auto takes hierarchical where hosts have "
    "several replicas, and two_step where it saves a quarter of the bytes and at least 16 KiB.",
    choices=("auto", "all_gather", "two_step", "hierarchical"),
)
define(
    CompressionConfig,
    "bucket_mb",
    "Encode and send so many float32 MiB at a time, last layers first: one bucket travels while gradients are still "
    "computed and the next is encoded; 0: all at once. Changes no bit of what compressors with local scales send.",
    lower=0.0,
    works=4.0,
)
define(
    CompressionConfig,
    "communication",
    "What carries packets between processes: sockets of our own, TensorFlow's ring over gRPC, or NCCL; auto means "
    "sockets where a process has one replica, on a CPU, else the ring: ask for nccl on GPUs.",
    choices=("auto", "sockets", "ring", "nccl"),
)
validate("compressor", compressors.get)
validate("compressor_rules", rules.parse)
