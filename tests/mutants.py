"""Lines of the library broken on purpose, and the quick test that catches each.

    python -m tests.mutants [--only TEXT] [--output results/house/mutants.md]

Each mutant is written into a copy of the checkout, and the tests that are named with it run there until one fails. A
mutant that no test catches is a survivor: exit code 1.
"""

import argparse
import dataclasses
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
_COPIED = ("benchmarks", "dqgan_tf", "flags", "tests", "trainers", "pyproject.toml", "setup.py", "README.md", "docs")
_DEADLINE_SECONDS = 900


@dataclasses.dataclass(frozen=True)
class Mutant:
    """One broken line.

    path: of the file, from the root.
    old: text that occurs once in the file.
    new: text that replaces it.
    fault: what the new text does wrong.
    tests: files that run until one test fails; quick ones only.
    """

    path: str
    old: str
    new: str
    fault: str
    tests: tuple[str, ...]


def _mutant(path, old, new, fault, *tests):
    return Mutant(f"dqgan_tf/{path}", old, new, fault, tuple(f"tests/{test}" for test in tests))


MUTANTS = ()


def run(mutant: Mutant, tree: pathlib.Path) -> tuple[str, float]:
    """Returns (the first test that fails, seconds); an empty text if all pass.

    Args:
      mutant: what is broken.
      tree: a copy of the checkout; the file is restored.

    Raises:
      ValueError: the old text does not occur exactly once, or pytest ran no test.
    """
    file = tree / mutant.path
    whole = file.read_text(encoding="utf-8")
    if whole.count(mutant.old) != 1:
        raise ValueError(f"{mutant.path}: {whole.count(mutant.old)} places hold {mutant.old!r}, one must")
    file.write_text(whole.replace(mutant.old, mutant.new), encoding="utf-8")
    options = ["-x", "-q", "-rfE", "-p", "no:cacheprovider", "-m", "not slow"]
    command = [sys.executable, "-m", "pytest", *options, *mutant.tests]
    start = time.monotonic()
    try:
        done = subprocess.run(command, cwd=tree, capture_output=True, text=True, timeout=_DEADLINE_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return "time-out", time.monotonic() - start
    finally:
        file.write_text(whole, encoding="utf-8")
    if done.returncode not in (0, 1, 2):
        raise ValueError(f"pytest ended with {done.returncode}: {done.stdout[-500:]}{done.stderr[-500:]}")
    failed = re.search(r"^(?:FAILED|ERROR) (\S+)", done.stdout, re.MULTILINE)
    return (failed.group(1).removeprefix("tests/") if failed else ""), time.monotonic() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", default="", help="run the mutants whose path or fault contains this text")
    parser.add_argument("--output", type=pathlib.Path, help="file for the table, in Markdown")
    arguments = parser.parse_args()
    rows, survivors = ["| file | fault | caught by |", "|---|---|---|"], 0
    with tempfile.TemporaryDirectory() as folder:
        tree = pathlib.Path(folder)
        for name in _COPIED:
            source = ROOT / name
            (shutil.copytree if source.is_dir() else shutil.copy)(source, tree / name)
        for mutant in MUTANTS:
            if arguments.only not in f"{mutant.path} {mutant.fault}":
                continue
            test, seconds = run(mutant, tree)
            survivors += not test
            path = mutant.path.removeprefix("dqgan_tf/")
            rows.append(f"| {path} | {mutant.fault} | {f'`{test}`' if test else '**none**'} |")
            print(f"{seconds:5.0f} s  {mutant.path}: {mutant.fault}: {test or 'SURVIVED'}", flush=True)
    if arguments.output:
        arguments.output.write_text("\n".join(rows) + "\n", encoding="utf-8")
    sys.exit(bool(survivors))


if __name__ == "__main__":
    main()
