"""Where to compress, `where="gradient"` or `"update"`: validation loss of two Keras models at equal steps.

    python -m benchmarks.keras_quality --task=fashion_mnist --data=DIR [--results=results/keras]
    python -m benchmarks.keras_quality --report [--results=results/keras]

The first command trains every combination of optimizer, compressor and place that RESULTS/TASK.jsonl does not hold, and
appends a line for each. It can be killed and started again. Seed 0 of all combinations comes first. The second command
writes RESULTS/tables.md and RESULTS/loss_against_float32.png.

One process has M = 4 replicas. Steps and batches are so small that a run of Fashion-MNIST takes about half a minute and
one of CIFAR-10 about three on one thread of a busy machine with two cores. `float32` is the compressor `none` with
`where="gradient"`: TensorFlow's own mean. The learning rate of an optimizer is the one of `GRID` with the lowest
validation loss of float32 at seed `GRID_SEED`; all compressors take it. It falls to 0 by a cosine. Weights, order of
the data and learning rate depend on the seed alone, so differences to float32 are paired by seed.

Compressors of few bits run with three topologies: `auto`, which is the two-step exchange with 4 replicas and encodes
the mean once more, the same with a mean of 4 bits, and `all_gather`, which two workers always have.
"""

import argparse
import gc
import gzip
import itertools
import math
import os
import pathlib
import statistics
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from benchmarks import figures
from benchmarks.provenance import ROOT, provenance
from benchmarks.report import markdown
from benchmarks.suites_report import paired_interval
from dqgan_tf.errors import UsageError
from dqgan_tf.telemetry import json_lines
from dqgan_tf.training import command

REPLICAS, EPOCHS = 4, 10  # EPOCHS: periods of the training loss in a row, not passes over the data
SEEDS, GRID_SEED = (0, 1, 2), 9
GRID = {"sgd": (0.01, 0.03, 0.1, 0.3), "adam": (0.0003, 0.001, 0.003, 0.01)}
COMPRESSORS = ("none", "linear:bits=4,bucket=512", "sign:bucket=512", "topk:fraction=0.01", "powersgd:rank=2")
PLACES = ("gradient", "update")
NO_FEEDBACK = "sign:bucket=512"  # also measured without error feedback
FEW_BITS = ("sign:bucket=512", "topk:fraction=0.01")  # also measured with other topologies
TOPOLOGIES = ("auto", "all_gather", "two_step@linear:bits=4,bucket=512")  # behind @: the compressor of the mean


class Run(NamedTuple):
    """One training run."""

    optimizer: str
    compressor: str
    where: str
    error_feedback: bool
    topology: str
    rate: float
    seed: int

    def __str__(self):
        without = "" if self.error_feedback else " without error feedback"
        return (
            f"{self.optimizer} {self.rate:g}, {self.compressor} {self.where} {self.topology}{without}, seed {self.seed}"
        )


class Task(NamedTuple):
    """steps: a multiple of EPOCHS. batch: samples per replica and step. network: () -> an uncompiled classifier of
    uint8 images. load: see `load_*`."""

    title: str
    steps: int
    batch: int
    network: Any
    load: Any


def mlp():
    """A perceptron of 784-512-256-10 units; 535,818 weights."""
    import keras

    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((28, 28)),
            layers.Rescaling(1 / 255),
            layers.Flatten(),
            layers.Dense(512, "relu"),
            layers.Dense(256, "relu"),
            layers.Dense(10),
        ]
    )


def resnet20():
    """ResNet-20 for 32 x 32 images with projection shortcuts (He et al. 2015, arXiv:1512.03385); 272,474 weights."""
    import keras

    layers = keras.layers

    def convolve(x, filters, kernel, strides):
        x = layers.Conv2D(filters, kernel, strides, "same", use_bias=False, kernel_initializer="he_normal")(x)
        return layers.BatchNormalization(momentum=0.9)(x)

    image = keras.Input((32, 32, 3))
    x = layers.ReLU()(convolve(layers.Rescaling(1 / 64, -2)(image), 16, 3, 1))
    for filters, block in itertools.product((16, 32, 64), range(3)):
        strides = 2 if filters > 16 and block == 0 else 1
        inner = convolve(layers.ReLU()(convolve(x, filters, 3, strides)), filters, 3, 1)
        x = layers.ReLU()(layers.add([inner, convolve(x, filters, 1, strides) if strides > 1 else x]))
    return keras.Model(image, layers.Dense(10)(layers.GlobalAveragePooling2D()(x)))


