"""Calibration: how well the probabilities of predictions agree with their accuracy."""

from __future__ import annotations

import numpy as np

BINS = 15


def expected_calibration_error(confidences: np.ndarray, correct: np.ndarray, bins: int = BINS) -> float:
    """Return the mean distance between confidence and accuracy, over bins of equal width, weighted by their images.

    Args:
        confidences: probability of the predicted class, `[N]`.
        correct: whether the prediction is correct, `[N]`.
        bins: number of bins; each includes its upper end.

    Returns:
        A number from 0 to 1; NaN without images.

    Source:
        Guo et al., "On Calibration of Modern Neural Networks", ICML 2017.

    Example:
        >>> round(expected_calibration_error(np.array([0.9, 0.9, 0.6]), np.array([True, False, True])), 3)
        0.4
    """
    confidences = confidences.astype(np.float64)
    edges = np.linspace(0, 1, bins + 1)[1:-1]
    members = np.digitize(confidences, edges, right=True)  # [N]
    differences = np.bincount(members, weights=correct - confidences, minlength=bins)
    return float(np.abs(differences).sum() / len(confidences)) if len(confidences) else float("nan")
