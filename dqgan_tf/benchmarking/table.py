"""The benchmark's entries as a table, with each variant's break-even bandwidth."""

from dqgan_tf.telemetry.step_time import break_even_bandwidth


def table(entries: list[dict]) -> str:
    """Returns a Markdown table: median and minimum milliseconds, phases, bytes, and the rate below which it wins.

    The break-even bandwidth holds a variant against the float32 all-reduce: the link rate below which fewer bytes make
    up for encode and decode.
    """
    header = (
        "| link | variant | total ms, median / minimum | encode | exchange | decode | MB sent, declared / at the "
        "interface | wins below |\n|---|---|---|---|---|---|---|---|"
    )
    dense = {entry["rate"]: entry for entry in entries if entry["variant"] == "float32"}
    return "\n".join([header, *(_row(entry, dense.get(entry["rate"])) for entry in entries)])


def _row(entry, dense):
    phases = [entry.get(f"{phase}_milliseconds_median") for phase in ("encode", "exchange", "decode")]
    shown = " | ".join("" if value is None else f"{value:.1f}" for value in phases)
    total = f"{entry['milliseconds_median']:.1f} / {entry['milliseconds_minimum']:.1f}"
    sent = f"{entry['declared_bytes'] / 1e6:.3f} / {entry['interface_bytes'] / 1e6:.3f}"
    cells = (entry["rate"], entry["variant"], total, shown, sent, _break_even(entry, dense, phases))
    return "| " + " | ".join(cells) + " |"


def _break_even(entry, dense, phases):
    if dense is None or phases[0] is None:
        return ""
    codec = 1e-3 * (phases[0] + phases[2])
    return f"{1e-9 * break_even_bandwidth(dense['declared_bytes'], entry['declared_bytes'], codec):.1f} Gbit/s"
