"""By hand: after a failure at any point the old file is whole and no temporary one stays."""

import os
import stat

import pytest

from dqgan_tf.telemetry import atomic


def test_new_file_in_a_new_folder(tmp_path):
    atomic.write_text(tmp_path / "a" / "b.txt", "é\n")
    assert (tmp_path / "a" / "b.txt").read_bytes() == b"\xc3\xa9\n"
    assert os.listdir(tmp_path / "a") == ["b.txt"]


def test_the_old_file_is_replaced_and_keeps_its_mode(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"a longer old text")
    path.chmod(0o640)
    atomic.write_bytes(path, b"new")
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_new_file_is_readable_by_others(tmp_path):
    atomic.write_bytes(tmp_path / "file", b"")
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o644


@pytest.mark.parametrize("where", ["fsync", "replace", "chmod"])
@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()], ids=["disk", "interrupt"])
def test_a_failure_leaves_the_old_file(tmp_path, monkeypatch, where, error):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fail(*arguments):
        raise error

    with monkeypatch.context() as broken:
        broken.setattr(os, where, fail)
        with pytest.raises(type(error)):
            atomic.write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_the_bytes_reach_the_disk_before_the_name(tmp_path, monkeypatch):
    calls = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *a, real=real, name=name: (calls.append(name), real(*a)))
    atomic.write_bytes(tmp_path / "file", b"new")
    assert calls == ["fsync", "replace", "fsync"]  # the file, its name, the folder that holds the name
