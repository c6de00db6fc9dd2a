"""By hand: the counts of a tree of four files; the slow test takes a step of the library under the tracer."""

import ast

import pytest

from benchmarks import structure
from tests.distributed import cluster

FILES = {
    "__init__.py": '"""One line."""\n',
    "gan/__init__.py": "",
    "gan/model.py": '''"""A model."""

import keras.src.backend
from dqgan_tf import optimizers
from dqgan_tf.gan import loss  # two comments

# with this one


def one():
    """Three lines of body; the docstring does not count."""
    x = (
        1)
    return x


class Model:
    def nested(self):
        def inner():
            return 1

        return inner
''',
    "gan/loss.py": "def f(): return 1\n\n\ndef g():\n    from dqgan_tf.unread import x\n    import tensorflow.keras\n",
    "optimizers.py": "import tensorflow as tf\nfrom tensorflow.python.eager import context\n",
    "unread.py": "x = 1\n",
    "apart.py": "from tensorflow import errors\n",
}


@pytest.fixture
def tree(tmp_path):
    for name, text in FILES.items():
        path = tmp_path / "dqgan_tf" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def test_counts_of_a_tree(tree):
    rows, files = structure.measure(tree)
    lines = {name: text.count("\n") for name, text in FILES.items()}
    assert rows["library, files"] == 7
    assert rows["library, lines"] == sum(lines.values()) == 33
    reached = [name for name in sorted(FILES) if name != "apart.py"]
    assert files["import closure of gan/model.py"] == [f"dqgan_tf/{name}" for name in reached]
    assert rows["import closure of gan/model.py, files"] == 6
    assert rows["import closure of gan/model.py, lines"] == 33 - lines["apart.py"]
    assert files["files with private names"] == ["dqgan_tf/gan/model.py", "dqgan_tf/optimizers.py"]
    assert rows["files with private names"] == 2
    assert rows["comments per 100 lines"] == round(100 * 2 / 33, 2)
    # f 1, inner 1, g 2, one 3, nested 4: the inclusive 90th percentile lies 60 % of the way from 3 to 4.
    assert rows["function length, median"] == 2
    assert rows["function length, 90th percentile"] == pytest.approx(3.6)


def test_a_docstring_alone_is_a_body_of_no_lines():
    assert structure.function_lengths(ast.parse('def f():\n    """Nothing."""\n')) == [0]


def test_folders():
    files = ["gan/model.py", "gan/networks/mlp.py", "error_feedback.py", "compressors/sign.py"]
    assert structure.by_folder(files) == "compressors 1, error_feedback 1, gan 2"


@pytest.mark.slow
def test_the_path_of_a_gradient():
    """It holds where the gradients are made and where packets leave, and nothing that the default does not use."""
    files = structure.files_that_one_gradient_passes(cluster.ROOT)
    assert all((cluster.ROOT / "dqgan_tf" / file).exists() for file in files)
    assert {"gan/model.py", "error_feedback.py", "compressors/linear.py", "optimizers.py"} <= set(files)
    assert any(file.endswith("connection.py") for file in files)  # run by TensorFlow, not traced
    assert not {"compressors/sign.py", "training/loop.py"} & set(files)
