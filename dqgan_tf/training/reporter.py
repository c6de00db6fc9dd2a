"""What the chief tells the world: console, metrics.jsonl, TensorBoard, pictures."""

import contextlib
import pathlib
import sys

import tensorflow as tf

from dqgan_tf.config import RunConfig
from dqgan_tf.telemetry import atomic, break_even
from dqgan_tf.telemetry.json_lines import JsonLinesWriter
from dqgan_tf.telemetry.tensorboard import writer_for
from dqgan_tf.telemetry.throughput import Throughput, format_duration, peak_memory_mib
from dqgan_tf.training import samples, summary
from dqgan_tf.training.errors import first_line


class Reporter:
    """Writes the shared files of a run; on a worker that is not the chief every method does nothing.

    A file that cannot be written raises nothing: a chief that left alone would be lost to the others. `failure` says
    why, "" while all went well, and is for the next exchange among the workers.

    Args:
      job: the run on this worker.
      start_step: from which it continues; entries beyond it are removed from metrics.jsonl.

    Raises:
      OSError: the first files cannot be written.
    """

    def __init__(self, job, start_step: int):
        self._job = job
        self._active = job.strategy.is_chief
        self._folder = pathlib.Path(job.config.model_dir)
        self._throughput = Throughput(start_step)
        self.failure = ""
        self.tensorboard = writer_for(self._active, self._folder / "tensorboard")
        self.metrics = JsonLinesWriter(self._folder / "metrics.jsonl", start_step) if self._active else None
        if self._active:
            atomic.write_text(self._folder / "config.json", job.config.to_json() + "\n")
            self.tensorboard.text(start_step, "configuration", _as_markdown(job.config))

    def say(self, text: str) -> None:
        """Prints a line, on the chief."""
        if self._active:
            with self._writing():
                print(text, file=sys.stderr, flush=True)

    def log(self, step: int, figures: dict[str, float]) -> dict[str, float]:
        """Reports the figures of the steps since the last call; returns them with throughput added."""
        if not self._active:
            return figures
        config = self._job.config.train
        rate = self._throughput.mark(step)
        codec = 1e-3 * (figures["milliseconds/encode"] + figures["milliseconds/decode"])
        figures = figures | {
            "steps_per_second": rate,
            "samples_per_second": rate * config.batch_size,
            "peak_memory_mib": peak_memory_mib(),
            "break_even_gbit_per_second": self._break_even(codec),
        }
        with self._writing():
            self.metrics.write(step, figures)
            self.tensorboard.scalars(step, {tag(name): value for name, value in figures.items()})
        left = format_duration(self._throughput.remaining_seconds(config.steps))
        self.say(
            f"step {step}/{config.steps}  {rate:.1f} steps/s  {left} left  "
            f"loss G {figures['generator_loss']:.3f} D {figures['discriminator_loss']:.3f}  "
            f"|e|/|p| G {figures['residual_ratio/generator']:.2f} D {figures['residual_ratio/discriminator']:.2f}"
            + (f"  skipped {int(figures['skipped'])}" if figures.get("skipped") else "")
        )
        return figures

    def sample(self, step: int) -> None:
        """Writes pictures of the raw and the averaged generator."""
        if self._active:
            pictures = samples.pictures(self._job.data_spec, self._job.model)
            with self._writing():
                samples.write(self._folder / "samples", step, pictures, self.tensorboard)

    def finish(self, step: int, figures: dict) -> None:
        """Writes summary.json, what of it is an evaluation to the metrics, and prints its table."""
        if not self._active:
            return
        evaluation = {k: v for k, v in figures.items() if k.startswith(("modes", "high", "raw_"))}
        with self._writing():
            self.metrics.write(step, evaluation)
            self.tensorboard.scalars(step, {f"evaluation/{name}": value for name, value in evaluation.items()})
            summary.write(self._folder, figures)
            print("\n" + summary.table(figures, self._job.config.model_dir), flush=True)

    def close(self) -> None:
        """Flushes and closes the files."""
        with self._writing():
            self.tensorboard.close()
            if self._active:
                self.metrics.close()

    @contextlib.contextmanager
    def _writing(self):
        try:
            yield
        except (OSError, tf.errors.OpError) as error:
            self.failure = self.failure or first_line(error)

    def _break_even(self, codec_seconds):
        channel = self._job.model.channel
        rate = break_even.break_even_bandwidth(channel.dense_sent_bytes, channel.sent_bytes, codec_seconds)
        return min(1e-9 * rate, 1e6)  # a finite number for JSON where the codec costs nothing


def tag(name: str) -> str:
    """Returns the TensorBoard tag of a figure: grouped by what it is about."""
    groups = {
        "loss": ("generator_loss", "discriminator_loss", "penalty", "real_logit", "fake_logit"),
        "speed": ("steps_per_second", "samples_per_second", "peak_memory_mib"),
        "bytes": ("wire_bytes", "sent_bytes_per_step", "compression_ratio", "break_even_gbit_per_second"),
        "guard": ("skipped",),
    }
    for group, names in groups.items():
        if name in names:
            return f"{group}/{name}"
    return name


def _as_markdown(config: RunConfig) -> str:
    rows = [f"| {key} | {value} |" for key, value in config.flat().items()]
    return "\n".join(["| setting | value |", "|---|---|", *rows])
