"""The comparison from settings to results: trains missing candidates, then evaluates all candidates."""

import functools
import time
from typing import Any

import pandas as pd

from micro_lit.compare import attributes
from micro_lit.compare.attributes import AttributeComparison
from micro_lit.compare.candidates import Candidate, load_data, restore_all, train_missing
from micro_lit.compare.users import UserComparison
from micro_lit.config import Settings
from micro_lit.data.pairs import PreferenceData
from micro_lit.errors import UserError
from micro_lit.run.restored import Trust
from micro_lit.run.run import quiet_libraries

ATTRIBUTE, USER = "attribute", "user"
NONE_NAMED = {
    ATTRIBUTE: "name no attributes; map a column (+data.columns.attribute=theirs), or for a planted population set "
    "data.criteria=hidden",
    USER: "name no users; map a column (+data.columns.user_id=theirs), or for a planted population set "
    "data.users_per_group",
}
SUBJECT_COLUMNS = {ATTRIBUTE: "attribute", USER: "user_id"}


class Comparison:
    """Compares candidates on attributes, on users, or on both. The constructor trains the missing candidates.

    Args:
        settings: settings of `micro_lit.compare`.

    Raises:
        UserError: the settings or the data have an error that the user can correct.
    """

    def __init__(self, settings: Settings) -> None:
        quiet_libraries()
        self.settings = settings
        names = settings["candidates"]
        asked = {settings["baseline"]}.union(
            *(settings[key] for key in ("profiled", "routed", "elicited", "cards", "explained"))
        )
        if missing := asked - set(names):
            raise UserError(f"{', '.join(sorted(missing))}: not among the candidates, which are {', '.join(names)}")
        attributes.check_attributes(settings)
        given = {name: each if isinstance(each, str) else [*settings["common"], *each] for name, each in names.items()}
        self.folders = train_missing(given, settings)
        self.started = time.perf_counter()
        self.load = functools.cache(functools.partial(load_data, self.folders, trust=Trust.of(settings)))
        self.restored = functools.cache(self._restored)
        kinds = self._kinds()
        self.attributes = (
            AttributeComparison(self.restored("hidden"), self.load, settings) if ATTRIBUTE in kinds else None
        )
        self.users = UserComparison(self.restored(None), settings) if USER in kinds else None

    def _restored(self, criteria: str | None) -> dict[str, Candidate]:
        return restore_all(self.folders, self.load(criteria), self.settings)

    def _kinds(self) -> list[str]:
        """Kinds of subjects that are in the settings and in the data. Raises `UserError` when there are none.

        A single attribute does not distinguish raters, so it counts only if it is the only kind in the settings.
        """
        asked = list(self.settings["subjects"])
        data: PreferenceData = self.load("hidden" if asked == [ATTRIBUTE] else None)
        least = 1 if len(asked) == 1 else 2
        named = [kind for kind in asked if len(data.names[SUBJECT_COLUMNS[kind]]) >= least]
        if not named:
            raise UserError(f"candidates: their data {' and '.join(NONE_NAMED[kind] for kind in asked)}")
        return named

    def results(self) -> dict[str, Any]:
        """Measures everything, as plain JSON types; see `Attributes.results` and `Users.results`."""
        parts = [part for part in (self.attributes, self.users) if part is not None]
        candidates = next(iter(parts)).candidates.values()
        return {
            **{name: self.settings[name] for name in ("name", "seed", "baseline", "draws")},
            "candidates": {each.name: {"run": str(each.folder), "heads": each.num_heads} for each in candidates},
            **{key: value for part in parts for key, value in part.results().items()},
            "seconds": round(time.perf_counter() - self.started, 1),
        }

    def scores(self) -> pd.DataFrame:
        """Scores with one row per system, number of labels, draw and subject. Call `results` first."""
        benches = [self.attributes.bench] if self.attributes else []
        benches += self.users.benches.values() if self.users else []
        return pd.concat([frame for bench in benches for frame in bench.kept], ignore_index=True)
