"""Runs one job with several settings and seeds and writes the table of the runs into a document.

    python -m trainers.compare --results=results/ring --document=README.md

A run in results/ring/runs.jsonl is not repeated. Remove the file to repeat all.
"""

from dqgan_tf.training import command

_RESULTS = command.define_path("results", "Folder with variants.json; runs.jsonl is written there.", required=True)
_DOCUMENT = command.define_path(
    "document", "Markdown file with a marked place for the table. Default: print the table."
)


def main(arguments):
    del arguments
    from benchmarks import comparison

    for line in comparison.run(_RESULTS.value):
        print(line, flush=True)
    print(comparison.table(_RESULTS.value))
    if _DOCUMENT.value:
        comparison.render(_DOCUMENT.value, _RESULTS.value)


if __name__ == "__main__":
    command.run(main)
