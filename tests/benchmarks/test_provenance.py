"""System: what a recorded row says of where it comes from, and checkouts of other revisions."""

import os
import subprocess

import pytest

from benchmarks import provenance
from dqgan_tf.errors import UsageError


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A repository with two commits of dqgan_tf/text; it stands for this one."""
    path = tmp_path / "repository"
    (path / "dqgan_tf").mkdir(parents=True)
    subprocess.run(["git", "init", "-q", path], check=True)
    for text in ("first", "second"):
        (path / "dqgan_tf" / "text").write_text(text)
        provenance.git(path, "add", ".")
        identity = ["-c", "user.name=T", "-c", "user.email=t@example.com"]
        assert provenance.git(path, *identity, "commit", "-qm", text).returncode == 0
    monkeypatch.setattr(provenance, "ROOT", path)
    return path


def test_a_row_says_how_to_obtain_it_again():
    row = provenance.provenance("python -m x --y", threads=2, seeds=range(3))
    assert (row["command"], row["threads"], row["seeds"]) == ("python -m x --y", 2, [0, 1, 2])
    assert row["hardware"].startswith(f"{os.cpu_count()} cores of ")
    assert {"python", "tensorflow", "keras", "numpy"} <= row["versions"].keys()
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=provenance.ROOT, capture_output=True, text=True).stdout
    assert row["commit"] == "unknown" or head.startswith(row["commit"].removesuffix("-dirty"))


def test_a_revision_is_checked_out_and_removed(repository):
    with provenance.checkout("HEAD~1") as tree:
        assert (tree / "dqgan_tf" / "text").read_text() == "first"
        assert (repository / "dqgan_tf" / "text").read_text() == "second"
        (tree / "written").touch()  # by what ran there
        commit = provenance.provenance("", threads=1, seeds=[], tree=tree)["commit"]
        assert provenance.git(repository, "rev-parse", "HEAD~1").stdout.startswith(commit)
    assert not tree.exists()
    assert provenance.git(repository, "worktree", "list").stdout.count("\n") == 1


def test_nothing_stays_when_the_run_fails(repository):
    with pytest.raises(RuntimeError), provenance.checkout("HEAD~1") as tree:
        raise RuntimeError
    assert not tree.exists() and provenance.git(repository, "worktree", "list").stdout.count("\n") == 1


def test_a_folder_is_taken_as_it_is(repository):
    with provenance.checkout(str(repository)) as tree:
        assert tree == repository.resolve()
    assert tree.exists()


@pytest.mark.parametrize("text", ["no-such-revision", "docs", "--detach"])
def test_another_text_is_refused(repository, text):
    (repository / "docs").mkdir()
    with pytest.raises(UsageError, match="such as HEAD~1") as caught, provenance.checkout(text):
        pass
    assert repr(text) in str(caught.value)
