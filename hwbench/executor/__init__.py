"""Where the host's heavy work is done: jobs that are pure functions of records, elsewhere."""
