"""The function that is measured on awslambdaric, which sends what its handler returns."""


def handler(event: dict[str, int], context: object) -> str:
    return "x" * event["size"]
