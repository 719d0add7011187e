"""The function that is measured on awslambdaric, which sends the value that the handler returns."""


def handler(event: dict[str, int], context: object) -> str:
    return "x" * event["size"]
