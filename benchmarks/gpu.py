"""Measures the compiled functions of the compressors on a GPU against a copy, and what a training step does there.

    python -m benchmarks.gpu --output=results/gpu/runs.jsonl [--values=67108864] [--rounds=20] [--only=kernels|steps]

Kernels: `error_feedback.encode` (reads update and residual, writes payload and residual) and `mean_of_payloads` of
two payloads (reads them, writes a vector), each compiled by XLA. A row has the median milliseconds of one call and of
a copy that moves as many bytes, both over `_CALLS` calls in a row, in turn in every round. `equal_bits` says whether
payload, residual and mean are, bit for bit, those of the same compiled functions on the CPU.

Steps: training steps of DCGAN-64 on one replica. A row has the milliseconds of a step without a profiler, and those
in which the GPU computes, the copies between host and GPU, and the largest amount of memory, all from one profiled
call of `_STEPS` steps. Time against a plain Keras step: `trainers.benchmark --whole_step --num_workers=1
--device=gpu`.
"""

import argparse
import json
import pathlib
import re
import tempfile
import time
from collections.abc import Callable, Iterator

import numpy as np
import tensorflow as tf

from benchmarks import variants, worker
from benchmarks.provenance import command_line, provenance
from dqgan_tf import compressors, error_feedback
from dqgan_tf.compressors.base import wire_words
from dqgan_tf.errors import UsageError
from dqgan_tf.private_tensorflow import XSpace
from dqgan_tf.training import command

KERNELS = (
    *(f"linear:bits={bits},bucket=512" for bits in (8, 4, 2)),
    *("sign:bucket=512", "ternary:bucket=512", "natural", "qsgd", "adaptive:bits=3,bucket=512"),
    *("topk:fraction=0.01", "blocktopk:fraction=0.01", "fp16"),
)
STEPS = ("none", "linear:bits=4,bucket=512", "sign:bucket=512", "topk:fraction=0.01")
_CALLS = 10
_STEPS = 10
_CHECKED_VALUES = 1 << 20
_IMAGE = (64, 64, 3)


def kernels(values: int, rounds: int) -> Iterator[dict]:
    """Yields two rows per compressor, `encode` and `decode`, over a vector of `values` float32 values."""
    random = np.random.RandomState(0)
    update, residual = (tf.constant(1e-3 * random.standard_normal(values).astype(np.float32)) for _ in range(2))
    for spec in KERNELS:
        compressor = compressors.get(spec)
        encode, decode = compiled_pair(compressor, values)
        payload, _ = encode(update, residual)
        payload_bytes = 4 * wire_words(compressor.payload_spec(values))
        equal = equal_bits(compressor)
        parts = {
            "encode": (lambda encode=encode: encode(update, residual), 12 * values + payload_bytes),
            "decode": (lambda decode=decode, payload=payload: decode(payload, payload), 4 * values + 2 * payload_bytes),
        }
        for part, (call, moved) in parts.items():
            median, copy = medians(call, copy_of(moved), rounds)
            yield {
                "kind": part,
                "variant": spec,
                "values": values,
                "bytes": moved,
                "milliseconds_median": round(median, 4),
                "copy_milliseconds_median": round(copy, 4),
                "share_of_copy": round(copy / median, 3),
                "equal_bits": equal,
            }


def compiled_pair(compressor: compressors.Compressor, values: int) -> tuple[Callable, Callable]:
    """Returns (encode: update, residual -> payload, residual; decode: two payloads -> mean), compiled by XLA."""
    seed = tf.constant([1, 2])

    def encode(update, residual):
        encoded = error_feedback.encode(compressor, update, residual, seed)
        return encoded.payload, encoded.residual

    def decode(first, second):
        return compressor.mean_of_payloads([first, second], values)

    return tuple(tf.function(function, jit_compile=True, autograph=False) for function in (encode, decode))


def equal_bits(compressor: compressors.Compressor) -> bool:
    """Returns whether payload, residual and mean of random values have equal bits on the GPU and on the CPU."""
    random, results = np.random.RandomState(1), []
    vectors = [1e-3 * random.standard_normal(_CHECKED_VALUES).astype(np.float32) for _ in range(2)]
    for device in ("GPU:0", "CPU:0"):
        with tf.device(device):
            encode, decode = compiled_pair(compressor, _CHECKED_VALUES)
            payload, residual = encode(*map(tf.constant, vectors))
            results.append([field.numpy().tobytes() for field in (*payload, residual, decode(payload, payload))])
    return results[0] == results[1]


