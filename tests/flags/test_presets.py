"""System: every file under flags/experiments is a run, and an ablation changes what it says and nothing else."""

import pathlib

import pytest
from absl.testing import flagsaver

from dqgan_tf import compressors
from dqgan_tf.config import RunConfig
from dqgan_tf.gan import losses
from dqgan_tf.training import command
from flags import run

FOLDER = pathlib.Path(__file__).resolve().parents[2] / "flags" / "experiments"
PRESETS = sorted(path.stem for path in FOLDER.glob("*.flags"))
ABLATIONS = {
    "no_compression": {"compression.compressor": "none", "compression.error_feedback": False},
    "no_half_step": {"optimizer.half_step": "none"},
    "no_error_feedback": {"compression.error_feedback": False},
    "residual_out_of_half_step": {"compression.residual_in_half_step": False},
}
RUNS = [name for name in PRESETS if name not in ABLATIONS]


@pytest.fixture(autouse=True)
def fresh_flags():
    with flagsaver.flagsaver():
        yield


def configuration(*names):
    files = [f"--flagfile={FOLDER / name}.flags" for name in names]
    assert command.parse(["train", *files, "--model_dir=m"]) == ["train"]
    return run.run_config()


def lines(name):
    return (FOLDER / f"{name}.flags").read_text(encoding="utf-8").splitlines()


def test_presets_are_there():
    assert {"ring", "grid", "fashion_mnist", "cifar10", *ABLATIONS} <= set(PRESETS)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_a_run(name):
    config = configuration(name)
    assert compressors.get(config.compression.compressor).spec
    losses.get(config.loss)


@pytest.mark.parametrize("name", PRESETS)
def test_the_first_line_says_what_it_is_and_each_flag_stands_once(name):
    first, *rest = lines(name)
    assert first.startswith("# ") and first.endswith(".")
    given = [line.split("=")[0] for line in rest]
    assert all(line.startswith("--") for line in given) and len(set(given)) == len(given)
    assert "--model_dir" not in given


@pytest.mark.parametrize("name", sorted(ABLATIONS))
@pytest.mark.parametrize("base", RUNS)
def test_an_ablation_changes_what_it_says_alone(name, base):
    before, after = configuration(base).flat(), configuration(base, name).flat()
    changed = {key: after[key] for key in after if after[key] != before[key]}
    assert changed == ABLATIONS[name]


@pytest.mark.parametrize("name", sorted(ABLATIONS))
def test_an_ablation_holds_only_what_differs(name):
    assert len(lines(name)) == 1 + len(ABLATIONS[name])


@pytest.mark.parametrize("name", RUNS)
def test_two_workers_share_the_batch_and_looks_fall_on_calls(name):
    train = configuration(name).train
    assert train.batch_size % 2 == 0
    periods = (train.log_every, train.sample_every, train.checkpoint_every, train.weight_check_every, train.steps)
    # Otherwise the compiled function is cut short before each look, and traced for every remainder.
    assert not any(period % train.steps_per_call for period in periods)


def test_fashion_mnist():
    config = configuration("fashion_mnist")
    assert (config.data.dataset, config.network.network, config.loss.loss) == (
        "fashion_mnist",
        "dcgan",
        "non_saturating",
    )
    assert config.loss.r1_gamma > 0
    assert config.optimizer.direction == "adam"
    assert config.optimizer.learning_rate_g == config.optimizer.learning_rate_d == 2e-4
    assert config.compression.compressor.startswith("linear:bits=4")
    assert (config.train.batch_size, config.train.steps_per_call) == (64, 5)


def test_cifar10_is_the_reference_run():
    """Gidel et al. 2019, arXiv 1802.10551, DCGAN with WGAN-GP: batch 64, z 128, betas (.5, .9), penalty 10, 64 filters,
    no batch normalisation in the discriminator (there never is), EMA .9999, 500k steps, optimistic Adam at 1e-4."""
    flat = configuration("cifar10").flat()
    expected = {
        "data.dataset": "cifar10",
        "network.network": "dcgan",
        "network.latent_dim": 128,
        "network.width": 64,
        "loss.loss": "wgan_gp",
        "loss.gradient_penalty": 10.0,
        "optimizer.direction": "adam",
        "optimizer.beta_1": 0.5,
        "optimizer.beta_2": 0.9,
        "optimizer.learning_rate_g": 1e-4,
        "optimizer.learning_rate_d": 1e-4,
        "train.batch_size": 64,
        "train.ema_decay": 0.9999,
        "train.steps": 500_000,
    }
    assert {key: flat[key] for key in expected} == expected


def test_the_ring_is_nearly_the_default():
    """`make train` and a bare `trainers.train` learn the same thing."""
    ring, default = configuration("ring"), RunConfig()
    assert (ring.data, ring.network, ring.loss, ring.optimizer, ring.compression) == (
        default.data,
        default.network,
        default.loss,
        default.optimizer,
        default.compression,
    )
