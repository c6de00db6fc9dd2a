"""What the environment says of the cluster: TF_CONFIG, checked, and the secret of its workers.

With a wrong TF_CONFIG, TensorFlow hangs or aborts with a C++ stack trace. So it is checked before TensorFlow reads it.
"""

import hashlib
import hmac
import ipaddress
import json
import re
from collections.abc import Mapping
from typing import NamedTuple

from dqgan_tf.errors import UsageError

_EXAMPLE = '{"cluster": {"worker": ["host0:2222", "host1:2222"]}, "task": {"type": "worker", "index": 0}}'
JOBS = ("chief", "worker")  # the jobs that train, in the order of worker indices
_KEYS = ("cluster", "task", "rpc_layer", "environment")  # TensorFlow reads the third, older operators write the fourth
_HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_.])?")


SECRET = "DQGAN_SECRET"  # the environment variable; `trainers.launch` sets a random one for its workers


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
      UsageError: TF_CONFIG is not JSON, its cluster and task do not fit together, or it holds what would be ignored.
    """
    config = _parse(environment)
    if config is None:
        return None
    cluster = config["cluster"]
    addresses = _addresses(cluster)
    kind, index = _task(config)
    if not isinstance(cluster.get(kind), list) or not 0 <= index < len(cluster[kind]):
        sizes = ", ".join(f"{len(tasks)} {job}" for job, tasks in cluster.items() if isinstance(tasks, list))
        raise _error(f"task {kind}:{index} is not in the cluster, which has {sizes}")
    chiefs = len(cluster.get("chief", []))
    return TfConfig(addresses, chiefs + index if kind == "worker" else index)


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
    count = len(config["cluster"].get("evaluator") or [0])
    if count > 1 or _index(config["task"]) != 0:
        raise _error(f"a job has one evaluator, with index 0. Received: task {config['task']} of {count}")
    return True


def _parse(environment):
    """Returns TF_CONFIG as a dict with cluster and task, the cluster not empty; None if it names neither."""
    text = environment.get("TF_CONFIG", "").strip()
    if not text:
        return None
    try:
        config = json.loads(text)
    except ValueError as error:
        raise _error(f"it is not JSON ({error})") from None
    if not isinstance(config, dict) or not isinstance(config.get("cluster") or {}, dict):
        raise _error("it must be an object with the keys cluster and task")
    unknown = [key for key in config if key not in _KEYS]
    if unknown:
        raise _error(f"it has the key {unknown[0]!r}; known are cluster and task")
    cluster = config.get("cluster") or {}
    if not cluster:
        if config.get("task"):
            raise _error("it names a task and no cluster, so every worker would train alone")
        return None
    return {"cluster": cluster, "task": config.get("task")}


def proof(environment: Mapping[str, str], *parts: str | bytes) -> str:
    """Returns HMAC-SHA256 of `parts` under the secret in DQGAN_SECRET, in hex: what only a worker of the cluster knows.

    Without the variable the secret is empty, and everybody can compute it.
    """
    digest = hmac.new(environment.get(SECRET, "").strip().encode(), digestmod=hashlib.sha256)
    for part in parts:
        part = part.encode() if isinstance(part, str) else part
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()


def _addresses(cluster):
    others = sorted(set(cluster) - {*JOBS, "evaluator"})
    if others:
        raise _error(f"the cluster has the job {others[0]!r}; a job trains with a chief and workers")
    addresses = []
    for job in JOBS:
        tasks = cluster.get(job, [])
        if not isinstance(tasks, list) or not all(isinstance(task, str) and _is_address(task) for task in tasks):
            raise _error(f"cluster.{job} must be a list of host:port. Received: {tasks!r}")
        addresses += tasks
    if not addresses:
        raise _error(f"the cluster has no chief and no worker, only {sorted(cluster)}")
    if len(set(addresses)) < len(addresses):
        raise _error(f"an address stands twice in the cluster: {addresses}")
    if len(cluster.get("chief", [])) > 1:
        raise _error("a cluster has one chief at most")
    return tuple(addresses)


def _task(config):
    task = config["task"]
    if not isinstance(task, dict) or "type" not in task or "index" not in task:
        raise _error("task must hold type and index")
    index = _index(task)
    if task["type"] not in JOBS:
        raise _error(f"task.type must be chief or worker: other tasks do not train. Received: {task['type']!r}")
    return task["type"], index


def _index(task):
    try:
        return int(str(task.get("index")))  # int(1.5) would be 1
    except ValueError:
        raise _error(f"task.index must be a whole number. Received: {task.get('index')!r}") from None


def _is_address(task):
    host, _, port = task.rpartition(":")
    if not (port.isascii() and port.isdecimal() and 0 < int(port) < 65536):
        return False
    if host.startswith("[") and host.endswith("]"):
        try:
            return ipaddress.ip_address(host[1:-1]).version == 6
        except ValueError:
            return False
    return bool(_HOST.fullmatch(host))  # no scheme, no blank, no list of Slurm such as node[1-4]


def _error(what):
    return UsageError(f"TF_CONFIG is not usable: {what}. A good one: {_EXAMPLE}")
