"""Where things run: sessions, resources, workers, gangs of actors, jobs. Knows no algorithm, nothing of `pipelines`."""
