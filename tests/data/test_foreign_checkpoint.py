"""Foreign checkpoints: every tensor and setting as saved, and hostile files refused without anything of them run."""

import contextlib
import io
import os
import pickle
import tarfile
import zipfile
from collections import OrderedDict, defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch

from data.errors import CheckpointError
from data.foreign_checkpoint import MAX_SHARING, ForeignCheckpoint, read_foreign_checkpoint
from tests.data import foreign_files as files

CONFIG = {
    "model": {"width": 32, "inner": {"width": "${model.width}", "bins": 22}, "names": ["a", "b"], "off": None},
    "lr": 1e-4,
    "copy": "${model.inner.width}",
    "nowhere": "${model.depth}",
    "sentence": "width ${model.width}",
}
RESOLVED = {
    "model": {"width": 32, "inner": {"width": 32, "bins": 22}, "names": ["a", "b"], "off": None},
    "lr": 1e-4,
    "copy": 32,
    "nowhere": "${model.depth}",
    "sentence": "width ${model.width}",
}


def _states() -> dict[str, torch.Tensor]:
    base = torch.randn(6, 8)
    return {
        "plain": torch.randn(3, 4),
        "rows": base[2:4],
        "strided": base.t()[1::3, ::2],
        "tied": base,
        "scalar": torch.tensor(2.5),
        "empty": torch.empty(0, 3),
        "expanded_one": torch.ones(1).expand(1, 1),
        **{str(kind).removeprefix("torch."): torch.arange(5).to(kind) for kind in (
            torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
            torch.uint8, torch.bool,
        )},
    }  # fmt: skip


def _same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], prefix: str = "") -> None:
    assert list(found) == [prefix + name for name in expected]
    for name, tensor in expected.items():
        read = found[prefix + name]
        assert read.dtype == tensor.dtype
        assert read.is_contiguous()
        assert torch.equal(read, tensor)


def test_a_lightning_checkpoint_comes_back_whole(tmp_path):
    state = _states()
    found = read_foreign_checkpoint(files.save_lightning(tmp_path / "a.ckpt", state, CONFIG))
    _same(found.state, state, "model.")
    assert found.hyper == {"cfg": RESOLVED, "folding_cfg": None}


def test_the_same_with_omegaconf_itself(tmp_path):
    omegaconf = pytest.importorskip("omegaconf")
    config = omegaconf.OmegaConf.create(CONFIG)
    torch.save({"state_dict": {"w": torch.ones(2)}, "hyper_parameters": config}, tmp_path / "a.ckpt")
    assert read_foreign_checkpoint(tmp_path / "a.ckpt").hyper == RESOLVED


def test_a_bare_state_dict_of_parameters(tmp_path):
    network = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    torch.save(network.state_dict(), tmp_path / "a.pt")
    found = read_foreign_checkpoint(tmp_path / "a.pt")
    _same(found.state, network.state_dict())
    assert found.hyper == {}
    torch.save(OrderedDict((name, p) for name, p in network.named_parameters()), tmp_path / "b.pt")
    _same(read_foreign_checkpoint(tmp_path / "b.pt").state, dict(network.named_parameters()))


def test_settings_of_plain_containers(tmp_path):
    hyper = {"a": (1, 2.5), "s": {3}, "d": defaultdict(dict, x=1), "o": OrderedDict(y="z"), "t": torch.ones(2, 3), 4: 1}
    torch.save({"state_dict": {"w": torch.ones(1)}, "hyper_parameters": hyper}, tmp_path / "a.ckpt")
    expected = {"a": [1, 2.5], "s": [3], "d": {"x": 1}, "o": {"y": "z"}, "t": "tensor of size [2, 3]", "4": 1}
    assert read_foreign_checkpoint(tmp_path / "a.ckpt").hyper == expected


# -- hostile pickles


