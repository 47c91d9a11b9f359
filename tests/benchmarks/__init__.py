"""What it costs, printed as figures and ratios; never tests with a clock. `make bench` runs all of them."""
