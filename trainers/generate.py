"""Draws samples from a trained generator.

python -m trainers.generate --model_dir=runs/ring --num_samples=64 --output=samples.png
python -m trainers.generate --model_dir=runs/ring --num_samples=50000 --output=samples.npz
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from absl import app, flags

from dqgan_tf.training import command_line

_MODEL_DIR = flags.DEFINE_string("model_dir", None, "Folder of a run.", required=True)
_NUM_SAMPLES = flags.DEFINE_integer("num_samples", 64, "How many samples to draw.", lower_bound=1)
_OUTPUT = flags.DEFINE_string(
    "output", None, "X.npz: `samples`, uint8 images or float32 points. X.png: one picture.", required=True
)
_USE_EMA = flags.DEFINE_boolean("use_ema", True, "Draw from the averaged generator rather than the raw one.")
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Prepared TFDS directory; default: the run's.")
flags.register_validator("output", lambda v: not v or v.endswith((".npz", ".png")), "must end in .npz or .png")


def main(argv):
    del argv
    from dqgan_tf.training import command, restore, samples

    with command.errors_in_one_line():
        trained = restore.load(_MODEL_DIR.value, _DATA_DIR.value)
        samples.write_file(_OUTPUT.value, trained, _NUM_SAMPLES.value, use_ema=_USE_EMA.value)
        print(f"{_NUM_SAMPLES.value} samples of step {trained.step} in {_OUTPUT.value}")


if __name__ == "__main__":
    app.run(main, flags_parser=command_line.parse)
