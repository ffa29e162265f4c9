"""The classical methods of P3 as baselines: threshold, edge, region growing, clustering and graph cut.

None of them knows what a bone is. Each gets the same crop as the networks and one thing learnt: where radius and ulna lie on
average (`prior`, the mean outline of the training crops), which gives seeds and tells the two bones apart.
"""

from collections.abc import Callable, Mapping
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from scipy.cluster.vq import kmeans2
from scipy.sparse import coo_array
from scipy.sparse.csgraph import breadth_first_order, maximum_flow
from skimage.feature import canny
from skimage.filters import threshold_otsu
from skimage.segmentation import watershed
from torch import Tensor, nn

Levels = NDArray[np.float32]
Mask = NDArray[np.bool_]

SURE: Final = 0.8  # share of the training crops whose outline covers a pixel from which on it is a seed
NEVER: Final = 0.02  # share below which a pixel is a seed of the background
_CUT_SIDE: Final = 96  # the graph of a cut has a node a pixel: larger crops are cut at this side
_FLOW_UNIT: Final = 1000  # capacities are whole numbers


def _threshold(film: Levels, prior: Levels) -> Mask:
    """Brighter than Otsu's threshold of the place where bone may be."""
    possible = prior[0] < 1 - NEVER
    bone: Mask = possible & (film > threshold_otsu(film[possible]))  # type: ignore[no-untyped-call]
    return bone


def _edge(film: Levels, prior: Levels) -> Mask:
    """Inside closed edges: Canny's edges, closed, filled from the seeds."""
    edges = canny(film, sigma=film.shape[0] / 64, low_threshold=0.05, high_threshold=0.15)  # type: ignore[no-untyped-call]
    walls = ndimage.binary_closing(edges, iterations=2)
    pieces, _ = ndimage.label(~walls & (prior[0] < 1 - NEVER))
    seeds = pieces[prior[0] < 1 - SURE]
    inside = np.isin(pieces, np.unique(seeds[seeds > 0]))
    bone: Mask = ndimage.binary_dilation(inside, iterations=2) & (prior[0] < 1 - NEVER)
    return bone


def _region_growing(film: Levels, prior: Levels) -> Mask:
    """Grow the seeds over the gradient until bone and background meet (watershed from markers)."""
    gradient = ndimage.gaussian_gradient_magnitude(film, film.shape[0] / 96)
    marks = np.zeros(film.shape, np.int32)
    marks[prior[0] > 1 - NEVER] = 1
    marks[prior[0] < 1 - SURE] = 2
    grown: Mask = watershed(gradient, marks) == 2  # type: ignore[no-untyped-call]
    return grown


def _clustering(film: Levels, prior: Levels) -> Mask:
    """Group pixels by grey level, its surroundings and place (k-means); a group is bone where the prior says so."""
    soft = ndimage.gaussian_filter(film, film.shape[0] / 48)
    rows, columns = np.indices(film.shape) / film.shape[0] - 0.5
    features = np.stack((film, soft, 2 * rows, 4 * columns), axis=-1).reshape(-1, 4)
    _, group = kmeans2(features, 12, minit="++", rng=np.random.default_rng(0))
    bone = 1 - prior[0].ravel()
    share = np.bincount(group, bone, 12) / np.maximum(np.bincount(group, minlength=12), 1)
    found: Mask = (share[group] > 0.5).reshape(film.shape)
    return found


def _graph_cut(film: Levels, prior: Levels) -> Mask:
    """Cut the cheapest border (Boykov 2001): grey levels by two Gaussians and the prior, edges where levels change little."""
    zoom = min(1.0, _CUT_SIDE / film.shape[0])
    small = ndimage.zoom(film, zoom, order=1)
    bone = np.clip(1 - ndimage.zoom(prior[0], zoom, order=1), 1e-3, 1 - 1e-3)
    cost = []
    for weight in (bone, 1 - bone):
        mean = float((weight * small).sum() / weight.sum())
        spread = float(np.sqrt((weight * (small - mean) ** 2).sum() / weight.sum())) + 1e-3
        cost.append(0.5 * ((small - mean) / spread) ** 2 + np.log(spread) - np.log(weight))
    apart = (cost[1] - cost[0]).ravel()  # above 0: bone is likelier
    nodes = np.arange(small.size).reshape(small.shape)
    starts, ends, capacities = [], [], []
    for first, second in ((np.s_[:, :-1], np.s_[:, 1:]), (np.s_[:-1], np.s_[1:])):
        alike = np.exp(-((small[first] - small[second]) ** 2) / (2 * 0.2**2)).ravel()
        for a, b in ((nodes[first], nodes[second]), (nodes[second], nodes[first])):
            starts.append(a.ravel())
            ends.append(b.ravel())
            capacities.append(2.0 * alike)
    source, sink = small.size, small.size + 1
    likely, unlikely = np.flatnonzero(apart > 0), np.flatnonzero(apart <= 0)
    starts += [np.full(len(likely), source), unlikely]
    ends += [likely, np.full(len(unlikely), sink)]
    capacities += [apart[likely], -apart[unlikely]]
    units = np.minimum(np.concatenate(capacities) * _FLOW_UNIT, 1e6).astype(np.int32)
    graph = coo_array((units, (np.concatenate(starts), np.concatenate(ends))), shape=(sink + 1, sink + 1)).tocsr()
    left = graph - maximum_flow(graph, source, sink).flow
    left.data[left.data < 0] = 0
    left.eliminate_zeros()
    reached = np.zeros(sink + 1, np.bool_)
    reached[breadth_first_order(left, source, return_predecessors=False)] = True
    whole: Mask = ndimage.zoom(reached[:-2].reshape(small.shape).astype(np.float32), 1 / zoom, order=1) > 0.5
    return whole


METHODS: Final[Mapping[str, Callable[[Levels, Levels], Mask]]] = {
    "threshold": _threshold,
    "edge": _edge,
    "region-growing": _region_growing,
    "clustering": _clustering,
    "graph-cut": _graph_cut,
}


class Classical(nn.Module):
    """One of the methods behind the door of a network; it has no weights, only the prior."""

    prior: Tensor  # (3, size, size) mean share of background, ulna, radius

    def __init__(self, method: str, size: int) -> None:
        """Build it for crops of `size` pixels; the prior is all background until it is filled."""
        super().__init__()
        self.method = METHODS[method]
        empty = torch.zeros(3, size, size)
        empty[0] = 1
        self.register_buffer("prior", empty)

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, 1, size, size) to scores (n, 3, size, size): 10 where a class was decided for, else 0."""
        prior = self.prior.float().numpy()
        return torch.stack([torch.from_numpy(self._one(film, prior)) for film in x[:, 0].float().numpy()])

    def _one(self, film: Levels, prior: Levels) -> Levels:
        scores = np.zeros((3, *film.shape), np.float32)
        scores[0] = 10
        if (prior[0] > 1 - NEVER).all() or float(film.std()) < 1e-6:
            return scores  # nothing is known of where a bone lies, or nothing is on the crop
        bone = ndimage.binary_opening(self.method(film, prior))
        pieces, count = ndimage.label(bone)
        for piece in range(1, count + 1):
            here = pieces == piece
            if (1 - prior[0][here]).mean() < 0.25:
                continue  # a carpal bone, a marker
            nearer = prior[2] >= prior[1]  # a piece that holds both bones is parted where their priors meet
            scores[1][here & ~nearer], scores[2][here & nearer], scores[0][here] = 10, 10, 0
        return scores
