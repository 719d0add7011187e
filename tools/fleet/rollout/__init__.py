"""A roll-out: gives many functions another layer version, function by function, and can undo it.

Reading order:
    options         what the command line asks for
    plan            what happens to each function; needs no AWS
    selection       which functions
    target_version  which layer versions
    events          the events of a journal, with the tables of allowed transitions
    history         the state of the roll-out and of each function, computed from events
    journal         the file of events
    steps           the steps on one function that both directions use: update, wait, move an alias
    scheduler       runs functions on a few threads; one that waits occupies none
    rollback        restores functions, newest change first
    engine          rolls functions out: canaries, the steps of one function, failures
    rendering       plans and outcomes as text and as JSON
    progress        progress on stderr

Allowed imports: `tools.fleet.aws` and `tools.common`. Within the package: engine, rollback, steps, journal, history,
events, each imports those after it; rendering imports the journal; options, plan and selection import none of these.
"""
