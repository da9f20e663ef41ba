"""The subcommands of `lifter`, a module each: HELP, `add_arguments(parser)` and `run(args)`, the exit status. What they need
is imported when they run."""
