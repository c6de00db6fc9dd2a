"""The runs of a suite, one after another, each in a process of its own, and the file of those that are done."""

import contextlib
import json
import os
import pathlib
import secrets
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence

from benchmarks import suites
from benchmarks.cells import DATA, picture
from benchmarks.provenance import ROOT, provenance
from dqgan_tf.errors import EXIT_PEER_LOST, TrainingError
from dqgan_tf.telemetry import json_lines
from dqgan_tf.telemetry.throughput import format_duration
from dqgan_tf.training import launcher

_EXIT_SECONDS = 60.0


def run(
    name: str,
    folder: str | os.PathLike,
    *,
    threads: int,
    small: bool,
    published: bool = False,
    processes: bool = False,
    tell: Callable[[str], None],
    options: Sequence[str] = (),
    only: str = "",
) -> None:
    """Runs the cells of a suite that `folder`/runs.jsonl does not hold, and appends a row for each.

    Args:
      name: of the suite.
      folder: of runs.jsonl, and of samples/ with the pictures of seed 0.
      threads: of each run.
      small, published: see `suites.get`.
      processes: each worker of a run is a process, joined to the others by TF_CONFIG, and not a replica of one process.
      tell: takes lines of progress.
      options: flags of `benchmarks.suites_run` that name files of this machine.
      only: regular expression; cells whose name it does not match anywhere are left for another call.

    Raises:
      TrainingError: a run failed; its own output has the reason. Later calls continue with it.
      UsageError: `only` is no regular expression, or matches no cell.
    """
    suite, path = suites.get(name, small, published), pathlib.Path(folder) / "runs.jsonl"
    cells = suites.select(suite, only)
    path.parent.mkdir(parents=True, exist_ok=True)
    recorded = {row["cell"] for row in json_lines.read(path)}
    missing = [cell for cell in cells if cell.name not in recorded]
    tell(f"{name}: {len(cells) - len(missing)} of {len(cells)} runs are in {path}.")
    figure = suite.figures[0]
    started, spent, left = time.monotonic(), 0, sum(cell.workers for cell in missing)
    forms = [*["--small"] * small, *["--published"] * published, *["--processes"] * processes]
    with tempfile.TemporaryDirectory() as cache:
        for number, cell in enumerate(missing, 1):
            row = _run_cell(name, cell, threads, forms, cache, [*options, *_picture(suite, cell, path.parent)])
            with json_lines.JsonLinesWriter(path, resume_step=None) as writer:
                writer.write(row["steps"], row)
            spent, left = spent + cell.workers, left - cell.workers
            rest = format_duration((time.monotonic() - started) * left / spent)
            value = row[figure.key]
            text = "diverged" if value is None else f"{figure.title} {figure.scale * value:.{figure.digits}f}"
            tell(f"[{number}/{len(missing)}] {cell.name}  {text}  {rest} left")


def _picture(suite, cell, folder):
    return [f"--picture={folder / picture(cell)}"] if suite.kind == DATA and cell.seed == 0 else []


def _run_cell(name, cell, threads, forms, cache, options):
    """Returns the row of a run, made by processes of its own: XLA keeps what it has compiled as long as one lives.

    The folder `cache` keeps it for the next runs and for the other replicas of this one: XLA compiles for each logical
    CPU. That halves the time of short runs (TensorFlow 2.21.0) and changes no bit.
    """
    started = time.monotonic()
    arguments = ["-m", "benchmarks.suites_run", f"--suite={name}", f"--cell={cell.name}", *forms]
    flags = f"--tf_xla_persistent_cache_directory={cache} --tf_xla_persistent_cache_device_types=CPU"
    environment = {"TF_XLA_FLAGS": flags} | os.environ
    environment |= {
        "TF_NUM_INTRAOP_THREADS": str(threads),
        # With one, TensorFlow 2.21.0 destroys the iterator of several replicas after up to minutes of waiting.
        "TF_NUM_INTEROP_THREADS": str(max(2, threads)),
        "OMP_NUM_THREADS": str(threads),
        "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
    }
    if "--published" not in forms:
        environment["CUDA_VISIBLE_DEVICES"] = ""
    environment.pop("TF_CONFIG", None)
    ports = launcher.free_ports(cell.workers if "--processes" in forms else 1)
    lines, secret, workers = [""], secrets.token_hex(32), []
    with contextlib.ExitStack() as stack:
        errors = [stack.enter_context(tempfile.TemporaryFile("w+")) for _ in ports]
        for index in range(len(ports)):
            process = subprocess.Popen(
                [sys.executable, *arguments, *options],
                env=launcher.worker_environment(ports, index, secret) | environment,
                stdout=subprocess.DEVNULL if index else subprocess.PIPE,
                stderr=errors[index],
                text=True,
                preexec_fn=launcher.die_with_parent,
            )
            workers.append(process)
            stack.callback(process.kill)
        first, *others = workers
        for line in first.stdout or ():
            lines.append(line)
            if sys.stderr.isatty():
                print(f"\r{cell.name}  {line.strip()[:20]:20}", end="\r", file=sys.stderr, flush=True)
        failed = first.wait() != 0
        for process in others:  # one that does not end is killed
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_EXIT_SECONDS)
        if failed:
            codes = [process.returncode for process in workers]
            # A worker that lost another one is not the cause.
            index = next((index for index, code in enumerate(codes) if code and code != EXIT_PEER_LOST), 0)
            errors[index].seek(0)
            last = " ".join(errors[index].read().splitlines()[-5:])
            raise TrainingError(f"{cell.name}: worker {index} ended with code {codes[index]}: {last}")
    row = json.loads(lines[-1])
    command = shlex.join(["python", *arguments])
    row["wall_seconds"] = round(time.monotonic() - started, 1)
    return {"cell": cell.name, **cell._asdict(), **provenance(command, threads=threads, seeds=[cell.seed]), **row}
