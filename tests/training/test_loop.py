"""The training loop on stand-ins for model and job: when it looks, saves, stops and gives up."""

import dataclasses
import json
import signal
import types

import numpy as np
import pytest

from dqgan_tf.config import EvaluationConfig, RunConfig, TrainConfig
from dqgan_tf.data import DataSpec
from dqgan_tf.distribute.message_board import MessageBoard
from dqgan_tf.errors import TrainingError
from dqgan_tf.training import checkpoint, loop
from dqgan_tf.training.reporter import Reporter

PHASES = {"milliseconds/compute": 1.0, "milliseconds/reduction": 0.5}


class Model:
    """Takes steps that cost nothing; skips all from `skips_from` on; replica 1 diverges at `diverges_at`."""

    def __init__(self, skips_from=None, diverges_at=None):
        self.calls, self.step, self.drained = [], 0, 0
        self.skips_from, self.diverges_at = skips_from, diverges_at
        self.held = 0  # in residuals

    def bytes_per_step(self, steps=None):
        """A step up to 12 sends 80 bytes, a later one 10."""
        sent = 10 if steps is None else sum(80 if step <= 12 else 10 for step in steps) / len(steps)
        return {"sent_bytes": sent, "wire_bytes": sent / 2}

    def train_steps(self, iterator, count):
        self.calls.append(count)
        self.step += count
        return count

    @property
    def skipped_in_row(self):
        return 0 if self.skips_from is None else max(0, self.step - self.skips_from + 1)

    skipped = skipped_in_row

    def local_value(self, value):
        return value

    def weight_digests(self):
        other = self.diverges_at is not None and self.step >= self.diverges_at
        return np.array([[1, 2], [1, 3 if other else 2]]) + self.held

    def flush_residuals(self):
        self.calls.append("flush")
        self.held = 0

    def drain_metrics(self, steps):
        self.drained += 1
        return PHASES | {"wire_bytes": self.bytes_per_step(steps)["wire_bytes"]}


class Recorder:
    """Stands for checkpoints and reporter: writes down what happens at which step; cannot write after `fails_after`."""

    def __init__(self, fails_after=None):
        self.saved, self.logged, self.pictured, self.evaluated, self.kept = [], [], [], [], []
        self.fails_after, self.failure, self.closed = fails_after, "", False
        self.recorded = {}  # figures by step

    def save(self, step):
        self.saved.append(step)

    def log(self, step, figures):
        self.logged.append((step, figures))
        if self.fails_after is not None and step > self.fails_after:
            self.failure = "No space left on device"

    def sample(self, step):
        self.pictured.append(step)

    def has_pictures(self, step):
        return step in self.pictured

    def recorded_evaluation(self, step):
        return self.recorded.get(step, {})

    def evaluate(self, step, evaluator, interrupting):
        with interrupting():
            self.evaluated.append(step)
            return evaluator() or {}
        return {}

    def keep_best(self, step, figure, value):
        self.kept.append((step, figure, value))

    def best(self):
        return checkpoint.Best(None, "run", *self.kept[-1][1:]) if self.kept else None

    def say(self, text):
        pass

    def close(self):
        self.closed = True


class Board(MessageBoard):
    """A board on which worker 1 posts the same text whenever it is asked; keeps what this worker posts."""

    def __init__(self, other):
        super().__init__(0, 2)
        self.other, self.posted, self.topics = other, [], []

    def exchange(self, topic, text, timeout_seconds=0.0):
        self.topics.append((topic, timeout_seconds))
        self.posted.append(text)
        return [text, self.other]


def run(model, start_step=0, received=None, recorder=None, board=None, **train):
    """Returns (what `Loop.run` returned, the recorder)."""
    loop_, recorder = make(model, start_step, received, recorder, board, **train)
    return loop_.run(iter(())), recorder


def make(model, start_step=0, received=None, recorder=None, board=None, evaluator=None, evaluation=None, **train):
    quiet = {"log_every": 0, "sample_every": 0, "checkpoint_every": 0, "weight_check_every": 0}
    config = RunConfig(train=TrainConfig(**quiet | train), evaluation=evaluation or EvaluationConfig())
    strategy = types.SimpleNamespace(is_chief=True)
    job = types.SimpleNamespace(config=config, model=model, board=board or MessageBoard(0, 1), strategy=strategy)
    recorder, stop = recorder or Recorder(), loop.StopSignal()
    stop.received = received
    model.step = start_step
    return loop.Loop(job, recorder, recorder, stop, start_step, evaluator), recorder


