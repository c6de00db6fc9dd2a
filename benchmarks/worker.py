"""A worker process of the benchmarks: it measures on request and answers in JSON. `crew.Crew` starts one per place.

    python -P benchmarks/worker.py '{"program": "exchange", "variants": [...], ...}'

The process imports dqgan_tf from PYTHONPATH, which may name another checkout than this file's, and of `benchmarks` only
the networks of the classifier. This file has all calls of the library that the benchmarks measure. `renamed` and
comments mark the code for older checkouts, down to 00c0494.

A request is a line on stdin. The answer is a line of JSON in a separate pipe:

    describe           [{"declared_bytes": ..., ...}, ...], one object for every variant
    step K             one step of variant K: {"total": milliseconds, phase: milliseconds, ...}
    bytes              the bytes that the network interface has sent so far
    profile K FOLDER   as step K; worker 0 writes a TensorFlow profile of the step into FOLDER
    files K            as step K, which must be its first; files that one gradient passes: ["gan/model.py", ...]
"""

import contextlib
import inspect
import json
import math
import os
import pathlib
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

os.environ.setdefault("KERAS_BACKEND", "tensorflow")

TIMES = ("encode", "exchange", "decode", "reduction")
"""The order of `Channel.seconds`."""


class Measured(NamedTuple):
    """One variant in this process.

    step: runs it once, together with the steps of the other workers.
    phases: returns the milliseconds of the last step's phases. Called after the step, outside of the timing.
    describe: returns `declared_bytes`, the bytes that one worker sends per step, and further fields of the record.
    steps: training steps in one call of `step`; times are divided by it.
    """

    step: Callable[[], Any]
    phases: Callable[[], Mapping[str, float]]
    describe: Callable[[], Mapping[str, Any]]
    steps: int = 1


def serve(measured: Sequence[Measured], arguments: Mapping[str, Any]) -> None:
    """Answers requests until stdin ends.

    Args:
      measured: the variants.
      arguments: of this process, made by `Crew`. `answers` is the file descriptor of the pipe.
    """
    with os.fdopen(arguments["answers"], "w", encoding="utf-8") as answers:
        for line in sys.stdin:
            request, *parameters = line.strip().split(" ", 2)
            variant = measured[int(parameters[0])] if parameters else None
            if request == "step":
                answer = _timed(variant, arguments)
            elif request == "profile":
                with _profile(parameters[1]) if arguments["index"] == 0 else contextlib.nullcontext():
                    answer = _timed(variant, arguments)
            elif request == "files":
                answer = files_on_the_path(variant.step)
            elif request == "bytes":
                answer = sent_bytes(arguments["interface"])
            else:
                answer = [dict(variant.describe()) for variant in measured]
            print(json.dumps(answer), file=answers, flush=True)


def sent_bytes(interface: str) -> int:
    """Returns the bytes that an interface of this network namespace has sent, from /proc/net/dev.

    Raises:
      ValueError: there is no such interface.
    """
    for line in pathlib.Path("/proc/net/dev").read_text().splitlines():
        name, _, counters = line.partition(":")
        if name.strip() == interface:
            return int(counters.split()[8])
    raise ValueError(f"There is no interface {interface!r}.")


def exchange(arguments: Mapping[str, Any]) -> list[Measured]:
    """Returns the variants over one float32 vector [values], normal with standard deviation 1e-3, seeded by the index.

    `float32` and `float16` are TensorFlow's own all-reduce, `copy` is a copy of the vector by XLA, every other variant
    is a compressed channel. Every step returns one value from the compiled function.
    """
    import numpy as np
    import tensorflow as tf

    from dqgan_tf import CompressedStrategy

    strategy = CompressedStrategy()
    normal = np.random.RandomState(arguments["index"]).standard_normal(arguments["values"])
    flat = tf.Variable(1e-3 * normal.astype(np.float32))

    def on_replicas(replica_fn):
        return tf.function(lambda: strategy.run(replica_fn), autograph=False)

    def exact(name):
        def replica_fn():
            mean = tf.distribute.get_replica_context().all_reduce("mean", tf.cast(flat.read_value(), name))
            return tf.reduce_sum(tf.cast(mean, tf.float32)[:1])

        workers = strategy.num_replicas_in_sync
        sent = 2 * (workers - 1) * np.dtype(name).itemsize * arguments["values"] // workers  # a ring all-reduce
        return Measured(on_replicas(replica_fn), dict, lambda: {"declared_bytes": sent})

    def compressed(variant):
        channel = open_channel(strategy, variant, arguments["values"])
        shapes, weights = variant["shapes"], [flat]
        if len(shapes) > 1 and not hasattr(channel, "segments"):  # until 00c0494 a channel took flat vectors alone
            parts = tf.split(flat, [math.prod(shape) for shape in shapes])
            weights = [tf.Variable(tf.reshape(part, shape)) for part, shape in zip(parts, shapes, strict=True)]

        def replica_fn():
            context = tf.distribute.get_replica_context()
            means = context.all_reduce("mean", [weight.read_value() for weight in weights], options=channel.options)
            return tf.add_n([tf.reduce_sum(tf.reshape(mean, [-1])[:1]) for mean in means])

        def phases():
            return dict(zip(TIMES, 1e3 * channel.seconds.variables[0].numpy(), strict=True))

        def describe():
            return {"declared_bytes": channel.sent_bytes, "topology": channel.topology}

        return Measured(on_replicas(replica_fn), phases, describe)

    def measured(variant):
        if variant["name"] == "copy":
            copy = tf.function(lambda: flat.read_value() * 0.5, jit_compile=True, autograph=False)
            return Measured(copy, dict, lambda: {"declared_bytes": 0})
        return compressed(variant) if "spec" in variant else exact(variant["name"])

    return [measured(variant) for variant in arguments["variants"]]


