"""Every private name of TensorFlow and Keras that the library uses exists with the signature that was read.

`python -m tests.test_private_names` prints one line a name for the installed versions; `make test-next` runs it.
"""

import ast
import contextlib
import importlib
import inspect
import pathlib
import re
import sys
from typing import NamedTuple

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
ADAPTERS = [ROOT / "dqgan_tf" / name for name in ("private_tensorflow.py", "private_keras.py")]


class Name(NamedTuple):
    """module: where it is defined. name: in the module, dotted.

    signature: without annotations, as read at TensorFlow 2.21.0 or Keras 3.15.1; `attribute` for what methods set
    on an instance, `property`, or empty for a class or constant.
    """

    module: str
    name: str
    signature: str = ""

    def __str__(self):
        return f"{self.module}.{self.name}"


_DISTRIBUTE = "tensorflow.python.distribute."
_OPS = _DISTRIBUTE + "cross_device_ops"
_EXTENDED, _LAUNCHER = _DISTRIBUTE + "collective_all_reduce_strategy", _DISTRIBUTE + "cross_device_utils"
NAMES = (
    Name(
        _OPS,
        "CollectiveAllReduce.__init__",
        "(self, devices, group_size, options, collective_keys=None, canonicalize_devices=True)",
    ),
    Name(_OPS, "CollectiveAllReduce.__deepcopy__", "(self, memo)"),
    Name(_OPS, "CollectiveAllReduce.batch_reduce", "(self, reduce_op, value_destination_pairs, options=None)"),
    Name(_OPS, "CollectiveAllReduce._all_reduce_per_replica_values", "(self, reduce_op, per_replica_values, options)"),
    Name(_OPS, "CollectiveAllReduce._all_reduce", "(self, reduce_op, value, replica_id, options)"),
    Name(_OPS, "CollectiveAllReduce._devices", "attribute"),
    Name(_OPS, "CollectiveAllReduce._group_size", "attribute"),
    Name(_OPS, "CollectiveAllReduce._launchers", "attribute"),
    Name(_OPS, "_normalize_value_destination_pairs", "(value_destination_pairs)"),
    Name(
        _EXTENDED,
        "CollectiveAllReduceExtended.__init__",
        "(self, container_strategy, cluster_resolver, communication_options, devices=None)",
    ),
    Name(_EXTENDED, "CollectiveAllReduceExtended._initialize_local", "(self, cluster_resolver, devices=None)"),
    Name(_EXTENDED, "CollectiveAllReduceExtended._initialize_multi_worker", "(self, cluster_resolver)"),
    Name(_EXTENDED, "CollectiveAllReduceExtended._initialize_local_devices", "(self, cluster_resolver, worker_device)"),
    Name(_EXTENDED, "CollectiveAllReduceExtended._cross_device_ops", "attribute"),
    Name(_EXTENDED, "CollectiveAllReduceExtended._collective_keys", "attribute"),
    Name(_EXTENDED, "CollectiveAllReduceExtended._communication_options", "attribute"),
    Name(_EXTENDED, "CollectiveAllReduceExtended._cluster_spec", "attribute"),
    Name(_EXTENDED, "CollectiveAllReduceExtended._id_in_cluster", "attribute"),
    Name(_EXTENDED, "CollectiveAllReduceExtended._num_workers", "attribute"),
    Name(_EXTENDED, "CollectiveAllReduceExtended._is_chief", "attribute"),
    Name(_DISTRIBUTE + "distribute_lib", "Strategy.__init__", "(self, extended)"),
    Name(_DISTRIBUTE + "distribute_lib", "StrategyExtendedV2._container_strategy", "(self)"),
    Name(_DISTRIBUTE + "distribute_lib", "ReplicaContextBase._replica_id", "property"),
    Name(
        _LAUNCHER,
        "CollectiveReplicaLauncher.__init__",
        "(self, group_key, group_size, collective_keys, device, options)",
    ),
    Name(_LAUNCHER, "CollectiveReplicaLauncher._all_gather", "(self, input_tensor, options)"),
    Name(_LAUNCHER, "CollectiveReplicaLauncher.batch_all_reduce", "(self, input_tensor_packs, options=None)"),
    Name(_LAUNCHER, "CollectiveReplicaLauncher._next_instance_key", "(self)"),
    Name(_LAUNCHER, "CollectiveReplicaLauncher._get_ordering_token", "(self)"),
    Name(_LAUNCHER, "CollectiveReplicaLauncher._device", "attribute"),
    Name(_LAUNCHER, "CollectiveReplicaLauncher._group_key", "attribute"),
    Name(_LAUNCHER, "CollectiveReplicaLauncher._group_size", "attribute"),
    Name(_LAUNCHER, "CollectiveReplicaLauncher._options", "attribute"),
    Name(_LAUNCHER, "CollectiveKeys._instance_key_table", "attribute"),
    Name(_LAUNCHER, "INSTANCE_KEY_START_NUMBER"),
    Name(
        _DISTRIBUTE + "collective_util",
        "Options.__init__",
        "(self, bytes_per_pack=0, timeout_seconds=None, implementation=CommunicationImplementation.AUTO)",
    ),
    Name(_DISTRIBUTE + "collective_util", "Options.merge", "(self, options)"),
    Name("tensorflow.python.eager.context", "context", "()"),
    Name("tensorflow.python.eager.context", "Context.coordination_service", "property"),
    Name(
        "tensorflow.python.eager.context",
        "Context.configure_coordination_service",
        "(self, service_type, service_leader='', enable_health_check=True, cluster_register_timeout_in_ms=0, "
        "heartbeat_timeout_in_ms=0, shutdown_barrier_timeout_in_ms=0, coordinated_jobs=None, "
        "allow_new_incarnation_to_reconnect=False)",
    ),
    Name("tensorflow.compiler.xla.tsl.protobuf.coordination_config_pb2", "CoordinatedJob"),
    Name(_DISTRIBUTE + "multi_worker_util", "coordination_leader", "(cluster_spec)"),
    Name(_DISTRIBUTE + "multi_worker_util", "normalize_cluster_spec", "(cluster_spec)"),
    Name("tensorflow.python.eager.context", "Context.set_config_key_value", "(self, key, value)"),
    Name("tensorflow.python.eager.context", "Context.get_config_key_value", "(self, key, timeout_in_ms=0)"),
    Name("tensorflow.python.eager.context", "Context.delete_config_key_value", "(self, key)"),
    Name("tensorflow.python.eager.context", "Context._handle", "property"),
    Name("tensorflow.python.eager.context", "pywrap_tfe.TFE_EnableCollectiveOps"),
    Name("tensorflow.python.framework.config", "is_op_determinism_enabled", "()"),
    Name("tensorflow.python.framework.func_graph", "FuncGraph.experimental_acd_manager", "attribute"),
    Name(
        "tensorflow.python.framework.auto_control_deps",
        "AutomaticControlDependencies.run_independently",
        "(self, op)",
    ),
    Name("tensorflow.python.ops.resource_variable_ops", "ResourceVariable"),
    Name(
        "tensorflow.compiler.tf2xla.ops.gen_xla_ops", "xla_dynamic_update_slice", "(input, update, indices, name=None)"
    ),
    Name("tensorflow.tsl.profiler.protobuf.xplane_pb2", "XSpace"),
    Name("keras", "Layer._flatten_layers", "(self, include_self=True, recursive=True)"),
    Name("keras", "Model.make_train_function", "(self, force=False)"),
    Name("keras", "Model.make_test_function", "(self, force=False)"),
    Name("keras", "Model._maybe_symbolic_build", "(self, iterator=None, data_batch=None)"),
    Name("keras", "Model.train_function", "attribute"),
    Name("keras", "Model.test_function", "attribute"),
    Name("keras", "Model._distribute_strategy", "attribute"),
    Name("keras", "Model._trackable_children", "(self, save_type='checkpoint', **kwargs)"),
    Name("keras", "Model._get_metrics_result_or_logs", "(self, logs)"),
    Name("keras", "Model._symbolic_build", "(self, iterator=None, data_batch=None)"),
    Name("keras", "Model._initial_epoch", "attribute"),
    Name("keras", "callbacks.SwapEMAWeights._ema_weights_in_model", "attribute"),
    Name("keras.src.trainers.epoch_iterator", "EpochIterator.data_adapter", "attribute"),
    Name("keras.src.trainers.data_adapters.generator_data_adapter", "GeneratorDataAdapter._first_batches", "attribute"),
    Name("keras.src.trainers.data_adapters.data_adapter", "DataAdapter.get_tf_dataset", "(self)"),
    Name("keras", "Model._flatten_layers", "(self, include_self=True, recursive=True)"),
    Name("keras", "Layer._non_trainable_variables", "attribute"),
    Name("keras", "optimizers.Optimizer._distribution_strategy", "attribute"),
    Name("keras", "optimizers.Optimizer._all_reduce_sum_gradients", "(self, grads_and_vars)"),
    Name("keras", "optimizers.Optimizer._check_variables_are_known", "(self, variables)"),
    Name("keras", "optimizers.Optimizer._get_variable_index", "(self, variable)"),
    Name("keras", "optimizers.Optimizer._iterations", "attribute"),
    Name("keras", "optimizers.Optimizer._learning_rate", "attribute"),
    Name("keras", "optimizers.Optimizer._model_variables_moving_average", "attribute"),
    Name("keras", "optimizers.Optimizer._accumulated_gradients", "attribute"),
    Name("keras", "optimizers.Optimizer._trainable_variables", "attribute"),
    Name("keras", "optimizers.Optimizer._filter_empty_gradients", "(self, grads, vars)"),
    Name("keras", "optimizers.Optimizer._clip_gradients", "(self, grads)"),
    Name("keras", "optimizers.Optimizer._apply_weight_decay", "(self, variables)"),
    Name("keras", "optimizers.Optimizer._backend_update_step", "(self, grads, trainable_variables, learning_rate)"),
    Name("keras", "optimizers.Optimizer._update_model_variables_moving_average", "(self, trainable_variables)"),
    Name("keras", "optimizers.LossScaleOptimizer.apply", "(self, grads, trainable_variables=None)"),
)


