"""Processes that never outlive the emulator.

    supervisor_client    Supervisor and Process: the emulator's side
    supervisor_process   the program that starts all other processes, and kills them when the emulator is gone
    keeper               the process above one environment: it ends with all that it has started
    namespaces           a file system like the service's for one process

`supervisor_process`, `keeper` and `namespaces` run in processes of their own. They import `tools.common` and each
other, and nothing else of the emulator.
"""
