"""The training loop: steps, reports, checkpoints, and the end of a run."""

import contextlib
import json
import math
import signal
import time

import numpy as np
import tensorflow as tf

from dqgan_tf.config import RunConfig
from dqgan_tf.errors import TrainingError
from dqgan_tf.telemetry.throughput import peak_memory_mib
from dqgan_tf.training import checkpoint, evaluation, summary
from dqgan_tf.training.checkpoint import Checkpoints
from dqgan_tf.training.evaluation import Evaluator
from dqgan_tf.training.job import Job
from dqgan_tf.training.reporter import Reporter

_EVALUATION_SECONDS = 86400.0  # the message board notices by itself that the chief is gone or frozen


class StopSignal:
    """Catches SIGTERM and SIGINT as a request to save and exit. The loop sends it to all workers after the current call
    of `train_steps`.

    A second signal raises `KeyboardInterrupt(number)` immediately. Use as a context manager in the main thread.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._previous: dict = {}
        self._interrupts = False

    def __enter__(self):
        for number in (signal.SIGTERM, signal.SIGINT):
            self._previous[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *exception):
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _receive(self, number, frame):
        del frame
        if self.received is not None:
            raise KeyboardInterrupt(number)
        self.received = number
        if self._interrupts:
            raise _Interrupted

    @contextlib.contextmanager
    def interrupting(self):
        """The first signal ends the body at once, and no exception leaves it. For long work that changes no state."""
        try:
            try:
                self._interrupts = self.received is None
                yield
            finally:
                self._interrupts = False
        except _Interrupted:  # from the body, or from the line above
            pass


class _Interrupted(BaseException):
    """A signal arrived in the body of `StopSignal.interrupting`. No `except Exception` takes it for a failure."""


class Loop:
    """Trains from `start_step` to the last step. Every worker runs the same schedule; only the chief writes.

    Args:
      job: the run on this worker.
      checkpoints: saves the run.
      reporter: reports its figures and pictures.
      stop: its `received` is the number of a signal that asks to stop early.
      start_step: number of steps done before.
      evaluator: the chief's evaluator, if the run evaluates its generator.
    """

    def __init__(
        self,
        job: Job,
        checkpoints: Checkpoints,
        reporter: Reporter,
        stop: StopSignal,
        start_step: int,
        evaluator: Evaluator | None = None,
    ):
        self._job = job
        self._model = job.model
        self._checkpoints = checkpoints
        self._reporter = reporter
        self._stop = stop
        self._evaluator = evaluator
        self._step = self._logged = start_step
        self._saved: int | None = start_step  # step of the last checkpoint, if it holds the state of now
        self._clock = StepClock()

    def run(self, iterator) -> int | None:
        """Trains on `iterator`, a distributed iterator that starts at the first step of this loop.

        Returns:
          None after the last step, or the number of the signal that asked a worker to stop.

        Raises:
          TrainingError: too many consecutive steps were skipped, replicas diverged, or a file could not be written.
          tf.errors.OpError: a collective failed, usually because another worker is lost.
        """
        config = self._job.config.train
        local_steps = self._job.config.compression.local_steps
        if self._step:
            self._catch_up(config)
            signal_number = self._exchange_reasons_to_stop()
            if signal_number:
                return signal_number
        while self._step < config.steps:
            before = self._step
            count = next_stop(before, config, local_steps) - before
            with self._clock.measure(count):
                self._model.train_steps(iterator, count)
            self._step += count
            self._do_periodic_work(config, before)
            signal_number = self._exchange_reasons_to_stop()
            if signal_number:
                self._save()
                return signal_number
        return None

    def finish(self) -> None:
        """Writes the last checkpoint and summary.json, and closes the reporter's files.

        Raises:
          TrainingError: a worker could not write. All workers raise it.
        """
        self._save()
        if self._job.strategy.is_chief:
            self._reporter.finish(self._step, self._summary())
        self.close()

    def close(self) -> None:
        """Closes the reporter's files and waits for all workers to do so.

        Raises:
          TrainingError: a worker could not write. All workers raise it.
        """
        self._reporter.close()
        self._exchange_reasons_to_stop()

    def _do_periodic_work(self, config, before):
        step, last = self._step, self._step >= config.steps
        in_row = int(self._model.local_value(self._model.skipped_in_row))
        if config.max_skipped_in_row and in_row >= config.max_skipped_in_row:
            compression = self._job.config.compression
            noun = "steps" if compression.local_steps == 1 else "exchanges"
            shift = f"--shift={compression.shift:g} or " if compression.shift else ""
            raise TrainingError(
                f"The last {in_row} {noun} up to step {step} were skipped, because an update was not finite on some "
                f"replica. They changed no weight. Raise --max_skipped_in_row to go on; or lower {shift}"
                "the learning rates in another --model_dir, where --warm_start takes the weights of a checkpoint."
            )
        if due(before, step, config.log_every) or last:
            steps, self._logged = range(self._logged + 1, step + 1), step
            figures = self._model.drain_metrics(steps)
            figures["skipped"] = int(self._model.local_value(self._model.skipped))
            figures["sent_bytes_per_step"] = float(self._model.bytes_per_step(steps)["sent_bytes"])
            self._reporter.log(step, self._clock.end_interval(figures))
        if last and self._job.config.compression.flush_residuals:
            self._model.flush_residuals()
        if due(before, step, config.weight_check_every) or last:
            self._check_weights()
        if due(before, step, config.checkpoint_every):
            self._save()
        if due(before, step, config.sample_every) or last:
            self._reporter.sample(step)
        if due(before, step, config.eval_every) or (last and config.eval_every):
            self._evaluate()

    def _catch_up(self, config):
        """Does the work of the step from which a run goes on, as far as its end at that step has prevented it.

        A checkpoint is saved before the pictures and the evaluation of its step. And a run may go on with fewer --steps
        than before, so that this step is the last one.
        """
        step, last, is_flushed = self._step, self._step >= config.steps, False
        if last and self._job.config.compression.flush_residuals:
            digests = self._model.weight_digests()
            self._model.flush_residuals()
            is_flushed = not np.array_equal(self._model.weight_digests(), digests)
        if is_flushed:  # the checkpoint is from before, and so are the pictures and the figures of its step
            self._saved = None
        if last:
            self._check_weights()
        # A flush is saved by `finish`, behind all this: after an end before it, the next start makes it anew.
        local_steps = self._job.config.compression.local_steps
        before = (step - 1) // local_steps * local_steps  # end of the round before
        if due(before, step, config.sample_every) or last:
            if is_flushed or not self._reporter.has_pictures(step):
                self._reporter.sample(step)
        if due(before, step, config.eval_every) or (last and config.eval_every):
            self._evaluate({} if is_flushed else self._reporter.recorded_evaluation(step))

    def _evaluate(self, figures=None):
        """The chief evaluates the averaged generator. The others wait for it as long as it gives signs of life.

        Args:
          figures: those of this step, if they are recorded.
        """
        best = None
        if self._evaluator is not None:
            if not figures and self._stop.received is None:  # else the next start evaluates
                figures = self._reporter.evaluate(self._step, self._evaluator, self._stop.interrupting)
            best = self._find_best(figures or {})
        best = json.loads(self._job.board.exchange("evaluation", json.dumps(best), _EVALUATION_SECONDS)[0])
        if best:  # of the chief, which is worker 0
            self._save()
            self._checkpoints.keep_best(self._step, *best)

    def _find_best(self, figures):
        """Returns name and value of the figure by which this is the best checkpoint so far; None if it is not."""
        best = evaluation.best_value(self._job.config.evaluation.best_figure, figures)
        if best is None or not checkpoint.is_better(self._checkpoints.best(), *best):
            return None
        self._reporter.say(f"step {self._step} has the best {best[0]} so far: {best[1]:.4g}")
        return best

    def _save(self):
        if self._saved != self._step:
            self._checkpoints.save(self._step)
            self._saved = self._step

    def _check_weights(self):
        digests = self._model.weight_digests()
        different = [i for i, row in enumerate(digests) if not np.array_equal(row, digests[0])]
        if different:
            raise TrainingError(
                f"At step {self._step} the weights of replicas {different} differ from those of replica 0. They must "
                "agree bit for bit: look for different processors or library builds, or faulty memory."
            )

    def _exchange_reasons_to_stop(self) -> int | None:
        """Returns the number of a signal that a worker received, or None; the same on all workers, which must stop at
        the same step.

        Raises:
          TrainingError: a worker could not write a file.
        """
        reasons = json.dumps([self._reporter.failure, self._stop.received])
        answers = [json.loads(text) for text in self._job.board.exchange("stop", reasons)]
        for index, (failure, _) in enumerate(answers):
            if failure:
                folder = self._job.config.model_dir
                raise TrainingError(
                    f"Worker {index} could not write into {folder} by step {self._step}: {failure}. The last complete "
                    "checkpoint is intact."
                )
        return next((number for _, number in answers if number), None)

    def _summary(self):
        config, volume = self._job.config, self._model.bytes_per_step(range(1, self._step + 1))
        figures = summary.quality(self._job.data_spec, self._model) | self._clock.figures()
        return figures | {
            "steps": self._step,
            "skipped": int(self._model.local_value(self._model.skipped)),
            "weights_sha256": summary.weights_sha256(self._model),
            **{f"{name}_per_step": number for name, number in volume.items()},
            "num_workers": self._job.strategy.num_workers,
            "num_replicas": self._job.strategy.num_replicas_in_sync,
            "compressor": config.compression.compressor,
            "config_fingerprint": config.fingerprint(),
            "tensorflow": tf.__version__,
            "peak_memory_mib": peak_memory_mib(),
        }


class StepClock:
    """Wall time of the steps, without the work between calls and without the first call, which compiles."""

    def __init__(self) -> None:
        self._calls: list[float] = []
        self._phases: list[dict[str, float]] = []
        self._interval: list[tuple[float, int]] = []  # seconds and steps of the calls since `end_interval`
        self._is_first = True  # no interval has ended yet

    @contextlib.contextmanager
    def measure(self, count: int):
        """Measures a call of `count` steps."""
        start = time.perf_counter()
        yield
        seconds = time.perf_counter() - start
        self._calls.append(seconds / count)
        self._interval.append((seconds, count))

    def end_interval(self, figures: dict[str, float]) -> dict[str, float]:
        """Returns the figures of the log interval that ends, with `milliseconds/step` and `milliseconds/rest`.

        compute + reduction + rest = step. The first call of steps, which compiles, counts in `step` only if there is no
        other. The phases always count it: then they are not parts of that step, and there is no rest.

        Args:
          figures: means over the steps of the interval.
        """
        is_without_first = self._is_first and len(self._interval) > 1
        calls = self._interval[1:] if is_without_first else self._interval
        self._is_first, self._interval = False, []
        seconds, steps = (sum(column) for column in zip(*calls, strict=True)) if calls else (0.0, 0)
        milliseconds = 1e3 * seconds / steps if steps else math.nan
        figures = figures | {"milliseconds/step": milliseconds}
        if not is_without_first:
            parts = figures["milliseconds/compute"] + figures["milliseconds/reduction"]
            figures["milliseconds/rest"] = milliseconds - parts
        self._phases.append({name: value for name, value in figures.items() if name.startswith("milliseconds/")})
        return figures

    def figures(self) -> dict[str, float]:
        """Returns medians: milliseconds per step and steps per second over calls, each phase over log intervals; {} if
        no step was taken."""
        calls, phases = self._calls[1:] or self._calls, self._phases[1:] or self._phases
        if not calls:
            return {}
        seconds = float(np.median(calls))
        figures = {"milliseconds_per_step": 1e3 * seconds, "steps_per_second": 1 / seconds}
        for name in phases[0] if phases else ():
            known = [phase[name] for phase in phases if math.isfinite(phase[name])]  # an interval may lack a step
            if known:
                figures[name.replace("/", "_")] = float(np.median(known))
        return figures


def due(before: int, step: int, period: int) -> bool:
    """Returns whether work with this period became due after step `before` and up to `step`. Period 0 means never."""
    return period > 0 and step // period > before // period


def next_stop(step: int, config, local_steps: int = 1) -> int:
    """Returns the last step of the next call of `train_steps`: that of the next periodic work at the latest, rounded up
    to the next exchange."""
    periods = (
        *(config.log_every, config.sample_every, config.eval_every),
        *(config.checkpoint_every, config.weight_check_every),
    )
    ends = [step - step % period + period for period in periods if period > 0]
    stop = min([step + config.steps_per_call, config.steps, *ends])
    return min(-(-stop // local_steps) * local_steps, config.steps)


def describe_start(config: RunConfig, start_step: int, job: Job) -> str:
    """Returns the first line of a run: steps, workers, compressor, topology and bytes."""
    channel, volume = job.model.channel, job.model.bytes_per_step()
    verb = f"Resuming from step {start_step} of" if start_step else "Training"
    workers = f"{job.strategy.num_workers} worker(s), {job.strategy.num_replicas_in_sync} replica(s)"
    reason = f" ({channel.reason})" if channel.reason else ""
    local_steps = config.compression.local_steps
    every = f" every {local_steps} steps" if local_steps > 1 else ""
    wire, dense = local_steps * volume["wire_bytes"], volume["dense_bytes"]
    start = f", from step {config.compression.start_step} on" if config.compression.start_step > 1 else ""
    return (
        f"{verb} {config.train.steps} steps in {config.model_dir} on {workers}: {config.compression.compressor} by "
        f"{channel.topology}{reason}{every}, {wire:,.0f} bytes per update instead of {dense:,}{start}."
    )
