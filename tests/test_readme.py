"""System tests of README: the names, files, targets and flags that it tells a reader to use exist."""

import pathlib
import re
import subprocess
import sys

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


def test_every_compressor_spec_of_the_table_works():
    table = README[README.index("| compressor | spec |") : README.index("A compressor says itself")]
    specs = [spec for spec in re.findall(r"`([a-z]\w*(?:[:+][\w=.,:+]+)?)`", table) if "=" not in spec or ":" in spec]
    assert len(specs) >= 12
    for spec in specs:
        dqgan_tf.compressors.get(spec)
