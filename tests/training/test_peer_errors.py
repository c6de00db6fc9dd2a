"""Lost peers and faults of the program, by messages as TensorFlow 2.21 wrote them."""

import pytest
import tensorflow as tf

from dqgan_tf.training import peer_errors

STACK = """Graph execution error:

Detected at node {node} defined at (most recent call last):
  File "/x/trainers/train.py", line 33, in <module>

  File "/x/dqgan_tf/distribute/collectives.py", line 19, in all_gather

{cause}
\t [[{{{{node {node}}}}}]] [Op:__inference_run_steps_2317]"""
KILLED = STACK.format(
    node="while/CollectiveGatherV2",
    cause="Collective ops is aborted by: recvmsg:Connection reset by peer\nAdditional GRPC error information from "
    "remote target /job:worker/replica:0/task:1 while calling /tensorflow.WorkerService/RecvBuf:",
)
SOCKET = (
    "Socket closed\nAdditional GRPC error information from remote target /job:worker/replica:0/task:0 while calling "
    "/tensorflow.CoordinationService/GetKeyValue:"
)
BARRIER = (
    "Barrier failed because: task is set to ERROR: UNAVAILABLE: Task /job:worker/replica:0/task:1 heartbeat timeout. "
    "[type.googleapis.com/tensorflow.CoordinationServiceError=''].\n\nRPC: /tensorflow.CoordinationService/Barrier"
)
SOCKETS_OF_OUR_OWN = (
    "{{function_node __inference_run_steps_504}} LostConnectionError: worker 1 is gone: Connection reset by peer\n"
    'Traceback (most recent call last):\n\n  File "/x/script_ops.py", line 269, in __call__\n'
    "    ret = func(*args)\n\n"
    "dqgan_tf.distribute.sockets.connection.LostConnectionError: worker 1 is gone: Connection reset by peer\n\n\n"
    "\t [[{{node PyFunc_1}}]]"
)
TIMEOUT = "GetKeyValue() timed out with key: dqgan/1/b/1 and duration: 40s"
OWN = STACK.format(node="while/MatMul", cause="XLA: out of registers")


@pytest.mark.parametrize(
    ("error", "message", "reason"),
    [
        ("UnavailableError", KILLED, "Collective ops is aborted by: recvmsg:Connection reset by peer"),
        ("InternalError", KILLED, "Collective ops is aborted by: recvmsg:Connection reset by peer"),
        ("UnavailableError", SOCKET, "Socket closed"),
        ("UnknownError", SOCKETS_OF_OUR_OWN, "worker 1 is gone: Connection reset by peer"),
        ("CancelledError", SOCKET, "Socket closed"),
        ("DeadlineExceededError", TIMEOUT, TIMEOUT),
        ("InternalError", BARRIER, "Barrier failed because: task is set to ERROR"),
        ("FailedPreconditionError", "Coordination service agent is in ERROR state", "Coordination service agent"),
        ("CancelledError", STACK.format(node="while/CollectiveReduceV2", cause="Cancelled"), "Cancelled"),
    ],
)
def test_a_lost_peer(error, message, reason):
    error = getattr(tf.errors, error)(None, None, message)
    assert peer_errors.is_peer_lost(error)
    assert peer_errors.reason(error).startswith(reason)


@pytest.mark.parametrize("error", ["InternalError", "CancelledError", "FailedPreconditionError"])
@pytest.mark.parametrize("message", [OWN, "Could not find variable generator/kernel", ""])
def test_a_fault_of_the_program(error, message):
    """The stack of a node passes through collectives.py though the node is none."""
    assert not peer_errors.is_peer_lost(getattr(tf.errors, error)(None, None, message))


@pytest.mark.parametrize("error", ["InvalidArgumentError", "ResourceExhaustedError", "UnknownError"])
def test_other_kinds_are_no_lost_peer(error):
    assert not peer_errors.is_peer_lost(getattr(tf.errors, error)(None, None, KILLED))
