"""`python -m micro_lit.train +experiment=mixture_k8`: train one reward model and say where it stands."""

from micro_lit.config import Settings, entry_point


def run(settings: Settings, brief: bool = False) -> float:
    """Trains one model; see `micro_lit.run.training.train`."""
    from micro_lit.run.training import train  # here, so that --help and a config error answer at once

    return train(settings, brief)


main = entry_point("train")(run)

if __name__ == "__main__":
    main()
