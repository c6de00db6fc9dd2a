"""The benchmark's figures by Matplotlib (the extra `benchmark`), as SVG and PNG; equal runs give equal bytes."""

import collections
import contextlib
import itertools
import math
import pathlib
import re
import textwrap
from collections.abc import Sequence

from benchmarks.crew import LOOPBACK, bits_per_second
from benchmarks.torch_baselines import NAMES, PREFIX
from benchmarks.variants import DENSE, WORKERS
from dqgan_tf.errors import UsageError

_STYLE = {
    "svg.hashsalt": "dqgan",
    "svg.fonttype": "path",
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "path.simplify": False,
}
# C7 is grey.
_COLOURS = ("C0", "C1", "C2", "C3", "C4", "C5", "C6", "C8", "C9", "navy", "goldenrod", "darkgreen", "tomato", "teal")
# The last ones: points on and off.
_DASHES = ("-", "--", ":", "-.", (0, (8, 3)), (0, (1, 4)), (0, (6, 2, 1, 2, 1, 2)), (0, (3, 1)))
_HALF = 50  # percent: a name is printed below a point above this value, and beside other points
_BEYOND = 4.0  # loopback is drawn at this multiple of the highest rate
_FEW = 3  # seeds: fewer make a hollow point


def time_against_rate(entries: list[dict], path: pathlib.Path) -> None:
    """Draws the median milliseconds of every variant against the link's rate, both logarithmic.

    Args:
      entries: exchanges of one payload by one number of workers and threads.
      path: file name without the suffix.

    Raises:
      UsageError: Matplotlib is not installed.
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
        threads = "one thread" if entries[0]["threads"] == 1 else f"{entries[0]['threads']} threads"
        axes.set_title(f"{entries[0]['workers']} workers, {entries[0]['values']:,} values, {threads} each")


def volume_against_workers(curves: dict[str, list[int]], measured: list[dict], path: pathlib.Path) -> None:
    """Draws the declared megabytes that one worker sends against the number of workers, both logarithmic, and the bytes
    counted at the interface as crosses.

    Args:
      curves: bytes for each of `variants.WORKERS`, by variant.
      measured: exchanges of the same payload.
      path: file name without the suffix.

    Raises:
      UsageError: Matplotlib is not installed.
    """
    with _figure(path) as axes:
        looks = _looks(list(dict.fromkeys(name.partition("@")[0] for name in curves)))
        for name, sent in curves.items():
            base, _, topology = name.partition("@")
            label = base if base not in axes.get_legend_handles_labels()[1] else None
            dotted = {"linestyle": ":"} if topology == "all_gather" else {}
            axes.plot(WORKERS, [count / 1e6 for count in sent], label=label, **looks[base] | {"marker": None} | dotted)
        crosses = [(entry["workers"], entry["interface_bytes"] / 1e6) for entry in measured]
        axes.plot(*zip(*crosses, strict=True), "kx", markersize=4, label="at the interface")
        axes.set(xscale="log", yscale="log", xlabel="workers", ylabel="MB sent per worker and exchange")
        axes.set_xticks(WORKERS, [str(count) for count in WORKERS])
        axes.set_xticks([], minor=True)
        axes.set_title(f"{measured[0]['values']:,} values; dotted: all-gather, solid: two-step or ring")


def quality_against_bytes(points: Sequence, path: pathlib.Path) -> None:
    """Draws the share of high-quality samples against the bytes that a worker sends per step, as PNG.

    A vertical line joins the smallest and the largest share of several seeds. A cross is an ablation.

    Args:
      points: those of `quality.points`.
      path: name of the file.

    Raises:
      UsageError: Matplotlib is not installed.
    """
    markers = dict(zip(dict.fromkeys(point.series for point in points), "os^v", strict=False))
    hanging = min(point.share for point in points if point.share > _HALF) - 6
    names = collections.defaultdict(list)  # by place, those that hang there
    with _figure(path, size=(7.5, 4), endings=(".png",), legend={"loc": "lower right"}) as axes:
        for point in points:
            label, marker = ("ablation", "x") if point.is_ablation else (point.series, markers[point.series])
            colour = "C3" if point.is_ablation else f"C{list(markers).index(point.series)}"
            label = None if label in axes.get_legend_handles_labels()[1] else label
            look = {"color": colour, "marker": marker, "markersize": 5, "linestyle": ""}
            axes.plot(point.sent_bytes, point.share, label=label, **look)
            axes.plot([point.sent_bytes] * 2, [min(point.shares), max(point.shares)], color=colour, linewidth=1.5)
            if point.share < _HALF:
                axes.annotate(point.variant, (point.sent_bytes, point.share), (8, -3), textcoords="offset points")
            elif point.variant not in names[point.sent_bytes]:
                place, offset = (point.sent_bytes, hanging), (12 * len(names[point.sent_bytes]), 0)
                look = {"rotation": 90, "ha": "center", "va": "top", "textcoords": "offset points"}
                axes.annotate(point.variant, place, offset, **look)
                names[point.sent_bytes].append(point.variant)
        axes.set(xscale="log", ylim=(0, 100), xlabel="bytes that a worker sends per step")
        axes.set(ylabel="high-quality samples, %")


def loss_by_place(points: Sequence, path: pathlib.Path) -> None:
    """Draws the difference of the validation loss to float32 for every compressor and place, as PNG.

    Bars are 95 % intervals; the axis is linear between -0.01 and 0.01 and logarithmic beyond.

    Args:
      points: those of `keras_quality.points`.
      path: name of the file.

    Raises:
      UsageError: Matplotlib is not installed.
    """
    columns = list(dict.fromkeys((group, label) for group, label, _, _ in points))
    with _figure(
        path, size=(9, 5.5), endings=(".png",), legend={"loc": "lower center", "bbox_to_anchor": (0.5, 1.0), "ncols": 2}
    ) as axes:
        for place, where in enumerate(sorted({where for _, _, where, _ in points})):
            drawn = [(columns.index((group, label)), loss) for group, label, other, loss in points if other == where]
            widths = [loss.half_width if math.isfinite(loss.half_width) else 0.0 for _, loss in drawn]
            x, y = [column + 0.2 * place for column, _ in drawn], [loss.mean for _, loss in drawn]
            axes.errorbar(x, y, yerr=widths, fmt="os"[place], markersize=4, color=f"C{place}", label=f'where="{where}"')
        axes.axhline(0, color="black", linewidth=0.8)
        axes.set_yscale("symlog", linthresh=0.01)
        axes.set(ylabel="validation loss - that of float32")
        axes.set_xticks(range(len(columns)), [f"{group}: {label}" for group, label in columns], rotation=90, fontsize=7)


def curves(lines: dict[tuple[str, str], dict], title: str, path: pathlib.Path, scale: str = "log") -> None:
    """Draws a figure of the runs against steps, bytes and seconds, side by side, as PNG.

    Args:
      lines: by (method, compressor) the lists `step`, `bytes`, `seconds` and `value`. Of methods and compressors the
        more numerous have a colour each and, after the last colour, a marker; the others a dash. `raw`, where it is
        there, is drawn against steps as a thin line in the same colour and dash.
      title: of the figure.
      path: name of the file.
      scale: of the figure, `linear`, or `log` for values above 0 if they span more than a factor of 20.

    Raises:
      UsageError: Matplotlib is not installed.
    """
    methods, compressors = (list(dict.fromkeys(names)) for names in zip(*lines, strict=True))
    by_method = len(methods) > len(compressors)
    many, few = (methods, compressors) if by_method else (compressors, methods)
    colours = dict(zip(many, itertools.cycle(itertools.product(("", "o", "s", "^"), _COLOURS)), strict=False))
    dashes = dict(zip(few, itertools.cycle(_DASHES), strict=False))
    values = [value for line in lines.values() for value in line["value"] if value > 0]
    labels = {"step": "steps", "bytes": "MB that a worker has sent", "seconds": "seconds, all replicas in one process"}
    if not values or max(values) <= 20 * min(values):
        scale = "linear"
    with _panels(path, len(labels)) as panels:
        for axes, (key, label) in zip(panels, labels.items(), strict=True):
            for (method, compressor), line in lines.items():
                x = [value / 1e6 for value in line["bytes"]] if key == "bytes" else line[key]
                of_colour, of_dash = (method, compressor) if by_method else (compressor, method)
                marker, colour = colours[of_colour]
                look = {"color": colour, "linestyle": dashes[of_dash], "linewidth": 1}
                axes.plot(
                    x, line["value"], label=f"{_short(method)}, {compressor}", marker=marker, markersize=3, **look
                )
                if key == "step" and "raw" in line:
                    axes.plot(x, line["raw"], **look | {"linewidth": 0.4})
            axes.set(xlabel=label, yscale=scale, xscale="log" if key == "bytes" else "linear")
        panels[0].set_ylabel(_wrapped(title))


def end_against_bytes(
    series: dict[str, list[tuple[str, float, list[float]]]], title: str, path: pathlib.Path, scale: str = "linear"
) -> None:
    """Draws a figure at the end of the runs against the bytes that a worker sends per step, as PNG.

    Args:
      series: by method, (compressor, bytes, values of all seeds). A point is the mean; a bar goes from the smallest to
        the largest value. A point of fewer than `_FEW` seeds is hollow. A compressor's name stands above its bytes.
      title: of the figure.
      path: name of the file.
      scale: of the figure, `linear` or `log`.

    Raises:
      UsageError: Matplotlib is not installed.
    """
    named, size = [], (6 + 0.07 * max(map(len, series), default=0), max(4, 1 + 0.17 * len(series)))  # inches
    with _figure(path, size=size, endings=(".png",)) as axes:  # the names stand beside the axes
        looks = itertools.cycle(itertools.product("os^D", _COLOURS))
        for (method, points), (marker, colour) in zip(series.items(), looks, strict=False):
            points = sorted(points, key=lambda point: point[1])
            sent, means = [point[1] for point in points], [sum(values) / len(values) for _, _, values in points]
            ends = [[mean - min(point[2]), max(point[2]) - mean] for mean, point in zip(means, points, strict=True)]
            bars = list(zip(*ends, strict=True))
            look = {"fmt": f"{marker}-", "markersize": 4, "linewidth": 0.8, "color": colour}
            axes.errorbar(sent, means, yerr=bars, label=_short(method), **look)
            for mean, (compressor, x, values) in zip(means, points, strict=True):
                if len(values) < _FEW:
                    axes.plot([x], [mean], marker, markersize=4, color=colour, markerfacecolor="white", zorder=5)
                if all(compressor != name or abs(math.log(x / at)) > 0.2 for name, at in named):
                    look = {"fontsize": 7, "rotation": 40, "ha": "left", "va": "bottom"}
                    axes.text(x, 1.01, compressor, transform=axes.get_xaxis_transform(), **look)
                    named.append((compressor, x))
        axes.set(xscale="log", yscale=scale, xlabel="bytes that a worker sends per step", ylabel=_wrapped(title))
        axes.margins(0.15)
        if scale == "log":
            _plain_ticks(axes.yaxis)


def _short(method):
    """The name of a method whose two players have one rate, with `rate=`."""
    return re.sub(r"learning_rate_g=([^,]+),learning_rate_d=\1(?=,|$)", r"rate=\1", method)


def pictures(files: dict[str, pathlib.Path], path: pathlib.Path, columns: int = 4) -> None:
    """Draws pictures side by side, each below its name, as PNG.

    Args:
      files: PNG files of one size by name.
      path: name of the file.
      columns: pictures in a row.

    Raises:
      UsageError: Matplotlib is not installed.
    """
    rows = -(-len(files) // columns)
    height = 2.6 + 0.2 * max(name.count("\n") + 1 for name in files)
    with _panels(path, min(columns, len(files)), rows, size=(2.6, height), legend=False) as panels:
        from matplotlib import image

        for axes, (name, file) in zip(panels, files.items(), strict=False):
            axes.imshow(image.imread(file), cmap="gray", interpolation="nearest")
            axes.set_title(name, fontsize=7)
        for axes in panels:
            axes.set_axis_off()


def error_against_workers(series: dict[str, dict[int, list[float]]], title: str, path: pathlib.Path) -> None:
    """Draws the mean error against the number of workers, both logarithmic, and the slope -1/2, as PNG.

    Args:
      series: by label, the errors of all seeds by the number of workers. A bar goes from the smallest to the largest; a
        point of fewer than `_FEW` seeds is hollow. Labels stand side by side, so that equal means hide no bar.
      title: of the error.
      path: name of the file.

    Raises:
      UsageError: Matplotlib is not installed.
    """
    with _panels(path, 1) as (axes,):
        for place, (label, by_workers) in enumerate(series.items()):
            x = [workers * 1.04 ** (place - (len(series) - 1) / 2) for workers in by_workers]
            means = [sum(values) / len(values) for values in by_workers.values()]
            ends = zip(means, by_workers.values(), strict=True)
            bars = list(zip(*([mean - min(values), max(values) - mean] for mean, values in ends), strict=True))
            axes.errorbar(x, means, yerr=bars, fmt="o-", markersize=3, linewidth=0.8, color=f"C{place}", label=label)
            few = [
                (at, mean) for at, mean, values in zip(x, means, by_workers.values(), strict=True) if len(values) < _FEW
            ]
            look = {"markersize": 3, "color": f"C{place}", "markerfacecolor": "white", "zorder": 5}
            axes.plot([at for at, _ in few], [mean for _, mean in few], "o", **look)
        first = next(iter(series.values()))
        base = sum(first[min(first)]) / len(first[min(first)]) * min(first) ** 0.5
        axes.plot(list(first), [base / workers**0.5 for workers in first], "k:", label="slope -1/2")
        axes.set(xscale="log", yscale="log", xlabel="workers M", ylabel=title)
        axes.set_xticks(list(first), [str(workers) for workers in first])
        axes.set_xticks([], minor=True)


def value_against_time(panels: dict[str, dict[str, tuple]], title: str, path: pathlib.Path) -> None:
    """Draws a figure of the runs against hours, one panel for each link, as PNG.

    Args:
      panels: by the rate of the link and the label of a line, (hours, values). A label has one colour in all panels.
      title: of the figure; its axis is logarithmic.
      path: name of the file.

    Raises:
      UsageError: Matplotlib is not installed.
    """
    labels = dict.fromkeys(label for lines in panels.values() for label in lines)
    colours = dict(zip(labels, _COLOURS, strict=False))
    with _panels(path, len(panels)) as all_axes:
        for axes, (rate, lines) in zip(all_axes, panels.items(), strict=True):
            for label, (hours, values) in lines.items():
                axes.plot(hours, values, marker=".", linewidth=1, color=colours[label], label=label)
            axes.set(title=rate, xlabel="hours", xscale="log", yscale="log")
            _plain_ticks(axes.xaxis)
            _plain_ticks(axes.yaxis, (1, 1.5, 2, 3, 5, 7))
        all_axes[0].set_ylabel(_wrapped(title))


def _wrapped(title):
    """The title in lines of at most 45 letters, which fit beside a panel."""
    return "\n".join(textwrap.wrap(title, 45))


def _plain_ticks(axis, places=(1, 2, 5)):
    """Ticks of a logarithmic axis at these places of a decade, written 0.02 and not 2 x 10^-2: they do not overlap."""
    from matplotlib import ticker

    axis.set_major_locator(ticker.LogLocator(subs=places))
    axis.set_minor_locator(ticker.NullLocator())
    axis.set_major_formatter("{x:g}")


@contextlib.contextmanager
def _panels(path, columns, rows=1, size=(4, 3.6), legend=True):
    """Yields the axes of a table of panels, row by row; one legend stands right of them."""
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UsageError(f"Figures need Matplotlib: pip install '.[benchmark]' ({error})") from error

    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(size[0] * columns + 3 * legend, size[1] * rows), layout="constrained")
        panels = figure.subplots(rows, columns, squeeze=False, sharey=True).flatten()
        yield panels
        if legend:
            for axes in panels:
                axes.grid(True, which="both", linewidth=0.3)
            handles, labels = panels[0].get_legend_handles_labels()
            # Room for the names, about .06 inches a letter and .16 a line; else the panels shrink or it is cut off.
            figure.set_figheight(max(size[1] * rows, 0.4 + 0.16 * len(labels)))
            figure.set_figwidth(size[0] * columns + max(3, 0.5 + 0.06 * max(map(len, labels), default=0)))
            figure.legend(handles, labels, loc="outside right center", fontsize=7)
        figure.savefig(path, dpi=120, metadata={"Software": None})


@contextlib.contextmanager
def _figure(path, size=(8.5, 5), endings=(".svg", ".png"), legend=None):
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UsageError(f"Figures need Matplotlib: pip install '.[benchmark]' ({error})") from error

    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots()
        yield axes
        axes.grid(True, which="both", linewidth=0.3)
        axes.legend(**(legend or {"loc": "center left", "bbox_to_anchor": (1, 0.5)}), fontsize=7)
        for ending in endings:
            metadata = {"Date": None, "Creator": None} if ending == ".svg" else {"Software": None}
            figure.savefig(path.with_suffix(ending), dpi=120, metadata=metadata)


def _x(entry, beyond):
    return 1e-9 * (beyond if entry["rate"] == LOOPBACK else bits_per_second(entry["rate"]))


def _looks(names):
    """Returns Matplotlib's arguments per line: dense black, PyTorch's grey, compressors coloured in their order.

    A variant with a topology or a packet size in its name is dotted, in the colour of its compressor.
    """
    colours = iter(_COLOURS * len(names))
    looks, colour_of = {}, {}
    for name in names:
        look = {"marker": "o", "linewidth": 1.2, "linestyle": "-"}
        if name in DENSE:
            look |= {"color": "black", "linestyle": _DASHES[DENSE.index(name)]}
        elif name.startswith(PREFIX):
            look |= {"color": "grey", "linestyle": _DASHES[NAMES.index(name)]}
        else:
            spec, _, settings = name.partition("@")
            if spec not in colour_of:
                colour_of[spec] = next(colours)
            look |= {"color": colour_of[spec], "linestyle": ":" if settings else "-"}
        looks[name] = look
    return looks
