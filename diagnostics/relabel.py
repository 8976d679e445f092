"""One numbering of the components for all draws of an exchangeable model, or the sentence why there is none.

Every draw's components are matched to a pivot by the responsibilities of the observations: an assignment problem per
draw (`scipy.optimize.linear_sum_assignment`). M draws, N observations, K components.
"""

import math
import warnings
from typing import NamedTuple

import numpy as np
from scipy.cluster.vq import kmeans2
from scipy.optimize import linear_sum_assignment

NUM_ROWS = 500  # observations that are looked at
NUM_ROUNDS = 20
TINY = 1e-12
REFUSED, WARNED = 0.5, 0.1  # of the draws whose components are not a permutation of the clusters


class Relabelling(NamedTuple):
    """The pivot, and what stands against it."""

    pivot: np.ndarray  # (n, K): probabilities that draws are matched to
    reason: str | None  # why the draws should not be relabelled
    warning: str | None
    moved: float  # share of the draws whose labels, as they were, are not in the most common order


def fit(responsibilities, own, order) -> Relabelling:
    """A pivot from M equally weighted draws with responsibilities (M, n, K).

    `own`: the components' own parameters, leaves (M, K, ...), the mixing weights left out; `order`: (M, K), what
    numbers the components. The pivot is the draw whose responsibilities are the most decided (ECR, Papastamoulis &
    Iliopoulos 2010, JCGS 19), then the mean of the relabelled responsibilities, until no label changes (Stephens 2000,
    JRSS B 62, algorithm 2). A third way, that knows nothing of the data, is K-means of the parameters (Fruehwirth-
    Schnatter 2011). Refused where its clusters are no permutation in too many draws (half, or half as many as where
    draws of the components are independent and alike, 1 - K!/K^K), or where two ways have means more than a standard
    deviation within components apart.
    """
    R = np.asarray(responsibilities)
    K = R.shape[2]
    ecr = matched(R, R[np.argmax(np.square(R).sum(axis=(1, 2)))], overlap=True)
    labels = ecr
    for _ in range(NUM_ROUNDS):
        pivot = relabelled(R, labels).mean(axis=0)
        new = matched(R, pivot)
        if (new == labels).all():
            break
        labels = new
    numbering = np.argsort(relabelled(np.asarray(order), labels, axis=1).mean(axis=0), kind="stable")
    labels, pivot = np.argsort(numbering)[labels], pivot[:, numbering]
    moved = 1 - float(np.unique(labels, axis=0, return_counts=True)[1].max() / len(labels))
    if not own:
        return Relabelling(
            pivot, "the components have no parameters of their own to judge a relabelling by", None, moved
        )
    theta = _vectors(own)
    here = relabelled(theta, labels, axis=1)
    clusters = _clusters(theta, here)
    whole = (np.sort(clusters, axis=1) == np.arange(K)).all(axis=1)
    rate = float(1 - whole.mean())
    apart = _apart(here, relabelled(theta, ecr, axis=1))
    if whole.sum() > 1:
        apart = max(apart, _apart(here, relabelled(theta[whole], clusters[whole], axis=1)))
    reason: str | None = None
    warning: str | None = None
    if rate > min(REFUSED, (1 - math.factorial(K) / K**K) / 2):
        reason = f"in {rate:.0%} of the draws the components are not one of each cluster of their parameters"
    elif apart > 1:
        reason = f"two ways of relabelling give components {apart:.1f} of their standard deviations apart"
    elif rate > WARNED:
        warning = f"relabelling is uncertain: in {rate:.0%} of the draws the components are not one of each cluster"
    return Relabelling(pivot, reason, warning, moved)


def matched(responsibilities, pivot, overlap=False) -> np.ndarray:
    """The label of every component of every draw, (M, K): the permutation nearest to the pivot (n, K).

    Nearest: most overlap sum_n r_nk p_nj, else least Kullback-Leibler divergence, sum_n r_nk log(r_nk / p_nj).
    """
    gain = np.einsum("mnk,nj->mkj", responsibilities, pivot if overlap else np.log(pivot + TINY))
    return np.array([linear_sum_assignment(one, maximize=True)[1] for one in gain])


def relabelled(values, labels, axis=2) -> np.ndarray:
    """`values` (M, ...) whose component k, on `axis`, is put where `labels` (M, K) says."""
    inverse = np.argsort(labels, axis=1)
    shape = [1] * np.ndim(values)
    shape[0], shape[axis] = inverse.shape
    return np.take_along_axis(values, inverse.reshape(shape), axis=axis)


def _vectors(own):
    """The components' own parameters as vectors (M, K, d), positive ones as logarithms."""
    flat = [np.reshape(leaf, (*np.shape(leaf)[:2], -1)).astype(float) for leaf in own]
    return np.concatenate([np.log(leaf) if (leaf > 0).all() else leaf for leaf in flat], axis=2)


def _apart(here, there):
    """Largest difference of component means, in sds within components, under the best common numbering."""
    sd = np.minimum(here.std(axis=0)[:, None], there.std(axis=0)[None]) + TINY
    worst = (np.abs(here.mean(axis=0)[:, None] - there.mean(axis=0)[None]) / sd).max(axis=2)
    rows, columns = linear_sum_assignment(np.square(np.minimum(worst, 1e6)))
    return float(worst[rows, columns].max())


def _clusters(theta, here):
    """The cluster of every component of every draw, (M, K), by K-means from the relabelled means."""
    M, K, d = theta.shape
    scale = np.sqrt(here.var(axis=0).mean(axis=0)) + TINY
    points = (theta / scale).reshape(M * K, d)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a cluster that loses its points: then nothing is a permutation
        return kmeans2(points, here.mean(axis=0) / scale, iter=10, minit="matrix")[1].reshape(M, K)
