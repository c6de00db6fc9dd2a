"""Draws samples from a trained generator.

python -m trainers.generate --model_dir=runs/ring --num_samples=64 --output=samples.png
python -m trainers.generate --model_dir=runs/ring --num_samples=50000 --seed=1 --output=samples.npz
python -m trainers.generate --model_dir=runs/cifar10 --num_samples=80 --interpolate=8 --output=paths.png

It needs the model_dir alone, without the training data.
"""

from absl import flags

from dqgan_tf.training import command

_MODEL_DIR = command.define_path("model_dir", "Folder of a run.", required=True)
_CHECKPOINT = command.define_checkpoint()
_NUM_SAMPLES = flags.DEFINE_integer("num_samples", 64, "Number of samples to draw.", lower_bound=1)
_OUTPUT = command.define_path(
    "output",
    "File to write. X.npz holds `samples`, uint8 images or float32 points; X.png is one picture.",
    required=True,
)
_USE_EMA = flags.DEFINE_boolean("use_ema", True, "Draw from the averaged generator, not the raw one.")
_SEED = flags.DEFINE_integer(
    "seed", None, "Seed of the latents. Default: those of the run's own pictures.", 0, 2**32 - 1
)
_INTERPOLATE = flags.DEFINE_integer(
    "interpolate", None, "Number of samples on the way from one latent to another; a row of the picture.", lower_bound=2
)
_COLUMNS = flags.DEFINE_integer(
    "columns", None, "Images in a row of a picture. Default: a square, or --interpolate.", lower_bound=1
)
_LABEL = flags.DEFINE_integer(
    "label", None, "Class of every sample of a conditional run. Default: the classes in turn.", lower_bound=0
)
_DATA_DIR = command.define_path(
    "data_dir", "Prepared TensorFlow Datasets directory, for a run whose data.json is missing."
)
flags.register_validator("output", lambda path: not path or path.endswith((".npz", ".png")), "must end in .npz or .png")


def main(arguments):
    del arguments
    command.load_tensorflow()
    from dqgan_tf.training import restore, samples

    folder = restore.find(_MODEL_DIR.value, _CHECKPOINT.value)
    trained = restore.load(_MODEL_DIR.value, _DATA_DIR.value, folder)
    samples.write_file(
        _OUTPUT.value,
        trained,
        _NUM_SAMPLES.value,
        use_ema=_USE_EMA.value,
        seed=_SEED.value,
        interpolate=_INTERPOLATE.value,
        columns=_COLUMNS.value,
        label=_LABEL.value,
    )
    print(f"{_NUM_SAMPLES.value} samples of step {trained.step} in {_OUTPUT.value}")


if __name__ == "__main__":
    command.run(main)
