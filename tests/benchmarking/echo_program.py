"""A worker of test_crew without TensorFlow: two variants that only count their steps."""

import json
import sys
import time

from dqgan_tf.benchmarking import serving


def main(text):
    arguments = json.loads(text)
    print("printed, no answer")
    counts = [0, 0]

    def variant(index):
        def step():
            counts[index] += 1
            time.sleep(arguments.get("step_seconds", 0))
            if counts[index] == arguments.get("fails_at") and arguments["index"] == arguments.get("fails", 1):
                raise ValueError("on purpose")

        def describe():
            return {"declared_bytes": counts[index], "index": arguments["index"], "addresses": arguments["addresses"]}

        return serving.Measured(step, lambda: {"encode": float(counts[index])}, describe)

    serving.serve([variant(0), variant(1)], arguments)


if __name__ == "__main__":
    main(sys.argv[1])
