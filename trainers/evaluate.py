"""Evaluates a trained generator: mode coverage of points; of images, distances and a score with a named network.

    python -m trainers.evaluate --model_dir=runs/ring
    python -m trainers.evaluate --model_dir=runs/cifar10 --feature_network=resnet20-12fca82f.npz
    python -m trainers.evaluate --model_dir=runs/cifar10 --inception_weights=classify_image_graph_def.pb

A figure's name contains the network and the number of images. Only figures of the Inception network of the literature
are called FID, KID and IS.
"""

from absl import flags

from dqgan_tf.config import EvaluationConfig
from dqgan_tf.training import command

_MODEL_DIR = command.define_path("model_dir", "Folder of a run.", required=True)
_CHECKPOINT = command.define_checkpoint()
_DATA_DIR = command.define_path("data_dir", "Prepared TensorFlow Datasets directory. Default: the run's.")
_DATASET = flags.DEFINE_string(
    "dataset", None, "The run's data set under another name, if its file or folder has moved. Default: the run's."
)
_NUM_SAMPLES = flags.DEFINE_integer("num_samples", 10000, "Generated and real images to compare.", lower_bound=2)
_INCEPTION = command.define_path("inception_weights", "Frozen graph of the Inception network of 2015-12-05.")
_NETWORK = command.define_path(
    "feature_network", "npz of a CIFAR-10 ResNet, for images of any size. Default: a small classifier is trained."
)
_CACHE_DIR = command.define_path("cache_dir", "Folder of the small classifier. Default: ~/.cache/dqgan_tf.")
_USE_EMA = flags.DEFINE_boolean("use_ema", True, "Evaluate the averaged generator, not the raw one.")


def main(arguments):
    del arguments
    command.load_tensorflow()
    from dqgan_tf.training import evaluation, restore

    folder = restore.find(_MODEL_DIR.value, _CHECKPOINT.value)
    trained = restore.load(_MODEL_DIR.value, _DATA_DIR.value, folder, dataset=_DATASET.value)
    settings = {
        "eval_samples": _NUM_SAMPLES.value,
        "inception_weights": _INCEPTION.value,
        "feature_network": _NETWORK.value,
        "cache_dir": _CACHE_DIR.value,
    }
    config = EvaluationConfig(**{name: value for name, value in settings.items() if value is not None})
    figures = evaluation.evaluate(trained, config, use_ema=_USE_EMA.value)
    print(f"step {trained.step} of {_MODEL_DIR.value}\n{evaluation.table(figures)}", flush=True)
    is_newest = folder == restore.find(_MODEL_DIR.value, "newest")
    evaluation.record(_MODEL_DIR.value, trained.step, figures, is_newest=is_newest)  # may fail: a read-only folder


if __name__ == "__main__":
    command.run(main)
