"""Distributed tests of the channel with real processes: equal bits everywhere, exact without a tag, oracle figures."""

import numpy as np
import pytest

from dqgan_tf import compressors
from tests.distributed import cluster, exchange_program

pytestmark = pytest.mark.timeout(1200)  # four replicas compile every compressor on two cores
COMPRESSORS = ["linear:bits=4,bucket=64", "sign:bucket=64", "topk:fraction=0.05"]
ONE_STEP = [f"{spec}@all_gather" for spec in COMPRESSORS]
BETWEEN_HOSTS = ["sign:bucket=64@hierarchical", "powersgd:rank=2@hierarchical"]
LEARNING = ["adaptive:bits=3,bucket=64@two_step", "powersgd:rank=2@auto"]
SPECS = ["none@auto", *ONE_STEP, *(f"{spec}@two_step" for spec in COMPRESSORS), *BETWEEN_HOSTS, *LEARNING]


@pytest.fixture(
    scope="module",
    params=[
        pytest.param((2, 1), id="2x1"),
        pytest.param((2, 2), id="2x2", marks=pytest.mark.slow),
        pytest.param((3, 1), id="3x1", marks=pytest.mark.slow),
    ],
)
def exchanged(request, tmp_path_factory):
    """Results of all workers, merged: every replica's tensors under its global id."""
    num_workers, replicas_per_worker = request.param
    folder = tmp_path_factory.mktemp("exchange")
    program = ["-m", "tests.distributed.exchange_program", str(folder), str(replicas_per_worker), *SPECS]
    cluster.run(program, folder, num_workers, timeout=900)
    workers = [dict(np.load(folder / f"worker_{i}.npz")) for i in range(num_workers)]
    boards = [worker.pop("board").tolist() for worker in workers]
    assert boards == [[f"worker {i}" for i in range(num_workers)]] * num_workers
    return {key: value for worker in workers for key, value in worker.items()}, num_workers * replicas_per_worker


@pytest.mark.parametrize("spec", SPECS)
def test_every_replica_of_every_process_receives_the_same_bits(exchanged, spec):
    results, replicas = exchanged
    for number in range(3):
        for kind in ("exact", "sent"):
            for index in range(2):
                rows = [results[f"{spec}/{number}/{kind}/{index}/{r}"] for r in range(replicas)]
                for row in rows[1:]:
                    assert row.tobytes() == rows[0].tobytes(), (number, kind, index)


def test_without_the_tag_a_reduction_is_the_exact_mean(exchanged):
    results, replicas = exchanged
    for number in range(3):
        for index in range(2):
            expected = np.mean([exchange_program.inputs(r, number)[index] for r in range(replicas)], 0, np.float64)
            received = results[f"{SPECS[1]}/{number}/exact/{index}/0"]
            # Tolerance: a float32 sum of at most four values of magnitude up to 4, each rounded once.
            np.testing.assert_allclose(received, expected, rtol=1e-6, atol=1e-6)


def test_none_equals_the_dense_all_reduce_bit_for_bit(exchanged):
    results, _ = exchanged
    for number in range(3):
        for index in range(2):
            sent, exact = (results[f"none@auto/{number}/{kind}/{index}/0"] for kind in ("sent", "exact"))
            assert sent.tobytes() == exact.tobytes()


@pytest.mark.parametrize("spec", SPECS[1:])
def test_nothing_is_lost_only_delayed(exchanged, spec):
    """Telescoping, in both topologies: sum_t q_t + mean_m e_T^m = mean_m sum_t x_t^m (Karimireddy et al. 2019)."""
    results, replicas = exchanged
    for index in range(2):
        received = np.sum([results[f"{spec}/{n}/sent/{index}/0"] for n in range(3)], 0, np.float64)
        kept = np.mean([results[f"{spec}/residual/{index}/{r}"] for r in range(replicas)], 0, np.float64)
        given = [exchange_program.inputs(r, n)[index] for r in range(replicas) for n in range(3)]
        expected = np.sum(given, 0, np.float64) / replicas
        exact = spec.startswith("powersgd") and index == 1  # a vector is no matrix
        assert exact or np.abs(kept).max() > 1e-5  # the compressor did drop something
        # Tolerance: 3 rounds of float32 rounding at the vectors' magnitude, about 4.
        np.testing.assert_allclose(received + kept, expected, atol=5e-6)


@pytest.mark.parametrize("spec", ONE_STEP)
def test_the_first_mean_is_the_mean_of_what_each_worker_decodes(exchanged, spec):
    results, replicas = exchanged
    compressor = compressors.get(spec.partition("@")[0])
    decoded = []
    for replica in range(replicas):
        value = exchange_program.inputs(replica, 0)[0]
        decoded.append(compressor.decode(compressor.encode(value, [0, 0]), 1000).numpy())
    expected = np.mean(decoded, 0, np.float64)
    # Tolerance: the float32 sum of at most four terms. A code at a rounding boundary may fall either way in XLA, which
    # moves one value by a whole level: none does for these inputs.
    np.testing.assert_allclose(results[f"{spec}/0/sent/0/0"], expected, atol=1e-6)
