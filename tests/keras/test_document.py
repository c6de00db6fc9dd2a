"""System: the blocks of Python in docs/keras.md run one after another, and its table of figures names all of them."""

import os
import pathlib
import re
import subprocess
import sys

import pytest

from dqgan_tf.keras.optimizer import _SUMS, CompressedSteps

ROOT = pathlib.Path(__file__).resolve().parents[2]
DOCUMENT = (ROOT / "docs" / "keras.md").read_text()
DATA = """
import numpy as np, tensorflow as tf
images, labels = np.ones([32, 784], np.float32), np.zeros([32], np.int32)
dataset = tf.data.Dataset.from_tensor_slices((images, labels)).batch(16)
"""
NETWORKS = """
with strategy.scope():
    generator = keras.Sequential([keras.Input([4]), keras.layers.Dense(784)])
    discriminator = keras.Sequential([keras.Input([784]), keras.layers.Dense(1)])
"""


@pytest.mark.slow
def test_the_blocks_run(tmp_path):
    compile_, checkpoint, load, gan = re.findall(r"^```python\n(.*?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL)
    shared = tmp_path / "run"
    checkpoint = checkpoint.replace("/shared/run", str(shared)).replace("epochs=10", "epochs=2")
    lines = [compile_, DATA, checkpoint, "model.save('model.keras')", load, "model.fit(dataset)", NETWORKS, gan]
    program = "\n".join(lines).replace("gan.fit(dataset, epochs=10)", "gan.fit(dataset, epochs=1)")
    environment = dict(os.environ, PYTHONPATH=str(ROOT))
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    assert {path.name for path in shared.iterdir()} == {"step_00000001", "step_00000002"}


def test_the_figures_are_those_of_the_logs():
    table = DOCUMENT[DOCUMENT.index("| `compression/...`") :]
    named = set(re.findall(r"`/?([a-z_/]+)`", "\n".join(re.findall(r"^(\|[^|]*)\|", table, re.MULTILINE))))
    figures = {name.removeprefix("milliseconds/") for name in CompressedSteps.figures([1.0] * len(_SUMS))}
    assert {name.removeprefix("milliseconds/") for name in named} == figures
