"""System: how a run starts, dies and comes back under Kubernetes, Slurm and Ray.

Quick tests: the TF_CONFIG that is made from a scheduler's variables, and the manifests against the published schemas.
Slow tests: the command of the Indexed Job as a Job would start it; Slurm's own daemons; a local Ray. A worker is killed
in each, and the weights at the end are those of a run that nothing stopped.
"""

import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

import pytest
import tensorflow as tf

from dqgan_tf.config import CompressionConfig, RunConfig
from dqgan_tf.distribute import tf_config
from dqgan_tf.distribute.strategy import CompressedStrategy
from dqgan_tf.errors import EXIT_USAGE, PeerLostError, UsageError
from dqgan_tf.training import job, launcher
from tests.distributed import cluster
from tests.weather.test_restarts import TRAIN as RING
from tests.weather.test_restarts import commits

ROOT = pathlib.Path(__file__).resolve().parents[2]
POD = {"JOB_COMPLETION_INDEX": "1", "DQGAN_WORKERS": "3", "DQGAN_ADDRESS": "dqgan-{index}.dqgan:2222"}


class TestKubernetes:
    def test_tf_config(self):
        assert json.loads(tf_config.of_scheduler("kubernetes", POD)) == {
            "cluster": {"worker": ["dqgan-0.dqgan:2222", "dqgan-1.dqgan:2222", "dqgan-2.dqgan:2222"]},
            "task": {"type": "worker", "index": 1},
        }

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (
                {"JOB_COMPLETION_INDEX": None},
                "JOB_COMPLETION_INDEX must be a whole number from 0 to 2: .* It is not set",
            ),
            ({"JOB_COMPLETION_INDEX": "3"}, "from 0 to 2: .* Received: JOB_COMPLETION_INDEX=3"),
            ({"JOB_COMPLETION_INDEX": "-1"}, "Received: JOB_COMPLETION_INDEX=-1"),
            ({"DQGAN_WORKERS": None}, "DQGAN_WORKERS must be .* the Job's completions, such as 4. It is not set"),
            ({"DQGAN_WORKERS": "0"}, "from 1 to 10000: .* Received: DQGAN_WORKERS=0"),
            ({"DQGAN_WORKERS": "many"}, "Received: DQGAN_WORKERS=many"),
            ({"DQGAN_WORKERS": "9" * 30}, "Received: DQGAN_WORKERS=9+$"),
            ({"DQGAN_ADDRESS": None}, "DQGAN_ADDRESS must be the host:port of worker {index}.* Received: ''"),
            ({"DQGAN_ADDRESS": "dqgan:2222"}, "Received: 'dqgan:2222'"),
            ({"DQGAN_ADDRESS": "dqgan-{index}"}, "Received: 'dqgan-{index}'"),
            ({"DQGAN_ADDRESS": "http://dqgan-{index}:2222"}, "Received: 'http"),
            ({"DQGAN_ADDRESS": "dqgan-{index}:6553{index}0"}, "Received: 'dqgan"),
            ({"TF_CONFIG": "{}"}, "TF_CONFIG is set, and --cluster=kubernetes would make another one"),
        ],
    )
    def test_refused(self, change, message):
        environment = {name: value for name, value in (POD | change).items() if value is not None}
        with pytest.raises(UsageError, match=message):
            tf_config.of_scheduler("kubernetes", environment)


# Five tasks on three nodes: two, two and one. The values are in the forms of Slurm 22.05.
STEP = {
    "SLURM_STEP_NUM_TASKS": "5",
    "SLURM_STEP_NODELIST": "node[08-09],gpu1",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2),1",
    "SLURM_PROCID": "3",
    "SLURM_NODEID": "1",
    "SLURM_LOCALID": "1",
    "SLURM_JOB_ID": "350",
}


