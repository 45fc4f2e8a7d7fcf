"""Locates and opens the store of profiles for the setting `profile=`; imports a JSON file into a store once."""

import hashlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from micro_lit.adapt.profile_store import ProfileStore
from micro_lit.adapt.profiles import REMEDY, RULES, Profiles
from micro_lit.errors import UserError
from micro_lit.host.file_systems import network_file_system
from micro_lit.host.sqlite_files import is_sqlite


class Places(NamedTuple):
    """Path of the store, and path of the JSON file to import, or None."""

    store: Path
    json: Path | None


def profile_paths(profile: Path) -> Places:
    """me.json -> me.sqlite beside it. Any other path is the store itself, unless that file holds JSON already."""
    if profile.suffix.lower() == ".json":
        return Places(profile.with_suffix(".sqlite"), profile)
    if profile.is_file() and not is_sqlite(profile) and profile.read_bytes().lstrip().startswith(b"{"):
        return Places(profile.with_name(f"{profile.name}.sqlite"), profile)
    return Places(profile, None)


def open_store(profile: Path, start: Profiles | None, make: bool) -> ProfileStore:
    """Opens the store named by `profile=`; prints which file is used, and whether it was created or imported.

    Args:
        profile: path of a store or of a JSON file.
        start: empty profiles whose heads, rule and prior the file must match, and with which a new store starts; None:
            accept those of the file.
        make: create a missing store on disk; otherwise use one in memory.

    Raises:
        UserError: the file is not a store, is damaged, or does not match `start`.
    """
    path, source = profile_paths(profile)
    try:
        if path.exists():
            store = ProfileStore(path, None if start is None else start.adapt)
            _check_fit(path, store, start)
            print(f"profiles: {path}")
            if source is not None and source.is_file() and not store.knows_json(digest(source)):
                print(f"{source}: not what {path} was imported from; it is not read. To import it give it another name")
        elif source is not None and source.exists():
            store = _imported(source, path, start, make)
        elif start is None:
            raise UserError(f"{profile}: no such file")
        else:
            store = ProfileStore.create(path, start) if make else ProfileStore.in_memory(start)
            print(f"profiles: {path}{'' if make else ', which is not there yet'}")
    except UserError as error:
        raise UserError(f"profile={error}") from error
    kind = network_file_system(path.parent)
    if kind is not None and path.exists():
        print(f"{path} is on a network file system ({kind}): journal_mode=DELETE instead of WAL")
    return store


def export(store: ProfileStore, profile: Path, path: Path) -> None:
    """Writes all profiles to a JSON file, possibly the imported one. Raises `UserError`."""
    try:
        store.export(path)
        source = profile_paths(profile).json
        if source is not None and source.exists() and source.samefile(path):
            store.remember_json(digest(source))
    except OSError as error:
        raise UserError(f"export={path}: cannot be written ({error.strerror})") from error
    print(f"exported {len(store.users):,} users to {path}")


def digest(path: Path) -> str:
    """BLAKE2b digest of a file's bytes."""
    return hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()


def _imported(source: Path, path: Path, start: Profiles | None, make: bool) -> ProfileStore:
    try:
        found = Profiles.load(source, None if start is None else start.heads)
    except ValueError as error:
        raise UserError(str(error)) from error
    _check_fit(source, found, start)
    if not make:
        print(f"profiles: {source}; the first labels import it into {path}")
        return ProfileStore.in_memory(found)
    store = ProfileStore.create(path, found, digest(source))
    print(
        f"profiles: {path}, with {len(found.users):,} users imported from {source}, which is left as it is; labels "
        "before the import cannot be recognised as repeats"
    )
    return store


def _check_fit(path: Path, kept: Profiles | ProfileStore, start: Profiles | None) -> None:
    if start is None:
        return
    if kept.heads != start.heads:
        raise UserError(
            f"{path}: its profiles are of other heads ({kept.heads}) than the run's ({start.heads}); {REMEDY}"
        )
    if kept.rule != start.rule:
        remedy = f"rule={kept.rule}" if kept.rule in RULES else f"rule with _target_ {kept.rule.split('(')[0]}"
        raise UserError(f"{path}: kept by the rule {kept.rule}; give {remedy}, or another file")
    if not np.array_equal(kept.prior_K, start.prior_K):
        raise UserError(f"{path}: its profiles began with other weights than those of this run; {REMEDY}")
