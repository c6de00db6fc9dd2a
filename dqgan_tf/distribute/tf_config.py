"""What the environment says of the cluster: TF_CONFIG, checked, or what a scheduler says; and the workers' secret.

With a wrong TF_CONFIG, TensorFlow hangs or aborts with a C++ stack trace. So it is checked before TensorFlow reads it.
"""

import hashlib
import hmac
import ipaddress
import json
import re
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from dqgan_tf.errors import UsageError

_EXAMPLE = '{"cluster": {"worker": ["host0:2222", "host1:2222"]}, "task": {"type": "worker", "index": 0}}'
JOBS = ("chief", "worker")  # the jobs that train, in the order of worker indices
_KEYS = ("cluster", "task", "rpc_layer", "environment")  # TensorFlow reads the third, older operators write the fourth
_TASK_KEYS = ("type", "index")
_HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_.])?")
_MOST_WORKERS = 10000

SECRET = "DQGAN_SECRET"  # the environment variable; `trainers.launch` sets a random one for workers on one machine


class TfConfig(NamedTuple):
    """Place of this process in the cluster.

    addresses: `host:port` of every training task: the chief, then the workers.
    worker_index: position of this task in `addresses`.
    """

    addresses: tuple[str, ...]
    worker_index: int

    @property
    def num_workers(self) -> int:
        """Number of training tasks."""
        return len(self.addresses)


def read(environment: Mapping[str, str]) -> TfConfig | None:
    """Returns the place that TF_CONFIG describes; None if it is unset, or names neither a cluster nor a task.

    Raises:
      UsageError: TF_CONFIG is not JSON, its cluster and task do not fit together, or it holds what would be ignored; or
        there are several workers, and the secret is set and empty.
    """
    config = _parse(environment)
    if config is None:
        return None
    place = _place(config)
    if place.num_workers > 1:
        secret(environment)
    return place


def is_evaluator(environment: Mapping[str, str]) -> bool:
    """Returns whether TF_CONFIG gives this process the task `evaluator`, which does not train and is no part of the
    cluster. The cluster may name it or not.

    Raises:
      UsageError: TF_CONFIG is not JSON, its cluster cannot be used, or it has several evaluators.
    """
    config = _parse(environment)
    if config is None or not isinstance(config["task"], dict) or config["task"].get("type") != "evaluator":
        return False
    _addresses(config["cluster"])
    if _index(config["task"]) != 0:
        raise _error(f"a job has one evaluator, with index 0. Received: task {config['task']}")
    return True


def _parse(environment):
    """Returns TF_CONFIG as a dict with cluster and task, the cluster not empty; None if it names neither."""
    text = environment.get("TF_CONFIG", "").strip()
    if not text:
        return None
    try:
        config = json.loads(text, object_pairs_hook=_dict)
    except (ValueError, RecursionError) as error:
        raise _error(f"it is not JSON ({error})") from None
    if not isinstance(config, dict) or not isinstance(config.get("cluster"), dict | None):
        raise _error("it must be an object with the keys cluster and task")
    unknown = [key for key in config if key not in _KEYS]
    if unknown:
        raise _error(f"it has the key {unknown[0]!r}; known are cluster and task")
    cluster, task = config.get("cluster"), config.get("task")
    if not isinstance(task, dict | None):
        raise _error(f"task must hold type and index. Received: {task!r}")
    unknown = [key for key in task or () if key not in _TASK_KEYS]
    if unknown:
        raise _error(f"task has the key {unknown[0]!r}; known are type and index")
    if config.get("rpc_layer") not in (None, "grpc"):
        raise _error(f"rpc_layer must be grpc, or be left out. Received: {config['rpc_layer']!r}")
    if not isinstance(config.get("environment"), str | None):
        raise _error(f"environment must be a text such as cloud, or be left out. Received: {config['environment']!r}")
    if not cluster and task:
        raise _error("it names a task and no cluster, so every worker would train alone")
    return {"cluster": cluster, "task": task} if cluster else None


def _dict(pairs):
    """Returns the dict of a JSON object, in which no key may stand twice: Python would take the last one."""
    names = [name for name, _ in pairs]
    doubled = [name for name in names if names.count(name) > 1]
    if doubled:
        raise ValueError(f"the key {doubled[0]!r} stands twice in one object")
    return dict(pairs)


def of_resolver(resolver: Any) -> TfConfig | None:
    """Returns the place that a `tf.distribute.cluster_resolver.ClusterResolver` names; None if its cluster is empty.

    The checks are those of `read`.

    Raises:
      UsageError: cluster and task do not fit together, or hold what would be ignored.
    """
    cluster = resolver.cluster_spec().as_dict()  # some resolvers know their task after this call only
    if not cluster:
        return None
    try:
        return _place({"cluster": cluster, "task": {"type": resolver.task_type, "index": resolver.task_id}})
    except UsageError as error:
        raise UsageError(f"The cluster of the cluster_resolver, as a TF_CONFIG: {error}") from None


