"""The commands, one module each, which adds its own arguments and does its work.

Reading order:
    interface    what a command is, and what it works with
    arguments    arguments and their types that several commands share
    scope        variants, and the regions and accounts of a journal
    built_layer  the zips that `publish` sends
    rollout_arguments
                 the command line of `rollout` and `attach`
    planning     the plan in one region of one account: reads what it needs
    retry_notes  the notes of retries on stderr
    journals     where a journal is: a file, or a bucket
    direction    the direction of `--resume`
    summary      summaries in Markdown
    undo         rolls back the roll-out of a journal
    publish, verify, report, status, rollout (with `attach`), rollback, prune, doctor

Allowed imports: the modules above the last line; everything below in `tools.fleet`. A command
imports no other command.
"""
