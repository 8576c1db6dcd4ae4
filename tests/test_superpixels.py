from __future__ import annotations

import sys

import pytest
import scipy.ndimage
import torch
from safetensors.torch import save
from torch_geometric.data import Batch
from torch_geometric.loader import DataLoader

from gncadeq import PixelGraphClassifier
from gncadeq.datasets import Superpixels, image_dataset, superpixel_graphs
from gncadeq.datasets.sources import load_images
from gncadeq.transforms import ImageToGraph, ImageToSuperpixels
from gncadeq.transforms.points import nearest_neighbors
from gncadeq.transforms.superpixels import compass_relations, slic

pytest.importorskip("skimage", reason="needs scikit-image, of the superpixels extra")

PIXELS = ImageToSuperpixels(None, living_threshold=0.1)


def blobs(channels=1, height=28, width=28):
    """A few smooth bright spots on black."""
    row, col = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    spots = torch.rand(channels, 3, 2) * torch.tensor([height, width])
    square = (row - spots[..., :1, None]) ** 2 + (col - spots[..., 1:, None]) ** 2
    return (-square / 20).exp().amax(1)


def brute_force(pos, k):
    distance = torch.cdist(pos, pos).fill_diagonal_(float("inf"))
    return distance.sort(1)[0][:, :k]


def test_nearest_neighbors_are_those_of_each_graph_alone():
    sizes = [20, 3, 1, 9]
    graphs = [torch.rand(n, 2, dtype=torch.double) for n in sizes]
    batch = torch.arange(4).repeat_interleave(torch.tensor(sizes))
    source, target = nearest_neighbors(torch.cat(graphs), 4, batch)
    assert torch.equal(batch[source], batch[target])
    assert bool((source != target).all())
    first = 0
    for pos in graphs:
        n, k = len(pos), min(4, len(pos) - 1)
        own = (target >= first) & (target < first + n)
        assert torch.equal(target[own] - first, torch.arange(n).repeat_interleave(k))
        length = (pos[source[own] - first] - pos[target[own] - first]).norm(dim=1)
        assert torch.allclose(length.view(n, k), brute_force(pos, k))
        first += n


def test_coincident_points_have_neighbors_but_themselves():
    source, target = nearest_neighbors(torch.zeros(12, 2), 3)
    assert torch.equal(target, torch.arange(12).repeat_interleave(3))
    assert bool((source != target).all())


def test_segments_are_connected_numbered_and_not_too_many():
    for image in (blobs(), blobs(3, 20, 31), torch.zeros(1, 9, 9), torch.rand(2, 1, 1)):
        label = slic(image, 40)
        assert label.shape == image.shape[1:]
        kinds = label.unique()
        assert torch.equal(kinds, torch.arange(len(kinds)))
        assert len(kinds) <= 40
        for kind in kinds:
            assert scipy.ndimage.label((label == kind).numpy())[1] == 1


def test_segments_follow_what_they_show():
    image = torch.zeros(1, 28, 28)
    image[:, :, 11:] = 1.0
    data = ImageToSuperpixels(compactness=0.05)(image)
    assert sorted(data.x[:, 0].unique().tolist()) == [0.0, 1.0]
    assert bool((data.pos[data.x[:, 0] == 0, 0] < 10.5).all())
    assert bool((data.pos[data.x[:, 0] == 1, 0] > 10.5).all())


def test_small_segments_are_kept_if_they_may_be_small():
    image = blobs()
    errors = []
    for min_size in (0.1, 1.0):
        x, _, _, node = ImageToSuperpixels(min_size=min_size).nodes(image[None])
        errors.append(float((x[node[0], 0] - image[0]).square().mean()))
    assert errors[0] < errors[1]


def test_means_keep_what_the_image_holds():
    images = torch.stack([blobs(2), blobs(2)]).double()
    x, pos, count, node = ImageToSuperpixels().nodes(images)
    size = torch.bincount(node.flatten()).double()
    owner = torch.arange(2).repeat_interleave(count)
    total = torch.zeros(2, 2, dtype=torch.double).index_add_(0, owner, size[:, None] * x[:, :2])
    assert torch.allclose(total, images.sum((2, 3)))
    place = torch.zeros(2, 2, dtype=torch.double).index_add_(0, owner, size[:, None] * pos)
    assert torch.allclose(place / 784, torch.full((2, 2), 13.5, dtype=torch.double))
    assert torch.allclose(x[:, 2:] * 28, pos + 0.5)


