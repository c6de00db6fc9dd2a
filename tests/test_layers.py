"""The arrows of docs/design.md, read from the imports: downwards or inside the folder, and three rules of their own."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
# The table of docs/design.md. The longest prefix of a module's name decides.
LEVELS = {
    "dqgan_tf.config": 0,
    "dqgan_tf.errors": 0,
    "dqgan_tf.compressors": 1,
    "dqgan_tf.optimizers": 1,
    "dqgan_tf.gan.losses": 1,
    "dqgan_tf.gan.networks": 1,
    "dqgan_tf.data": 1,
    "dqgan_tf.evaluation": 1,
    "dqgan_tf.telemetry": 1,
    "dqgan_tf.error_feedback": 2,
    "dqgan_tf.distribute": 3,
    "dqgan_tf.gan": 4,
    "dqgan_tf.training": 5,
    "dqgan_tf.benchmarking": 6,
    "flags": 6,
    "trainers": 7,
}
ENTRANCE = "dqgan_tf"  # version and lazy names: it may be imported anywhere and itself imports nothing of the project
SOURCES = sorted(path for folder in ("dqgan_tf", "flags", "trainers") for path in (ROOT / folder).rglob("*.py"))


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
    if name.startswith("tensorflow.python") and place(importer) != "dqgan_tf.distribute":
        return "only dqgan_tf/distribute may import tensorflow.python"
    here, there = place(importer), place(name)
    if there is None or here == there:
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
    """What the other tests cannot see: importlib with a name that is not constant. The entrance is the one that may."""
    calls = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
    dynamic = [call for call in calls if ast.unparse(call.func) in ("__import__", "importlib.import_module")]
    assert not dynamic or module_name(path) == ENTRANCE


@pytest.mark.parametrize(
    ("importer", "line"),
    [
        ("dqgan_tf.config", "import dqgan_tf.compressors"),
        ("dqgan_tf.compressors.linear", "from dqgan_tf import optimizers"),
        ("dqgan_tf.gan.losses", "from dqgan_tf.gan import model"),
        ("dqgan_tf.error_feedback", "from dqgan_tf.distribute.channel import Channel"),
        ("dqgan_tf.gan.model", "from tensorflow.python.eager import context"),
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
        ("dqgan_tf.gan.model", "from dqgan_tf.gan.flat import concat"),
        ("dqgan_tf.distribute.channel", "from tensorflow.python.distribute import cross_device_ops"),
        ("trainers.train", "from flags import run as run_flags"),
        ("flags.run", "import dqgan_tf"),
    ],
)
def test_the_rules_allow(importer, line):
    assert not refused(importer, line)
