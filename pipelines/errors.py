"""Errors that the user can fix."""


class UserError(Exception):
    """Invalid user input: a recipe, a flag, a row, an unwritable store.

    The message names the file, key or row, what it has, what was expected and what to do. The command line exits with
    code 2. Ray pickles it between processes, so it carries a message and no other state.
    """
