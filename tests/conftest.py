"""What every test needs before TensorFlow initialises: no GPU, few threads, eight logical CPUs."""

import os
import pathlib
import tempfile

if "PYTEST_XDIST_WORKER" not in os.environ:
    # What XLA has compiled, for all processes of one run of the tests: models of tests are few and alike, and XLA
    # compiles for each logical CPU of each process. Loaded code is the same to the bit.
    _compiled = tempfile.TemporaryDirectory(prefix="xla-of-tests-", ignore_cleanup_errors=True)
    os.environ.setdefault(
        "TF_XLA_FLAGS",
        f"--tf_xla_persistent_cache_directory={_compiled.name} --tf_xla_persistent_cache_device_types=CPU",
    )
# Below level 3, TensorFlow reports each function that it loads from there as an error.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1" if "PYTEST_XDIST_WORKER" in os.environ else "2")
os.environ.setdefault("TF_NUM_INTEROP_THREADS", "2")
if os.environ.get("DQGAN_TEST_GPU") != "1":  # with it, operations outside of strategies run on a GPU, see BUILD.md
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ.pop("TF_CONFIG", None)

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
NUM_LOGICAL_CPUS = 8
# Files that take long come first, so that two processes (`-n 2 --dist loadfile`) end together. Those that mostly wait
# stand behind one that starts workers, which keeps both cores busy.
FIRST = (
    "keras/test_two_processes.py",
    "weather/test_attacks.py",
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
    if getattr(config.option, "numprocesses", None):
        return
    import tensorflow as tf

    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * NUM_LOGICAL_CPUS)


def pytest_collection_modifyitems(items):
    def place(item):
        path = item.nodeid.removeprefix("tests/")
        return next((i for i, start in enumerate(FIRST) if path.startswith(start)), len(FIRST))

    items.sort(key=place)


@pytest.fixture(scope="session")
def data_dir() -> pathlib.Path:
    """Folder of the data sets: `DQGAN_DATA`, or `shared/data` beside the checkout. Skips where there is none."""
    path = pathlib.Path(os.environ.get("DQGAN_DATA") or ROOT.parent / "shared" / "data")
    if not path.is_dir():
        pytest.skip(f"no data sets at {path}; set DQGAN_DATA to a folder that holds them")
    return path
