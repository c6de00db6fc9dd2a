"""Measures the exchange of one vector: encode, exchange, decode, total, bytes, against TensorFlow's dense all-reduces.

    python -m trainers.benchmark --output=results/exchange/runs.jsonl
    python -m trainers.benchmark --rate=1gbit --output=results/exchange/runs.jsonl   (root: makes network namespaces)

All variants run in turn in the same processes, one thread each; medians and minima are over the rounds.
"""

import json
import pathlib
import subprocess
import sys

from absl import app, flags

_VALUES = flags.DEFINE_integer("values", 6342272, "Length of the float32 vector (DCGAN-64, both players).", 1)
_NUM_WORKERS = flags.DEFINE_integer("num_workers", 2, "Worker processes.", lower_bound=2)
_ROUNDS = flags.DEFINE_integer("rounds", 20, "Timed exchanges of every variant.", lower_bound=1)
_RATE = flags.DEFINE_string("rate", None, "Rate of every worker's link as tc writes it, e.g. 1gbit; default: loopback.")
_OUTPUT = flags.DEFINE_string("output", None, "JSON lines are appended to this file.")
_VARIANTS = flags.DEFINE_multi_string(
    "variant",
    [
        "float32",
        "float16",
        *(f"linear:bits={b},bucket=512" for b in (8, 4, 2)),
        "sign:bucket=512",
        "topk:fraction=0.01",
    ],
    "float32 or float16 (dense), or a compressor, with a topology if you like: sign:bucket=512@two_step. Repeatable.",
)


def main(argv):
    del argv
    from dqgan_tf.benchmarking import run, table

    try:
        entries = run.run(_VALUES.value, _NUM_WORKERS.value, _ROUNDS.value, _VARIANTS.value, _RATE.value)
    except (OSError, RuntimeError, subprocess.CalledProcessError) as error:
        print(f"ERROR: {error} {getattr(error, 'stderr', None) or ''}", file=sys.stderr)
        raise SystemExit(2) from None
    print(table.table(entries))
    if _OUTPUT.value:
        pathlib.Path(_OUTPUT.value).parent.mkdir(parents=True, exist_ok=True)
        with open(_OUTPUT.value, "a", encoding="utf-8") as file:
            file.writelines(json.dumps(entry) + "\n" for entry in entries)


if __name__ == "__main__":
    app.run(main)