class Call:
    """Pickles as a call of `function` with `args`, which Python's own unpickler makes."""

    def __init__(self, function, *args):
        self.function, self.args = function, args

    def __reduce__(self):
        return self.function, self.args


def _makes(path: Path) -> Call:
    return Call(os.system, f"touch {path}")


PLACES = {
    "as the whole": lambda call: call,
    "as a weight": lambda call: {"state_dict": {"w": call}},
    "in the settings": lambda call: {"state_dict": {}, "hyper_parameters": {"cfg": [call]}},
    "in the optimiser": lambda call: {"state_dict": {}, "optimizer_states": [{"state": {0: call}}]},
    "as an ordered dictionary's attribute": lambda call: {"state_dict": {}, "x": Call(OrderedDict, [["a", call]])},
    "as a factory": lambda call: {"state_dict": {}, "x": Call(defaultdict, call)},
}


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize("place", PLACES)
def test_a_call_anywhere_is_refused_by_name_and_not_made(tmp_path, place, protocol):
    mark = tmp_path / "mark"
    content = pickle.dumps(PLACES[place](_makes(mark)), protocol)
    with pytest.raises(CheckpointError, match=f"'{os.system.__module__}.system'.*Nothing of it was run"):
        read_foreign_checkpoint(files.write_archive(tmp_path / "a.ckpt", content))
    assert not mark.exists()


def test_the_call_of_these_tests_is_a_live_one(tmp_path):
    mark = tmp_path / "mark"
    with contextlib.suppress(TypeError):  # the exit code is no factory
        pickle.loads(pickle.dumps(PLACES["as a factory"](_makes(mark))))  # noqa: S301 - made here
    assert mark.exists()


NAMES = {
    "eval": b"c__builtin__\neval\n(S'1'\ntR.",
    "exec": b"cbuiltins\nexec\n(S'1'\ntR.",
    "getattr": b"cbuiltins\ngetattr\n.",
    "a dotted name": b"\x80\x04\x8c\x0ctorch._utils\x8c\tos.system\x93.",
    "torch.load": b"ctorch\nload\n.",
    "torch's other rebuilders": b"ctorch._utils\n_rebuild_device_tensor_from_numpy\n.",
    "OmegaConf's loader": b"comegaconf.omegaconf\nOmegaConf\n.",
    "copyreg": b"ccopyreg\n_reconstructor\n.",
    "functools.partial": b"cfunctools\npartial\n.",
    "numpy": b"cnumpy.core.multiarray\n_reconstruct\n.",
}


@pytest.mark.parametrize("name", NAMES)
def test_names_beyond_weights_and_settings_are_refused(tmp_path, name):
    with pytest.raises(CheckpointError, match="it asks for"):
        read_foreign_checkpoint(files.write_archive(tmp_path / "a.ckpt", NAMES[name]))


def test_an_expected_class_cannot_be_made_to_run_anything(tmp_path):
    """Its arguments and its state are kept as they are: neither __init__ nor __setstate__ is called."""
    content = pickle.dumps({"state_dict": {}})[:-1]
    trick = b"comegaconf.dictconfig\nDictConfig\n(S'x'\ntR}S'__class__'\nNsb0."  # made, its state set, dropped
    with pytest.raises(CheckpointError, match="expected tensors by name"):
        read_foreign_checkpoint(files.write_archive(tmp_path / "a.ckpt", content + trick))


# -- hostile tensors