def status(name: Name) -> str:
    """Returns `present`, `missing`, or `signature changed` with what it is now."""
    try:
        found = importlib.import_module(name.module)
    except ImportError as error:
        return f"missing: {error}"
    *path, last = name.name.split(".")
    for part in path if name.signature == "attribute" else [*path, last]:
        if not hasattr(found, part):
            return f"missing: no {part} in {getattr(found, '__name__', found)}"
        found = getattr(found, part)
    if name.signature == "attribute":
        return "present" if _is_set_in(found, last) else f"missing: {found.__name__} sets no {last}"
    now = "property" if isinstance(found, property) else _signature(found) if name.signature else ""
    return "present" if now == name.signature else f"signature changed: {now}, was {name.signature}"


def _is_set_in(cls, attribute):
    """Whether a method of the class, or of a base class, sets the attribute; or it stands in a class body."""
    for base in cls.__mro__:
        with contextlib.suppress(OSError, TypeError):  # a base class in C++ has no source
            if re.search(
                rf"\bself\.{attribute}\b[^=\n]* = |^    {attribute} = ", inspect.getsource(base), re.MULTILINE
            ):
                return True
    return False


def _signature(function):
    parameters = inspect.signature(function).parameters.values()
    plain = inspect.Signature([parameter.replace(annotation=parameter.empty) for parameter in parameters])
    return re.sub(r"<([\w.]+): [^>]*>", r"\1", str(plain))


