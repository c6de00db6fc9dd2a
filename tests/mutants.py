"""Lines of the library broken on purpose, and the test that catches each.

    python -m tests.mutants [--only TEXT] [--output results/house/mutants.md]

Each mutant is written into a copy of the checkout, and the tests that are named with it run there until one fails: the
quick ones, then the slow ones, which the table marks. A mutant that no test catches is a survivor: exit code 1.
"""

import argparse
import dataclasses
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
_COPIED = ("benchmarks", "dqgan_tf", "flags", "tests", "trainers", "pyproject.toml", "setup.py", "README.md", "docs")
_DEADLINE_SECONDS = 900
_NO_TESTS = 5  # pytest's exit code where all tests are deselected


@dataclasses.dataclass(frozen=True)
class Mutant:
    """One broken line.

    path: of the file, from the root.
    old: text that occurs once in the file.
    new: text that replaces it.
    fault: what the new text does wrong.
    tests: files that run until one test fails.
    """

    path: str
    old: str
    new: str
    fault: str
    tests: tuple[str, ...]


def _mutant(path, old, new, fault, *tests):
    return Mutant(f"dqgan_tf/{path}", old, new, fault, tuple(f"tests/{test}" for test in tests))


MUTANTS = (
    # Evaluations beside and inside a run.
    _mutant(
        "training/evaluator.py",
        "self._take(pending[-1])",
        "self._take(pending[0])",
        "the evaluator takes the oldest checkpoint first",
        "training/test_evaluator.py",
    ),
    _mutant(
        "training/evaluator.py",
        "return steps is not None and steps == last >= self._config.train.steps",
        "return steps is not None and steps == last",
        "the evaluator of a run that is made longer ends at its old end",
        "training/test_evaluator.py",
    ),
    _mutant(
        "training/evaluator.py",
        "            self._last_seen = now\n",
        "",
        "the evaluator gives a living job up after start_timeout",
        "training/test_evaluator.py",
    ),
    _mutant(
        "training/checkpoint.py",
        "return value < best_so_far.value if is_distance else value > best_so_far.value",
        "return value > best_so_far.value",
        "the largest distance is the best",
        "training/test_checkpoint.py",
    ),
    _mutant(
        "training/loop.py",
        "self._interrupts = self.received is None",
        "self._interrupts = False",
        "a signal waits for the end of an evaluation",
        "training/test_loop.py",
    ),
    _mutant(
        "training/folder_lock.py",
        "[0] != fcntl.F_UNLCK",
        "[0] == fcntl.F_UNLCK",
        "a free lock is taken for a held one",
        "training/test_folder_lock.py",
    ),
    # Image sets of one's own, shards, figures of images, samples.
    _mutant(
        "data/files.py",
        ", key=lambda path: path.name)",
        ", key=lambda path: path.stat().st_mtime_ns)",
        "images of a folder in the order of their times",
        "data/test_files.py",
    ),
    _mutant(
        "data/files.py",
        "if all(path.name.isdecimal() for path in classes):",
        "if False:",
        "class folders 2 and 10 in the order of their texts",
        "data/test_files.py",
    ),
    _mutant(
        "private_keras.py",
        "_batch_spec(iterator) or first_local(",
        "first_local(",
        "the first batch of a generator is lost to the build of the model",
        "keras/test_fit.py",
    ),
    _mutant(
        "keras/nested.py",
        "for layer in reversed(flat_layers(model))",
        "for layer in [model]",
        "optimizers of compiled parts of a model are not found",
        "keras/test_fit.py",
    ),
    _mutant(
        "distribute/strategy.py",
        "dict(agreed or {}) | ",
        "",
        "workers do not compare the settings of their optimizers",
        "distributed/test_agreement.py",
    ),
    _mutant(
        "distribute/transport/collectives.py",
        "itertools.count(number << 32)",
        "itertools.count()",
        "channels share the numbers of their messages",
        "distributed/transport/test_sockets.py",
    ),
    _mutant(
        "data/files.py",
        "key=lambda i: (keys[i], images[i].shape, 0 if labels is None else labels[i])",
        "key=lambda i: 0",
        "images of a function in the order in which it returns them",
        "data/test_files.py",
    ),
    _mutant(
        "data/files.py",
        "(127.5, 127.5) if low < 0 else (255.0, 0.0)",
        "(127.5, 127.5)",
        "floats in [0, 1] taken for [-1, 1]",
        "data/test_files.py",
    ),
    _mutant(
        "private_keras.py",
        "_as_array, model.predict_step((x,))",
        "_as_array, own(x)",
        "predict_on_batch returns each row once per replica",
        "keras/test_fit.py",
    ),
    _mutant(
        "private_keras.py",
        "        repairs.check(model)\n",
        "",
        "fit with steps_per_execution=-3 trains nothing and says nothing",
        "keras/test_fit.py",
    ),
    _mutant(
        "keras/fit.py",
        "[*model.trainable_variables, *self._statistics]",
        "model.trainable_variables",
        "all replicas change the running statistics of one layer of another scope",
        "keras/test_fit.py",
    ),
    _mutant(
        "distribute/strategy.py",
        "if not self.extended.variable_created_in_scope(variable.value):",
        "if False:",
        "replicas add up their updates of a weight of another scope",
        "keras/test_fit.py",
    ),
    _mutant(
        "keras/fit.py",
        "if optimizers_of(model) and not leaves:",
        "if False:",
        "a loaded model trains without compression, and nothing says so",
        "keras/test_fit.py",
    ),
    _mutant(
        "data/files.py",
        "if _UNDERSHOOT < low < 0:",
        "if False:",
        "floats in [0, 1] that were resampled taken for [-1, 1]",
        "data/test_files.py",
    ),
    _mutant(
        "data/files.py",
        "return width is not None and (height is None or height == width == channels)",
        "return False",
        "batches of grey images taken for images of many channels",
        "data/test_files.py",
    ),
    _mutant(
        "data/images.py",
        "if low < 0 or high >= num_examples:",
        "if low < 0:",
        "a label of 10^9 makes 10^9 classes",
        "data/test_files.py",
    ),
    _mutant(
        "data/images.py",
        "        used += counts\n",
        "",
        "dirichlet: replicas share images",
        "data/test_shards.py",
    ),
    _mutant(
        "data/images.py",
        "tf.random.experimental.stateless_fold_in(tf.constant([seed, _SHARDS_STREAM], tf.int64), replica)",
        "tf.constant([seed, _SHARDS_STREAM], tf.int64)",
        "all replicas permute their parts alike",
        "data/test_shards.py",
    ),
    _mutant(
        "data/images.py",
        "alpha * prior, prior, size",
        "alpha * np.ones(len(prior)), prior, size",
        "dirichlet: ALPHA for every class, not shared among them",
        "data/test_shards.py",
    ),
    _mutant(
        "evaluation/distances.py",
        "squares[rows, first + rows] = np.inf",
        "squares[rows, rows] = np.inf",
        "a member counts as its own neighbour",
        "evaluation/test_distances.py",
    ),
    _mutant(
        "evaluation/report.py",
        "num_real == num_fake else",
        "True else",
        "the number of real images is not in the name",
        "evaluation/test_report.py",
    ),
    _mutant(
        "training/export.py",
        "run.model.averaged_generator()",
        "run.model.generator",
        "an export holds the raw weights",
        "training/test_export.py",
    ),
    _mutant(
        "training/samples.py",
        "2 * (rows - rows[0]) + end)",
        "rows - rows[0] + end)",
        "rows of an interpolation share their ends",
        "training/test_export.py",
    ),
    # Habits of Keras users.
    _mutant(
        "gan/gradients.py",
        "share = tf.cast(end - start, tf.float32) / tf.cast(size, tf.float32)",
        "share = 1.0 / tf.cast(parts, tf.float32)",
        "micro-batches of other sizes weigh the same",
        "gan/test_gradients.py",
    ),
    _mutant(
        "gan/gradients.py",
        "return index + 1, sums, at_point.non_trainable\n",
        "return index + 1, sums, non_trainable\n",
        "a micro-batch does not see the statistics of the one before",
        "gan/test_gradients.py",
    ),
    _mutant(
        "gan/gradients.py",
        "fake_logits, values_d, losses_fake = evaluate(discriminator, weights_d, values_d, fake)",
        "labels = None if labels is None else tf.zeros_like(labels)\n"
        "        fake_logits, values_d, losses_fake = evaluate(discriminator, weights_d, values_d, fake)",
        "the discriminator gets other labels with fake samples",
        "gan/test_gradients.py",
    ),
    _mutant(
        "gan/networks.py",
        "keras.ops.sum(x, axis=(1, 2))",
        "keras.ops.mean(x, axis=(1, 2))",
        "the projection averages pixels",
        "gan/test_networks.py",
    ),
    _mutant(
        "gan/gradients.py",
        "outputs = network(inputs, training=training)",
        "outputs = network.call(inputs)",
        "subclassed networks train in inference mode",
        "gan/test_keras_habits.py",
    ),
    _mutant(
        "gan/fit.py",
        "self.step.value, labels, training=False)",
        "self.step.value, labels)",
        "an evaluation takes batch statistics",
        "gan/test_keras_habits.py",
    ),
    _mutant(
        "training/loop.py",
        "self._evaluate({} if is_flushed else self._reporter.recorded_evaluation(step))",
        "pass",
        "an evaluation that a signal ended is never made",
        "training/test_loop.py",
    ),
    _mutant(
        "keras/fit.py",
        "with self._zero_gradients_without_samples():\n            done",
        "if True:\n            done",
        "a plain optimizer learns from a sample of zeros",
        "keras/test_fit.py",
    ),
    _mutant(
        "keras/fit.py",
        "if skipped and not taken:",
        "if skipped:",
        "a warning for every epoch with a skipped step",
        "keras/test_skipped_steps.py",
    ),
    # Figures that users look at.
    _mutant(
        "gan/step_metrics.py",
        "        sums.assign(tf.zeros_like(value))\n",
        "",
        "metrics never reset",
        "gan/test_step_metrics.py",
    ),
    _mutant(
        "gan/step_metrics.py",
        "{name: total[name] / accepted for name in _SCALARS}",
        "{name: total[name] for name in _SCALARS}",
        "losses not divided by the number of steps",
        "gan/test_step_metrics.py",
    ),
    _mutant(
        "gan/step_metrics.py",
        "math.sqrt(residual / max(update, 1e-38))",
        "math.sqrt(error / max(update, 1e-38))",
        "|e|/|p| from the wrong squared norm",
        "gan/test_step_metrics.py",
    ),
    # Error feedback and exchange.
    _mutant(
        "error_feedback.py",
        "p = update if residual is None else update + residual",
        "p = update",
        "the residual is not added to the update",
        "test_error_feedback.py",
    ),
    _mutant(
        "error_feedback.py",
        "e, blocks.block_seed(seed, index))",
        "e, blocks.block_seed(seed, 0))",
        "all blocks draw the same random numbers",
        "test_error_feedback.py",
        "distributed/test_packets.py",
    ),
    _mutant(
        "error_feedback.py",
        "residuals = blocks.write(residuals, error, start)",
        "residuals = blocks.write(residuals, error, 0)",
        "residuals of all blocks are written over the first",
        "test_error_feedback.py",
    ),
    _mutant(
        "distribute/channel.py",
        "(self._streams[replica] * _STREAM_FACTOR, -1)",
        "(_STREAM_FACTOR, -1)",
        "all replicas share one stream of stochastic rounding",
        "distributed/test_channel.py",
    ),
    _mutant(
        "distribute/channel.py",
        "tf.cond(accepted, commit, lambda: accepted)",
        "commit()",
        "a skipped step changes the residuals",
        "distributed/test_channel.py",
        "gan/test_overflow.py",
    ),
    _mutant(
        "distribute/channel.py",
        "calls.assign_add(1)",
        "calls.assign_add(0)",
        "every step draws the same random numbers",
        "distributed/test_channel.py",
    ),
    _mutant(
        "distribute/pipeline.py",
        "with tf.control_dependencies(encoded):",
        "with tf.control_dependencies([]):",
        "encodings are not chained",
        "distributed/test_pipeline.py",
    ),
    _mutant(
        "distribute/pipeline.py",
        "tf.maximum(self._available[index], self._ended[phase])",
        "self._available[index]",
        "a phase counts the time in which it waits for another packet twice",
        "distributed/test_pipeline.py",
    ),
    _mutant(
        "training/loop.py",
        'figures["milliseconds/compute"] + figures["milliseconds/reduction"]',
        'figures["milliseconds/compute"]',
        "the parts of a step add up to more than the step",
        "training/test_loop.py",
    ),
    _mutant(
        "distribute/rendezvous.py",
        "if not hosts or any(map(_is_own, hosts)):",
        "if True:",
        "a worker listens for an address of another machine",
        "distributed/test_rendezvous.py",
    ),
    _mutant(
        "distribute/topologies/packet.py",
        "blocks.block_seed(seed, start // block)",
        "blocks.block_seed(seed, 0)",
        "every slice draws the random numbers of the first",
        "distributed/test_packets.py",
    ),
    _mutant(
        "distribute/topologies/packet.py",
        "            variable.assign(new)\n",
        "",
        "the new residual is not stored",
        "distributed/test_packets.py",
        "distributed/test_channel.py",
    ),
    _mutant(
        "gan/model.py",
        "        self._averaged.flush_residuals(mean)\n",
        "",
        "a flush leaves the averaged generator behind",
        "gan/test_identities.py",
    ),
    _mutant(
        "distribute/topologies/choice.py",
        "if owners > 1 and vector.mean_compressor is not None:",
        "if False:",
        "slices are cut inside of buckets of the mean",
        "distributed/test_packets.py",
    ),
    _mutant(
        "distribute/topologies/two_step.py",
        "errors.append(group_size * (mean",
        "errors.append((mean",
        "the owner's error enters the residual once, not M times",
        "distributed/test_packets.py",
        "gan/test_two_step_against_oracle.py",
    ),
    _mutant(
        "distribute/topologies/two_step.py",
        "own.append(dropped * (1.0 / len(received)))",
        "own.append(dropped)",
        "what the owner's packet dropped enters the mean M times",
        "gan/test_two_step_against_oracle.py",
    ),
    _mutant(
        "distribute/topologies/two_step.py",
        "residual = shards.with_shard(shards.pad(residual), error, rank)[: key.size]",
        "residual += shards.with_shard(tf.zeros_like(shards.pad(residual)), error, rank)[: key.size]",
        "what the owner adds to the mean stays in its residual too",
        "gan/test_two_step_against_oracle.py",
    ),
    _mutant(
        "distribute/topologies/two_step.py",
        "stays = (shards.positions(rank) < key.size) | ~tf.math.is_finite(mean)",
        "stays = tf.ones_like(mean, tf.bool)",
        "padding enters the scales of the second encoding",
        "distributed/test_packets.py",
        "distributed/test_topologies.py",
    ),
    _mutant(
        "distribute/layout.py",
        "return vector.order, -vector.weights[first_weight]",
        "return vector.order, vector.weights[first_weight]",
        "packets leave in the order of the forward pass",
        "distributed/test_layout.py",
    ),
    _mutant(
        "distribute/layout.py",
        "if size - starts[-1] < multiple:",
        "if size - starts[-1] < 0:",
        "the remainder of a vector is a slice of its own",
        "distributed/test_layout.py",
    ),
    _mutant(
        "distribute/transport/connection.py",
        "silent_ticks + 1 if signs == self._signs_of_life else 0",
        "silent_ticks + 1",
        "a slow worker counts as dead",
        "distributed/transport/test_connection.py",
    ),
    _mutant(
        "distribute/transport/connection.py",
        "if message.nbytes != nbytes:",
        "if False:",
        "a message of another length is accepted",
        "distributed/transport/test_connection.py",
    ),
    _mutant(
        "distribute/transport/connection.py",
        "min(timeout_seconds, silence_seconds)",
        "timeout_seconds",
        "a worker that freezes before it calls is waited for longer than the silence",
        "distributed/transport/test_connect.py",
    ),
    _mutant(
        "distribute/rendezvous.py",
        "if time.monotonic() > end:\n            print(",
        "if False:\n            print(",
        "TensorFlow's connecting has no limit",
        "distributed/test_start.py",
    ),
    _mutant(
        "distribute/rendezvous.py",
        "if answer == token:",
        "if True:",
        "an address that leads to another process is accepted",
        "distributed/test_rendezvous.py",
    ),
    _mutant(
        "distribute/rendezvous.py",
        "if _is_proof(message, _proof(self._token, worker, mistake)):",
        "if True:",
        "a stranger can say that the workers cannot meet",
        "distributed/test_rendezvous.py",
    ),
    _mutant(
        "distribute/rendezvous.py",
        "if not _is_closed(connection):  # else",
        "if True:  # else",
        "a worker that dies when it reports ends the others with code 2",
        "distributed/test_rendezvous.py",
    ),
    # The step.
    _mutant(
        "optimizers.py",
        "return weights - (learning_rate * direction + residual)",
        "return weights - learning_rate * direction",
        "the residual is left out of the half step",
        "gan/test_against_oracle.py",
    ),
    _mutant(
        "optimizers.py",
        'second = tf.maximum(slots["averaged"], second)',
        'second = slots["averaged"]',
        "`guarded` takes the average alone",
        "optimizers",
        "gan/test_against_oracle.py",
    ),
    _mutant(
        "optimizers.py",
        'slots["m"] * _correction(self.beta_1, t)',
        'slots["m"] * _correction(self.beta_2, t)',
        "the first moment is corrected by the second's factor",
        "optimizers",
        "gan/test_against_oracle.py",
    ),
    _mutant(
        "gan/player.py",
        "variable.assign(weights[index])\n            self._previous[index].local().assign(proposal.directions[index])",
        "variable.assign(weights[index])",
        "the last direction is not kept",
        "gan/test_against_oracle.py",
    ),
    _mutant(
        "gan/player.py",
        "finite &= tf.math.is_finite(state)",
        "pass",
        "a moment that overflows is accepted",
        "gan/test_overflow.py",
    ),
    _mutant(
        "gan/player.py",
        "(1.0 + t) / (10.0 + t)",
        "(2.0 + t) / (10.0 + t)",
        "another decay of the averaged generator in early steps",
        "gan/test_against_oracle.py",
        "gan/test_model.py",
    ),
    _mutant(
        "gan/player.py",
        "moves = [2.0 * u - before for",
        "moves = [u for",
        "an optimistic step is a plain one",
        "gan/test_methods.py",
    ),
    _mutant(
        "gan/player.py",
        'slot["estimate"] + mean for',
        "mean for",
        "EF21 applies the change alone",
        "gan/test_methods.py",
    ),
    _mutant(
        "gan/player.py",
        "tf.where(t > 1.0, before, u)",
        "before",
        "the first optimistic step is twice as long",
        "gan/test_methods.py",
    ),
    _mutant(
        "gan/player.py",
        "if self._anchors and not keeps_anchors:",
        "if self._anchors:",
        "an extragradient step starts from the point it looks ahead to",
        "gan/test_methods.py",
    ),
    _mutant(
        "gan/player.py",
        "bounded & (tf.abs(gradient) < _LARGEST_GRADIENT)",
        "bounded",
        "a gradient whose square overflows is exchanged",
        "gan/test_methods.py",
    ),
    _mutant(
        "gan/model.py",
        "if len(values) > 1:",
        "if len(values) > 2:",
        "one player moves without the other, whose update is not finite",
        "gan/test_methods.py",
    ),
    _mutant(
        "gan/model.py",
        "return [tf.cast(self._generator_moves.local().read_value() + 1, tf.float32), accepted]",
        "return [accepted, accepted]",
        "the generator's Adam counts the discriminator's steps",
        "gan/test_methods.py",
    ),
    _mutant(
        "gan/state.py",
        '"generator_calls": self._channels[0].calls, ',
        "",
        "the generator's counter of random numbers is not saved",
        "gan/test_methods.py",
    ),
    _mutant(
        "gan/model.py",
        "if kind.generator and not kind.looks_ahead:",
        "if kind.generator:",
        "the averaged generator takes up points that are looked ahead to",
        "gan/test_methods.py",
    ),
    _mutant(
        "gan/step_metrics.py",
        'total[f"gradient_energy/{player}"] / moves',
        'total[f"gradient_energy/{player}"] / accepted',
        "the generator's gradient is a mean over steps in which it rests",
        "gan/test_methods.py",
    ),
    _mutant(
        "config.py",
        "if received not in (value, settings()[key].default):",
        "if False:",
        "a setting that contradicts the method is overwritten",
        "flags/test_algorithms.py",
    ),
    _mutant(
        "gan/gradients.py",
        "evaluate(discriminator, weights_d, values_d, fake)",
        "evaluate(discriminator, weights_d, non_trainable[1], fake)",
        "statistics of the real samples are dropped",
        "gan/test_gradients.py",
    ),
    _mutant(
        "gan/losses.py",
        "0.5 * gamma * tf.reduce_mean",
        "gamma * tf.reduce_mean",
        "R1 without the factor 1/2",
        "gan/test_losses.py",
    ),
    _mutant(
        "gan/steps.py",
        "exact=step < start_step",
        "exact=step <= start_step",
        "compression starts a step late",
        "gan/test_compression_settings.py",
        "gan/test_model.py",
    ),
    _mutant(
        "gan/model.py",
        "min(steps[-1], last_exact) - steps[0] + 1",
        "min(steps[-1], last_exact) - steps[0]",
        "the bytes before compression starts lack a step",
        "gan/test_compression_settings.py",
    ),
    _mutant(
        "training/loop.py",
        "range(self._logged + 1, step + 1), step",
        "range(1, step + 1), step",
        "the bytes of a log line are those of the whole run",
        "training/test_loop.py",
    ),
    # Compressors.
    _mutant(
        "compressors/sign.py",
        "d = np.array([width] * (count - 1) + [n - width * (count - 1)], np.float32)",
        "d = np.array([width] * count, np.float32)",
        "the last bucket's mean counts values that do not exist",
        "compressors/test_sign.py",
    ),
    _mutant(
        "compressors/packing.py",
        "shifted = tf.bitwise.right_shift(codes, low) if low else codes",
        "shifted = codes",
        "all planes hold the lowest bits",
        "compressors/test_packing.py",
    ),
    _mutant(
        "compressors/linear.py",
        "dropped = self.bits - 1\n",
        "dropped = 0\n",
        "steps are not rounded up, so products are not exact",
        "compressors/test_linear.py",
    ),
    # Local steps and shifts.
    _mutant(
        "distribute/topologies/packet.py",
        "(blocks.whole(update) + (residual - shift) - new_residual)",
        "(blocks.whole(update) - new_residual)",
        "the shift learns the updates instead of what has left the replica",
        "gan/test_local_steps.py",
    ),
    _mutant(
        "distribute/channel.py",
        "mean if old is None or weight in self._exact else old + mean",
        "mean",
        "the mean shift is not added to the mean",
        "gan/test_local_steps.py",
        "gan/test_identities.py",
    ),
    _mutant(
        "distribute/topologies/packet.py",
        "return shift + rate * (blocks.whole(update) - shift)",
        "return shift",
        "weights that are not compressed learn no shift",
        "distributed/test_channel.py",
    ),
    _mutant(
        "gan/player.py",
        "residuals = [_add(e, m) for",
        "residuals = [e for",
        "every local step starts from the point of the first",
        "gan/test_local_steps.py",
    ),
    _mutant(
        "gan/player.py",
        "total.local().assign_add(proposal.updates[index])",
        "total.local().assign_add(1.000001 * proposal.updates[index])",
        "a round of one step is not the step",
        "gan/test_local_steps.py",
    ),
    _mutant(
        "gan/player.py",
        "for index, total in enumerate(self._round_updates):\n",
        "for index, total in enumerate(self._round_updates):\n"
        "            self.weights[index].assign(self.weight_values()[index] - proposal.updates[index])\n",
        "local steps move the mirrored weights",
        "gan/test_local_steps.py",
    ),
    _mutant(
        "gan/rounds.py",
        "tf.cond(accepted, accept, skip)",
        "tf.cond(accepted, accept, lambda: accepted)",
        "a skipped round keeps its moments",
        "gan/test_local_steps.py",
    ),
    _mutant(
        "gan/rounds.py",
        "missing = 1.0 - length / self.compression_config.local_steps",
        "missing = 0.0 * length",
        "a round that is cut short takes the shift of a whole one",
        "gan/test_local_steps.py",
    ),
    _mutant(
        "gan/rounds.py",
        "@tf.function(jit_compile=True, autograph=False)",
        "@tf.function(autograph=False)",
        "the graph optimiser orders a sum that all replicas share",
        "gan/test_local_steps.py",
    ),
    _mutant(
        "distribute/residual_sample.py",
        "tf.nn.relu(mean_square - square)",
        "tf.nn.relu(mean_square)",
        "the spread is the size of the residuals",
        "gan/test_local_steps.py",
    ),
    _mutant(
        "keras/fit.py",
        "squares = [sample * sample for sample in samples]",
        "squares = samples",
        "the spread of a Keras model comes from no squares",
        "keras/test_fit.py",
    ),
    # Runs.
    _mutant(
        "training/checkpoint.py",
        "        if actual != saved:",
        "        if actual['bytes'] != saved.get('bytes'):",
        "a file is not compared by its sha256",
        "training/test_checkpoint_damage.py",
        "training/test_checkpoint.py",
    ),
    _mutant(
        "distribute/replica_local.py",
        "return np.mean(values, axis=0, dtype=np.float64).astype(values[0].dtype)",
        "return np.sum(values, axis=0, dtype=np.float64).astype(values[0].dtype)",
        "another number of replicas starts from the sum of the residuals",
        "training/test_checkpoint.py",
    ),
    _mutant(
        "training/checkpoint.py",
        'free.remove("train.steps")',
        "pass",
        "the length of a schedule may change on resuming",
        "training/test_checkpoint.py",
    ),
    _mutant(
        "training/launcher.py",
        "failed = [(code == EXIT_PEER_LOST, index)",
        "failed = [(False, index)",
        "the launcher blames a worker that lost another",
        "training/test_launcher.py",
    ),
    # DQGAN as a Keras model.
    _mutant(
        "gan/inputs.py",
        'strategy.check_scope(network.weights, f"the {name}")',
        "pass",
        "networks that were built outside of the scope train with the moves of two replicas added up",
        "gan/test_keras_habits.py",
    ),
    _mutant(
        "gan/model.py",
        "        real = inputs.of_shape(real, shape)\n",
        "",
        "samples of another shape than the generator draws are trained on",
        "gan/test_keras_habits.py",
    ),
    _mutant(
        "gan/inputs.py",
        " & tf.equal(values, tf.floor(values))",
        "",
        "labels with a fraction are cut off",
        "gan/test_keras_habits.py",
    ),
    _mutant(
        "gan/state.py",
        "isinstance(weights, _Weights) and weights.model() is self",
        "False",
        "the best weights come back without their average",
        "gan/test_keras_habits.py",
    ),
    _mutant(
        "gan/fit.py",
        "        self._refuse(y=y, sample_weight=sample_weight)\n        return super().evaluate",
        "        return super().evaluate",
        "evaluate ignores sample weights",
        "gan/test_keras_habits.py",
    ),
    _mutant(
        "gan/fit.py",
        "        if self.run_eagerly or self.jit_compile:",
        "        if False:",
        "run_eagerly has no effect after compile",
        "gan/test_keras_habits.py",
    ),
    _mutant(
        "gan/state.py",
        ' | {"ema_decay": self._settings["ema_decay"]}',
        "",
        "a checkpoint of another average is continued",
        "keras/test_checkpoint.py",
    ),
    _mutant(
        "keras/state.py",
        'saved_settings = {"loss": settings["loss"]} | saved_settings',
        'saved_settings = saved_settings | {"loss": settings["loss"]}',
        "a checkpoint of another loss is continued",
        "keras/test_checkpoint.py",
    ),
    # Any Keras model.
    _mutant(
        "keras/optimizer.py",
        "scaled = [gradient * tf.cast(replicas, gradient.dtype) for gradient in self._steps.clipped(gradients)]",
        "scaled = list(self._steps.clipped(gradients))",
        "gradients of 1/M of the loss reach the channel",
        "keras/test_against_oracle.py",
    ),
    _mutant(
        "keras/optimizer.py",
        "        for variable, weight in zip(variables, weights, strict=True):\n"
        "            variable.assign(weight)\n"
        "        return updates",
        "        return updates",
        "each replica keeps its own step",
        "keras/test_skipped_steps.py",
    ),
    _mutant(
        "keras/optimizer.py",
        "            for variable, value in zip(self._steps.slots() if slots else [], slots, strict=True):\n"
        "                variable.assign(value)",
        "            del slots",
        "a skipped step keeps the slots of a bad gradient",
        "keras/test_skipped_steps.py",
    ),
    _mutant(
        "keras/optimizer.py",
        "tf.cond(first, lambda",
        "tf.cond(first | True, lambda",
        "a skipped step is taken",
        "keras/test_skipped_steps.py",
    ),
    _mutant(
        "keras/local_point.py",
        "assign(update if residual is None else update + residual)",
        "assign(update)",
        "the half step of an optimizer lacks the residual",
        "keras/test_against_oracle.py",
    ),
    _mutant(
        "keras/local_point.py",
        "            slot.assign(before.local().read_value())\n",
        "            pass\n",
        "a skipped round keeps the moments of a bad gradient",
        "keras/test_skipped_steps.py",
    ),
    _mutant(
        "keras/nested.py",
        'divisor = tf.where(finite, scale, float("nan"))',
        "divisor = scale",
        "clipping hides an overflow",
        "keras/test_skipped_steps.py",
    ),
    _mutant(
        "keras/optimizer.py",
        "means = [(g + a.value) / count for",
        "means = [(g + a.value) for",
        "accumulated gradients are not averaged",
        "keras/test_optimizers.py",
    ),
    _mutant(
        "keras/optimizer.py",
        "return tf.cond(has_samples, lambda: gradient, lambda: tf.zeros_like(gradient))",
        "return gradient",
        "a replica without samples sends NaN",
        "keras/test_fit.py",
    ),
    _mutant(
        "keras/optimizer.py",
        "            self._steps.constrain(variables)\n            if counts:\n",
        "            if counts:\n",
        "constraints are dropped",
        "keras/test_optimizers.py",
    ),
    _mutant(
        "keras/local_point.py",
        "self._lead[position].local().assign_sub(residual)",
        "continue",
        "a flushed residual stays in the point of the next gradient",
        "keras/test_local_point.py",
    ),
    _mutant(
        "keras/fit.py",
        "tf.where(tf.math.is_finite(change), change, 0.0)",
        "change",
        "statistics of a bad batch are kept",
        "keras/test_skipped_steps.py",
    ),
    _mutant(
        "keras/fit.py",
        "            steps.set_samples(None)",
        "            pass",
        "one step's samples count for the next",
        "keras/test_fit.py",
    ),
    _mutant(
        "keras/state.py",
        "                    if value is not None:\n                        values",
        "                    if False:\n                        values",
        "residuals are not saved",
        "keras/test_checkpoint.py",
    ),
    _mutant(
        "keras/state.py",
        '            variables[f"{prefix}/calls"] = channel.calls.variables[replica]\n',
        "",
        "the counter of random numbers is not saved",
        "keras/test_checkpoint.py",
    ),
    _mutant(
        "callbacks.py",
        "self._checkpoints.save(epoch + 1)",
        "self._checkpoints.save(epoch)",
        "a checkpoint is one epoch early",
        "keras/test_checkpoint.py",
    ),
)


