"""The subcommands of `gdah`."""