def whole_step(arguments: Mapping[str, Any]) -> list[Measured]:
    """Returns the variants of a training step, on one repeated batch of synthetic samples.

    `plain` is `plain_steps`. Every other variant is a `DQGAN` with the settings of the variant, the `NetworkConfig`
    `arguments["network"]` and otherwise the default settings of the library. A variant with `local_steps` above 1 takes
    so many steps in one call.
    """
    import keras
    import numpy as np
    import tensorflow as tf

    import dqgan_tf
    from dqgan_tf.config import NetworkConfig
    from dqgan_tf.gan import networks

    keras.utils.set_random_seed(0)
    strategy = dqgan_tf.CompressedStrategy()
    shape, steps = tuple(arguments["data_shape"]), arguments["steps_per_call"]
    samples = np.random.RandomState(0).uniform(-1, 1, (arguments["batch_size"], *shape)).astype(np.float32)
    dataset = tf.data.Dataset.from_tensors(samples).repeat()

    def build_players():
        return networks.build(NetworkConfig(**arguments["network"]), shape, seed=0)

    def measured(variant):
        if variant["name"] == "plain":
            return Measured(plain_steps(build_players(), dataset, steps), dict, lambda: {"declared_bytes": 0}, steps)
        with strategy.scope():
            players = build_players()
            model = dqgan_tf.DQGAN(players.generator, players.discriminator, latent_dim=players.latent_dim)
        settings = {name: variant[name] for name in ("error_feedback", "topology", "packet_mb", "transport")}
        count = steps
        if variant.get("local_steps", 1) > 1:
            settings["local_steps"] = count = variant["local_steps"]  # a call is one round
        compression = renamed(dqgan_tf.CompressionConfig, compressor=variant["spec"], **settings)
        model.compile(dqgan_tf.OptimizerConfig(), compression, steps_per_execution=count)
        iterator = iter(strategy.distribute_datasets_from_function(lambda context: dataset))

        def phases():
            figures, prefix = model.drain_metrics(), "milliseconds/"
            return {key.removeprefix(prefix): value for key, value in figures.items() if key.startswith(prefix)}

        def describe():
            weights = players.generator.trainable_variables + players.discriminator.trainable_variables
            values = int(sum(np.prod(weight.shape) for weight in weights))
            channel = model.channel
            return {"declared_bytes": channel.sent_bytes, "topology": channel.topology, "values": values}

        return Measured(lambda: model.train_steps(iterator, count), phases, describe, count)

    return [measured(variant) for variant in arguments["variants"]]


