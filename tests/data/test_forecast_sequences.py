"""Labelled sequences: `.ts` files read as written and refused with their line, items split and scaled without leaks."""

import json
from pathlib import Path

import numpy as np
import pytest

from data.datamodule import ItemDataModule
from data.errors import ConfigError, PenstockError
from data.forecast.kinds import LABELLED_SEQUENCES
from data.forecast.sequence_reading import parts_of, read_ts
from data.forecast.sequences import SequenceDataset, SequenceScaling, prepare_sequences, sequences_key
from data.splits import SplitConfig, split_items
from data.store import Reader
from data.synthetic.sequences import FORMS, SyntheticSequencesConfig, synthetic_sequence

HEADER = "# a comment\n@problemName Toy\n@timeStamps false\n@dimensions 2\n@classLabel true low high\n@data\n"
TRAIN = HEADER + "1,2,3:10,20,30:low\n4,?,6,7:40,50,NaN,70:high\n\n5:50:low\n"
TEST = HEADER + "1000,1000:-1000,?:high\n"


def write(folder: Path, train: str = TRAIN, test: str | None = TEST, name: str = "Toy") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / f"{name}_TRAIN.ts").write_text(train)
    if test is not None:
        (folder / f"{name}_TEST.ts").write_text(test)
    return folder


def test_reads_what_is_written(tmp_path: Path) -> None:
    read = read_ts(write(tmp_path) / "Toy_TRAIN.ts")
    assert read.classes == ("low", "high") and read.labels == (0, 1, 0) and read.features == 2
    np.testing.assert_array_equal(read.values[0], [[1, 10], [2, 20], [3, 30]])
    np.testing.assert_array_equal(read.values[1], [[4, 40], [np.nan, 50], [6, np.nan], [7, 70]])
    assert read.values[2].shape == (1, 2) and read.values[0].dtype == np.float32


def test_classes_in_the_data_where_the_header_lists_none(tmp_path: Path) -> None:
    path = tmp_path / "a.ts"
    path.write_text("@classLabel true\n@data\n1,2:b\n3,4:a\n5,6:?\n")
    assert read_ts(path).classes == ("a", "b") and read_ts(path).labels == (1, 0, -1)


