from __future__ import annotations

import gzip
import shutil

import pytest
import torch

from gncadeq.datasets import PixelGraphs, default_root
from gncadeq.transforms import ImageToGraph


def test_digits_are_split_the_same_way_always(tmp_path):
    train = PixelGraphs(tmp_path, "digits", True)
    test = PixelGraphs(tmp_path, "digits", False)
    assert (len(train), len(test)) == (1437, 360)
    again = PixelGraphs(tmp_path / "other", "digits", False)
    assert torch.equal(test.images, again.images)
    assert int(train.images.max()) == 255
    assert bool((torch.bincount(test.labels, minlength=10) >= 34).all())


def test_mnist_is_read_in_place(mnist_root, tmp_path, monkeypatch):
    monkeypatch.setenv("GNCADEQ_CACHE", str(tmp_path))
    train = PixelGraphs(mnist_root, "mnist", True)
    test = PixelGraphs(mnist_root, "mnist", False)
    assert (len(train), len(test)) == (60_000, 10_000)
    assert test.labels[:5].tolist() == [7, 2, 1, 0, 4]
    assert train.images.float().mean().item() / 255 == pytest.approx(0.1307, abs=1e-4)
    data = test[0]
    assert data.x.shape == (784, 1)
    assert data.y.tolist() == [7]


def test_batch_equals_single_graphs(tmp_path):
    from torch_geometric.data import Batch

    dataset = PixelGraphs(tmp_path, "digits", False, ImageToGraph(living_threshold=0.1))
    index = torch.tensor([5, 0, 7])
    batch = dataset.batch(index)
    single = Batch.from_data_list([dataset[int(i)] for i in index])
    for key in single.keys():  # noqa: SIM118
        assert torch.equal(batch[key], single[key])


def test_works_with_pyg_loaders_and_transforms(tmp_path):
    from torch_geometric.loader import DataLoader

    def mark(data):
        data.marked = True
        return data

    dataset = PixelGraphs(tmp_path, "digits", False, transform=mark)
    assert len(dataset[:20]) == 20
    batch = next(iter(DataLoader(dataset, batch_size=8)))
    assert batch.num_graphs == 8
    assert bool(torch.as_tensor(batch.marked).all())


def test_pre_filter_and_pre_transform(tmp_path):
    calls = []

    def brighten(data):
        calls.append(1)
        data.x = data.x * 0 + 1
        return data

    def keep(data):
        return int(data.y) == 3

    dataset = PixelGraphs(tmp_path, "digits", False, pre_filter=keep, pre_transform=brighten)
    assert len(dataset) == len(calls) > 30
    assert all(bool((data.x == 1).all()) and int(data.y) == 3 for data in dataset)
    assert len(calls) == len(dataset)  # once a graph
    assert dataset.batch(torch.tensor([0, 2])).num_graphs == 2
    assert len(PixelGraphs(tmp_path, "digits", False)) == 360


def test_functions_that_look_alike_do_not_share_their_graphs(tmp_path):
    for digit in range(10):
        dataset = PixelGraphs(
            tmp_path, "digits", False, pre_filter=lambda data, digit=digit: int(data.y) == digit
        )
        assert {int(data.y) for data in dataset} == {digit}


def test_changed_files_are_noticed_and_nothing_is_written(mnist_root, tmp_path):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for file in (mnist_root / "MNIST" / "raw").glob("t10k*.gz"):
        (raw / file.stem).write_bytes(gzip.decompress(file.read_bytes()))
    for kind in ("images-idx3-ubyte", "labels-idx1-ubyte"):  # not needed for the test set
        (raw / f"train-{kind}").write_bytes(b"")
    first = PixelGraphs(tmp_path, "mnist", False)
    labels = raw / "t10k-labels-idx1-ubyte"
    content = labels.read_bytes()
    labels.write_bytes(content[:8] + bytes(9 - label for label in content[8:]))
    assert torch.equal(PixelGraphs(tmp_path, "mnist", False).labels, 9 - first.labels)
    assert [p.name for p in tmp_path.rglob("*") if p.is_dir()] == ["MNIST", "raw"]


def _copy(mnist_root, tmp_path):
    raw = tmp_path / "MNIST" / "raw"
    shutil.copytree(mnist_root / "MNIST" / "raw", raw)
    for file in raw.iterdir():
        file.chmod(0o644)
    raw.chmod(0o755)
    return raw


def test_corrupt_and_truncated_files(mnist_root, tmp_path):
    raw = _copy(mnist_root, tmp_path)
    images = raw / "t10k-images-idx3-ubyte.gz"
    content = images.read_bytes()
    images.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"t10k-images-idx3-ubyte.gz.*checksum.*Delete it"):
        PixelGraphs(tmp_path, "mnist", False)
    images.unlink()
    unpacked = raw / "t10k-images-idx3-ubyte"
    unpacked.write_bytes(gzip.decompress(content)[:-9])
    with pytest.raises(ValueError, match="truncated"):
        PixelGraphs(tmp_path, "mnist", False)
    unpacked.write_bytes(gzip.decompress(content))
    assert len(PixelGraphs(tmp_path, "mnist", False)) == 10_000  # unpacked files do as well


def test_no_files_and_no_network(tmp_path, monkeypatch):
    import torchvision

    def offline(self):
        raise RuntimeError("no network")

    monkeypatch.setattr(torchvision.datasets.MNIST, "download", offline)
    with pytest.raises(FileNotFoundError) as caught:
        PixelGraphs(tmp_path, "mnist")
    message = str(caught.value)
    assert str(tmp_path / "MNIST" / "raw") in message
    assert message.count(".gz") == 4
    assert "digits" in message
    assert "GNCADEQ_DATA" in message


def test_names_and_roots(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="got 'cifar'"):
        PixelGraphs(tmp_path, "cifar")
    monkeypatch.delenv("GNCADEQ_DATA", raising=False)
    assert str(default_root()) == "datasets"
    monkeypatch.setenv("GNCADEQ_DATA", str(tmp_path))
    assert default_root() == tmp_path
    assert len(PixelGraphs(name="digits", train=False)) == 360
    assert not list(tmp_path.iterdir())
