"""What a job makes of settings."""

import concurrent.futures

import pytest

from dqgan_tf import config as config_lib
from dqgan_tf.distribute.message_board import MessageBoard
from dqgan_tf.errors import UsageError
from dqgan_tf.training import job as job_lib


def test_workers_with_one_process_number_check_a_folder_at_once(tmp_path):
    """As in containers, where each worker is process 1: none takes the other's file for its own."""
    config = config_lib.from_flat({"model_dir": str(tmp_path / "run")})
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(job_lib.check, [config] * 2000))
    assert not list((tmp_path / "run").iterdir())


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    for model_dir in ("", str(tmp_path / "file"), str(tmp_path / "file" / "run")):
        with pytest.raises(UsageError, match="model_dir"):
            job_lib.check(config_lib.from_flat({"model_dir": model_dir}))


def test_local_steps_work_with_the_default_steps_per_call():
    """20 steps a call are no multiple of 8: a call has 24."""
    config = config_lib.from_flat(
        {"data.dataset": "gaussian_ring", "network.network": "mlp", "network.width": 4, "compression.local_steps": 8}
    )
    strategy = job_lib.start_strategy(config)
    job = job_lib.build(config, job_lib.describe(config, strategy), strategy, MessageBoard(0, 1))
    assert config.train.steps_per_call == 20 and job.model.steps_per_execution == 24
