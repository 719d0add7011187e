"""The handler that is measured on awslambdaric: Mangum around the application in `application.py`."""

from application import app
from mangum import Mangum

handler = Mangum(app)
