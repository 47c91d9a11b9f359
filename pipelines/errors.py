"""What the user can mend."""


class UserError(Exception):
    """The user's input is wrong: a recipe, a flag, a row, an unwritable store.

    The message says where (file, key or row), what was found, what was expected and what to do. The command line
    exits with 2. It travels through Ray by pickling, so it carries a message and nothing else.
    """