def plain_steps(players, dataset, steps: int) -> Callable[[], None]:
    """Returns a function that takes `steps` steps of the same game without the library: one `tf.function` with Keras'
    Adam, the non-saturating loss with R1, an averaged generator.

    It evaluates D(real) once for the loss and R1, and both gradients at one point. Rates, betas and R1's weight are the
    library's defaults.
    """
    import keras
    import tensorflow as tf

    from dqgan_tf.config import LossConfig, OptimizerConfig, TrainConfig

    config, gamma, decay = OptimizerConfig(), LossConfig().r1_gamma, TrainConfig().ema_decay
    generator, discriminator = players.generator, players.discriminator
    weights = [network.trainable_variables for network in (generator, discriminator)]
    optimizers = [
        keras.optimizers.Adam(rate, config.beta_1, config.beta_2, config.epsilon)
        for rate in (config.learning_rate_g, config.learning_rate_d)
    ]
    for optimizer, variables in zip(optimizers, weights, strict=True):
        optimizer.build(variables)
    averages = [tf.Variable(tf.convert_to_tensor(variable)) for variable in weights[0]]
    iterator = iter(dataset)

    def step():
        real = next(iterator)
        latent = tf.random.normal([tf.shape(real)[0], players.latent_dim])
        with tf.GradientTape(persistent=True) as tape:
            fake = generator(latent, training=True)
            with tf.GradientTape() as inner:
                inner.watch(real)
                real_logits = discriminator(real, training=True)
            slopes = inner.gradient(real_logits, real)
            fake_logits = discriminator(fake, training=True)
            penalty = gamma / 2 * tf.reduce_mean(tf.reduce_sum(slopes**2, list(range(1, slopes.shape.rank))))
            generator_loss = tf.reduce_mean(tf.nn.softplus(-fake_logits))
            real_loss, fake_loss = tf.nn.softplus(-real_logits), tf.nn.softplus(fake_logits)
            discriminator_loss = tf.reduce_mean(real_loss) + tf.reduce_mean(fake_loss) + penalty
        gradients = [
            tape.gradient(loss, variables)
            for loss, variables in zip((generator_loss, discriminator_loss), weights, strict=True)
        ]
        for optimizer, gradient, variables in zip(optimizers, gradients, weights, strict=True):
            optimizer.apply(gradient, variables)
        for average, variable in zip(averages, weights[0], strict=True):
            average.assign(decay * average + (1 - decay) * variable)

    @tf.function
    def run():
        for _ in tf.range(steps):
            step()

    return run