class TestSchedule:
    def test_looks_at_the_periods_and_at_the_end(self):
        model = Model()
        result, seen = run(model, steps=25, steps_per_call=7, log_every=10, sample_every=0, checkpoint_every=12)
        assert result is None
        assert model.calls == [7, 3, 2, 7, 1, 4, 1]  # to 7, 10, 12, 19, 20, 24, 25
        assert [step for step, _ in seen.logged] == [10, 20, 25]
        assert seen.saved == [12, 24]  # the last one is written by `finish`
        assert seen.pictured == [25]
        step_milliseconds = seen.logged[0][1].pop("milliseconds/step")
        assert step_milliseconds > 0
        bytes_ = {"sent_bytes_per_step": 80.0, "wire_bytes": 40.0}
        assert seen.logged[0][1] == PHASES | {"skipped": 0} | bytes_

    def test_bytes_are_those_of_the_steps_since_the_last_line(self):
        """10 exact steps; 2 exact and 8 compressed ones; 5 compressed ones. After a resume at 11: 1 and 8."""
        _, seen = run(Model(), steps=25, steps_per_call=7, log_every=10)
        assert [figures["sent_bytes_per_step"] for _, figures in seen.logged] == [80, (2 * 80 + 8 * 10) / 10, 10]
        assert [figures["wire_bytes"] for _, figures in seen.logged] == [40, 12, 5]
        _, seen = run(Model(), start_step=11, steps=25, steps_per_call=7, log_every=10)
        assert seen.logged[0][1]["sent_bytes_per_step"] == (80 + 8 * 10) / 9

    def test_resumes_in_the_middle_of_a_period(self):
        model = Model()
        run(model, start_step=13, steps=25, steps_per_call=20, log_every=10)
        assert model.calls == [7, 5]

    def test_has_nothing_to_do_at_the_end(self):
        model = Model()
        assert run(model, start_step=25, steps=25)[0] is None
        assert model.calls == []

    def test_a_signal_saves_and_leaves(self):
        model = Model()
        result, seen = run(model, steps=100, steps_per_call=10, received=15)
        assert result == 15 and model.calls == [10] and seen.saved == [10]

    def test_a_signal_does_not_save_twice(self):
        _, seen = run(Model(), steps=100, steps_per_call=10, checkpoint_every=10, received=15)
        assert seen.saved == [10]


class TestGuards:
    def test_gives_up_after_too_many_skipped_steps(self):
        model = Model(skips_from=21)
        with pytest.raises(TrainingError, match="The last 10 steps up to step 30 were skipped, .*--max_skipped_in_row"):
            run(model, steps=100, steps_per_call=5, max_skipped_in_row=10)

    def test_names_a_shift_among_what_may_be_too_large(self):
        loop_, _ = make(Model(skips_from=21), steps=100, steps_per_call=5, max_skipped_in_row=10)
        config = loop_._job.config
        loop_._job.config = dataclasses.replace(config, compression=dataclasses.replace(config.compression, shift=1.0))
        with pytest.raises(TrainingError, match="or lower --shift=1 or the learning rates in another --model_dir"):
            loop_.run(iter(()))

    def test_some_skipped_steps_are_survived(self):
        assert run(Model(skips_from=92), steps=100, steps_per_call=5, max_skipped_in_row=10)[0] is None

    def test_0_never_gives_up(self):
        assert run(Model(skips_from=1), steps=100, max_skipped_in_row=0)[0] is None

    def test_different_weights_stop_the_run(self):
        with pytest.raises(
            TrainingError, match=r"At step 20 the weights of replicas \[1\] differ from those of replica 0"
        ):
            run(Model(diverges_at=15), steps=100, steps_per_call=5, weight_check_every=10)

    def test_weights_are_compared_at_the_end_in_any_case(self):
        with pytest.raises(TrainingError, match="At step 100"):
            run(Model(diverges_at=100), steps=100)

    def test_nothing_is_saved_of_a_run_that_diverged(self):
        model = Model(diverges_at=10)
        with pytest.raises(TrainingError) as caught:
            run(model, steps=100, steps_per_call=10, weight_check_every=10, checkpoint_every=10)
        assert "step 10" in str(caught.value) and model.calls == [10]


