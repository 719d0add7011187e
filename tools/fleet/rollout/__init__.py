"""A roll-out: gives many functions another layer version, function by function, and can undo it.

Reading order:
    options         what the command line asks for
    wrappers        the environment variables that `attach` sets; needs no AWS
    plan            what happens to each function; needs no AWS
    selection       which functions
    target_version  which layer versions
    aliases         what happens to the alias of each function; needs no AWS
    events          the events of a journal, with the tables of allowed transitions
    history         the state of the roll-out and of each function, computed from events
    storage         where events are stored: a local file
    lock            one roll-out at a time, for shared journals
    bucket_storage  events as objects of a bucket
    journal         writes events, and reads them
    places          the regions and accounts of the roll-out: whose functions are called, and the target versions
    waves           the stages of a roll-out, computed from the options and the plan
    steps           the update of one function's layers, with its lock; both directions use it
    ending          what happens after a signal
    scheduler       runs functions on a few threads; one that waits occupies none
    release         publishes a version of a function and moves an alias, locked by the plan
    gate_command    runs the command of a gate
    gates           what is checked between waves: alarms, the error rate, commands
    rollback        restores functions, newest change first
    engine          rolls functions out: waves, the steps of one function, failures
    traffic         which aliases still run the old version
    rendering       plans and outcomes as text and as JSON
    progress        progress on stderr

Allowed imports: `tools.fleet.aws` and `tools.common`. Within the package: engine, rollback, release, steps, places,
waves, journal, storage, history, events, each imports those after it; rendering imports the journal; options, plan,
aliases and selection import none of these.
"""
