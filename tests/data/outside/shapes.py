"""What the engine needs beside its own file."""


def flat(y):  # type: ignore[no-untyped-def]
    """Return one row a sample."""
    return y.reshape(len(y), -1)
