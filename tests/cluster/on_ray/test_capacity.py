"""Whether a cluster has room is said before a training starts, with what to change."""

from types import SimpleNamespace

import pytest

from cluster.on_ray.capacity import Cluster, Node, _addable, site_on
from data.errors import ConfigError
from flows.placement import Placement


def cluster(*nodes: tuple[float, float], addable: tuple[tuple[float, float], ...] = ()) -> Cluster:
    made = [Node(str(k), f"node{k}", *sizes) for k, sizes in enumerate(nodes)]
    return Cluster(tuple(made), tuple(Node("", "group", *sizes) for sizes in addable))


def on_ray(workers: int, cpus: float = 1.0, gpus: float = 0.0, **more: object) -> Placement:
    asked = {"workers": workers, "cpus_per_worker": cpus, "gpus_per_worker": gpus} | more
    return Placement(on="ray", **asked)  # type: ignore[arg-type]


def test_room_is_counted_node_by_node_and_not_by_the_sum():
    """Six cores in all, yet workers of two cores find two places on nodes of three."""
    assert site_on(cluster((3, 0), (3, 0)), on_ray(2, cpus=2)).workers == 2
    with pytest.raises(ConfigError, match=r"needs 3 workers of 2 cores, and the cluster has room for 2 .*--workers 2"):
        site_on(cluster((3, 0), (3, 0)), on_ray(3, cpus=2))


def test_the_scarcer_resource_counts():
    with pytest.raises(ConfigError, match=r"2 workers of 1 core and 1 GPU, and the cluster has room for 1"):
        site_on(cluster((16, 1), (16, 0)), on_ray(2, gpus=1))
    with pytest.raises(ConfigError, match="None of its nodes has a GPU: leave out --gpus-per-worker"):
        site_on(cluster((16, 0)), on_ray(1, gpus=1))
    with pytest.raises(ConfigError, match=r"The largest node has 4 cores: take a smaller --cpus-per-worker"):
        site_on(cluster((4, 0), (2, 0)), on_ray(1, cpus=8))


def test_shares_that_are_no_binary_fractions_fill_a_node():
    assert site_on(cluster((1, 1)), on_ray(10, cpus=0.1, gpus=0.1)).on_one_gpu == 10


def test_an_elastic_training_needs_room_for_its_fewest_only():
    site = site_on(cluster((1, 0), (1, 0)), on_ray(4, min_workers=2))
    assert "4 workers" in site.words
    assert "begins with 2" in site.words
    with pytest.raises(ConfigError, match=r"needs at least 3 workers of 1 core, and the cluster has room for 2"):
        site_on(cluster((1, 0), (1, 0)), on_ray(4, min_workers=3))


def test_nodes_that_an_autoscaler_may_add_count():
    small = cluster((1, 0), addable=((2, 0), (2, 0)))
    assert "nodes will be added" in site_on(small, on_ray(4)).words
    with pytest.raises(ConfigError, match="room for 1"):
        site_on(small, on_ray(5))


def test_what_an_autoscaler_may_add_is_read_from_its_configuration():
    groups = [
        SimpleNamespace(name="cpu", resources={"CPU": 8}, max_count=2),
        SimpleNamespace(name="gpu", resources={"CPU": 16, "GPU": 4}, max_count=1),
    ]
    assert [(node.cpus, node.gpus) for node in _addable(SimpleNamespace(node_group_configs=groups))] == [
        (8, 0),
        (8, 0),
        (16, 4),
    ]
    assert _addable(None) == ()


def test_workers_that_may_share_a_machine_are_counted_for_its_memory():
    assert site_on(cluster((1, 0), (3, 0)), on_ray(4)).together == 3
    assert site_on(cluster((8, 0)), on_ray(2)).together == 2