def load_fashion_mnist(folder: str | os.PathLike) -> tuple[np.ndarray, ...]:
    """Returns 60,000 training images uint8 [n, 28, 28] and labels, and the 10,000 of the official test set."""
    folder = pathlib.Path(folder) / "fashion_mnist"

    def read(name, offset):
        with gzip.open(folder / f"{name}.gz") as file:
            return np.frombuffer(file.read(), np.uint8, offset=offset)

    parts = [
        part
        for split in ("train", "t10k")
        for part in (read(f"{split}-images-idx3-ubyte", 16).reshape(-1, 28, 28), read(f"{split}-labels-idx1-ubyte", 8))
    ]
    return tuple(parts)


def load_cifar10(folder: str | os.PathLike) -> tuple[np.ndarray, ...]:
    """Returns 45,000 training images uint8 [n, 32, 32, 3] and labels, and the last 5,000 of the training set."""
    from dqgan_tf.config import DataConfig
    from dqgan_tf.data import images

    config = DataConfig(dataset="cifar10", data_dir=os.path.join(folder, "tfds"))
    x, y = images.load(config), images.load_labels(config)
    return x[:-5000], y[:-5000], x[-5000:], y[-5000:]


TASKS = {
    "fashion_mnist": Task("Fashion-MNIST, MLP of 535,818 weights", 460, 32, mlp, load_fashion_mnist),
    "cifar10": Task("CIFAR-10, ResNet-20 of 272,474 weights", 300, 16, resnet20, load_cifar10),
}

# --- plan ---


def plan(rows: Sequence[dict[str, Any]]) -> list[Run]:
    """Returns all runs of a task in order, as far as the rows decide: first the grid, then seed by seed."""
    grid = [
        Run(name, "none", "gradient", True, "auto", rate, GRID_SEED) for name, rates in GRID.items() for rate in rates
    ]
    recorded = {key(row): row for row in rows}
    if not set(grid) <= set(recorded):
        return grid
    chosen = rates(rows)
    return grid + [
        Run(optimizer, *variant, chosen[optimizer], seed)
        for seed in SEEDS
        for optimizer in GRID
        for variant in variants()
    ]


def variants() -> list[tuple[str, str, bool, str]]:
    """Returns (compressor, where, error_feedback, topology) of every row of the table."""
    made = []
    for compressor in COMPRESSORS:
        for topology in TOPOLOGIES if compressor in FEW_BITS else TOPOLOGIES[:1]:
            made += [(compressor, where, True, topology) for where in PLACES]
        if compressor == NO_FEEDBACK:
            made.append((compressor, "gradient", False, "auto"))
    return made