class TestSlurm:
    @pytest.fixture(autouse=True)
    def scontrol(self, tmp_path, monkeypatch):
        """In place of Slurm's command: it knows two lists."""
        program = tmp_path / "scontrol"
        program.write_text(
            '#!/bin/sh\ncase "$*" in "show hostnames node[08-09],gpu1") echo node08; echo node09; echo gpu1;;'
            ' "show hostnames one") echo one;; *) echo Invalid hostlist >&2; exit 1;; esac\n'
        )
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
        return program

    def test_tf_config(self):
        config = json.loads(tf_config.of_scheduler("slurm", STEP))
        workers = ["node08:10000", "node08:10001", "node09:10000", "node09:10001", "gpu1:10000"]
        assert config == {"cluster": {"worker": workers}, "task": {"type": "worker", "index": 3}}

    def test_the_block_of_the_document(self, monkeypatch):
        [block] = re.findall(
            r"^```python\n(.*?)^```$", (ROOT / "docs/clusters.md").read_text(), re.MULTILINE | re.DOTALL
        )
        monkeypatch.setattr(os, "environ", dict(os.environ, **STEP, TF_CONFIG=""))
        exec(block, {})
        assert tf_config.read(os.environ).worker_index == 3

    @pytest.mark.parametrize(("job", "port"), [("0", 10000), ("1", 10064), ("349", 32336), ("351", 10064)])
    def test_ports_of_neighbouring_jobs(self, job, port):
        assert tf_config.of_slurm(STEP | {"SLURM_JOB_ID": job})[0][0] == f"node08:{port}"

    def test_a_port_of_choice(self):
        addresses, _ = tf_config.of_slurm(STEP | {"DQGAN_PORT": "2222"})
        assert addresses[:2] == ["node08:2222", "node08:2223"]

    def test_one_node_listens_on_loopback(self):
        one = {"SLURM_STEP_NODELIST": "one", "SLURM_STEP_TASKS_PER_NODE": "2", "SLURM_STEP_NUM_TASKS": "2"}
        step = STEP | one | {"SLURM_PROCID": "1", "SLURM_NODEID": "0", "SLURM_LOCALID": "1"}
        assert tf_config.of_slurm(step) == (["127.0.0.1:10000", "127.0.0.1:10001"], 1)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (
                {"SLURM_STEP_NUM_TASKS": None},
                "SLURM_STEP_NUM_TASKS must be .* start the workers by srun. It is not set",
            ),
            ({"SLURM_PROCID": "5"}, "SLURM_PROCID must be a whole number from 0 to 4: .* Received: SLURM_PROCID=5"),
            ({"SLURM_NODEID": "x"}, "Received: SLURM_NODEID=x"),
            ({"SLURM_STEP_NODELIST": None}, "SLURM_STEP_NODELIST must name the nodes"),
            ({"SLURM_STEP_NODELIST": "node["}, r"scontrol cannot read SLURM_STEP_NODELIST=node\[: Invalid hostlist"),
            ({"SLURM_STEP_TASKS_PER_NODE": "2(x2)"}, "contradict each other: 5 tasks, 3 nodes"),
            ({"SLURM_STEP_TASKS_PER_NODE": "2(x3)"}, "contradict each other: 5 tasks, 3 nodes"),
            ({"SLURM_STEP_TASKS_PER_NODE": "2;3"}, r"a text such as 2\(x3\),1; .* Received: '2;3'"),
            ({"SLURM_LOCALID": "0"}, "Task 3 must be task 1 of node 1. It is task 0 of node 1: .*--distribution=block"),
            ({"SLURM_NODEID": "0"}, "Task 3 must be task 1 of node 1. It is task 1 of node 0"),
            ({"DQGAN_PORT": "80"}, "DQGAN_PORT must be a whole number from 1024 to 65534: .* Received: DQGAN_PORT=80"),
        ],
    )
    def test_refused(self, change, message):
        environment = {name: value for name, value in (STEP | change).items() if value is not None}
        with pytest.raises(UsageError, match=message):
            tf_config.of_scheduler("slurm", environment)

    def test_without_the_command_of_slurm(self, scontrol, monkeypatch):
        scontrol.unlink()
        monkeypatch.setenv("PATH", str(scontrol.parent))
        with pytest.raises(UsageError, match="`scontrol` must be there to read SLURM_STEP_NODELIST"):
            tf_config.of_slurm(STEP)


