"""Error feedback: nothing is lost, only delayed."""

import functools

import numpy as np
import pytest
import tensorflow as tf

from dqgan_tf import compressors, error_feedback
from dqgan_tf.compressors import blocks
from tests.oracles import compressors_numpy as oracle

N = 1100
SPECS = [
    "linear:bits=2,bucket=512",
    "linear:bits=4,bucket=512",
    "linear:bits=8,bucket=512",
    "linear:bits=4,bucket=512,rounding=stochastic",
    "sign:bucket=512",
    "topk:fraction=0.05",
    "none",
]
EXACT = [spec for spec in SPECS if "stochastic" not in spec and "sign" not in spec]


def make_step(compressor, jit=True, block=None):
    """Returns (update, residual, seed) -> (`Encoded`, what it decodes to), compiled once for all tests."""
    return _made_once(compressor, jit, block)


@functools.cache
def _made_once(compressor, jit, block):
    def step(update, residual, seed):
        encoded = error_feedback.encode(compressor, update, residual, seed, block=block)
        return encoded, compressor.decode(encoded.payload, update.shape[0])

    return tf.function(step, jit_compile=jit, autograph=False)


def updates(steps, n=N, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((steps, n)) * np.exp(rng.standard_normal(n))).astype(np.float32)


@pytest.mark.parametrize("spec", [pytest.param(s, marks=[pytest.mark.slow] * s.startswith("topk")) for s in SPECS])
def test_telescoping(spec):
    """sum_t decode(payload_t) + e_T = sum_t update_t; each of 20 float32 additions rounds by at most 2^-24 of |p|."""
    step, sequence = make_step(compressors.get(spec)), updates(20)
    residual, sent, largest = tf.zeros(N), np.zeros(N), 0.0
    for t, update in enumerate(sequence):
        encoded, decoded = step(update, residual, tf.constant([0, t]))
        largest = max(largest, np.abs(update + residual).max())
        residual, sent = encoded.residual, sent + decoded.numpy()
    total = sequence.astype(np.float64).sum(axis=0)
    np.testing.assert_allclose(sent + residual.numpy(), total, atol=20 * 3 * largest * 2.0**-24)


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("spec", EXACT)
def test_what_is_sent_and_what_is_kept_add_up_bit_for_bit(spec, jit):
    first, second = updates(2)
    encoded, decoded = make_step(compressors.get(spec), jit)(first, second, tf.constant([0, 0]))
    np.testing.assert_array_equal(decoded.numpy() + encoded.residual.numpy(), first + second)


def test_top_one_by_hand():
    """Three values, one sent a step: the first two steps of the recurrence written out."""
    compressor = compressors.get("topk:fraction=0.3")
    update, zero, seed = tf.constant([4.0, 3.0, -1.0]), tf.zeros(3), tf.constant([0, 0])
    first = error_feedback.encode(compressor, update, zero, seed)
    assert first.payload.indices.numpy().tolist() == [0] and first.residual.numpy().tolist() == [0.0, 3.0, -1.0]
    assert first.energies.numpy().tolist() == [26.0, 0.0, 10.0]
    second = error_feedback.encode(compressor, update, first.residual, seed)
    assert second.payload.indices.numpy().tolist() == [1] and second.payload.values.numpy().tolist() == [6.0]
    assert second.residual.numpy().tolist() == [4.0, 0.0, -2.0]
    assert second.energies.numpy().tolist() == [56.0, 10.0, 20.0]


@pytest.mark.parametrize("spec", SPECS)
def test_energies_are_squared_norms(spec):
    update, residual = updates(2)
    encoded, decoded = make_step(compressors.get(spec))(update, residual, tf.constant([1, 2]))
    compensated = (update + residual).astype(np.float64)
    expected = [compensated, residual.astype(np.float64), compensated - decoded.numpy()]
    np.testing.assert_allclose(encoded.energies, [np.sum(v**2) for v in expected], rtol=1e-5)


