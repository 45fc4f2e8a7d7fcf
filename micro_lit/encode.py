"""`python -m micro_lit.encode data=polis backbone=minilm`: fill the feature store ahead of time.

Processes that torchrun starts share the work, each on its own device.
"""

from pathlib import Path

from micro_lit.config import Settings, build, check_objects, entry_point
from micro_lit.errors import UserError
from micro_lit.host import ranks, threads


@threads.by_settings
def run(settings: Settings) -> int:
    """Encodes every text of a data set that the store lacks. Returns the number of texts now stored for it.

    Raises `UserError` for what the user can mend.
    """
    from rich.console import Console

    from micro_lit.report import terminal

    check_objects(settings)
    data = build(settings["data"]).load(settings["seed"])
    backbone = build(settings["backbone"])
    if data.is_vectors or not backbone.encodes:
        raise UserError("nothing to encode: give data that are texts and a pretrained backbone")
    table = backbone.encode(data.texts, Path(settings["paths"]["features_dir"]), data.digests_M2)
    if ranks.rank() == 0:
        reading = backbone.reading(data.texts, table)
        data.count_cut(reading.cut_M2, reading.max_length)
        data = data.without_same(reading.digests_M)
        terminal.show_data(data, backbone.tokenizer().show(data.example))
        stored = f"{len(table):,} texts stored, {table.width} wide: {table.folder}"
        Console(highlight=False, soft_wrap=True).print(stored)
    return len(table)


main = entry_point("encode")(run)

if __name__ == "__main__":
    main()
