"""Models of people of a user's own."""

import torch

from micro_lit.models.people import PeopleBT


class Mine(PeopleBT):
    """One reward; the code of a user says how often it agrees with the user's labels, and turns it round or not."""

    def __init__(self, backbone, names, num_heads=1, **settings):
        super().__init__(backbone, names, 1, link="probability", **settings)

    def learn(self, pairs, user_N, num_users):
        side_N = super().forward(pairs).margins_BK[:, 0].detach().sign()
        own_N = user_N >= 0
        return torch.zeros(num_users, 1).index_add(0, user_N[own_N], side_N[own_N, None]).sign()

    def forward(self, pairs, codes_BC=None):
        judgment = super().forward(pairs)
        if codes_BC is None:
            return judgment
        turned_B1 = torch.where(codes_BC < 0, -1.0, 1.0).to(judgment.margins_BK)
        return judgment._replace(margins_BK=turned_B1 * judgment.margins_BK)


class OfTheData(Mine):
    """Codes of the users of the data, however many are asked for."""

    def learn(self, pairs, user_N, num_users):
        return torch.zeros(self.num_users, 1)
