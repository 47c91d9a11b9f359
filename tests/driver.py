"""Runs a recipe in a separate process, so that a test can kill it.

    python -m tests.driver RECIPE STORE [--evaluate] [--until=STAGE] [key=value …]

Without --evaluate the models are not evaluated: tests that compare weights need no vLLM. Prints the record as JSON.
"""

import sys

from pipelines.recipe import reader
from pipelines.stages import STAGES
from pipelines.verbs.run import run_recipe


def main() -> None:
    path, store, *flags = sys.argv[1:]
    stages = dict(STAGES)
    if "--evaluate" not in flags:
        del stages["evaluate"]
    until = next((flag.removeprefix("--until=") for flag in flags if flag.startswith("--until=")), None)
    overrides = [flag for flag in flags if "=" in flag and not flag.startswith("--")]
    record = run_recipe(reader.load(path, stages, overrides=overrides, store=store), until=until)
    print(record.model_dump_json())


if __name__ == "__main__":
    main()
