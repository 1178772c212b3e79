"""Small helpers that know nothing of media, models or scores; start with `files`."""
