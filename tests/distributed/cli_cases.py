"""Commands that cannot do what is asked, what each must say, and the files that they find."""

import dataclasses
import os

USAGE, TRAINING = 2, 3
TWO_WORKERS = '{"cluster": {"worker": ["127.0.0.1:1", "127.0.0.1:2"]}, "task": {"type": "worker", "index": 0}}'


@dataclasses.dataclass(frozen=True)
class Case:
    """A command and what must come of it.

    arguments: behind `python -m`; `{new}` is a fresh folder's name, `{file}` a file, `{empty}` an empty folder,
      `{run}`, `{damaged}` and `{truncated}` runs of 10 steps, `{sets}` data sets: `own` of images, `flat` of vectors;
      `{own}` a folder of arrays, most of them faulty.
      The home folder is the one in which they lie.
    message: pattern of the one line on stderr; None where the command succeeds.
    code: exit code.
    tf_config: value of TF_CONFIG.
    """

    arguments: str
    message: str | None
    code: int = USAGE
    tf_config: str | None = None


TRAIN = "trainers.train --model_dir={new} "
RESUME = "trainers.train --width=16 --batch_size=16 --model_dir="
CASES = {
    "tf_config_no_json": Case(TRAIN, "TF_CONFIG is not usable: it is not JSON", tf_config="{"),
    "tf_config_no_object": Case(TRAIN, "TF_CONFIG is not usable: it must be an object", tf_config="[]"),
    "tf_config_other_task": Case(
        TRAIN, "task worker:2 is not in the cluster, which has 2 worker", tf_config=TWO_WORKERS.replace("0}", "2}")
    ),
    "tf_config_no_port": Case(TRAIN, "must be a list of host:port", tf_config=TWO_WORKERS.replace(":1", "")),
    "tf_config_empty_is_none": Case(
        TRAIN + "--replicas_per_worker=2 --batch_size=3", "multiple of their number, 2.*batch_size=3", tf_config=""
    ),
    "batch_size": Case(TRAIN + "--replicas_per_worker=2 --batch_size=3", "multiple of their number, 2.*batch_size=3"),
    "unknown_compressor": Case(TRAIN + "--compressor=gzip", "must be like one of .*linear:bits=4.*Received: 'gzip'"),
    "bits_out_of_range": Case(TRAIN + "--compressor=linear:bits=9", "`bits` must be .*Received: bits=9"),
    "bits_not_whole": Case(TRAIN + "--compressor=linear:bits=5.5", "`bits` must be .*5.5"),
    "unknown_flag": Case(TRAIN + "--learning_rate=1", "Unknown command line flag 'learning_rate'"),
    "stray_argument": Case(TRAIN + "runs/ring", "'runs/ring'"),
    "unknown_dataset": Case(TRAIN + "--dataset=fashion_mnst", "no data set 'fashion_mnst'. Near it: fashion_mnist"),
    "unprepared_dataset": Case(
        TRAIN + "--dataset=cifar10 --data_dir={empty}",
        "'cifar10' is not prepared: .*trainers.prepare --dataset=cifar10",
    ),
    "unknown_split": Case(
        TRAIN + "--dataset=own --data_dir={sets} --split=nonsense", "`split` must be .*split='nonsense'"
    ),
    "empty_split": Case(
        TRAIN + "--dataset=own --data_dir={sets} --split=train[:0]", "'train\\[:0\\]' of 'own' is empty"
    ),
    "dataset_no_folder": Case(TRAIN + "--dataset={new}_pictures/", "_pictures' does not exist"),
    "dataset_empty_folder": Case(TRAIN + "--dataset={empty}/", "The folder '.*empty/' holds no images"),
    "dataset_text": Case(TRAIN + "--dataset={file}", "file' is neither a folder nor an .npz"),
    "dataset_one_image": Case(TRAIN + "--dataset={own}/one.npy", "one.npy' holds 1 image; .* 2 or more"),
    "dataset_objects": Case(TRAIN + "--dataset={own}/objects.npy", "Received: an array of objects"),
    "dataset_truncated": Case(TRAIN + "--dataset={own}/truncated.npz", "truncated.npz' cannot be read: "),
    "dataset_nan": Case(TRAIN + "--batch_size=2 --dataset={own}/nan.npy", "Image 1 of '.*nan.npy' holds a NaN"),
    "dataset_size": Case(TRAIN + "--dataset={own}/good.npy --network=dcgan", "`dcgan` draws images of 28, 32 or 64"),
    "dataset_no_module": Case(TRAIN + "--dataset=no_such:images", "Python finds no module 'no_such'"),
    "shards_without_labels": Case(
        TRAIN + "--dataset={own}/good.npy --shards=by_class", "has no labels, .*shards=by_cl"
    ),
    "export_of_nothing": Case("trainers.export --model_dir={empty} --output={new}.keras", "holds no run"),
    "export_format": Case("trainers.export --model_dir={run} --output={new}.h5", "must be X.keras"),
    "export_over_a_file": Case("trainers.export --model_dir={run} --output={file}", "file', which exists"),
    "generate_columns_of_points": Case(
        "trainers.generate --model_dir={run} --output={new}.png --columns=3", "`columns` is for a grid of images"
    ),
    "wrong_shape": Case(
        TRAIN + "--dataset=flat --data_dir={sets}",
        "`image` of 'flat' must be uint8 .*Received: shape=\\(8,\\)",
    ),
    "wrong_size": Case(TRAIN + "--dataset=own --data_dir={sets} --network=dcgan --image_size=30", "30"),
    "model_dir_is_a_file": Case("trainers.train --model_dir={file}", "--model_dir=.*file cannot be written"),
    "model_dir_below_a_file": Case("trainers.train --model_dir={file}/run", "--model_dir=.*file/run cannot be written"),
    "dcgan_of_points": Case(TRAIN + "--network=dcgan", "use `mlp` for points"),
    "stochastic_error_feedback": Case(
        TRAIN + "--compressor=linear:bits=4,rounding=stochastic", "contractive compressor: .*allow_non_contractive"
    ),
    "rule_of_no_weight": Case(
        TRAIN + "--compressor_rules=biass=none",
        "'biass' .* no weight's name. The names are generator/.*discriminator/.*bias.gamma.beta=none",
    ),
    "another_run": Case(RESUME + "{run} --width=32", "--width=16, this run asks for --width=32"),
    "a_run_below_the_home_folder": Case(RESUME + "~/run --seed=1", "--seed=0, this run asks for --seed=1"),
    "another_seed": Case(RESUME + "{run} --seed=1", "--seed=0, this run asks for --seed=1"),
    "damaged_run": Case(RESUME + "{damaged}", "worker_0.index is missing; remove this folder"),
    "truncated_run": Case(RESUME + "{truncated}", "replicated.data.* has 1000 bytes instead of .*; remove this folder"),
    "evaluate_empty": Case("trainers.evaluate --model_dir={empty}", "empty holds no run: there is no config.json"),
    "evaluate_nothing": Case("trainers.evaluate --model_dir={new}", "new holds no run"),
    "evaluate_damaged": Case("trainers.evaluate --model_dir={damaged}", "worker_0.index is missing"),
    "evaluate_below_the_home_folder": Case("trainers.evaluate --model_dir=~/damaged", "worker_0.index is missing"),
    "evaluate_truncated": Case("trainers.evaluate --model_dir={truncated}", "has 1000 bytes instead of"),
    "generate_empty": Case("trainers.generate --model_dir={empty} --output={new}.png", "empty holds no run"),
    "generate_into_a_file": Case(
        "trainers.generate --model_dir={run} --output={file}/x.npz", "Not a directory|File exists", code=TRAINING
    ),
    "generate_beside_a_cluster": Case(
        "trainers.generate --model_dir={run} --output={new}.npz --num_samples=3", None, code=0, tf_config=TWO_WORKERS
    ),
    "generate_from_no_step": Case(
        "trainers.generate --model_dir={run} --output={new}.npz --checkpoint=7", "checkpoint '7'. It has: .*newest"
    ),
    "generate_stray": Case("trainers.generate --model_dir={run} --output={new}.npz 3", "Unexpected argument '3'"),
    "launch_nowhere": Case("trainers.launch -- --steps=3", "Give --model_dir=DIR after --"),
    "launch_no_flagfile": Case("trainers.launch -- --flagfile={new}", "new"),
    "launch_no_worker": Case("trainers.launch --num_workers=0 -- --model_dir={new}", "--num_workers=0: .*in the range"),
    "launch_below_a_file": Case("trainers.launch -- --model_dir={file}/run", "Not a directory"),
    "launch_without_dashes": Case("trainers.launch --model_dir={new}", "Unknown command line flag 'model_dir'"),
    "launch_stray": Case("trainers.launch 2 -- --model_dir={new}", "Unexpected argument '2'"),
    "prepare_unknown": Case("trainers.prepare --dataset=mnst --data_dir={empty}", "no data set 'mnst'. Near it: mnist"),
    "prepare_no_source": Case(
        "trainers.prepare --dataset=mnist --data_dir={empty} --source_dir={new}", "`source_dir` must be a folder"
    ),
    "prepare_into_a_file": Case(
        "trainers.prepare --dataset=mnist --data_dir={file} --source_dir={idx}", "'mnist' cannot be prepared: .*file"
    ),
    "compare_no_suite": Case("trainers.compare --results={new} --small", "--small given without a suite: name one"),
    "compare_published": Case("trainers.compare --suite=games --published", "is for --suite=fashion_mnist or cifar10"),
    "compare_document": Case(
        "trainers.compare --suite=games --document={file}", "without --suite; .* Received: --suite"
    ),
    "prepare_no_flag": Case("trainers.prepare", "--dataset must have a value"),
}
PLACES = ("new", "file", "empty", "run", "damaged", "truncated", "sets", "idx", "own")


