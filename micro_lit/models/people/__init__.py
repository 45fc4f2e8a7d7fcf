"""Models of users: one code per user, shared by all pairs that the user has labelled."""

from micro_lit.models.people.base import PeopleBT, codes_of, number_users, prior_of_users
from micro_lit.models.people.lore import PAL, LoRe
from micro_lit.models.people.tied import MaxMinEM, TiedMixture
from micro_lit.models.people.vpl import VPL

__all__ = [
    "PAL",
    "VPL",
    "LoRe",
    "MaxMinEM",
    "PeopleBT",
    "TiedMixture",
    "codes_of",
    "number_users",
    "prior_of_users",
]