@pytest.mark.parametrize("spec", ["linear:bits=2,bucket=512", "sign:bucket=64", "topk:fraction=0.05"])
def test_residual_obeys_the_bound(spec):
    """||e||^2 <= 4 (1 - delta) / delta^2 max ||update||^2. Karimireddy et al. 2019, arXiv 1901.09847, lemma 3."""
    compressor = compressors.get(spec)
    step, sequence = make_step(compressor), updates(60)
    residual, delta = tf.zeros(N), compressor.delta(N)
    bound = 4 * (1 - delta) / delta**2 * np.max(np.sum(sequence.astype(np.float64) ** 2, axis=1))
    for t, update in enumerate(sequence):
        residual = step(update, residual, tf.constant([0, t]))[0].residual
        assert np.sum(residual.numpy().astype(np.float64) ** 2) <= bound


def test_sent_mean_follows_a_constant_update():
    """sign without memory sends the wrong mean for ever; with it the mean is off by e_T / T only."""
    compressor, update = compressors.get("sign:bucket=512"), updates(1)[0]
    step, residual, sent = make_step(compressor), tf.zeros(N), np.zeros(N)
    for t in range(400):
        encoded, decoded = step(update, residual, tf.constant([0, t]))
        residual, sent = encoded.residual, sent + decoded.numpy()
    alone = error_feedback.encode(compressor, tf.constant(update), None, tf.constant([0, 0]))
    lost_without = oracle.relative_error(update, compressor.decode(alone.payload, N).numpy())
    assert oracle.relative_error(update, sent / 400) < 0.05 * lost_without


@pytest.mark.parametrize("spec", SPECS)
def test_without_feedback(spec):
    compressor, update = compressors.get(spec), tf.constant(updates(1)[0])
    encoded = error_feedback.encode(compressor, update, None, tf.constant([1, 2]))
    assert encoded.residual is None
    lost = update.numpy().astype(np.float64) - compressor.decode(encoded.payload, N).numpy()
    energies = [np.sum(update.numpy().astype(np.float64) ** 2), 0.0, np.sum(lost**2)]
    np.testing.assert_allclose(encoded.energies, energies, rtol=1e-5)


def test_identity_keeps_nothing():
    update, residual = updates(2)
    encoded, decoded = make_step(compressors.get("none"))(update, residual, tf.constant([0, 0]))
    assert not encoded.residual.numpy().any()
    np.testing.assert_array_equal(decoded, update + residual)


def test_poison_reaches_the_energies_and_the_payload():
    update = updates(1)[0]
    update[3] = np.nan
    for spec in SPECS:
        encoded, decoded = make_step(compressors.get(spec))(update, tf.zeros(N), tf.constant([0, 0]))
        assert not np.isfinite(decoded.numpy()).all() and not np.isfinite(encoded.energies.numpy()[0])


@pytest.mark.parametrize(
    "spec, n",
    [
        ("linear:bits=3,bucket=512", 2048),
        ("linear:bits=8,bucket=64", 3000),
        ("sign:bucket=512", 3000),
        pytest.param("linear:bits=3,bucket=512", 3000, marks=pytest.mark.slow),
        pytest.param("sign:bucket=512", 1500, marks=pytest.mark.slow),
    ],
)
def test_blocks_change_nothing(spec, n):
    update, residual = updates(2, n)
    whole, _ = make_step(compressors.get(spec))(update, residual, tf.constant([0, 0]))
    blocked, _ = make_step(compressors.get(spec), block=1024)(update, residual, tf.constant([0, 0]))
    for one, other in zip(whole.payload, blocked.payload, strict=True):
        if one.dtype == tf.int32:
            np.testing.assert_array_equal(one, other)
        np.testing.assert_allclose(one, other, rtol=1e-6)
    np.testing.assert_allclose(whole.residual, blocked.residual, atol=1e-5)
    np.testing.assert_allclose(whole.energies, blocked.energies, rtol=1e-5)


