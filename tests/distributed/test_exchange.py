"""Distributed tests of the channel with real processes: equal bits everywhere, exact without a tag, oracle figures."""

import functools

import numpy as np
import pytest

from tests.contracts.small_compressors import SPECS
from tests.distributed import cluster, exchange_cases
from tests.distributed.exchange_cases import CALLS, POISONED, Case

pytestmark = pytest.mark.timeout(2400)  # the slow jobs compile every compressor in every process, on two cores
COMPOSED = "topk:fraction=0.1+linear:bits=4,bucket=32"
SOME = ["none@auto", "linear:bits=4,bucket=32@all_gather", "sign:bucket=32@two_step"]
SOME += ["randomk:fraction=0.1@all_gather", "adaptive:bits=3,bucket=32@two_step", "powersgd:rank=2,explore=1@auto"]
# Numbers of few bits, signs, levels that are learned, indices; all the others in one process: test_topologies.py.
THREE = ["linear:bits=4,bucket=32", "sign:bucket=32", "adaptive:bits=3,bucket=32", "topk:fraction=0.1", COMPOSED]
# Each way to travel once; random values and two-step signs by way of an owner are in the slow jobs.
QUICK = [SOME[0], SOME[1], SOME[4], SOME[5], "sign:bucket=32@hierarchical"]
HOSTS = [*SOME, *(f"{spec}@hierarchical" for spec in [*SPECS, "powersgd:rank=2,explore=1"])]
JOBS = {"2x1": (2, 1, QUICK), "2x2": (2, 2, HOSTS)}
for kind in ("all_gather", "two_step"):
    # `auto` is the one way in which those travel that have no other.
    names = ["none@auto", "powersgd:rank=2,explore=1@auto"]
    names += [str(case) for case in exchange_cases.cases(THREE) if case.topology == kind]
    JOBS[f"{kind}-3x1"] = (3, 1, names)  # two and four replicas: tests/distributed/test_topologies.py, in one process


class Job:
    """What all workers of one job wrote, under every replica's global id, and how its channels were to travel."""

    def __init__(self, folder, num_workers, per_worker, names):
        self.names, self.replicas, self.per_worker = names, num_workers * per_worker, per_worker
        self.oracles = {name: self._oracle(name, num_workers, per_worker) for name in names}
        channels = [f"{self.oracles[name].data}={name}" for name in names]
        program = ["-m", "tests.distributed.exchange_program", str(folder), str(per_worker), *channels]
        cluster.run(program, folder, num_workers, timeout=2200)
        workers = [dict(np.load(folder / f"worker_{i}.npz")) for i in range(num_workers)]
        boards = [worker.pop("board").tolist() for worker in workers]
        assert boards == [[f"worker {i}" for i in range(num_workers)]] * num_workers
        self._results = {key: value for worker in workers for key, value in worker.items()}

    def _oracle(self, name, num_workers, per_worker):
        spec, _, topology = name.partition("@")
        hosts = topology in ("auto", "hierarchical") and not spec.startswith("none")
        ways = exchange_cases.topologies(spec)
        case = Case(spec, topology if topology in ways else ways[0])
        if hosts:
            return exchange_cases.expected(case, num_workers, per_host=per_worker)
        return exchange_cases.expected(case, self.replicas)

    def rows(self, name, call, kind, index=None):
        """One row for each replica."""
        place = "" if index is None else f"{index}/"
        return np.stack([self._results[f"{name}/{call}/{kind}/{place}{r}"] for r in range(self.replicas)])

    def inputs(self, name, call, index):
        data = self.oracles[name].data
        return np.stack([exchange_cases.inputs(data, r, self.replicas, call)[index] for r in range(self.replicas)])


@pytest.fixture(
    scope="module", params=[pytest.param(job, marks=[] if job == "2x1" else pytest.mark.slow) for job in JOBS]
)
def job(request, tmp_path_factory):
    return Job(tmp_path_factory.mktemp("exchange"), *JOBS[request.param])


def test_every_replica_of_every_process_receives_the_same_bits(job):
    for name in job.names:
        for call in range(CALLS):
            for kind in ("exact", "sent"):
                for index in range(2):
                    rows = [row.tobytes() for row in job.rows(name, call, kind, index)]
                    assert rows.count(rows[0]) == len(rows), (name, call, kind, index)


def test_without_the_tag_a_reduction_is_the_exact_mean(job):
    for name in job.names:
        for call in set(range(CALLS)) - {POISONED}:
            for index in range(2):
                expected = np.mean(job.inputs(name, call, index), 0, np.float64)
                # Tolerance: a float32 sum of at most four values of magnitude up to 10, each rounded once.
                np.testing.assert_allclose(job.rows(name, call, "exact", index)[0], expected, rtol=1e-6, atol=2e-6)


def test_what_is_not_compressed_is_exact_to_the_bit(job):
    """TensorFlow's own all-reduce inside and between hosts of several replicas; else the sum in the order of ranks."""
    for call in range(CALLS):
        for index in range(2):
            sent = job.rows("none@auto", call, "sent", index)[0]
            expected = job.rows("none@auto", call, "exact", index)[0]
            if job.per_worker == 1:
                expected = functools.reduce(np.add, job.inputs("none@auto", call, index)) * np.float32(1 / job.replicas)
            assert sent.dtype == expected.dtype and sent.tobytes() == expected.tobytes(), (call, index)


def test_means_and_residuals_are_the_oracles(job):
    """Three calls, the second of which is refused by all since one replica's update is infinite."""
    for name in job.names:
        before = 0.0
        for call, outcomes in enumerate(job.oracles[name].calls):
            assert job.rows(name, call, "accepted").tolist() == [outcomes is not None] * job.replicas, (name, call)
            for index in range(2):
                residuals = job.rows(name, call, "residual", index)
                if outcomes is None:
                    np.testing.assert_array_equal(residuals, before[index], err_msg=name)
                    continue
                expected, place = outcomes[index], f"{name}, call {call}, vector {index}"
                # Tolerance: see tests/distributed/test_topologies.py.
                sent = job.rows(name, call, "sent", index)[0]
                np.testing.assert_allclose(sent, expected.mean, rtol=0, atol=1e-5, err_msg=place)
                kept = np.repeat(expected.residuals, job.replicas // len(expected.residuals), axis=0)
                np.testing.assert_allclose(residuals, kept, rtol=0, atol=1e-5, err_msg=place)
            before = [job.rows(name, call, "residual", index) for index in range(2)]


def test_nothing_is_lost_only_delayed(job):
    """Telescoping, in all topologies: sum_t q_t + mean_m e_T^m = mean_m sum_t x_t^m (Karimireddy et al. 2019)."""
    accepted = set(range(CALLS)) - {POISONED}
    for name in job.names:
        for index in range(2):
            received = sum(job.rows(name, call, "sent", index)[0].astype(np.float64) for call in accepted)
            kept = np.mean(job.rows(name, CALLS - 1, "residual", index), 0, np.float64)
            expected = sum(np.mean(job.inputs(name, call, index), 0, np.float64) for call in accepted)
            exact = name.startswith("none") or (name.startswith("powersgd") and index == 1)  # a vector is no matrix
            assert exact or np.abs(kept).max() > 1e-5, name  # the compressor did drop something
            # Tolerance: 2 rounds of float32 rounding at the vectors' magnitude, about 10, and M times it at an owner.
            np.testing.assert_allclose(received + kept, expected, atol=1e-5, err_msg=name)