class TestLauncher:
    @pytest.fixture
    def pod(self, monkeypatch):
        """This process in a pod. A copy of the environment, which `name_in_cluster` changes."""
        environment = {name: value for name, value in os.environ.items() if name != "TF_CONFIG"}
        monkeypatch.setattr(os, "environ", environment | POD)

    def test_the_worker_gets_tf_config(self, pod):
        assert launcher.name_in_cluster(None, scheduler="kubernetes") == "worker_1"
        assert tf_config.read(launcher.worker_environment([], 0)).addresses[2] == "dqgan-2.dqgan:2222"

    def test_two_kinds_of_cluster(self, pod):
        with pytest.raises(UsageError, match="--num_workers=2 asks .* --cluster=kubernetes names one of 3 workers"):
            launcher.name_in_cluster(2, scheduler="kubernetes")

    def test_a_missing_variable_ends_in_one_line(self):
        command = [sys.executable, "-m", "trainers.launch", "--cluster=kubernetes", "--", "--model_dir=m"]
        environment = {name: value for name, value in os.environ.items() if name not in {"TF_CONFIG", *POD}}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == EXIT_USAGE
        assert done.stderr.startswith("ERROR: DQGAN_WORKERS must be") and done.stderr.count("\n") == 1


class TestScripts:
    """A user's own script: the strategy checks what it is given."""

    @pytest.mark.parametrize(
        ("workers", "task", "message"),
        [
            ({"ps": ["a:1"], "worker": ["b:1"]}, ("worker", 0), "the cluster has the job 'ps'"),
            ({"worker": ["a:1", "a:1"]}, ("worker", 0), "an address stands twice"),
            ({"worker": ["node[1-2]:1"]}, ("worker", 0), "must be a list of host:port"),
            ({"worker": ["a:1"]}, ("worker", 1), "task worker:1 is not in the cluster"),
            ({"worker": ["a:1"]}, (None, None), "whole number. Received: None"),
        ],
    )
    def test_a_resolver(self, workers, task, message):
        resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(tf.train.ClusterSpec(workers), "", *task)
        with pytest.raises(UsageError, match=f"The cluster of the cluster_resolver, as a TF_CONFIG: .*{message}"):
            CompressedStrategy(resolver)

    def test_the_workers_of_a_resolver_meet(self, monkeypatch):
        monkeypatch.delenv("TF_CONFIG", raising=False)
        addresses = [f"127.0.0.1:{port}" for port in cluster.free_ports(2)]
        workers = tf.train.ClusterSpec({"worker": addresses})
        resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(workers, "", "worker", 1)
        with pytest.raises(PeerLostError, match=f"Worker 1 has waited 1 s for worker 0 at {addresses[0]}"):
            CompressedStrategy(resolver, start_timeout=1)

    @pytest.mark.parametrize("text", ["", " ", "{}"])
    def test_an_empty_tf_config_is_none(self, monkeypatch, text):
        monkeypatch.setenv("TF_CONFIG", text)
        strategy = CompressedStrategy()
        assert (strategy.num_workers, strategy.is_chief) == (1, True)
        strategy.close()


@pytest.mark.parametrize(
    ("gpus", "transport", "implementation"),
    [(["GPU:0"], "auto", "NCCL"), (["GPU:0"], "ring", "RING"), ([], "auto", "AUTO"), (["GPU:0"], "sockets", "AUTO")],
)
def test_auto_is_nccl_on_gpus(monkeypatch, gpus, transport, implementation):
    """What the run asks of the strategy, for reductions outside of channels; channels: tests/distributed/transport."""
    monkeypatch.delenv("TF_CONFIG", raising=False)
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: {"GPU": gpus}[kind])
    monkeypatch.setattr(tf.config.experimental, "set_memory_growth", lambda gpu, grows: None)
    monkeypatch.setattr(job, "CompressedStrategy", lambda communication_options, **_: communication_options)
    config = RunConfig(model_dir="here", compression=CompressionConfig(transport=transport))
    assert job.start_strategy(config).implementation.name == implementation


def tfjob_schema():
    return json.loads((ROOT / "tests" / "training" / "tfjob_schema.json").read_text())


def manifests(name):
    yaml = pytest.importorskip("yaml", reason="PyYAML comes with kubernetes-validate, of the extra `test`")
    return list(yaml.safe_load_all((ROOT / "deploy" / "kubernetes" / name).read_text()))


