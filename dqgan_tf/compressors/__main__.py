"""Prints the table of README: `python -m dqgan_tf.compressors`."""

from dqgan_tf.compressors import Compressor, available, get

_COMBINED = "topk:fraction=0.01+linear:bits=8,bucket=512"
_N = 1 << 20  # values of the vector in the table


def table() -> str:
    """Returns a row for each compressor with its default parameters, and a row for two compressors combined."""
    rows = ["| compressor | spec | bits a value | delta | when to use it |", "|---|---|---|---|---|"]
    for compressor in map(get, (*available(), _COMBINED)):
        what = str(type(compressor).__doc__).partition("\n")[0].rstrip(".")
        bits, delta, use = "by the shapes", "by the shapes", compressor.use
        if isinstance(compressor, Compressor):
            bits = f"{8 * compressor.wire_bytes(_N) / _N:.3g}"
            delta = f"{compressor.delta(_N):.5f}".rstrip("0").rstrip(".") if compressor.delta(_N) else "none proven"
        if compressor.spec == _COMBINED:
            what, use = "Two combined: the second encodes the values sent", "the fewest bytes"
        rows.append(f"| {what} | `{compressor.spec}` | {bits} | {delta} | {use} |")
    return "\n".join(rows)


if __name__ == "__main__":
    print(table())
