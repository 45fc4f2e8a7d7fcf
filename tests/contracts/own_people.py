"""Models of people of a user's own."""

import torch

from micro_lit.models.people import PeopleBT


class Mine(PeopleBT):
    """One reward; the code of a user says how often it agrees with the user's labels, and turns it round or not."""

    def __init__(self, backbone, names, num_heads=1, **settings):
        super().__init__(backbone, names, 1, link="probability", **settings)

    def evidence(self, judgment):
        return judgment.margins_BK.sign()

    def codes(self, evidence_NE, user_N, num_users):
        return torch.zeros(num_users, 1).index_add(0, user_N, evidence_NE).sign()

    def forward(self, pairs, codes_BC=None):
        judgment = super().forward(pairs)
        if codes_BC is None:
            return judgment
        turned_B1 = torch.where(codes_BC < 0, -1.0, 1.0).to(judgment.margins_BK)
        return judgment._replace(margins_BK=turned_B1 * judgment.margins_BK)


class OfTheData(Mine):
    """Codes of the users of the data, however many are asked for."""

    def codes(self, evidence_NE, user_N, num_users):
        return torch.zeros(self.num_users, 1)
