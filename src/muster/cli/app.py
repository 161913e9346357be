"""The `muster` command (placeholder until the CLI room is built)."""


def main() -> None:
    """Run the command line."""
