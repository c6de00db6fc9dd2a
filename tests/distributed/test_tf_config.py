"""TF_CONFIG read before TensorFlow sees it: what it says, and every way in which it is refused."""

import json

import pytest

from dqgan_tf.distribute import tf_config
from dqgan_tf.errors import UsageError


def read(cluster=None, task=None, **more):
    config = {key: value for key, value in (("cluster", cluster), ("task", task)) if value is not None}
    return tf_config.read({"TF_CONFIG": json.dumps(config | more)})


def worker(index):
    return {"type": "worker", "index": index}


TWO = {"worker": ["a:1", "b:2"]}


class TestPlaces:
    def test_workers(self):
        place = read(TWO, worker(1))
        assert place == tf_config.TfConfig(("a:1", "b:2"), 1)
        assert place.num_workers == 2

    def test_a_chief_is_worker_0(self):
        cluster = {"worker": ["b:2", "c:3"], "chief": ["a:1"]}
        assert read(cluster, {"type": "chief", "index": 0}) == tf_config.TfConfig(("a:1", "b:2", "c:3"), 0)
        assert read(cluster, worker(1)) == tf_config.TfConfig(("a:1", "b:2", "c:3"), 2)

    def test_an_evaluator_does_not_count(self):
        assert read(TWO | {"evaluator": ["c:3"]}, worker(0)).num_workers == 2

    @pytest.mark.parametrize("address", ["host.domain:2222", "10.0.0.1:65535", "[::1]:1"])
    def test_addresses(self, address):
        assert read({"worker": [address]}, worker(0)).addresses == (address,)

    def test_an_index_may_be_text(self):
        """As Kubernetes' operators and shells write it; TensorFlow takes it too."""
        assert read(TWO, worker("1")).worker_index == 1

    def test_other_keys_are_let_through(self):
        assert read(TWO, worker(0), rpc_layer="grpc").num_workers == 2


class TestSecret:
    def test_its_text(self):
        assert tf_config.secret({}) is None and tf_config.secret({"DQGAN_SECRET": " ab\n"}) == "ab"

    @pytest.mark.parametrize("text", ["", " ", "\n"])
    def test_one_that_is_empty_is_refused(self, text):
        """As `export DQGAN_SECRET=$(openssl rand -hex 32)` sets it where there is no openssl."""
        two = json.dumps({"cluster": TWO, "task": worker(0)})
        with pytest.raises(UsageError, match="DQGAN_SECRET is set and empty. .*openssl rand.* or unset it"):
            tf_config.read({"TF_CONFIG": two, "DQGAN_SECRET": text})
        assert tf_config.read({"TF_CONFIG": two, "DQGAN_SECRET": "ab"}).num_workers == 2

    def test_one_worker_needs_none(self):
        one = json.dumps({"cluster": {"worker": ["a:1"]}, "task": worker(0)})
        assert tf_config.read({"TF_CONFIG": one, "DQGAN_SECRET": ""}).num_workers == 1


def is_evaluator(cluster, task):
    return tf_config.is_evaluator({"TF_CONFIG": json.dumps({"cluster": cluster, "task": task})})


class TestEvaluator:
    TASK = {"type": "evaluator", "index": 0}

    def test_the_cluster_may_name_it_or_not(self):
        assert is_evaluator(TWO | {"evaluator": ["c:3"]}, self.TASK)
        assert is_evaluator({"chief": ["a:1"]}, self.TASK | {"index": "0"})

    def test_other_tasks(self):
        assert not is_evaluator(TWO | {"evaluator": ["c:3"]}, worker(0))
        assert not tf_config.is_evaluator({}) and not tf_config.is_evaluator({"TF_CONFIG": "{}"})

    @pytest.mark.parametrize(
        ("cluster", "task", "message"),
        [
            (TWO | {"evaluator": ["c:3", "d:4"]}, TASK, r"one evaluator at most. Received: \['c:3', 'd:4'\]"),
            (TWO, TASK | {"index": 1}, "one evaluator, with index 0. Received: .*'index': 1"),
            (TWO, {"type": "evaluator"}, "task.index must be a whole number. Received: None"),
            ({"evaluator": ["c:3"]}, TASK, "no chief and no worker"),
            ({}, TASK, "a task and no cluster"),
            (TWO | {"ps": ["c:3"]}, TASK, "the cluster has the job 'ps'"),
            (TWO | {"evaluator": 5}, TASK, "cluster.evaluator must be a list of host:port. Received: 5"),
            (TWO | {"evaluator": True}, TASK, "cluster.evaluator must be a list of host:port. Received: True"),
            (TWO | {"evaluator": "c:3"}, TASK, "cluster.evaluator must be a list of host:port. Received: 'c:3'"),
            (TWO, TASK | {"indx": 3}, "task has the key 'indx'"),
        ],
    )
    def test_refused(self, cluster, task, message):
        with pytest.raises(ValueError, match=message):
            is_evaluator(cluster, task)


