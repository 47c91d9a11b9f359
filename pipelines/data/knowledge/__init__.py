"""Documents as passages that can be searched: cutting, indexing, looking up."""
