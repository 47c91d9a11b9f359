"""The stage `serve` of a recipe: start the server, ask it over HTTP, measure it, take it down."""
