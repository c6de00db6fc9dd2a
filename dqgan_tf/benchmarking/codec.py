"""Times encode with error feedback and decode-and-average on one core, beside a copy of the vector.

    python -m dqgan_tf.benchmarking.codec [--values=6342272] [--rounds=20] [--json=FILE] [SPEC ...]

One thread on the last core. Every round runs every function once; minima of CPU time are reported. The codec is what
the exchange runs: a residual that is written block by block goes into a variable, in place, other outputs into new
tensors. The copy is XLA's own, into a new tensor; "memory" is numpy's, into old memory, for comparison.
"""

import argparse
import json
import os
import pathlib
import time

import numpy as np
import tensorflow as tf

from dqgan_tf import compressors
from dqgan_tf.compressors import blocks
from dqgan_tf.distribute import topologies

SPECS = (
    *(f"linear:bits={bits}" for bits in range(2, 9)),
    *("linear:bits=4,rounding=stochastic", "sign", "ternary", "natural", "qsgd", "nuqsgd", "fp16", "bf16"),
    *("topk:fraction=0.01", "topk:fraction=0.01+linear:bits=8", "randomk:fraction=0.01", "blocktopk:fraction=0.01"),
    *(f"adaptive:bits={bits}" for bits in (3, 4, 5)),
)
_COPY, _MEMORY = "copy", "memory"


def measure(specs, n: int, rounds: int) -> list[dict]:
    """Returns one entry a compressor: milliseconds of both directions and of the copies of the same run."""
    random = np.random.default_rng(0)
    update, residual = (tf.constant(random.standard_normal(n).astype(np.float32) * scale) for scale in (1e-3, 1e-4))
    source, target, seed = update.numpy(), np.zeros(n, np.float32), tf.constant([1, 2])
    copy = _compiled(lambda vector: vector * 0.5)
    timed = {_COPY: lambda: copy(update), _MEMORY: lambda: np.copyto(target, source)}
    for spec in specs:
        encode, decode = codec(compressors.get(spec), n)
        payload = encode(update, residual, seed).payload
        timed[spec, "encode"] = lambda encode=encode: encode(update, residual, seed)
        timed[spec, "decode"] = lambda decode=decode, payload=payload: decode(payload, payload)
    spent = _minima(timed, rounds)
    return [
        {
            "compressor": spec,
            "values": n,
            "rounds": rounds,
            "encode_milliseconds": spent[spec, "encode"],
            "decode_milliseconds": spent[spec, "decode"],
            "copy_milliseconds": spent[_COPY],
            "memory_copy_milliseconds": spent[_MEMORY],
        }
        for spec in specs
    ]


def codec(compressor, n: int):
    """Returns (update, residual, seed) -> `Encoded`, whose residual the next call overwrites, and (payload, payload) ->
    mean, both compiled."""
    encoder = topologies.Encoder(error_feedback=True, block=blocks.CPU_BLOCK)
    buffer = tf.Variable(tf.zeros([n])) if encoder.writes_into_buffers(compressor) else None

    @_compiled
    def encode(update, residual, seed):
        one = encoder.encode(compressor, update, residual, seed, buffer)
        return one if buffer is None else one._replace(residual=None)

    @_compiled
    def decode(*payloads):
        return compressor.mean_of_payloads(payloads, n)

    def encode_and_read(*arguments):
        one = encode(*arguments)
        return one if buffer is None else one._replace(residual=buffer.read_value())

    return encode_and_read, decode


def table(entries: list[dict]) -> str:
    """Returns a Markdown table; "of copy" is the speed of a copy's: its time divided by this one's."""
    lines = ["| compressor | encode+EF ms | of copy | decode-mean of 2, ms | of copy |", "|---|---|---|---|---|"]
    for entry in entries:
        spent = [entry[f"{phase}_milliseconds"] for phase in ("encode", "decode")]
        cells = [f"{value:.1f} | {entry['copy_milliseconds'] / value:.0%}" for value in spent]
        lines.append("| " + " | ".join([entry["compressor"], *cells]) + " |")
    return "\n".join(lines)


def _compiled(function):
    return tf.function(function, jit_compile=True, autograph=False)


def _minima(timed, rounds):
    """Returns the least milliseconds of CPU of each function, after one call to warm up, interleaved."""
    spent = {name: [] for name in timed}
    for function in timed.values():
        function()
    for _ in range(rounds):
        for name, function in timed.items():
            start = time.process_time()
            function()
            spent[name].append(1e3 * (time.process_time() - start))
    return {name: min(times) for name, times in spent.items()}


def main() -> None:
    """Measures, prints the table and writes JSON lines; see the module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("specs", nargs="*", default=SPECS)
    parser.add_argument("--values", type=int, default=6_342_272)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--json", type=pathlib.Path)
    arguments = parser.parse_args()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    entries = measure(arguments.specs, arguments.values, arguments.rounds)
    memory, copy = (entries[0][f"{kind}_milliseconds"] for kind in ("memory_copy", "copy"))
    print(f"{arguments.values} values; copy {copy:.1f} ms, memory {memory:.1f} ms\n\n{table(entries)}")
    if arguments.json:
        arguments.json.write_text("".join(json.dumps(entry) + "\n" for entry in entries))


if __name__ == "__main__":
    main()
