"""By hand: what stands in the file after a write, a crash and a resume."""

import json

import numpy as np
import pytest
import tensorflow as tf

from dqgan_tf.telemetry import json_lines
from dqgan_tf.telemetry.json_lines import JsonLinesWriter


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
    with pytest.raises(ValueError, match=r"Line 2 of .*metrics\.jsonl"):
        JsonLinesWriter(path, resume_step=2)
    assert path.read_text() == text


def test_no_file_has_no_entries(path):
    assert json_lines.read(path) == []
