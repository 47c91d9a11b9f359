"""Hosting: from an artifact to a running Ray Serve application that has answered a real request."""
