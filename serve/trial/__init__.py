"""The stage `serve` of a recipe: starts a server, sends prompts over HTTP, measures, stops it."""