def of_scheduler(scheduler: str, environment: Mapping[str, str]) -> str:
    """Returns the TF_CONFIG of this process that a scheduler's variables describe.

    Args:
      scheduler: a key of `SCHEDULERS`.
      environment: the variables of this process.

    Raises:
      UsageError: a variable is missing or cannot be used, or TF_CONFIG is set too.
    """
    if environment.get("TF_CONFIG", "").strip():
        raise UsageError(
            f"TF_CONFIG is set, and --cluster={scheduler} would make another one. Unset TF_CONFIG or leave "
            "out --cluster."
        )
    addresses, index = SCHEDULERS[scheduler](environment)
    text = json.dumps({"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}})
    read({"TF_CONFIG": text})
    return text


def of_kubernetes(environment: Mapping[str, str]) -> tuple[list[str], int]:
    """Returns all addresses and this worker's index, in a pod of an Indexed Job (`deploy/kubernetes/job.yaml`).

    | variable | set by | value |
    |---|---|---|
    | JOB_COMPLETION_INDEX | Kubernetes | index of this worker |
    | DQGAN_WORKERS | the manifest | number of workers |
    | DQGAN_ADDRESS | the manifest | address of worker {index}, such as dqgan-{index}.dqgan:2222 |

    Raises:
      UsageError: a variable is missing or cannot be used.
    """
    workers = _count(environment, "DQGAN_WORKERS", "the Job's completions, such as 4", 1, _MOST_WORKERS)
    index = _count(environment, "JOB_COMPLETION_INDEX", "set by Kubernetes with completionMode Indexed", 0, workers - 1)
    pattern = environment.get("DQGAN_ADDRESS", "").strip()
    addresses = [pattern.replace("{index}", str(worker)) for worker in range(workers)]
    if "{index}" not in pattern or not all(map(_is_address, addresses)):
        raise UsageError(
            "DQGAN_ADDRESS must be the host:port of worker {index}, JOB-{index}.SERVICE:PORT, such as "
            f"dqgan-{{index}}.dqgan:2222. Received: {pattern!r}"
        )
    return addresses, index


def of_slurm(environment: Mapping[str, str]) -> tuple[list[str], int]:
    """Returns all addresses and this worker's index, in a task that `srun` has started (`deploy/slurm/train.sbatch`).

    Task i of the step is worker i. Task k of a node listens at the port DQGAN_PORT + k. Without DQGAN_PORT, the first
    port is a function of the job's id, so that jobs with neighbouring ids can share a node.

    Raises:
      UsageError: a variable is missing or cannot be used, or the tasks are not in the order of the nodes.
    """
    how = "set by Slurm for each task of srun: start the workers by srun"
    tasks = _count(environment, "SLURM_STEP_NUM_TASKS", how, 1, _MOST_WORKERS)
    index = _count(environment, "SLURM_PROCID", how, 0, tasks - 1)
    node = _count(environment, "SLURM_NODEID", how, 0, _MOST_WORKERS)
    local = _count(environment, "SLURM_LOCALID", how, 0, _MOST_WORKERS)
    hosts = _hosts(environment.get("SLURM_STEP_NODELIST", ""), how)
    counts = _tasks_per_node(environment.get("SLURM_STEP_TASKS_PER_NODE", ""), how)
    places = [(node, local) for node, count in enumerate(counts) for local in range(count)]
    if len(counts) != len(hosts) or len(places) != tasks:
        raise UsageError(
            f"Slurm's variables contradict each other: {tasks} tasks, {len(hosts)} nodes, and {counts} tasks on each."
        )
    if places[index] != (node, local):
        raise UsageError(
            f"Task {index} must be task {places[index][1]} of node {places[index][0]}. It is task {local} of node "
            f"{node}: start the workers by srun --distribution=block."
        )
    job = _count(environment, "SLURM_JOB_ID", how, 0, 1 << 32)
    first_port = 10000 + 64 * (job % 350)  # below 32768, from where Linux takes the ports of its own choice
    if environment.get("DQGAN_PORT", "").strip():
        first_port = _count(
            environment, "DQGAN_PORT", "the port of the first task of every node", 1024, 65536 - max(counts)
        )
    if len(hosts) == 1:
        hosts = ["127.0.0.1"]  # the ports are not open to other machines
    return [f"{hosts[node]}:{first_port + local}" for node, local in places], index


SCHEDULERS = {"kubernetes": of_kubernetes, "slurm": of_slurm}


def _place(config):
    """Returns the `TfConfig` of a dict with cluster and task."""
    cluster = config["cluster"]
    addresses = _addresses(cluster)
    kind, index = _task(config)
    if not isinstance(cluster.get(kind), list) or not 0 <= index < len(cluster[kind]):
        sizes = ", ".join(f"{len(tasks)} {job}" for job, tasks in cluster.items() if isinstance(tasks, list))
        raise _error(f"task {kind}:{index} is not in the cluster, which has {sizes}")
    chiefs = len(cluster.get("chief", []))
    return TfConfig(addresses, chiefs + index if kind == "worker" else index)


def secret(environment: Mapping[str, str]) -> str | None:
    """Returns the secret in DQGAN_SECRET, or None if the variable is unset.

    Raises:
      UsageError: it is set and empty, as by a command that failed: the workers would trust everybody.
    """
    if SECRET not in environment:
        return None
    text = environment[SECRET].strip()
    if not text:
        raise UsageError(
            f"{SECRET} is set and empty. Set it to a random text, the same for all workers, such as that of "
            f"`openssl rand -hex 32`, or unset it. Received: {SECRET}={environment[SECRET]!r}"
        )
    return text


def proof(environment: Mapping[str, str], *parts: str | bytes) -> str:
    """Returns HMAC-SHA256 of `parts` under the secret in DQGAN_SECRET, in hex: what only a worker of the cluster knows.

    Without the variable the secret is empty, and everybody can compute it.
    """
    digest = hmac.new((secret(environment) or "").encode(), digestmod=hashlib.sha256)
    for part in parts:
        part = part.encode() if isinstance(part, str) else part
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()


def _count(environment, name, meaning, lowest, highest):
    """Returns the whole number in a variable. Raises UsageError, with the meaning of the variable."""
    text = environment.get(name, "").strip()
    if not re.fullmatch(r"[0-9]{1,10}", text) or not lowest <= int(text) <= highest:
        received = f"Received: {name}={text}" if name in environment else "It is not set."
        raise UsageError(f"{name} must be a whole number from {lowest} to {highest}: {meaning}. {received}")
    return int(text)


def _hosts(node_list: str, how: str) -> list[str]:
    """Returns the names in a list such as node[01-03,7], which only Slurm's own command reads in all its forms."""
    if not node_list:
        raise UsageError(f"SLURM_STEP_NODELIST must name the nodes, such as node[01-02]; {how}. It is not set.")
    try:
        run = subprocess.run(["scontrol", "show", "hostnames", node_list], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UsageError(
            f"Slurm's command `scontrol` must be there to read SLURM_STEP_NODELIST={node_list}: {error}. In a "
            "container, set TF_CONFIG yourself."
        ) from None
    if run.returncode or not run.stdout.split():
        raise UsageError(f"scontrol cannot read SLURM_STEP_NODELIST={node_list}: {run.stderr.strip()}")
    return run.stdout.split()


def _tasks_per_node(text: str, how: str) -> Sequence[int]:
    """Returns the number of tasks of each node from a text such as 2(x3),1."""
    counts: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"([0-9]{1,6})(?:\(x([0-9]{1,6})\))?", part)
        if not match:
            raise UsageError(f"SLURM_STEP_TASKS_PER_NODE must be a text such as 2(x3),1; {how}. Received: {text!r}")
        counts += [int(match[1])] * int(match[2] or 1)
    return counts


def _addresses(cluster):
    others = sorted(set(cluster) - {*JOBS, "evaluator"})
    if others:
        raise _error(f"the cluster has the job {others[0]!r}; a job trains with a chief and workers")
    for job, tasks in cluster.items():
        if not isinstance(tasks, list) or not all(isinstance(task, str) and _is_address(task) for task in tasks):
            raise _error(f"cluster.{job} must be a list of host:port. Received: {tasks!r}")
        if job == "chief" and not tasks:  # TensorFlow takes the chief for the leader, if the cluster has that key
            raise _error("cluster.chief is empty: leave it out, and worker 0 is the chief. Received: chief=[]")
        if job != "worker" and len(tasks) > 1:
            raise _error(f"a cluster has one {job} at most. Received: {tasks}")
    training = [address for job in JOBS for address in cluster.get(job, [])]
    if not training:
        raise _error(f"the cluster has no chief and no worker, only {sorted(cluster)}")
    addresses = [*training, *cluster.get("evaluator", [])]
    if len(set(map(_endpoint, addresses))) < len(addresses):
        raise _error(f"an address stands twice in the cluster: {addresses}")
    return tuple(training)


def _task(config):
    task = config["task"]
    if not isinstance(task, dict) or "type" not in task or "index" not in task:
        raise _error("task must hold type and index")
    index = _index(task)
    if task["type"] not in JOBS:
        raise _error(f"task.type must be chief or worker: other tasks do not train. Received: {task['type']!r}")
    return task["type"], index


def _index(task):
    text = str(task.get("index"))
    if not re.fullmatch("-?[0-9]{1,9}", text):
        raise _error(f"task.index must be a whole number. Received: {task.get('index')!r}")
    return int(text)


def _is_address(task):
    host, _, port = task.rpartition(":")
    if not re.fullmatch("[0-9]{1,5}", port) or not 0 < int(port) < 65536:
        return False
    if host.startswith("[") and host.endswith("]"):
        try:
            return ipaddress.ip_address(host[1:-1]).version == 6
        except ValueError:
            return False
    return bool(_HOST.fullmatch(host))  # no scheme, no blank, no list of Slurm such as node[1-4]


def _endpoint(address):
    """Returns host and port in one spelling: host names have no case and may end with a dot, ports may begin with 0."""
    host, _, port = address.rpartition(":")
    host = str(ipaddress.ip_address(host[1:-1])) if host.startswith("[") else host.rstrip(".").lower()
    return host, int(port)


def _error(what):
    return UsageError(f"TF_CONFIG is not usable: {what}. A good one: {_EXAMPLE}")
