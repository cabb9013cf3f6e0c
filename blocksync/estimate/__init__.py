"""What a migration will take: samples of the source, a rehearsal on the link, a prediction with its interval."""