@pytest.mark.parametrize("spec", ["linear:bits=4,bucket=64", pytest.param("sign:bucket=64", marks=pytest.mark.slow)])
def test_a_spare_of_any_content_takes_the_residual(spec):
    """The new residual is written over what a variable held; payload and energies do not know."""
    compressor, size = compressors.get(spec), 700
    update, residual = updates(2, n=size)
    variable = tf.Variable(tf.fill([size], np.float32(np.nan)))

    @functools.partial(tf.function, jit_compile=True, autograph=False)
    def into_spare(update, residual, seed):
        spare = variable.read_value()
        encoded = error_feedback.encode(compressor, update, residual, seed, block=128, spare=spare)
        variable.assign(encoded.residual)
        return encoded.payload, encoded.energies

    expected, _ = make_step(compressor, block=128)(update, residual, tf.constant([0, 3]))
    payload, energies = into_spare(update, residual, tf.constant([0, 3]))
    tf.nest.map_structure(np.testing.assert_array_equal, payload, expected.payload)
    np.testing.assert_array_equal(variable, expected.residual)
    np.testing.assert_array_equal(energies, expected.energies)


@pytest.mark.parametrize("spec", ["linear:bits=4,bucket=64", "sign:bucket=64", "none"])
def test_a_window_is_its_values(spec):
    """700 values in the middle of a longer vector, in blocks and, for `none`, at once."""
    compressor, size, start = compressors.get(spec), 700, 192
    longer, residual = updates(2, n=1000)
    expected, _ = make_step(compressor, block=128)(longer[start : start + size], residual[:size], tf.constant([0, 3]))

    @functools.partial(tf.function, jit_compile=True, autograph=False)
    def encode(vector, position, residual, seed):
        window = blocks.Window(vector, position, size)
        return error_feedback.encode(compressor, window, residual, seed, block=128)

    encoded = encode(longer, tf.constant(start), residual[:size], tf.constant([0, 3]))
    tf.nest.map_structure(np.testing.assert_array_equal, encoded, expected)


def test_blocks_without_feedback():
    compressor, update = compressors.get("linear:bits=4,bucket=512"), tf.constant(updates(1, 3000)[0])
    encode = tf.function(error_feedback.encode, jit_compile=True, autograph=False)
    whole = encode(compressor, update, None, tf.constant([0, 0]))
    blocked = encode(compressor, update, None, tf.constant([0, 0]), block=512)
    np.testing.assert_array_equal(whole.payload.words4, blocked.payload.words4)
    np.testing.assert_allclose(whole.energies, blocked.energies, rtol=1e-5)
    assert whole.residual is None and blocked.residual is None
    assert float(blocked.energies[1]) == 0.0


def test_blocks_leave_what_has_no_buckets_alone():
    update, residual = updates(2)
    encoded, _ = make_step(compressors.get("topk:fraction=0.05"), block=512)(update, residual, tf.constant([0, 0]))
    assert encoded.payload.values.shape == [55]


def test_stochastic_blocks_draw_different_numbers():
    """Three equal blocks: with one seed for all they would be encoded alike."""
    update = np.tile(updates(1, 512)[0], 4)
    compressor = compressors.get("linear:bits=4,bucket=512,rounding=stochastic")
    encoded, decoded = make_step(compressor, block=512)(update, tf.zeros(2048), tf.constant([0, 0]))
    words = encoded.payload.words4.numpy()
    assert len({row.tobytes() for row in words}) == 4
    np.testing.assert_array_equal(decoded.numpy() != 0, (update - encoded.residual.numpy()) != 0)


@pytest.mark.parametrize("block", [100, 700, 1100])
def test_a_block_is_rounded_to_whole_buckets(block):
    """700 means 512 and 1100 means 1024; 100 is raised to one bucket: the same bits as without blocks."""
    update, residual = updates(2)
    whole, _ = make_step(compressors.get("sign:bucket=512"), block=None)(update, residual, tf.constant([0, 0]))
    blocked, _ = make_step(compressors.get("sign:bucket=512"), block=block)(update, residual, tf.constant([0, 0]))
    np.testing.assert_array_equal(blocked.payload.words1, whole.payload.words1)
    np.testing.assert_array_equal(blocked.payload.scales, whole.payload.scales)


