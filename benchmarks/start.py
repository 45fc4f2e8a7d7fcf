"""Time until `--help`, or an error in the config, is printed."""

import json
import subprocess
import sys
import time

ASKED = {"--help": ["--help"], "a config error": ["model.num_heads=0"]}


def main() -> None:
    for what, arguments in ASKED.items():
        seconds = []
        for _ in range(5):
            started = time.perf_counter()
            subprocess.run([sys.executable, "-m", "micro_lit.train", *arguments], capture_output=True, check=False)
            seconds.append(time.perf_counter() - started)
        best = sorted(seconds)[len(seconds) // 2]
        row = {"what": f"{what} answers", "measured": f"{best:.2f} s", "bar": "under 1 s", "met": best < 1.0}
        print(json.dumps(row))


if __name__ == "__main__":
    main()
