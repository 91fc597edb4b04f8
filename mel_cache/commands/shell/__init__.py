"""What lies between Luigi's command line and its user: settings, options, help, messages, exit codes."""
