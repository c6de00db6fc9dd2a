"""The pages of TensorBoard: where every figure stands, what it means, and which curves share a chart.

Groups of cards are sorted by name. Their names begin with numbers, so that losses, quality and samples open first.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

import tensorflow as tf
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.custom_scalar import summary as layout_summary
from tensorboard.plugins.hparams import api as hparams
from tensorboard.plugins.hparams import api_pb2
from tensorboard.plugins.hparams import summary as hparams_summary

PLAYERS = ("generator", "discriminator")
QUALITY = "2 quality/"
SAMPLES = "3 samples/"


class Figure(NamedTuple):
    """A training figure.

    group: what stands before its name in TensorBoard.
    unit: empty for a number without one.
    meaning: for users, as Markdown; the first words of the card.
    """

    group: str
    unit: str
    meaning: str


_PHASES = "6 time/phases that overlap/"
# The table of docs/operations.md has the same rows; tests/training/test_reporter.py compares them.
_FIGURES = {
    "generator_loss": Figure("1 losses/", "", "loss of the generator at the half-step point"),
    "discriminator_loss": Figure("1 losses/", "", "loss of the discriminator at the half-step point, with its penalty"),
    "penalty": Figure("4 training/", "", "weighted R1 or gradient penalty; 0 for a loss without one"),
    "real_logit": Figure("4 training/", "", "mean output of the discriminator on real samples"),
    "fake_logit": Figure("4 training/", "", "mean output of the discriminator on generated samples"),
    "gradient_norm/{p}": Figure("4 training/", "", "root of the mean squared norm of one replica's gradient"),
    "update_norm/{p}": Figure(
        "4 training/", "parameters", "root of the mean of \\|p\\|^2, where p = e + sum of eta u - s is what is encoded"
    ),
    "learning_rate/{p}": Figure("4 training/", "", "learning rate eta of the last step"),
    "skipped": Figure(
        "4 training/",
        "steps",
        "steps since the start of the run that were skipped because an update or a state was not finite",
    ),
    "residual_ratio/{p}": Figure(
        "5 compression/",
        "",
        "\\|e\\|/\\|p\\|: size of the residual against the encoded update. A steady value below 1 is healthy; a "
        "growing one means that residuals grow",
    ),
    "shift_ratio/{p}": Figure(
        "5 compression/",
        "",
        "\\|s\\|/\\|p\\|: size of the learned shift against the encoded update; 0 without `--shift`. It grows to a "
        "steady value while the shift is learned",
    ),
    "compression_error/{p}": Figure(
        "5 compression/",
        "",
        "\\|p - decode(encode(p))\\|^2 / \\|p\\|^2, the relative squared error of the encoding. Below 1 the compressor "
        "is contractive",
    ),
    "spread/{p}": Figure(
        "5 compression/",
        "parameters",
        "root mean square distance between each replica's residual and the mean residual, estimated from about 512 "
        "values of a player at the time of the line. Replicas start at w - e, so it is the spread of their starting "
        "points; they start at w with `--noresidual_in_half_step`, `--half_step=none` and `--exchange=gradient`, where "
        "the residuals have the unit of a gradient",
    ),
    "lag/{p}": Figure(
        "5 compression/",
        "parameters",
        "norm of the mean residual of all replicas, estimated as `spread/{p}`: how far the weights are from the point "
        "w - mean(e) that is trained; `--flush_residuals` ends a run there. With `--exchange=gradient` it has the unit "
        "of a gradient",
    ),
    "wire_bytes": Figure(
        "5 compression/",
        "bytes",
        "bytes of the encoded update of one replica, per gradient step: with `--local_steps=K`, a K-th of an exchange",
    ),
    "compression_ratio": Figure(
        "5 compression/",
        "",
        "bytes of the update in float32, divided by `wire_bytes`; against float32 at every step",
    ),
    "sent_bytes_per_step": Figure(
        "5 compression/",
        "bytes",
        "bytes that one replica sends per gradient step with the topology in use: updates, and the averages of second"
        " moments (`methods.md`)",
    ),
    "break_even_gbit_per_second": Figure(
        "5 compression/",
        "Gbit/s",
        "link rate below which compression saves more time than encode and decode cost; 0: at no rate; at most 1e6",
    ),
    "milliseconds/step": Figure(
        "6 time/",
        "ms per step",
        "the whole step of the chief, without logs, pictures, evaluations and checkpoints: compute + reduction + rest. "
        "If the first line after a start covers several calls, compute and reduction include the compiling call but "
        "step does not, so the sum does not hold",
    ),
    "milliseconds/compute": Figure("6 time/", "ms per step", "half step, gradients and direction"),
    "milliseconds/reduction": Figure(
        "6 time/", "ms per step", "from the last update to the last mean: the time that the exchange adds to a step"
    ),
    "milliseconds/rest": Figure(
        "6 time/",
        "ms per step",
        "step - compute - reduction: reading the batch, applying the means, starting a call. Not in the first line of "
        "a start if that has several calls",
    ),
    "milliseconds/hidden": Figure(
        _PHASES,
        "ms per step",
        "encode + exchange + decode - reduction: the time of these phases for which a step does not wait, because "
        "they overlap with each other and with `compute`; 0 with one packet",
    ),
    "milliseconds/encode": Figure(_PHASES, "ms per step", "adding the residual, encoding, the new residual"),
    "milliseconds/exchange": Figure(
        _PHASES, "ms per step", "the collectives, including the wait for the slowest worker"
    ),
    "milliseconds/decode": Figure(
        _PHASES,
        "ms per step",
        "decoding and averaging all packets; the two-step topology also encodes the average here",
    ),
    "steps_per_second": Figure(
        "6 time/", "1/s", "steps since the last line, with the time of pictures, evaluations and checkpoints"
    ),
    "samples_per_second": Figure("6 time/", "1/s", "the same in samples of all replicas"),
    "peak_memory_mib": Figure("7 machine/", "MiB", "largest resident memory of the chief so far"),
}
FIGURES = {
    name.replace("{p}", player): figure._replace(meaning=figure.meaning.replace("{p}", player))
    for name, figure in _FIGURES.items()
    for player in (PLAYERS if "{p}" in name else ("",))
}
"""The training figures by their names in metrics.jsonl."""

# Figures of an evaluation, by the part of their names before `(`. Those of modes count modes; the others have no unit.
_EVALUATION = {
    "frechet_distance": "Frechet distance between features of generated and real images. Smaller is better",
    "kernel_distance": "kernel distance (squared MMD) between features of generated and real images. Smaller is better",
    "classifier_score": "score of generated images by the classifier's logits. Larger is better",
    "FID": "Frechet Inception distance. Smaller is better",
    "KID": "kernel Inception distance. Smaller is better",
    "IS": "Inception score. Larger is better",
    "precision": "share of the generated images that are near real ones. Larger is better",
    "recall": "share of the real images that are near generated ones. Larger is better",
    "modes_found": "modes with at least a quarter of their fair share of high-quality samples. Larger is better",
    "modes_touched": "modes with at least one high-quality sample. Larger is better",
    "high_quality_fraction": "share of the samples near a mode. Larger is better",
    "mode_distance": "total variation between the shares of the modes and equal shares. Smaller is better",
    "modes": "modes found at the end of the run",
}
_SAMPLES = {
    "real": "samples of the data set",
    "raw": "samples of the generator, at every step from the same latents",
    "ema": "samples of the averaged generator, at every step from the same latents as `raw`",
}

# Titles of the custom scalars, each with charts: a title and the figures whose curves it has. A name that ends in `*`
# stands for all figures of an evaluation that begin so.
_CHARTS: dict[str, dict[str, tuple[str, ...]]] = {
    "Losses": {
        "loss of both players": ("generator_loss", "discriminator_loss"),
        "discriminator on real and generated samples": ("real_logit", "fake_logit"),
    },
    "Quality": {
        "Frechet distance": ("frechet_distance*", "FID*"),
        "precision and recall": ("precision*", "recall*"),
        "modes found": ("modes_found*",),
        "share of high-quality samples": ("high_quality_fraction*",),
    },
    "Training": {
        "norm of the gradients": ("gradient_norm/generator", "gradient_norm/discriminator"),
        "norm of the updates": ("update_norm/generator", "update_norm/discriminator"),
        "learning rates": ("learning_rate/generator", "learning_rate/discriminator"),
    },
    "Compression": {
        "residual against update": ("residual_ratio/generator", "residual_ratio/discriminator"),
        "error of the encoding": ("compression_error/generator", "compression_error/discriminator"),
        "shift against update": ("shift_ratio/generator", "shift_ratio/discriminator"),
        "spread of the replicas": ("spread/generator", "spread/discriminator"),
        "lag of the weights": ("lag/generator", "lag/discriminator"),
    },
    "Time": {
        "a step = compute + reduction + rest (ms)": (
            *("milliseconds/step", "milliseconds/compute", "milliseconds/reduction", "milliseconds/rest"),
        ),
        "phases that overlap: encode + exchange + decode = reduction + hidden (ms)": (
            *("milliseconds/encode", "milliseconds/exchange", "milliseconds/decode"),
            *("milliseconds/reduction", "milliseconds/hidden"),
        ),
    },
}


def tag(name: str) -> str:
    """Returns the tag of a training figure."""
    figure = FIGURES.get(name)
    if figure is None:
        return name
    return figure.group + (name.partition("/")[2] if name.startswith("milliseconds/") else name)


def write_figures(figures: Mapping[str, float], constants: Collection[str] = ()) -> None:
    """Writes training figures as curves, except `constants`, by the default writer at the default step."""
    for name, value in figures.items():
        if name not in constants:
            description = describe(FIGURES[name]) if name in FIGURES else None
            tf.summary.scalar(tag(name), value, description=description)


def write_evaluation(figures: Mapping[str, Any]) -> None:
    """Writes the numbers among the figures of an evaluation as curves.

    Settings of the evaluation and standard deviations are no curves; metrics.jsonl has them.
    """
    for name, value in figures.items():
        stem = re.sub(r"_3_sd$|^raw_", "", name.partition("(")[0])
        if isinstance(value, int | float) and stem in _EVALUATION:
            end = "; within 3 standard deviations of a mode" if "_3_sd" in name else ""
            end += "; of the raw generator" if name.startswith("raw_") else ""
            unit = "modes" if stem.startswith("modes") else ""
            text = describe(Figure(QUALITY, unit, _EVALUATION[stem] + end))
            tf.summary.scalar(quality_tag(name), value, description=text)


def quality_tag(name: str) -> str:
    """Returns the tag of a figure of an evaluation, without parentheses.

    >>> quality_tag("frechet_distance(small_classifier(cifar10),n=1000)")
    '2 quality/frechet_distance, small_classifier cifar10,n=1000'

    The page Custom scalars takes what stands behind the first parenthesis of a tag for the run (TensorBoard 2.21.0).
    """
    stem, has_details, details = name.partition("(")
    details = details.removesuffix(")").replace("(", " ").replace(")", "")
    return QUALITY + (f"{stem}, {details}" if has_details else stem)


def write_picture(name: str, image) -> None:
    """Writes one picture, uint8 [H, W, 1 or 3]; `name` is real, raw or ema."""
    tf.summary.image(SAMPLES + name, image[tf.newaxis], description=_SAMPLES[name].capitalize() + ".")


def write_timeline(image) -> None:
    """Writes the picture of the last exchange, uint8 [H, W, 3]."""
    text = (
        "The last exchange of the chief from its first update on: a bar for each packet. `compute` ends when the last "
    )
    text += "update exists; what is behind it is the `reduction`, for which the step waits. The length is above."
    tf.summary.image(_PHASES + "one exchange", image[tf.newaxis], description=text)


def write_table(name: str, columns: tuple[str, ...], rows: Iterable[tuple], description: str) -> None:
    """Writes a table of text."""
    lines = [columns, ("---",) * len(columns), *rows]
    text = "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)
    tf.summary.text(name, text, description=description)


def write_layout(constants: Collection[str], kind: str) -> None:
    """Writes the layout of the custom scalars: pairs of curves.

    Args:
      constants: figures without a curve.
      kind: kind of the data, points or images.
    """
    categories = []
    others = ("frechet", "FID", "precision") if kind == "points" else ("modes", "high_quality")
    for title, charts in _CHARTS.items():
        shown = [
            layout_pb2.Chart(title=chart, multiline=layout_pb2.MultilineChartContent(tag=[_pattern(n) for n in names]))
            for chart, names in charts.items()
            if not set(constants) & set(names) and not names[0].startswith(others)
        ]
        if shown:
            categories.append(layout_pb2.Category(title=title, chart=shown))
    summary = layout_summary.pb(layout_pb2.Layout(category=categories))
    tf.summary.experimental.write_raw_pb(summary.SerializeToString())


def _pattern(name):
    """Returns the regular expression of a chart's curves."""
    if name.endswith("*"):
        return "^" + re.escape(QUALITY + name[:-1]) + r"(_3_sd)?(,.*)?$"
    return "^" + re.escape(tag(name)) + "$"


def write_hyperparameters(values: Mapping[str, bool | float | str]) -> None:
    """Writes the hyper-parameters of a run, by which the HParams page compares runs."""
    hparams.hparams(dict(values))


def write_end() -> None:
    """Tells the HParams page that the run is finished."""
    summary = hparams_summary.session_end_pb(api_pb2.STATUS_SUCCESS)
    tf.summary.experimental.write_raw_pb(summary.SerializeToString())


def describe(figure: Figure) -> str:
    """Returns the description of a card: the unit and the meaning."""
    text = figure.meaning[:1].upper() + figure.meaning[1:] + "."
    return f"Unit: {figure.unit}. {text}" if figure.unit else f"No unit. {text}"