def make_files(folder):
    """Writes the files that the cases find: a run, a damaged one, an empty folder, a file, a data set."""
    import numpy as np
    import tensorflow_datasets as tfds

    from dqgan_tf import data
    from dqgan_tf.config import NetworkConfig, RunConfig, TrainConfig
    from dqgan_tf.data import catalogue
    from dqgan_tf.distribute.message_board import MessageBoard
    from dqgan_tf.training import job
    from dqgan_tf.training.checkpoint import Checkpoints
    from tests.gan.local_strategy import local_strategy

    train = TrainConfig(batch_size=16, steps=10, deterministic=False)  # determinism would stay for all later tests
    for name in ("run", "damaged", "truncated"):
        config = RunConfig(str(folder / name), network=NetworkConfig(width=16), train=train)
        built = job.build(config, data.describe(config.data), local_strategy(1), MessageBoard(0, 1))
        Checkpoints(built).save(10)
        (folder / name / "config.json").write_text(config.to_json())
        (folder / name / "metrics.jsonl").write_text('{"step": 10}\n')
    (folder / "damaged" / "checkpoints" / "step_00000010" / "worker_0.index").unlink()
    os.truncate(folder / "truncated" / "checkpoints" / "step_00000010" / "replicated.data-00000-of-00001", 1000)
    (folder / "empty").mkdir()
    (folder / "file").write_text("kept")
    (folder / "own").mkdir()
    images = np.zeros([4, 6, 6, 1], np.float32)
    np.save(folder / "own" / "good.npy", images)
    np.save(folder / "own" / "one.npy", images[:1])
    np.save(folder / "own" / "objects.npy", np.array([images, None], object))
    np.save(folder / "own" / "nan.npy", np.where(np.arange(4)[:, None, None, None] == 1, np.nan, images))
    np.savez(folder / "own" / "truncated.npz", images)
    os.truncate(folder / "own" / "truncated.npz", 300)
    (folder / "sets").mkdir()
    features = {
        "own": tfds.features.Image(shape=(28, 28, 1)),
        "flat": tfds.features.Tensor(shape=(8,), dtype=np.uint8),
    }
    for name, feature in features.items():
        tfds.dataset_builders.store_as_tfds_dataset(
            name=name,
            version="1.0.0",
            features=tfds.features.FeaturesDict({"image": feature}),
            split_datasets={"train": [(0, {"image": np.zeros(feature.shape, np.uint8)})]},
            data_dir=folder / "sets",
            disable_shuffling=True,
        )
    (folder / "idx").mkdir()
    for name in catalogue.SOURCE_FILES["mnist"]:
        (folder / "idx" / name).write_bytes(b"")
