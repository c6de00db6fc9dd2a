"""The reports of the chief: console, metrics.jsonl, TensorBoard, pictures."""

import contextlib
import json
import math
import pathlib
import sys
import traceback

import tensorflow as tf

from dqgan_tf.evaluation import report
from dqgan_tf.telemetry.json_lines import JsonLinesWriter, write_atomically
from dqgan_tf.telemetry.throughput import Throughput, break_even_bandwidth, format_duration, peak_memory_mib
from dqgan_tf.tensorflow_texts import first_line
from dqgan_tf.training import evaluation, samples, summary
from dqgan_tf.training.evaluation import Evaluator

_TENSORBOARD_GROUPS = {
    "loss": ("generator_loss", "discriminator_loss", "penalty", "real_logit", "fake_logit"),
    "speed": ("steps_per_second", "samples_per_second", "peak_memory_mib"),
    "bytes": ("wire_bytes", "sent_bytes_per_step", "compression_ratio", "break_even_gbit_per_second"),
    "guard": ("skipped",),
}
_TAGS = {name: f"{group}/{name}" for group, names in _TENSORBOARD_GROUPS.items() for name in names}


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
        self._throughput = Throughput(start_step)
        self._failed: set[str] = set()  # kinds of extra work of which a failure has been printed
        self.failure = ""
        if self._active:
            self._tensorboard = tf.summary.create_file_writer(str(self._folder / "tensorboard"))
            self._metrics = JsonLinesWriter(self._folder / "metrics.jsonl", start_step)
            write_atomically(self._folder / "config.json", job.config.to_json() + "\n")
            write_atomically(self._folder / "data.json", job.data_spec.to_json() + "\n")
            rows = [f"| {key} | {value} |" for key, value in job.config.flat().items()]
            with self._tensorboard.as_default(start_step):
                tf.summary.text("configuration", "\n".join(["| setting | value |", "|---|---|", *rows]))

    def say(self, text: str) -> None:
        """Prints a line on stderr."""
        if self._active:
            with self._record_failure():
                print(text, file=sys.stderr, flush=True)

    def log(self, step: int, figures: dict[str, float]) -> None:
        """Reports the figures of the steps since the last call, with throughput and break-even rate added."""
        if not self._active:
            return
        config, volume = self._job.config.train, self._job.model.bytes_per_step()
        rate = self._throughput.mark(step)
        codec_seconds = 1e-3 * (figures["milliseconds/encode"] + figures["milliseconds/decode"])
        known = not math.isnan(codec_seconds)  # a step was accepted
        sent = volume["dense_sent_bytes"], volume["sent_bytes"]
        break_even = break_even_bandwidth(*sent, codec_seconds) if known else math.nan
        figures = figures | {
            "steps_per_second": rate,
            "samples_per_second": rate * config.batch_size,
            "peak_memory_mib": peak_memory_mib(),
            "break_even_gbit_per_second": min(1e-9 * break_even, 1e6),  # JSON has no infinity
        }
        with self._record_failure(), self._tensorboard.as_default(step):
            self._metrics.write(step, figures)
            for name, value in figures.items():
                tf.summary.scalar(_TAGS.get(name, name), value)
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
            evaluation.write_scalars(figures)
        return figures

    def finish(self, step: int, figures: dict) -> None:
        """Writes summary.json, adds its evaluation to the metrics, and prints the table."""
        if not self._active:
            return
        coverage = {k: v for k, v in figures.items() if k.startswith(("mode", "num_modes", "high_quality", "raw_"))}
        with self._record_failure(), self._tensorboard.as_default(step):
            if coverage:
                self._metrics.write(step, coverage)
            evaluation.write_scalars(coverage)
            text = json.dumps(figures, indent=2, sort_keys=True) + "\n"
            write_atomically(self._folder / "summary.json", text)
            print("\n" + summary.table(figures, self._job.config.model_dir), flush=True)

    def close(self) -> None:
        """Flushes and closes the files."""
        if self._active:
            with self._record_failure():
                self._tensorboard.close()
                self._metrics.close()

    @contextlib.contextmanager
    def _continue_after_failure(self, what, step):
        """Prints an error of any kind, which must not stop the run: the first of its kind of work."""
        try:
            yield
        except Exception as error:
            if what not in self._failed:
                full_disk = isinstance(error, (OSError, tf.errors.ResourceExhaustedError))
                reason = first_line(error) if full_disk else traceback.format_exc()
                self.say(f"The run goes on without {what} of step {step}: {reason}")
            self._failed.add(what)

    @contextlib.contextmanager
    def _record_failure(self):
        try:
            yield
        except (OSError, tf.errors.OpError) as error:
            self.failure = self.failure or first_line(error)