@pytest.mark.parametrize("text", [None, "", "  \n", "{}", '{"cluster": {}}', '{"cluster": {}, "task": {}}'])
def test_no_cluster(text):
    assert tf_config.read({} if text is None else {"TF_CONFIG": text}) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON .*recursion"),
        ("worker0:2222", "not JSON"),
        ("null", "must be an object"),
        ("[1]", "must be an object"),
        ('{"cluster": ["a:1"]}', "must be an object"),
        ('{"task": {"type": "worker", "index": 0}}', "a task and no cluster, so every worker would train alone"),
        ('{"cluster": {}, "task": {"type": "worker"}}', "a task and no cluster"),
        ('{"sparseCluster": {"worker": {"0": "a:1"}}, "task": {"index": 0}}', "it has the key 'sparseCluster'"),
        ('{"Cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 0}}', "it has the key 'Cluster'"),
        ('{"cluster": 0}', "must be an object"),
        ('{"task": 0}', "task must hold type and index. Received: 0"),
        ('{"cluster": {"worker": ["a:1"], "worker": ["b:2"]}}', "the key 'worker' stands twice in one object"),
    ],
)
def test_text_that_is_no_object(text, message):
    assert_refused(message, {"TF_CONFIG": text})


@pytest.mark.parametrize(
    ("cluster", "task", "message"),
    [
        ({"worker": "a:1"}, worker(0), r"cluster.worker must be a list of host:port. Received: 'a:1'"),
        ({"worker": ["a"]}, worker(0), r"Received: \['a'\]"),
        ({"worker": [":1"]}, worker(0), r"Received: \[':1'\]"),
        ({"worker": ["a:"]}, worker(0), r"Received: \['a:'\]"),
        ({"worker": ["a:0"]}, worker(0), r"Received: \['a:0'\]"),
        ({"worker": ["a:65536"]}, worker(0), r"Received: \['a:65536'\]"),
        (
            {"worker": ["a:" + "1" * 5000]},
            worker(0),
            r"cluster.worker must be a list of host:port. Received: \['a:1111",
        ),
        ({"worker": ["a:²"]}, worker(0), "Received: .*a:²"),
        ({"worker": ["a:1", 2]}, worker(0), r"Received: \['a:1', 2\]"),
        ({"worker": ["a:1", "b:2", "a:1"]}, worker(0), "an address stands twice"),
        ({"chief": ["a:1"], "worker": ["a:1"]}, worker(0), "an address stands twice"),
        ({"worker": ["a:1", "A:1"]}, worker(0), r"an address stands twice in the cluster: \['a:1', 'A:1'\]"),
        ({"worker": ["a:1", "a:0001"]}, worker(0), "an address stands twice"),
        ({"worker": ["a:1", "a.:1"]}, worker(0), "an address stands twice"),
        ({"worker": ["[::1]:1", "[0:0::1]:1"]}, worker(0), "an address stands twice"),
        (TWO | {"evaluator": ["b:2"]}, worker(0), "an address stands twice"),
        ({"chief": ["a:1", "b:2"]}, {"type": "chief", "index": 0}, "one chief at most"),
        (TWO | {"chief": None}, worker(0), "cluster.chief must be a list of host:port. Received: None"),
        (TWO | {"chief": []}, worker(0), "cluster.chief is empty: leave it out"),
        (TWO | {"chief": {}}, worker(0), "cluster.chief must be a list of host:port. Received: {}"),
        (TWO | {"evaluator": 5}, worker(0), "cluster.evaluator must be a list of host:port. Received: 5"),
        (TWO | {"evaluator": None}, worker(0), "cluster.evaluator must be a list of host:port. Received: None"),
        (TWO | {"evaluator": ["gs://x"]}, worker(0), r"cluster.evaluator must be .* Received: \['gs://x'\]"),
        (TWO | {"evaluator": ["c:3", "d:4"]}, worker(0), "one evaluator at most"),
        ({"ps": ["a:1"]}, {"type": "ps", "index": 0}, "the cluster has the job 'ps'"),
        (TWO | {"ps": ["c:3"]}, worker(0), "the cluster has the job 'ps'; a job trains with a chief and workers"),
        (TWO | {"Worker": ["c:3"]}, worker(0), "the cluster has the job 'Worker'"),
        ({"worker": ["node[1-4]:2222"]}, worker(0), r"Received: \['node\[1-4\]:2222'\]"),
        ({"worker": ["grpc://a:1", "b:2"]}, worker(0), "Received: .*grpc://a:1"),
        ({"worker": [" a:1"]}, worker(0), "Received: .*' a:1'"),
        ({"worker": ["a:1 "]}, worker(0), "Received: .*'a:1 '"),
        ({"worker": ["a:1,b:2"]}, worker(0), "Received: .*'a:1,b:2'"),
        ({"worker": ["::1:1"]}, worker(0), "Received: .*'::1:1'"),
        ({"worker": ["[a]:1"]}, worker(0), r"Received: .*'\[a\]:1'"),
        ({"worker": []}, worker(0), "no chief and no worker"),
        (TWO, None, "task must hold type and index"),
        (TWO, "worker:0", "task must hold type and index"),
        (TWO, {"type": "worker"}, "task must hold type and index"),
        (TWO, {"index": 0}, "task must hold type and index"),
        (TWO, worker("first"), "task.index must be a whole number. Received: 'first'"),
        (TWO, worker(None), "task.index must be a whole number. Received: None"),
        (TWO, worker(0.5), "task.index must be a whole number. Received: 0.5"),
        (TWO, worker(True), "task.index must be a whole number. Received: True"),
        (TWO, worker([0]), r"task.index must be a whole number. Received: \[0\]"),
        (TWO, worker("1" * 5000), "task.index must be a whole number. Received: '1111"),
        (TWO, worker("1_0"), "task.index must be a whole number. Received: '1_0'"),
        (TWO, worker(0) | {"indx": 3}, "task has the key 'indx'; known are type and index"),
        (TWO, {"type": 5, "index": 0}, "task.type must be chief or worker: .* Received: 5"),
        (TWO, {"type": ["worker"], "index": 0}, r"task.type must be chief or worker: .* Received: \['worker'\]"),
        (TWO, worker(2), "task worker:2 is not in the cluster, which has 2 worker"),
        (TWO, worker(-1), "task worker:-1 is not in the cluster"),
        (TWO, {"type": "chief", "index": 0}, "task chief:0 is not in the cluster"),
        (TWO | {"evaluator": ["c:3"]}, {"type": "evaluator", "index": 0}, "chief or worker: other tasks do not train"),
    ],
)
def test_cluster_and_task_that_do_not_fit(cluster, task, message):
    config = {"cluster": cluster} | ({} if task is None else {"task": task})
    assert_refused(message, {"TF_CONFIG": json.dumps(config, ensure_ascii=False)})


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("rpc_layer", "http", "rpc_layer must be grpc, or be left out. Received: 'http'"),
        ("rpc_layer", 5, "rpc_layer must be grpc, or be left out. Received: 5"),
        ("environment", 5, "environment must be a text such as cloud, or be left out. Received: 5"),
    ],
)
def test_further_keys(key, value, message):
    assert_refused(message, {"TF_CONFIG": json.dumps({"cluster": TWO, "task": worker(0), key: value})})


def assert_refused(message, environment):
    with pytest.raises(ValueError, match=message) as caught:
        tf_config.read(environment)
    assert str(caught.value).startswith("TF_CONFIG is not usable: ")
    assert "A good one: " in str(caught.value)


def test_the_example_in_the_messages_is_good():
    assert tf_config.read({"TF_CONFIG": tf_config._EXAMPLE}) == tf_config.TfConfig(("host0:2222", "host1:2222"), 0)
