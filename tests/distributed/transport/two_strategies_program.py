"""Run by two workers: one strategy after the other in the same process. Prints what each exchange gave."""

import sys
import time

import tensorflow as tf


def main(ending):
    from dqgan_tf import compressors
    from dqgan_tf.distribute.layout import Vector
    from dqgan_tf.distribute.message_board import MessageBoard
    from dqgan_tf.distribute.strategy import CompressedStrategy

    def exchange(strategy):
        vectors = [Vector("weights", compressors.get("none"), ((4,),), (0,))]
        channel = strategy.open_channel("updates", vectors, error_feedback=False, transport="sockets")

        @tf.function(autograph=False)
        def mean():
            def replica():
                value = tf.fill([4], float(strategy.worker_index))
                return tf.distribute.get_replica_context().all_reduce("mean", [value], options=channel.options)[0]

            return strategy.run(replica)

        print(f"mean {mean().numpy()[0]}", flush=True)
        return mean

    first = CompressedStrategy()
    board = MessageBoard(first.worker_index, 2)
    mean = exchange(first)
    if ending == "lost":
        if first.worker_index == 0:
            first.close()  # the other worker's connection is lost from now on
        board.exchange("closed", "")
        time.sleep(0.5)
        try:
            mean()
        except tf.errors.UnknownError as error:
            print("lost" if "LostConnectionError: worker" in error.message else error.message, flush=True)
    elif ending == "closed":
        first.close()
    else:
        del mean, first  # nothing refers to the connections, but the functions that were compiled may
    second = CompressedStrategy()
    exchange(second)
    if ending == "dropped":
        print("end", flush=True)
        return  # the interpreter says goodbye
    second.close()
    board.leave()
    print("end", flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
