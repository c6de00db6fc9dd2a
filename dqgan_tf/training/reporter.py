"""The reports of the chief: console, metrics.jsonl, TensorBoard, pictures."""

import contextlib
import json
import math
import os
import pathlib
import re
import sys
import traceback

import tensorflow as tf

from dqgan_tf.config import FREE_FIELDS
from dqgan_tf.distribute.pipeline import SPANS
from dqgan_tf.evaluation import features, report
from dqgan_tf.telemetry import pictures, tensorboard
from dqgan_tf.telemetry.json_lines import JsonLinesWriter, read, write_atomically
from dqgan_tf.telemetry.tensorboard import PLAYERS
from dqgan_tf.telemetry.throughput import Throughput, break_even_bandwidth, format_duration, peak_memory_mib
from dqgan_tf.tensorflow_texts import first_line, is_full_disk
from dqgan_tf.training import evaluation, samples, summary
from dqgan_tf.training.evaluation import Evaluator

_COMPARED = ("algorithm", "train.steps")  # hyper-parameters, beside what a resumed run may not change


class Reporter:
    """Writes the shared files of a run. On a worker that is not the chief every method does nothing.

    If a file cannot be written, no method raises, because the other workers would wait for the chief. `failure` is the
    first reason, or "". The loop sends it to the other workers, and all raise. If a picture or an evaluation fails, the
    first reason is printed and the run continues.

    Args:
      job: the run on this worker.
      start_step: first step of this process. Later entries of metrics.jsonl are removed.

    Raises:
      OSError: the first files cannot be written.
      UsageError: metrics.jsonl is damaged.
    """

    def __init__(self, job, start_step: int):
        self._job = job
        self._active = job.strategy.is_chief
        self._folder = pathlib.Path(job.config.model_dir)
        self._start_step, self._throughput = start_step, Throughput(start_step)
        self._failed: set[str] = set()  # kinds of extra work of which a failure has been printed
        self.failure = ""
        if self._active:
            if start_step == 0:  # of a run whose checkpoints were removed: this one is not finished
                (self._folder / "summary.json").unlink(missing_ok=True)
            self._tensorboard = tf.summary.create_file_writer(str(self._folder / "tensorboard"))
            self._metrics = JsonLinesWriter(self._folder / "metrics.jsonl", start_step)
            write_atomically(self._folder / "config.json", job.config.to_json() + "\n")
            write_atomically(self._folder / "data.json", job.data_spec.to_json() + "\n")
            self._constants = constants(job)
            self._constants_written = False
            with self._tensorboard.as_default(start_step):
                values = values_in_use(job)
                tensorboard.write_table("configuration", ("setting", "value"), values.items(), "Values in use.")
                settings = {key: value for key, value in values.items() if key not in FREE_FIELDS or key in _COMPARED}
                # No curve has the bytes, because they do not change.
                settings["wire_bytes_per_step"] = job.model.bytes_per_step()["wire_bytes"]
                tensorboard.write_hyperparameters(settings)
                tensorboard.write_layout(self._constants, job.data_spec.kind)

    def say(self, text: str) -> None:
        """Prints a line on stderr."""
        if self._active:
            with self._record_failure():
                print(text, file=sys.stderr, flush=True)

    def log(self, step: int, figures: dict[str, float]) -> None:
        """Reports the figures of the steps since the last call, with throughput and break-even rate added."""
        if not self._active:
            return
        config, dense = self._job.config.train, self._job.model.bytes_per_step()["dense_sent_bytes"]
        rate = self._throughput.mark(step)
        codec_seconds = 1e-3 * (figures["milliseconds/encode"] + figures["milliseconds/decode"])
        known = not math.isnan(codec_seconds)  # a step was accepted
        break_even = math.nan
        if known:
            break_even = break_even_bandwidth(dense, figures["sent_bytes_per_step"], codec_seconds)
        figures = figures | {
            "steps_per_second": rate,
            "samples_per_second": rate * config.batch_size,
            "peak_memory_mib": peak_memory_mib(),
            "break_even_gbit_per_second": min(1e-9 * break_even, 1e6),  # JSON has no infinity
        }
        with self._record_failure(), self._tensorboard.as_default(step):
            self._metrics.write(step, figures)
            tensorboard.write_figures(figures, self._constants)
            self._write_constants(figures)
        left = format_duration(self._throughput.remaining_seconds(config.steps))
        self.say(  # one line of a terminal: about 80 characters
            f"step {step}/{config.steps}  {rate:.1f}/s  {left} left  "
            f"loss G {figures['generator_loss']:.3f} D {figures['discriminator_loss']:.3f}  "
            f"|e|/|p| {figures['residual_ratio/generator']:.2f} {figures['residual_ratio/discriminator']:.2f}"
            + (f"  skipped {int(figures['skipped'])}" if figures.get("skipped") else "")
        )

    def sample(self, step: int, dataset: tf.data.Dataset | None = None) -> None:
        """Writes pictures of the raw and the averaged generator, and of real samples if there is a data set of batches.

        The first failure is printed, later ones are not.
        """
        if not self._active:
            return
        with self._continue_after_failure("the pictures", step):
            real = None if dataset is None else samples.take(dataset, self._job.data_spec)
            folder = self._folder / "samples"
            samples.write_pictures(folder, step, self._job.data_spec, self._job.model, self._tensorboard, real)
            if step > self._start_step:
                self._write_timeline(step)

    def has_pictures(self, step: int) -> bool:
        """Returns whether the pictures of a step are written."""
        return (self._folder / "samples" / f"ema_{step:08d}.png").exists()

    def recorded_evaluation(self, step: int) -> report.Figures:
        """Returns the figures at a step that `evaluate` has written before with the settings of this run, else {}."""
        entries = read(self._folder / "metrics.jsonl") if self._active else []
        of_step = (entry for entry in reversed(entries) if entry["step"] == step and _is_of_run(entry, self._job))
        return next(of_step, {})

    def evaluate(self, step: int, evaluator: Evaluator, interrupting=contextlib.nullcontext) -> report.Figures:
        """Evaluates the averaged generator and writes the figures. Returns them, or {} after a failure.

        The first failure is printed, later ones are not. `interrupting` returns a context in which a signal ends the
        computation, as `StopSignal.interrupting` does.
        """
        if not self._active:
            return {}
        figures: report.Figures = {}
        with self._continue_after_failure("the evaluation", step), interrupting():
            figures = evaluator.evaluate(self._job.model)
        with self._record_failure(), self._tensorboard.as_default(step):
            if figures:
                self._metrics.write(step, figures)
            tensorboard.write_evaluation(figures)
        return figures

    def finish(self, step: int, figures: dict) -> None:
        """Writes summary.json, adds its evaluation to the metrics, and prints the table."""
        if not self._active:
            return
        kinds = ("mode", "num_modes", "high_quality", "radius", "raw_")
        coverage = {k: v for k, v in figures.items() if k.startswith(kinds)}
        with self._record_failure(), self._tensorboard.as_default(step):
            if coverage:
                self._metrics.write(step, coverage)
            tensorboard.write_evaluation(coverage)
            tensorboard.write_end()
            text = json.dumps(figures, indent=2, sort_keys=True) + "\n"
            write_atomically(self._folder / "summary.json", text)
            print("\n" + summary.table(figures, self._job.config.model_dir), flush=True)

    def close(self) -> None:
        """Flushes and closes the files."""
        if self._active:
            with self._record_failure():
                self._tensorboard.close()
                self._metrics.close()

    def _write_timeline(self, step):
        """Draws the phases of the last exchange as spans, because they overlap."""
        spans = self._job.model.channel.spans.variables[0].numpy()
        named = [(SPANS[int(index)], begin, end) for index, begin, end in spans.tolist()]
        with self._tensorboard.as_default(step):
            tensorboard.write_timeline(pictures.timeline(named, SPANS))

    def _write_constants(self, figures):
        """Writes the figures that do not change during a run as one table, once."""
        if self._constants_written:
            return
        self._constants_written = True
        rows = []
        for name in self._constants:
            _, unit, meaning = tensorboard.FIGURES[name]
            # Its beginning: a longer column would break the words of the others.
            rows.append((name, f"{figures[name]:g}", unit, re.split(r"; |\. |: with", meaning)[0]))
        columns = ("figure", "value", "unit", "meaning")
        tensorboard.write_table("constant figures", columns, rows, "Figures that do not change during this run.")

    @contextlib.contextmanager
    def _continue_after_failure(self, what, step):
        """Prints an error of any kind, which must not stop the run: the first of its kind of work."""
        try:
            yield
        except Exception as error:
            if what not in self._failed:
                of_disk = isinstance(error, OSError) or is_full_disk(error)
                reason = first_line(error) if of_disk else traceback.format_exc()
                self.say(f"The run goes on without {what} of step {step}: {reason}")
            self._failed.add(what)

    @contextlib.contextmanager
    def _record_failure(self):
        try:
            yield
        except (OSError, tf.errors.OpError) as error:
            self.failure = self.failure or first_line(error)


