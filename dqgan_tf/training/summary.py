"""The result of a run: summary.json and the table at the end."""

import hashlib
import json
import pathlib
import sys

import numpy as np

from dqgan_tf import data
from dqgan_tf.distribute.pipeline import PHASES
from dqgan_tf.evaluation import report
from dqgan_tf.training import samples

EVALUATED_POINTS = 10000


def weights_sha256(model) -> str:
    """Returns the sha256 (hex) of all variables of both players, little-endian and in order."""
    digest = hashlib.sha256()
    for player in (model.generator, model.discriminator):
        for variable in player.variables:
            digest.update(np.ascontiguousarray(model.local_value(variable).numpy()).tobytes())
    return digest.hexdigest()


def quality(spec: data.DataSpec, model) -> report.Figures:
    """Returns how the averaged generator (`raw_*`: the raw one) covers the modes of points; {} for images.

    `modes`, `high_quality_fraction`: within the wide radius of the data set; `modes_3_sd`,
    `high_quality_fraction_3_sd`: within 3 standard deviations of a mode. `mode_distance`: see `scores.mode_distance`.
    """
    if spec.modes is None or spec.high_quality_radius is None or spec.standard_deviation is None:  # images
        return {}
    figures: report.Figures = {"num_modes": len(spec.modes), "num_samples": EVALUATED_POINTS}
    for prefix, use_ema in (("raw_", False), ("", True)):
        labels = samples.class_labels(spec, EVALUATED_POINTS)
        points = samples.draw(model, EVALUATED_POINTS, use_ema=use_ema, labels=labels)
        coverage = report.evaluate_points(points, spec.modes, spec.high_quality_radius, spec.standard_deviation)
        for end in ("", "_3_sd"):
            figures[f"{prefix}modes{end}"] = coverage[f"modes_found{end}"]
            figures[f"{prefix}high_quality_fraction{end}"] = coverage[f"high_quality_fraction{end}"]
        figures[f"{prefix}mode_distance"] = coverage["mode_distance"]
    return figures | {"high_quality_radius": coverage["high_quality_radius"], "radius_3_sd": coverage["radius_3_sd"]}


def steps_of(folder) -> int | None:
    """Returns the number of steps in the summary.json of `folder`, or None if there is no readable one."""
    try:
        return json.loads((pathlib.Path(folder) / "summary.json").read_text())["steps"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def table(figures: dict, folder) -> str:
    """Returns the summary as lines of aligned text."""
    rows = {}
    if "modes" in figures:
        rows["modes found"] = f"{figures['modes']} of {figures['num_modes']}"
        rows["high-quality samples"] = f"{100 * figures['high_quality_fraction']:.1f} %"
        if "radius_3_sd" in figures:
            rows["high-quality samples"] += f" within {figures['high_quality_radius']:g} of a mode"
            share = f"{100 * figures['high_quality_fraction_3_sd']:.1f} % within {figures['radius_3_sd']:g}"
            rows["within 3 sd"] = f"{figures['modes_3_sd']} modes, {share}"
    sent, dense = figures["sent_bytes_per_step"], figures["dense_sent_bytes_per_step"]
    if not dense:  # A single replica sends nothing. The table shows the size of its payload.
        sent, dense = figures["wire_bytes_per_step"], figures["dense_bytes_per_step"]
    rows["bytes per step and replica"] = (
        f"{sent:,.0f} sent, {dense:,.0f} in float32 ({dense / max(sent, 1):.1f} x less)"
    )
    if "milliseconds_per_step" in figures:  # not where a run went on at its last step
        parts = _parts(figures, ("compute", "reduction", "rest"))
        rows["milliseconds per step"] = f"{figures['milliseconds_per_step']:.2f}:  {parts}"
        rows["phases of the reduction"] = _parts(figures, (*PHASES, "hidden"))
        rows["steps per second"] = f"{figures['steps_per_second']:.1f}"
    rows["peak memory"] = f"{figures['peak_memory_mib']:.0f} MiB of worker 0"
    rows["skipped steps"] = str(figures["skipped"])
    rows["pictures"] = f"{folder}/samples/"
    rows["TensorBoard"] = f"{_tensorboard()} --logdir={folder}"
    width = max(map(len, rows))
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows.items())


def _tensorboard():
    """Returns the path of TensorBoard in the environment of this process, from the working folder if that holds it."""
    program = pathlib.Path(sys.executable).with_name("tensorboard")
    here = pathlib.Path.cwd()
    return program.relative_to(here) if program.is_relative_to(here) else program


def _parts(figures, names):
    """Returns times of a step as text; of a short run some are unknown."""
    texts = [f"{name} {figures[f'milliseconds_{name}']:.2f}" for name in names if f"milliseconds_{name}" in figures]
    return "  ".join(texts)
