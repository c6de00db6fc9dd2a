"""Packaging of `dqgan_tf`: the library, and as `dqgan_tf._commands` its binaries and flag files.

`benchmarks` and `tests` stay in the checkout, and with them the binaries `benchmark` and `compare`, which measure it.
"""

import pathlib
import re

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = pathlib.Path(__file__).resolve().parent
DESCRIPTION = "Distributed GAN training with compressed updates and error feedback (DQGAN) for TensorFlow and Keras 3"

# dqgan_tf/private_tensorflow.py and private_keras.py use names that carry no promise of stability: a minor release may
# move them. docs/compatibility.md says which versions were tried; `make test-next` tries the newest.
TENSORFLOW = ">=2.20.0,<2.23"
KERAS = "~=3.15.1"

INSTALL_REQUIRES = [
    "absl-py>=1.0.0",
    "importlib_resources",  # imported and not declared by tensorflow-datasets 4.9.10
    "h5py>=3.8",  # as Keras; counts the variables of its files
    f"keras{KERAS}",
    "numpy>=1.26.0",
    "pillow>=10.1",  # reads the image files of a folder; 10.1 has `Image.has_transparency_data`
    "tensorboard>=2.20,<2.23",  # behind tf.summary; TensorFlow 2.21 no longer requires it
    f"tensorflow{TENSORFLOW}",
    "tensorflow-datasets>=4.9.10",
]
TEST = [
    "check-jsonschema>=0.30",  # the form of the hosted workflow; brings its schema along
    "kubernetes-validate>=1.37",  # the published schemas, for deploy/kubernetes
    "mypy~=2.4.1",
    "pytest>=8.0",
    "pytest-timeout>=2.3",
    "pytest-xdist>=3.7",  # two test processes: most tests use one core
    "ruff~=0.17.6",
    "scipy>=1.11",  # the oracle of the Frechet distance
    "setuptools>=70.1",  # the first with its own bdist_wheel
]


COMMANDS = {"dqgan_tf._commands.trainers": "trainers", "dqgan_tf._commands.flags": "flags"}  # packages and folders
CHECKOUT_ONLY = ("benchmark", "compare")


class BuildPackages(build_py):
    """Leaves the binaries out that need `benchmarks`."""

    def find_package_modules(self, package, package_dir):
        modules = super().find_package_modules(package, package_dir)
        return [module for module in modules if "trainers" not in package or module[1] not in CHECKOUT_ONLY]


def _scripts():
    """Returns the entry points of dqgan_tf/commands.py, such as `dqgan-train`."""
    text = (ROOT / "dqgan_tf" / "commands.py").read_text(encoding="utf-8")
    names = re.findall(r'"(\w+)"', re.search(r"^NAMES = (.+)$", text, re.MULTILINE).group(1))
    return [f"dqgan-{name} = dqgan_tf.commands:{name}" for name in names]


def _version():
    text = (ROOT / "dqgan_tf" / "__init__.py").read_text(encoding="utf-8")
    return re.search(r'^__version__ = "([^"]+)"$', text, re.MULTILINE).group(1)


def _long_description():
    readme = ROOT / "README.md"
    return readme.read_text(encoding="utf-8") if readme.exists() else DESCRIPTION


setup(
    name="dqgan-tf",
    version=_version(),
    description=DESCRIPTION,
    long_description=_long_description(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    author="The dqgan-tf contributors",
    packages=[*find_packages(include=["dqgan_tf", "dqgan_tf.*"]), *COMMANDS],
    package_dir=COMMANDS,
    package_data={"dqgan_tf": ["py.typed", "*.pyi"], "dqgan_tf._commands.flags": ["experiments/*.flags"]},
    cmdclass={"build_py": BuildPackages},
    entry_points={"console_scripts": _scripts()},
    python_requires=">=3.11,<3.14",  # Keras 3.15 starts at 3.11, TensorFlow 2.20 and 2.21 end at 3.13
    install_requires=INSTALL_REQUIRES,
    extras_require={
        "benchmark": ["matplotlib>=3.8", "scipy>=1.11"],  # figures and intervals of trainers.benchmark and compare
        "onnx": ["tf2onnx>=1.17"],  # trainers.export --output=X.onnx
        "ray": ["ray[train]>=2.60"],  # trainers.ray_train
        "gpu": [f"tensorflow[and-cuda]{TENSORFLOW}"],
        "test": TEST,
        "dev": [*TEST, "build>=1.2", "pre-commit>=4.0", "twine>=5.0"],
    },
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
    keywords="gan distributed gradient-compression error-feedback quantization tensorflow keras",
)
