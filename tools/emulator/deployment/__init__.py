"""What is deployed: the configuration of a function, and the folders with its layers and its code.

    configuration   FunctionConfiguration, and the environment variables that follow from it
    sources         FunctionCode: layers and the function's code, watched for changes; Layout: the folders in use
    code_digest     size, hash and date of a source, for the Lambda API
    unpack          zip files, unpacked as the service does it

They import `sandbox` only.
"""
