"""Run by two workers: each waits for the other in its own way, until the other is gone. Prints the error that it got.

Arguments: of worker 0 and of worker 1, what it does after both have met: `collective`, `sockets`, `board`, `barrier`,
`pause` (sleeps, then uses the board), `ticks` (uses the board, while a thread prints), `leave` (ends at once), `sleep`.
"""

import json
import sys
import threading
import time

import tensorflow as tf


def tick():
    while True:
        print("tick", flush=True)
        time.sleep(0.1)


def main(*acts):
    from dqgan_tf import compressors
    from dqgan_tf.distribute.layout import Vector
    from dqgan_tf.distribute.strategy import CompressedStrategy
    from dqgan_tf.errors import LostConnectionError

    try:
        strategy = CompressedStrategy(silence_timeout=10)
        board = strategy.message_board()
        act = acts[strategy.worker_index]
        transport = "sockets" if "sockets" in acts else "ring"
        vectors = [Vector("weights", compressors.get("none"), ((4,),), (0,))]
        channel = strategy.open_channel("updates", vectors, error_feedback=False, transport=transport)

        @tf.function(autograph=False)
        def mean():
            def replica():
                value = tf.fill([4], 1.0)
                return tf.distribute.get_replica_context().all_reduce("mean", [value], options=channel.options)[0]

            return strategy.run(replica)

        mean()
        board.exchange("ready", "")
        print("ready", flush=True)
        if act == "leave":
            return
        if act == "sleep":
            time.sleep(600)
        if act == "ticks":
            threading.Thread(target=tick, daemon=True).start()
        if act == "pause":
            time.sleep(3)
        if act in ("collective", "sockets"):
            while True:
                mean()
        while True:
            board.exchange("again", "")
    except tf.errors.OpError as error:
        print("error " + json.dumps([type(error).__name__, error.message]), flush=True)
    except LostConnectionError as error:
        print("error " + json.dumps(["", str(error)]), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
