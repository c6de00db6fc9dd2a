"""Runs one job under several settings and seeds and renders the table of the runs into a document.

    python -m trainers.compare --results=results/ring --document=README.md

A run that results/ring/runs.jsonl holds is not repeated: remove the file to start anew.
"""

from absl import app, flags

from dqgan_tf.training import command_line

_RESULTS = flags.DEFINE_string(
    "results", None, "Folder with variants.json; runs.jsonl is written there.", required=True
)
_DOCUMENT = flags.DEFINE_string("document", None, "Markdown file with a place for the table. Default: print it only.")


def main(argv):
    del argv
    from benchmarks import comparison
    from dqgan_tf.training import command

    with command.errors_in_one_line():
        for line in comparison.run(_RESULTS.value):
            print(line, flush=True)
        print(comparison.table(_RESULTS.value))
        if _DOCUMENT.value:
            comparison.render(_DOCUMENT.value, _RESULTS.value)


if __name__ == "__main__":
    app.run(main, flags_parser=command_line.parse)