class TestSharedFiles:
    """What the chief cannot write ends all workers with the reason, at the exchange that they make anyway."""

    def test_the_chief_tells_the_others_and_leaves(self):
        model, board = Model(), Board('["", null]')
        with pytest.raises(TrainingError, match="Worker 0 could not write .* by step 30: No space left on device"):
            run(model, recorder=Recorder(20), board=board, steps=100, steps_per_call=10, log_every=10)
        assert model.calls == [10, 10, 10]
        assert board.posted == ['["", null]'] * 2 + ['["No space left on device", null]']

    def test_the_others_leave_too(self):
        model = Model()
        with pytest.raises(TrainingError, match="Worker 1 could not write .* by step 10: disk full.*is intact"):
            run(model, board=Board('["disk full", null]'), steps=100, steps_per_call=10)
        assert model.calls == [10]

    def test_a_file_that_fails_at_the_end(self):
        """Closing flushes: the last moment at which the disk may refuse."""
        loop_, recorder = make(Model(), 100, board=Board('["disk full", null]'), steps=100)
        with pytest.raises(TrainingError, match="disk full"):
            loop_.close()
        assert recorder.closed

    def test_another_workers_signal(self):
        result, seen = run(Model(), board=Board('["", 15]'), steps=100, steps_per_call=10)
        assert result == 15 and seen.saved == [10]


class TestEvaluations:
    def test_at_the_period_and_at_the_end(self):
        loop_, seen = make(Model(), evaluator=lambda: None, steps=25, steps_per_call=20, eval_every=10)
        assert loop_.run(iter(())) is None
        assert seen.evaluated == [10, 20, 25]

    def test_none_without_a_period(self):
        loop_, seen = make(Model(), evaluator=lambda: None, steps=25, eval_every=0)
        assert loop_.run(iter(())) is None and seen.evaluated == []

    def test_all_workers_meet_after_it_and_wait_long(self):
        """Also one without an evaluator, which is any worker but the chief."""
        for evaluator in (lambda: None, None):
            board = Board('["", null]')
            loop_, seen = make(Model(), board=board, evaluator=evaluator, steps=20, steps_per_call=10, eval_every=20)
            loop_.run(iter(()))
            assert board.topics == [("stop", 0.0), ("evaluation", 86400.0), ("stop", 0.0)]
            assert seen.evaluated == ([20] if evaluator else [])

    def test_the_best_ones_are_saved_and_kept(self):
        """At steps without another checkpoint; 0.6 again is no better, and NaN never is."""
        values = iter([0.5, 0.4, 0.6, 0.6, float("nan"), 0.7])
        evaluation = EvaluationConfig(best_figure="recall")
        figures = lambda: {"recall(x,n=7)": next(values), "precision(x,n=7)": 1.0}  # noqa: E731
        loop_, seen = make(Model(), evaluator=figures, evaluation=evaluation, steps=60, eval_every=10)
        loop_.run(iter(()))
        assert seen.saved == [10, 30, 60]
        assert seen.kept == [(10, "recall(x,n=7)", 0.5), (30, "recall(x,n=7)", 0.6), (60, "recall(x,n=7)", 0.7)]

    def test_the_others_keep_what_the_chief_says(self):
        class Chief(Board):
            def exchange(self, topic, text, timeout_seconds=0.0):
                assert topic != "evaluation" or text == "null"
                return ['["recall(x,n=7)", 0.6]' if topic == "evaluation" else text, text]

        loop_, seen = make(Model(), board=Chief(""), steps=10, eval_every=10)
        loop_.run(iter(()))
        assert seen.saved == [10] and seen.kept == [(10, "recall(x,n=7)", 0.6)]

    def test_a_signal_ends_an_evaluation_and_saves(self):
        """The launcher kills workers 20 s after it has sent them a signal."""

        def endless():
            signal.raise_signal(signal.SIGTERM)
            raise AssertionError("goes on")

        loop_, seen = make(Model(), evaluator=endless, steps=20, steps_per_call=10, eval_every=10)
        with loop_._stop:
            assert loop_.run(iter(())) == signal.SIGTERM
        assert seen.evaluated == [10] and seen.saved == [10]

    def test_a_signal_before_an_evaluation_leaves_it_to_the_next_start(self):
        loop_, seen = make(Model(), received=15, evaluator=lambda: {}, steps=20, steps_per_call=10, eval_every=10)
        assert loop_.run(iter(())) == 15
        assert seen.evaluated == [] and seen.saved == [10]


