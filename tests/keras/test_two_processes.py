"""`fit` in two real processes under TF_CONFIG: validation, callbacks, saving, a kill and a resume."""

import json
import signal

import keras
import numpy as np
import pytest

from tests.distributed import cluster
from tests.keras import matrix

WEIGHTS = 784 * 512 + 512 + 2 * 512 + 512 * 10 + 10
# Of a probability: some units in the last place, which are 2^-24, 2^-8 and 2^-11 of a value.
ROUNDING = {"float32": 1e-5, "mixed_bfloat16": 2.0**-5, "mixed_float16": 2.0**-8}


def run(folder, data_dir, **settings):
    """Returns what both workers reported."""
    command = ["-m", "tests.keras.program", str(folder), str(data_dir), json.dumps(settings)]
    cluster.run(command, folder / "logs")
    return [json.loads((folder / f"worker_{index}.json").read_text()) for index in range(2)]


def assert_equal(first, second, rounding=1e-5):
    """Everything but the residuals, which are each worker's own; `predict` and `evaluate` give what one worker gives.

    Batches of other sizes round differently.
    """
    assert first["deviation"] < rounding
    np.testing.assert_allclose(first["evaluation"], first["expected"], rtol=rounding)
    for name in set(first) - {"residuals"}:
        assert first[name] == second[name], name
    assert first["residuals"] != second["residuals"]


def test_fit_keeps_both_workers_equal_bit_for_bit(tmp_path, data_dir):
    first, second = run(tmp_path, data_dir)
    assert_equal(first, second)
    history = first["history"]
    assert history["loss"][1] < history["loss"][0] and history["val_accuracy"][1] > 0.5
    # 4 bits a weight and a scale of 32 bits for each 512 of them, of one vector.
    wire = 4 * (-(-WEIGHTS // 8) + -(-WEIGHTS // 512))
    assert abs(first["bytes"][0] - wire) <= 4 * 512 // 8
    assert history["compression/wire_bytes"] == [first["bytes"][0]] * 2
    assert first["bytes"][2] == 4 * WEIGHTS
    for index in range(2):
        assert (tmp_path / f"log_{index}.csv").read_text().count("\n") == 3
        loaded = keras.models.load_model(tmp_path / f"worker_{index}.keras")  # without this library
        assert type(loaded.optimizer) is keras.optimizers.Adam and int(loaded.optimizer.iterations.numpy()) == 40


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"optimizer": "Adam", "where": "update", "spec": "sign:bucket=512"},
        {"optimizer": "Lion", "policy": "mixed_bfloat16", "spec": "powersgd:rank=2"},
        {"optimizer": "Adagrad", "where": "update", "topology": "two_step"},
        {"optimizer": "RMSprop", "transport": "ring", "packet_mb": 0.5},
    ],
    ids=lambda settings: "-".join(map(str, settings.values())),
)
def test_settings_in_two_processes(tmp_path, data_dir, settings):
    first, second = run(tmp_path, data_dir, **settings)
    if settings.get("where") == "update":
        assert first.pop("optimizer") != second.pop("optimizer")
    assert_equal(first, second, ROUNDING[settings.get("policy", "float32")])
    assert first["history"]["loss"][1] < first["history"]["loss"][0]


def kill(command, folder):
    """Runs a program of which worker 1 kills itself; the other ends with an error."""
    folder.mkdir(parents=True)
    killed = cluster.Cluster(command, folder / "logs")
    survivor, victim = killed.wait()
    assert victim == -signal.SIGKILL and survivor > 0, killed.output()


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"where": "gradient", "spec": "sign:bucket=512"},
        {"where": "update", "spec": "sign:bucket=512", "optimistic": True, "local_steps": 3, "shift": 0.1},
        {"where": "update", "network": "resnet20", "spec": "topk:fraction=0.01"},
    ],
    ids=lambda settings: "-".join(map(str, settings.values())),
)
def test_a_killed_fit_goes_on_as_if_nothing_had_happened(tmp_path, data_dir, settings):
    """One worker is killed inside the third of four epochs; the other ends with an error, and both start again."""
    settings = {"epochs": 4} | settings
    whole = run(tmp_path / "whole", data_dir, **settings)
    folder = tmp_path / "killed"
    kill(["-m", "tests.keras.program", str(folder), str(data_dir), json.dumps(settings | {"kill_at": 2})], folder)
    resumed = run(folder, data_dir, **settings)
    for before, after in zip(whole, resumed, strict=True):
        assert after["epochs"] == [2, 3]
        for name in ("weights", "optimizer", "residuals", "prediction"):
            assert before[name] == after[name], name
        assert before["history"]["loss"][2:] == after["history"]["loss"]


@pytest.mark.slow
def test_a_killed_fit_of_dqgan_goes_on_as_if_nothing_had_happened(tmp_path):
    def run(folder):
        folder.mkdir(exist_ok=True)
        cluster.run(["-m", "tests.keras.gan_program", str(folder)], folder / "logs")
        return [json.loads((folder / f"worker_{index}.json").read_text()) for index in range(2)]

    whole = run(tmp_path / "whole")
    kill(["-m", "tests.keras.gan_program", str(tmp_path / "killed"), "2"], tmp_path / "killed")
    resumed = run(tmp_path / "killed")
    assert whole[0]["shared"] == whole[1]["shared"] and whole[0]["replica"] != whole[1]["replica"]
    for before, after in zip(whole, resumed, strict=True):
        assert after["epochs"] == [2, 3]
        assert (before["shared"], before["replica"]) == (after["shared"], after["replica"])


ALL = [(name, policy, loop) for policy in matrix.POLICIES for name in matrix.MATRIX for loop in matrix.LOOPS]
SOME = [("adam", "float32", "custom"), ("lion", "mixed_float16", "custom"), ("adafactor", "mixed_bfloat16", "fit")]


@pytest.mark.slow  # test_optimizers.py has three cases of two replicas in one process
@pytest.mark.parametrize(
    "cases, replicas_per_worker",
    [
        pytest.param(SOME, 2, id="two_replicas_per_worker"),
        *[pytest.param([case for case in ALL if case[1] == policy], 1, id=policy) for policy in matrix.POLICIES],
    ],
)
def test_matrix(tmp_path, cases, replicas_per_worker):
    arguments = [str(tmp_path), str(replicas_per_worker), *map(",".join, cases)]
    cluster.run(["-m", "tests.keras.matrix", *arguments], tmp_path / "logs", timeout=280)
    first, second = [json.loads((tmp_path / f"worker_{index}.json").read_text()) for index in range(2)]
    assert set(first) == set(map(",".join, cases))
    for case in cases:
        one, other = first[",".join(case)], second[",".join(case)]
        assert one["weights"] == other["weights"] and one["equal"], case
        assert (one["slots"] == other["slots"]) == (matrix.place(*case) == "gradient"), case
        assert one["finite"] and one["iterations"] > 0 and one["losses"] == other["losses"], case
        assert one["losses"][-1] < one["losses"][0], case
