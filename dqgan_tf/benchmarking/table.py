"""The benchmark's entries as Markdown tables."""

from dqgan_tf.benchmarking.rates import wire_milliseconds
from dqgan_tf.benchmarking.run import EXCHANGE, WHOLE_STEP
from dqgan_tf.distribute.pipeline import PHASES


def table(entries: list[dict]) -> str:
    """Returns one table for the exchanges and one for the whole steps among the entries.

    Exchange: median and minimum milliseconds; medians of the phases; megabytes that one worker sends, as declared and
    at the interface; the milliseconds that the declared bytes alone take at the link's rate ("wire"), and how many
    times as long the exchange took; how many times as long float32 and float16 took, by medians.

    Whole step: the same without the last two; "alone", the step without any exchange; the bound max(alone, wire), and
    how many times as long the step took.
    """
    kinds = ((EXCHANGE, _exchange_table), (WHOLE_STEP, _whole_step_table))
    chosen = [(render, [entry for entry in entries if entry["kind"] == kind]) for kind, render in kinds]
    return "\n\n".join(render(some) for render, some in chosen if some)


def markdown(header: list[str], rows: list[list[str]]) -> str:
    """Returns a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def group(entry: dict) -> tuple:
    """Returns what entries must share to be held against each other: kind, rate, workers, size."""
    return entry["kind"], entry["rate"], entry["workers"], entry["values"], entry.get("batch_size")


def _exchange_table(entries):
    header = ["link", "workers", "variant", "ms, median / min", *PHASES, "MB sent, declared / measured"]
    header += ["wire", "ms / wire", "float32 takes", "float16 takes"]
    return markdown(header, [_exchange_row(entry, _medians(entries, entry)) for entry in entries])


def _exchange_row(entry, medians):
    wire = _wire(entry)
    took = entry["milliseconds_median"]
    relative = [f"{medians[name] / took:.2f}x" if name in medians else "" for name in ("float32", "float16")]
    return [*_head(entry), *_phases(entry, PHASES), _sent(entry), *_over(wire, took), *relative]


def _whole_step_table(entries):
    header = ["link", "workers", "variant", "ms, median / min", "compute", *PHASES, "MB sent, declared / measured"]
    return markdown([*header, "alone", "wire", "ms / bound"], [_whole_step_row(entry) for entry in entries])


def _whole_step_row(entry):
    alone, wire = entry["alone_milliseconds_median"], _wire(entry)
    ratio = entry["milliseconds_median"] / max(alone, wire)
    times = [f"{alone:.1f}", f"{wire:.1f}" if wire else "", f"{ratio:.2f}"]
    return [*_head(entry), *_phases(entry, ["compute", *PHASES]), _sent(entry), *times]


def _medians(entries, entry):
    return {other["variant"]: other["milliseconds_median"] for other in entries if group(other) == group(entry)}


def _head(entry):
    milliseconds = f"{entry['milliseconds_median']:.1f} / {entry['milliseconds_minimum']:.1f}"
    return [entry["rate"], str(entry["workers"]), entry["variant"], milliseconds]


def _phases(entry, phases):
    medians = [entry.get(f"{phase}_milliseconds_median") for phase in phases]
    return ["" if median is None else f"{median:.1f}" for median in medians]


def _sent(entry):
    return f"{entry['declared_bytes'] / 1e6:.3f} / {entry['interface_bytes'] / 1e6:.3f}"


def _wire(entry):
    return wire_milliseconds(entry["declared_bytes"], entry["rate"])


def _over(wire, took):
    return [f"{wire:.1f}", f"{took / wire:.2f}"] if wire else ["", ""]
