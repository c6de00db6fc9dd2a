"""What a job makes of settings."""

from dqgan_tf import config as config_lib
from dqgan_tf.distribute.message_board import MessageBoard
from dqgan_tf.training import job as job_lib


def test_local_steps_work_with_the_default_steps_per_call():
    """20 steps a call are no multiple of 8: a call has 24."""
    config = config_lib.from_flat(
        {"data.dataset": "gaussian_ring", "network.network": "mlp", "network.width": 4, "compression.local_steps": 8}
    )
    strategy = job_lib.start_strategy(config)
    job = job_lib.build(config, job_lib.describe(config, strategy), strategy, MessageBoard(0, 1))
    assert config.train.steps_per_call == 20 and job.model.steps_per_execution == 24
