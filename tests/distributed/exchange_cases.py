"""Every compressor in every topology that it travels by, with updates on which the numpy oracle is certain."""

import functools
from typing import NamedTuple

import numpy as np

from tests.contracts import small_compressors
from tests.oracles import exchange_numpy as oracle

SPECS = (*small_compressors.SPECS, *small_compressors.COMPOSED)
MATRICES = ((20, 30), (100,)), ((97,),)
"""Shapes of the tensors of two vectors of 700 and 97 values."""
SIZES = 700, 97
CALLS, POISONED = 3, 1
"""Reductions one after the other; in the second, one replica's last value is infinite and nothing is remembered."""
CERTAIN = 2e-5
"""A margin above which float32 decides as the oracle does: roundings and their sums stay below 1e-6 of a scale."""


class Case(NamedTuple):
    """spec: of both vectors. topology: `dense`, `all_gather`, `two_step` or `low_rank`."""

    spec: str
    topology: str

    def __str__(self):
        return f"{self.spec}@{self.topology}"

    @property
    def vectors(self):
        return [oracle.Vector(self.spec, shapes) for shapes in MATRICES]


def cases(specs=SPECS):
    """Returns all of them, in order."""
    return [Case(spec, topology) for spec in specs for topology in topologies(spec)]


def topologies(spec):
    """How a spec's vectors may travel."""
    if spec.startswith("powersgd"):
        return ("low_rank",)
    return ("dense",) if spec == "none" else ("all_gather", "two_step")


def stream(replica, call, seed=0):
    """The seed of a channel's random numbers: (seed, number of the stream), (calls times vectors)."""
    return (1000003 * seed + 7919 * replica) % 2**31, len(SIZES) * call


def common_stream(call, seed=0):
    """The seed that all replicas share."""
    return (1000003 * seed - 1) % 2**31, len(SIZES) * call


class Expected(NamedTuple):
    """data: number of the draw. calls: for each call one `Outcome` a vector, None for the one that is refused."""

    data: int
    calls: list


@functools.cache
def expected(case, replicas, error_feedback=True, per_host=1):
    """Returns the oracle's `Expected` on the first draw of updates on which it is certain.

    Args:
      case: what is sent.
      replicas: M, how many encode.
      error_feedback: whether residuals are kept.
      per_host: how many replicas add up exactly in each of the M.
    """
    for data in range(200):
        calls = _run(case, replicas, data, error_feedback, per_host)
        if calls:
            return Expected(data, calls)
    raise AssertionError(f"no updates on which every decision of {case} with {replicas} replicas is certain")


def _run(case, replicas, data, error_feedback, per_host):
    residuals = [np.zeros((replicas, size), np.float32) for size in SIZES]
    states = [oracle.start(vector) for vector in case.vectors]
    calls = [None] * CALLS
    for call in set(range(CALLS)) - {POISONED}:
        seeds, common = [stream(replica, call) for replica in range(replicas)], common_stream(call)
        hosts = [range(host * per_host, (host + 1) * per_host) for host in range(replicas)]
        values = [[updates(data, replica, call) for replica in host] for host in hosts]
        outcomes = []
        for index, vector in enumerate(case.vectors):
            x = np.stack([sum(own[index] for own in host) / np.float32(per_host) for host in values])
            state = residuals[index], states[index]
            one = oracle.exchange(vector, index, case.topology, x, *state, seeds, common, error_feedback)
            residuals[index], states[index] = one.residuals, one.state
            outcomes.append(one)
        if min(one.margin for one in outcomes) < CERTAIN:
            return None
        calls[call] = outcomes
    return calls


def updates(data, replica, call):
    """Returns float32 vectors of `SIZES`: a scale for each replica, a part common to all calls, heavier tails later."""
    own, steady = (np.random.default_rng([data, replica, number]) for number in (call, CALLS))
    normal = (own.standard_normal(sum(SIZES)) + steady.standard_normal(sum(SIZES))) * 0.7
    drawn = (0.5 + 0.3 * replica) * np.copysign(np.abs(normal) ** (1 + call / 4), normal)
    return np.split(drawn.astype(np.float32), [SIZES[0]])


def inputs(data, replica, replicas, call):
    """`updates` as a reduction receives them: the last replica's are infinite in the call that is refused."""
    vectors = updates(data, replica, call)
    if call == POISONED and replica == replicas - 1:
        vectors[1][-1] = np.inf
    return vectors
