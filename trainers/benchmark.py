"""Measures the exchange: encode, exchange, decode, total, bytes, against TensorFlow's and PyTorch's dense all-reduces.

    python -m trainers.benchmark --output=results/exchange/runs.jsonl
    python -m trainers.benchmark --rate=1gbit --output=results/exchange/runs.jsonl   (root: makes network namespaces)
    python -m trainers.benchmark --rate=1gbit --whole_step --batch_size=8 --output=results/exchange/runs.jsonl
    python -m trainers.benchmark --report=results/exchange/runs.jsonl --figures=results/exchange

All variants run in turn, one thread each; medians and minima are over the rounds. PyTorch's baselines take part when
torch is installed.
"""

import shlex
import sys

from absl import flags

from dqgan_tf.training import command as binary

_VALUES = flags.DEFINE_integer("values", 6342272, "Length of the float32 vector (DCGAN-64, both players).", 1)
_NUM_WORKERS = flags.DEFINE_integer("num_workers", 2, "Worker processes.", lower_bound=2, upper_bound=200)
_ROUNDS = flags.DEFINE_integer("rounds", 20, "Timed exchanges of every variant.", lower_bound=1)
_RATE = flags.DEFINE_string("rate", "loopback", "Rate of every worker's link, such as 1gbit.")
_VARIANTS = flags.DEFINE_multi_string(
    "variant",
    None,
    "float32, float16, torch_float32, torch_float16, torch_uint8, torch_powersgd, or a compressor, with a topology and "
    "a bucket_mb if you like: sign:bucket=512@two_step@4. Repeatable; default: dense, torch's and compressors of 1 to "
    "8 bits.",
)
_WHOLE_STEP = flags.DEFINE_boolean("whole_step", False, "Measure training steps of DCGAN-64 instead of exchanges.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 8, "Images per worker and whole step.", lower_bound=1)
_WIDTH = flags.DEFINE_integer("width", None, "Filters of the whole step's widest-resolution layer; default: 64.", 1)
_PROFILE = binary.define_path(
    "profile",
    "Folder for a TensorFlow profile of one more step of every variant, on worker 0; "
    "`python -m dqgan_tf.benchmarking.timeline FOLDER` tells what happened when.",
)
_OUTPUT = binary.define_path("output", "JSON lines are appended to this file.")
_REPORT = binary.define_path("report", "Measure nothing: make tables and figures from this file.")
_FIGURES = binary.define_path("figures", "Folder for the tables and figures of --report.")


def main(arguments):
    del arguments
    from dqgan_tf.benchmarking import command

    with command.errors_in_one_line():
        if _REPORT.value:
            print(command.make_report(_REPORT.value, _FIGURES.value))
            return
        plan = command.plan(
            _VARIANTS.value,
            _NUM_WORKERS.value,
            _ROUNDS.value,
            _RATE.value,
            _PROFILE.value,
            whole_step=_WHOLE_STEP.value,
        )
        said = shlex.join(["python", "-m", "trainers.benchmark", *sys.argv[1:]])
        if _WHOLE_STEP.value:
            entries = command.run.whole_step(plan, _BATCH_SIZE.value, _WIDTH.value, command.say)
        else:
            entries = command.run.exchange(plan, _VALUES.value, command.say)
        print(command.recorded(entries, said, _OUTPUT.value))


if __name__ == "__main__":
    binary.run(main)