def _tensor_file(path: Path, offset, size, stride, numel=6, stored=24, key="0", kind="FloatStorage") -> Path:
    """A checkpoint of one tensor with any description."""

    def number(value: int) -> bytes:
        return pickle.dumps(value, 2)[2:-1]

    def numbers(values) -> bytes:
        return b"(" + b"".join(map(number, values)) + b"t"

    identity = b"(X\x07\0\0\0storagectorch\n" + kind.encode() + b"\nX\x01\0\0\0" + key.encode() + b"X\x03\0\0\0cpu"
    rebuilt = b"ctorch._utils\n_rebuild_tensor_v2\n((" + identity[1:] + number(numel) + b"tQ" + number(offset)
    content = b"\x80\x02}X\x01\0\0\0w" + rebuilt + numbers(size) + numbers(stride) + b"\x89}tRs."
    return files.write_archive(path, content, {"0": np.arange(stored // 4, dtype=np.float32).tobytes()})


def test_the_hand_made_tensor_is_read(tmp_path):
    found = read_foreign_checkpoint(_tensor_file(tmp_path / "a.pt", 1, [2, 2], [3, 1]))
    assert torch.equal(found.state["w"], torch.tensor([[1.0, 2.0], [4.0, 5.0]]))


WRONG_TENSORS = {
    "past the end": (1, [2, 3], [3, 1]),
    "far offset": (1 << 62, [1], [1]),
    "negative offset": (-1, [2], [1]),
    "negative stride": (5, [6], [-1]),
    "negative size": (0, [-1], [1]),
    "more numbers than stored": (0, [1 << 40], [0]),
    "sizes that overflow": (0, [1 << 33, 1 << 33], [0, 0]),
    "sizes and strides that differ": (0, [2, 3], [1]),
    "text as size": (0, ["2"], [1]),
    "empty and huge": (0, [0, 1 << 70], [1, 1]),
}


@pytest.mark.parametrize("case", WRONG_TENSORS)
def test_a_tensor_outside_its_storage_is_refused(tmp_path, case):
    with pytest.raises(CheckpointError):
        read_foreign_checkpoint(_tensor_file(tmp_path / "a.pt", *WRONG_TENSORS[case]))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"numel": 7}, "24 bytes instead of 28"), ({"stored": 20}, "bytes instead of"), ({"key": "1"}, "missing"),
     ({"key": "."}, "missing"), ({"kind": "UntypedStorage"}, "UntypedStorage"), ({"numel": -6}, "other than a tensor")],
)  # fmt: skip
def test_numbers_that_are_not_there_are_refused(tmp_path, wrong, message):
    with pytest.raises(CheckpointError, match=message):
        read_foreign_checkpoint(_tensor_file(tmp_path / "a.pt", 0, [2, 2], [3, 1], **wrong))


def test_sharing_cannot_fill_the_memory(tmp_path):
    base = torch.zeros(100_000)
    torch.save({f"w{k}": base for k in range(3 * MAX_SHARING)}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="share memory"):
        read_foreign_checkpoint(tmp_path / "a.pt")


# -- hostile settings


def test_settings_that_contain_themselves_are_refused(tmp_path):
    hyper: dict = {}
    hyper["self"] = hyper
    torch.save({"state_dict": {"w": torch.ones(1)}, "hyper_parameters": hyper}, tmp_path / "a.ckpt")
    with pytest.raises(CheckpointError, match="contain themselves"):
        read_foreign_checkpoint(tmp_path / "a.ckpt")


def test_settings_that_double_without_end_are_refused(tmp_path):
    hyper: list = ["ha"] * 10
    for _ in range(12):
        hyper = [hyper] * 10
    torch.save({"state_dict": {"w": torch.ones(1)}, "hyper_parameters": {"laughs": hyper}}, tmp_path / "a.ckpt")
    with pytest.raises(CheckpointError, match="without end"):
        read_foreign_checkpoint(tmp_path / "a.ckpt")


def test_references_in_a_circle_stay_text(tmp_path):
    config = {"a": "${b}", "b": "${a}"}
    found = read_foreign_checkpoint(files.save_lightning(tmp_path / "a.ckpt", {"w": torch.ones(1)}, config))
    assert set(found.hyper["cfg"].values()) <= {"${a}", "${b}"}


# -- other and damaged files


