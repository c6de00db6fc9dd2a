"""Writes the averaged generator of a run as a file of Keras or ONNX, or as a SavedModel, free of this library.

python -m trainers.export --model_dir=runs/cifar10 --output=generator.keras
python -m trainers.export --model_dir=runs/cifar10 --output=generator.onnx
python -m trainers.export --model_dir=runs/cifar10 --output=generator

It needs the model_dir alone, without the training data.
"""

from absl import flags

from dqgan_tf.training import command

_MODEL_DIR = command.define_path("model_dir", "Folder of a run.", required=True)
_CHECKPOINT = command.define_checkpoint()
_OUTPUT = command.define_path(
    "output", "X.keras or X.onnx for a file; any other path for the folder of a SavedModel.", required=True
)
_DATA_DIR = command.define_path(
    "data_dir", "Prepared TensorFlow Datasets directory, for a run whose data.json is missing."
)
flags.register_validator("output", lambda path: path != "", "must be a path such as generator.keras")


def main(arguments):
    del arguments
    command.load_tensorflow()
    from dqgan_tf.training import export, restore

    export.check(_OUTPUT.value)
    folder = restore.find(_MODEL_DIR.value, _CHECKPOINT.value)
    trained = restore.load(_MODEL_DIR.value, _DATA_DIR.value, folder)
    generator = export.write(_OUTPUT.value, trained)
    print(
        f"The averaged generator of step {trained.step} is in {_OUTPUT.value}: "
        f"latents {generator.input_shape} -> samples {generator.output_shape}"
    )


if __name__ == "__main__":
    command.run(main)
