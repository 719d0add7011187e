"""AWS: boto3 clients with one pace, errors as exceptions, and the calls that the commands need.

Reading order:
    errors      the tree of exceptions, and the translation from botocore's
    pace        pauses between calls
    retries     repeats requests after errors of the network and of AWS
    session     credentials, regions and clients
    arns        ARNs and names, parsed
    settings    the settings of a function, in a form that can be compared
    models      functions, aliases and layer versions as values
    functions   reading, updating, probing and publishing functions
    cloudwatch  alarms and metrics
    layers      reading, publishing, sharing and deleting layer versions
    parameters  parameters of Systems Manager that name layer versions
    objects     objects of a bucket, with conditional writes
    signer      signs zips with AWS Signer, and the bucket for them
    code_signing  functions whose layers must be signed
    account     one region of one account: who calls, and what can be called

Imports point upwards in this list.
"""
