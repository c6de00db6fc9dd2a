"""Measures a trained generator: mode coverage for points, distances and a score over a named network for images.

    python -m trainers.evaluate --model_dir=runs/ring
    python -m trainers.evaluate --model_dir=runs/cifar10 --inception_weights=classify_image_graph_def.pb

Figures are called FID, KID and IS only when they were taken with the Inception network of the literature.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from absl import app, flags

from dqgan_tf.training import command_line

_MODEL_DIR = flags.DEFINE_string("model_dir", None, "Folder of a run.", required=True)
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Prepared TFDS directory; default: the run's.")
_NUM_SAMPLES = flags.DEFINE_integer("num_samples", 10000, "Generated and real images to compare.", lower_bound=2)
_INCEPTION = flags.DEFINE_string("inception_weights", None, "Frozen graph of the Inception network of 2015-12-05.")
_RESNET = flags.DEFINE_string("resnet_weights", None, "npz of a CIFAR-10 ResNet, a judge for 32-pixel images.")
_CACHE_DIR = flags.DEFINE_string("cache_dir", None, "Where the small classifier is kept; default ~/.cache/dqgan_tf.")
_USE_EMA = flags.DEFINE_boolean("use_ema", True, "Judge the averaged generator rather than the raw one.")


def main(argv):
    del argv
    from dqgan_tf.training import command, evaluation, restore

    given = {
        "num_samples": _NUM_SAMPLES.value,
        "inception_weights": _INCEPTION.value,
        "resnet_weights": _RESNET.value,
        "cache_dir": _CACHE_DIR.value,
        "use_ema": _USE_EMA.value,
    }
    with command.errors_in_one_line():
        trained = restore.load(_MODEL_DIR.value, _DATA_DIR.value)
        chosen = {name: value for name, value in given.items() if value is not None}
        figures = evaluation.evaluate(trained, evaluation.EvaluationConfig(**chosen))
        evaluation.record(_MODEL_DIR.value, trained.step, figures)
        print(f"step {trained.step} of {_MODEL_DIR.value}\n{evaluation.table(figures)}")


if __name__ == "__main__":
    app.run(main, flags_parser=command_line.parse)
