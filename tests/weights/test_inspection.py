"""Hostile files of weights: none may run code or claim more than it has; nothing here may be opened by torch."""

import io
import pickle
import struct
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch
from hostile import MakesFolder, write_torchscript

from cellseg_d2.errors import CellSegError
from cellseg_d2.weights.inspection import LARGEST_PICKLE, LEGACY_MAGIC, check_torch_file

TENSORS = {
    "model": {"weight": torch.arange(6.0).reshape(2, 3).T, "steps": torch.tensor(3), "none": torch.zeros(0, 4)},
    "half": torch.arange(8).bfloat16()[2:5],
    "bool": torch.ones(2, dtype=torch.bool),
    "text": "CELLSEG: {}",
    "list": [1, 2.5, None, ("text", torch.nn.Parameter(torch.ones(2)))],
}


def write_archive(
    path: Path, content: bytes, storages: dict[str, bytes], extra: dict[str, bytes] | None = None
) -> Path:
    """An archive as torch.save writes it, around a pickle of one's choice."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", content)
        archive.writestr("archive/version", "3\n")
        for key, data in storages.items():
            archive.writestr(f"archive/data/{key}", data)
        for name, data in (extra or {}).items():
            archive.writestr(name, data)
    return path


def tensor_pickle(items: int, size: str, offset: int = 0) -> bytes:
    """``{"w": tensor}`` over a float storage ``0``; ``size`` is the pickle of the shape's tuple."""
    shape = pickle.dumps(eval(size), protocol=2)[2:-1]
    strides = pickle.dumps((1,) * len(eval(size)), protocol=2)[2:-1]
    return (
        b"\x80\x02}X\x01\x00\x00\x00wctorch._utils\n_rebuild_tensor_v2\n"
        b"((X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu"
        + pickle.dumps(items, protocol=2)[2:-1]
        + b"tQ"
        + pickle.dumps(offset, protocol=2)[2:-1]
        + shape
        + strides
        + b"\x89ccollections\nOrderedDict\n)RtRs."
    )


def assert_refused(path: Path, reason: str) -> None:
    with pytest.raises(CellSegError, match=reason) as caught:
        check_torch_file(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("zipped", [True, False])
def test_what_torch_saves_is_admitted(tmp_path, zipped):
    path = tmp_path / "model.pth"
    torch.save(TENSORS, path, _use_new_zipfile_serialization=zipped)
    assert bool(check_torch_file(path)) == zipped
    assert torch.load(path, weights_only=True)["text"] == TENSORS["text"]


def test_a_training_checkpoint_is_admitted(tmp_path):
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(torch.ones(1, 3, 8, 8)).sum().backward()
    optimizer.step()
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [3, 5])
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "rng": torch.get_rng_state()}
    torch.save({**state, "scheduler": {"last_epoch": scheduler.last_epoch}}, tmp_path / "model.pth")
    check_torch_file(tmp_path / "model.pth")


def test_hand_made_archives_are_admitted_where_all_sizes_are_true(tmp_path):
    path = write_archive(tmp_path / "a.pth", tensor_pickle(4, "(2, 1)"), {"0": bytes(16)})
    check_torch_file(path)


def test_one_bit_that_differs_is_refused(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save({"w": torch.ones(1000)}, path)
    with zipfile.ZipFile(path) as archive:
        start = next(entry for entry in archive.infolist() if entry.filename.endswith("data/0")).header_offset
    content = bytearray(path.read_bytes())
    content[start + 2000] ^= 64
    path.write_bytes(content)
    assert not torch.load(path, weights_only=True)["w"].eq(1).all()  # torch takes it
    assert_refused(path, r"data/0' has another checksum than it had when it was written; copy it again")


def test_torchscript_is_refused_and_its_code_does_not_run(tmp_path):
    target = tmp_path / "target"
    path = write_torchscript(tmp_path / "evil.pth", target)
    assert_refused(path, "TorchScript archive")
    assert not target.exists()


@pytest.mark.parametrize(
    "name", ["archive/constants.pkl", "archive/code/x.py", "archive/inner.zip", "archive/data/a", "b"]
)
def test_entries_that_torch_save_does_not_write_are_refused(tmp_path, name):
    assert_refused(write_archive(tmp_path / "a.pth", b"\x80\x02}.", {}, {name: b""}), "the entry")


def test_entries_of_two_folders_are_refused(tmp_path):
    assert_refused(write_archive(tmp_path / "a.pth", b"\x80\x02}.", {}, {"other/version": b"3"}), "one archive")


def test_a_name_that_ends_at_a_zero_byte_for_some_readers_is_refused(tmp_path):
    path = write_archive(tmp_path / "a.pth", b"\x80\x02}.", {}, {"archive/constants_pkl\0x": b""})
    path.write_bytes(path.read_bytes().replace(b"constants_pkl", b"constants.pkl"))
    with pytest.raises(CellSegError):
        check_torch_file(path)


def test_a_compressed_archive_is_refused(tmp_path):
    path = tmp_path / "bomb.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", tensor_pickle(10**7, "(10,)"))
        archive.writestr("archive/data/0", bytes(4 * 10**7))
    assert path.stat().st_size < 10**6
    assert_refused(path, "compressed")