@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("n, block", [(100, None), (1, 32), (64, 32), (100, 32)])
def test_energies_by_block(n, block, residual):
    update, e, error = updates(3, n)
    e = e if residual else None
    found = tf.function(lambda *v: error_feedback.energies(*v, block), jit_compile=True, autograph=False)(
        update, e, error
    )
    vectors = [update if e is None else update.astype(np.float64) + e, 0.0 if e is None else e, error]
    np.testing.assert_allclose(found, [np.sum(np.square(v, dtype=np.float64)) for v in vectors], rtol=1e-6)


@pytest.mark.parametrize("n, block", [(100, None), (1, 32), (64, 32), (100, 32)])
def test_energy(n, block):
    vector = updates(1, n)[0]
    found = tf.function(lambda v: error_feedback.energy(v, block), jit_compile=True, autograph=False)(vector)
    np.testing.assert_allclose(found, np.sum(vector.astype(np.float64) ** 2), rtol=1e-6)


def test_default_block_suits_the_default_bucket():
    assert blocks.CPU_BLOCK % 512 == 0


@pytest.mark.parametrize("n, count", [(1, 0), (64, 1), (65, 0), (127, 0), (128, 2), (129, 1), (640, 10), (700, 9)])
def test_a_remainder_joins_the_last_block(n, count):
    """Blocks of 64 values: `count` of them in the loop, then what is left."""
    calls = []

    def write(index, size, covered):
        calls.append(size)
        return (covered + size,)

    total = tf.function(
        lambda: blocks.for_each_block(write, (tf.constant(0),), n, 64), jit_compile=True, autograph=False
    )()[0]
    assert int(total) == n
    assert calls == [64] * (count > 0) + [n - 64 * count] * (n > 64 * count)


PIECES = ["linear:bits=3,bucket=64", "linear:bits=4,bucket=64,rounding=stochastic", "sign:bucket=64", "bf16"]
PIECES += ["ternary:bucket=64", "terngrad:bucket=64", "natural:bits=8,bucket=64", "nuqsgd:bits=4,bucket=64"]
PIECES += ["qsgd:bits=4,bucket=64", "fp16"]


QUICK = PIECES[1:3]


@pytest.mark.parametrize("spec", QUICK + [pytest.param(p, marks=pytest.mark.slow) for p in PIECES if p not in QUICK])
def test_pieces_are_the_whole(spec):
    """Cut after one block, after three and before the last with its rest: payload and residual bit for bit."""
    compressor = compressors.get(spec)
    block = blocks.effective_block(compressor, 700)
    cuts, n = [0, block, 3 * block, 5 * block], 6 * block + 77
    update, residual = tf.unstack(tf.constant(updates(2, n)))

    def encode(start, stop):
        seed = blocks.block_seed(tf.constant([3, 5]), start // block)
        return error_feedback.encode(compressor, update[start:stop], residual[start:stop], seed, block=700)

    whole = tf.function(lambda: encode(0, n), jit_compile=True, autograph=False)()
    stops = [*cuts[1:], n]
    parts = tf.function(
        lambda: [encode(*ends) for ends in zip(cuts, stops, strict=True)], jit_compile=True, autograph=False
    )()
    for index, field in enumerate(whole.payload):
        joined = np.concatenate([part.payload[index] for part in parts])
        np.testing.assert_array_equal(joined.view(np.int32), field.numpy().view(np.int32))
    np.testing.assert_array_equal(np.concatenate([part.residual for part in parts]), whole.residual)
    np.testing.assert_allclose(sum(part.energies for part in parts), whole.energies, rtol=1e-6)


@pytest.mark.parametrize(
    "spec, block, effective",
    [("sign:bucket=64", 700, 640), ("sign:bucket=64", 10, 64), ("ternary:bucket=64", 700, 640), ("bf16", 1100, 1024)]
    + [("topk:fraction=0.1", 700, None), ("none", 700, None), ("sign:bucket=64", None, None)],
)
def test_effective_block(spec, block, effective):
    assert blocks.effective_block(compressors.get(spec), block) == effective
