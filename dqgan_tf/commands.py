"""Console scripts: `dqgan-train` runs trainers/train.py, `dqgan-launch` runs trainers/launch.py, and so on.

`trainers/` and `flags/` lie beside this package in a checkout. In a wheel they lie in `dqgan_tf/_commands`, so that the
wheel installs one top-level name. `python -m dqgan_tf.commands NAME` does the same as the script `dqgan-NAME`.
"""

import functools
import os
import pathlib
import re
import runpy
import sys

NAMES = ("train", "launch", "ray_train", "evaluate", "generate", "export", "prepare")


def folder() -> pathlib.Path:
    """Returns the folder that holds `trainers` and `flags`."""
    package = pathlib.Path(__file__).resolve().parent
    installed = package / "_commands"
    return installed if installed.is_dir() else package.parent


def run(name: str) -> None:
    """Runs `trainers/<name>.py` with the arguments in `sys.argv`, as `python -m trainers.<name>` does.

    A --flagfile that is not found from the working folder is looked for among ours: `--flagfile=ring.flags`, or
    `--flagfile=flags/experiments/ring.flags` as in a checkout.
    """
    sys.path.insert(0, str(folder()))  # for `flags`
    sys.argv[1:] = _with_flagfiles(sys.argv[1:])
    runpy.run_path(str(folder() / "trainers" / f"{name}.py"), run_name="__main__")


def _with_flagfiles(arguments):
    """Returns arguments with the paths of our flag files, in `--flagfile=NAME` and in `--flagfile NAME`."""
    found = []
    for before, argument in zip(["", *arguments], arguments, strict=False):
        match = re.fullmatch(r"(--?flagfile=)(.+)", argument)
        is_path = re.fullmatch("--?flagfile", before)
        found.append(
            match[1] + _find_flagfile(match[2]) if match else _find_flagfile(argument) if is_path else argument
        )
    return found


def _find_flagfile(path):
    if not os.path.exists(path):
        for place in (folder(), folder() / "flags" / "experiments"):
            if (place / path).is_file():
                return str(place / path)
    return path


train, launch, ray_train, evaluate, generate, export, prepare = (functools.partial(run, name) for name in NAMES)

if __name__ == "__main__":
    if sys.argv[1:2] == [] or sys.argv[1] not in NAMES:
        raise SystemExit(f"ERROR: python -m dqgan_tf.commands takes one of {', '.join(NAMES)}.")
    run(sys.argv.pop(1))
