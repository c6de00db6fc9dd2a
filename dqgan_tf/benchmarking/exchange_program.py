"""A worker that exchanges one float32 vector through TensorFlow, compressed or dense; see `serving`."""

import json
import sys

import numpy as np
import tensorflow as tf

from dqgan_tf.benchmarking import serving, variants
from dqgan_tf.distribute.pipeline import TIMES
from dqgan_tf.distribute.strategy import CompressedStrategy


def main(text: str) -> None:
    """Serves the variants `names` over `values` values, seeded normal with standard deviation 1e-3."""
    arguments = json.loads(text)
    strategy = CompressedStrategy()
    random = np.random.RandomState(arguments["index"])
    vector = tf.Variable(1e-3 * random.standard_normal(arguments["values"]).astype(np.float32))
    built = [variants.build(name, strategy, vector) for name in arguments["names"]]
    serving.serve([_measured(variant) for variant in built], arguments)


def _measured(variant):
    def phases():
        if variant.channel is None:
            return {}
        return dict(zip(TIMES, 1e3 * variant.channel.seconds.variables[0].numpy(), strict=True))

    def describe():
        topology = {"topology": variant.channel.topology} if variant.channel else {}
        return {"declared_bytes": variant.sent_bytes, "library": f"tensorflow {tf.__version__}", **topology}

    return serving.Measured(variant.step, phases, describe)


if __name__ == "__main__":
    main(sys.argv[1])
