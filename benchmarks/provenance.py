"""Provenance of the recorded rows (commit, hardware, versions), and checkouts of other revisions."""

import contextlib
import importlib.metadata
import os
import pathlib
import platform
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

from dqgan_tf.errors import UsageError

ROOT = pathlib.Path(__file__).resolve().parent.parent
_PROCESSOR = ("cpu family", "model", "stepping")
_PACKAGES = ("tensorflow", "keras", "numpy", "torch")


def provenance(
    command: str, *, threads: int, seeds: Sequence[int], tree: str | os.PathLike = ROOT, gpus: bool = False
) -> dict[str, Any]:
    """Returns the fields of a recorded row that are needed to repeat it.

    Args:
      command: the command line.
      threads: computation threads of each worker.
      seeds: all random seeds.
      tree: the checkout that was measured.
      gpus: whether GPUs took part.

    Returns:
      command, commit (`git describe --always --dirty`; what DQGAN_COMMIT says in a copy without git), hardware (cores,
      model name, GPUs and their driver), processor (family and model, from /proc/cpuinfo: virtual machines hide the
      name), threads, seeds, versions (by package).
    """
    described = git(tree, "describe", "--always", "--dirty")
    processor = _processor()
    hardware = f"{os.cpu_count()} cores of {processor.get('model name', platform.machine())}"
    return {
        "command": command,
        "commit": described.stdout.strip() or os.environ.get("DQGAN_COMMIT", "unknown"),
        "hardware": ", ".join([hardware, *(_gpus() if gpus else [])]),
        "processor": ", ".join(f"{key} {processor[key]}" for key in _PROCESSOR if key in processor),
        "threads": threads,
        "seeds": list(seeds),
        "versions": {"python": platform.python_version()} | _versions(),
    }


@contextlib.contextmanager
def checkout(revision: str) -> Iterator[pathlib.Path]:
    """Yields a checkout: `revision` itself if it is a folder with dqgan_tf/, else a temporary worktree of it.

    Raises:
      UsageError: neither such a folder nor a revision of this repository.
      OSError: git cannot make the worktree.
    """
    folder = pathlib.Path(revision)
    if (folder / "dqgan_tf").is_dir():
        yield folder.resolve()
        return
    commit = git(ROOT, "rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}").stdout.strip()
    if not commit:
        raise UsageError(
            "A checkout must be a folder that holds dqgan_tf/ or a revision of this repository, such as HEAD~1. "
            f"Received: {revision!r}"
        )
    with tempfile.TemporaryDirectory() as parent:
        tree = pathlib.Path(parent) / "tree"
        result = git(ROOT, "worktree", "add", "--detach", str(tree), commit)
        if result.returncode:
            raise OSError(f"git worktree add {tree} {commit} failed: {' '.join(result.stderr.split())}")
        try:
            yield tree
        finally:
            git(ROOT, "worktree", "remove", "--force", str(tree))


def git(tree: str | os.PathLike, *arguments: str) -> subprocess.CompletedProcess:
    """Runs git in a checkout; the result has its exit code."""
    return subprocess.run(["git", "-C", str(tree), *arguments], capture_output=True, text=True, check=False)


def command_line(module: str) -> str:
    """Returns the command that started this process, as text for a shell."""
    return shlex.join(["python", "-m", module, *sys.argv[1:]])


def _processor():
    path = pathlib.Path("/proc/cpuinfo")
    text = path.read_text().split("\n\n")[0] if path.exists() else ""
    return dict(re.findall(r"^(.*?)\s*: (.*)$", text, re.MULTILINE))


def _gpus():
    """Returns the name and the driver of each GPU that nvidia-smi lists, such as `NVIDIA H200, driver 580.159.04`."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    lines = subprocess.run(query, capture_output=True, text=True, check=True).stdout.splitlines()
    return [", driver ".join(field.strip() for field in line.split(",")) for line in lines]


def _versions():
    versions = {}
    for package in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return versions