def _is_of_run(entry, job):
    """Whether an entry of metrics.jsonl has the figures that this run computes.

    `trainers.evaluate` may have added one of the same step with another network or number of samples. Those figures are
    not comparable with the best ones of the run so far.
    """
    config, spec = job.config.evaluation, job.data_spec
    if entry.get("generator") != "averaged" or entry.get("num_fake") != config.eval_samples:
        return False
    path = config.inception_weights or config.feature_network
    if path:
        network = features.load(path).fingerprint if os.path.isdir(path) else features.file_fingerprint(path)
        return entry.get("feature_network_sha256") == network
    return entry.get("feature_network") == (f"small_classifier({spec.name})" if spec.kind == "images" else None)


def constants(job) -> list[str]:
    """Returns the names of the training figures that do not change during a run with these settings."""
    config, loss = job.config, job.config.loss
    names = [] if config.compression.start_step > 1 else ["wire_bytes", "compression_ratio", "sent_bytes_per_step"]
    if loss.loss == "wgan_clip" or (loss.loss in ("non_saturating", "hinge") and not loss.r1_gamma):
        names.append("penalty")
    per_player = {
        "learning_rate": config.optimizer.learning_rate_schedule == "constant" and not config.optimizer.warmup_steps,
        "shift_ratio": not config.compression.shift,
        "spread": job.strategy.num_replicas_in_sync == 1,
        "compression_error": config.compression.compressor == "none" and not config.compression.compressor_rules,
    }
    return names + [f"{name}/{player}" for name, is_constant in per_player.items() if is_constant for player in PLAYERS]


