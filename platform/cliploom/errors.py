"""The one exception that is the user's to mend."""


class InputError(Exception):
    """What the user gave is wrong: a file, a key, a URI, a credential.

    The message is one line that names the culprit and the mend. Jobs print it without a traceback and exit 2.
    """