def test_the_older_form_is_refused_with_advice(tmp_path):
    torch.save({"w": torch.ones(1)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match=r"bare pickle.*before 1\.6.*save it again"):
        read_foreign_checkpoint(tmp_path / "old.pt")
    with tarfile.open(tmp_path / "older.pt", "w") as archive:
        archive.addfile(tarfile.TarInfo("pickle"), io.BytesIO())
    with pytest.raises(CheckpointError, match="zip archive"):
        read_foreign_checkpoint(tmp_path / "older.pt")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"plain text"])
def test_what_is_no_checkpoint_is_said_to_be_none(tmp_path, content):
    (tmp_path / "a.ckpt").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"a\.ckpt: expected a PyTorch checkpoint"):
        read_foreign_checkpoint(tmp_path / "a.ckpt")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"none\.ckpt"):
        read_foreign_checkpoint(tmp_path / "none.ckpt")


def test_a_compressed_archive_is_refused_unread(tmp_path):
    with zipfile.ZipFile(tmp_path / "bomb.ckpt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(100 << 20))
    assert (tmp_path / "bomb.ckpt").stat().st_size < 1 << 20
    with pytest.raises(CheckpointError, match="compressed"):
        read_foreign_checkpoint(tmp_path / "bomb.ckpt")


def test_nothing_is_written_wherever_entries_point(tmp_path):
    inside = tmp_path / "inside"
    inside.mkdir()
    with zipfile.ZipFile(inside / "a.ckpt", "w") as archive:
        archive.writestr("../evil.txt", b"x")
        archive.writestr("../data.pkl", pickle.dumps({}))
    with pytest.raises(CheckpointError):
        read_foreign_checkpoint(inside / "a.ckpt")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.ckpt", "inside"]


def test_programs_and_doubles_and_foreign_byte_order_are_refused(tmp_path):
    content = pickle.dumps({})
    with pytest.raises(CheckpointError, match="TorchScript"):
        read_foreign_checkpoint(files.write_archive(tmp_path / "a.pt", content, **{"constants.pkl": b""}))
    with pytest.raises(CheckpointError, match="big-endian"):
        read_foreign_checkpoint(files.write_archive(tmp_path / "b.pt", content, byteorder=b"big"))
    with pytest.warns(UserWarning, match="Duplicate"), pytest.raises(CheckpointError, match="twice"):
        read_foreign_checkpoint(files.write_archive(tmp_path / "c.pt", content, **{"data.pkl": content}))
    with pytest.raises(CheckpointError, match="keys and values, got a list"):
        read_foreign_checkpoint(files.write_archive(tmp_path / "d.pt", pickle.dumps([1])))
    with pytest.raises(CheckpointError, match="found the keys epoch"):
        read_foreign_checkpoint(files.write_archive(tmp_path / "e.pt", pickle.dumps({"epoch": 1})))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of damaged escapes in old text
def test_damage_anywhere_is_an_error_of_ours_or_harmless(tmp_path):
    """Whatever bytes change or are lost: a CheckpointError, or a checkpoint; never another exception."""
    whole = files.save_lightning(tmp_path / "a.ckpt", {"w": torch.arange(6.0)}, CONFIG).read_bytes()
    content = files.pickle_of(tmp_path / "a.ckpt")
    random = np.random.default_rng(0)
    damaged = tmp_path / "b.ckpt"

    def read() -> ForeignCheckpoint | None:
        try:
            return read_foreign_checkpoint(damaged)
        except CheckpointError:
            return None

    for length in random.integers(0, len(whole), 40):
        damaged.write_bytes(whole[:length])
        assert read() is None
    for _ in range(300):
        changed = bytearray(whole)
        changed[random.integers(len(whole))] = random.integers(256)
        damaged.write_bytes(changed)
        read()
        changed = bytearray(content)
        for place in random.integers(0, len(content), 3):
            changed[place] = random.integers(256)
        files.write_archive(damaged, bytes(changed), {str(k): bytes(24) for k in range(8)})
        read()