def classifier(arguments: Mapping[str, Any]) -> list[Measured]:
    """Returns the variants of a classifier's training step, on one repeated batch of synthetic samples.

    The step is a loop of one's own, because `fit` of Keras 3.15 does not run under MultiWorkerMirroredStrategy:
    `GradientTape` and the optimizer's `apply` inside `strategy.run`. With `arguments["stock"]`, the strategy is
    TensorFlow's and the variants are `float32`, Keras' own reduction of gradients, and `float16`, which casts them
    around `all_reduce`. Otherwise a variant has the arguments of `dqgan_tf.compressed`: compression and where.
    """
    import keras
    import numpy as np
    import tensorflow as tf

    import dqgan_tf
    from benchmarks import keras_quality
    from dqgan_tf.private_keras import OptimizerSteps

    keras.utils.set_random_seed(0)
    strategy = tf.distribute.MultiWorkerMirroredStrategy() if arguments["stock"] else dqgan_tf.CompressedStrategy()
    workers, steps = strategy.num_replicas_in_sync, arguments["steps_per_call"]
    optimizers = {
        "sgd": lambda: keras.optimizers.SGD(0.01, momentum=0.9),
        "adam": lambda: keras.optimizers.Adam(0.001),
    }

    def measured(variant):
        with strategy.scope():
            model = keras_quality.TASKS[arguments["task"]].network()
            optimizer = optimizers[arguments["optimizer"]]()
            if not arguments["stock"]:
                dqgan_tf.compressed(optimizer, variant["compression"], where=variant["where"])
            optimizer.build(model.trainable_variables)
        if variant["name"] == "float16":
            OptimizerSteps(optimizer)  # takes the reduction out of `apply`
        random = np.random.RandomState(arguments["index"])
        x = tf.constant(random.randint(0, 256, (arguments["batch_size"], *model.input_shape[1:])).astype(np.uint8))
        y = tf.constant(random.randint(0, 10, arguments["batch_size"]))
        values = int(sum(np.prod(weight.shape) for weight in model.trainable_variables))
        loss_of = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

        def replica_step():
            with tf.GradientTape() as tape:
                loss = loss_of(y, model(x, training=True)) / workers
            gradients = tape.gradient(loss, model.trainable_variables)
            if variant["name"] == "float16":
                halves = [tf.cast(gradient, tf.float16) for gradient in gradients]
                sums = tf.distribute.get_replica_context().all_reduce("sum", halves)
                gradients = [tf.cast(part, tf.float32) for part in sums]
            optimizer.apply(gradients, model.trainable_variables)

        def run():
            for _ in tf.range(steps):
                strategy.run(replica_step)

        def channel():
            return next(iter(optimizer.compression.channels.values()))

        def phases():
            if arguments["stock"]:
                return {}
            return dict(zip(TIMES, 1e3 * channel().seconds.variables[0].numpy(), strict=True))

        def describe():
            if not arguments["stock"]:
                return {"declared_bytes": channel().sent_bytes, "topology": channel().topology, "values": values}
            size = 2 if variant["name"] == "float16" else 4
            return {"declared_bytes": 2 * (workers - 1) * size * values // workers, "values": values}

        return Measured(tf.function(run), phases, describe, steps)

    return [measured(variant) for variant in arguments["variants"]]


def vector(spec: str, shapes: Sequence[Sequence[int]]):
    """Returns the library's description of one vector that consists of weights of these shapes."""
    from dqgan_tf import compressors

    shapes, compressor = tuple(map(tuple, shapes)), compressors.get(spec)
    try:
        from dqgan_tf.distribute.layout import Vector
    except ImportError:  # until 00c0494
        from dqgan_tf.distribute.segment import Segment

        return Segment("vector", sum(map(math.prod, shapes)), compressor, shapes)
    return Vector("vector", compressor, shapes, tuple(range(len(shapes))))


def open_channel(strategy, variant: Mapping[str, Any], values: int):
    """Returns the channel of a variant over `values` values."""
    whole = vector(variant["spec"], variant["shapes"])
    if whole.size != values:
        raise ValueError(f"The shapes of {variant['name']!r} must hold {values} values: {variant['shapes']}")
    settings = {name: variant[name] for name in ("error_feedback", "topology", "packet_mb")}
    return renamed(strategy.open_channel, variant["name"], [whole], **settings)


def renamed(function: Callable, *arguments: Any, **settings: Any) -> Any:
    """Calls `function` with the settings under the names that it knows, today's or those of older checkouts."""
    older = {"packet_mb": "bucket_mb", "transport": "communication"}  # until 00c0494
    known = inspect.signature(function).parameters
    return function(
        *arguments, **{key if key in known else older.get(key, key): value for key, value in settings.items()}
    )


def files_on_the_path(step: Callable[[], Any]) -> list[str]:
    """Takes one step under a tracer; returns the files of dqgan_tf that one gradient passes, see `structure`.

    The step must be the variant's first: functions are seen while TensorFlow traces them. Functions that TensorFlow
    calls from threads of its own (`tf.numpy_function`, `tf.py_function`) are seen while they run.

    Raises:
      RuntimeError: the two functions that begin and end the path were not called.
    """
    import tensorflow as tf

    import dqgan_tf

    library = os.path.join(os.path.dirname(dqgan_tf.__file__), "")
    # The path begins when the first returns and ends when the last does, whose name was once `_replica_step`.
    first, last = "simultaneous_gradients", ("train_step", "_replica_step")
    files, returned, on_the_path = set(), set(), False

    def see(frame, event, argument):
        nonlocal on_the_path
        path, function = frame.f_code.co_filename, frame.f_code.co_name
        if not path.startswith(library):
            return
        if event == "return" and function in (first, *last):
            on_the_path = function == first
            returned.add(function)
        if on_the_path and (event == "call" or function == first):
            files.add(path.removeprefix(library))

    def see_all(frame, event, argument):
        if event == "call" and frame.f_code.co_filename.startswith(library):
            files.add(frame.f_code.co_filename.removeprefix(library))

    def seen_when_run(make_operation):
        def make(function, *arguments, **settings):
            def run(*values):
                sys.setprofile(see_all)
                try:
                    return function(*values)
                finally:
                    sys.setprofile(None)

            return make_operation(run, *arguments, **settings)

        return make

    operations = tf.numpy_function, tf.py_function
    tf.numpy_function, tf.py_function = map(seen_when_run, operations)
    threading.setprofile(see)  # replicas run in threads of tf.distribute
    sys.setprofile(see)
    try:
        step()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
        tf.numpy_function, tf.py_function = operations
    if first not in returned or not returned & set(last):
        raise RuntimeError(
            f"The step must call {first} and {last[0]}, which begin and end the path. It called {returned}."
        )
    return sorted(files)


def _profile(folder):
    import tensorflow as tf

    return tf.profiler.experimental.Profile(folder)


def _timed(measured, arguments):
    start = time.perf_counter()
    measured.step()
    if arguments.get("device") == "gpu":
        import tensorflow as tf

        tf.test.experimental.sync_devices()  # a call returns before a GPU is done
    total = 1e3 * (time.perf_counter() - start) / measured.steps
    return {"total": total, **measured.phases()}


def _use_one_gpu():
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        raise RuntimeError("TensorFlow sees no GPU; leave --device=gpu out.")
    tf.config.set_visible_devices(gpus[0], "GPU")  # a strategy would make a replica of each


def main(text: str) -> None:
    """Builds the variants of the program and serves them; `text` is the JSON object of `Crew`."""
    arguments = json.loads(text)
    if arguments.get("device") == "gpu":
        _use_one_gpu()
    programs = {"exchange": exchange, "whole_step": whole_step, "classifier": classifier}
    serve(programs[arguments["program"]](arguments), arguments)


if __name__ == "__main__":
    main(sys.argv[1])
