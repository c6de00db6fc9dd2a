"""Flags of `NetworkConfig`."""

from dqgan_tf.config import NetworkConfig
from flags.define import define

define(NetworkConfig, "network", "Architecture of both players.", choices=("mlp", "dcgan"))
define(NetworkConfig, "latent_dim", "Dimension of the normal latent z; default: the network's own.", lower=1, works=128)
define(
    NetworkConfig,
    "width",
    "Hidden units (mlp) or filters next to the image (dcgan); default: the reference.",
    lower=1,
    works=64,
)
define(
    NetworkConfig, "batch_norm", "Batch normalisation in the generator of dcgan; its statistics stay equal everywhere."
)
