"""Runs a suite of experiments: methods x compressors x numbers of workers x shards x seeds, and renders its page.

    python -m trainers.compare --suite=games [--small] [--only=M=8] [--results=results/games] [--threads=1]
    python -m trainers.compare --suite=cifar10 --published --only=M=2   (a machine with two GPUs, a replica each)
    python -m trainers.compare --suite=mixture --processes --results=runs/mixture_of_processes
    python -m trainers.compare --suite=games --report

The workers of a run are replicas of one process, or, with --processes, processes that TF_CONFIG joins; games and
mixtures have the same bits in both forms. A run that results/SUITE/runs.jsonl holds is not repeated, so the same
command continues a suite that was stopped. --report renders the tables and figures of the recorded runs into
results/SUITE/README.md and runs nothing.
`python -m benchmarks.evidence_tables DOCUMENT` fills the tables of suites in README.md and docs/evidence.md.

    python -m trainers.compare --results=results/ring --document=docs/images/README.md

Without --suite, the runs are those of variants.json in the folder, each by `trainers.launch`, and the table goes into
the document.
"""

from absl import flags

from benchmarks import suites, suites_processes
from dqgan_tf.errors import UsageError
from dqgan_tf.training import command

_SUITE = flags.DEFINE_enum("suite", None, list(suites.SUITES), "The suite to run or to render.")
_SMALL = flags.DEFINE_bool("small", False, "Run a small form of the suite: two seeds, few rows, few steps.")
_PUBLISHED = flags.DEFINE_bool(
    "published", False, "Run a suite of images with the published network, rates and steps of its preset: for GPUs."
)
_PROCESSES = flags.DEFINE_bool(
    "processes", False, "Make each worker of a run a process, joined by TF_CONFIG. Default: replicas of one process."
)
_ONLY = flags.DEFINE_string("only", "", "Regular expression: run the cells whose name it matches, such as 'M=4/iid'.")
_REPORT = flags.DEFINE_bool("report", False, "Render the recorded runs of the suite; run nothing.")
_THREADS = flags.DEFINE_integer("threads", 1, "Threads of each run of the suite.", lower_bound=1)
_DATA_DIR = command.define_path("data_dir", "Prepared TensorFlow Datasets directory, for suites of images.")
_NETWORK = command.define_path(
    "feature_network",
    "npz of a CIFAR-10 ResNet that judges images. Default: a small classifier, trained once and cached.",
)
_CACHE_DIR = command.define_path("cache_dir", "Folder of the small classifier. Default: ~/.cache/dqgan_tf.")
_RESULTS = command.define_path(
    "results",
    "Folder of the runs. Default: results/SUITE, or runs/small_SUITE with --small; with --published SUITE_published "
    "takes the place of SUITE.",
)
_DOCUMENT = command.define_path("document", "Markdown file with a marked place for the table of variants.json.")


def main(arguments):
    del arguments
    if _SUITE.value is None:
        _variants()
        return
    suites.get(_SUITE.value, _SMALL.value, _PUBLISHED.value)
    if _PUBLISHED.value and _PROCESSES.value:
        raise UsageError(
            "--processes would give every process all GPUs that --published uses: leave one of them out. "
            "Received: --published --processes"
        )
    if _DOCUMENT.value:
        raise UsageError(
            "--document takes the table of variants.json, without --suite; `python -m benchmarks.evidence_tables "
            f"{_DOCUMENT.value}` fills those of suites. Received: --suite={_SUITE.value} --document={_DOCUMENT.value}"
        )
    name = _SUITE.value + "_published" * _PUBLISHED.value
    default = f"runs/small_{name}" if _SMALL.value else f"results/{name}"
    folder = _RESULTS.value or default
    if not _REPORT.value:
        local = {"data_dir": _DATA_DIR.value, "feature_network": _NETWORK.value, "cache_dir": _CACHE_DIR.value}
        options = [f"--{name}={path}" for name, path in local.items() if path]
        forms = {"small": _SMALL.value, "published": _PUBLISHED.value, "processes": _PROCESSES.value}
        how = forms | {"threads": _THREADS.value, "only": _ONLY.value}
        suites_processes.run(_SUITE.value, folder, tell=_tell, options=options, **how)
        _tell(f"The runs are in {folder}. The same command with --report makes their tables and figures.")
        return
    from benchmarks import suites_report

    suites_report.write(_SUITE.value, folder)
    _tell(f"{folder}/README.md has the tables and figures.")


def _variants():
    from benchmarks import comparison

    of_suites = (_SMALL, _PUBLISHED, _PROCESSES, _ONLY, _REPORT, _THREADS, _DATA_DIR, _NETWORK, _CACHE_DIR)
    given = [f"--{flag.name}" for flag in of_suites if flag.present]
    if given:
        raise UsageError(f"{', '.join(given)} given without a suite: name one, such as --suite=games")
    if not _RESULTS.value:
        raise UsageError(
            "Name a suite, such as --suite=games, or a folder with variants.json, such as --results=results/ring"
        )
    for line in comparison.run(_RESULTS.value):
        _tell(line)
    print(comparison.table(_RESULTS.value))
    if _DOCUMENT.value:
        comparison.render(_DOCUMENT.value, _RESULTS.value)


def _tell(line):
    print(line, flush=True)


if __name__ == "__main__":
    command.run(main)
