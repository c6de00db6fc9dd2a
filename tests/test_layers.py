"""Reads every import of the library and the binaries: levels point down, and non-public names stay in two files."""

import ast
import pathlib
import re

import pytest

from dqgan_tf.compressors.registry import COMPRESSORS

ROOT = pathlib.Path(__file__).resolve().parent.parent
# The table of docs/design.md. The longest prefix of a module's name decides.
LEVELS = {
    "dqgan_tf.errors": 0,
    "dqgan_tf.fields": 0,
    "dqgan_tf.lazy_tensorflow": 0,
    "dqgan_tf.tensorflow_texts": 0,
    "dqgan_tf.private_tensorflow": 0,
    "dqgan_tf.private_keras": 0,
    "dqgan_tf.compressors": 1,
    "dqgan_tf.config": 2,
    "dqgan_tf.optimizers": 3,
    "dqgan_tf.gan.losses": 3,
    "dqgan_tf.gan.networks": 3,
    "dqgan_tf.data": 3,
    "dqgan_tf.evaluation": 3,
    "dqgan_tf.telemetry": 3,
    "dqgan_tf.error_feedback": 3,
    "dqgan_tf.distribute": 4,
    "dqgan_tf.gan": 5,
    "dqgan_tf.keras": 5,
    "dqgan_tf.training": 6,
    "dqgan_tf.callbacks": 7,
    "dqgan_tf.commands": 8,
    "benchmarks": 7,
    "flags": 7,
    "trainers": 8,
}
ENTRANCE = "dqgan_tf"  # version and lazy names: it may be imported anywhere and itself imports nothing of the project
ERRORS = "dqgan_tf.errors"  # may be imported anywhere, too
PRIVATE = ("dqgan_tf.private_tensorflow", "dqgan_tf.private_keras")
NON_PUBLIC = re.compile(
    r"(tensorflow|tf)(\.\w+)*\.(python|compiler|tsl|core|lite|_api|__internal__)\b|keras(\.\w+)*\.(src|_tf_keras)\b"
)
PUBLIC_UNDERSCORES = ("_replace", "_asdict", "_fields", "_exit")  # of named tuples and the module os
FOLDERS = ("dqgan_tf", "flags", "trainers", "benchmarks")
DYNAMIC_FILES = (ENTRANCE, "dqgan_tf.compressors", "dqgan_tf.compressors.registry", "dqgan_tf.data.files")
DYNAMIC = ("__import__", "importlib.import_module", "pkgutil.resolve_name")
SOURCES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_names(source):
    """Full names behind every import at any depth: `from a import b` gives `a.b`, which may be a module or not."""
    names = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names += [f"{'.' * node.level}{node.module or ''}.{alias.name}" for alias in node.names]
    return names


def place(name):
    """The longest key of LEVELS that `name` is or lies in; None outside of the project."""
    inside = [key for key in LEVELS if name == key or name.startswith(key + ".")]
    return max(inside, key=len, default=None)


def refusal(importer, name):
    """Why `importer` may not import `name`, or None."""
    if name.startswith("."):
        return "imports by full name only"
    if NON_PUBLIC.match(name) and importer not in PRIVATE:
        return f"only {' and '.join(PRIVATE)} may import non-public names"
    here, there = place(importer), place(name)
    if there in (None, here, ERRORS):
        return None
    if importer == ENTRANCE:
        return "the entrance imports nothing at import"
    if here is None:
        return "the importing file has no level: give its folder one in docs/design.md and in LEVELS"
    if LEVELS[there] >= LEVELS[here]:
        return f"level {LEVELS[here]} may not know level {LEVELS[there]}"
    return None


def refused(importer, source):
    found = [(name, refusal(importer, name)) for name in imported_names(source)]
    return [f"{importer} imports {name}: {reason}" for name, reason in found if reason]


def non_public_uses(source):
    """Attributes such as `tf.python.eager`, and strings such as "tensorflow.python.eager", outside of docstrings."""
    nodes = list(ast.walk(ast.parse(source)))
    docstrings = [node.value for node in nodes if isinstance(node, ast.Expr)]
    constants = [node for node in nodes if isinstance(node, ast.Constant) and node not in docstrings]
    texts = [ast.unparse(node) for node in nodes if isinstance(node, ast.Attribute)]
    texts += [node.value for node in constants if isinstance(node.value, str)]
    return [text for text in texts if NON_PUBLIC.match(text)]


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_non_public_names_stay_in_two_files(path):
    source = path.read_text(encoding="utf-8")
    imported = [name for name in imported_names(source) if NON_PUBLIC.match(name)]
    assert module_name(path) in PRIVATE or not imported + non_public_uses(source)