def copy_of(moved: int) -> Callable[[], tf.Tensor]:
    """Returns a function that reads and writes `moved` bytes in all."""
    source = tf.random.normal([moved // 8])
    copy = tf.function(lambda x: x * 0.5, jit_compile=True, autograph=False)
    return lambda: copy(source)


def medians(call: Callable, copy: Callable, rounds: int) -> tuple[float, float]:
    """Returns the median milliseconds of one call of each, in turn in every round."""
    samples = []
    for _ in range(rounds + 2):  # the first two warm up
        samples.append([])
        for function in (call, copy):
            tf.test.experimental.sync_devices()
            start = time.perf_counter()
            for _ in range(_CALLS):
                function()
            tf.test.experimental.sync_devices()
            samples[-1].append(1e3 * (time.perf_counter() - start) / _CALLS)
    return tuple(np.median(samples[2:], axis=0))


def steps(batch_size: int, rounds: int) -> Iterator[dict]:
    """Yields a row per compressor of `STEPS`; the model is that of `worker.whole_step`."""
    step = {"network": {"network": "dcgan"}, "data_shape": _IMAGE, "batch_size": batch_size, "steps_per_call": _STEPS}
    for spec in STEPS:
        variant = variants.settings(spec, 1 << 20, whole_step=True)  # any size tells whether it is contractive
        [measured] = worker.whole_step(step | {"variants": [variant]})
        samples = []
        for _ in range(rounds + 2):
            start = time.perf_counter()
            measured.step()
            tf.test.experimental.sync_devices()
            samples.append(1e3 * (time.perf_counter() - start) / _STEPS)
        tf.config.experimental.reset_memory_stats("GPU:0")
        with tempfile.TemporaryDirectory() as folder:
            with tf.profiler.experimental.Profile(folder):
                measured.step()
                tf.test.experimental.sync_devices()
            profile = read_profile(next(pathlib.Path(folder).rglob("*.xplane.pb")))
        yield {
            "kind": "step",
            "variant": spec,
            "batch_size": batch_size,
            "milliseconds_median": round(float(np.median(samples[2:])), 3),
            "peak_mebibytes": round(tf.config.experimental.get_memory_info("GPU:0")["peak"] / 2**20),
            **profile,
        }


def read_profile(path: pathlib.Path) -> dict:
    """Returns, per step: milliseconds in which the GPU is busy, kernels, and copies and their bytes by kind."""
    space = XSpace()
    space.ParseFromString(path.read_bytes())
    spans, copies, kernel_count = [], {}, 0
    for plane in space.planes:
        if not plane.name.startswith("/device:GPU"):
            continue
        for line in plane.lines:
            if not line.name.startswith("Stream"):
                continue
            for event in line.events:
                start = line.timestamp_ns * 1e3 + event.offset_ps
                spans.append((start, start + event.duration_ps))
                name = plane.event_metadata[event.metadata_id].name
                if not name.startswith("Memcpy"):
                    kernel_count += 1
                    continue
                texts = [
                    stat.str_value or plane.stat_metadata[stat.ref_value].name
                    for stat in event.stats
                    if plane.stat_metadata[stat.metadata_id].name == "memcpy_details"
                ]
                size = sum(int(number) for text in texts for number in re.findall(r"\bsize:(\d+)", text))
                entry = copies.setdefault(name, {"count": 0, "bytes": 0})
                entry["count"] += 1
                entry["bytes"] += size
    per_step = {name: {key: value / _STEPS for key, value in entry.items()} for name, entry in copies.items()}
    return {
        "busy_milliseconds": round(covered(spans) / 1e9 / _STEPS, 3),
        "kernels_per_step": kernel_count / _STEPS,
        "copies_per_step": per_step,
    }


def covered(spans: list[tuple[float, float]]) -> float:
    """Returns the length of the union of the spans (start, end).

    >>> covered([(0, 2), (1, 3), (5, 6)])
    4
    """
    total, reached = 0, None
    for start, end in sorted(spans):
        if reached is None or start > reached:
            reached = start
        total += max(0, end - reached)
        reached = max(reached, end)
    return total


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output", required=True, help="file to which JSON lines are appended")
    parser.add_argument(
        "--values", type=command.positive, default=1 << 26, help="length of the float32 vector of the kernels"
    )
    parser.add_argument("--batch_size", type=command.positive, default=64, help="images of a training step")
    parser.add_argument("--rounds", type=command.positive, default=20, help="timed rounds")
    parser.add_argument("--only", choices=("kernels", "steps"), help="leaves the other part out")
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Appends the rows to `--output` as they come.

    Raises:
      UsageError: TensorFlow sees no GPU.
    """
    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        raise UsageError("benchmarks.gpu needs a GPU, and TensorFlow sees none: install the extra `gpu`, see BUILD.md.")
    tf.config.set_visible_devices(gpus[0], "GPU")  # one replica
    tf.config.experimental.set_memory_growth(gpus[0], True)
    origin = provenance(command_line("benchmarks.gpu"), threads=0, seeds=[0], gpus=True)
    parts = {
        "kernels": lambda: kernels(arguments.values, arguments.rounds),
        "steps": lambda: steps(arguments.batch_size, arguments.rounds),
    }
    pathlib.Path(arguments.output).parent.mkdir(parents=True, exist_ok=True)
    with open(arguments.output, "a", encoding="utf-8") as file:
        for name, rows in parts.items():
            for row in rows() if arguments.only in (None, name) else ():
                print(json.dumps(row | origin), file=file, flush=True)
                print(json.dumps(row), flush=True)


if __name__ == "__main__":
    command.run_parsed(main, make_parser())
