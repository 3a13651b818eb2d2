"""Dense CRF: a saliency map drawn to the edges of its frame, by mean field on a lattice.

    refined = crf.refine(img, saliency, "dss")

Two labels, a Gaussian kernel on positions and a bilateral one on positions and colours (Krähenbühl
and Koltun, NIPS 2011), applied on the permutohedral lattice (Adams, Baek, Davis, Eurographics
2010), the approximation behind all published numbers. Legend: N pixels, d features of a pixel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from vsodpipe.errors import UsageError, unknown

Floats = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """One published way to refine a map."""

    unary: Literal["soft", "labels"]
    """soft: energies of the probabilities; labels: of the map cut by Otsu's threshold."""
    native: bool
    """At the size of the frame, or at that of the network's input."""
    gaussian: tuple[float, float] = (3.0, 3.0)
    """Standard deviation in pixels, and weight of the kernel on positions."""
    bilateral: tuple[float, float, float]
    """Standard deviations in pixels and in grey levels, and weight of the kernel on both."""
    iterations: int
    """Steps of the mean field."""
    median: int = 0
    """Side of the median filter on the labels, which are then the result; 0: probabilities are."""


PARAMETERS = {
    # github.com/Andrew-Qibin/dss_crf, which DBSNet and others of the field link to
    "dss": Parameters(unary="soft", native=True, bilateral=(60.0, 5.0, 5.0), iterations=1),
    # A2S-v2 (Zhou et al., CVPR 2023): the pseudo labels of its first stage
    "a2s": Parameters(
        unary="labels", native=False, bilateral=(50.0, 5.0, 10.0), iterations=10, median=7
    ),
}


def find(name: str) -> Parameters:
    """Return the parameters of that name; UsageError if there are none."""
    if name not in PARAMETERS:
        raise unknown("CRF parameters", name, PARAMETERS)
    return PARAMETERS[name]


def refine(img: NDArray[np.uint8], saliency: Floats, parameters: str = "a2s") -> Floats:
    """Return the refined map, float32 (H, W) in 0..1: probabilities for dss, 0 or 1 for a2s.

    `img` is uint8 RGB (H, W, 3), `saliency` (H, W) in 0..1, taken in 8 bits as the published
    scripts do (dss rounded, a2s cut off). Raises UsageError for other shapes, for values outside
    0..1 and for an unknown name.
    """
    options = find(parameters)
    saliency = np.asarray(saliency, np.float32)
    if img.dtype != np.uint8 or img.ndim != 3 or img.shape[2] != 3 or not img.size:
        raise UsageError(f"CRF: expected uint8 RGB (H, W, 3), got {img.dtype} {img.shape}.")
    if saliency.shape != img.shape[:2]:
        raise UsageError(f"CRF: expected a map of {img.shape[:2]}, got {saliency.shape}.")
    if not (saliency.min() >= 0 and saliency.max() <= 1):  # also refuses NaN
        raise UsageError("CRF: expected a map in 0..1. Apply the sigmoid first.")
    if options.unary == "soft":
        energy = soft_energy(np.rint(saliency * 255) / 255)
    else:
        energy = label_energy(otsu_labels((saliency * 255).astype(np.uint8)))
    probability = marginal(img, energy, options)
    if not options.median:
        return probability
    labels = (probability > 0.5).astype(np.uint8)
    return cv2.medianBlur(labels, options.median).astype(np.float32)


def restored(
    img: NDArray[np.uint8], mean: tuple[float, ...], std: tuple[float, ...]
) -> NDArray[np.uint8]:
    """Return `img` after normalising it and back, as A2S-v2 takes it from its network's input.

    The last step cuts off, so that some grey levels come back one lower.
    """
    normalised = ((img.astype(np.float32) / 255 - np.array(mean)) / np.array(std)).astype(
        np.float32
    )
    back: NDArray[np.uint8] = ((normalised * np.array(std) + np.array(mean)) * 255).astype(np.uint8)
    return back


