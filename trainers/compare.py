"""Runs a table of settings and renders it into a document.

    python -m trainers.compare --results=results/ring --document=README.md

Runs that results/ring/runs.jsonl holds already are not run again: remove the file to start anew.
"""

from dqgan_tf.benchmarking import comparison
from dqgan_tf.training import command

_RESULTS = command.define_path("results", "Folder with variants.json; runs.jsonl is written there.", required=True)
_DOCUMENT = command.define_path("document", "Markdown file with a place for the table. Default: only print it.")


def main(arguments):
    del arguments
    for line in comparison.run(_RESULTS.value):
        print(line, flush=True)
    print(comparison.table(_RESULTS.value))
    if _DOCUMENT.value:
        comparison.render(_DOCUMENT.value, _RESULTS.value)


if __name__ == "__main__":
    command.run(main)