@pytest.mark.parametrize(
    "line",
    [
        "tf.python.eager.context.context()",
        "x = tf.__internal__.distribute",
        "tf.compat.v1.__internal__",
        "keras.src.backend",
        "__import__('tensorflow.python.eager')",
        "sys.modules['keras.src']",
    ],
)
def test_non_public_uses_are_seen(line):
    assert non_public_uses(line)


@pytest.mark.parametrize("line", ["tf.raw_ops.CollectiveGatherV2", "'See tensorflow.python.eager.'", "keras.Model"])
def test_public_uses_are_not(line):
    assert not non_public_uses(line)


def foreign_attributes(source):
    """Names with an underscore in front that are read from another object than the method's own."""
    attributes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Attribute)]
    private = [node for node in attributes if re.match(r"_[^_]", node.attr) and node.attr not in PUBLIC_UNDERSCORES]
    return [ast.unparse(node) for node in private if ast.unparse(node.value) not in ("self", "cls")]


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_attributes_with_an_underscore_belong_to_their_object(path):
    """TensorFlow's and Keras' stand in two files; PyTorch's hooks, with which the benchmark compares, in a third."""
    allowed = (*PRIVATE, "benchmarks.torch_baselines")
    assert module_name(path) in allowed or not foreign_attributes(path.read_text(encoding="utf-8"))


def test_foreign_attributes_are_seen():
    found = foreign_attributes("a.b._c(self._d)\nsuper()._e\nf._replace(g=1)")
    assert sorted(found) == ["a.b._c", "super()._e"]


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_imports_point_down(path):
    assert not refused(module_name(path), path.read_text(encoding="utf-8"))


def test_every_source_has_a_level():
    assert [name for name in map(module_name, SOURCES) if place(name) is None] == [ENTRANCE]


@pytest.mark.parametrize("path", sorted((ROOT / "trainers").glob("*.py")), ids=module_name)
def test_a_binary_knows_one_flags_only(path):
    names = imported_names(path.read_text(encoding="utf-8"))
    assert not ("absl.flags" in names and any(name.split(".")[0] == "flags" for name in names))


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_no_file_is_imported_by_path(path):
    """What the other tests cannot see: an import whose name is a variable. The entrance and the registry may, and
    `data/files.py` imports the module in which a user has a data set."""
    calls = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
    dynamic = [call for call in calls if ast.unparse(call.func) in DYNAMIC]
    assert not dynamic or module_name(path) in DYNAMIC_FILES


def test_the_registry_of_compressors_imports_compressors_only():
    assert {place(path.partition(":")[0]) for path in COMPRESSORS.values()} == {"dqgan_tf.compressors"}


@pytest.mark.parametrize(
    ("importer", "line"),
    [
        ("dqgan_tf.config", "import dqgan_tf.optimizers"),
        ("dqgan_tf.compressors.rules", "from dqgan_tf import config"),
        ("dqgan_tf.compressors.linear", "from dqgan_tf import optimizers"),
        ("dqgan_tf.gan.losses", "from dqgan_tf.gan import model"),
        ("dqgan_tf.error_feedback", "from dqgan_tf.distribute.channel import Channel"),
        ("dqgan_tf.distribute.channel", "from tensorflow.python.eager import context"),
        ("dqgan_tf.gan.model", "from tensorflow import python"),
        ("dqgan_tf.compressors.blocks", "from tensorflow.compiler.tf2xla.ops import gen_xla_ops"),
        ("dqgan_tf.telemetry.tensorboard", "from tensorflow.core.framework import summary_pb2"),
        ("dqgan_tf.benchmarking.timeline", "import tensorflow.tsl"),
        ("dqgan_tf.gan.fit", "from keras.src.models import model"),
        ("dqgan_tf.training.job", "from flags import run"),
        ("dqgan_tf.training.job", "def f():\n    import trainers.train"),
        ("dqgan_tf.data.stream", "from . import spec"),
        ("flags.run", "from trainers import train"),
        ("dqgan_tf", "from dqgan_tf.config import RunConfig"),
    ],
)
def test_the_rules_refuse(importer, line):
    assert refused(importer, line)


@pytest.mark.parametrize(
    ("importer", "line"),
    [
        ("dqgan_tf.gan.model", "from dqgan_tf.gan import losses"),
        ("dqgan_tf.gan.model", "from dqgan_tf.distribute.strategy import CompressedStrategy"),
        ("dqgan_tf.private_tensorflow", "from tensorflow.python.distribute import values"),
        ("dqgan_tf.config", "from dqgan_tf.errors import UsageError"),
        ("dqgan_tf.config", "from dqgan_tf import compressors"),
        ("trainers.train", "from flags import run as run_flags"),
        ("flags.run", "import dqgan_tf"),
    ],
)
def test_the_rules_allow(importer, line):
    assert not refused(importer, line)
