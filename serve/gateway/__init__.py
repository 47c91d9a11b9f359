"""The HTTP face of a served model: routes, keys, limits, guard, feedback, metrics and the chat page."""
