"""Data sets: reads files into records, and records into pairs of texts with columns of labels."""

from micro_lit.host.lazy import lazy

__getattr__, __all__ = lazy(
    __name__,
    {
        "datamodule": ["PreferenceDataModule"],
        "layouts": [
            "hh_rlhf",
            "helpsteer2",
            "personal_llm",
            "pku_saferlhf",
            "prism",
            "reward_bench",
            "row_by_row",
            "rpr",
            "ultrafeedback",
        ],
        "pairs": ["Pairs", "PreferenceData"],
        "planted.sources": ["PlantedFeatures", "PlantedText"],
        "reader": ["Reader"],
        "mixtures": ["Mixture"],
        "sources": ["PairFiles"],
    },
)
