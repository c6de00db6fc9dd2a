"""The end of a run: hash of the weights, quality of points, table and file."""

import hashlib
import sys
import types

import numpy as np
import pytest
import tensorflow as tf

from dqgan_tf import data
from dqgan_tf.config import DataConfig
from dqgan_tf.gan.model import DQGAN
from dqgan_tf.training import summary

RING = data.describe(DataConfig("gaussian_ring"))
FIGURES = {
    "steps": 10,
    "skipped": 3,
    "sent_bytes_per_step": 1000,
    "dense_sent_bytes_per_step": 7800,
    "wire_bytes_per_step": 500,
    "dense_bytes_per_step": 4000,
    "milliseconds_per_step": 2.5,
    **{"milliseconds_compute": 1.25, "milliseconds_reduction": 1.0, "milliseconds_rest": 0.25},
    **{"milliseconds_encode": 0.25, "milliseconds_exchange": 0.75, "milliseconds_decode": 0.25},
    "milliseconds_hidden": 0.25,
    "steps_per_second": 400.0,
    "peak_memory_mib": 512.4,
}
POINTS = {"modes": 7, "num_modes": 8, "high_quality_fraction": 0.9567}


class TestHash:
    def networks(self):
        """Stand-ins: two players with weights and a statistic."""
        values = np.arange(12, dtype=np.float32)
        players = [[tf.Variable(values[:6].reshape(2, 3)), tf.Variable(values[6:8])], [tf.Variable(values[8:])]]
        generator, discriminator = (types.SimpleNamespace(variables=variables) for variables in players)
        return types.SimpleNamespace(
            generator=generator,
            discriminator=discriminator,
            local_value=lambda variable: tf.convert_to_tensor(variable),
        )

    def test_is_the_sha256_of_all_values_in_order(self):
        values = np.arange(12).astype("<f4").tobytes()
        assert summary.weights_sha256(self.networks()) == hashlib.sha256(values).hexdigest()

    @pytest.mark.parametrize("player", ["generator", "discriminator"])
    def test_one_bit_changes_it(self, player):
        model = self.networks()
        before, variable = summary.weights_sha256(model), getattr(model, player).variables[-1]
        variable.assign(np.nextafter(variable.numpy(), np.float32(100)))
        assert summary.weights_sha256(model) != before


class TestQuality:
    class Model:
        """Its averaged generator draws the first `modes` modes in turn, its raw one zeros."""

        seed, latent_dim, local_value = 0, 3, staticmethod(DQGAN.local_value)

        def __init__(self, modes):
            self.points = np.resize(RING.modes[:modes], (500, 2)).astype(np.float32)

        def generate(self, latent, use_ema=True):
            return tf.constant(self.points if use_ema else np.zeros_like(self.points))

    @pytest.mark.parametrize("modes", [8, 3])
    def test_of_points(self, modes):
        """500 points in turn over 3 modes: shares 167, 167, 166 against 62.5 each."""
        covered = {"modes": modes, "high_quality_fraction": 1.0, "modes_3_sd": modes, "high_quality_fraction_3_sd": 1.0}
        missed = {f"raw_{name}": 0 for name in covered}
        quality = summary.quality(RING, self.Model(modes))
        assert {name: quality[name] for name in covered | missed} == covered | missed
        assert (quality["num_modes"], quality["high_quality_radius"], quality["radius_3_sd"]) == (8, 0.25, 0.06)
        assert quality["mode_distance"] == pytest.approx({8: 0.004, 3: 0.625}[modes])
        assert 0 < quality["raw_mode_distance"] <= 0.875

    def test_of_images_is_measured_elsewhere(self):
        assert summary.quality(data.DataSpec("images", (4, 4, 1), 10, "images"), None) == {}


class TestTable:
    def rows(self, figures):
        lines = summary.table(figures, "runs/x").splitlines()
        return dict(line.split("  ", 1) for line in lines)

    def test_rows(self):
        rows = {name.strip(): value.strip() for name, value in self.rows(FIGURES | POINTS).items()}
        assert rows["modes found"] == "7 of 8"
        assert rows["high-quality samples"] == "95.7 %"
        assert rows["bytes per step and replica"] == "1,000 sent, 7,800 in float32 (7.8 x less)"
        assert rows["milliseconds per step"] == "2.50:  compute 1.25  reduction 1.00  rest 0.25"
        assert rows["phases of the reduction"] == "encode 0.25  exchange 0.75  decode 0.25  hidden 0.25"
        assert rows["skipped steps"] == "3"
        assert rows["pictures"] == "runs/x/samples/"

    def test_the_command_of_tensorboard_runs_from_here(self, tmp_path, monkeypatch):
        """In a checkout and where the wheel is installed, which has no Makefile."""
        monkeypatch.setattr(sys, "executable", str(tmp_path / "venv" / "bin" / "python"))
        row = lambda: {k.strip(): v.strip() for k, v in self.rows(FIGURES).items()}["TensorBoard"]  # noqa: E731
        assert row() == f"{tmp_path}/venv/bin/tensorboard --logdir=runs/x"
        monkeypatch.chdir(tmp_path)
        assert row() == "venv/bin/tensorboard --logdir=runs/x"

    def test_both_radii_are_named(self):
        narrow = {"high_quality_radius": 0.25, "radius_3_sd": 0.06, "modes_3_sd": 5, "high_quality_fraction_3_sd": 0.4}
        rows = {name.strip(): value.strip() for name, value in self.rows(FIGURES | POINTS | narrow).items()}
        assert rows["high-quality samples"] == "95.7 % within 0.25 of a mode"
        assert rows["within 3 sd"] == "5 modes, 40.0 % within 0.06"

    def test_no_modes_of_images(self):
        assert not [name for name in self.rows(FIGURES) if "modes" in name]

    def test_one_replica_sends_nothing(self):
        """Its bytes are those that it would send."""
        alone = FIGURES | {"sent_bytes_per_step": 0, "dense_sent_bytes_per_step": 0}
        assert "500 sent, 4,000 in float32 (8.0 x less)" in summary.table(alone, "x")

    def test_values_stand_in_one_column(self):
        lines = summary.table(FIGURES | POINTS, "x").splitlines()
        column = len("bytes per step and replica") + 2
        assert all(line[column - 2 : column] == "  " and line[column] != " " for line in lines)


@pytest.mark.parametrize(
    ("text", "step"), [('{"steps": 7}', 7), ("{", None), ("[]", None), ("{}", None), ("null", None), (None, None)]
)
def test_steps_of(tmp_path, text, step):
    if text is not None:
        (tmp_path / "summary.json").write_text(text)
    assert summary.steps_of(tmp_path) == step