@pytest.mark.parametrize("version", ["1.31", "1.37"])
class TestManifests:
    @pytest.fixture
    def validate(self, version):
        reason = "kubernetes-validate, which has the schemas, is in the extra `test`"
        module = pytest.importorskip("kubernetes_validate", reason=reason)
        return lambda manifest: module.validate(manifest, version, strict=True)

    def test_job(self, validate):
        for manifest in manifests("job.yaml"):
            validate(manifest)

    def test_a_wrong_field_is_seen(self, validate):
        _, job = manifests("job.yaml")
        job["spec"]["template"]["spec"]["containers"][0]["arguments"] = []
        with pytest.raises(Exception, match="'arguments' was unexpected"):
            validate(job)

    def test_tfjob(self, validate):
        jsonschema = pytest.importorskip("jsonschema")
        [job] = manifests("tfjob.yaml")
        jsonschema.validate(job, tfjob_schema())
        for replicas in job["spec"]["tfReplicaSpecs"].values():
            validate({"apiVersion": "v1", "kind": "PodTemplate", "template": replicas["template"]})


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("spec", "replicaSpecs"), {}, "'replicaSpecs' was unexpected"),
        (("spec", "runPolicy", "backofLimit"), 3, "'backofLimit' was unexpected"),
        (("spec", "runPolicy", "backoffLimit"), "3", "'3' is not of type 'integer'"),
        (("spec", "tfReplicaSpecs", "Worker", "restartPolicy"), "OnError", "'OnError' is not one of"),
        (("spec", "tfReplicaSpecs", "Workers"), {"template": {"spec": {}}}, "'Workers' is not one of"),
    ],
)
def test_a_wrong_field_of_a_tfjob_is_seen(path, value, message):
    jsonschema = pytest.importorskip("jsonschema")
    [job] = manifests("tfjob.yaml")
    *parents, last = path
    part = job
    for name in parents:
        part = part[name]
    part[last] = value
    with pytest.raises(jsonschema.ValidationError, match=message):
        jsonschema.validate(job, tfjob_schema())


def test_the_tfjob_fits_the_operator():
    """What no schema says: names by which the operator finds container and port, and the roles that are served."""
    [job] = manifests("tfjob.yaml")
    replicas = job["spec"]["tfReplicaSpecs"]
    assert set(replicas) <= {"Chief", "Worker", "Evaluator"} and not job["spec"].get("enableDynamicWorker")
    for replica in replicas.values():
        [container] = replica["template"]["spec"]["containers"]
        assert container["name"] == "tensorflow"
        assert [port["name"] for port in container["ports"]] == ["tfjob-port"]


def test_the_parts_of_the_job_fit_together():
    """What no schema says: the names of Service, Job and addresses, and the numbers of workers."""
    service, job = manifests("job.yaml")
    spec, name = job["spec"], job["metadata"]["name"]
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["selector"] == {"batch.kubernetes.io/job-name": name}
    pod = spec["template"]["spec"]
    assert pod["subdomain"] == service["metadata"]["name"] and pod["restartPolicy"] == "Never"
    [container] = pod["containers"]
    variables = {variable["name"]: variable.get("value") for variable in container["env"]}
    workers = int(variables["DQGAN_WORKERS"])
    assert (spec["completions"], spec["parallelism"], spec["completionMode"]) == (workers, workers, "Indexed")
    port = container["ports"][0]["containerPort"]
    assert service["spec"]["ports"][0]["port"] == port
    assert variables["DQGAN_ADDRESS"] == f"{name}-{{index}}.{service['metadata']['name']}:{port}"
    for rule in spec["podFailurePolicy"]["rules"]:
        assert rule.get("onExitCodes", {}).get("containerName", container["name"]) == container["name"]


STEPS = 1000
TRAIN = [*RING, f"--steps={STEPS}"]
SECONDS = 240  # three starts and some hundred steps on a loaded machine


def weights(model_dir):
    return json.loads((model_dir / "summary.json").read_text())["weights_sha256"]


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    """Weights of the same run under a plain TF_CONFIG, which nothing stopped."""
    folder = tmp_path_factory.mktemp("whole")
    cluster.run(["-m", "trainers.train", *TRAIN, f"--model_dir={folder}"], folder / "logs")
    return weights(folder)


