"""Customer service: is this mail junk? MiniLM with a linear head, on the mails of SpamAssassin."""
