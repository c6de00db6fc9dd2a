"""The benchmark's figures, by Matplotlib (the extra `benchmark`), as SVG and PNG with equal bytes for equal runs."""

import contextlib
import pathlib

from dqgan_tf.benchmarking.rates import LOOPBACK, bits_per_second
from dqgan_tf.benchmarking.torch_baselines import NAMES, PREFIX
from dqgan_tf.benchmarking.volume import DENSE, WORKERS

_STYLE = {
    "svg.hashsalt": "dqgan",
    "svg.fonttype": "path",
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "path.simplify": False,
}
_COLOURS = ("C0", "C1", "C2", "C3", "C4", "C5", "C6", "C8", "C9", "navy", "goldenrod", "darkgreen")  # C7 is grey
_DASHES = ("-", "--", ":", "-.")
_BEYOND = 4.0  # loopback stands at this multiple of the highest rate


def time_against_rate(entries: list[dict], path: pathlib.Path) -> None:
    """Draws the median milliseconds of every variant against the link's rate, both logarithmic.

    Args:
      entries: exchanges of one payload by one number of workers.
      path: without its ending.
    """
    known = [bits_per_second(entry["rate"]) for entry in entries if entry["rate"] != LOOPBACK]
    beyond = _BEYOND * max(known, default=1e9)
    with _figure(path) as axes:
        names = list(dict.fromkeys(entry["variant"] for entry in entries))
        looks = _looks(names)
        for name in names:
            points = sorted(
                (_x(entry, beyond), entry["milliseconds_median"]) for entry in entries if entry["variant"] == name
            )
            axes.plot(*zip(*points, strict=True), label=name, markersize=3, **looks[name])
        axes.set(xscale="log", yscale="log", xlabel="link rate per worker, Gbit/s", ylabel="milliseconds per exchange")
        ticks = {1e-9 * rate: f"{1e-9 * rate:g}" for rate in sorted(set(known))}
        if any(entry["rate"] == LOOPBACK for entry in entries):
            ticks[1e-9 * beyond] = LOOPBACK
        axes.set_xticks(list(ticks), list(ticks.values()))
        axes.set_xticks([], minor=True)
        axes.set_title(f"{entries[0]['workers']} workers, {entries[0]['values']:,} values, one thread each")


def volume_against_workers(curves: dict[str, list[int]], measured: list[dict], path: pathlib.Path) -> None:
    """Draws the declared megabytes that one worker sends against the number of workers, both logarithmic, and what was
    counted at the interface as crosses.

    Args:
      curves: bytes for each of `volume.WORKERS`, by variant.
      measured: exchanges of the same payload.
      path: without its ending.
    """
    with _figure(path) as axes:
        looks = _looks(list(dict.fromkeys(name.partition("@")[0] for name in curves)))
        for name, sent in curves.items():
            base, _, topology = name.partition("@")
            label = base if base not in axes.get_legend_handles_labels()[1] else None
            dotted = {"linestyle": ":"} if topology == "all_gather" else {}
            axes.plot(WORKERS, [one / 1e6 for one in sent], label=label, **looks[base] | {"marker": None} | dotted)
        crosses = [(entry["workers"], entry["interface_bytes"] / 1e6) for entry in measured]
        axes.plot(*zip(*crosses, strict=True), "kx", markersize=4, label="at the interface")
        axes.set(xscale="log", yscale="log", xlabel="workers", ylabel="MB sent per worker and exchange")
        axes.set_xticks(WORKERS, [str(count) for count in WORKERS])
        axes.set_xticks([], minor=True)
        axes.set_title(f"{measured[0]['values']:,} values; dotted: all-gather, solid: two-step or ring")


@contextlib.contextmanager
def _figure(path):
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(8.5, 5), layout="constrained")
        axes = figure.subplots()
        yield axes
        axes.grid(True, which="both", linewidth=0.3)
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=7)
        figure.savefig(path.with_suffix(".svg"), metadata={"Date": None, "Creator": None})
        figure.savefig(path.with_suffix(".png"), dpi=120, metadata={"Software": None})


def _x(entry, beyond):
    return 1e-9 * (beyond if entry["rate"] == LOOPBACK else bits_per_second(entry["rate"]))


def _looks(names):
    """How each line is drawn: dense ones black, PyTorch's grey, compressors coloured in their order.

    Variants of one compressor by a topology or bucket size of their own are dotted.
    """
    colours = iter(_COLOURS * len(names))
    looks, coloured = {}, {}
    for name in names:
        look = {"marker": "o", "linewidth": 1.2, "linestyle": "-"}
        if name in DENSE:
            look |= {"color": "black", "linestyle": _DASHES[DENSE.index(name)]}
        elif name.startswith(PREFIX):
            look |= {"color": "grey", "linestyle": _DASHES[NAMES.index(name)]}
        else:
            spec, _, how = name.partition("@")
            if spec not in coloured:
                coloured[spec] = next(colours)
            look |= {"color": coloured[spec], "linestyle": ":" if how else "-"}
        looks[name] = look
    return looks
