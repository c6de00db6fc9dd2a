"""Counts files, lines and functions that a reader of the library has to read, for this checkout and for another one.

    python -m benchmarks.structure [--base=00c0494] [--verbose]

| row | definition |
|---|---|
| files that one gradient passes | see below |
| import closure of gan/model.py | the file and what its import statements reach inside dqgan_tf, at any depth |
| library | the Python files of dqgan_tf and their lines, empty ones included |
| function length | lines of a function's body without its docstring, nested functions counted with both |
| files with private names | files that import tensorflow.python, .compiler, .tsl, .core, or keras.src |
| comments per 100 lines | comments, at the end of a line or alone, per 100 lines of the library |

The files that one gradient passes, with the default settings (an MLP on points, Adam, 4 bits): two workers take their
first training step, and worker 0 records files of dqgan_tf. The file that computes the gradients counts, and every file
of which a function is called from their return to the end of the step on this replica: while TensorFlow traces the step
and all jit-compiled functions inside it, and when TensorFlow runs Python functions of the step that send and receive.
Revision 00c0494 has 33: compressors 11, distribute 13, error_feedback 1, gan 7, optimizers 1.
"""

import ast
import collections
import io
import pathlib
import re
import statistics
import tokenize
from typing import Any

from absl import flags

from benchmarks.provenance import ROOT, checkout, git
from dqgan_tf.training import command

_BASE = command.define_path("base", "Revision or folder of another checkout, for a column of its own.")
_VERBOSE = flags.DEFINE_boolean("verbose", False, "List the files that are counted, for this checkout.")
_PRIVATE = re.compile(r"(tensorflow\.(python|compiler|tsl|core)|keras\.src)(\.|$)")
_ENTRANCE = "dqgan_tf/gan/model.py"


def measure(tree: pathlib.Path) -> tuple[dict[str, Any], dict[str, list[str]]]:
    """Returns the rows of the table for a checkout, without the files that one gradient passes, and by row the files
    that it counts."""
    sources = {path.relative_to(tree).as_posix(): path.read_text("utf-8") for path in _python_files(tree)}
    modules = {name: ast.parse(text) for name, text in sources.items()}
    lines = {name: len(text.splitlines()) for name, text in sources.items()}
    closure = import_closure(_ENTRANCE, modules)
    private = [name for name, module in modules.items() if any(map(_PRIVATE.match, imported_names(module)))]
    lengths = [length for module in modules.values() for length in function_lengths(module)]
    rows = {
        "import closure of gan/model.py, files": len(closure),
        "import closure of gan/model.py, lines": sum(lines[name] for name in closure),
        "library, files": len(sources),
        "library, lines": sum(lines.values()),
        "function length, median": statistics.median(lengths),
        "function length, 90th percentile": statistics.quantiles(lengths, n=10, method="inclusive")[-1],
        "files with private names": len(private),
        "comments per 100 lines": round(100 * sum(map(num_comments, sources.values())) / sum(lines.values()), 2),
    }
    return rows, {"import closure of gan/model.py": closure, "files with private names": private}


def import_closure(name: str, modules: dict[str, ast.Module]) -> list[str]:
    """Returns the file `name` and the files that its import statements reach among `modules`, sorted.

    `from a import b` reaches a and, where it is a module, a.b; packages are reached as their __init__.py where they are
    named.
    """
    reached, waiting = set(), [name]
    while waiting:
        file = waiting.pop()
        if file in reached:
            continue
        reached.add(file)
        places = [imported.replace(".", "/") for imported in imported_names(modules[file])]
        files = [f"{place}{suffix}" for place in places for suffix in (".py", "/__init__.py")]
        waiting += [candidate for candidate in files if candidate in modules]
    return sorted(reached)


def imported_names(module: ast.Module) -> set[str]:
    """Returns the full names in all import statements: `from a import b` gives `a` and `a.b`."""
    names = set()
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def function_lengths(module: ast.Module) -> list[int]:
    """Returns the lines of every function's body without its docstring."""
    lengths = []
    for node in ast.walk(module):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node) is not None else node.body
            lengths.append(body[-1].end_lineno - body[0].lineno + 1 if body else 0)
    return lengths


def num_comments(source: str) -> int:
    """Returns the number of comments in a Python source."""
    return sum(token.type == tokenize.COMMENT for token in tokenize.generate_tokens(io.StringIO(source).readline))


def files_that_one_gradient_passes(tree: pathlib.Path) -> list[str]:
    """Returns the files, relative to dqgan_tf/, by one step of two workers; see the module."""
    from benchmarks.crew import Crew, places

    variant = {"name": "default", "spec": "linear:bits=4,bucket=512", "topology": "auto", "packet_mb": 4.0}
    variant |= {"transport": "auto", "error_feedback": True}
    step = {"network": {}, "data_shape": [2], "batch_size": 16, "steps_per_call": 1}
    arguments = {"program": "whole_step", "variants": [variant], **step}
    with places(2) as where, Crew(ROOT / "benchmarks" / "worker.py", arguments, where, 0, tree=tree) as crew:
        return crew.ask("files 0")[0]


def by_folder(files: list[str]) -> str:
    """Returns the number of files in each folder or top-level file, e.g. `compressors 11, error_feedback 1`."""
    counts = collections.Counter(file.split("/")[0].removesuffix(".py") for file in files)
    return ", ".join(f"{folder} {count}" for folder, count in sorted(counts.items()))


def _python_files(tree):
    return sorted((tree / "dqgan_tf").rglob("*.py"))


def _column(tree):
    """Returns the heading of a checkout's column, its rows, and the files that rows count."""
    rows, files = measure(tree)
    path = files_that_one_gradient_passes(tree)
    heading = git(tree, "describe", "--always", "--dirty").stdout.strip() or str(tree)
    row = {"files that one gradient passes": f"{len(path)} ({by_folder(path)})"}
    return heading, row | rows, {"files that one gradient passes": path} | files


def _text(value):
    return value if isinstance(value, str) else f"{value:,g}"


def main(arguments):
    del arguments
    from benchmarks.report import markdown

    columns = [_column(ROOT)]
    if _BASE.value:
        with checkout(_BASE.value) as tree:
            columns.insert(0, _column(tree))
    heading, rows, files = columns[-1]
    cells = [[name, *(_text(row[name]) for _, row, _ in columns)] for name in rows]
    print(markdown(["", *(title for title, _, _ in columns)], cells))
    if _VERBOSE.value:
        for name, counted in files.items():
            print(f"\n{name}, {heading}:\n" + "\n".join(f"  {file}" for file in counted))


if __name__ == "__main__":
    command.run(main)
