"""Codes of users in a run folder: what a model of people has learned of each user, by id.

They are personal data: `share_codes=false` leaves them out.
"""

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from micro_lit.errors import UserError
from micro_lit.host.files import write_whole
from micro_lit.models.people import PeopleBT

FILE_NAME = "codes.safetensors"


def write_codes(folder: Path, model: PeopleBT, users: list[str]) -> None:
    """Writes the codes of the users with training pairs, as the test of the run used them.

    Args:
        folder: the run folder.
        model: the model after its test.
        users: id of each row of `model.codes_UC`.
    """
    seen_U = model.seen_U.cpu()
    ids = [user for user, seen in zip(users, seen_U.tolist(), strict=True) if seen]
    tensors = {"codes_UC": model.codes_UC.cpu()[seen_U].contiguous()}
    facts = {"users": json.dumps(ids)}
    write_whole(folder / FILE_NAME, lambda path: save_file(tensors, path, metadata=facts))


def read_users(folder: Path) -> dict[str, torch.Tensor]:
    """User id -> code [C] of a run; empty if it kept none.

    Raises:
        UserError: the file is damaged.
    """
    path = folder / FILE_NAME
    if not path.is_file():
        return {}
    try:
        with safe_open(path, framework="pt") as file:
            ids, codes_UC = json.loads(file.metadata()["users"]), file.get_tensor("codes_UC")
        return dict(zip(ids, codes_UC, strict=True))
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: damaged ({' '.join(str(error).split())}); train again") from error