def test_on_a_full_grid_neighbors_and_relations_are_those_of_the_pixel_graph():
    image = torch.rand(1, 7, 9)
    grid, data = ImageToGraph()(image), ImageToSuperpixels(None, edges="relation")(image)
    assert torch.equal(data.x[:, :1], grid.x)
    assert torch.equal(data.pos, grid.pos)
    inner = ((grid.pos > 0) & (grid.pos < torch.tensor([8, 6]))).all(1)

    def edges(graph):
        kept = inner[graph.edge_index[1]]
        return set(zip(*graph.edge_index[:, kept].tolist(), graph.edge_attr[kept].tolist()))  # noqa: B905

    assert edges(data) == edges(grid)
    assert len(edges(data)) == 8 * int(inner.sum())


def test_polar_edges_lead_from_the_target_to_the_source():
    image = blobs()
    data = ImageToSuperpixels()(image)
    length, direction = data.edge_attr[:, :1], data.edge_attr[:, 1:]
    offset = data.pos[data.edge_index[0]] - data.pos[data.edge_index[1]]
    assert torch.allclose(length * direction * (784 / 75) ** 0.5, offset, atol=1e-5)
    relation = ImageToSuperpixels(edges="relation")(image).edge_attr
    assert torch.equal(relation, compass_relations(offset))
    step = torch.stack([relation % 3 - 1, relation // 3 - 1], 1).float()
    cosine = torch.nn.functional.cosine_similarity(step, direction)
    assert float(cosine.min()) >= torch.cos(torch.tensor(torch.pi / 8)).item() - 1e-5


def test_a_batch_is_the_batch_of_single_graphs():
    images = torch.stack([blobs(), blobs(), blobs()])
    for to_graph in (ImageToSuperpixels(), PIXELS):
        batch = to_graph.batch(images, torch.arange(3))
        single = Batch.from_data_list([to_graph(image) for image in images])
        for key in single.keys():  # noqa: SIM118
            assert torch.equal(batch[key], single[key])
        assert batch[1].y.tolist() == [1]


def test_a_graph_may_have_fewer_nodes_than_neighbors():
    image = torch.zeros(1, 5, 5)
    image[0, 1, 1:4] = 1.0
    data = PIXELS(image)
    assert data.num_nodes == 3
    assert sorted(map(tuple, data.edge_index.t().tolist())) == [
        (i, j) for i in range(3) for j in range(3) if i != j
    ]
    image[0, 1, 2:] = 0.0
    assert PIXELS(image).edge_attr.shape == (0, 3)


def test_the_model_of_pixel_grids_solves_superpixels_in_a_batch_as_alone():
    to_graph = ImageToSuperpixels(edges="relation")
    images = torch.stack([blobs(), blobs()])
    model = PixelGraphClassifier(3, 6, 16, contraction=0.9, deq={"tol": 1e-5}).eval()
    batch = to_graph.batch(images)
    z, _, solution = model.settle(batch.x, batch.edge_index, batch.edge_attr, batch.batch)
    assert bool(solution.converged.all())
    for image, steps, own in zip(images, solution.num_steps, (0, 1), strict=True):
        data = to_graph(image)
        alone, _, one = model.settle(data.x, data.edge_index, data.edge_attr)
        assert int(one.num_steps) == int(steps)
        assert torch.allclose(z[batch.batch == own], alone, atol=1e-5)


def test_cached_graphs_are_those_of_the_transform(tmp_path):
    for edges in ("polar", "relation"):
        to_graph = ImageToSuperpixels(None, edges=edges, living_threshold=0.1, k=5)
        dataset = Superpixels(tmp_path, "digits", False, to_graph, limit=30)
        assert len(dataset) == 30
        images, labels = load_images(tmp_path, "digits", False)
        index = torch.tensor([3, 29, 0])
        expected = to_graph.batch(images[index].float() / 255, labels[index])
        batch = dataset.batch(index)
        for key in expected.keys():  # noqa: SIM118
            assert torch.equal(batch[key], expected[key]), key
        loaded = next(iter(DataLoader(dataset[index], batch_size=3)))
        assert torch.equal(loaded.edge_attr, expected.edge_attr)
    assert len(list(tmp_path.rglob("superpixels/t*.safetensors"))) == 1  # edges are not cached
    Superpixels(tmp_path, "digits", False, PIXELS, limit=30)
    Superpixels(tmp_path, "digits", True, PIXELS, limit=30)
    assert len(list(tmp_path.rglob("superpixels/t*.safetensors"))) == 3
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_damaged_cache_is_made_anew(tmp_path):
    whole = Superpixels(tmp_path, "digits", False, PIXELS, limit=5)
    (cache,) = tmp_path.rglob("superpixels/t*.safetensors")
    content = cache.read_bytes()
    flipped = content[:-1] + bytes([content[-1] ^ 1])
    for damaged in (content[: len(content) // 2], b"", flipped, save({"x": torch.ones(2)})):
        cache.write_bytes(damaged)
        again = Superpixels(tmp_path, "digits", False, PIXELS, limit=5)
        assert torch.equal(again[4].edge_attr, whole[4].edge_attr)
        assert cache.read_bytes()[-100:] == content[-100:]  # the order of the header is free


def test_the_cache_is_named_after_the_images_and_the_options(tmp_path, monkeypatch):
    def caches():
        return {p.name for p in tmp_path.rglob("superpixels/t*.safetensors")}

    Superpixels(tmp_path, "digits", False, PIXELS, limit=5)
    first = caches()
    Superpixels(tmp_path, "digits", False, ImageToSuperpixels(None, k=3), limit=5)
    assert len(caches()) == 2
    images, labels = load_images(tmp_path, "digits", False)
    monkeypatch.setattr(image_dataset, "load_images", lambda *_: (images.flip(3), labels))
    changed = Superpixels(tmp_path, "digits", False, PIXELS, limit=5)
    assert len(caches()) == 3
    assert first < caches()
    assert not torch.equal(changed.x, Superpixels(tmp_path, "digits", False, PIXELS, limit=6).x)


def test_without_room_for_a_cache_the_work_is_kept(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device", "cache")

    monkeypatch.setattr(superpixel_graphs, "write_tensors", full)
    with pytest.warns(UserWarning, match=r"not cached.*No space left.*GNCADEQ_CACHE"):
        assert len(Superpixels(tmp_path, "digits", False, PIXELS, limit=5)) == 5


def test_mnist_has_40_to_75_superpixels_as_in_the_benchmark(mnist_root, tmp_path, monkeypatch):
    monkeypatch.setenv("GNCADEQ_CACHE", str(tmp_path))
    dataset = Superpixels(mnist_root, "mnist", False, limit=60)
    assert int(dataset.count.min()) >= 40
    assert 50 < int(dataset.count.max()) <= 75
    assert dataset[0].y.tolist() == [7]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_segments": 0}, "num_segments"),
        ({"compactness": 0.0}, "compactness"),
        ({"k": 0}, "'k'"),
        ({"min_size": 2.0}, "min_size"),
        ({"edges": "angle"}, "edges"),
        ({"living_threshold": 1.0}, "living_threshold"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ImageToSuperpixels(**options)


def test_what_is_wrong_is_named(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="in image 1"):
        PIXELS.batch(torch.stack([torch.ones(1, 4, 4), torch.zeros(1, 4, 4)]))
    with pytest.raises(ValueError, match=r"\[C, H, W\]"):
        ImageToSuperpixels()(torch.rand(28, 28))
    with pytest.raises(ValueError, match=r"\[B, C, H, W\]"):
        ImageToSuperpixels().batch(torch.rand(1, 28, 28))
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        ImageToSuperpixels()(255 * torch.ones(1, 28, 28))
    with pytest.raises(ValueError, match="limit"):
        Superpixels(tmp_path, "digits", limit=0)
    monkeypatch.setitem(sys.modules, "skimage.segmentation", None)
    with pytest.raises(ImportError, match=r"gncadeq\[superpixels\]"):
        ImageToSuperpixels()(blobs())
    assert PIXELS(torch.ones(1, 4, 4)).num_nodes == 16