def mask(labels: Floats, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Return refined labels (H, W), 0 or 1, as a mask file of 0 and 255 at `size`.

    Resized bilinearly and rounded, as A2S-v2 writes its pseudo labels.
    """
    return np.asarray(cv2.resize(labels.astype(np.uint8), size[::-1]) * 255, np.uint8)


def soft_energy(probability: NDArray[np.floating], temperature: float = 1.05) -> Floats:
    """Return the energy of background minus that of foreground, of probabilities (H, W)."""

    def energy(p: NDArray[np.floating]) -> NDArray[np.floating]:
        return -np.log(p + 1e-8) * (1 + np.exp(-p)) / temperature

    p = probability.astype(np.float64)
    difference: Floats = (energy(1 - p) - energy(p)).astype(np.float32)
    return difference


def otsu_labels(grey: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return where an 8-bit map is above its Otsu threshold, which of an even map is 0."""
    threshold, _ = cv2.threshold(grey, 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    above: NDArray[np.bool_] = grey > threshold
    return above


def label_energy(labels: NDArray[np.bool_], certainty: float = 0.7) -> Floats:
    """Return the same difference for labels that are right with probability `certainty`."""
    odds = np.float32(np.log(certainty / (1 - certainty)))
    return np.where(labels, odds, -odds)


def marginal(img: NDArray[np.uint8], energy: Floats, options: Parameters) -> Floats:
    """Return the probability of the foreground, float32 (H, W), after the mean field.

    Of two labels one is enough: their probabilities add up to 1, and so do the filtered ones to
    the filtered 1.
    """
    height, width = energy.shape
    position = np.indices((height, width), np.float32)[::-1].reshape(2, -1)  # (2, N): x, y
    colour = img.reshape(-1, 3).T.astype(np.float32)  # (3, N)
    near, weight = options.gaussian
    far, levels, strength = options.bilateral
    kernels = [
        (Kernel(position / np.float32(near)), weight),
        (
            Kernel(np.concatenate([position / np.float32(far), colour / np.float32(levels)])),
            strength,
        ),
    ]
    unary = energy.ravel()
    logit = unary
    for _ in range(options.iterations):
        q = _sigmoid(logit)
        logit = unary + sum(w * (2 * kernel(q) - kernel.ones) for kernel, w in kernels)
    return _sigmoid(logit).reshape(height, width)


def _sigmoid(logit: Floats) -> Floats:
    probability: Floats = (0.5 * (1 + np.tanh(0.5 * logit))).astype(np.float32)
    return probability


class Kernel:
    """The Gaussian of the distance between pixels, as a filter on all of them, itself included.

    It is D^-1/2 K D^-1/2 with the row sums D of K. `features` are (d, N), in standard deviations.
    """

    def __init__(self, features: Floats) -> None:
        self._vertex, self._share, self._neighbours = _lattice(features)
        # one more vertex than the lattice has: the empty one beside it
        self._count = self._neighbours[0][0].size + 1
        one = np.ones(features.shape[1], np.float32)
        self._scale = one
        self._scale = 1 / np.sqrt(self(one) + np.float32(1e-20))
        self.ones = self(one)
        """The filtered 1, (N,)."""

    def __call__(self, values: Floats) -> Floats:
        """Return `values` (N,) filtered."""
        spread = (self._share * (values * self._scale)).ravel()
        held = np.bincount(self._vertex.ravel(), spread, self._count).astype(np.float32)
        for before, after in self._neighbours:
            held[:-1] += 0.5 * (held[before] + held[after])
        filtered: Floats = (held[self._vertex] * self._share).sum(0) * self._scale
        return filtered


def _lattice(
    features: Floats,
) -> tuple[NDArray[np.intp], Floats, list[tuple[NDArray[np.intp], NDArray[np.intp]]]]:
    """Return the simplex around every pixel in the lattice of d dimensions.

    It is the d+1 vertices (d+1, N), the share of the pixel in each (d+1, N), and for each of the
    d+1 directions the two neighbours of every vertex (V,), where V is the vertex that is empty.
    """
    d, count = features.shape
    corners = d + 1
    lifted = _lift(features)
    # the nearest point whose coordinates are multiples of d+1 ...
    whole = np.rint(lifted / corners).astype(np.int32)
    rest = lifted - corners * whole
    surplus = whole.sum(0)
    # ... and the order of what is left, which names the simplex; equal ones by their place
    rank = np.zeros(lifted.shape, np.int32)
    for i in range(corners):
        for j in range(i + 1, corners):
            less = rest[i] < rest[j]
            rank[i] += less
            rank[j] += ~less
    rank += surplus
    low, high = rank < 0, rank > d
    whole += low
    whole -= high
    rank += corners * (low.astype(np.int32) - high)
    share = _shares((lifted - corners * whole) / corners, rank)

    # a vertex is one whole number: its coordinates as digits, with room for a step either way
    digits = corners * whole[:d].astype(np.int64)
    lowest = digits.min(1) - 2 * corners
    radix = [int(n) for n in digits.max(1) + 2 * corners - lowest + 1]
    place = np.cumprod([1, *radix[:-1]], dtype=np.int64)
    if float(np.prod(np.array(radix, float))) > 2.0**62:
        raise UsageError("CRF: the frame is too large for these kernels. Refine it at less size.")
    origin = (digits - lowest[:, None]).T @ place
    keys = np.empty((corners, count), np.int64)
    for corner in range(corners):
        step = np.where(rank[:d] > d - corner, corner - corners, corner)
        keys[corner] = origin + place @ step
    vertices, index = np.unique(keys, return_inverse=True)
    neighbours = []
    for direction in range(corners):
        offset = int(-place.sum() + (corners * place[direction] if direction < d else 0))
        neighbours.append(_step(vertices, offset))
    return index.reshape(corners, count), share, neighbours


def _lift(features: Floats) -> Floats:
    """Return (d, N) as (d+1, N) on the plane of sum 0, where the lattice blurs by one deviation."""
    d = len(features)
    deviation = np.sqrt(2.0 / 3.0) * (d + 1)
    lifted = np.zeros((d + 1, features.shape[1]), np.float32)
    total = np.zeros(features.shape[1], np.float32)
    for i in range(d, 0, -1):
        scaled = features[i - 1] * np.float32(deviation / np.sqrt(i * (i + 1.0)))
        lifted[i] = total - i * scaled
        total += scaled
    lifted[0] = total
    return lifted


def _shares(rest: Floats, rank: NDArray[np.int32]) -> Floats:
    """Return the barycentric coordinates (d+1, N) of `rest` in its simplex."""
    corners, count = rest.shape
    ordered = np.empty_like(rest)
    np.put_along_axis(ordered, corners - 1 - rank, rest, 0)
    share = ordered - np.concatenate([np.zeros((1, count), np.float32), ordered[:-1]])
    share[0] += 1 - ordered[-1]
    return share


def _step(vertices: NDArray[np.int64], offset: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return for each vertex the one at `offset` and the one that it is at `offset` of."""
    none = len(vertices)
    place = np.searchsorted(vertices, vertices + offset)
    there = vertices[np.minimum(place, none - 1)] == vertices + offset
    before = np.where(there, place, none)
    after = np.full(none, none)
    after[place[there]] = np.flatnonzero(there)
    return before, after