def run(mutant: Mutant, tree: pathlib.Path) -> tuple[str, float]:
    """Returns (the first test that fails, seconds); an empty text if all pass.

    Args:
      mutant: what is broken.
      tree: a copy of the checkout; the file is restored.

    Raises:
      ValueError: the old text does not occur exactly once, or pytest could not run.
    """
    file = tree / mutant.path
    whole = file.read_text(encoding="utf-8")
    if whole.count(mutant.old) != 1:
        raise ValueError(f"{mutant.path}: {whole.count(mutant.old)} places hold {mutant.old!r}, one must")
    file.write_text(whole.replace(mutant.old, mutant.new), encoding="utf-8")
    start = time.monotonic()
    try:
        failed = _first_failure(mutant.tests, "not slow", tree) or _first_failure(mutant.tests, "slow", tree)
    except subprocess.TimeoutExpired:
        failed = "time-out"
    finally:
        file.write_text(whole, encoding="utf-8")
    return failed, time.monotonic() - start


def _first_failure(tests: tuple[str, ...], mark: str, tree: pathlib.Path) -> str:
    options = ["-x", "-q", "-rfE", "-p", "no:cacheprovider", "-m", mark]
    command = [sys.executable, "-m", "pytest", *options, *tests]
    done = subprocess.run(command, cwd=tree, capture_output=True, text=True, timeout=_DEADLINE_SECONDS, check=False)
    if done.returncode not in (0, 1, 2, _NO_TESTS):
        raise ValueError(f"pytest ended with {done.returncode}: {done.stdout[-500:]}{done.stderr[-500:]}")
    failed = re.search(r"^(?:FAILED|ERROR) (\S+)", done.stdout, re.MULTILINE)
    return failed.group(1).removeprefix("tests/") + " (slow)" * (mark == "slow") if failed else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", default="", help="run the mutants whose path or fault contains this text")
    parser.add_argument("--output", type=pathlib.Path, help="file for the table, in Markdown")
    arguments = parser.parse_args()
    rows, survivors = ["| file | fault | caught by |", "|---|---|---|"], 0
    with tempfile.TemporaryDirectory() as folder:
        tree = pathlib.Path(folder)
        for name in _COPIED:
            source = ROOT / name
            (shutil.copytree if source.is_dir() else shutil.copy)(source, tree / name)
        for mutant in MUTANTS:
            if arguments.only not in f"{mutant.path} {mutant.fault}":
                continue
            test, seconds = run(mutant, tree)
            survivors += not test
            path = mutant.path.removeprefix("dqgan_tf/")
            fault = mutant.fault.replace("|", "\\|")
            rows.append(f"| {path} | {fault} | {f'`{test}`' if test else '**none**'} |")
            print(f"{seconds:5.0f} s  {mutant.path}: {mutant.fault}: {test or 'SURVIVED'}", flush=True)
    if arguments.output:
        arguments.output.write_text("\n".join(rows) + "\n", encoding="utf-8")
    sys.exit(bool(survivors))


if __name__ == "__main__":
    main()
