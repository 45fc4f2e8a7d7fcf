"""Adaptations of a user's own: labelled margins in, weights over heads out."""

import numpy as np


def adapt(margins_NK, user_N, prior_UK, sharp=1.0):
    """Weights by the share of labels that a head agrees with."""
    right_UK, count_U = np.ones(prior_UK.shape), np.full(len(prior_UK), 2.0)
    np.add.at(right_UK, user_N, (margins_NK > 0).astype(float))
    np.add.at(count_U, user_N, 1.0)
    weights_UK = prior_UK * (right_UK / count_U[:, None]) ** sharp
    return weights_UK / weights_UK.sum(axis=1, keepdims=True)


def ones(margins_NK, user_N, prior_UK):
    """Weights that do not sum to one."""
    return np.ones(prior_UK.shape)