def test_sequences_without_classes(tmp_path: Path) -> None:
    path = tmp_path / "a.ts"
    path.write_text("@classLabel false\n@data\n1,2:3,4\n")
    read = read_ts(path)
    assert read.labels == (-1,) and read.features == 2
    with pytest.raises(PenstockError, match="class for each sequence"):
        prepare_sequences(path, tmp_path / "out")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (HEADER + "1,2:3,x:low\n", "line 7: expected numbers"),
        (HEADER + "1,2:3:low\n", "line 7: expected channels of one length"),
        (HEADER + "1,2:3,4:low\n1,2:low\n", "line 8: expected 2 channels"),
        (HEADER + "1,2:3,4:middle\n", "line 7: class 'middle' is not among low, high"),
        (HEADER + "1,inf:3,4:low\n", "line 7: expected finite"),
        (HEADER, "found none"),
        ("time,value\n1,2\n", "line 1: expected a header"),
        (HEADER.replace("@timeStamps false", "@timeStamps true") + "1:2:low\n", "time stamps"),
        (HEADER.replace("@classLabel true low high", "@targetLabel true") + "1:2:0.5\n", "targetLabel"),
    ],
)
def test_refuses_with_the_place(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "a.ts"
    path.write_text(text)
    with pytest.raises(PenstockError, match=says):
        read_ts(path)


def test_finds_the_parts_that_belong_together(tmp_path: Path) -> None:
    folder = write(tmp_path)
    expected = {"train": folder / "Toy_TRAIN.ts", "test": folder / "Toy_TEST.ts"}
    for source in (folder, *expected.values()):
        assert parts_of(source) == expected and list(parts_of(source)) == ["train", "test"]
    write(tmp_path, name="Other")
    assert parts_of(folder / "Toy_TEST.ts") == expected
    with pytest.raises(PenstockError, match="Other, Toy"):
        parts_of(folder)
    (folder / "Toy_TRAIN.ts").unlink()
    with pytest.raises(PenstockError, match="is not beside it"):
        parts_of(folder / "Toy_TEST.ts")
    for source in (tmp_path / "nothing", tmp_path / "nothing.ts"):
        with pytest.raises(PenstockError, match="expected"):
            parts_of(source)


def test_parts_must_agree(tmp_path: Path) -> None:
    write(tmp_path, test=TEST.replace("low high", "low higher").replace(":high", ":low"))
    with pytest.raises(PenstockError, match="in the test part"):
        prepare_sequences(tmp_path, tmp_path / "out")


def test_prepared_file_holds_what_was_read(tmp_path: Path) -> None:
    path = prepare_sequences(write(tmp_path / "in"), tmp_path / "out")
    reader = Reader(path, LABELLED_SEQUENCES)
    reader.verify()
    assert reader.ids == ("train-0000", "train-0001", "train-0002", "test-0000")
    assert json.loads(str(reader.attributes["classes"])) == ["low", "high"]
    np.testing.assert_array_equal(reader.read(1)["values"], read_ts(tmp_path / "in" / "Toy_TRAIN.ts").values[1])
    before = sequences_key(tmp_path / "in")
    assert before == sequences_key(tmp_path / "in" / "Toy_TEST.ts")
    write(tmp_path / "in", test=TEST.replace("1000", "1001"))
    assert sequences_key(tmp_path / "in") != before


def test_scaled_by_what_is_trained_on_alone(tmp_path: Path) -> None:
    path = prepare_sequences(write(tmp_path / "in"), tmp_path / "out")
    dataset = SequenceDataset(path, SplitConfig(validation=0.0))
    first, second = np.array([1, 2, 3, 4, 6, 7, 5.0]), np.array([10, 20, 30, 40, 50, 70, 50.0])
    np.testing.assert_allclose(dataset.scaling.centre, [first.mean(), second.mean()])
    np.testing.assert_allclose(dataset.scaling.scale, [first.std(), second.std()])
    values = dataset.load(1, seed=0).values
    assert values[1, 0] == 0 and values[2, 1] == 0  # not measured
    assert values[0, 0].item() == pytest.approx((4 - first.mean()) / first.std())
    again = SequenceDataset(path, SplitConfig(), scaling=SequenceScaling((0.0, 0.0), (1.0, 10.0)))
    assert again.load(3, 0).values[0].tolist() == [1000, -100]


def test_batches_are_padded_and_say_so(tmp_path: Path) -> None:
    dataset = SequenceDataset(prepare_sequences(write(tmp_path / "in"), tmp_path / "out"), SplitConfig(validation=0.0))
    batch = dataset.collate([dataset.load(k, seed=k) for k in range(3)])
    assert batch.present.sum(dim=1).tolist() == [3, 4, 1] and batch.values.shape == (3, 4, 2)
    assert not batch.values[~batch.present].any() and batch.labels.tolist() == [0, 1, 0]
    assert batch.ids == ("train-0000", "train-0001", "train-0002") and batch.seeds.tolist() == [0, 1, 2]
    assert (dataset.features, dataset.longest, dataset.classes) == (2, 4, ("low", "high"))


def test_source_s_test_items_are_never_trained_or_validated_on(tmp_path: Path) -> None:
    path = prepare_sequences(SyntheticSequencesConfig(count=80), tmp_path)
    split = SplitConfig(validation=0.2)
    dataset = SequenceDataset(path, split)
    module = ItemDataModule(dataset, split, batch_size=8, seed=0, test=dataset.test)
    assert module.splits == dataset.splits
    assert {dataset.ids[k][:4] for k in module.splits["test"]} == {"test"} and len(module.splits["test"]) == 20
    assert len(module.splits["validation"]) > 0
    seen = [i for batch in module.train_dataloader() for i in batch.ids]
    seen += [i for batch in module.val_dataloader() for i in batch.ids]
    assert seen and not any(i.startswith("test") for i in seen)


def test_marks_of_test_items() -> None:
    ids = [f"item-{k}" for k in range(200)]
    marks = [k % 4 == 0 for k in range(200)]
    splits = split_items(ids, SplitConfig(validation=0.1, test=0.5), test=marks)
    assert splits["test"] == [k for k in range(200) if marks[k]]
    assert sorted(k for items in splits.values() for k in items) == list(range(200))
    assert 5 <= len(splits["validation"]) <= 30
    alone = split_items([i for i, mark in zip(ids, marks, strict=True) if not mark], SplitConfig(test=0.0))
    assert len(alone["train"]) == len(splits["train"])
    with pytest.raises(ConfigError, match="one mark"):
        split_items(ids, SplitConfig(), test=[True])


def test_without_a_test_part_the_split_makes_one(tmp_path: Path) -> None:
    path = prepare_sequences(SyntheticSequencesConfig(count=80, test=0.0), tmp_path)
    dataset = SequenceDataset(path, SplitConfig(validation=0.2, test=0.2))
    assert dataset.test is None and all(len(items) > 5 for items in dataset.splits.values())


def test_synthetic_sequences_follow_from_seed_and_number() -> None:
    config = SyntheticSequencesConfig(count=40, noise=0.0)
    for k in range(12):
        (values, label), (again, _) = synthetic_sequence(config, k), synthetic_sequence(config, k)
        np.testing.assert_array_equal(values, again)
        assert label == k % len(FORMS) and 24 <= len(values) <= 40
    other = synthetic_sequence(SyntheticSequencesConfig(seed=1), 0)[0]
    assert not np.array_equal(other[:8], synthetic_sequence(SyntheticSequencesConfig(), 0)[0][:8])
    # A square wave has two levels, a pulse is rarely high, a sine is its own quarter turn behind.
    square, pulse = synthetic_sequence(config, 1)[0], synthetic_sequence(config, 3)[0]
    assert len(np.unique(square.round(4))) == 2
    assert (pulse > pulse.mean(axis=0)).mean() < 0.35


def test_refused_settings() -> None:
    with pytest.raises(ConfigError, match="form"):
        SyntheticSequencesConfig(count=1)
    with pytest.raises(ConfigError, match="min_length"):
        SyntheticSequencesConfig(min_length=50, max_length=40)
    with pytest.raises(ConfigError, match="test in"):
        SyntheticSequencesConfig(test=1.0)


def test_item_without_a_class_is_not_trained_on(tmp_path: Path) -> None:
    path = prepare_sequences(write(tmp_path / "in", TRAIN.replace("5:50:low", "5:50:?")), tmp_path / "out")
    with pytest.raises(PenstockError, match="train-0002 has none"):
        SequenceDataset(path, SplitConfig(validation=0.0))
    # To predict on, with the scale of an earlier training, it is welcome.
    assert SequenceDataset(path, SplitConfig(), scaling=SequenceScaling((0, 0), (1, 1))).load(2, 0).label == -1
