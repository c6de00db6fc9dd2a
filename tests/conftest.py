"""What every test needs before TensorFlow initialises: no GPU, few threads, eight logical CPUs."""

import gc
import os
import pathlib
import shutil
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1" if "PYTEST_XDIST_WORKER" in os.environ else "2")
os.environ.setdefault("TF_NUM_INTEROP_THREADS", "2")
os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ.pop("TF_CONFIG", None)

import pytest

from tests.distributed import cluster

ROOT = pathlib.Path(__file__).resolve().parent.parent
NUM_LOGICAL_CPUS = 8
# Files that take long come first, so that two processes (`-n 2 --dist loadfile`) end together. Those that mostly wait
# stand behind one that starts workers, which keeps both cores busy.
FIRST = (
    "distributed/test_training.py",
    "training/test_launcher_signals.py",
    "distributed/transport/test_connection.py",
    "training/test_launcher.py",
    "distributed/test_worker_errors.py",
    "distributed/test_exchange.py",
    "distributed/test_cli_errors.py",
    "distributed/test_topologies.py",
    "test_error_feedback.py",
    "gan/test_against_oracle.py",
    "distributed/test_packets.py",
    "compressors/test_topk.py",
    "gan",
    "distributed",
    "compressors",
    "oracles",
)


def pytest_configure(config):
    """Logical CPUs are possible once a process and only before the first op, hence here and for all tests.

    The process that hands out tests to others (`-n 2`) runs none and does not spend the seconds of the import.
    """
    is_first = cluster.COMPILED not in os.environ
    if is_first:
        os.environ[cluster.COMPILED] = tempfile.mkdtemp(prefix="compiled")
        config.add_cleanup(lambda: shutil.rmtree(os.environ.pop(cluster.COMPILED), ignore_errors=True))
    if getattr(config.option, "numprocesses", None):
        return
    import tensorflow as tf

    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * NUM_LOGICAL_CPUS)
    share_compilations(tf)
    # Modules stay: a collection, of which tracing starts many, need not visit their 0.5 million objects.
    gc.collect()
    gc.freeze()


def share_compilations(tf):
    """Lets XLA share what it compiles in this process; see `cluster.compilation_flags`.

    Workers that tests start by `cluster` do so too. Other processes compile all themselves, as those of a user.
    """
    os.environ["TF_XLA_FLAGS"] = cluster.compilation_flags(os.environ["TF_NUM_INTRAOP_THREADS"])
    tf.function(lambda: tf.constant(0.0) + 1.0, jit_compile=True)()  # reads the flags
    del os.environ["TF_XLA_FLAGS"]


def pytest_collection_modifyitems(items):
    def place(item):
        path = item.nodeid.removeprefix("tests/")
        return next((i for i, start in enumerate(FIRST) if path.startswith(start)), len(FIRST))

    items.sort(key=place)


@pytest.fixture(scope="session")
def data_dir() -> pathlib.Path:
    """Folder of the data sets: `DQGAN_DATA`, or `../shared/data` beside the checkout. Skips where there is none."""
    path = pathlib.Path(os.environ.get("DQGAN_DATA") or ROOT.parent / "shared" / "data")
    if not path.is_dir():
        pytest.skip(f"no data sets at {path}; set DQGAN_DATA to a folder that holds them")
    return path
