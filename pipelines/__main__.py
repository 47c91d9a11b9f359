"""`python -m pipelines …` is `rayse …`: what a Ray job's entrypoint runs."""

from pipelines.cli import main

if __name__ == "__main__":
    main()
