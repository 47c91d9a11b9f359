"""Where things run: sessions, resources, workers, gangs of actors, jobs. Knows no algorithm and no pipeline."""
