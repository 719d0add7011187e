"""What is deployed: the configuration of a function, and the folders with its layers and its code.

    settings        FunctionSettings: a function on the command line or in a template
    configuration   FunctionConfiguration, and the environment variables that follow from it
    sources         FunctionCode: layers and the function's code, watched for changes; Layout: the folders in use
    code_digest     size, hash and date of a source, for the Lambda API
    template        the functions of a template of AWS SAM or CloudFormation
    template_values its parameters, references and intrinsic functions
    unpack          zip files, unpacked as the service does it
    zip_view        a folder that shows a function as its zip would

They import `sandbox` only.
"""
