"""Finds out which changes of the layer its tests do not notice: `./build.sh mutate MODULE`.

The command makes small changes to one module of the layer, one at a time, and runs tests until one fails. A change that
no test notices is a survivor: a missing test, or a change without an effect. `docs/testing.md` explains those of the
start modules.

Why not a package from PyPI: mutmut 3 writes all changes into one file and chooses between them by an environment
variable of the test process, and it does not change code outside of functions. The processes of these tests get the
environment of an execution environment, start Python without `site`, and count the milliseconds of their start. In
cosmic-ray, one command runs the tests of every change, so tests cannot be chosen by what they reach, and no operator
removes a statement: a forgotten flush, lock or header is the kind of fault that users meet.

Reading order:
    cli        options, and what is printed
    session    the order of the work within the time limit
    changes    the changes to the source of a module
    reach      which tests reach which statements: the layer reports that itself
    cache      what earlier runs have found out
    bytecode   modules are written with their bytecode
    running    pytest in processes that are forked from this one

Allowed imports: the standard library, pytest, `tools.common`, `tools.mutation`, and `tools.bench.layers`, which builds
and unpacks the layer.
"""
