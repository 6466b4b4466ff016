"""The one family of errors that a user can cause: each carries one clear sentence that says what to do."""

__all__ = ["CheckpointError", "DataError", "StorageError", "UserError"]


class UserError(ValueError):
    """Bad input. The command line prints the message on one line and exits with status 2."""


class DataError(UserError):
    """A data set, archive or download that is missing, damaged or not what it should be."""


class CheckpointError(UserError):
    """A checkpoint that is missing, damaged or belongs to another experiment."""


class StorageError(UserError):
    """A file or folder that cannot be made or written: no room, no permission, or something else in its place."""
