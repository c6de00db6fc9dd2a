"""System tests of README: what it tells a reader to use exists, and its figures are those of results/."""

import json
import pathlib
import re
import subprocess
import sys

import pytest

import dqgan_tf

ROOT = pathlib.Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()


def test_every_name_of_the_package_is_exported():
    names = set(re.findall(r"dqgan_tf\.([A-Z]\w+)", README))
    assert {"DQGAN", "CompressedStrategy", "OptimizerConfig", "CompressionConfig"} <= names
    for name in names:
        assert getattr(dqgan_tf, name).__name__ == name


def test_every_file_and_make_target_exists():
    for path in re.findall(r"(?:flags/experiments|docs)/[\w.]+\w", README):
        assert (ROOT / path).exists(), path
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)|`make (\w+)", README, re.MULTILINE):
        assert re.search(rf"^{''.join(target)}:", makefile, re.MULTILINE), target


def test_every_binary_takes_the_flags_that_stand_behind_it():
    commands = re.sub(r"\\\n\s*", " ", README)
    used = {}
    for line in commands.splitlines():
        for part in re.split(r" -- ", line):
            binary = re.search(r"trainers\.(\w+)", part)
            name = binary.group(1) if binary else "train" if "--flagfile" in part else None
            if name and "-m trainers" in line:
                used.setdefault(name, set()).update(re.findall(r"--(\w+)=", part))
    assert {"prepare", "launch", "train", "generate", "evaluate"} <= set(used)
    for name, flags in used.items():
        text = subprocess.run(
            [sys.executable, "-m", f"trainers.{name}", "--helpfull"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        ).stdout
        for flag in flags - {"flagfile"}:
            assert re.search(rf"--(\[no\])?{flag}\b", text), (name, flag)


def recorded(folder, **wanted):
    """The entries of a folder of results with these values."""
    entries = map(json.loads, (ROOT / "results" / folder / "runs.jsonl").read_text().splitlines())
    return [entry for entry in entries if all(entry[key] == value for key, value in wanted.items())]


def test_the_first_sentence_rounds_what_was_recorded():
    claimed = re.search(
        r"(\d+) times fewer bytes on the wire at 4 bits, (\d+) times at 1, (\d+) times at top-1 %", README
    )
    [dense] = recorded("ring", variant="float32, no compression")
    for times, variant in zip(claimed.groups(), ("4 bit (the default job)", "1 bit sign", "top 1 %"), strict=True):
        [run] = recorded("ring", variant=variant)
        assert int(times) == round(dense["sent_bytes_per_step"] / run["sent_bytes_per_step"])


COLUMNS = ("float32", "float16", "linear:bits=8,bucket=512", "linear:bits=4,bucket=512", "sign:bucket=512")
COLUMNS += ("topk:fraction=0.01+linear:bits=8,bucket=512", "torch_float32")


@pytest.mark.parametrize(
    ("row", "rate"),
    [("loopback", "loopback"), ("10 Gbit/s", "10gbit"), ("1 Gbit/s", "1gbit"), ("100 Mbit/s", "100mbit")],
)
def test_the_table_of_speed_rounds_what_was_recorded(row, rate):
    shown = re.search(rf"^\| {row} \|(.*)\|$", README, re.MULTILINE).group(1).split("|")
    for cell, variant in zip(shown, COLUMNS, strict=True):
        last = recorded("exchange", kind="exchange", rate=rate, variant=variant, workers=2)[-1]
        assert abs(float(cell) - last["milliseconds_median"]) <= 0.5, variant