class TestCatchUp:
    """A run that goes on does what its end at that step has prevented."""

    how = {"steps": 20, "steps_per_call": 10, "eval_every": 10, "sample_every": 10, "checkpoint_every": 10}

    @pytest.mark.parametrize("end", [10, 20])
    def test_an_evaluation_that_a_signal_ended(self, end):
        def endless():
            signal.raise_signal(signal.SIGTERM)

        recorder = Recorder()
        loop_, _ = make(Model(), end - 10, recorder=recorder, evaluator=endless, **self.how)
        recorder.recorded = {end - 10: {"recall": 0.5}}
        with loop_._stop:
            assert loop_.run(iter(())) == signal.SIGTERM
        assert recorder.saved == recorder.pictured[-1:] == recorder.evaluated == [end]
        again = Recorder()
        again.pictured = list(recorder.pictured)
        loop_, _ = make(Model(), end, recorder=again, evaluator=lambda: {"recall": 0.7}, **self.how)
        assert loop_.run(iter(())) is None
        assert again.evaluated == list(range(end, 21, 10)) and again.pictured[-1] == 20
        assert len(set(again.pictured)) == len(again.pictured)

    @pytest.mark.parametrize(("start", "evaluated"), [(96, [104, 112]), (104, [104, 112])])
    def test_work_that_was_due_within_the_last_round(self, start, evaluated):
        """With K = 8 the work of step 100 is done at 104."""
        how = {"steps": 112, "steps_per_call": 8, "eval_every": 100, "sample_every": 100}
        loop_, seen = make(Model(), start, evaluator=lambda: {"recall": 0.7}, **how)
        config = loop_._job.config
        compression = dataclasses.replace(config.compression, local_steps=8)
        loop_._job.config = dataclasses.replace(config, compression=compression)
        assert loop_.run(iter(())) is None
        assert seen.evaluated == seen.pictured == evaluated

    def test_nothing_that_is_recorded(self):
        recorder = Recorder()
        recorder.pictured, recorder.recorded = [10], {10: {"recall(x,n=7)": 0.5}}
        evaluation = EvaluationConfig(best_figure="recall")
        loop_, seen = make(
            Model(), 10, recorder=recorder, evaluator=lambda: {}, evaluation=evaluation, **self.how | {"steps": 11}
        )
        loop_.run(iter(()))
        assert (seen.pictured, seen.evaluated) == ([10, 11], [11])
        assert seen.kept == [(10, "recall(x,n=7)", 0.5)]  # its end may have come before this

    @pytest.mark.parametrize("is_own_recorded", [True, False])
    def test_an_evaluation_of_the_user_takes_no_part(self, tmp_path, is_own_recorded):
        """It has another number of samples: its figure would begin anew, and the best checkpoint be removed."""
        own = {"step": 10, "recall(small_classifier(x),n=7)": 0.5, "num_fake": 7}
        lines = [own] * is_own_recorded + [{"step": 10, "recall(small_classifier(x),n=3)": 0.1, "num_fake": 3}]
        lines = [line | {"feature_network": "small_classifier(x)", "generator": "averaged"} for line in lines]
        (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        evaluation = EvaluationConfig(best_figure="recall", eval_samples=7)
        job = types.SimpleNamespace(
            config=RunConfig(evaluation=evaluation), data_spec=DataSpec("images", (4, 4, 1), 10, "x")
        )
        reporter = types.SimpleNamespace(_active=True, _folder=tmp_path, _job=job)
        recorder = Recorder()
        recorder.recorded_evaluation = lambda step: Reporter.recorded_evaluation(reporter, step)
        recorder.kept = [(5, "recall(small_classifier(x),n=7)", 0.4)]
        figures = lambda: {"recall(small_classifier(x),n=7)": 0.3}  # noqa: E731
        how = self.how | {"steps": 11}
        loop_, seen = make(Model(), 10, recorder=recorder, evaluator=figures, evaluation=evaluation, **how)
        loop_.run(iter(()))
        assert seen.evaluated == ([11] if is_own_recorded else [10, 11])
        assert seen.kept[1:] == ([(10, "recall(small_classifier(x),n=7)", 0.5)] if is_own_recorded else [])

    @pytest.mark.parametrize("held", [5, 0])
    def test_a_run_that_ends_at_its_checkpoint(self, held):
        """By fewer steps than before: residuals are flushed, and the weights that this makes are checked and saved.

        A checkpoint from behind a flush is not written again: a kill would leave none.
        """
        model = Model()
        model.held = held
        loop_, seen = make(model, 10, evaluator=lambda: {"recall": 0.7}, steps=10, eval_every=5)
        seen.pictured, seen.recorded = [10], {10: {"recall": 0.5}}  # of the weights before the flush
        config = loop_._job.config
        compression = dataclasses.replace(config.compression, flush_residuals=True)
        loop_._job.config = dataclasses.replace(config, compression=compression)
        assert loop_.run(iter(())) is None
        assert model.calls == ["flush"] and seen.logged == []
        again = [10] if held else []
        assert (seen.saved, seen.pictured, seen.evaluated) == ([], [10, *again], again)
        loop_._save()  # as `finish` does
        assert seen.saved == again
        assert loop_._clock.figures() == {}

    def test_a_signal_in_it(self):
        model = Model()
        assert run(model, start_step=10, received=15, steps=20)[0] == 15
        assert model.calls == []


class TestNextStop:
    def test_ends_at_every_multiple_and_never_beyond(self):
        """For any periods: forward, at most `steps_per_call`, and no multiple of a period is jumped over."""
        random = np.random.default_rng(0)
        for _ in range(500):
            log, sample, check, weights, evaluation = (int(p) for p in random.integers(0, 12, 5))
            periods = (log, sample, check, weights, evaluation)
            config = TrainConfig(
                steps=int(random.integers(1, 60)),
                steps_per_call=int(random.integers(1, 15)),
                log_every=log,
                sample_every=sample,
                eval_every=evaluation,
                checkpoint_every=check,
                weight_check_every=weights,
            )
            step = int(random.integers(0, config.steps))
            end = loop.next_stop(step, config)
            assert step < end <= min(step + config.steps_per_call, config.steps)
            passed = range(step + 1, end)
            assert not [t for t in passed for p in periods if loop.due(t - 1, t, p)]
            full = end in (step + config.steps_per_call, config.steps)
            assert full or any(loop.due(step, end, p) for p in periods)

    def test_with_local_steps_calls_end_with_exchanges(self):
        """Period 10 and rounds of 4: work due at 10, 20, 30 waits for 12, 20, 32; the last round has 2 steps."""
        config = TrainConfig(
            steps=34, steps_per_call=6, log_every=10, sample_every=0, checkpoint_every=0, weight_check_every=0
        )
        ends, logged = [0], []
        while ends[-1] < 34:
            ends.append(loop.next_stop(ends[-1], config, 4))
            logged += [ends[-1]] * loop.due(ends[-2], ends[-1], 10)
        assert ends == [0, 8, 12, 20, 28, 32, 34] and logged == [12, 20, 32]

    @pytest.mark.parametrize(
        ("step", "period", "expected"), [(10, 5, True), (11, 5, False), (10, 0, False), (3, 1, True)]
    )
    def test_due(self, step, period, expected):
        assert loop.due(step - 1, step, period) is expected


class TestStepClock:
    @pytest.fixture
    def clock(self, monkeypatch):
        """A step clock and the time that it reads, as a list of one number."""
        now = [100.0]
        monkeypatch.setattr(loop.time, "perf_counter", lambda: now[0])
        return loop.StepClock(), now

    def test_is_the_median_call_after_the_first(self, clock):
        """10 steps in 0.5 s are 20 a second, 50 ms each, whatever the first call took and one that was disturbed."""
        clock, now = clock
        for seconds in (30.0, 0.5, 5.0, 0.5):
            with clock.measure(10):
                now[0] += seconds
            now[0] += 7.0  # looks do not count
        assert clock.figures() == {"milliseconds_per_step": 50.0, "steps_per_second": 20.0}

    def test_calls_of_other_lengths_count_by_the_step(self, clock):
        clock, now = clock
        for count, seconds in ((1, 30.0), (10, 5.0), (2, 1.0)):
            with clock.measure(count):
                now[0] += seconds
        assert clock.figures()["steps_per_second"] == 2.0

    def test_a_call_that_failed_does_not_count(self, clock):
        clock, now = clock
        with clock.measure(1):
            now[0] += 1.0
        with pytest.raises(RuntimeError), clock.measure(10):
            now[0] += 5.0
            raise RuntimeError
        with clock.measure(2):
            now[0] += 1.0
        assert clock.figures()["steps_per_second"] == 2.0

    def test_an_interval_is_the_mean_over_its_steps_without_the_first_call(self, clock):
        """3 s in 30 steps, then 4 s in 10; the first call counts only alone."""
        clock, now = clock

        def call(count, seconds):
            with clock.measure(count):
                now[0] += seconds

        call(10, 30.0), call(10, 2.0), call(20, 1.0)
        assert clock.end_interval(PHASES)["milliseconds/step"] == pytest.approx(100.0)
        call(10, 4.0)
        assert clock.end_interval(PHASES)["milliseconds/step"] == pytest.approx(400.0)
        assert np.isnan(clock.end_interval(PHASES)["milliseconds/step"])

    def test_an_interval_of_the_first_call_alone(self, clock):
        clock, now = clock
        with clock.measure(10):
            now[0] += 30.0
        assert clock.end_interval(PHASES)["milliseconds/step"] == pytest.approx(3000.0)

    def test_the_parts_of_a_step_add_up(self, clock):
        """Not those of the interval whose `step` is without the first call, which phases count."""
        clock, now = clock

        def interval(phases, *seconds):
            for of_call in seconds:
                with clock.measure(10):
                    now[0] += of_call
            return clock.end_interval({f"milliseconds/{name}": 1e3 * value for name, value in phases.items()})

        first = interval({"compute": 1.2, "reduction": 0.3}, 30.0, 4.0)
        assert first["milliseconds/step"] == pytest.approx(400.0) and "milliseconds/rest" not in first
        for reduction, rest in ((0.0625, 212.5), (0.25, 25.0)):
            later = interval({"compute": 0.125, "reduction": reduction}, 4.0, 4.0)
            assert later["milliseconds/rest"] == pytest.approx(rest)
            parts = ("milliseconds/compute", "milliseconds/reduction", "milliseconds/rest")
            assert sum(later[part] for part in parts) == pytest.approx(later["milliseconds/step"])
        assert clock.figures()["milliseconds_rest"] == pytest.approx((212.5 + 25.0) / 2)

    def test_nothing_measured(self, clock):
        assert clock[0].figures() == {}

    @pytest.mark.parametrize(("values", "expected"), [((1000.0, 1.0, 2.0, 9.0), 2.0), ((4.0,), 4.0)])
    def test_phases_are_medians_without_the_first_interval(self, clock, values, expected):
        """One interval is better than none."""
        clock, now = clock
        with clock.measure(1):
            now[0] += 0.5
        for value in values:
            clock.end_interval(PHASES | {"milliseconds/encode": value, "generator_loss": 3.0})
        figures = clock.figures()
        assert (figures["milliseconds_per_step"], figures["steps_per_second"]) == (500.0, 2.0)
        assert figures["milliseconds_encode"] == expected and "generator_loss" not in figures

    def test_an_interval_without_an_accepted_step_does_not_count(self, clock):
        clock, now = clock
        with clock.measure(1):
            now[0] += 0.5
        for value in (9.0, np.nan, 2.0):
            clock.end_interval(PHASES | {"milliseconds/encode": value, "milliseconds/decode": np.nan})
        figures = clock.figures()
        assert figures["milliseconds_encode"] == 2.0 and "milliseconds_decode" not in figures


def test_a_signal_before_the_interruptible_part_does_not_end_it():
    with loop.StopSignal() as stop:
        signal.raise_signal(signal.SIGTERM)
        reached = False
        with stop.interrupting():
            reached = True
        assert reached


def test_a_second_signal_interrupts_and_says_which():
    with loop.StopSignal() as stop:
        signal.raise_signal(signal.SIGTERM)
        assert stop.received == signal.SIGTERM
        with pytest.raises(KeyboardInterrupt) as caught:
            signal.raise_signal(signal.SIGINT)
    assert caught.value.args == (signal.SIGINT,)