@pytest.mark.parametrize("name", NAMES, ids=str)
def test_a_name_is_what_was_read(name):
    assert status(name) == "present"


def test_the_table_knows_every_name_that_the_adapters_use():
    """Every import, every attribute with an underscore in front, every override of a method with one."""
    tree = [node for path in ADAPTERS for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))]
    modules = {f"{n.module}.{a.name}" for n in tree if isinstance(n, ast.ImportFrom) for a in n.names}
    private = {module for module in modules if re.match(r"tensorflow\.\w+\.", module)}
    assert private <= {name.module for name in NAMES} | {str(name) for name in NAMES}
    used = {node.attr for node in tree if isinstance(node, ast.Attribute)}
    used |= {node.name for node in tree if isinstance(node, ast.FunctionDef)}
    own = {"_replicas_per_worker", "_silence_seconds", "_replace_cross_device_ops", "_configure_coordination_service"}
    own |= {
        "_optimizer",
        "__init__",
        "_call",
        "_c_functions",
        "_repair_loops",
        "_replace",
        "_methods",
        "_repair_loss_scale",
        "_batch_spec",
        "_first_batch",
        "_as_array",
        "_check_validation_data",
    }
    known = {name.name.split(".")[-1] for name in NAMES}
    assert {attribute for attribute in used if attribute.startswith("_")} - own <= known


def test_every_adapter_names_its_replacement():
    """Each function and class that reaches an undocumented name says what could take its place; an inner function, or a
    method, of one that says so needs no word of its own."""
    known = {name.name.split(".")[-1] for name in NAMES}
    silent = []
    for path in ADAPTERS:
        source = ast.parse(path.read_text(encoding="utf-8"))
        private = {
            a.name for n in source.body if isinstance(n, ast.ImportFrom) and _is_private(n.module) for a in n.names
        }
        # A helper of `repair`, whose docstring has the word, and one of `other_threads_run`.
        helpers = {"_replace", "_methods", "_repair_loops", "_call", "_c_functions"}
        for node in source.body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name not in helpers:
                inside = list(ast.walk(node))
                uses = {n.attr for n in inside if isinstance(n, ast.Attribute)} & known
                uses |= {n.id for n in inside if isinstance(n, ast.Name)} & private
                if uses and "Replacement:" not in (ast.get_docstring(node) or ""):
                    silent.append(f"{path.name}: {node.name} uses {sorted(uses)}")
    assert not silent


def _is_private(module):
    return bool(re.match(r"tensorflow\.(python|compiler|tsl)", module or ""))


@pytest.mark.parametrize(
    "name, expected",
    [
        (Name("tensorflow.python.nowhere", "x"), "missing: No module named"),
        (Name("pathlib", "Path.nothing"), "missing: no nothing in Path"),
        (Name("pathlib", "Path.exists", "(self, all)"), "signature changed: (self"),
        (Name(_LAUNCHER, "CollectiveKeys._nothing", "attribute"), "missing: CollectiveKeys sets no _nothing"),
    ],
)
def test_what_has_moved_is_told(name, expected):
    assert status(name).startswith(expected)


def main() -> int:
    """Prints the versions and a line a name; returns how many names are not what was read."""
    import keras
    import tensorflow as tf

    print(f"TensorFlow {tf.__version__}, Keras {keras.__version__}")
    moved = 0
    for name in NAMES:
        text = status(name)
        moved += text != "present"
        print(f"{name}: {text}")
    print(f"{len(NAMES) - moved} of {len(NAMES)} names are what was read.")
    return moved


if __name__ == "__main__":
    sys.exit(min(main(), 100))
