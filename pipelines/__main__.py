"""Entry point of `python -m pipelines`, the same program as `rayse`; a Ray job runs it."""

from pipelines.cli import main

if __name__ == "__main__":
    main()
