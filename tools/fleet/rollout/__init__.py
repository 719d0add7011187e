"""A roll-out: gives many functions another layer version, function by function, and can undo it.

Reading order:
    options         what the command line asks for
    plan            what happens to each function; needs no AWS
    selection       which functions
    target_version  which layer versions
    events          the events of a journal, with the tables of allowed transitions
    journal         the file of events, and the history that it contains
    steps           the steps on one function that both directions use: update, wait, move an alias
    rollback        restores functions, newest change first
    engine          rolls functions out: canaries, the steps of one function, failures
    rendering       plans and outcomes as text and as JSON
    progress        progress on stderr

Imports: engine, rollback, steps, journal, events; the others import neither of them, except rendering, which reads the
journal. `tools.fleet.aws` and `tools.common` are below all.
"""