def rates(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Returns the learning rate of each optimizer: the lowest validation loss of float32 at seed `GRID_SEED`."""
    grid = [row for row in rows if row["seed"] == GRID_SEED]
    return {name: min((r for r in grid if r["optimizer"] == name), key=_loss)["rate"] for name in GRID}


def key(row: dict[str, Any]) -> Run:
    """Returns the run that made a row."""
    return Run(*({"topology": "auto", **row}[field] for field in Run._fields))  # the first rows name no topology


def _loss(row):
    return math.inf if row["validation_loss"] is None else row["validation_loss"]


# --- training ---


def train_all(task: str, data: str | os.PathLike, results: str | os.PathLike) -> Iterator[str]:
    """Trains what RESULTS/TASK.jsonl lacks and appends a row for each run; yields a line before and after each run.

    Raises:
      OSError, DatasetError: the data are missing.
    """
    path = pathlib.Path(results) / f"{task}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    strategy, arrays, spent = _strategy(), TASKS[task].load(data), []
    while missing := _missing(path):
        run = missing[0]
        yield f"{run}: {len(missing)} runs to go"
        start = time.monotonic()
        row = train(strategy, TASKS[task], arrays, run)
        spent.append(time.monotonic() - start)
        row |= provenance(f"python -m benchmarks.keras_quality --task={task}", threads=1, seeds=[run.seed])
        with json_lines.JsonLinesWriter(path, resume_step=None) as writer:
            writer.write(TASKS[task].steps, {"task": task, "seconds": round(spent[-1], 1)} | row)
        left = statistics.mean(spent) * len(_missing(path)) / 60
        loss, accuracy = row["validation_loss"], row["validation_accuracy"]
        yield f"{run}: loss {loss:.4f}, accuracy {accuracy:.4f}, {spent[-1]:.0f} s; about {left:.0f} minutes left"


def train(strategy, task: Task, arrays: Sequence[np.ndarray], run: Run) -> dict[str, Any]:
    """Trains and evaluates; returns the fields of `Run` and the figures of a row.

    The figures: validation_loss, validation_accuracy, training_losses (means over tenths of the steps), and of the last
    tenth those of docs/keras.md: wire_bytes, sent_bytes, compression_error, residual_ratio. skipped: all skipped steps.
    """
    import keras
    import tensorflow as tf

    import dqgan_tf

    keras.backend.clear_session()
    gc.collect()  # the model and the compiled functions of the run before refer to each other
    keras.utils.set_random_seed(run.seed)
    x, y, *validation = arrays
    batch = REPLICAS * task.batch
    order = np.random.default_rng(run.seed).permutation(len(x))[: task.steps * batch]
    schedule = keras.optimizers.schedules.CosineDecay(run.rate, task.steps)
    with strategy.scope():
        model = task.network()
        optimizers = {
            "sgd": lambda: keras.optimizers.SGD(schedule, momentum=0.9),
            "adam": lambda: keras.optimizers.Adam(schedule),
        }
        topology, _, of_mean = run.topology.partition("@")
        settings = {name: getattr(run, name) for name in ("where", "error_feedback", "seed")}
        settings |= {"topology": topology, "mean_compressor": of_mean}
        model.compile(
            dqgan_tf.compressed(optimizers[run.optimizer](), run.compressor, logs=True, **settings),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
            steps_per_execution=task.steps // EPOCHS,
        )
    dataset = tf.data.Dataset.from_tensor_slices((x[order], y[order])).batch(batch)
    fitted = model.fit(dataset, epochs=EPOCHS, steps_per_epoch=task.steps // EPOCHS, verbose=0, shuffle=False).history
    loss, accuracy = model.evaluate(*validation, batch_size=1000, verbose=0)
    last = {
        name: fitted[f"compression/{name}"][-1]
        for name in ("wire_bytes", "sent_bytes", "compression_error", "residual_ratio")
    }
    return run._asdict() | {
        "validation_loss": loss,
        "validation_accuracy": accuracy,
        "training_losses": fitted["loss"],
        "skipped": sum(fitted["compression/skipped"]),
        "weights": sum(math.prod(weight.shape) for weight in model.trainable_weights),
        **last,
    }


def _strategy():
    os.environ |= {"CUDA_VISIBLE_DEVICES": "-1", "TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1"}
    import tensorflow as tf

    import dqgan_tf

    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * REPLICAS)
    return dqgan_tf.CompressedStrategy(replicas_per_worker=REPLICAS)


def _missing(path):
    rows = json_lines.read(path)
    recorded = {key(row) for row in rows}
    return [run for run in plan(rows) if run not in recorded]


# --- report ---


class Difference(NamedTuple):
    """Mean of paired differences and half the width of its 95 % interval (Student's t); infinity if n = 1."""

    mean: float
    half_width: float

    def text(self, factor: float = 1, digits: int = 4) -> str:
        """Returns `mean ± half_width` times a factor, or the mean alone if the interval has no end."""
        width = f" ± {factor * self.half_width:.{digits}f}" if math.isfinite(self.half_width) else ""
        return f"{factor * self.mean:+.{digits}f}{width}"


class Row(NamedTuple):
    """The runs of one combination, by seed."""

    optimizer: str
    compressor: str
    where: str
    error_feedback: bool
    topology: str
    runs: dict[int, dict[str, Any]]

    @property
    def label(self) -> str:
        """Compressor, topology if it is not `auto`, and whether it runs without error feedback."""
        topology = "" if self.topology == "auto" else f", {self.topology.replace('@', ' with a mean of ')}"
        return self.compressor + topology + ("" if self.error_feedback else ", no error feedback")


def combinations(rows: Sequence[dict[str, Any]]) -> list[Row]:
    """Returns the recorded combinations of one task in the order of the plan; the grid is left out."""
    made = [Row(optimizer, *variant, {}) for optimizer in GRID for variant in variants()]
    of = {combination[:5]: combination.runs for combination in made}
    for row in rows:
        if row["seed"] != GRID_SEED:
            of[key(row)[:5]][row["seed"]] = row
    return [combination for combination in made if combination.runs]


def difference(runs: dict[int, dict], base: dict[int, dict], field: str) -> Difference | None:
    """Returns the differences of a field to `base`, paired by seed; None if one is not finite or none is paired."""
    pairs = [(runs[seed][field], base[seed][field]) for seed in sorted(runs.keys() & base.keys())]
    if not pairs or None in itertools.chain(*pairs):
        return None
    values = [value - reference for value, reference in pairs]
    return Difference(*(paired_interval(values) if len(values) > 1 else (values[0], math.inf)))


def tables(results: str | os.PathLike) -> str:
    """Returns the rows of a folder as Markdown: for each task and optimizer all combinations, then update - gradient.

    Raises:
      UsageError: the folder holds no rows.
    """
    parts = []
    for task, rows in _recorded(results).items():
        parts += [f"## {TASKS[task].title}", _conditions(task, rows)]
        for optimizer, learning_rate in rates(rows).items():
            own = [combination for combination in combinations(rows) if combination.optimizer == optimizer]
            if own:
                title = f"### {optimizer}, learning rate {learning_rate:g}"
                parts += [title, _all_table(own), "Update minus gradient:", _place_table(own)]
    return "\n\n".join(parts) + "\n"


def _recorded(results):
    """Returns the rows by task, of the tasks whose grid is complete."""
    rows = {task: json_lines.read(pathlib.Path(results) / f"{task}.jsonl") for task in TASKS}
    complete = {task: part for task, part in rows.items() if len(plan(part)) > sum(map(len, GRID.values()))}
    if not complete:
        raise UsageError(
            f"--results={results} holds no {' or '.join(f'{task}.jsonl' for task in TASKS)} with its grid."
        )
    return complete


def _conditions(task, rows):
    counted = [f"{len([row for row in rows if row['seed'] == seed])} of seed {seed}" for seed in SEEDS]
    commits, hardware = (", ".join(sorted({row[field] for row in rows})) for field in ("commit", "hardware"))
    return (
        f"{TASKS[task].steps} steps of {REPLICAS} replicas x {TASKS[task].batch} samples; runs: {', '.join(counted)}; "
        f"`{rows[0]['command']}`; commit {commits}; {hardware}, one thread."
    )


def _all_table(combinations):
    header = ["compressor", "where", "bytes sent per step", "validation loss", "accuracy, %", "training loss", "n"]
    header += ["loss - float32", "accuracy - float32, %"]
    base = combinations[0].runs
    rows = []
    for item in combinations:
        runs = list(item.runs.values())
        rows.append(
            [item.label, item.where, f"{statistics.mean(run['sent_bytes'] for run in runs):,.0f}"]
            + [_range([run["validation_loss"] for run in runs], 1, 4)]
            + [_range([run["validation_accuracy"] for run in runs], 100, 2)]
            + [_range([run["training_losses"][-1] for run in runs], 1, 4), str(len(runs))]
            + (["", ""] if item.runs is base else _differences(item.runs, base))
        )
    return markdown(header, rows)


def _place_table(combinations):
    rows = []
    for label in dict.fromkeys(item.label for item in combinations):
        runs = {item.where: item.runs for item in combinations if item.label == label}
        if len(runs) == len(PLACES):
            rows.append([label, *_differences(runs["update"], runs["gradient"])])
    return markdown(["compressor", "validation loss", "accuracy, %"], rows)


def _differences(runs, base):
    loss, accuracy = (difference(runs, base, f"validation_{field}") for field in ("loss", "accuracy"))
    return [loss.text() if loss else "diverged", accuracy.text(100, 2) if accuracy else ""]


def _range(values, factor, digits):
    if None in values:
        return "diverged"
    low, mean, high = (f"{factor * f(values):.{digits}f}" for f in (min, statistics.mean, max))
    return f"{mean} ({low} to {high})" if len(values) > 1 else mean


def points(results: str | os.PathLike) -> list[tuple[str, str, str, Difference]]:
    """Returns (task and optimizer, compressor, where, loss - float32) of every combination that can be drawn."""
    made = []
    for task, rows in _recorded(results).items():
        for optimizer in GRID:
            own = [item for item in combinations(rows) if item.optimizer == optimizer]
            found = [(item, difference(item.runs, own[0].runs, "validation_loss")) for item in own[1:]]
            made += [(f"{task}, {optimizer}", item.label, item.where, loss) for item, loss in found if loss]
    return made


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--task", choices=list(TASKS), help="task to train")
    what.add_argument("--report", action="store_true", help="write the report of the recorded rows; trains nothing")
    parser.add_argument("--data", help="folder with fashion_mnist/ (idx files) and tfds/; --task needs it")
    parser.add_argument("--results", default=ROOT / "results/keras", type=pathlib.Path, help="folder of the rows")
    return parser


def main(arguments: argparse.Namespace) -> None:
    if arguments.report:
        text = f"# Where to compress: all rows\n\n{tables(arguments.results)}"
        json_lines.write_atomically(arguments.results / "tables.md", text)
        figures.loss_by_place(points(arguments.results), arguments.results / "loss_against_float32.png")
    elif not arguments.data:
        raise UsageError(f"--task={arguments.task} needs the folder of the data sets: --data=DIR. Received: no --data")
    else:
        for line in train_all(arguments.task, arguments.data, arguments.results):
            print(line, flush=True)


if __name__ == "__main__":
    command.run_parsed(main, make_parser())
