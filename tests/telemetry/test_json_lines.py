"""By hand: what a file holds after a write, a crash and a resume; a failure at any point leaves the old file whole."""

import json
import os
import stat

import numpy as np
import pytest
import tensorflow as tf

from dqgan_tf.errors import UsageError
from dqgan_tf.telemetry import json_lines
from dqgan_tf.telemetry.json_lines import JsonLinesWriter, write_atomically


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run" / "metrics.jsonl"


def test_a_line_an_entry(path):
    with JsonLinesWriter(path) as writer:
        writer.write(1, {"loss": 0.5})
        writer.write(2, {"loss": 0.25, "name": "ring"})
    assert path.read_text() == '{"step": 1, "loss": 0.5}\n{"step": 2, "loss": 0.25, "name": "ring"}\n'


def test_a_line_is_readable_before_the_file_is_closed(path):
    writer = JsonLinesWriter(path)
    writer.write(1, {"loss": 0.5})
    assert json_lines.read(path) == [{"step": 1, "loss": 0.5}]
    writer.close()


def test_numbers_of_other_libraries(path):
    with JsonLinesWriter(path) as writer:
        writer.write(np.int64(3), {"a": np.float32(0.5), "b": tf.constant([1, 2]), "c": {"d": np.array([0.25])}})
    assert json_lines.read(path) == [{"step": 3, "a": 0.5, "b": [1, 2], "c": {"d": [0.25]}}]


def test_what_json_cannot_say_is_null(path):
    with JsonLinesWriter(path) as writer:
        writer.write(1, {"a": float("nan"), "b": np.float32("inf"), "c": [float("-inf"), 1.0]})
    assert json.loads(path.read_text(), parse_constant=pytest.fail) == {
        "step": 1,
        "a": None,
        "b": None,
        "c": [None, 1.0],
    }


def test_values_cannot_change_the_step(path):
    with JsonLinesWriter(path) as writer:
        writer.write(4, {"step": 9, "a": 1})
    assert json_lines.read(path) == [{"step": 4, "a": 1}]


@pytest.mark.parametrize("torn", ['{"step": 3, "lo', '{"step": 3}garbage', '{"loss": 1.0}', "[3]", "\x00\x00"])
def test_a_torn_last_line_is_left_out_and_cut_off(path, torn):
    path.parent.mkdir()
    path.write_text('{"step": 1}\n{"step": 2}\n' + torn)
    assert [entry["step"] for entry in json_lines.read(path)] == [1, 2]
    with JsonLinesWriter(path, resume_step=2) as writer:
        writer.write(3, {})
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n{"step": 3}\n'


@pytest.mark.parametrize(("last", "steps"), [('{"step": 2, "lo', [1, 3, 4]), ('{"step": 2}', [1, 2, 3, 4])])
def test_a_writer_beside_a_run_does_not_join_a_last_line(path, last, steps):
    path.parent.mkdir()
    path.write_text('{"step": 1}\n' + last)
    for step in (3, 4):
        with JsonLinesWriter(path, None) as writer:
            writer.write(step, {})
    assert [entry["step"] for entry in json_lines.read(path)] == steps


def test_a_whole_last_line_without_its_end_is_kept(path):
    """The crash fell between the two: the next entry must not join its line."""
    path.parent.mkdir()
    path.write_text('{"step": 1}\n{"step": 2}')
    with JsonLinesWriter(path, resume_step=2) as writer:
        writer.write(3, {})
    assert [entry["step"] for entry in json_lines.read(path)] == [1, 2, 3]


def test_a_resume_forgets_what_it_will_do_again(path):
    path.parent.mkdir()
    path.write_text("".join(f'{{"step": {step}}}\n' for step in (100, 200, 300, 400)))
    JsonLinesWriter(path, resume_step=200).close()
    assert [entry["step"] for entry in json_lines.read(path)] == [100, 200]


def test_a_start_begins_an_empty_file(path):
    path.parent.mkdir()
    path.write_text('{"step": 100}\n')
    JsonLinesWriter(path).close()
    assert path.read_text() == ""


def test_damage_in_the_middle_is_named_and_nothing_is_lost(path):
    path.parent.mkdir()
    text = '{"step": 1}\nnonsense\n{"step": 2}\n'
    path.write_text(text)
    with pytest.raises(UsageError, match=r"Line 2 of .*metrics\.jsonl"):
        JsonLinesWriter(path, resume_step=2)
    assert path.read_text() == text


def test_no_file_has_no_entries(path):
    assert json_lines.read(path) == []


def test_new_file_in_a_new_folder(tmp_path):
    write_atomically(tmp_path / "a" / "b.txt", "é\n")
    assert (tmp_path / "a" / "b.txt").read_bytes() == b"\xc3\xa9\n"
    assert os.listdir(tmp_path / "a") == ["b.txt"]


def test_the_old_file_is_replaced_and_keeps_its_mode(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"a longer old text")
    path.chmod(0o640)
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_new_file_is_readable_by_others(tmp_path):
    write_atomically(tmp_path / "file", b"")
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
            write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_the_bytes_reach_the_disk_before_the_name(tmp_path, monkeypatch):
    calls = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *a, real=real, name=name: (calls.append(name), real(*a)))
    write_atomically(tmp_path / "file", b"new")
    assert calls == ["fsync", "replace", "fsync"]  # the file, its name, the folder that holds the name
