"""A factor of J levels -> its J × (J - 1) contrast matrix and the suffixes of the columns' names, as in R.

To add a coding: an entry in `CODINGS`, a function of the labels.
"""

import numpy as np


def treatment(labels: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Each level against the first."""
    return np.eye(len(labels))[:, 1:], [str(v) for v in labels[1:]]


def sum_to_zero(labels: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Each level but the last against the mean of all."""
    k = len(labels)
    return np.vstack([np.eye(k - 1), -np.ones((1, k - 1))]), [str(i) for i in range(1, k)]


def helmert(labels: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Each level after the first against the mean of those before it."""
    k = len(labels)
    coding = np.zeros((k, k - 1))
    for j in range(k - 1):
        coding[: j + 1, j] = -1.0
        coding[j + 1, j] = j + 1.0
    return coding, [str(i) for i in range(1, k)]


def polynomial(labels: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Orthonormal polynomials in the level's number: linear, quadratic, cubic, ..."""
    k = len(labels)
    scores = np.arange(1, k + 1) - (k + 1) / 2.0
    Q, R = np.linalg.qr(np.vander(scores, k, increasing=True))
    coding = (Q * np.sign(np.diag(R)))[:, 1:]
    names = [".L", ".Q", ".C"][: k - 1] + [f"^{i}" for i in range(4, k)]
    return coding, names


CODINGS = {"treatment": treatment, "sum": sum_to_zero, "helmert": helmert, "poly": polynomial}


def full(labels: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """One indicator for each level."""
    return np.eye(len(labels)), [str(v) for v in labels]
