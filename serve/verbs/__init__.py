"""The verbs of a server: serve, chat, top, promote, rollback and feedback."""
