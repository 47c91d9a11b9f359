"""Writers: models that write and compare replies for a stage, in an engine of the run or behind an endpoint."""
