"""The command line: small files, a verb or two each, that parse, call the library and print."""


def main() -> None:
    """The command `mmbench`."""
    from mmbench.cli.app import start

    start()