class Job:
    """In place of Kubernetes' Job controller: runs the command of the manifest, one process for each pod.

    A pod that fails is replaced by one of the same index, on the terms of the manifest's podFailurePolicy.
    """

    def __init__(self, manifest, model_dir, workers):
        [container] = manifest["spec"]["template"]["spec"]["containers"]
        program, *flags = container["command"]
        self._command = [sys.executable, "-m", "dqgan_tf.commands", program.removeprefix("dqgan-"), *flags, *TRAIN]
        self._command.append(f"--model_dir={model_dir}")
        variables = {variable["name"]: variable.get("value", "a secret") for variable in container["env"]}
        address = f"127.0.0.1:{free_prefix(workers)}{{index}}"
        variables |= {"DQGAN_WORKERS": str(workers), "DQGAN_ADDRESS": address}
        variables |= {"TF_NUM_INTRAOP_THREADS": "1", "OMP_NUM_THREADS": "1"}
        self._environment = cluster.environment_of([0], 0) | variables
        policies = manifest["spec"]["podFailurePolicy"]["rules"]
        self._final = next(rule["onExitCodes"]["values"] for rule in policies if rule["action"] == "FailJob")
        self._log = model_dir.parent / "pods.log"
        self.codes = []  # of pods that failed
        self.pods = [self._start(index) for index in range(workers)]

    def wait(self, seconds):
        end = time.monotonic() + seconds
        while any(pod.poll() is None for pod in self.pods) or any(pod.returncode for pod in self.pods):
            assert time.monotonic() < end and len(self.codes) < 10, self._log.read_text()[-6000:]
            for index, pod in enumerate(self.pods):
                if pod.poll():
                    self.codes.append(pod.returncode)
                    assert pod.returncode not in self._final, self._log.read_text()[-6000:]
                    self.pods[index] = self._start(index)
            time.sleep(0.1)

    def close(self):
        for pod in self.pods:
            with contextlib.suppress(ProcessLookupError):
                pod.kill()

    def _start(self, index):
        environment = self._environment | {"JOB_COMPLETION_INDEX": str(index)}
        with open(self._log, "a") as log:
            return subprocess.Popen(self._command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT)


def free_prefix(workers):
    """The first digits of free ports, to which the index of a worker is added as the last digit."""
    for prefix in range(1100 + os.getpid() % 500, 3200):
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            for index in range(workers):
                stack.enter_context(socket.create_server(("127.0.0.1", 10 * prefix + index)))
            return prefix
    raise AssertionError("no free ports")


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("victim", [0, 1])
def test_an_indexed_job_whose_pod_is_killed(tmp_path, whole_run, victim):
    _, manifest = manifests("job.yaml")
    folder = tmp_path / "run"
    with contextlib.closing(Job(manifest, folder, 2)) as pods:
        cluster.wait_for(lambda: commits(folder), what="the first checkpoint")
        pods.pods[victim].kill()
        assert commits(folder)[-1] < STEPS, "the run was over before it was killed"
        pods.wait(SECONDS)
    assert sorted(pods.codes) == [-signal.SIGKILL, 4]
    assert weights(folder) == whole_run


