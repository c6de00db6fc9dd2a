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
    sys.argv[1:] = [_find_flagfile(argument) for argument in sys.argv[1:]]
    runpy.run_path(str(folder() / "trainers" / f"{name}.py"), run_name="__main__")


def _find_flagfile(argument):
    match = re.fullmatch(r"(--?flagfile=)(.+)", argument)
    if match and not os.path.exists(match[2]):
        for place in (folder(), folder() / "flags" / "experiments"):
            if (place / match[2]).is_file():
                return match[1] + str(place / match[2])
    return argument


train, launch, ray_train, evaluate, generate, export, prepare = (functools.partial(run, name) for name in NAMES)

if __name__ == "__main__":
    if sys.argv[1:2] == [] or sys.argv[1] not in NAMES:
        raise SystemExit(f"ERROR: python -m dqgan_tf.commands takes one of {', '.join(NAMES)}.")
    run(sys.argv.pop(1))
