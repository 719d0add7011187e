"""The handler that is measured on awslambdaric: Mangum around the application in `main.py`."""

from mangum import Mangum

from main import app

handler = Mangum(app)
