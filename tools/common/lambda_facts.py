"""What AWS Lambda's runtimes mean for the layer."""

# AWS Lambda Developer Guide, lambda-runtimes: the day from which a runtime gets no more patches.
END_OF_LIFE = {
    "provided": "2024-01-08",
    "provided.al2": "2026-07-31",
    "python3.6": "2022-07-18",
    "python3.7": "2023-12-04",
    "python3.8": "2024-10-14",
    "python3.9": "2025-12-15",
}

OS_ONLY = "provided"
MANAGED_PYTHON = "python3."


def end_of_life(runtime: str) -> str:
    """The day since which ``runtime`` is past its end, as in 2026-07-31; empty where it is not."""
    return END_OF_LIFE.get(runtime, "")
