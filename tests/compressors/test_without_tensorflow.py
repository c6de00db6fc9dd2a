"""What a user writes is read and refused without TensorFlow, whose import takes seconds."""

import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]

READS = """
from dqgan_tf import compressors
from dqgan_tf.compressors import rules
for spec in (*compressors.available(), "topk:fraction=0.1+linear:bits=8", "linear:bits=3,rounding=stochastic"):
    compressor = compressors.get(spec)
    assert compressors.get(compressor.spec) == compressor
    assert 0.0 <= compressor.delta(10**6) <= 1.0
    compressor.unbiased, compressor.contractive_variant(), compressor.parameters()
assigned = rules.assign(["g/bias"], compressor, rules.parse("bias|gamma=none;discriminator/=sign:bucket=512"))
assert assigned[0].compressor.spec == "none"
"""

REFUSES = """
from dqgan_tf import compressors
from dqgan_tf.compressors import rules
from dqgan_tf.errors import UsageError
def refuses(function, text):
    try:
        function(text)
    except UsageError as error:
        assert str(error)
    else:
        raise AssertionError(text)
for spec in ("lineer", "linear:bits=9", "linear:bits", "topk+topk", "sign:bucket=5", "adaptive:bits=9", "", None):
    refuses(compressors.get, spec)
for text in ("bias", "(=none", "gamma|=none", "bias=lineer"):
    refuses(rules.parse, text)
"""


@pytest.mark.parametrize("code", [READS, REFUSES], ids=["reads", "refuses"])
def test_tensorflow_stays_unloaded(code):
    code += "\nimport sys\nassert not {'tensorflow', 'keras'} & set(sys.modules)\n"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr


def test_one_spec_loads_one_compressor():
    """Neither the package nor `get` of a core compressor imports what stands in contrib."""
    code = (
        "import sys\nfrom dqgan_tf import compressors\ncompressors.get('linear:bits=4')\n"
        "print([name for name in sys.modules if 'contrib' in name or name.endswith(('topk', 'ternary'))])"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert result.stdout.strip() == "[]", result.stderr


def test_a_name_that_the_package_does_not_have():
    from dqgan_tf import compressors

    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        compressors.Nothing  # noqa: B018
