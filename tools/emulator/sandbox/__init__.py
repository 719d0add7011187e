"""Processes that never outlive the emulator.

    supervisor_client    Supervisor and Process: the emulator's side
    supervisor_process   the program that starts all other processes, and kills them when the emulator is gone
    namespaces           a file system like the service's for one process

`supervisor_process` and `namespaces` run in processes of their own and import nothing of the emulator.
"""