def test_entries_that_overlap_are_refused(tmp_path):
    """A file of 1 MB whose 20 entries are all the same bytes."""
    path = tmp_path / "bomb.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}.")
        archive.writestr("archive/data/0", bytes(10**6))
        first = archive.infolist()[1]
        for number in range(1, 20):
            entry = zipfile.ZipInfo(f"archive/data/{number}")
            entry.header_offset, entry.CRC = first.header_offset, first.CRC
            entry.file_size = entry.compress_size = first.file_size
            archive.filelist.append(entry)
            archive.NameToInfo[entry.filename] = entry
    assert_refused(path, "headers")


def test_an_archive_behind_other_bytes_is_refused(tmp_path):
    path = write_archive(tmp_path / "a.pth", b"\x80\x02}.", {})
    path.write_bytes(b"PK\x03\x04" + bytes(60) + path.read_bytes())
    with pytest.raises(CellSegError):
        check_torch_file(path)


def test_an_archive_with_bytes_behind_it_is_refused(tmp_path):
    path = write_archive(tmp_path / "a.pth", b"\x80\x02}.", {})
    path.write_bytes(path.read_bytes() + b"more")
    assert_refused(path, "does not end where the file ends")


@pytest.mark.parametrize(
    ("items", "size", "offset", "reason"),
    [
        (10**12, "(10,)", 0, "another size"),
        (3, "(2,)", 0, "another size"),
        (4, "(5,)", 0, "has a storage of 4 items"),
        (4, "(1,)", 4, "has a storage of 4 items"),
        (4, "(2, 10**9)", 0, "has a storage of 4 items"),
        (4, "(-1,)", 0, "no storage|none"),
        (4, "('a',)", 0, "none"),
    ],
)
def test_tensors_that_claim_more_than_they_have_are_refused(tmp_path, items, size, offset, reason):
    assert_refused(write_archive(tmp_path / "a.pth", tensor_pickle(items, size, offset), {"0": bytes(16)}), reason)


def test_a_pickle_that_is_too_large_is_refused(tmp_path):
    content = b"\x80\x02" + b"N0" * (LARGEST_PICKLE // 2) + b"}."
    assert_refused(write_archive(tmp_path / "a.pth", content, {}), "data.pkl has")


@pytest.mark.parametrize("kind", ["archive", "legacy", "plain", "in the keys"])
def test_pickles_that_ask_for_a_function_are_refused_unrun(tmp_path, kind):
    hostile, path = pickle.dumps(MakesFolder(tmp_path / "made"), protocol=2), tmp_path / "a.pth"
    legacy = [LEGACY_MAGIC, pickle.dumps(1001, 2), pickle.dumps({}, 2)]
    if kind == "archive":
        write_archive(path, hostile, {})
    elif kind == "legacy":
        path.write_bytes(b"".join([*legacy, hostile, pickle.dumps([], 2)]))
    elif kind == "in the keys":
        path.write_bytes(b"".join([*legacy, pickle.dumps({}, 2), hostile]))
    else:
        path.write_bytes(hostile)
    assert_refused(path, "neither" if kind == "plain" else "asks for .*mkdir")
    assert not (tmp_path / "made").exists()


def test_a_legacy_file_that_is_cut_is_refused(tmp_path):
    path = tmp_path / "model.pth"
    torch.save({"w": torch.ones(1000)}, path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes()[:-2000])
    assert_refused(path, "larger than the file")


def test_tar_archives_are_refused(tmp_path):
    path = tmp_path / "model.pth"
    with tarfile.open(path, "w") as archive:
        archive.add(__file__, "storages")
    assert_refused(path, "neither")


def test_a_tar_archive_that_begins_as_a_legacy_file_is_refused(tmp_path):
    """The magic number is the first member's name: torch would unpack the archive."""
    path, member = tmp_path / "model.pth", tarfile.TarInfo("name")
    header = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    header[: len(LEGACY_MAGIC) + 1] = LEGACY_MAGIC + b"\0"
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    path.write_bytes(bytes(header) + bytes(1024))
    assert tarfile.is_tarfile(path)
    assert_refused(path, "tar archive")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"PK\x05\x06" + bytes(18), LEGACY_MAGIC, b"text", bytes(100)])
def test_damaged_files_are_refused(tmp_path, content):
    path = tmp_path / "model.pth"
    path.write_bytes(content)
    assert_refused(path, "is no checkpoint of tensors")


def test_an_archive_cut_or_changed_anywhere_is_refused_or_harmless(tmp_path):
    """Damage ends in one line, never in another exception."""
    stream = io.BytesIO()
    torch.save(TENSORS, stream)
    whole, path = stream.getvalue(), tmp_path / "model.pth"
    for place in range(0, len(whole), 37):
        for damaged in (whole[:place], whole[:place] + struct.pack("B", whole[place] ^ 0xFF) + whole[place + 1 :]):
            path.write_bytes(damaged)
            try:
                check_torch_file(path)
            except CellSegError:
                continue
            assert len(damaged) == len(whole)
