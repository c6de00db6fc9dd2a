"""Lost peers and faults of the program, by messages as TensorFlow 2.21.0 wrote them.

tests/distributed/test_lost_peer.py provokes them in real processes.
"""

import pytest
import tensorflow as tf

from dqgan_tf import private_tensorflow, tensorflow_texts

STACK = """Graph execution error:

Detected at node {node} defined at (most recent call last):
  File "/x/trainers/train.py", line 33, in <module>

  File "/x/dqgan_tf/distribute/transport/collectives.py", line 19, in all_gather

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
    "dqgan_tf.errors.LostConnectionError: worker 1 is gone: Connection reset by peer\n\n\n"
    "\t [[{{node PyFunc_1}}]]"
)
IN_ERROR = (
    "Task (/job:worker/replica:0/task:1) is already in error before the barrier was called. Barrier Id: dqgan/run/1::0 "
    "Task error: UNAVAILABLE: Task /job:worker/replica:0/task:1 heartbeat timeout. "
    "[type.googleapis.com/tensorflow.CoordinationServiceError='']\n\nRPC: /tensorflow.CoordinationService/Barrier"
)
MISSED = "Agent must be in CONNECTED state. It is currently in ERROR."
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
        ("InternalError", IN_ERROR, "Task (/job:worker/replica:0/task:1) is already in error"),
        ("FailedPreconditionError", MISSED, MISSED),
        ("FailedPreconditionError", "Coordination service agent is in ERROR state", "Coordination service agent"),
        ("CancelledError", STACK.format(node="while/CollectiveReduceV2", cause="Cancelled"), "Cancelled"),
    ],
)
def test_a_lost_peer(error, message, reason):
    error = getattr(tf.errors, error)(None, None, message)
    assert tensorflow_texts.is_peer_lost(error)
    assert tensorflow_texts.reason(error).startswith(reason)


@pytest.mark.parametrize("error", ["InternalError", "CancelledError", "FailedPreconditionError"])
@pytest.mark.parametrize("message", [OWN, "Could not find variable generator/kernel", ""])
def test_a_fault_of_the_program(error, message):
    """The stack of a node passes through collectives.py though the node is none."""
    assert not tensorflow_texts.is_peer_lost(getattr(tf.errors, error)(None, None, message))


@pytest.mark.parametrize("error", ["InvalidArgumentError", "ResourceExhaustedError", "UnknownError"])
def test_other_kinds_are_no_lost_peer(error):
    assert not tensorflow_texts.is_peer_lost(getattr(tf.errors, error)(None, None, KILLED))


def test_the_reason_of_a_server_that_does_not_start_asks_for_the_port():
    error = tf.errors.UnknownError(None, None, "Could not start gRPC server")
    assert (
        tensorflow_texts.reason(error) == "Could not start gRPC server: is the port of this worker in TF_CONFIG in use?"
    )


def test_a_full_disk_is_not_a_lack_of_memory():
    """/dev/full refuses every byte with ENOSPC; no machine has the memory of the second call."""
    with pytest.raises(tf.errors.ResourceExhaustedError) as disk:
        tf.io.write_file("/dev/full", "x" * 10**6)
    assert tensorflow_texts.is_full_disk(disk.value)
    with pytest.raises(tf.errors.ResourceExhaustedError) as memory:
        tf.zeros([2**46]) + 1.0
    assert not tensorflow_texts.is_full_disk(memory.value)
    assert not tensorflow_texts.is_full_disk(OSError(28, "No space left on device"))


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (tf.errors.NotFoundError(None, None, "{{function_node x}} no file\nmore"), "no file"),
        (tf.errors.NotFoundError(None, None, ""), "NotFoundError"),
        (OSError(28, "No space left on device"), "[Errno 28] No space left on device"),
    ],
)
def test_first_line(error, line):
    assert tensorflow_texts.first_line(error) == line


def test_the_c_functions_exist_and_raise_errors_of_tensorflow():
    """No cluster: a barrier cannot be."""
    tf.constant(0)  # starts TensorFlow
    assert "TFE_WaitAtBarrier" in private_tensorflow._c_functions()
    with pytest.raises(tf.errors.OpError, match="[Cc]oordination service"):
        private_tensorflow.CoordinationService().wait_at_barrier("nobody", 0.1)
