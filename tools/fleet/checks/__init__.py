"""The checks of `doctor`, and of the bundles in self-contained layers for `report`.

Reading order:
    bundles            whether the CPython in a layer version is outdated
    finding            what a check returns
    capacity_provider  functions on Lambda Managed Instances
    handler_module     the handler in a function's zip
    zip_file           a layer's or a function's zip; needs no AWS
    deployed_function  a function on AWS Lambda, with its zips

Allowed imports: `tools.fleet.aws`, and `target_version` and `wrappers` of `tools.fleet.rollout`. They point upwards in
this list.
"""