# One node, this machine, whose two processors are two tasks. Values that are not defaults avoid what a container lacks:
# control groups, accounting, another user.
SLURM_CONF = """
ClusterName=here
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
ReturnToService=2
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=all Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


@pytest.fixture
def slurm(monkeypatch):
    """munged, slurmctld and slurmd of this test alone. Returns a function that runs one of Slurm's commands."""
    programs = ("munged", "slurmctld", "slurmd", "sbatch")
    if not all(map(shutil.which, programs)) or os.getuid():
        pytest.skip(f"needs {', '.join(programs)} (Debian: slurm-wlm, munge) and root")
    with tempfile.TemporaryDirectory(prefix="slurm") as folder:
        folder, host = pathlib.Path(folder), socket.gethostname().partition(".")[0]
        (folder / "slurm.conf").write_text(SLURM_CONF.format(folder=folder, host=host, ports=cluster.free_ports(2)))
        for name in ("state", "spool"):
            (folder / name).mkdir()
        (folder / "munge.key").write_bytes(os.urandom(128))
        (folder / "munge.key").chmod(0o400)
        monkeypatch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
        munge = {"key-file": "munge.key", "socket": "munge.socket", "pid-file": "munge.pid", "log-file": "munge.log"}
        munge = [f"--{name}={folder}/{file}" for name, file in (munge | {"seed-file": "seed"}).items()]
        with open(folder / "daemons.log", "w") as log, contextlib.ExitStack() as stack:
            for command in (
                ["munged", "-F", "--force", *munge],
                ["slurmctld", "-D", "-c"],
                ["slurmd", "-D", "-N", host],
            ):
                daemon = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
                stack.callback(daemon.wait, 30)
                stack.callback(daemon.terminate)
                time.sleep(1)

            def run(*command):
                return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True, timeout=60).stdout

            cluster.wait_for(lambda: "idle" in run("sinfo", "--noheader", "--format=%T"), 30, "a node of Slurm")
            yield run
            print((folder / "slurmctld.log").read_text()[-3000:], (folder / "slurmd.log").read_text()[-3000:])
            run("scancel", "--user=root", "--signal=KILL", "--full")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_job_of_slurm_whose_task_is_killed(tmp_path, whole_run, slurm, monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    monkeypatch.setenv("DQGAN_PYTHON", sys.executable)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    folder, output = tmp_path / "run", tmp_path / "job.out"
    command = ["sbatch", "--parsable", "--ntasks=2", "--cpus-per-task=1", f"--output={output}"]
    job_id = slurm(*command, "deploy/slurm/train.sbatch", *TRAIN, f"--model_dir={folder}").strip()
    cluster.wait_for(lambda: commits(folder), what="the first checkpoint of " + job_id)
    rows = [line.split() for line in slurm("scontrol", "listpids", job_id).splitlines()[1:]]
    task = min(int(pid) for pid, _, step, _, task in rows if (step, task) == ("0", "1"))
    os.kill(task, signal.SIGKILL)
    assert commits(folder)[-1] < STEPS, "the run was over before it was killed"

    def state():
        return slurm("squeue", "--noheader", "--states=all", f"--jobs={job_id}", "--format=%T").strip()

    cluster.wait_for(lambda: state() == "PENDING", 60, "the requeue")
    time.sleep(5)  # what the first start has left still ends
    slurm("scontrol", "update", f"JobId={job_id}", "StartTime=now")  # Slurm would wait for two minutes
    cluster.wait_for(lambda: state() in ("COMPLETED", "FAILED"), SECONDS, "the end of the job")
    text = output.read_text()
    assert state() == "COMPLETED", text
    assert "Restarts so far: 0." in text and "the highest exit code is 0. Restarts so far: 1." in text
    assert weights(folder) == whole_run


def trainers_of(folder):
    """Process ids of the trainers that write a model_dir."""
    pids = []
    for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = path.read_bytes().decode(errors="replace").split("\0")
            if f"--model_dir={folder}" in words and words[1:4] == ["-m", "dqgan_tf.commands", "train"]:
                pids.append(int(path.parent.name))
    return pids


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_worker_of_ray_that_is_killed(tmp_path, whole_run):
    pytest.importorskip("ray", reason="Ray is in the extra `ray`")
    folder, log = tmp_path / "run", tmp_path / "ray.log"
    command = [sys.executable, "-m", "trainers.ray_train", "--num_workers=2", "--max_restarts=2", "--", *TRAIN]
    with open(log, "w") as output:
        driver = subprocess.Popen(
            [*command, f"--model_dir={folder}"],
            cwd=ROOT,
            env=cluster.environment_of([0], 0),
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        cluster.wait_for(lambda: commits(folder) or driver.poll() is not None, 600, "the first checkpoint")
        assert driver.poll() is None, log.read_text()[-6000:]
        os.kill(trainers_of(folder)[0], signal.SIGKILL)
        assert commits(folder)[-1] < STEPS, "the run was over before it was killed"
        assert driver.wait(400) == 0, log.read_text()[-6000:]
    finally:
        driver.terminate()
    assert weights(folder) == whole_run
