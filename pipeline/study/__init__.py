"""What is done with the runs of a study once they have ended: gathered, compared, published, shown."""
