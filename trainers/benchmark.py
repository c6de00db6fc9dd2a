"""Measures exchanges, whole training steps or the codec: times, phases and bytes of interleaved variants.

python -m trainers.benchmark --output=results/exchange/runs.jsonl
python -m trainers.benchmark --rate=1gbit --whole_step --batch_size=8     (a rate needs root: network namespaces)
python -m trainers.benchmark --whole_step --num_workers=1 --threads=1,2,4
python -m trainers.benchmark --codec --variant=copy --variant=linear:bits=4,bucket=512 --threads=1,2
python -m trainers.benchmark --whole_step --num_workers=1 --batch_size=64 --steps_per_call=10 --device=gpu
python -m trainers.benchmark --against=HEAD~1 --variant=sign:bucket=512
python -m trainers.benchmark --report=results/exchange/runs.jsonl --figures=results/exchange
"""

import sys

from absl import flags

from dqgan_tf.errors import UsageError
from dqgan_tf.training import command

_WHOLE_STEP = flags.DEFINE_boolean("whole_step", False, "Measure training steps of DCGAN, against a plain Keras step.")
_CODEC = flags.DEFINE_boolean("codec", False, "Measure encode and decode: one worker that exchanges with nobody.")
_VARIANTS = flags.DEFINE_multi_string(
    "variant",
    None,
    "float32, float16, torch_float32, torch_float16, torch_uint8, torch_powersgd, copy (codec only), or a compressor "
    "with an optional topology and packet_mb: sign:bucket=512@two_step@4. Repeatable. Default: a list for each "
    "benchmark; PyTorch's where it is installed.",
)
_VALUES = flags.DEFINE_integer("values", 6342272, "Length of the float32 vector (DCGAN-64, both players).", 1)
_NUM_WORKERS = flags.DEFINE_integer("num_workers", 2, "Worker processes; 1 for whole steps only.", 1, 200)
_THREADS = flags.DEFINE_list("threads", ["1"], "Threads of each worker for its computation; several: 1,2,4.")
_ROUNDS = flags.DEFINE_integer("rounds", 20, "Timed steps of every variant.", lower_bound=1)
_DEVICE = flags.DEFINE_enum("device", "cpu", ["cpu", "gpu"], "Where a worker computes; gpu: --codec or one worker.")
_RATE = flags.DEFINE_string("rate", "loopback", "Rate of every worker's link, such as 1gbit.")
_AGAINST = command.define_path("against", "Revision or folder of another checkout that runs in the same rounds.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 8, "Images per worker and step.", lower_bound=1)
_WIDTH = flags.DEFINE_integer("width", None, "Filters of DCGAN's widest-resolution layer. Default: the network's.", 1)
_IMAGE = flags.DEFINE_enum("image", "64x64x3", ["28x28x1", "32x32x3", "64x64x3"], "Shape of the images.")
_STEPS_PER_CALL = flags.DEFINE_integer("steps_per_call", 1, "Steps in one call of the compiled function.", 1)
_PROFILE = command.define_path(
    "profile", "Folder for a TensorFlow profile of one more step of every variant, on worker 0; see --timeline."
)
_OUTPUT = command.define_path("output", "File to which JSON lines are appended.")
_REPORT = command.define_path("report", "Measure nothing: print the tables of this file of JSON lines.")
_FIGURES = command.define_path("figures", "Folder for the tables and figures of --report.")
_TIMELINE = command.define_path("timeline", "Measure nothing: print the operations in the profiles of this folder.")
flags.mark_bool_flags_as_mutual_exclusive(["whole_step", "codec"])
flags.register_validator(
    "threads",
    lambda counts: counts and all(count.isdecimal() and 0 < int(count) <= 1024 for count in counts),
    "must be numbers of 1 to 1024, such as 1,2,4",
)
_MEASURED = {"variant", "threads", "rounds", "against", "profile", "output"}
_FLAGS_OF = {
    "--report": {"report", "figures"},
    "--timeline": {"timeline"},
    "--codec": {*_MEASURED, "codec", "values", "device"},
    "--whole_step": {
        *_MEASURED,
        "whole_step",
        "num_workers",
        "device",
        "rate",
        "batch_size",
        "width",
        "image",
        "steps_per_call",
    },
    "an exchange": {*_MEASURED, "values", "num_workers", "rate"},
}


def main(arguments):
    del arguments
    _refuse_flags_of_other_benchmarks()
    from benchmarks import report, run

    if _REPORT.value:
        entries = report.read(_REPORT.value)
        print(report.write(entries, _FIGURES.value) if _FIGURES.value else report.table(entries))
    elif _TIMELINE.value:
        print(report.timeline(_TIMELINE.value))
    else:
        entries = _measure(run)
        if _OUTPUT.value:
            report.append(_OUTPUT.value, entries)
        print(report.table(entries))


def _measure(run):
    kind = run.WHOLE_STEP if _WHOLE_STEP.value else run.CODEC if _CODEC.value else run.EXCHANGE
    plan = run.make_plan(
        kind,
        _VARIANTS.value,
        num_workers=_NUM_WORKERS.value,
        rounds=_ROUNDS.value,
        rate=_RATE.value,
        threads=tuple(dict.fromkeys(map(int, _THREADS.value))),
        against=_AGAINST.value,
        profile=_PROFILE.value,
        device=_DEVICE.value,
    )
    if kind == run.WHOLE_STEP:
        shape = tuple(map(int, _IMAGE.value.split("x")))
        return run.whole_step(plan, run.Step(_BATCH_SIZE.value, _WIDTH.value, shape, _STEPS_PER_CALL.value), _say)
    return (run.codec if kind == run.CODEC else run.exchange)(plan, _VALUES.value, _say)


def _refuse_flags_of_other_benchmarks():
    modes = {"--report": _REPORT.value, "--timeline": _TIMELINE.value, "--codec": _CODEC.value}
    modes["--whole_step"] = _WHOLE_STEP.value
    mode = next((name for name, value in modes.items() if value), "an exchange")
    for name in sorted(set.union(*_FLAGS_OF.values()) - _FLAGS_OF[mode]):
        if flags.FLAGS[name].present:
            raise UsageError(f"--{name} has no meaning for {mode}; leave one of them out.")


def _say(text):
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    command.run(main)
