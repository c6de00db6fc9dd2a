"""Runs a table of settings and renders it into a document.

    python -m trainers.compare --results=results/ring --document=README.md

Runs that results/ring/runs.jsonl holds already are not run again: remove the file to start anew.
"""

from absl import app, flags

from dqgan_tf.benchmarking import comparison
from dqgan_tf.training import command_line

_RESULTS = flags.DEFINE_string(
    "results", None, "Folder with variants.json; runs.jsonl is written there.", required=True
)
_DOCUMENT = flags.DEFINE_string("document", None, "Markdown file with a place for the table; default: only print it.")


def main(argv):
    del argv
    for line in comparison.run(_RESULTS.value):
        print(line, flush=True)
    print(comparison.table(_RESULTS.value))
    if _DOCUMENT.value:
        comparison.render(_DOCUMENT.value, _RESULTS.value)


if __name__ == "__main__":
    app.run(main, flags_parser=command_line.parse)
