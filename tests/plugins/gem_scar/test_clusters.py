"""k-means."""

import torch

from gem_scar.clusters import centroids


def test_blobs_are_found():
    generator = torch.Generator().manual_seed(0)
    middles = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    points = (middles[:, None] + 0.1 * torch.randn(3, 20, 2, generator=generator)).reshape(-1, 2)
    found = centroids(points, 3, seed=0)
    distances = torch.cdist(middles, found)
    assert (distances.amin(1) < 0.2).all()
    assert len(set(distances.argmin(1).tolist())) == 3
    assert torch.equal(found, centroids(points, 3, seed=0))


def test_fewer_points_than_clusters():
    points = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    found = centroids(points, 5, seed=3)
    assert found.shape == (5, 2)
    assert torch.cdist(found, points).amin(1).max() < 1e-6