def values_in_use(job) -> dict[str, bool | float | str]:
    """Returns the value of every setting by its key; for None, `auto` and an empty text, what they mean in this run."""
    config, spec, model = job.config, job.data_spec, job.model
    images = spec.kind == "images"
    network = config.evaluation.feature_network or config.evaluation.inception_weights
    in_use = {
        "data.data_dir": "that of TensorFlow Datasets" if images else "not used",
        "data.image_size": spec.shape[0] if images else "not used",
        "network.latent_dim": model.latent_dim,
        "network.width": _width(model),
        "optimizer.global_clipnorm": "no limit",
        "compression.compressor_rules": "no rules",
        "compression.mean_compressor": "that of the updates"
        if model.channel.topology.endswith("two_step")
        else "not used",
        "train.warm_start": "no",
        "evaluation.feature_network": "a small classifier" if images and not network else "not used",
        "evaluation.inception_weights": "not used",
        "evaluation.cache_dir": evaluation.DEFAULT_CACHE if images and not network else "not used",
    }
    values = {key: in_use[key] if value in (None, "") else value for key, value in config.flat().items()}
    if config.compression.topology == "auto":
        values["compression.topology"] = model.channel.topology
    if config.compression.transport == "auto":
        workers = job.strategy.num_workers
        values["compression.transport"] = job.strategy.transport_of("auto") if workers > 1 else "not used"
    return values


def _width(model):
    """Returns the width of `NetworkConfig`, which is that of the discriminator's first layer."""
    layers = [getattr(layer, "layer", layer) for layer in model.discriminator.layers]  # in spectral normalisation
    layer = next(layer for layer in layers if hasattr(layer, "units") or hasattr(layer, "filters"))
    return layer.units if hasattr(layer, "units") else layer.filters
